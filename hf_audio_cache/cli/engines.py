"""What spreads the work of ``warm``: processes of this machine, or workers of a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any

from ..errors import StoreError
from ..support.progress import note_progress
from .running import progress, waiting

if TYPE_CHECKING:
    import datasets

    from ..transform.cached_features import CachedFeatures
    from ..transform.ray_fill import FillReport


class Engine(str, Enum):
    """What spreads the work."""

    processes = "processes"
    ray = "ray"


def fill_by_processes(
    cached_features: CachedFeatures, dataset: str, source: dict[str, Any], num_proc: int | None
) -> FillReport:
    """Fill the cache by processes of this machine.

    Raises StoreError if the root takes no entries, and not all of them are there.
    """
    from ..transform.ray_fill import FillReport
    from .inputs import load_dataset

    with waiting("Loading the dataset"):
        rows = load_dataset(dataset, **source)
    _check_root(cached_features, rows)

    with _progress(cached_features, len(rows)):
        # Bad clips are reported, and references are not kept: the entries are what is wanted.
        try:
            mapped = cached_features.map(rows, num_proc=num_proc, load_from_cache_file=False, keep_in_memory=True)
        except StoreError as exc:
            raise _not_stored(cached_features, exc) from exc
    report = FillReport(len(rows), cached_features.stats, bad_clips=dict.fromkeys(cached_features.bad_clips))
    _count_unstored(cached_features, mapped, report)
    return report


def _check_root(cached_features: CachedFeatures, rows: datasets.Dataset) -> None:
    """Raise StoreError if the root takes nothing now, before anything is computed for it in vain."""
    from ..transform.coverage import coverage

    refusal = cached_features.pipeline.root.refusal()
    if refusal is not None:
        with waiting("Looking what is there"):
            there = coverage(cached_features.pipeline, rows, estimates_rest=False)
        if there.n_cached < there.n_rows - there.n_bad:
            raise _not_stored(cached_features, refusal)


def _not_stored(cached_features: CachedFeatures, error: StoreError) -> StoreError:
    """Return the error of a fill that the root ended."""
    reason = error.__cause__ if isinstance(error.__cause__, StoreError) else error
    if cached_features.stats.bytes_written:
        said = f"not everything was stored under {cached_features.root}: {reason}. What was stored stays"
    else:
        said = f"nothing was stored under {cached_features.root}: {reason}"
    remedy = "Do the same again when the root takes entries"
    if reason.kind == "later version":
        remedy = "Upgrade hf_audio_cache, or pass another --root"
    return StoreError(f"{said}. {remedy}.", errno=error.errno, kind=error.kind)


def _count_unstored(cached_features: CachedFeatures, mapped: datasets.Dataset, report: FillReport) -> None:
    """Count the clips of a mapped dataset whose features are not in the root, and say why."""
    from ..transform.cached_array import reference_columns, stored_shas

    column, reference = next(iter(reference_columns(mapped.features).items()))
    shas = set(stored_shas(mapped, column).to_pylist()) - {None}
    present = cached_features.columns.pipeline.cache.exists_many([reference.key(sha) for sha in shas])
    report.n_not_stored = present.count(False)
    if report.n_not_stored:
        refusal = cached_features.pipeline.root.refusal()
        report.reason = "the root failed meanwhile, and takes entries again" if refusal is None else str(refusal)
        if report.n_not_stored == len(shas):
            raise _not_stored(cached_features, StoreError(report.reason))


def fill_by_workers(
    cached_features: CachedFeatures, dataset: str, source: dict[str, Any], max_workers: int | None
) -> FillReport:
    """Fill the cache by workers of the Ray cluster that this process is connected to."""
    from ..transform.ray_fill import fill_by_ray
    from .inputs import load_ray_dataset

    refusal = cached_features.pipeline.root.refusal()
    if refusal is not None:
        raise _not_stored(cached_features, refusal)
    with waiting("Loading the dataset"):
        rows = load_ray_dataset(dataset, **source)
    with progress("Caching features"):
        return fill_by_ray(rows, cached_features, max_workers=max_workers, on_rows=note_progress)


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Be connected to a Ray cluster; one that is begun here ends here."""
    try:
        import ray.data  # which sets up a log of its own
    except ImportError:
        raise ValueError(
            "expected Ray for --engine ray, and it is not installed; nothing was done. "
            "Install it: pip install 'hf_audio_cache[ray]'"
        ) from None
    # What Ray and its workers print would be in the report; their logs have it.
    quiet: dict[str, Any] = {"logging_level": "warning", "log_to_driver": False}
    # Ray's own default is also a cluster that somebody else has started on this machine.
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    ray.init(address=where, include_dashboard=False if where == "local" else None, **quiet)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _progress(cached_features: CachedFeatures, n_rows: int) -> Iterator[None]:
    """Show on a terminal how many clips were seen to, in all processes."""
    with progress("Caching features") as show:
        if show is None:
            yield
            return
        show(0, n_rows)
        has_ended = threading.Event()

        def watch() -> None:
            while not has_ended.wait(0.5):
                stats = cached_features.stats
                show(stats.hits + stats.computed + stats.bad_clips, n_rows)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            has_ended.set()
            watcher.join()
        show(n_rows, n_rows)

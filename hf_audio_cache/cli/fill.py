"""``warm`` and ``estimate``: filling a cache, and what that will take."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ..support.report import Report, Table
from ..support.units import format_seconds, format_size
from .options import (
    AudioColumnOption,
    AutoResampleOption,
    CapOption,
    ProcessorOption,
    RateOption,
    RootOption,
    SigningKeyFileOption,
    SplitOption,
    StorageOptions,
    SubsetOption,
    WaveformsOption,
    guarded,
    root_of,
    waiting,
)
from .output import Format, FormatOption, QuietOption, show_report

if TYPE_CHECKING:
    from ..transform.cached_features import CachedFeatures
    from ..transform.fill_report import FillReport

__all__ = ["add_to"]

DatasetArgument = Annotated[
    str, typer.Argument(help="Hub name, Parquet file, folder of audio, or folder that save_to_disk wrote.")
]


@dataclass(frozen=True, repr=False)
class WarmReport(Report):
    """What ``warm`` did.

    Attributes
    ----------
    root, processor_sha
        Where, and for which processor.
    rows
        Rows of the dataset.
    hits, computed
        Distinct clips that were there, and that were computed.
    bad_clips
        Rows without features, with the reason.
    bytes_written
        Bytes of new entries, waveforms included.
    seconds
        What it took.
    elsewhere, again
        With ``--engine ray``: clips that one worker left to another, which was computing them; and clips that were
        begun again, since a worker was lost.
    """

    root: str
    processor_sha: str
    rows: int
    hits: int
    computed: int
    bad_clips: list[dict[str, str]]
    bytes_written: int
    seconds: float
    elsewhere: int = 0
    again: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, with the rate."""
        return {**super().to_dict(), "clips_per_second": self.clips_per_second}

    @property
    def clips_per_second(self) -> float:
        """Rows a second."""
        return self.rows / max(self.seconds, 1e-9)

    def tables(self) -> list[Table]:
        figures = [
            ("rows", f"{self.rows:,}"),
            ("hits", f"{self.hits:,}"),
            ("computed", f"{self.computed:,}"),
            *([("left to another worker", f"{self.elsewhere:,}")] if self.elsewhere else []),
            *([("begun again", f"{self.again:,}")] if self.again else []),
            ("bad clips", f"{len(self.bad_clips):,}"),
            ("written", format_size(self.bytes_written)),
            ("time", format_seconds(self.seconds)),
            ("clips/s", f"{self.clips_per_second:,.1f}"),
        ]
        bad = [(clip["clip"], clip["reason"]) for clip in self.bad_clips[:50]]
        return [Table(self.root, (), figures), *([Table("bad clips", ("clip", "reason"), bad)] if bad else [])]


class Engine(str, Enum):
    """What spreads the work."""

    processes = "processes"
    ray = "ray"


@guarded
def warm(
    dataset: DatasetArgument,
    processor: ProcessorOption,
    root: RootOption = None,
    split: SplitOption = None,
    subset: SubsetOption = None,
    audio_column: AudioColumnOption = "audio",
    num_proc: Annotated[
        Optional[int],  # noqa: UP045 - see hf_audio_cache.cli
        typer.Option("--num-proc", help="Processes to use; with --engine ray, the most workers.", min=1),
    ] = None,
    engine: Annotated[
        Engine, typer.Option("--engine", help="Processes of this machine, or workers of a Ray cluster.")
    ] = Engine.processes,
    address: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--address", help="Of the Ray cluster; by default $RAY_ADDRESS, else a new one on this machine."),
    ] = None,
    sampling_rate: RateOption = None,
    max_length_seconds: CapOption = None,
    auto_resample: AutoResampleOption = False,
    waveforms: WaveformsOption = "auto",
    storage_option: StorageOptions = None,
    signing_key_file: SigningKeyFileOption = None,
    form: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Fill a cache with the features of a dataset.

    What is there already is left as it is, so that it may be interrupted and begun again. With -q the names of bad
    clips are printed; the exit code is 1 if there are any. Rate, cap and resampling are part of the key: give the same
    ones as where the features are used.

    On a Ray cluster, a path (of the dataset, of the root) must be the same for all machines.

    Examples
    --------
        hf-audio-cache warm ./recordings --processor openai/whisper-tiny --auto-resample

        hf-audio-cache warm clips.parquet --processor ./processor --root s3://bucket/cache --num-proc 8

        hf-audio-cache warm s3://bucket/clips.parquet --processor ./processor --root s3://bucket/cache --engine ray
    """
    from .inputs import open_cache

    if address is not None and engine is not Engine.ray:
        raise ValueError("expected --engine ray with --address; nothing was done")
    source = {"split": split, "subset": subset, "audio_column": audio_column}
    with waiting("Loading the processor"):
        cached_features = open_cache(
            processor,
            root_of(root, storage_option, signing_key_file),
            audio_column=audio_column,
            sampling_rate=sampling_rate,
            max_length_seconds=max_length_seconds,
            auto_resample=auto_resample,
            waveforms=waveforms,
            on_error="null",
        )
    started = time.perf_counter()
    if engine is Engine.ray:
        with _cluster(address):
            filling = _fill_by_ray(cached_features, dataset, source, num_proc)
    else:
        filling = _fill(cached_features, dataset, source, num_proc)
    report = WarmReport(
        root=str(cached_features.root),
        processor_sha=cached_features.processor_sha,
        rows=filling.rows,
        hits=filling.stats.hits,
        computed=filling.stats.computed,
        bad_clips=[asdict(clip) for clip in filling.bad_clips],
        bytes_written=filling.stats.bytes_written,
        seconds=time.perf_counter() - started,
        elsewhere=filling.n_elsewhere,
        again=filling.n_again,
    )
    show_report(report, form, quiet=quiet, names=(clip["clip"] for clip in report.bad_clips))
    if report.bad_clips:
        raise typer.Exit(1)


def _fill(cached_features: CachedFeatures, dataset: str, source: dict[str, Any], num_proc: int | None) -> FillReport:
    """Fill the cache by processes of this machine."""
    from ..transform.fill_report import FillReport
    from .inputs import load_dataset

    with waiting("Loading the dataset"):
        rows = load_dataset(dataset, **source)

    def n_seen() -> int:
        stats = cached_features.stats
        return stats.hits + stats.computed + stats.bad_clips

    with _progress(len(rows), n_seen):
        # Bad clips are reported, and references are not kept: the entries are what is wanted.
        cached_features.map(rows, num_proc=num_proc, load_from_cache_file=False, keep_in_memory=True)
    return FillReport(len(rows), cached_features.stats, bad_clips=dict.fromkeys(cached_features.bad_clips))


def _fill_by_ray(
    cached_features: CachedFeatures, dataset: str, source: dict[str, Any], max_workers: int | None
) -> FillReport:
    """Fill the cache by workers of the Ray cluster that this process is connected to."""
    from ..transform.ray_fill import fill_by_ray
    from .inputs import load_ray_dataset

    with waiting("Loading the dataset"):
        rows = load_ray_dataset(dataset, **source)
    n_seen = 0

    def note(n_rows: int) -> None:
        nonlocal n_seen
        n_seen = n_rows

    with _progress(None, lambda: n_seen):
        return fill_by_ray(rows, cached_features, max_workers=max_workers, on_rows=note)


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Be connected to a Ray cluster; one that is begun here ends here."""
    try:
        import ray.data  # which sets up a log of its own
    except ImportError:
        raise ValueError(
            "expected Ray for --engine ray, and it is not installed; nothing was done. pip install hf_audio_cache[ray]"
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
def _progress(n_rows: int | None, n_seen: Callable[[], int]) -> Iterator[None]:
    """Show on a terminal how many clips were seen to, in all processes; None where nobody knows how many there are."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    has_ended = threading.Event()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        task = progress.add_task("Caching features", total=n_rows)

        def watch() -> None:
            while not has_ended.wait(0.5):
                progress.update(task, completed=n_seen())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            has_ended.set()
            watcher.join()
        progress.update(task, completed=n_seen() if n_rows is None else n_rows)


@guarded
def estimate(
    dataset: DatasetArgument,
    processor: ProcessorOption,
    root: RootOption = None,
    split: SplitOption = None,
    subset: SubsetOption = None,
    audio_column: AudioColumnOption = "audio",
    sample: Annotated[int, typer.Option("--sample", help="How many rows to try.", min=1)] = 64,
    sampling_rate: RateOption = None,
    max_length_seconds: CapOption = None,
    auto_resample: AutoResampleOption = False,
    waveforms: WaveformsOption = "auto",
    storage_option: StorageOptions = None,
    signing_key_file: SigningKeyFileOption = None,
    form: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Say what caching a dataset will take, and whether it pays.

    A sample goes through all steps; nothing is stored. With -q only the verdict is printed.

    Example:

        hf-audio-cache estimate ./recordings --processor openai/whisper-tiny --auto-resample
    """
    from .inputs import load_dataset, open_cache

    with waiting("Trying a sample"):
        rows = load_dataset(dataset, split=split, subset=subset, audio_column=audio_column)
        cached_features = open_cache(
            processor,
            root_of(root, storage_option, signing_key_file, read_only=True),
            audio_column=audio_column,
            sampling_rate=sampling_rate,
            max_length_seconds=max_length_seconds,
            auto_resample=auto_resample,
            waveforms=waveforms,
        )
        report = cached_features.estimate(rows, sample=sample)
    show_report(report, form, quiet=quiet, names=[report.verdict])


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(warm)
    app.command()(estimate)

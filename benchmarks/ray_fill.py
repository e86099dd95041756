"""Filling a cache by Ray Data's workers, against as many processes of `Dataset.map`, start-up apart."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.clips import joined, save_dataset
from benchmarks.contenders import cached_features
from benchmarks.harness import BenchmarkError, Worker
from benchmarks.options import Options, storing
from benchmarks.report import Claim, Section, Spread

PROCESSOR = "seamless_m4t"
WORKERS = 2
AT_MOST = 1.15
# Of the rows: where the steady state begins and ends. Before, workers start; after it, the last of them ends alone.
BEGIN, END = 0.25, 0.9

RAY = "Ray Data, 2 workers"
MAP = "map(num_proc=2)"


def run(options: Options) -> Section:
    """Fill a new root by each in turn."""
    n_rows = options.some(1500, quick=6)
    section = Section(
        "12. Filling by Ray",
        [
            f"A new root on the disk is filled with the features of {n_rows} clips of 10 s ({PROCESSOR}, FLAC at "
            f"48 kHz) by {WORKERS} workers; the time of a row from {BEGIN:.0%} to {END:.0%} of the rows, and the "
            "seconds until the first.",
        ],
    )
    folder = options.scratch / "ray"
    folder.mkdir(parents=True)
    save_dataset(joined(n_rows, 10.0, rate=48_000, form="FLAC"), folder / "audio")
    found: dict[str, list[dict[str, float]]] = {RAY: [], MAP: []}
    for number in range(options.at_most(5)):
        for name, fill in ((MAP, fill_by_map), (RAY, fill_by_ray)):
            with Worker(in_process=options.in_processes) as worker:
                found[name].append(worker.call(fill, folder, folder / f"{number}-{fill.__name__}"))
    section.tables[f"{n_rows} rows"] = [
        {
            "contender": name,
            "ms a row": f"{Spread.of([1000 * one['row'] for one in each]).median:.2f}",
            "spread": Spread.of([1000 * one["row"] for one in each]).say(),
            "s until the first": f"{Spread.of([one['start'] for one in each]).median:.1f}",
        }
        for name, each in found.items()
    ]
    ratios = [ours["row"] / theirs["row"] for ours, theirs in zip(found[RAY], found[MAP], strict=True)]
    section.claims.append(Claim(f"{RAY} / {MAP}, steady state", ratios, at_most=AT_MOST))
    return section


def _measured(fill: Callable[[Callable[[int], None]], int], n_rows: int) -> dict[str, float]:
    """Return the seconds until the first rows, and those of a row in the steady state."""
    started = time.perf_counter()
    seen: list[tuple[float, int]] = []
    n_computed = fill(lambda n: seen.append((time.perf_counter() - started, n)))
    if n_computed != n_rows:
        raise BenchmarkError(f"expected {n_rows} clips to be computed, and {n_computed} were")
    moments = [(at, n) for at, n in seen if n]
    begin = next((at, n) for at, n in moments if n >= BEGIN * n_rows)
    end = next(
        ((at, n) for at, n in moments if n >= END * n_rows and n > begin[1]), (moments[-1][0] + 1e-9, n_rows + 1)
    )
    return {"start": moments[0][0], "row": (end[0] - begin[0]) / (end[1] - begin[1])}


def _rows(folder: Path) -> Any:
    import datasets

    return datasets.load_from_disk(folder / "audio")


def fill_by_map(folder: Path, root: Path) -> dict[str, float]:
    """Fill a root by `CachedFeatures.map` in processes."""
    rows, cached = _rows(folder), cached_features(PROCESSOR, root, **storing())

    def fill(note: Callable[[int], None]) -> int:
        has_ended = threading.Event()

        def watch() -> None:
            while not has_ended.wait(0.05):
                note(cached.stats.computed)

        watcher = threading.Thread(target=watch)
        watcher.start()
        cached.map(rows, num_proc=WORKERS, load_from_cache_file=False, keep_in_memory=True)
        has_ended.set()
        watcher.join()
        note(cached.stats.computed)
        return int(cached.stats.computed)

    return _measured(fill, len(rows))


def fill_by_ray(folder: Path, root: Path) -> dict[str, float]:
    """Fill a root by the workers of a Ray cluster, which begins and ends here."""
    os.environ.update(RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0", RAY_worker_niceness="0")
    import ray.data

    from hf_audio_cache.cli.inputs import load_ray_dataset
    from hf_audio_cache.transform.ray_fill import fill_by_ray as fill_root

    cached = cached_features(PROCESSOR, root, **storing())
    ray.init(num_cpus=WORKERS, include_dashboard=False, logging_level="error", log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        dataset = load_ray_dataset(str(folder / "audio"), split=None, subset=None, audio_column="audio")
        filling = functools.partial(fill_root, dataset, cached, max_workers=WORKERS)
        return _measured(lambda note: int(filling(on_rows=note).stats.computed), len(_rows(folder)))
    finally:
        ray.shutdown()

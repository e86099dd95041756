"""3. A first pass over clips, with everything still to be computed, against the same pass without a cache."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.clips import joined, save_dataset
from benchmarks.contenders import Recompute, cached_features, main_output
from benchmarks.epoch import Computing
from benchmarks.harness import Contender, Pass, Worker, compare
from benchmarks.options import QUICK_PROCESSOR, Options
from benchmarks.report import Claim, Section

BATCH = 32
# Clips by what the tables call them: seconds, rate and container.
CLIPS: dict[str, tuple[float, int, str]] = {
    "2.5 s, WAV at 8 kHz": (2.5, 8_000, "WAV"),
    "10 s, FLAC at 48 kHz": (10.0, 48_000, "FLAC"),
    "5 s, MP3 at 44.1 kHz": (5.0, 44_100, "MP3"),
    "30 s, FLAC at 48 kHz": (30.0, 48_000, "FLAC"),
}
PROCESSORS = {"whisper_tiny": 1.0, "seamless_m4t": 1.1, "ast": 1.0}  # at most so many times, in one process
AT_MOST_TWO = 1.15  # with num_proc=2
WITHOUT = "without a cache"
OURS = "ours, into an empty root"
SECOND = "ours, with the waveforms of another processor"


def run(options: Options) -> Section:
    """Compare passes of several processors, in one process and in two."""
    section = Section(
        "3. A cold pass",
        [
            "Clips are decoded, resampled to 16 kHz and extracted; each pass of ours begins with an empty root, and "
            "stores waveforms and features; what is done once for a new root (the processor is tried on two made-up "
            "clips, and twice on the first) is in it. In one process: batches of "
            f"{BATCH} rows through a transform, and through `.attach`; also where another one stored the waveforms. "
            "With `num_proc=2`: `Dataset.map` into Arrow, "
            "with the function and with `CachedFeatures` as the function; one torch thread in each of its processes.",
        ],
    )
    kinds = list(CLIPS.items())[: 1 if options.is_quick else None]
    for number, (label, (seconds, rate, form)) in enumerate(kinds):
        count = options.some(256, quick=3)
        encoded = joined(count, seconds, rate=rate, form=form)
        for processor_name in [QUICK_PROCESSOR] if options.is_quick else PROCESSORS:
            folder = options.scratch / "cold_pass" / f"{number}-{processor_name}"
            folder.mkdir(parents=True)
            with Worker(in_process=options.in_processes) as worker:
                worker.call(save_dataset, encoded, folder / "audio")
            for n_processes in (1,) if options.is_quick else (1, 2):
                _compare(section, options, processor_name, label, folder, n_processes)
    return section


def _compare(
    section: Section, options: Options, processor_name: str, label: str, folder: Path, n_processes: int
) -> None:
    arguments = {"processor_name": processor_name, "folder": folder}
    passes = [(WITHOUT, computed_pass), (OURS, cached_pass), (SECOND, second_pass)]
    if n_processes > 1:
        passes = [(WITHOUT, map_computed), (OURS, map_cached)]
        arguments["n_processes"] = n_processes
    comparison = compare(
        [Contender(name, build, arguments) for name, build in passes],
        options.at_most(7),
        in_processes=options.in_processes,
    )
    # Emptied, and deleted with all else at the end: ext4 makes files slowly for minutes after others were deleted.
    for file in folder.glob("root-*/**/*.npz"):
        os.truncate(file, 0)
    how = f"num_proc={n_processes}" if n_processes > 1 else "one process"
    caption = f"{processor_name}, {label}, {how}"
    section.add(caption, comparison, beside=WITHOUT)
    ratios = comparison.ratios(OURS, WITHOUT)
    section.notes.append(f"{caption}, each round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}.")
    at_most = AT_MOST_TWO if n_processes > 1 else PROCESSORS.get(processor_name, 1.1)
    section.claims.append(Claim(f"{caption}: with the cache / without", ratios, at_most=at_most))


def _audio(folder: Path) -> Any:
    import datasets

    return datasets.load_from_disk(folder / "audio")


def _in_batches(rows: Any, output: str) -> Iterator[Any]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH][output]


def computed_pass(processor_name: str, folder: Path) -> Pass:
    """Compute all rows through a transform."""
    output = main_output(processor_name)
    rows = _audio(folder).with_transform(Computing(Recompute(processor_name), output))
    return Pass(len(rows), lambda: _in_batches(rows, output))


def cached_pass(processor_name: str, folder: Path) -> Pass:
    """Compute and store all rows through `.attach`, in a new root each time."""
    output, dataset = main_output(processor_name), _audio(folder)
    roots = (folder / f"root-{number}" for number in itertools.count())
    current: list[Any] = []

    def before() -> None:
        current[:] = [cached_features(processor_name, next(roots)).attach(dataset, remove_columns=["audio"])]

    return Pass(len(dataset), lambda: _in_batches(current[0], output), before)


def second_pass(processor_name: str, folder: Path) -> Pass:
    """Do the same with the waveforms there."""
    output, dataset, filled = main_output(processor_name), _audio(folder), folder / "root-filled"
    for _ in _in_batches(cached_features(processor_name, filled).attach(dataset), output):
        pass
    roots = (folder / f"root-second-{number}" for number in itertools.count())
    current: list[Any] = []

    def before() -> None:
        root = next(roots)
        shutil.copytree(filled / "waveforms", root / "waveforms", copy_function=os.link)
        current[:] = [cached_features(processor_name, root).attach(dataset, remove_columns=["audio"])]

    return Pass(len(dataset), lambda: _in_batches(current[0], output), before)


# With Dataset.map ---------------------------------------------------------------------------------------------------


class Mapped:
    """The function of `Dataset.map` without a cache; one torch thread in its processes, as the package has it."""

    def __init__(self, processor_name: str) -> None:
        self.compute = Recompute(processor_name)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import torch

        torch.set_num_threads(1)
        return self.compute(row["audio"]["bytes"])


def _mapping(processor_name: str, folder: Path, n_processes: int, functions: Iterator[Any], label: str) -> Pass:
    """Map the next function over the dataset, and give the arrays that Arrow holds then.

    Each pass has a fingerprint of its own: `datasets` would find the result of the one before.
    """
    import datasets

    output, dataset = main_output(processor_name), _audio(folder)
    kinds = cached_features(processor_name, folder / "unused").features(dataset.features)
    features = datasets.Features({name: kind for name, kind in kinds.items() if name != "audio"})
    state: dict[str, Any] = {}

    def before() -> None:
        dataset.cleanup_cache_files()
        state["number"] = state.get("number", -1) + 1
        state["function"] = next(functions)

    def read() -> Iterator[Any]:
        mapped = dataset.map(
            state["function"],
            features=features,
            remove_columns=["audio"],
            num_proc=n_processes,
            writer_batch_size=16,
            new_fingerprint=f"{label}{state['number']}",
        )
        # Once, in the pass that is looked at; the others are of the mapping alone.
        yield list(mapped.with_format("numpy")[output]) if state["number"] == 0 else []

    return Pass(len(dataset), read, before)


def map_computed(processor_name: str, folder: Path, n_processes: int) -> Pass:
    """Compute all rows in several processes."""
    functions = itertools.repeat(Mapped(processor_name))
    return _mapping(processor_name, folder, n_processes, functions, "computed")


def map_cached(processor_name: str, folder: Path, n_processes: int) -> Pass:
    """Compute and store all rows in several processes, in a new root each time."""
    functions = (cached_features(processor_name, folder / f"root-mapped-{number}") for number in itertools.count())
    return _mapping(processor_name, folder, n_processes, functions, "cached")

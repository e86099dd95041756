"""5. A warm epoch over loose audio files, whose hashes are remembered, so that they stay closed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.clips import joined
from benchmarks.contenders import cached_features, main_output
from benchmarks.harness import Contender, Pass, Worker, compare
from benchmarks.options import Options
from benchmarks.report import Claim, Section

BATCH = 32
AT_LEAST = 1.4
PROCESSOR = "seamless_m4t"
OURS = "ours: .attach, rows of paths"
READING = "ours: .attach, each file read before"
_SETTLED = 3.0  # seconds: a file that changed just now may change again in the same tick, and is not remembered


def run(options: Options) -> Section:
    """Compare an epoch over paths with one whose files are read each time, and count what is opened."""
    folder = options.scratch / "loose_files"
    (folder / "audio").mkdir(parents=True)
    encoded = joined(options.some(256, quick=4), 10.0)
    for number, clip in enumerate(encoded):
        path = folder / "audio" / f"{number:06}.wav"
        path.write_bytes(clip)
    if not options.is_quick:
        time.sleep(_SETTLED)
    section = Section(
        "5. Loose files",
        [
            "A warm epoch over WAV files of 10 s, named by their paths, in batches of 32 rows. *Each file read "
            "before*: the same rows with the bytes of the files, read in the same transform, so that each is hashed. "
            "Opened files are counted by an audit hook of Python, in another epoch.",
        ],
    )
    arguments = {"folder": folder, "count": len(encoded)}
    contenders = [Contender(READING, read_epoch, arguments), Contender(OURS, path_epoch, arguments)]
    with Worker(in_process=options.in_processes) as worker:
        worker.call(fill, folder, len(encoded))
        opened = worker.call(count_opened, folder, len(encoded))
    comparison = compare(contenders, options.rounds, in_processes=options.in_processes)
    caption = f"{PROCESSOR} ({len(encoded)} files)"
    section.add(caption, comparison, beside=OURS)
    section.claims += [
        Claim(f"{caption}: each file read / by paths", comparison.ratios(READING, OURS), at_least=AT_LEAST),
        Claim(f"{caption}: audio files opened in a warm epoch", [float(opened)], at_most=0.0, unit="files"),
    ]
    return section


def _paths(folder: Path, count: int) -> list[str]:
    return [str(folder / "audio" / f"{number:06}.wav") for number in range(count)]


def _dataset(paths: Sequence[str]) -> Any:
    import datasets

    return datasets.Dataset.from_dict({"audio": list(paths)}).cast_column("audio", datasets.Audio(decode=False))


def fill(folder: Path, count: int) -> None:
    """Store the features of all files."""
    cached_features(PROCESSOR, folder / "root").map(_dataset(_paths(folder, count)))


def path_epoch(folder: Path, count: int) -> Pass:
    """Read the features of rows that are paths."""
    rows = cached_features(PROCESSOR, folder / "root").attach(_dataset(_paths(folder, count)))
    return Pass(count, lambda: _in_batches(rows))


def read_epoch(folder: Path, count: int) -> Pass:
    """Read the files, and then their features."""
    cached = cached_features(PROCESSOR, folder / "root")
    output = main_output(PROCESSOR)

    def transform(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        cells = [{"bytes": Path(cell["path"]).read_bytes(), "path": cell["path"]} for cell in batch["audio"]]
        return {output: cached({"audio": cells})[output]}

    rows = _dataset(_paths(folder, count)).with_transform(transform)
    return Pass(count, lambda: _in_batches(rows))


def _in_batches(rows: Any) -> Iterator[Any]:
    output = main_output(PROCESSOR)
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH][output]


def count_opened(folder: Path, count: int) -> int:
    """Return how many audio files a warm epoch opens; the epoch before it has hashed them."""
    one = path_epoch(folder, count)
    for _ in one.read():
        pass
    opened: set[str] = set()
    place = os.fspath(folder / "audio")
    is_counting = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if is_counting and event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.fsdecode(arguments[0])
            if path.startswith(place):
                opened.add(path)

    sys.addaudithook(hook)  # it cannot be taken away again
    for _ in one.read():
        pass
    is_counting = False
    return len(opened)

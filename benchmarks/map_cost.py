"""9. What `.map(ds)` costs beyond the computation, and beyond the hashes of a warm root."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.clips import joined, save_dataset
from benchmarks.contenders import cached_features, main_output
from benchmarks.epoch import Constant
from benchmarks.harness import Contender, Pass, Worker, compare
from benchmarks.options import QUICK_PROCESSOR, Options, storing
from benchmarks.report import Claim, Section

BATCH = 64
AT_MOST_COLD = 1.02
AT_MOST_WARM_MS = 0.15
AT_MOST_CONSTANT = 1.15
CONSTANT = "Dataset.map of a function that returns one array"
ARRAYS, TABLES = "Dataset.map of ours", "Dataset.map of ours, Arrow format"
MAP, ATTACH = "ours: .map", "ours: .attach, read once"
HASH = "sha256 of the bytes in Arrow"


def run(options: Options) -> Section:
    """Compare `.map` with `.attach` on an empty root, and with hashing on a full one."""
    section = Section(
        "9. The cost of .map",
        [
            "Clips of 10 s, FLAC at 48 kHz. Cold: `.map(ds)` into an empty root, beside one epoch of `.attach(ds)` in "
            f"batches of {BATCH}, also into an empty root. Warm: `.map(ds)` on a full root, where the result of "
            "`datasets`' own cache is not used, beside the sha256 of each clip alone. Arrays: `Dataset.map` in batches "
            "on a full root, which writes each array into Arrow, in batches of 32.",
        ],
    )
    for processor_name in [QUICK_PROCESSOR] if options.is_quick else ["whisper_tiny", "seamless_m4t"]:
        folder = options.scratch / "map_cost" / processor_name
        encoded = joined(options.some(256, quick=3), 10.0, rate=48_000, form="FLAC")
        folder.mkdir(parents=True)
        with Worker(in_process=options.in_processes) as worker:
            worker.call(save_dataset, encoded, folder / "audio")
        _compare(section, options, processor_name, folder, len(encoded))
    return section


def _compare(section: Section, options: Options, processor_name: str, folder: Path, count: int) -> None:
    arguments = {"processor_name": processor_name, "folder": folder}
    cold = compare(
        [Contender(ATTACH, attach_cold, arguments), Contender(MAP, map_cold, arguments, is_checked=False)],
        options.at_most(7),
        in_processes=options.in_processes,
    )
    warm = compare(
        [
            Contender(HASH, hashes, {"folder": folder}),
            Contender(MAP, map_warm, arguments),
        ],
        options.rounds,
        in_processes=options.in_processes,
    )
    arrays = compare(
        [
            Contender(name, map_arrays, {**arguments, "name": name}, is_checked=name != CONSTANT)
            for name in (CONSTANT, ARRAYS, TABLES)
        ],
        options.rounds,
        in_processes=options.in_processes,
    )
    caption = f"{processor_name} ({count} rows)"
    section.add(f"{caption}, arrays", arrays, beside=CONSTANT)
    section.claims += [
        Claim(f"{caption}: {name} / a constant", arrays.ratios(name, CONSTANT), at_most=AT_MOST_CONSTANT)
        for name in (ARRAYS, TABLES)
    ]
    section.add(f"{caption}, cold", cold, beside=ATTACH)
    section.add(f"{caption}, warm", warm, beside=HASH)
    pairs = zip(warm.seconds[MAP], warm.seconds[HASH], strict=True)
    section.claims += [
        Claim(f"{caption}, cold: .map / .attach", cold.ratios(MAP, ATTACH), at_most=AT_MOST_COLD),
        Claim(
            f"{caption}, warm: .map beyond the hash, a row",
            [(mapped - hashed) * 1000 for mapped, hashed in pairs],
            at_most=AT_MOST_WARM_MS,
            unit="ms",
        ),
    ]


def _audio(folder: Path) -> Any:
    import datasets

    return datasets.load_from_disk(folder / "audio")


def attach_cold(processor_name: str, folder: Path) -> Pass:
    """Read each row once, into an empty root."""
    dataset, output = _audio(folder), main_output(processor_name)
    root = folder / "attached"
    current: list[Any] = []

    def before() -> None:
        shutil.rmtree(root, ignore_errors=True)
        current[:] = [cached_features(processor_name, root).attach(dataset, remove_columns=["audio"])]

    def read() -> Iterator[Any]:
        for start in range(0, len(dataset), BATCH):
            yield current[0][start : start + BATCH][output]

    return Pass(len(dataset), read, before)


def map_cold(processor_name: str, folder: Path) -> Pass:
    """Make references, into an empty root."""
    dataset, root = _audio(folder), folder / "mapped"
    current: list[Any] = []

    def before() -> None:
        shutil.rmtree(root, ignore_errors=True)
        current[:] = [cached_features(processor_name, root)]

    def read() -> Iterator[Any]:
        current[0].map(dataset, load_from_cache_file=False)
        yield []

    return Pass(len(dataset), read, before)


def map_warm(processor_name: str, folder: Path) -> Pass:
    """Make references to a full root, and give the hashes that they are."""
    import numpy as np

    dataset = _audio(folder)
    cached = cached_features(processor_name, folder / "warm")
    cached.map(dataset)
    output = main_output(processor_name)
    numbers = itertools.count()

    def read() -> Iterator[Any]:
        references = cached.map(dataset, load_from_cache_file=False)
        if next(numbers) == 0:  # in the pass that is looked at
            for reference in references.data.column(output).to_pylist():
                yield np.frombuffer(reference, np.uint8)

    return Pass(len(dataset), read)


def hashes(folder: Path) -> Pass:
    """Hash the bytes of each clip where Arrow has them, without a copy."""
    import numpy as np

    dataset = _audio(folder)

    def read() -> Iterator[Any]:
        for chunk in dataset.data.column("audio").chunks:
            for encoded in chunk.field("bytes"):
                yield np.frombuffer(hashlib.sha256(encoded.as_buffer()).digest(), np.uint8)

    return Pass(len(dataset), read)


def map_arrays(processor_name: str, folder: Path, name: str) -> Pass:
    """Write the arrays of a full root into Arrow, or as many times one array."""
    import datasets
    import numpy as np

    dataset, output = _audio(folder), main_output(processor_name)
    cached = cached_features(processor_name, folder / "warm", **storing())
    cached.map(dataset)
    given = dataset.with_format("arrow" if name == TABLES else None)
    function = Constant(output, np.array(cached(dataset[0])[output])) if name == CONSTANT else cached
    how = {"batched": True, "batch_size": 32, "writer_batch_size": 32, "features": cached.features(dataset.features)}
    numbers = itertools.count()

    def read() -> Iterator[Any]:
        number = next(numbers)
        mapped: datasets.Dataset = given.map(
            function, new_fingerprint=f"{''.join(filter(str.isalpha, name))}{number}", **how
        )
        # Once, in the pass that is looked at.
        yield list(mapped.with_format("numpy")[output]) if number == 0 else []

    return Pass(len(dataset), read, lambda: dataset.cleanup_cache_files())

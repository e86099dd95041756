"""4. A pass over a dataset of which one row in a hundred is new."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.clips import joined, save_dataset
from benchmarks.contenders import cached_features, main_output
from benchmarks.harness import Contender, Pass, Worker, compare
from benchmarks.options import QUICK_PROCESSOR, Options
from benchmarks.report import Claim, Section

BATCH = 32
SHARE = 0.01
AT_MOST_SHARE = 0.013
WARM, COLD, NEW = "warm: nothing is new", "cold: everything is new", "one row in a hundred is new"


def run(options: Options) -> Section:
    """Compare warm, cold and nearly warm passes."""
    section = Section(
        "4. New rows",
        [
            "Clips of 10 s, FLAC at 48 kHz, through `.attach` in batches of 32 rows. What is new has neither features "
            "nor a waveform in the root; other rows are new in each round. The first clip that a new `CachedFeatures` "
            "computes is computed twice, to see that the processor is no random one.",
        ],
    )
    for processor_name in [QUICK_PROCESSOR] if options.is_quick else ["whisper_tiny", "seamless_m4t"]:
        folder = options.scratch / "new_rows" / processor_name
        encoded = joined(options.some(800, quick=4), 10.0, rate=48_000, form="FLAC")
        folder.mkdir(parents=True)
        with Worker(in_process=options.in_processes) as worker:
            worker.call(save_dataset, encoded, folder / "audio")
        new = {WARM: 0, COLD: len(encoded), NEW: max(1, round(len(encoded) * SHARE))}
        contenders = [
            Contender(name, passes, {"processor_name": processor_name, "folder": folder, "name": name, "count": count})
            for name, count in new.items()
        ]
        comparison = compare(contenders, options.at_most(5), in_processes=options.in_processes)
        caption = f"{processor_name} ({len(encoded)} rows, {new[NEW]} of them new)"
        section.add(caption, comparison, beside=WARM)
        took = [comparison.seconds[name] for name in (NEW, WARM, COLD)]
        beyond = [(some - warm) / cold * 100 for some, warm, cold in zip(*took, strict=True)]
        what = f"{caption}: what is beyond the warm pass, of the cold one"
        section.claims.append(Claim(what, beyond, at_most=AT_MOST_SHARE * 100, unit="%"))
    return section


def passes(processor_name: str, folder: Path, name: str, count: int) -> Pass:
    """Read all rows; before each pass, take the entries of `count` of them out of the root, or make a new root."""
    import datasets

    output = main_output(processor_name)
    dataset = datasets.load_from_disk(folder / "audio")
    root = folder / f"root-{count}"
    everything = count == len(dataset)
    if not everything:
        cached_features(processor_name, root).map(dataset)
    shas = itertools.cycle(_shas(dataset))
    current: list[Any] = []

    def before() -> None:
        if everything:
            shutil.rmtree(root, ignore_errors=True)
        else:
            for sha in itertools.islice(shas, count):
                for path in root.glob(f"*/{sha[:2]}/{sha}.*"):
                    path.unlink()
        cached = cached_features(processor_name, root)
        current[:] = [cached.attach(dataset, remove_columns=["audio"])]

    def read() -> Iterator[Any]:
        for start in range(0, len(dataset), BATCH):
            yield current[0][start : start + BATCH][output]

    return Pass(len(dataset), read, before)


def _shas(dataset: Any) -> list[str]:
    import hashlib

    return [hashlib.sha256(cell["bytes"]).hexdigest() for cell in dataset["audio"]]

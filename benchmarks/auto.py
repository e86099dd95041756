"""8. A processor that is cheaper than a read of what it returns, with each setting of ``features=``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.clips import joined, save_dataset
from benchmarks.contenders import cached_features, main_output
from benchmarks.harness import Contender, Pass, Worker, compare
from benchmarks.options import Options, takes
from benchmarks.report import Claim, Section

BATCH = 32
AT_MOST = 1.05
PROCESSOR = "wav2vec2"
SETTINGS = ("auto", "always", "never")


def run(options: Options) -> Section:
    """Compare the settings over a warm epoch, for clips that are cheap and that are dear to decode."""
    section = Section(
        "8. Cheap processors",
        [
            f"A warm epoch of {PROCESSOR} over clips of 10 s, through `.attach` in batches of {BATCH}, with each "
            "setting of `features=` and a root of its own for each; `waveforms=` as it is by default.",
        ],
    )
    with Worker(in_process=options.in_processes) as worker:
        is_known = worker.call(takes, "features")
    if not is_known:
        section.notes.append("Left out: `CachedFeatures` of this version has no argument `features`.")
        return section
    for label, rate, form in [("16 kHz WAV", 16_000, "WAV"), ("48 kHz FLAC", 48_000, "FLAC")]:
        folder = options.scratch / "auto" / form
        encoded = joined(options.some(256, quick=3), 10.0, rate=rate, form=form)
        folder.mkdir(parents=True)
        with Worker(in_process=options.in_processes) as worker:
            worker.call(save_dataset, encoded, folder / "audio")
        contenders = [Contender(f'features="{name}"', epoch, {"folder": folder, "setting": name}) for name in SETTINGS]
        comparison = compare(contenders, options.rounds, in_processes=options.in_processes)
        caption = f"{PROCESSOR}, {label} ({len(encoded)} clips)"
        auto, *others = [each.name for each in contenders]
        section.add(caption, comparison, beside=auto)
        best = [min(took) for took in zip(*(comparison.seconds[name] for name in others), strict=True)]
        ratios = [took / least for took, least in zip(comparison.seconds[auto], best, strict=True)]
        section.claims.append(Claim(f"{caption}: auto / the better of both", ratios, at_most=AT_MOST))
    return section


def epoch(folder: Path, setting: str) -> Pass:
    """Read all rows, of a root that an epoch with the same setting has filled."""
    import datasets

    dataset = datasets.load_from_disk(folder / "audio")
    cached = cached_features(PROCESSOR, folder / f"root-{setting}", features=setting)
    rows: Any = cached.attach(dataset, remove_columns=["audio"])
    output = main_output(PROCESSOR)

    def read() -> Iterator[Any]:
        for start in range(0, len(rows), BATCH):
            yield rows[start : start + BATCH][output]

    for _ in read():  # what is to be stored is stored here
        pass
    return Pass(len(rows), read)

"""2. A warm epoch through a DataLoader, against the Arrow that `Dataset.map` writes, and against computing again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clips import clips
from benchmarks.contenders import Recompute, cached_features, main_output, prepare, stored_bytes
from benchmarks.harness import Contender, Pass, Worker, compare, resident_bytes
from benchmarks.options import QUICK_PROCESSOR, Options, storing
from benchmarks.report import Claim, Section

BATCH = 16
COMPUTED = 64  # rows of an epoch that computes: it takes long enough
CONSTANT = "a constant array (what the epochs are net of)"
ARROW = "Dataset.map, Arrow, numpy format"
RECOMPUTE = "recompute"
ATTACHED = "ours: .attach"
MAPPED = "ours: .map"
BOTH = "ours: .map with .attach"

AT_LEAST_ARROW = 2.0
AT_MOST_BYTES = 0.1
AT_LEAST_RECOMPUTE = {"whisper_tiny": 30.0, "seamless_m4t": 40.0}


def run(options: Options) -> Section:
    """Read an epoch by each way, with and without workers."""
    section = Section(
        "2. A warm epoch",
        [
            f"The same DataLoader (batches of {BATCH}, in order), collator and number of workers for each; a new "
            "process for each round, of which the first epoch is timed, from the start of the loader's workers to the "
            "last batch. *Net* is less what a transform takes that returns one constant array, of the same form, for "
            f"each row. Computing is timed on the first {COMPUTED} rows.",
        ],
    )
    cases = [("whisper_tiny", "10 s"), ("whisper_tiny", "prompts"), ("seamless_m4t", "10 s")]
    if options.is_quick:
        cases = [(QUICK_PROCESSOR, "10 s")]
    for processor_name, clip_set in cases:
        encoded = clips(clip_set, options.some(512, quick=4))
        folder = options.scratch / "epoch" / f"{processor_name}-{clip_set.replace(' ', '')}"
        with Worker(in_process=options.in_processes) as worker:
            sizes = worker.call(_prepare, processor_name, encoded, folder)
        caption = f"{processor_name}, {clip_set} ({len(encoded)} clips)"
        _weigh(section, caption, sizes, len(encoded))
        with Worker(in_process=options.in_processes) as worker:
            section.tables[f"{caption}, one row kept of each batch"] = worker.call(_kept, processor_name, folder)
        for workers in (0,) if options.is_quick else (0, 2):
            _compare(section, options, processor_name, folder, f"{caption}, {workers} workers", workers)
    return section


def _prepare(processor_name: str, encoded: Sequence[bytes], folder: Path) -> dict[str, int]:
    sizes = prepare(processor_name, encoded, folder, keepers=False)
    return {**sizes, "features": stored_bytes(folder / "root" / "features")}


def _kept(processor_name: str, folder: Path) -> list[dict[str, Any]]:
    """Return the memory that one row of each batch holds, as it is and as a copy."""
    import datasets

    output = main_output(processor_name)
    rows = cached_features(processor_name, folder / "root", **storing()).attach(
        datasets.load_from_disk(folder / "audio")
    )
    rows[:BATCH][output]
    found = []
    for what, keep in (("the row", lambda row: row), ("a copy of it", np.copy)):
        before = resident_bytes()
        kept = [keep(rows[start : start + BATCH][output][0]) for start in range(0, len(rows), BATCH)]
        found.append(
            {
                "what is kept": what,
                "rows": len(kept),
                "MB a row": round((resident_bytes() - before) / len(kept) / 1e6, 2),
            }
        )
        kept.clear()
    return found


def _weigh(section: Section, caption: str, sizes: dict[str, int], count: int) -> None:
    """Say what is on the disk; the root has manifests, features and waveforms."""
    section.tables[f"{caption}, bytes a clip"] = [
        {"what": name, "bytes a clip": sizes[place] // count}
        for name, place in [(ARROW, "arrow"), ("ours: references", "references"), ("ours: the root", "root")]
    ] + [{"what": "ours: the features in it", "bytes a clip": sizes["features"] // count}]
    mapped = {
        "references and features": sizes["references"] + sizes["features"],
        "references and the whole root, with waveforms": sizes["references"] + sizes["root"],
    }
    section.claims += [
        Claim(f"{caption}: bytes of {name} / Arrow's", [size / sizes["arrow"]], at_most=AT_MOST_BYTES)
        for name, size in mapped.items()
    ]


def _compare(section: Section, options: Options, processor_name: str, folder: Path, caption: str, workers: int) -> None:
    arguments: dict[str, Any] = {"processor_name": processor_name, "folder": folder, "workers": workers}
    checked = (ARROW, ATTACHED, MAPPED, BOTH)  # the first was computed without this package
    contenders = [
        Contender(name, epoch, {**arguments, "source": name}, is_checked=name in checked)
        for name in (RECOMPUTE, *checked, CONSTANT)
    ]
    comparison = compare(contenders, options.at_most(5), in_processes=options.in_processes, is_fresh=True)
    section.add(caption, comparison, beside=ATTACHED, net_of=CONSTANT)
    section.claims += [
        Claim(f"{caption}: Arrow / {name}, net", comparison.ratios(ARROW, name, net_of=CONSTANT), AT_LEAST_ARROW)
        for name in (ATTACHED, MAPPED, BOTH)
    ]
    if processor_name not in AT_LEAST_RECOMPUTE:
        return
    at_least = AT_LEAST_RECOMPUTE[processor_name]
    section.claims += [
        Claim(f"{caption}: recompute / {name}, net", comparison.ratios(RECOMPUTE, name, net_of=CONSTANT), at_least)
        for name in (ATTACHED, MAPPED, BOTH)
    ]


def epoch(processor_name: str, folder: Path, workers: int, source: str) -> Pass:
    """Read all rows of a source through a DataLoader."""
    import torch

    output = main_output(processor_name)
    rows = _rows(processor_name, folder, source, output)
    loader: Any = torch.utils.data.DataLoader(
        rows, batch_size=BATCH, num_workers=workers, collate_fn=Collator(output), multiprocessing_context=_FORK[workers]
    )

    def read() -> Iterator[Any]:
        yield from loader

    return Pass(len(rows), read)


_FORK: dict[int, str | None] = {0: None, 2: "fork"}


def _rows(processor_name: str, folder: Path, source: str, output: str) -> Any:
    import datasets

    import hf_audio_cache  # noqa: F401 - datasets has to know the type of the references

    names = {ARROW: "arrow", MAPPED: "references", BOTH: "references"}
    rows = datasets.load_from_disk(folder / names.get(source, "audio"))
    if source == ARROW:
        return rows.select_columns([output]).with_format("numpy")
    if source == MAPPED:
        return rows.select_columns([output])
    if source == BOTH:
        return cached_features(processor_name, folder / "root", **storing()).attach(rows.select_columns([output]))
    if source == ATTACHED:
        return cached_features(processor_name, folder / "root", **storing()).attach(rows, remove_columns=["audio"])
    if source == RECOMPUTE:
        return rows.select(range(min(COMPUTED, len(rows)))).with_transform(Computing(Recompute(processor_name), output))
    arrow = datasets.load_from_disk(folder / "arrow").with_format("numpy")
    return rows.select_columns(["text"]).with_transform(Constant(output, np.array(arrow[0][output])))


@dataclass(frozen=True)
class Computing:
    """A transform that computes the features of each row of a batch."""

    compute: Recompute
    output: str

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {self.output: [self.compute.main(cell["bytes"]) for cell in batch["audio"]]}


@dataclass(frozen=True)
class Constant:
    """A transform that returns one array for each row."""

    output: str
    array: np.ndarray

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {self.output: [self.array] * len(batch["text"])}


@dataclass(frozen=True)
class Collator:
    """Stacks the features of a batch into a tensor."""

    output: str

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Any:
        import torch

        return torch.from_numpy(np.stack([row[self.output] for row in rows]))

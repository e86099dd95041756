"""7. Stored bytes, against those of the arrays."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clips import SETS, cells, clips
from benchmarks.contenders import Recompute, cached_features, main_output, stored_bytes
from benchmarks.harness import Worker
from benchmarks.options import QUICK_PROCESSOR, Options, storing, takes
from benchmarks.report import Claim, Section

TARGETS = {("whisper_tiny", "prompts"): 0.07, ("whisper_tiny", "10 s"): 0.29, ("seamless_m4t", "10 s"): 0.87}
PROCESSORS = ("whisper_tiny", "whisper_large_v3", "seamless_m4t", "w2v_bert", "ast", "wav2vec2", "speecht5")
DTYPES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Stored:
    """What the features of some clips take.

    Attributes
    ----------
    plain
        Bytes of the arrays as the processor gives them.
    features, waveforms
        Bytes of the entries.
    plain_waveforms
        Bytes of the decoded float32 waveforms.
    error
        The largest difference between what is read and what the processor gives.
    wrong
        Whether what is read differs, though it should not.
    """

    plain: int
    features: int
    waveforms: int
    plain_waveforms: int
    error: float
    wrong: bool


def run(options: Options) -> Section:
    """Store clips of each set with each processor."""
    section = Section(
        "7. Sizes",
        [
            "Bytes of the entries, with names, keys and checksums, against those of the arrays that the processor "
            "gives (float32, and integers for masks). The 10 s and 30 s clips are continuous read speech at 16 kHz; "
            "the prompts telephone prompts of 2 to 3 s. Lossless, but for the rows that name a dtype. *Waveforms* are "
            "those that are stored beside the features, against float32.",
        ],
    )
    names = (QUICK_PROCESSOR,) if options.is_quick else PROCESSORS
    dtypes = [""]
    with Worker(in_process=options.in_processes) as worker:
        if worker.call(takes, "dtype"):
            dtypes += DTYPES
        else:
            section.notes.append("float16 and bfloat16 are left out: this version has no argument `dtype`.")
    sets = {
        clip_set: clips(clip_set, options.some(32, quick=3)) for clip_set in (SETS[:1] if options.is_quick else SETS)
    }
    rows: dict[str, list[dict[str, Any]]] = {clip_set: [] for clip_set in sets}
    for processor_name in names:
        with Worker(in_process=options.in_processes) as worker:
            for clip_set, dtype in itertools.product(sets, dtypes):
                folder = options.scratch / "sizes" / f"{processor_name}-{clip_set}-{dtype}".replace(" ", "")
                stored = worker.call(store, processor_name, sets[clip_set], folder, dtype)
                label = f"{processor_name} {dtype}".strip()
                rows[clip_set].append(_row(label, stored, len(sets[clip_set]), has_error=bool(dtype)))
                if stored.wrong:
                    section.wrong.append(f"{label}, {clip_set}: what is read is not what was stored")
                target = TARGETS.get((processor_name, clip_set))
                if target is not None and not dtype:
                    what = f"{processor_name}, {clip_set}: stored bytes / those of the arrays"
                    section.claims.append(Claim(what, [stored.features / stored.plain], at_most=target))
    for clip_set, encoded in sets.items():
        section.tables[f"{clip_set} ({len(encoded)} clips)"] = rows[clip_set]
    return section


def _row(label: str, stored: Stored, count: int, *, has_error: bool) -> dict[str, Any]:
    return {
        "processor": label,
        "arrays, bytes a clip": stored.plain // count,
        "stored": stored.features // count,
        "of the arrays": f"{stored.features / stored.plain:.3f}",
        "waveforms, of float32": f"{stored.waveforms / stored.plain_waveforms:.3f}",
        "largest error": f"{stored.error:.2g}" if has_error else "",
    }


def store(processor_name: str, encoded: Sequence[bytes], folder: Path, dtype: str) -> Stored:
    """Store the features of clips, read them again and compare."""
    settings = {**storing(), "dtype": dtype} if dtype else storing()
    cached = cached_features(processor_name, folder, **settings)
    given = cells(encoded)
    cached({"audio": given})
    read: Mapping[str, Sequence[Any]] = cached({"audio": given})
    compute, output = Recompute(processor_name), main_output(processor_name)
    plain, error, wrong = 0, 0.0, False
    for number, clip in enumerate(encoded):
        exact = compute(clip)
        plain += sum(array.nbytes for array in exact.values())
        found, expected = read[output][number], exact[output]
        error = max(error, float(np.abs(np.asarray(found, np.float64) - expected).max()))
        wrong |= not dtype and (found.dtype, found.tobytes()) != (expected.dtype, expected.tobytes())
    return Stored(
        plain,
        stored_bytes(folder / "features"),
        stored_bytes(folder / "waveforms"),
        sum(compute.waveform(clip).nbytes for clip in encoded),
        error,
        wrong,
    )

"""14. A million small entries, loose and packed: files, memory and commands, and the model held against them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Worker, resident_bytes
from benchmarks.options import Options
from benchmarks.packs import key_of, measure_commands, usage_of_disk
from benchmarks.report import Claim, Section
from benchmarks.scale_packs import Packs

COUNT = 1_000_000
AT_MOST_OFF = 1.05
_FLOATS = 850  # as many as make an entry of 4 kB
_AT_ONCE = 1_000


def run(options: Options) -> Section:
    """Fill a root, look after it, pack it, and look after it again."""
    count = options.some(COUNT, quick=500)
    root = options.scratch / "packs_many"
    section = Section(
        "14. A million small entries",
        [f"{count:,} entries of 4 kB in one root, before and after `pack`. Each line is a process of its own."],
    )
    rows = []
    with Worker(in_process=options.in_processes) as worker:
        rows.append({"root": "loose", **worker.call(usage_of_disk, root, worker.call(fill, root, count))})
    with Worker(in_process=options.in_processes) as worker:
        rows[0] |= worker.call(measure_commands, root)
    with Worker(in_process=options.in_processes) as worker:
        took = worker.call(pack_all, root, count)
    with Worker(in_process=options.in_processes) as worker:
        rows.append({"root": "packed", **usage_of_disk(root, took["seconds"]), **worker.call(measure_commands, root)})
    section.tables["The root"] = rows
    section.tables["Packing"] = [{name: f"{value:,.0f}" for name, value in took.items()}]
    model = Packs(count, took["bytes of an entry"])
    measured = {
        "bytes of packs": (_sizes(root, "tar"), model.n_bytes),
        "packs": (len(list(root.glob("packs/*.tar"))), model.packs),
        "bytes of indexes": (_sizes(root, "index"), model.index_bytes),
    }
    section.tables["The model"] = [
        {"what": what, "model": f"{said:,.0f}", "measured": f"{found:,.0f}"} for what, (found, said) in measured.items()
    ]
    section.claims += [
        Claim(f"{what}: the model is off by", [max(found / said, said / found)], at_most=AT_MOST_OFF)
        for what, (found, said) in measured.items()
    ]
    return section


def _sizes(root: Path, kind: str) -> int:
    return sum(path.stat().st_size for path in root.glob(f"packs/*.{kind}"))


def fill(root: Path, count: int) -> float:
    """Store the entries; return the seconds that it took."""
    from hf_audio_cache import AudioCache, CacheRoot

    cache = AudioCache(CacheRoot(root / "features", compression=None))
    array = np.random.default_rng(0).random(_FLOATS, np.float32)
    started = time.perf_counter()
    for start in range(0, count, _AT_ONCE):
        keys = [key_of(number) for number in range(start, min(count, start + _AT_ONCE))]
        if cache.store_many({key: {"input_features": array} for key in keys}):
            raise OSError(f"expected to store {count} entries under {root}, and could not: {cache.stats}")
    return time.perf_counter() - started


def pack_all(root: Path, count: int) -> dict[str, Any]:
    """Pack the root; return what that took."""
    from hf_audio_cache import pack

    before = resident_bytes()
    started = time.perf_counter()
    report = pack(root)
    took = time.perf_counter() - started
    if report.n_packed != count:
        raise OSError(f"expected to pack {count} entries, and packed {report}")
    for folder in (root / "features").iterdir():
        folder.rmdir()
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return {"seconds": took, "bytes of an entry": report.n_bytes_packed / count, "MB of memory": (peak - before) / 1e6}

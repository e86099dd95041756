"""6. The same hits in roots of a thousand, a hundred thousand and a million entries."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import Contender, Pass, Worker, compare
from benchmarks.options import Options
from benchmarks.report import Claim, Section

if TYPE_CHECKING:
    from hf_audio_cache import AudioCacheKey

COUNTS = (1_000, 100_000, 1_000_000)
READ = 1_000  # how many of them are read, the same in each root
AT_LEAST = 0.85
AT_MOST_MEMORY = 1.05
_FLOATS = 850  # as many as make an entry of 4 kB
_BLOCK = 4096
_AT_ONCE = 1_000


def run(options: Options) -> Section:
    """Compare hits in roots of different size."""
    counts = [count // 100 for count in COUNTS[:2]] if options.is_quick else list(COUNTS)
    section = Section(
        "6. Many entries",
        [f"Entries of one block of 4 kB; the same {min(READ, counts[0])} keys are read, by `AudioCache.get`, in each."],
    )
    free, reason = shutil.disk_usage(options.scratch).free, "there is no room for it on the disk of --scratch"
    while sum(counts) * _BLOCK * 2 > free:  # twice: folders and inodes take room too
        section.notes.append(f"The root of {counts.pop():,} entries is left out: {reason}.")
    contenders = []
    for count in counts:
        root = options.scratch / "many_entries" / str(count)
        with Worker(in_process=options.in_processes) as worker:
            worker.call(fill, root, count)
        arguments = {"root": root, "count": min(READ, counts[0])}
        contenders.append(Contender(f"{count:,} entries", hits, arguments))
    first, last = contenders[0].name, contenders[-1].name
    comparison = compare(contenders, options.rounds, in_processes=options.in_processes)
    section.add("A hit", comparison, beside=first)
    resident = comparison.resident
    section.tables["Resident memory after the last round"] = [
        {"root": name, "MB": f"{sizes[-1] / 1e6:.1f}"} for name, sizes in resident.items()
    ]
    grown = [much / few for much, few in zip(resident[last], resident[first], strict=True)]
    section.claims += [
        Claim(f"hits a second with {last} / with {first}", comparison.ratios(first, last), at_least=AT_LEAST),
        Claim(f"resident memory with {last} / with {first}", grown, at_most=AT_MOST_MEMORY),
    ]
    return section


def fill(root: Path, count: int) -> None:
    """Store `count` entries, the first of which are those of a smaller root."""
    from hf_audio_cache import AudioCache

    cache = AudioCache(root)
    array = np.random.default_rng(0).random(_FLOATS, np.float32)  # as floats that do not compress
    for start in range(0, count, _AT_ONCE):
        keys = [_key(number) for number in range(start, min(count, start + _AT_ONCE))]
        if not cache.put_many({key: {"input_features": array} for key in keys}):
            raise OSError(f"expected to store {count} entries under {root}, and could not: {cache.stats}")


def _key(number: int) -> AudioCacheKey:
    from hf_audio_cache import AudioCacheKey

    return AudioCacheKey(hashlib.sha256(str(number).encode()).hexdigest(), "0" * 64, 16_000, 0)


def hits(root: Path, count: int) -> Pass:
    """Read the first entries."""
    from hf_audio_cache import AudioCache

    cache = AudioCache(root)
    keys = [_key(number) for number in range(count)]
    return Pass(count, lambda: map(cache.get, keys))

"""12. Packs: hits of loose and of packed entries on a local disk, and what a root of each takes."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness import Contender, Pass, Worker, compare, resident_bytes
from benchmarks.options import Options
from benchmarks.report import Claim, Section

if TYPE_CHECKING:
    from hf_audio_cache import AudioCache

COUNT = 100_000  # entries of 34 kB
READ = 4_000  # of them, in a pass
BATCH = 32
LOOSE, PACKED = "loose", "packed"
INDEXED = (1_000_000, 10_000_000)  # rows of an index
_FLOATS = 8_400
_AT_ONCE = 1_000
_DROP = Path("/proc/sys/vm/drop_caches")
_ORDERS = {"stored order": True, "shuffled": False}
_TARGETS = {("warm", True): 0.95, ("warm", False): 0.95, ("cold", True): 5.0, ("cold", False): 2.0}


def run(options: Options) -> Section:
    """Compare loose and packed entries."""
    count = options.some(COUNT, quick=300)
    section = Section(
        "12. Packs",
        [
            f"{count:,} entries of 34 kB, random floats, loose and packed with the default settings; each pass reads "
            f"{min(READ, count):,} of them, and a cold shuffled one all. *Cold*: the page cache of the machine was "
            "dropped before each pass.",
        ],
    )
    folder = options.scratch / "packs"
    with Worker(in_process=options.in_processes) as worker:
        took = worker.call(make, folder, count)
    section.tables["The roots"] = [{"root": kind, **usage_of_disk(folder / kind, took[kind])} for kind in took]
    is_cold_possible = os.access(_DROP, os.W_OK) and not options.is_quick
    if not is_cold_possible:
        section.notes.append("Cold passes are left out: only root may drop the page cache.")
    for state in ("warm", "cold") if is_cold_possible else ("warm",):
        for order, in_order in _ORDERS.items():
            for batch in (1, BATCH):
                _compare(section, options, folder, (state, order, batch), count, in_order=in_order)
    with Worker(in_process=options.in_processes) as worker:
        section.tables["Memory of an index"] = [
            worker.call(measure_index, folder / "index", options.some(rows, quick=1000)) for rows in INDEXED
        ]
    commands = []
    for kind in (LOOSE, PACKED):
        with Worker(in_process=options.in_processes) as worker:
            commands.append({"root": kind, **worker.call(measure_commands, folder / kind)})
    section.tables["Seconds of commands"] = commands
    return section


def _compare(
    section: Section, options: Options, folder: Path, what: tuple[str, str, int], count: int, *, in_order: bool
) -> None:
    state, order, batch = what
    caption = f"{state}, {order}, {'one by one' if batch == 1 else f'batches of {batch}'}"
    contenders = [
        Contender(
            kind,
            hits,
            {"root": folder / kind, "count": count, "batch": batch, "in_order": in_order, "is_cold": state == "cold"},
        )
        for kind in (LOOSE, PACKED)
    ]
    comparison = compare(contenders, options.at_most(3 if state == "cold" else 7), in_processes=options.in_processes)
    section.add(caption, comparison, beside=PACKED)
    target = _TARGETS[state, in_order]
    section.claims.append(Claim(f"{caption}: loose / packed", comparison.ratios(LOOSE, PACKED), at_least=target))


def usage_of_disk(root: Path, seconds: float) -> dict[str, str]:
    """Return the files of a root, and the seconds that it took to make, in words."""
    n_files = n_folders = 0
    for _, folders, files in os.walk(root):
        n_files, n_folders = n_files + len(files), n_folders + len(folders)
    used = subprocess.run(["du", "-s", "--block-size=1", root], capture_output=True, check=True).stdout
    return {
        "files": f"{n_files:,}",
        "inodes": f"{n_files + n_folders:,}",
        "GB on the disk": f"{int(used.split()[0]) / 1e9:.3f}",
        "seconds to make": f"{seconds:.0f}",
    }


def key_of(number: int) -> Any:
    """Return the key of an entry."""
    from hf_audio_cache import AudioCacheKey

    return AudioCacheKey(hashlib.sha256(str(number).encode()).hexdigest(), "0" * 64, 16_000, 0)


def fill(cache: AudioCache, count: int) -> None:
    """Store so many entries, in the order of their numbers."""
    array = np.random.default_rng(0).random(_FLOATS, np.float32)
    for start in range(0, count, _AT_ONCE):
        entries = {}
        for number in range(start, min(count, start + _AT_ONCE)):
            array[0] = number
            entries[key_of(number)] = {"input_features": array.copy()}
        if cache.store_many(entries):
            raise OSError(f"expected to store {count} entries under {cache.root}, and could not: {cache.stats}")


def make(folder: Path, count: int) -> dict[str, float]:
    """Make both roots; return the seconds that it took."""
    from hf_audio_cache import AudioCache, CacheRoot, pack

    started = time.perf_counter()
    fill(AudioCache(CacheRoot(folder / LOOSE / "features", compression=None)), count)
    filled = time.perf_counter() - started
    os.sync()
    (folder / PACKED).mkdir()
    subprocess.run(["cp", "-al", folder / LOOSE / "features", folder / PACKED / "features"], check=True)
    started = time.perf_counter()
    report = pack(folder / PACKED)
    packed = time.perf_counter() - started
    for inner in (folder / PACKED / "features").iterdir():
        inner.rmdir()
    if report.n_packed != count:
        raise OSError(f"expected to pack {count} entries, and packed {report}")
    return {LOOSE: filled, PACKED: packed}


def drop_page_cache() -> None:
    """Let the next read come from the disk."""
    os.sync()
    _DROP.write_text("3")


def hits(root: Path, count: int, batch: int, *, in_order: bool, is_cold: bool) -> Pass:
    """Read entries by key."""
    from hf_audio_cache import AudioCache

    cache = AudioCache(root / "features")
    order = random.Random(0)
    n_read = count if is_cold and not in_order else min(READ, count)  # a shuffled epoch meets what was read ahead
    first = order.randrange(count - n_read + 1)
    numbers = range(first, first + n_read) if in_order else order.sample(range(count), n_read)
    keys = [key_of(number) for number in numbers]

    def read() -> Iterator[Any]:
        if batch == 1:
            yield from map(cache.get, keys)
        else:
            for start in range(0, len(keys), batch):
                yield [found["input_features"] for found in cache.get_all_many(keys[start : start + batch]) if found]

    return Pass(n_read, read, *([drop_page_cache] if is_cold else []))


def measure_index(folder: Path, n_rows: int) -> dict[str, str]:
    """Return what an index of so many random rows takes, on the disk and of a process that searches it at random."""
    from hf_audio_cache.stores.local import LocalStore
    from hf_audio_cache.stores.packs.index import ROW, Index, encode_index

    rng = np.random.default_rng(0)
    rows = np.zeros(n_rows, ROW)
    rows["clip"] = np.sort(rng.integers(0, 1 << 64, n_rows, np.uint64, endpoint=False))
    rows["name"] = rng.integers(0, 1 << 64, n_rows, np.uint64, endpoint=False)
    store = LocalStore(folder)
    store.put("packs/index", encode_index(rows, ["0" * 32]))
    keys = [rows[number].tobytes()[:16] for number in rng.integers(0, n_rows, 20_000)]
    del rows
    before = resident_bytes()
    file = store.open_file("packs/index")
    started = time.perf_counter()
    index = Index(file.read, file.n_bytes)
    opened = time.perf_counter() - started
    started = time.perf_counter()
    assert all(map(index.find, keys))
    took = (time.perf_counter() - started) / len(keys)
    grown = max(0, resident_bytes() - before)
    shutil.rmtree(folder)
    return {
        "rows": f"{n_rows:,}",
        "MB on the disk": f"{file.n_bytes / 1e6:.1f}",
        "MB more of the process": f"{grown / 1e6:.1f}",
        "ms to open": f"{opened * 1e3:.1f}",
        "µs a look-up": f"{took * 1e6:.2f}",
    }


def measure_commands(root: Path) -> dict[str, str]:
    """Return the seconds of commands, and the memory of a process that has read at random."""
    from hf_audio_cache import AudioCache, prune, usage, verify
    from hf_audio_cache.maintenance.listing import list_entries

    commands: dict[str, Callable[[], Any]] = {
        "usage": lambda: usage(root),
        "ls": lambda: list_entries(root),
        "prune (dry run)": lambda: prune(root, max_bytes=1 << 20, dry_run=True),
        "verify": lambda: verify(root),
    }
    before = resident_bytes()
    cache = AudioCache(root / "features")
    n_entries = usage(root).n_entries
    for number in random.Random(1).choices(range(n_entries), k=min(READ, n_entries)):
        cache.get(key_of(number))
    found = {"MB more after random reads": f"{(resident_bytes() - before) / 1e6:.1f}"}
    for name, command in commands.items():
        started = time.perf_counter()
        command()
        found[name] = f"{time.perf_counter() - started:.2f}"
    return found

"""What a name costs the commands that look at a whole root, and the records of what was used."""

from __future__ import annotations

import gc
import hashlib
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale_near_tier import shuffled
from benchmarks.scale_stores import NAMES_OF_A_RECORD

# Entries of two roots, of which the difference says what one more takes; to read a record takes 4 MB in any case.
COUNTS = (10_000, 20_000)
_ENTRY_BYTES = 4_000


def memory_of_commands(folder: Path, counts: Sequence[int] = COUNTS) -> dict[str, float]:
    """Return the bytes of memory that each command takes for one entry more, all of whose uses are recorded."""
    import hf_audio_cache
    from hf_audio_cache.maintenance.listing import list_entries

    commands: dict[str, Callable[[Path], Any]] = {
        "usage": hf_audio_cache.usage,
        "ls": list_entries,
        "prune": lambda root: hf_audio_cache.prune(root, max_bytes=1, dry_run=True),
    }
    roots = [_recorded_root(folder / str(count), count) for count in counts]
    return {
        name: _more([_peak(lambda command=command, root=root: command(root)) for root in roots], counts)
        for name, command in commands.items()
    }


def _recorded_root(root: Path, count: int) -> Path:
    from hf_audio_cache.cache.access_log import UseRecorder
    from hf_audio_cache.stores import open_store

    store = open_store(root)
    names = [_name(number) for number in range(count)]
    store.put_many(dict.fromkeys((f"features/{name}" for name in names), b"only its name counts"))
    recorder = UseRecorder(store)
    for start in range(0, count, NAMES_OF_A_RECORD):
        recorder.add("features", names[start : start + NAMES_OF_A_RECORD])
    recorder.finish()
    return root


def hits_of_near_tier(folder: Path, share: float, count: int, pause: float) -> list[float]:
    """Return the hit rates of a real near tier with room for a share of `count` entries, over shuffled epochs.

    Parameters
    ----------
    folder
        Where the tier and what it is before are made.
    share
        Of the entries, how many have room.
    count
        How many there are.
    pause
        Seconds between two reads: the tier looks at its directory from time to time, and makes room only then.

    Returns
    -------
    list of float
        Of the first two epochs of a run, and of the first two of the next.
    """
    from hf_audio_cache.stores.local import LocalStore
    from hf_audio_cache.stores.tiered import TieredStore

    far, near = LocalStore(folder / "far"), LocalStore(folder / "near")
    names = [_name(number) for number in range(count)]
    far.put_many(dict.fromkeys(names, bytes(_ENTRY_BYTES)))
    rates = []
    for run in range(2):
        tiered = TieredStore(near, far, near_max_bytes=round(share * count) * _ENTRY_BYTES)
        for epoch in shuffled(count, 2, seed=run):
            hits = 0
            for name in (names[number] for number in epoch):
                hits += near.exists(name)
                tiered.get_many([name])
                time.sleep(pause)
            rates.append(hits / count)
    return rates


def memory_of_near_tier(folder: Path, count: int = 5 * COUNTS[1]) -> float:
    """Return the bytes by which a process remembers that its run has used an entry in the near tier."""
    from hf_audio_cache.stores.eviction import NearTier
    from hf_audio_cache.stores.local import LocalStore

    def use() -> NearTier:
        tier = NearTier(LocalStore(folder), 1)
        for number in range(count):
            tier.use(_name(number))
        return tier

    return _held(use) / count


def memory_of_folder(list_folders: Callable[[], Sequence[Any]]) -> float:
    """Return the bytes that a name takes in what fsspec returns for a folder."""
    return _held(list_folders) / len(list_folders())


def bytes_of_a_record(folder: Path) -> float:
    """Return the size of a whole record of use, of names that are as random as those of entries are."""
    from hf_audio_cache.cache.access_log import UseRecorder
    from hf_audio_cache.stores import open_store

    store = open_store(folder)
    names = [_name(number) for number in range(NAMES_OF_A_RECORD)]
    store.put_many(dict.fromkeys((f"features/{names[0]}", f"features/{names[-1]}"), b"only its name counts"))
    recorder = UseRecorder(store)
    recorder.add("features", names)
    recorder.finish()
    [record] = store.scan("access/")
    return record.n_bytes


def _name(number: int) -> str:
    sha = hashlib.sha256(str(number).encode()).hexdigest()
    return f"{sha[:2]}/{sha}.0123456789ab.16000.0.rs.npz"


def _peak(call: Callable[[], Any]) -> int:
    """Return the most memory that a call has in use at once, in bytes; its first one imports, and is not counted."""
    call()
    gc.collect()
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def _held(call: Callable[[], Any]) -> int:
    """Return the memory that the result of a call takes, in bytes."""
    call()
    gc.collect()
    tracemalloc.start()
    result = call()
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    return held


def _more(peaks: Sequence[int], counts: Sequence[int]) -> float:
    return max(0.0, (peaks[1] - peaks[0]) / (counts[1] - counts[0]))

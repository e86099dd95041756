"""What each step of a clip takes on a real object store."""

from __future__ import annotations

import importlib.util
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clips import cells
from benchmarks.contenders import Recompute, cached_features
from benchmarks.hit import keys
from benchmarks.options import storing
from benchmarks.scale_throughput import BATCH, Cost

PASSES = 3  # of each step, after one that is not timed


@dataclass(frozen=True)
class Bench:
    """Where the work is done.

    Attributes
    ----------
    processor_name
        A configuration of `processors`.
    url, storage_options
        A bucket.
    server
        Its server's process.
    """

    processor_name: str
    url: str
    storage_options: Mapping[str, Any]
    server: int

    def cached_features(self, root: str) -> Any:
        """Return a `CachedFeatures` on a root in the bucket, that keeps whatever it computes."""
        from hf_audio_cache import CacheRoot

        where = CacheRoot(f"{self.url}/{root}", storage_options=self.storage_options, near=None)
        return cached_features(self.processor_name, where, **storing())


@dataclass(frozen=True)
class Steps:
    """What each step takes, and how large the entries are."""

    costs: dict[str, Cost]
    feature_bytes: float
    waveform_bytes: float


def use_one_thread() -> None:
    """Let torch compute in one thread, as in a worker of a pool; in a process of its own only."""
    if multiprocessing.parent_process() is not None and importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)


def server_seconds(process: int) -> float:
    """Return the processor time that another process has taken so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_seconds() -> float:
    """Return the processor time that all processes of this machine have taken so far, and what it was denied."""
    user, nice, system, _, _, *interrupts_and_steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + sum(interrupts_and_steal)) / os.sysconf("SC_CLK_TCK")


def batches(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Return the items in batches, as a `Dataset.map` would give them."""
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def steps(bench: Bench, encoded: Sequence[bytes], names: int) -> Steps:
    """Take the time of each step for these clips, and of a listing and a deletion of `names` small objects."""
    use_one_thread()
    made = _Made.of(bench, encoded)
    costs = {step: timed(call, len(encoded), bench.server) for step, call in {**made.local(), **made.far()}.items()}
    small = [f"small/{number % 8}/{number:064}.npz" for number in range(names)]
    for batch in batches(small):
        made.store.put_many(dict.fromkeys(batch, b"small"))

    def scan() -> None:
        if sum(1 for _ in made.store.scan("small/")) != names:
            raise OSError(f"expected a listing of {names} objects, and found another number")

    costs["list 1,000 names"] = timed(scan, names / 1000, bench.server)
    costs["delete"] = timed(lambda: made.store.delete(small), names, bench.server, passes=1, is_warm=False)
    sizes = [float(np.mean([len(content) for content in kind.values()])) for kind in (made.features, made.waveforms)]
    return Steps(costs, *sizes)


@dataclass(frozen=True)
class _Made:
    """Clips in all the forms that they pass through on their way, and a store for their entries."""

    cached: Any
    compute: Recompute
    store: Any
    encoded: Sequence[bytes]
    decoded: Sequence[np.ndarray]
    outputs: Sequence[dict[str, np.ndarray]]
    keys: Sequence[Any]
    features: Mapping[str, bytes]
    waveforms: Mapping[str, bytes]

    @classmethod
    def of(cls, bench: Bench, encoded: Sequence[bytes]) -> _Made:
        from hf_audio_cache.stores import open_store

        compute = Recompute(bench.processor_name)
        cached = bench.cached_features("steps")
        store = open_store(f"{bench.url}/steps", storage_options=bench.storage_options, near=None)
        wanted = keys(cached, encoded)
        decoded = [compute.waveform(clip) for clip in encoded]
        outputs = [_extract(compute, waveform) for waveform in decoded]
        features = {f"features/{key.name()}": _entry(key, output) for key, output in zip(wanted, outputs, strict=True)}
        waveforms = {
            f"waveforms/{key.waveform_key().name()}": _entry(key.waveform_key(), {"waveform": waveform})
            for key, waveform in zip(wanted, decoded, strict=True)
        }
        return cls(cached, compute, store, encoded, decoded, outputs, wanted, features, waveforms)

    def local(self) -> dict[str, Callable[[], Any]]:
        """Return the steps that ask nothing of the store."""
        from hf_audio_cache.audio.source import read_source
        from hf_audio_cache.cache.entry import open_entry
        from hf_audio_cache.support.threads import in_threads

        def open_one(content: bytes) -> dict[str, Any]:
            return open_entry(content, None).read_all()

        forms = list(zip(self.keys, self.outputs, self.decoded, strict=True))
        contents = list(self.features.values())
        return {
            "identity": lambda: [self.cached.processor_sha for _ in batches(self.encoded)],
            "hash": lambda: [in_threads(read_source, batch) for batch in batches(cells(self.encoded))],
            "decode": lambda: [self.compute.waveform(clip) for clip in self.encoded],
            "extract": lambda: [_extract(self.compute, waveform) for waveform in self.decoded],
            "encode features": lambda: [_entry(key, output) for key, output, _ in forms],
            "encode waveform": lambda: [_entry(key.waveform_key(), {"waveform": each}) for key, _, each in forms],
            "open": lambda: [in_threads(open_one, batch) for batch in batches(contents)],
        }

    def far(self) -> dict[str, Callable[[], Any]]:
        """Return the steps that are requests; the puts come before what reads them."""
        turns = itertools.count()
        return {
            "miss": lambda: self._get([f"absent/{name}" for name in self.features], are_there=False),
            "put features": lambda: self._put(f"turn-{next(turns)}", self.features),
            "put waveform": lambda: self._put(f"turn-{next(turns)}", self.waveforms),
            "get": lambda: self._get([f"turn-0/{name}" for name in self.features], are_there=True),
        }

    def _put(self, turn: str, objects: Mapping[str, bytes]) -> None:
        """Put new objects: to replace one takes a store longer."""
        for name, content in objects.items():
            if failed := self.store.put_many({f"{turn}/{name}": content}):
                raise OSError(f"expected to store an object, and could not: {failed}")

    def _get(self, names: Sequence[str], *, are_there: bool) -> None:
        for batch in batches(names):
            if any(isinstance(found, bytes) != are_there for found in self.store.get_many(batch)):
                raise OSError("expected objects to be there, or not, as they were put, and found it otherwise")


def _entry(key: Any, outputs: Mapping[str, np.ndarray]) -> bytes:
    from hf_audio_cache.cache.entry import encode_entry

    return encode_entry(key, outputs, compression="blosc")


def _extract(compute: Recompute, waveform: np.ndarray) -> dict[str, np.ndarray]:
    found = compute.processor([waveform], sampling_rate=compute.rate, return_tensors="np")
    return {name: value[0] for name, value in found.items()}


def timed(call: Callable[[], Any], count: float, server: int, *, passes: int = PASSES, is_warm: bool = True) -> Cost:
    """Return what `call` takes, by the number of things that it does."""
    if is_warm:
        call()
    before = time.perf_counter(), time.process_time(), server_seconds(server)
    for _ in range(passes):
        call()
    after = time.perf_counter(), time.process_time(), server_seconds(server)
    return Cost(*((now - then) / passes / count for then, now in zip(before, after, strict=True)))

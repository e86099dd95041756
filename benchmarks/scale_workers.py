"""How fast several workers fill a root on a real object store, and read it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.clips import cells
from benchmarks.harness import Worker
from benchmarks.scale_steps import Bench, batches, machine_seconds, server_seconds, use_one_thread

_AHEAD = 0.5  # seconds until all workers begin

# In a worker's process ------------------------------------------------------------------------------------------------

_READY: dict[int, tuple[Any, Sequence[bytes]]] = {}  # of the workers in this process, by their number


def prepare(number: int, bench: Bench, root: str, encoded: Sequence[bytes]) -> None:
    """Get a worker ready, with a clip of its own for what comes but once; the others are its work."""
    use_one_thread()
    cached = bench.cached_features(root)
    cached({"audio": cells(encoded[:1])})
    _READY[number] = cached, encoded[1:]


@dataclass(frozen=True)
class Ran:
    """What a worker did: when it ended, its processor time, its counters, and the digest of its first row."""

    ended: float
    cpu: float
    computed: int
    hits: int
    failures: int
    first: str


def pass_over(number: int, begin: float) -> Ran:
    """Send all clips of a worker through its `CachedFeatures`, from the moment `begin` on."""
    cached, encoded = _READY[number]
    before = cached.stats
    first = ""
    time.sleep(max(0.0, begin - time.monotonic()))
    cpu = time.process_time()
    for batch in batches(encoded):
        rows = cached({"audio": cells(batch)})
        if not first:
            [name] = [name for name in rows if name in ("input_features", "input_values")]
            first = hashlib.sha256(np.ascontiguousarray(rows[name][0]).data).hexdigest()
    ended = time.monotonic()
    cpu = time.process_time() - cpu
    did = cached.stats - before
    return Ran(ended, cpu, did.computed, did.hits, did.read_errors + did.write_errors + did.bad_entries, first)


# Outside --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """How fast it was.

    Attributes
    ----------
    clips_per_second
        Of all workers.
    cpu
        Processor seconds of a clip, of the workers and the server together.
    others
        Cores that other programs took meanwhile.
    """

    clips_per_second: float
    cpu: float
    others: float


def speeds(bench: Bench, root: str, encoded: Sequence[bytes], workers: int, *, in_processes: bool) -> list[Speed]:
    """Return how fast so many workers fill a new root, and then read from it.

    Raises
    ------
    OSError
        If a fill did not compute every clip once, or a read did not find it, or found another.
    """
    shares = [encoded[number::workers] for number in range(workers)]
    running = [Worker(in_process=in_processes) for _ in shares]
    with ThreadPoolExecutor(workers) as pool:
        try:

            def ask(function: Callable[..., Any], *rows: Iterable[Any]) -> list[Any]:
                return list(pool.map(lambda worker, *arguments: worker.call(function, *arguments), running, *rows))

            numbers = range(workers)
            ask(prepare, numbers, [bench] * workers, [root] * workers, shares)
            passes = [_pass(bench, lambda begin: ask(pass_over, numbers, [begin] * workers)) for _ in range(2)]
        finally:
            for worker in running:
                worker.close()
            _READY.clear()
    n_clips = len(encoded) - workers
    check_passes(passes[0][0], passes[1][0], n_clips)
    return [Speed(n_clips / seconds, cpu / n_clips, others) for _, seconds, cpu, others in passes]


def _pass(bench: Bench, go: Callable[[float], list[Ran]]) -> tuple[list[Ran], float, float, float]:
    """Let all workers begin at the same moment.

    Return what they did, the seconds and the processor time that it took, and how many cores all else took.
    """
    started = time.monotonic()
    server, machine = server_seconds(bench.server), machine_seconds()
    begin = time.monotonic() + _AHEAD
    did = go(begin)
    cpu = sum(ran.cpu for ran in did) + server_seconds(bench.server) - server
    others = max(0.0, machine_seconds() - machine - cpu) / (time.monotonic() - started)
    return did, max(ran.ended for ran in did) - begin, cpu, others


def check_passes(filled: Sequence[Ran], read: Sequence[Ran], n_clips: int) -> None:
    """Raise `OSError` if not every clip was computed once and then read, or something else was read."""
    computed, hits = sum(ran.computed for ran in filled), sum(ran.hits for ran in read)
    failures = sum(ran.failures for ran in (*filled, *read))
    if (computed, hits, failures) != (n_clips, n_clips, 0):
        raise OSError(
            f"expected {n_clips} clips to be computed once and then read, and found {computed} computed, {hits} read "
            f"and {failures} failures"
        )
    if [ran.first for ran in filled] != [ran.first for ran in read]:
        raise OSError("expected the rows that were stored, and read others")

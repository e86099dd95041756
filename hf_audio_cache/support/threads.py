"""Thread pool for work that releases the GIL: reads, hashes, decoding.

The threads need a core of their own. A processor may compute in threads of OpenMP and BLAS, which wait busily for each
other; on the same cores both would take several times as long.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from .process_local import ForkStep, ProcessLocal, at_fork

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_MOST = 4
_FEWEST_ITEMS = 4  # of which it is worth to share
_WORTH_SHARING = 4e-3  # seconds of work that is left: threads that take the GIL from each other lose what they save
_NAME = "hf-audio-cache-reader"

_pool: ProcessLocal[ThreadPoolExecutor] = ProcessLocal()


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count() -> int:
    """Return how many of our threads can run at once."""
    return min(_MOST, n_cores())


def is_own_thread() -> bool:
    """Return whether the calling thread is one of the pool: one that waited for another could wait for ever."""
    return threading.current_thread().name.startswith(_NAME)


def _submit(call: Callable[[ItemT], ResultT], item: ItemT) -> Future[ResultT]:
    """Run ``call(item)`` in a thread; here, if no thread can be started: the process ends, or has too many."""
    try:
        return _pool.get(lambda: ThreadPoolExecutor(_MOST, thread_name_prefix=_NAME)).submit(call, item)
    except RuntimeError:
        done: Future[ResultT] = Future()
        try:
            done.set_result(call(item))
        except Exception as exc:  # noqa: BLE001 - raised to whoever asks for the result
            done.set_exception(exc)
        return done


def in_threads(call: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
    """Return ``call(item)`` for each item, in order; threads share the work if the first items show that it pays.

    The calling thread does a share itself. Exceptions of `call` are raised.
    """
    if len(items) <= _FEWEST_ITEMS:
        return [call(item) for item in items]
    results: list[ResultT] = []
    started = time.perf_counter()
    can_share = not is_own_thread()
    for item in items:
        results.append(call(item))
        seconds, n_left = time.perf_counter() - started, len(items) - len(results)
        if can_share and n_left >= _FEWEST_ITEMS and seconds / len(results) * n_left > _WORTH_SHARING:
            return results + _shared(call, items[len(results) :])
    return results


def _shared(call: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
    n_shares = thread_count()
    if n_shares < 2:
        return [call(item) for item in items]

    def do(share: Sequence[ItemT]) -> list[ResultT]:
        return [call(item) for item in share]

    size = -(-len(items) // n_shares)
    own, *others = [items[start : start + size] for start in range(0, len(items), size)]
    pending = [_submit(do, share) for share in others]
    results = do(own)
    for future in pending:
        results += future.result()
    return results


def ahead(call: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Iterator[ResultT]:
    """Yield ``call(item)`` for each item, in order; threads work on the next two meanwhile."""
    if len(items) == 1:
        yield call(items[0])
        return
    pending: deque[Future[ResultT]] = deque()
    for item in items:
        pending.append(_submit(call, item))
        if len(pending) > 2:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


class _Gate:
    """Lets threads compute, but not while the process is forked.

    A fork ends the threads of BLAS, and a call that waits for them never returns.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_closed = 0  # forks at once
        self._n_inside = 0
        self._own = _Depth()

    def __enter__(self) -> None:
        with self._changed:
            # Who is inside already is waited for by a fork, and must not wait for it.
            self._changed.wait_for(lambda: not self._n_closed or self._own.depth)
            self._n_inside += 1
            self._own.depth += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._own.depth -= 1
            self._n_inside -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Wait for other threads that are inside; no other goes in."""
        with self._changed:
            self._n_closed += 1
            self._changed.wait_for(lambda: self._n_inside == self._own.depth)

    def open(self) -> None:
        """Let work go on."""
        with self._changed:
            self._n_closed -= 1
            self._changed.notify_all()

    def open_in_child(self) -> None:
        """Let work go on where no other thread is any more; one of them may have held the lock."""
        self._changed = threading.Condition()
        self._n_inside = self._own.depth
        self._n_closed = 0


class _Depth(threading.local):
    depth = 0  # how often the calling thread has entered


forks_wait = _Gate()
at_fork(ForkStep.SHARED_ITEMS, before=forks_wait.close, in_parent=forks_wait.open, in_child=forks_wait.open_in_child)


def share_out(call: Callable[[ItemT], object], items: Sequence[ItemT], n_threads: int) -> None:
    """Call for each item in so many threads, in order; each thread takes the next item when it is done with one.

    The calling thread waits; if there is to be one thread, it is that. After an exception no further item is begun, and
    it is raised when all threads are done.
    """
    waiting = deque(items)

    def work(_: int) -> None:
        try:
            while True:
                try:
                    item = waiting.popleft()
                except IndexError:
                    return
                with forks_wait:
                    call(item)
        except BaseException:
            waiting.clear()
            raise

    if n_threads == 1:
        work(0)
        return
    threads = [_submit(work, number) for number in range(min(n_threads, _MOST))]
    try:
        for thread in threads:
            thread.result()
    finally:
        waiting.clear()
        wait(threads)

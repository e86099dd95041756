"""Thread pool for work that releases the GIL: reads, hashes, decoding.

The threads need a core of their own. A processor may compute in threads of OpenMP and BLAS, which wait busily for each
other; on the same cores both would take several times as long.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from .process_local import ProcessLocal

__all__ = ["ahead", "in_threads", "is_own_thread", "n_cores", "share_out", "thread_count"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_MOST = 4
_FEWEST_ITEMS = 4  # for each thread; fewer take less than to start it
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
    """Return ``call(item)`` for each item, in order; threads share the work if there are enough items.

    The calling thread does a share itself. Exceptions of `call` are raised.
    """
    n_shares = min(thread_count(), len(items) // _FEWEST_ITEMS)
    if n_shares < 2 or is_own_thread():
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


def share_out(call: Callable[[ItemT], object], items: Sequence[ItemT], n_threads: int) -> None:
    """Call for each item in so many threads, in order; each thread takes the next item when it is done with one.

    The calling thread waits. After an exception no further item is begun, and it is raised when all threads are done.
    """
    waiting = deque(items)

    def work(_: int) -> None:
        try:
            while True:
                try:
                    item = waiting.popleft()
                except IndexError:
                    return
                call(item)
        except BaseException:
            waiting.clear()
            raise

    threads = [_submit(work, number) for number in range(min(n_threads, _MOST))]
    try:
        for thread in threads:
            thread.result()
    finally:
        waiting.clear()
        wait(threads)

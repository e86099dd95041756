"""A few threads for what lets other Python code run meanwhile: reads, hashes, decoding.

Threads belong to the process that made them: a forked child makes its own. And they need a core: the threads of OpenMP
and BLAS, in which a processor may compute, wait busily for each other, and take turns with ours on the same cores at
several times the cost.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from .process_local import ProcessLocal

__all__ = ["ahead", "in_threads", "leaving_a_core"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_MOST = 4
_FEWEST_ITEMS = 4  # that are worth a thread
_NAME = "hf-audio-cache-reader"

_pool: ProcessLocal[ThreadPoolExecutor] = ProcessLocal()


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count() -> int:
    """Return how many threads can run at once."""
    return min(_MOST, _n_cores())


def _submit(call: Callable[[ItemT], ResultT], item: ItemT) -> Future[ResultT]:
    """Run ``call(item)`` in a thread; at once, where no thread begins any more: the process ends, or has too many."""
    try:
        return _pool.get(lambda: ThreadPoolExecutor(_MOST, thread_name_prefix=_NAME)).submit(call, item)
    except RuntimeError:
        done: Future[ResultT] = Future()
        try:
            done.set_result(call(item))
        except Exception as exc:  # noqa: BLE001 - raised where the result is asked for
            done.set_exception(exc)
        return done


def in_threads(call: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
    """Return ``call(item)`` for each item, in order; threads share the work where there are enough of them.

    The caller does a share itself. What `call` raises is raised.
    """
    n_shares = min(_count(), len(items) // _FEWEST_ITEMS)
    if n_shares < 2 or threading.current_thread().name.startswith(_NAME):  # a thread that waits for its own kind hangs
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
    """Yield ``call(item)`` for each item, in order, with the next two under way in threads meanwhile."""
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


@functools.lru_cache(maxsize=1)
def _libraries(has_torch: bool) -> ThreadpoolController:  # to find those that are loaded takes some milliseconds
    return ThreadpoolController()


@contextlib.contextmanager
def leaving_a_core() -> Iterator[None]:
    """Keep the threads of OpenMP and BLAS off one core, for ours, while the caller computes."""
    n_threads = max(1, _n_cores() - 1)
    # Never more than there are: torch is kept on one thread in a forked process, where more would hang.
    found: list[tuple[Any, int | None]] = []
    with contextlib.suppress(OSError):  # there may be no file left to open; then they have all cores, as anywhere
        found = [(library, library.num_threads) for library in _libraries("torch" in sys.modules).lib_controllers]
    limited = [(library, before) for library, before in found if before is not None and before > n_threads]
    for library, _ in limited:
        library.set_num_threads(n_threads)
    try:
        yield
    finally:
        for library, before in limited:
            library.set_num_threads(before)

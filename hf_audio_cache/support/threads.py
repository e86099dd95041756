"""Thread pool for work that releases the GIL: reads, hashes, decoding.

The threads need a core of their own. A processor may compute in threads of OpenMP and BLAS, which wait busily for each
other; on the same cores both would take several times as long.
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
_FEWEST_ITEMS = 4  # for each thread; fewer take less than to start it
_NAME = "hf-audio-cache-reader"

_pool: ProcessLocal[ThreadPoolExecutor] = ProcessLocal()


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count() -> int:
    """Return how many threads can run at once."""
    return min(_MOST, _n_cores())


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
    n_shares = min(_count(), len(items) // _FEWEST_ITEMS)
    if n_shares < 2 or threading.current_thread().name.startswith(
        _NAME
    ):  # a pool whose threads wait for each other hangs
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


@functools.lru_cache(maxsize=1)
def _libraries(has_torch: bool) -> ThreadpoolController:  # finding the loaded libraries takes some milliseconds
    return ThreadpoolController()


@contextlib.contextmanager
def leaving_a_core() -> Iterator[None]:
    """Leave one core to our threads while the caller computes: OpenMP and BLAS get the others."""
    n_threads = max(1, _n_cores() - 1)
    # The number is never raised: in a forked process torch is limited to one thread, as more would hang.
    found: list[tuple[Any, int | None]] = []
    with contextlib.suppress(OSError):  # no more files can be opened; the libraries keep all cores
        found = [(library, library.num_threads) for library in _libraries("torch" in sys.modules).lib_controllers]
    limited = [(library, before) for library, before in found if before is not None and before > n_threads]
    for library, _ in limited:
        library.set_num_threads(n_threads)
    try:
        yield
    finally:
        for library, before in limited:
            library.set_num_threads(before)

"""Storing entries behind the computation of the next ones."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from ..errors import StoreError
from .process_local import ForkStep, at_fork

__all__ = ["Writer"]

_THREADS = 4
_MAX_PENDING = 2 * _THREADS  # entries of one caller's thread; it bounds the memory that they take


class Writer:
    """Encodes and stores in threads of its own, a bounded number of entries at a time.

    Threads belong to the process that made them: a fork finds all writes done, and its child begins with none. A
    process that ends in order waits for them. Where several threads submit, each answers for what it submitted itself.
    """

    def __init__(self) -> None:
        self._begin()
        _WRITERS.add(self)

    def _begin(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._own = _OfThread()
        self._unfinished: set[Future[Iterable[StoreError]]] = set()  # of all threads

    def submit(self, write: Callable[[], Iterable[StoreError]], *, at_once: bool = False) -> None:
        """Call `write` in a thread; wait first where too much is pending.

        Parameters
        ----------
        write
            Encodes and stores, and says what could not be stored. Nobody may change its arrays before `wait` has
            returned.
        at_once
            Whether to call it here, since it takes less than to hand it over.
        """
        if at_once:
            self._own.failed.extend(write())
            return
        self._settle(_MAX_PENDING - 1)
        pool = self._pool
        if pool is None:
            pool = self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="hf-audio-cache-writer")
        try:
            pending = pool.submit(write)
        except RuntimeError:  # no thread begins any more: the process ends
            self._own.failed.extend(write())
            return
        self._own.pending.append(pending)
        self._unfinished.add(pending)
        pending.add_done_callback(self._unfinished.discard)

    def release(self) -> None:
        """Let the threads end when all that is pending is stored; the next `submit` makes new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def wait(self) -> list[StoreError]:
        """Wait until all is stored; return what could not be, of what this thread submitted.

        Raises
        ------
        UnstorableOutputError
            If an output of this thread's was nothing that an entry can hold.
        """
        self._settle(0)
        wait(list(self._unfinished))
        failed, self._own.failed = self._own.failed, []
        return failed

    def _settle(self, leave: int) -> None:
        own = self._own
        while len(own.pending) > leave:
            own.failed.extend(own.pending.popleft().result())


class _OfThread(threading.local):
    """What a thread submitted and has not waited for, and what of it could not be stored.

    Another thread must not take it over: the one that submitted it would find nothing to wait for, and hand out arrays
    that are still to be stored.
    """

    def __init__(self) -> None:
        self.pending: deque[Future[Iterable[StoreError]]] = deque()
        self.failed: list[StoreError] = []


_WRITERS: weakref.WeakSet[Writer] = weakref.WeakSet()


def _settle_before_fork() -> None:
    for writer in list(_WRITERS):
        wait(list(writer._unfinished))  # what failed is told where its clip's call waits


def _begin_anew_in_child() -> None:
    for writer in list(_WRITERS):
        writer._begin()


at_fork(ForkStep.WRITES, before=_settle_before_fork, in_child=_begin_anew_in_child)

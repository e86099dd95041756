"""Storing entries in the background, while the next ones are computed."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from ..errors import StoreError, UnstorableOutputError
from .process_local import ForkStep, at_fork

WriteError = StoreError | UnstorableOutputError

_THREADS = 4
_MAX_PENDING = 2 * _THREADS  # entries of one caller's thread, which bounds their memory


class Writer:
    """Encodes and stores entries in threads of its own, a bounded number at a time.

    A fork waits until all is written, and the child starts with no threads. A process that ends normally waits, too. If
    several threads submit, each waits for, and is told of, what it submitted itself.
    """

    def __init__(self) -> None:
        self._begin()
        _WRITERS.add(self)

    def _begin(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._own = _OfThread()
        self._unfinished: set[Future[Iterable[WriteError]]] = set()  # of all threads

    def submit(self, write: Callable[[], Iterable[WriteError]], *, at_once: bool = False) -> None:
        """Call `write` in a thread; wait first if too much is pending.

        `write` encodes and stores, and returns an error for each object that could not be stored. Its arrays must not
        change before `wait` has returned. With `at_once` it is called in this thread, since it takes less time than a
        hand-over.
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
        except RuntimeError:  # no thread can be started: the process ends
            self._own.failed.extend(write())
            return
        self._own.pending.append(pending)
        self._unfinished.add(pending)
        pending.add_done_callback(self._unfinished.discard)

    def release(self) -> None:
        """Let the threads end once everything pending is stored; the next `submit` starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def wait(self) -> list[WriteError]:
        """Wait until everything is stored; return the errors of what this thread submitted."""
        self._settle(0)
        wait(list(self._unfinished))
        failed, self._own.failed = self._own.failed, []
        return failed

    def _settle(self, leave: int) -> None:
        own = self._own
        while len(own.pending) > leave:
            own.failed.extend(own.pending.popleft().result())


class _OfThread(threading.local):
    """What one thread submitted: the writes that are pending, and the errors of those that failed.

    No other thread may take these: the one that submitted them would have nothing to wait for, and would hand out
    arrays that are still being stored.
    """

    def __init__(self) -> None:
        self.pending: deque[Future[Iterable[WriteError]]] = deque()
        self.failed: list[WriteError] = []


_WRITERS: weakref.WeakSet[Writer] = weakref.WeakSet()


def _settle_before_fork() -> None:
    for writer in list(_WRITERS):
        wait(list(writer._unfinished))  # its errors are returned to the thread that submitted it


def _begin_anew_in_child() -> None:
    for writer in list(_WRITERS):
        writer._begin()


at_fork(ForkStep.WRITES, before=_settle_before_fork, in_child=_begin_anew_in_child)

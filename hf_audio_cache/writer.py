"""Storing entries behind the computation of the next ones."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from .errors import StoreError

__all__ = ["Writer"]

_THREADS = 4
_MAX_PENDING = 2 * _THREADS  # entries; it bounds the memory that they take


class Writer:
    """Encodes and stores in threads of its own, a bounded number of entries at a time.

    Threads belong to the process that made them: a fork finds all writes done, and its child begins with none. A
    process that ends in order waits for them.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[Future[Iterable[StoreError]]] = deque()
        self._lock = threading.Lock()
        self._failed: list[StoreError] = []
        _WRITERS.add(self)

    def submit(self, write: Callable[[], Iterable[StoreError]]) -> None:
        """Call `write` in a thread; wait first where too much is pending.

        Parameters
        ----------
        write
            Encodes and stores, and says what could not be stored. Nobody may change its arrays before `wait` has
            returned.
        """
        self._settle(_MAX_PENDING - 1)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="hf-audio-cache-writer")
        try:
            pending = self._pool.submit(write)
        except RuntimeError:  # no thread begins any more: the process ends
            self._failed.extend(write())
            return
        with self._lock:
            self._pending.append(pending)

    def release(self) -> None:
        """Let the threads end when all that is pending is stored; the next `submit` makes new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def wait(self) -> list[StoreError]:
        """Wait until all is stored; return what could not be.

        Raises
        ------
        UnstorableOutputError
            If an output was nothing that an entry can hold.
        """
        self._settle(0)
        failed, self._failed = self._failed, []
        return failed

    def _settle(self, leave: int) -> None:
        while True:
            with self._lock:
                if len(self._pending) <= leave:
                    return
                pending = self._pending.popleft()
            self._failed.extend(pending.result())

    def _forget_threads(self) -> None:
        self._pool, self._lock = None, threading.Lock()
        self._pending.clear()


_WRITERS: weakref.WeakSet[Writer] = weakref.WeakSet()


def _settle_before_fork() -> None:
    for writer in list(_WRITERS):
        with contextlib.suppress(Exception):  # it is raised again where its clip's call waits
            for pending in list(writer._pending):
                pending.result()


def _begin_anew_in_child() -> None:
    for writer in list(_WRITERS):
        writer._forget_threads()


os.register_at_fork(before=_settle_before_fork, after_in_child=_begin_anew_in_child)

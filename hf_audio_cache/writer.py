"""Storing entries behind the computation of the next ones."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .errors import StoreError

__all__ = ["Writer"]

_THREADS = 4
_MAX_PENDING = 2 * _THREADS  # entries; it bounds the memory that they take


@dataclass(frozen=True)
class _Pending:
    key: Hashable
    encoded: Future[Any]
    stored: Future[Iterable[StoreError]]


class Writer:
    """Encodes and stores in threads of its own, a bounded number of entries at a time.

    Threads belong to the process that made them: a fork finds all writes done, and its child begins with none. A
    process that ends in order waits for them.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[_Pending] = deque()
        self._lock = threading.Lock()
        self._failed: list[StoreError] = []
        _WRITERS.add(self)

    def submit(self, key: Hashable, encode: Callable[[], Any], store: Callable[[Any], Iterable[StoreError]]) -> None:
        """Call ``store(encode())`` in a thread; wait first where too much is pending.

        Parameters
        ----------
        key
            What is written.
        encode
            Makes its bytes, of arrays that nobody may change before `wait` has returned.
        store
            Stores what `encode` returned; says what could not be.
        """
        self._settle(_MAX_PENDING - 1)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="hf-audio-cache-writer")
        try:
            encoded = self._pool.submit(encode)
            # Tasks begin in the order of their submission: a thread that waits for this one waits for one that runs.
            stored = self._pool.submit(lambda: store(encoded.result()))
        except RuntimeError:  # no thread begins any more: the process ends
            self._failed.extend(store(encode()))
            return
        with self._lock:
            self._pending.append(_Pending(key, encoded, stored))

    def wait(self, leave: int = 0) -> list[StoreError]:
        """Wait until all is encoded, and all but the last `leave` are stored; return what could not be stored.

        Raises
        ------
        UnstorableOutputError
            If an output was nothing that an entry can hold.
        """
        left = list(self._pending)[-leave:] if leave else []
        is_encoded = all(pending.encoded.exception() is None for pending in left)
        self._settle(leave if is_encoded else 0)
        failed, self._failed = self._failed, []
        return failed

    def wait_for(self, keys: Collection[Hashable]) -> None:
        """Wait for what is to be read now: the entries of `keys`, and all that other writers of this process have."""
        for writer in list(_WRITERS):
            if writer is not self or any(pending.key in keys for pending in list(self._pending)):
                writer._settle(0)

    def _settle(self, leave: int) -> None:
        while True:
            with self._lock:
                if len(self._pending) <= leave:
                    return
                pending = self._pending.popleft()
            self._failed.extend(pending.stored.result())

    def _forget_threads(self) -> None:
        self._pool, self._lock = None, threading.Lock()
        self._pending.clear()


_WRITERS: weakref.WeakSet[Writer] = weakref.WeakSet()


def _settle_before_fork() -> None:
    for writer in list(_WRITERS):
        with contextlib.suppress(Exception):  # it is raised again where its clip's call waits
            for pending in list(writer._pending):
                pending.stored.result()


def _begin_anew_in_child() -> None:
    for writer in list(_WRITERS):
        writer._forget_threads()


os.register_at_fork(before=_settle_before_fork, after_in_child=_begin_anew_in_child)

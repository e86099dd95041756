"""How many threads numeric libraries use while we compute: OpenMP, BLAS and torch.

BLAS has one number for the whole process. OpenMP and torch have one for each thread; that of torch is also what threads
begin with that start later.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from .process_local import ProcessLocal
from .threads import is_own_thread, n_cores, share_out
from .torch_module import loaded_torch

ItemT = TypeVar("ItemT")


@functools.lru_cache(maxsize=1)
def _controller(has_torch: bool) -> ThreadpoolController:  # finding the loaded libraries takes some milliseconds
    return ThreadpoolController()


def _libraries() -> tuple[list[Any], list[Any]]:
    """Return the loaded libraries: BLAS, and OpenMP."""
    found: Sequence[Any] = ()
    with contextlib.suppress(OSError):  # no more files can be opened; the libraries keep all cores
        found = _controller(loaded_torch() is not None).lib_controllers
    known = [library for library in found if library.num_threads is not None]
    return [one for one in known if one.user_api == "blas"], [one for one in known if one.user_api != "blas"]


class _BlasLimit:
    """The limit of BLAS, which several threads may ask for at once: the least holds, and the last one lifts it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: list[int] = []
        self._before: list[tuple[Any, int]] = []

    def ask(self, n_threads: int, libraries: Sequence[Any]) -> None:
        with self._lock:
            if not self._asked:
                self._before = [(library, library.num_threads) for library in libraries]
            self._asked.append(n_threads)
            self._apply()

    def lift(self, n_threads: int) -> None:
        with self._lock:
            self._asked.remove(n_threads)
            self._apply()

    def _apply(self) -> None:
        for library, before in self._before:
            wanted = min([before, *self._asked])  # never raised
            if library.num_threads != wanted:
                library.set_num_threads(wanted)


# A fork while another thread has the lock leaves it locked in the child, which therefore has a limit of its own.
_limit: ProcessLocal[_BlasLimit] = ProcessLocal()


@contextlib.contextmanager
def _blas_limited(n_threads: int, libraries: Sequence[Any]) -> Iterator[None]:
    limit = _limit.get(_BlasLimit)
    limit.ask(n_threads, libraries)
    try:
        yield
    finally:
        limit.lift(n_threads)


@contextlib.contextmanager
def leaving_a_core() -> Iterator[None]:
    """Leave one core to our threads while the caller computes: OpenMP and BLAS get the others."""
    n_threads = max(1, n_cores() - 1)
    blas, openmp = _libraries()
    # The number is never raised: in a forked process torch is limited to one thread, as more would hang.
    limited = [(library, before) for library in openmp if (before := library.num_threads) > n_threads]
    with _blas_limited(n_threads, blas):
        for library, _ in limited:
            library.set_num_threads(n_threads)
        try:
            yield
        finally:
            for library, before in limited:
                library.set_num_threads(before)


def share_out_on_one_core_each(call: Callable[[ItemT], object], items: Sequence[ItemT], n_threads: int) -> None:
    """Do as `share_out`, with all libraries kept to the thread that calls them."""

    def call_here(item: ItemT) -> None:
        if is_own_thread():
            _keep_this_thread_to_one()
        call(item)

    with _blas_limited(1, _libraries()[0]):
        share_out(call_here, items, n_threads)


class _Kept(threading.local):
    has_torch: bool | None = None  # when this thread was limited


_kept = _Kept()


def _keep_this_thread_to_one() -> None:
    """Keep OpenMP and torch from starting threads for the calling thread, for good: it is one of our own."""
    torch = loaded_torch()
    if _kept.has_torch is (torch is not None):
        return
    _kept.has_torch = torch is not None
    if torch is not None and (before := torch.get_num_threads()) > 1:
        torch.set_num_threads(1)  # also for threads that start later, so it is put back, in a thread that ends
        other = threading.Thread(target=torch.set_num_threads, args=(before,), name="hf-audio-cache-limit")
        with contextlib.suppress(RuntimeError):  # the process ends
            other.start()
            other.join()
    for library in _libraries()[1]:
        library.set_num_threads(1)

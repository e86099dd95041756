"""Locks and other state of one process, made anew in a forked child; the order in which a fork takes the locks.

Threads, connections and event loops do not survive a fork, and a lock that another thread held at the fork is never
released in the child. This is the only module that asks which process runs, and the only one that registers hooks.
"""

from __future__ import annotations

# Before a fork, hooks are called in the reverse order in which they were registered. These two modules hold locks of
# theirs during a fork, for which threads of ours that are waited for may ask. So their hooks are registered first.
import concurrent.futures.thread  # noqa: F401
import contextlib
import enum
import functools
import itertools
import logging  # noqa: F401
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_IMPORTED_BY = os.getpid()
_WORKERS_OF = ("multiprocessing", "multiprocess")  # the second is what `datasets` uses


def is_forked() -> bool:
    """Return whether this process was forked from one that had imported this package."""
    return os.getpid() != _IMPORTED_BY


def is_worker() -> bool:
    """Return whether this process is one of several that share the cores.

    Another one forked or spawned it, as for ``num_proc=``; or Ray or torchrun did, which allow each one thread.
    """
    modules = (sys.modules.get(f"{name}.process") for name in _WORKERS_OF)
    if os.environ.get("OMP_NUM_THREADS") == "1" or is_forked():
        return True
    return any(module is not None and module.parent_process() is not None for module in modules)


class ProcessLocal(Generic[T]):
    """A value that each process makes for itself.

    A child keeps its parent's value unused, because its end could wait for threads that the child does not have.
    There is no lock, which a fork could find held: of the values that two threads make at once, both get the first.
    """

    def __init__(self) -> None:
        self._made: dict[int, T] = {}

    def get(self, make: Callable[[], T]) -> T:
        """Return this process's value, made now if there is none."""
        process = os.getpid()
        try:
            return self._made[process]
        except KeyError:
            return self._made.setdefault(process, make())

    def peek(self) -> T | None:
        """Return this process's value; None if there is none."""
        return self._made.get(os.getpid())

    def set(self, value: T) -> None:
        """Replace this process's value."""
        self._made[os.getpid()] = value

    def drop(self, value: T) -> None:
        """Have another value made at the next use, if this process's is `value`."""
        if self.peek() is value:
            del self._made[os.getpid()]


def finalize_here(owner: object, call: Callable[..., object], *arguments: Any) -> None:
    """Call when `owner` is gone or this process ends; not in a forked child, which inherits finalizers."""
    number = next(_numbers)
    _finalizers[number] = weakref.finalize(owner, _call_in, os.getpid(), number, call, *arguments)
    _told.get(_have_workers_finish)


_numbers = itertools.count()
_finalizers: dict[int, weakref.finalize[..., Any]] = {}  # of this process, and those that it inherited
_told: ProcessLocal[None] = ProcessLocal()


def _call_in(process: int, number: int, call: Callable[..., object], *arguments: Any) -> None:
    _finalizers.pop(number, None)
    if os.getpid() == process:
        call(*arguments)


def _have_workers_finish() -> None:
    """Have multiprocessing call the finalizers at the end of its forked workers, which end by `os._exit`."""
    for name in _WORKERS_OF:
        process, util = sys.modules.get(f"{name}.process"), sys.modules.get(f"{name}.util")
        if process is not None and util is not None and process.parent_process() is not None:
            util.Finalize(None, _finish, exitpriority=0)


def _finish() -> None:
    while _finalizers:
        with contextlib.suppress(Exception):  # the process ends
            _finalizers.popitem()[1]()  # the last one first, as at the end of other processes


class ForkStep(enum.Enum):
    """What is stopped before a fork, in this order; afterwards it goes on in the reverse order."""

    ROWS_AHEAD = "a row that a thread reads ahead: it opens audio and submits writes, so it comes first"
    SHARED_ITEMS = "what threads of ours compute: numeric libraries hang if their threads are stopped in mid-call"
    AUDIO_OPENING = "an audio file that another thread opens, under a lock of soundfile's"
    WRITES = "entries that are being stored"
    CLIENTS = "clients of object stores, whose threads the child does not have"


_hooks: dict[tuple[ForkStep, str], Callable[[], object] | None] = {}


def at_fork(
    step: ForkStep,
    *,
    before: Callable[[], object] | None = None,
    in_parent: Callable[[], object] | None = None,
    in_child: Callable[[], object] | None = None,
) -> None:
    """Say what one step does before a fork, and after it in the parent and in the child."""
    _hooks.update({(step, "before"): before, (step, "in_parent"): in_parent, (step, "in_child"): in_child})


def _run(step: ForkStep, moment: str) -> None:
    call = _hooks.get((step, moment))
    if call is not None:
        call()


if hasattr(os, "register_at_fork"):  # a system without it has no forks
    # The hook that was registered last is called first before a fork, and last after it. One registration a step:
    # Python goes on with the others when one raises.
    for _step in reversed(ForkStep):
        os.register_at_fork(
            before=functools.partial(_run, _step, "before"),
            after_in_parent=functools.partial(_run, _step, "in_parent"),
            after_in_child=functools.partial(_run, _step, "in_child"),
        )

"""Progress of long work: it is noted where the work is done, and shown by the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_watcher: ContextVar[Callable[[int, int | None], object] | None] = ContextVar("watcher", default=None)


@contextlib.contextmanager
def watched(watcher: Callable[[int, int | None], object]) -> Iterator[None]:
    """Have `watcher` called with how much is done, and with all that there is if that is known."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def note_progress(done: int, total: int | None = None) -> None:
    """Tell the watcher, if there is one."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(done, total)

"""Keeping the local tier of a remote store within a size."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time

from ..errors import StoreError
from .local import LocalStore

__all__ = ["LocalTier"]

logger = logging.getLogger(__name__)

# What may be deleted to make room: an entry, finished or not, under its content's SHA-256 and the first two digits of
# that. The directory may hold a stranger's files, and none of them has such a name.
_ENTRY = re.compile(r"(?:.+/)?([0-9a-f]{2})/\.?\1[0-9a-f]{62}\.[^/]+")

_KEPT_SHARE = 0.9  # of the limit, after room was made
_NEARLY_FULL = 0.98
_FIRST_SHARE = 1 / 64  # of the free space, for one process, before it is known how many there are
_LOOKING_SHARE = 1 / 20  # of a process's time, at most
_FULL_SECONDS = 1.0  # before a look that found no room is followed by another, at least
_LONGEST_LOOK = 60.0


class LocalTier:
    """The directory of a local tier as a whole: the stores of its folders share it.

    Only a listing tells how much lies in it, and listings are rare. Between two of them a process may write its
    allowance: a quarter of its share of the free space. Its share is what it wrote itself of all that was added between
    the last two listings. A process that has used up its allowance before the next listing is due keeps nothing more
    until then. Threads need no lock: other processes' writes are not seen either, and the next listing corrects both.

    Parameters
    ----------
    store
        The directory.
    max_bytes
        How much its entries may take, or None.
    """

    def __init__(self, store: LocalStore, max_bytes: int | None) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._began = time.time()
        self._used: set[int] = set()  # hashes: a name would take twenty times as much
        self._told: set[str] = set()
        self._total = 0  # at the last look
        self._allowance = 0.0
        self._written = 0  # of the allowance
        self._has_looked = False
        self._next_look = 0.0

    def use(self, name: str) -> None:
        """Note that this run needs the file `name`; its time becomes the present, for other processes to see."""
        if self._max_bytes is not None and hash(name) not in self._used:
            self._used.add(hash(name))
            with contextlib.suppress(OSError):  # on a read-only disk, or gone
                os.utime(self._store.location(name), follow_symlinks=False)

    def admits(self, n_bytes: int) -> bool:
        """Return whether there is room for so many bytes, after making some if there is not; they count as written."""
        if self._max_bytes is None:
            return True
        if n_bytes > self._max_bytes:
            return False
        if self._written + n_bytes > self._allowance and time.monotonic() >= self._next_look:
            self._look(n_bytes, self._max_bytes)
        if self._written + n_bytes > self._allowance:
            return False
        self._written += n_bytes
        return True

    def _look(self, n_bytes: int, max_bytes: int) -> None:
        """Find out what the directory holds, make room if it is nearly full, and set the allowance."""
        started = time.monotonic()
        self._next_look = started + _LONGEST_LOOK  # other threads do without room meanwhile
        try:
            files = (file for file in self._store.scan() if _ENTRY.fullmatch(file.name))
            found = [(file.modified, file.n_bytes, file.name) for file in files]
        except StoreError as error:
            self.report(error)
            return
        total = sum(size for _, size, _ in found)
        added = max(total - self._total, self._written, 1)
        share = self._written / added if self._has_looked else _FIRST_SHARE
        if total + n_bytes > _NEARLY_FULL * max_bytes:
            total -= self._evict(found, total + n_bytes - _KEPT_SHARE * max_bytes)
        free = max_bytes - total
        self._total, self._written, self._has_looked = total, 0, True
        self._allowance = max(free * share / 4, n_bytes) if n_bytes <= free else 0.0
        pause = (time.monotonic() - started) / _LOOKING_SHARE
        if not self._allowance:
            pause = max(pause, _FULL_SECONDS)
            if "full" not in self._told:
                self._told.add("full")
                logger.info("%s is full of what this run uses: nothing more is kept there", self._store.location())
        self._next_look = started + pause

    def _evict(self, found: list[tuple[float, int, str]], excess: float) -> int:
        """Delete the files that were not used for longest, and none of this run's; return how many bytes went."""
        chosen: dict[str, int] = {}
        freed = 0
        for modified, size, name in sorted(found):
            if freed >= excess or modified >= self._began:
                break
            if hash(name) not in self._used:
                chosen[name] = size
                freed += size
        failed = self._store.delete(chosen)
        for error in failed.values():
            self.report(error)
        return freed - sum(chosen[name] for name in failed)

    def report(self, error: StoreError) -> None:
        """Warn of the first failure of the directory; no run has to end for one."""
        level = logging.DEBUG if "failure" in self._told else logging.WARNING
        self._told.add("failure")
        logger.log(level, "the local tier failed, and the run goes on with the remote store: %s", error)

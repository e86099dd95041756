"""Keeping the near tier of a remote store within a size."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time

from ..errors import StoreError
from .local import NOT_ALLOWED, LocalStore

logger = logging.getLogger(__name__)

# Names of entries, finished or not: the content's SHA-256, in a folder of its first two digits. Nothing else may be
# deleted to make room: the directory may hold other people's files.
_ENTRY = re.compile(r"(?:.+/)?([0-9a-f]{2})/\.?\1[0-9a-f]{62}\.[^/]+")

_KEPT_SHARE = 0.9  # of the limit, after an eviction
_NEARLY_FULL = 0.98
_FIRST_SHARE = 1 / 64  # of the free space for this process, until it knows how much the others write
_LISTING_SHARE = 1 / 20  # of a process's time, at most
_FULL_SECONDS = 1.0  # at least between two listings that find no room
_LONGEST_LISTING = 60.0


class NearTier:
    """The directory of a near tier as a whole: the stores of its folders share it.

    Only a listing tells how much lies in it, and listings are rare. Between two of them a process may write its
    allowance: a quarter of its share of the free space. Its share is what it wrote itself of all that was added between
    the last two listings. A process that has used up its allowance before the next listing is due keeps nothing more
    until then. Threads need no lock: other processes' writes are not seen either, and the next listing corrects both.
    """

    def __init__(self, store: LocalStore, max_bytes: int | None) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._began = time.time()
        self._used: set[int] = set()  # hashes, which take a twentieth of the memory of names
        self._told: set[str] = set()
        self._total = 0  # at the last listing
        self._allowance = 0.0
        self._written = 0  # of the allowance
        self._has_listed = False
        self._next_listing = 0.0

    def use(self, name: str) -> None:
        """Note that this run needs the file `name`; its time becomes the present, for other processes to see."""
        if self._max_bytes is not None and hash(name) not in self._used:
            self._used.add(hash(name))
            with contextlib.suppress(OSError):  # on a read-only disk, or gone
                if os.utime in os.supports_follow_symlinks:
                    os.utime(self._store.location(name), follow_symlinks=False)
                else:
                    os.utime(self._store.location(name))

    def admits(self, n_bytes: int) -> bool:
        """Return whether there is room for so many bytes, evicting entries if needed; they then count as written."""
        if self._max_bytes is None:
            return True
        if n_bytes > self._max_bytes:
            return False
        if self._written + n_bytes > self._allowance and time.monotonic() >= self._next_listing:
            self._list(n_bytes, self._max_bytes)
        if self._written + n_bytes > self._allowance:
            return False
        self._written += n_bytes
        return True

    def _list(self, n_bytes: int, max_bytes: int) -> None:
        """List the directory, evict entries if it is nearly full, and set the allowance."""
        started = time.monotonic()
        self._next_listing = started + _LONGEST_LISTING  # other threads keep nothing meanwhile
        try:
            files = (file for file in self._store.scan() if _ENTRY.fullmatch(file.name))
            found = [(file.modified, file.n_bytes, file.name) for file in files]
        except StoreError as error:
            self.report(error)
            return
        total = sum(size for _, size, _ in found)
        added = max(total - self._total, self._written, 1)
        share = self._written / added if self._has_listed else _FIRST_SHARE
        if total + n_bytes > _NEARLY_FULL * max_bytes:
            total -= self._evict(found, total + n_bytes - _KEPT_SHARE * max_bytes)
        free = max_bytes - total
        self._total, self._written, self._has_listed = total, 0, True
        self._allowance = max(free * share / 4, n_bytes) if n_bytes <= free else 0.0
        pause = (time.monotonic() - started) / _LISTING_SHARE
        if not self._allowance:
            pause = max(pause, _FULL_SECONDS)
            if "full" not in self._told:
                self._told.add("full")
                logger.info("%s is full of what this run uses: nothing more is kept there", self._store.location())
        self._next_listing = started + pause

    def _evict(self, found: list[tuple[float, int, str]], excess: float) -> int:
        """Delete the least recently used files, but none that this run has used; return how many bytes were freed."""
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
        is_forbidden = error.errno in NOT_ALLOWED
        remedy = (
            ". Set HF_AUDIO_CACHE_NEAR to a folder that you may write to, or pass near=None" if is_forbidden else ""
        )
        logger.log(level, "the near tier failed, and the run goes on with the remote store: %s%s", error, remedy)

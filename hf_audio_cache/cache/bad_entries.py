"""What becomes of a damaged or foreign entry, and of a store that fails: deleted or left, counted, told once."""

from __future__ import annotations

import logging

from ..errors import StoreError, UnknownVersionError
from ..stores import NOT_ALLOWED, Store
from .stats import Counters

logger = logging.getLogger(__name__)


class BadEntries:
    """Deletes damaged entries, leaves those that are good to somebody else, and says so."""

    def __init__(self, store: Store, counters: Counters, *, strict: bool) -> None:
        self._store = store
        self._counters = counters
        self._strict = strict
        self._warned = False
        self.has_later_versions = False

    def delete(self, name: str, reason: Exception) -> None:
        """Delete a damaged entry, if the root can be written; the next put replaces it in any case."""
        self._counters.add(bad_entries=1)
        failed = [error for error in self._store.delete([name]).values() if error.kind != "read-only"]
        self.warn(f"the entry {self._store.location(name)} is damaged and counts as a miss: {reason}", *failed)

    def ignore(self, name: str, reason: Exception) -> None:
        """Count an entry that is not signed with our keys. It stays: others may have the key to it."""
        self._counters.add(unsigned_entries=1)
        self.warn(f"the entry {self._store.location(name)} counts as a miss: {reason}")

    def leave(self, name: str, reason: UnknownVersionError) -> None:
        """Count an entry that a later release wrote. It is good to that release, so it stays."""
        self.has_later_versions = True
        self._counters.add(unknown_versions=1)
        self.warn(f"the entry {self._store.location(name)} counts as a miss and stays: {reason}")

    def remedy(self, error: StoreError) -> str:
        """Return what helps where the entries may not be written; "" for other errors."""
        if self._store.is_local and error.errno in NOT_ALLOWED:
            return ". To keep entries, set HF_AUDIO_CACHE to a folder that you may write to, or pass it as root"
        return ""

    def fail(self, error: StoreError, consequence: str) -> None:
        """Warn of a failure of the store, or raise it if the root is strict."""
        if self._strict:
            raise error
        self.warn(error, consequence)

    def warn(self, *reasons: object) -> None:
        """Log the first problem as a warning, later ones as information."""
        level = logging.INFO if self._warned else logging.WARNING
        self._warned = True
        logger.log(level, "%s (further cases are only counted)", "; ".join(map(str, reasons)))

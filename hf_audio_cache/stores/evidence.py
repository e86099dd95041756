"""Telling an absent object of a remote store from one that may not be read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from ..errors import StoreError
from .base import Store

_DOUBTFUL_ROUNDS = 8
_EVIDENCE_LASTS = 60.0


class Evidence:
    """Tells an absent object from one that may not be read; the rule is in `ResilientStore`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._present: tuple[Store, str] | None = None
        self._seen = 0.0
        self._doubtful_rounds = 0
        self.tells_absence = False

    def saw(self, store: Store, name: str) -> None:
        """Note an object that is there."""
        self._present, self._seen, self._doubtful_rounds = (store, name), self._clock(), 0

    def denied_is_absent(self, *, writing_is_denied: bool) -> bool:
        """Return whether a denied read means that there is no such object."""
        if self.tells_absence:
            return False
        if self._present is not None:
            if self._clock() - self._seen < _EVIDENCE_LASTS:
                return True
            store, name = self._present
            with contextlib.suppress(StoreError):
                if store.exists(name):
                    self.saw(store, name)
                    return True
            self._present = None
        self._doubtful_rounds += 1
        return self._doubtful_rounds <= _DOUBTFUL_ROUNDS and not writing_is_denied

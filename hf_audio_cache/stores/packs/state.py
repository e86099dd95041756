"""The packs of a root at one time."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ...errors import CorruptEntryError
from .index import Index, Location


@dataclass(frozen=True)
class State:
    """The packs of a root at one time."""

    # Their sizes by their digits, without those of later versions.
    packs: Mapping[str, int] = field(default_factory=dict)
    # By the names of their files, the largest first. One that was made here, for a pack without a good one, is under
    # the name of the pack.
    indexes: Mapping[str, Index] = field(default_factory=dict)
    gone: Mapping[str, Index] = field(default_factory=dict)  # lists of deleted entries
    later: frozenset[str] = frozenset()  # names of files of later versions
    damaged: Mapping[str, str] = field(default_factory=dict)  # names of files, and the reason

    def is_alive(self, key: bytes, place: Location) -> bool:
        """Return whether a row of an index counts: its pack is there, and the entry is not deleted."""
        if place.offset + place.length > self.packs.get(place.pack, -1):
            return False
        for gone in self.gone.values():
            try:
                if place in gone.find(key):
                    return False
            except (CorruptEntryError, OSError):  # nothing that may be deleted is handed on
                return False
        return True

    @cached_property
    def gone_offsets(self) -> Mapping[str, set[int]]:
        """Where the deleted entries of each pack start."""
        found: dict[str, set[int]] = {}
        for gone in self.gone.values():
            with contextlib.suppress(CorruptEntryError, OSError):
                for pack, offsets in gone.offsets():
                    found.setdefault(pack, set()).update(offsets.tolist())
        return found

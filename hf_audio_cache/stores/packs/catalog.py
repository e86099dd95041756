"""Which packs and indexes a root has, and which index to ask for an entry."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ...errors import CorruptEntryError, StoreError, UnknownVersionError
from ..base import Store, StoredObject
from ..local import LocalStore
from .files import ChangedError, PackFiles
from .index import Index, Location, Rows
from .names import DELETED, INDEX, PACK, PACKS, entry_key, id_of, pack_name
from .state import State
from .tar import PackedEntry

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FOLDER = f"{PACKS}/"
_TRIES = 20
_LOCAL_SECONDS = (1.0, 10.0)  # after which the packs are listed again: an entry is missing; in any case
_FAR_SECONDS = (15.0, 60.0)
_LOOK_SECONDS = 0.05  # after which a local folder is looked at: its time shows whether a file came or went
_MIX = 3
_TICK = 50_000_000  # ns
_UNSURE = -1
# Kinds of errors after which a later listing may know more. Who may not list at all has no packs.
_AWAY = ("unreachable", "throttled", "circuit open", "no bucket", "unauthenticated")


class Catalog:
    """Finds entries in the packs of a root.

    The folder of packs is listed at the first use; again after `missing_seconds` if an entry is missing, and after
    `usual_seconds` in any case, so that what others delete from packs is noticed. A local one is listed, too, when its
    time shows a change, which is looked at after `look_seconds`. There are no locks: two threads may list at once, and
    each leaves a whole state. `error` says why the last listing failed, where a later one may know more.
    """

    def __init__(self, store: Store, near: LocalStore | None) -> None:
        self.store = store
        self.files = PackFiles(store, near)
        self.error: StoreError | None = None
        self.missing_seconds, self.usual_seconds = _LOCAL_SECONDS if store.is_local else _FAR_SECONDS
        self.look_seconds = _LOOK_SECONDS
        self._state = State()
        self._listed_at = self._looked_at = float("-inf")
        self._listed_time = 0
        self._local_folder = str(store.location(PACKS)) if isinstance(store, LocalStore) else ""
        self._doubted: dict[str, str] = {}  # indexes with a damaged block, and the reason
        self._told: set[str] = set()
        self._known_doubles: tuple[State | None, set[int]] = (None, set())

    def state(self) -> State:
        """Return the packs as of the last listing, which is not very old."""
        now = time.monotonic()
        if now - self._listed_at > self.usual_seconds:
            self.refresh()
        elif self._state.packs and now - self._looked_at >= self.look_seconds:
            self._looked_at = now
            if self._folder_time() != self._listed_time:
                self.refresh()
        return self._state

    def _folder_time(self) -> int:
        """Return when a file was last added to a local folder of packs, or taken away; 0 for a far one."""
        if self._local_folder:
            with contextlib.suppress(OSError):
                return os.stat(self._local_folder).st_mtime_ns
        return 0

    def look_again(self, since: State) -> bool:
        """List the packs once more, as an entry was not found in `since`; return whether anything is new."""
        is_known = time.monotonic() - self._listed_at < self.missing_seconds and self._listed_time != _UNSURE
        return (self._state if is_known else self.refresh()) is not since

    def find(self, key: bytes) -> Location | None:
        """Return where the entry of a key is; None if it is in no pack."""
        state = self._state
        for index in state.indexes.values():
            try:
                found = index.find(key)
            except (CorruptEntryError, OSError):
                return next(iter(self.places(key)), None)
            for place in found:
                if state.is_alive(key, place):
                    return place
        return None

    def places(self, key: bytes) -> list[Location]:
        """Return each place of the entry of a key."""
        found = self._of_each_index(lambda index: index.find(key))
        state = self._state
        return [place for places in found for place in places if state.is_alive(key, place)]

    def _of_each_index(self, read: Callable[[Index], T]) -> list[T]:
        """Return what `read` gives for each index; for all anew, without one that turns out to be damaged."""
        found = []
        for name, index in self._state.indexes.items():
            try:
                found.append(read(index))
            except (CorruptEntryError, OSError) as exc:
                self._doubt(name, exc)
                return self._of_each_index(read)
        return found

    def _doubt(self, name: str, reason: Exception) -> None:
        """Do without an index that turned out to be damaged; the packs' own contents stand for it."""
        index = self._state.indexes.get(name)
        if index is not None and not index.is_open():
            pass  # the program closed it, to become a daemon
        elif name in self._doubted or not self.files.drop_copy(name):  # of a copy the index itself may be good
            self._doubted[name] = str(reason)
        indexes = {each: index for each, index in self._state.indexes.items() if each != name}
        self._state = replace(self._state, indexes=indexes)
        self.refresh()

    def refresh(self) -> State:
        """List the packs, open what is new, and return the state; without an answer it stays as it was."""
        self.error = None
        for _ in range(_TRIES):
            self._listed_at, self._listed_time, changed = time.monotonic(), _UNSURE, self._folder_time()
            try:
                self._state = self._state_of(self.store.listing(_FOLDER))
            except ChangedError:
                continue
            except StoreError as exc:
                if exc.kind in _AWAY:
                    self.error = exc
                logger.debug("the packs could not be listed: %s", exc)
                self._listed_time = changed
                break
            if (
                self._folder_time() == changed
            ):  # else, of two files of which one replaced the other, it may have neither
                # A change in the same tick of the file system's clock would not show.
                self._listed_time = changed if time.time_ns() - changed > _TICK else _UNSURE
                break
        return self._state

    def _state_of(self, listed: Iterable[StoredObject]) -> State:
        before = self._state
        sizes = {found.name: found.n_bytes for found in listed}
        later: set[str] = set()
        damaged: dict[str, str] = {}

        def opened(names: Iterable[str]) -> dict[str, Index]:
            found = {name: self._opened(name, sizes[name], later, damaged) for name in names}
            return {name: index for name, index in found.items() if index is not None}

        indexes = opened(name for name in sizes if id_of(name, INDEX))
        gone = opened(name for name in sizes if id_of(name, DELETED))
        packs = {pack: n_bytes for name, n_bytes in sizes.items() if (pack := id_of(name, PACK))}
        without = packs.keys() - {pack for index in indexes.values() for pack in index.packs}
        indexes |= opened(map(pack_name, without))
        for name in later:
            packs.pop(id_of(name, PACK) or "", None)
        names = indexes.keys() | gone
        is_same = (packs, damaged) == (before.packs, before.damaged)
        if is_same and names == before.indexes.keys() | before.gone.keys():
            return before
        self.files.forget(sizes)
        by_size = sorted(indexes.items(), key=lambda each: -each[1].n_rows)
        return State(packs, dict(by_size), gone, frozenset(later), damaged)

    def _opened(self, name: str, n_bytes: int, later: set[str], damaged: dict[str, str]) -> Index | None:
        """Return the index in a file, or of a pack that no good one names; else note what is wrong with it."""
        try:
            return self._open(name, n_bytes)
        except UnknownVersionError:
            later.add(name)
        except (CorruptEntryError, OSError) as exc:
            if isinstance(exc, StoreError) and exc.kind in _AWAY:
                raise
            damaged[name] = str(exc)
            if name not in self._told and not id_of(name, PACK):
                self._told.add(name)
                where = self.store.location(name)
                logger.warning("%s is damaged (%s); `hf-audio-cache pack` makes it anew from its packs", where, exc)
        return None

    def _open(self, name: str, n_bytes: int) -> Index:
        if (known := self._state.indexes.get(name) or self._state.gone.get(name)) is not None:
            return known
        if pack := id_of(name, PACK):
            return self.files.make_index(pack, n_bytes)
        if name in self._doubted:
            raise CorruptEntryError(self._doubted[name])
        index = self.files.open_index(name, n_bytes)
        if index.is_gone != (id_of(name, DELETED) is not None):
            raise CorruptEntryError("it is of another kind than its name says")
        return index

    def packs_with(self, digits: str) -> list[str]:
        """Return the packs that have entries of clips whose SHA-256 begins with these up to 16 digits; "" for all."""
        if not digits:
            return list(self._state.packs)
        first, last = int(digits.ljust(16, "0"), 16), int(digits.ljust(16, "f"), 16)

        def packs_in(index: Index) -> set[str]:
            return {index.packs[number] for rows in index.rows(first, last) for number in rows["pack"].tolist()}

        return sorted(set().union(*self._of_each_index(packs_in)) & self._state.packs.keys())

    def alive_in(self, pack: str, *, with_doubles: bool = False) -> list[PackedEntry]:
        """Return the entries of a pack that are not deleted.

        Of those in several packs only what is in the first of these, unless `with_doubles`. Raises StoreError if it
        cannot be read.
        """
        doubles = not with_doubles and self.doubles()
        state = self._state
        gone = state.gone_offsets.get(pack, set())
        try:
            entries = [
                entry for entry in self.files.entries(pack, state.packs.get(pack, 0)) if entry.offset not in gone
            ]
        except (ChangedError, UnknownVersionError):
            return []
        return [entry for entry in entries if not doubles or self._is_first(entry, pack)]

    def _is_first(self, entry: PackedEntry, pack: str) -> bool:
        key = entry_key(entry.name)
        if key is None or _mixed_key(key) not in self.doubles():
            return True
        return min(self.places(key), default=None) == Location(pack, entry.offset, entry.length)

    def doubles(self) -> set[int]:
        """Return what stands for the entries that have several rows, and for very few others."""
        if self._known_doubles[0] is not self._state:
            parts = self._of_each_index(lambda index: [_mixed(rows) for rows in index.rows()])
            mixed = np.sort(np.concatenate([np.empty(0, np.uint64), *itertools.chain(*parts)]))
            self._known_doubles = self._state, set(mixed[1:][mixed[1:] == mixed[:-1]].tolist())
        return self._known_doubles[1]

    def is_double(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Return which rows are of entries that have several."""
        doubles = np.array(sorted(self.doubles()), np.uint64)
        return np.isin(_mixed(rows), doubles)


def _mixed(rows: Rows) -> npt.NDArray[np.uint64]:
    """Return a number for each row, equal for rows of the same entry."""
    numbers: npt.NDArray[np.uint64] = rows["clip"] + np.uint64(_MIX) * rows["name"]
    return numbers


def _mixed_key(key: bytes) -> int:
    return (int.from_bytes(key[:8], "little") + _MIX * int.from_bytes(key[8:], "little")) % (1 << 64)

"""Reading entries: checked and decoded; a bad one is read again, and then left to `bad_entries`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic

import numpy as np

from ..errors import SigningKeyError, StoreError, UnknownVersionError, UnsignedEntryError
from ..stores import Store
from ..support.threads import in_threads
from .bad_entries import BadEntries
from .codecs import Form
from .entry import Entry, check_signature, open_entry
from .keys import KeyT
from .signing import SigningKeys
from .stats import Counters

Pick = Callable[[Entry], Any]
# The name and key of an entry, the store's answer, and the checked entry. If there is no entry: the reason.
Opened = tuple[str, KeyT, bytes | StoreError | None, Entry | Exception | None]


class EntryReader(Generic[KeyT]):
    """Reads the entries of one cache."""

    def __init__(
        self, store: Store, signing_keys: SigningKeys | None, counters: Counters, bad_entries: BadEntries
    ) -> None:
        self._store, self._signing_keys, self._counters, self._bad = store, signing_keys, counters, bad_entries

    def checked(self, name: str, key: KeyT | None, found: bytes) -> Entry:
        """Return the entry in these bytes, not decoded; raise what is wrong with it, its signature first."""
        if self._signing_keys is not None:
            check_signature(found, name, self._signing_keys)
        return open_entry(found, key)

    def open_many(self, names: Sequence[str], keys: Sequence[KeyT]) -> list[Opened[KeyT]]:
        """Return for each name and key what the store has, and the checked entry."""
        found = self._store.get_many(names)
        return in_threads(self._open, list(zip(names, keys, found, strict=True)))

    def _open(self, each: tuple[str, KeyT, bytes | StoreError | None]) -> Opened[KeyT]:
        """Check the entry in these bytes, without decoding it. Add it, or the reason why it is refused."""
        name, key, found = each
        if not isinstance(found, bytes):
            return name, key, found, found
        try:
            return name, key, found, self.checked(name, key, found)
        except Exception as exc:  # noqa: BLE001 - whatever crafted bytes make numpy, json or Blosc raise
            return name, key, found, exc

    def pick_found(
        self, name: str, key: KeyT, found: bytes | StoreError | None, opened: Entry | Exception | None, pick: Pick
    ) -> tuple[Any, float]:
        """Return what `pick` gives of an entry and what it took to compute; None where it is not a good one."""
        if isinstance(opened, Entry):
            try:
                return pick(opened), opened.compute_seconds
            except Exception as exc:  # noqa: BLE001 - as in _open
                opened = exc
        if isinstance(found, StoreError):
            self._bad.fail(found, "it is computed again")
        elif isinstance(opened, SigningKeyError):
            raise opened  # it says nothing of the entry
        elif isinstance(opened, UnknownVersionError):
            self._bad.leave(name, opened)
        elif isinstance(found, bytes) and opened is not None:
            return self._pick_again(name, key, found, opened, pick)
        return None, 0.0

    def _pick_again(self, name: str, key: KeyT, found: bytes, reason: Exception, pick: Pick) -> tuple[Any, float]:
        """Return `pick` of what a second read of a bad entry gives."""
        [again] = self._store.get_again([name])
        if isinstance(again, bytes) and again != found:  # a copy was bad, or what came over the network
            self._counters.add(bad_entries=1)
            with contextlib.suppress(Exception):
                return self.pick(name, key, again, pick)
            where = self._store.location(name)
            self._bad.warn(f"the entry {where} was damaged in two reads and counts as a miss: {reason}")
        elif isinstance(again, StoreError):  # what it is a copy of may be good
            self._counters.add(bad_entries=1, read_errors=1)
            self._bad.fail(again, "it is computed again")
        elif isinstance(reason, UnsignedEntryError):
            self._bad.ignore(name, reason)
        else:
            self._bad.delete(name, reason)
        return None, 0.0

    def pick(self, name: str, key: KeyT, found: bytes, pick: Pick) -> tuple[Any, float]:
        """Return what `pick` gives of the entry in these bytes and what it took to compute; raise what is wrong."""
        entry = self.checked(name, key, found)
        return pick(entry), entry.compute_seconds


def give_places(entries: Iterable[object]) -> None:
    """Give each entry the places of its arrays: those of one output and shape are rows of one large array.

    That is quicker to fill than its parts: its memory comes in huge pages, and from the system once. A form that comes
    once has no place; what is no entry is left out.
    """
    of_form: dict[tuple[str, Form], list[Entry]] = {}
    for entry in entries:
        for named in entry.forms.items() if isinstance(entry, Entry) else ():
            of_form.setdefault(named, []).append(entry)  # type: ignore[arg-type]  # an entry, as was seen
    for (name, (dtype, shape)), alike in of_form.items():
        if len(alike) > 1:
            try:
                whole = np.empty((len(alike), *shape), dtype)
            except (ValueError, OverflowError, MemoryError):  # each is read alone, which says what is wrong
                continue
            for row, entry in enumerate(alike):
                entry.places[name] = whole[row, ...]  # an array, even of no axis

"""A store whose entries may lie in packs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...errors import StoreError
from ..base import Range, Store, StoredObject
from ..local import LocalStore
from ..wrapper import WrappingStore
from .catalog import Catalog
from .files import put_index
from .index import Location, make_rows
from .names import DELETED, PACKS, entry_key, pack_name
from .state import State

_LOOKS = 3  # for an entry that is missing, while packs come and go
_MOST_APART = 1 << 16  # bytes between entries that one request reads
_MOST_AT_ONCE = 8 << 20  # bytes of a request
_CLIP = re.compile(r"(?:[^/]+/)*([0-9a-f]{8,64})[^/]*")  # a prefix that has the beginning of a clip's sha


class PackedStore(WrappingStore):
    """Another store, whose entries may lie in packs under the root.

    What is read is looked for in the packs first, since that takes no request; then as an object of its own. What is
    put is an object of its own, and the entry of that name in a pack is deleted. Deleting an entry in a pack adds its
    place to a list of deleted ones; `tidy` gives the room back. `near` keeps copies of the indexes of a far root.
    """

    def __init__(self, root: Store, near: LocalStore | None = None) -> None:
        super().__init__(root)
        self.catalog = Catalog(root, near)
        self._inside = ""  # the folder under the root, with a slash

    @property
    def single(self) -> Store:
        """The store of the objects that are in no pack, and of the packs themselves."""
        return self._wrapped

    def get_many(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        known_error = self.catalog.error
        state = self.catalog.state()
        error = None if self.catalog.error is known_error else self.catalog.error  # of a listing just now
        found: dict[str, bytes | StoreError | None] = {}
        found |= self._read_packed(names) if state.packs else {}
        others = [name for name in names if name not in found]
        if others:
            found.update(zip(others, self._read_single(others, error), strict=True))
        answers = [found[name] for name in names]
        return answers if None not in answers else self._look_again(names, answers, state)

    def _read_single(self, names: Sequence[str], error: StoreError | None) -> list[bytes | StoreError | None]:
        """Return the objects; where the failed listing stopped the store from asking, the error of the listing."""
        answers = self._wrapped.get_many(names)
        if error is None or error.kind != "unreachable":
            return answers
        return [
            StoreError(str(error), name=name, kind=error.kind)
            if isinstance(answer, StoreError) and answer.kind == "circuit open"
            else answer
            for name, answer in zip(names, answers, strict=True)
        ]

    def _look_again(
        self, names: Sequence[str], answers: list[bytes | StoreError | None], since: State
    ) -> list[bytes | StoreError | None]:
        """Return the answers, with those of entries that were packed, or moved to another pack, meanwhile."""
        later: dict[str, bytes | StoreError | None] = {}
        lost = [name for name, found in zip(names, answers, strict=True) if found is None]
        for _ in range(_LOOKS):
            if not lost or not self.catalog.look_again(since):
                break
            since = self.catalog.state()
            later |= self._read_packed(lost)
            lost = [name for name in lost if later.get(name) is None]
            # Put anew meanwhile, which deletes it from the packs.
            later.update(zip(lost, self._wrapped.get_many(lost), strict=True))
            lost = [name for name in lost if later[name] is None]
        error = self.catalog.error
        return [
            found if found is not None else self._unknown(name, error)
            for name, found in ((name, later.get(name, found)) for name, found in zip(names, answers, strict=True))
        ]

    def _unknown(self, name: str, error: StoreError | None) -> StoreError | None:
        """Return the error in place of a miss where nobody knows which packs there are."""
        return None if error is None or self._key(name) is None else StoreError(str(error), name=name, kind=error.kind)

    def _key(self, name: str) -> bytes | None:
        return entry_key(self._inside + name)

    def _find(self, names: Iterable[str]) -> dict[str, Location]:
        found = {}
        for name in names:
            key = self._key(name)
            place = None if key is None else self.catalog.find(key)
            if place is not None:
                found[name] = place
        return found

    def _read_packed(self, names: Sequence[str], *, n_last: int | None = None) -> dict[str, bytes | StoreError]:
        """Return what the packs have of these entries, whole or the last bytes."""
        places = self._find(names)
        if not places:
            return {}
        found = self._read_places(places, n_last)
        lost = [name for name in places if name not in found]
        if lost:  # a pack was written anew
            self.catalog.refresh()
            found |= self._read_places(self._find(lost), n_last)
        return found

    def _read_places(self, places: Mapping[str, Location], n_last: int | None) -> dict[str, bytes | StoreError]:
        ranges = []
        for pack, offset, length in places.values():
            n_bytes = length if n_last is None else min(length, n_last)
            ranges.append((pack_name(pack), offset + length - n_bytes, n_bytes))
        store = self.catalog.store
        contents = store.get_ranges(ranges) if store.is_local else _get_together(store, ranges)
        return {
            name: content
            for name, content, (_, _, n_bytes) in zip(places, contents, ranges, strict=True)
            if isinstance(content, StoreError) or (content is not None and len(content) == n_bytes)
        }

    def read_places(self, places: Sequence[Location]) -> list[bytes | StoreError | None]:
        """Return what is at these places."""
        found = self._read_places({str(number): place for number, place in enumerate(places)}, None)
        return [found.get(str(number)) for number in range(len(places))]

    def ends_many(self, names: Sequence[str], n_bytes: int) -> list[bytes | StoreError | None]:
        packed = self._read_packed(names, n_last=n_bytes) if self.catalog.state().packs else {}
        others = [name for name in names if name not in packed]
        ends = dict(zip(others, self._wrapped.ends_many(others, n_bytes), strict=True)) if others else {}
        return [packed[name] if name in packed else ends[name] for name in names]

    def get_again(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        """Return what else there is of entries that turned out to be bad: an object of its own, or in another pack."""
        places = self._find(names) if self.catalog.state().packs else {}
        if not places:
            return self._wrapped.get_again(names)
        found = dict(zip(names, self._wrapped.get_many(names), strict=True))
        bad = [name for name, content in found.items() if name in places and not isinstance(content, bytes)]
        others = {}
        for name in bad:
            now = [*self.catalog.places(self._key(name) or b"")]  # none, if an index turned out to be damaged
            if now and (now[-1] != places[name] or not self.is_local):  # a network may have damaged what it brought
                others[name] = now[-1]
        found.update(dict.fromkeys(bad), **self._read_places(others, None))
        return [found[name] for name in names]

    def exists_many(self, names: Sequence[str]) -> list[bool]:
        state = self.catalog.state()
        packed = self._find(names) if state.packs else {}
        others = [name for name in names if name not in packed]
        there = dict(zip(others, self._wrapped.exists_many(others), strict=True)) if others else {}
        absent = [name for name, is_there in there.items() if not is_there]
        if absent and self.catalog.look_again(state):
            packed |= self._find(absent)
            absent = [name for name in absent if name not in packed]
            there.update(zip(absent, self._wrapped.exists_many(absent), strict=True))
        return [name in packed or there[name] for name in names]

    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        # Before the put: a packer may be quick, and what it packs next is the new entry.
        old = self._all_places(objects) if self.catalog.state().packs else {}
        failed = self._wrapped.put_many(objects)
        # Otherwise the old entry would hide the new one. If that fails, the next `pack` does it.
        self.forget_places(place for name, places in old.items() if name not in failed for place in places)
        return failed

    def delete(self, names: Iterable[str]) -> dict[str, StoreError]:
        names = list(names)
        failed = self._wrapped.delete(names)
        entries = [name for name in names if self._key(name) is not None]
        if not entries:
            return failed
        before = self.catalog.refresh().packs
        failed |= {name: error for name in entries if (error := self._unknown(name, self.catalog.error)) is not None}
        if not before:
            return failed  # what a packer has in memory, it deletes itself
        failed |= self._forget(entries)
        # Who writes packs anew may have read some of them. Whatever it publishes later, it sees that these are gone.
        if self.catalog.refresh().packs.keys() - before.keys():
            failed |= self._forget(entries)
        return failed

    def _forget(self, names: Iterable[str]) -> dict[str, StoreError]:
        """Delete these entries from all packs."""
        found = self._all_places(names)
        error = self.forget_places(place for places in found.values() for place in places)
        return {} if error is None else {name: StoreError(str(error), name=name, kind=error.kind) for name in found}

    def _all_places(self, names: Iterable[str]) -> dict[str, list[tuple[bytes, Location]]]:
        """Return the places in packs of those entries that have any, with their keys."""
        keys = {name: key for name in names if (key := self._key(name)) is not None}
        found = {name: [(key, place) for place in self.catalog.places(key)] for name, key in keys.items()}
        return {name: places for name, places in found.items() if places}

    def forget_places(self, places: Iterable[tuple[bytes, Location]]) -> StoreError | None:
        """Delete what is at these places in packs, each given with its key; return why that failed."""
        listed = list(places)
        if not listed:
            return None
        packs = sorted({place.pack for _, place in listed})
        error = None
        try:
            put_index(self.catalog.store, make_rows(listed, packs), packs, DELETED)
        except StoreError as exc:
            error = exc
        self.catalog.refresh()
        return error

    def tidy(self) -> None:
        from .tidy import tidy  # which imports this module

        tidy(self)

    def scan(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield each object and each entry in a pack; the packs' own files only for a prefix in their folder."""
        folder = f"{PACKS}/"
        if (self._inside + prefix).startswith(folder):
            yield from self._wrapped.scan(prefix)
            return
        had_packs = bool(self.catalog.refresh().packs)
        singles: set[int] = set()  # hashes, as far as there may be doubles
        for found in self._wrapped.scan(prefix):
            if not (self._inside + found.name).startswith(folder):
                if had_packs:
                    singles.add(hash(found.name))
                yield found
        if had_packs:
            self.catalog.refresh()  # what was packed meanwhile
            yield from (found for found in self._scan_packs(prefix) if hash(found.name) not in singles)

    def _scan_packs(self, prefix: str) -> Iterator[StoredObject]:
        clip = _CLIP.fullmatch(prefix)
        for pack in self.catalog.packs_with(clip[1][:16] if clip else ""):
            for entry in self.catalog.alive_in(pack):
                if entry.name.startswith(self._inside + prefix):
                    yield StoredObject(entry.name[len(self._inside) :], entry.length, entry.modified)

    def child(self, prefix: str) -> PackedStore:
        child = super().child(prefix)
        child._inside = f"{self._inside}{prefix}/"
        return child


def _get_together(store: Store, ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
    """Return what `get_ranges` does, with one request for neighbours."""
    groups: list[list[Range]] = []
    for one in sorted(set(ranges)):
        name, start, n_bytes = one
        if groups:
            first_name, first_start, _ = groups[-1][0]
            _, last_start, last_bytes = groups[-1][-1]
            is_near = name == first_name and start - (last_start + last_bytes) <= _MOST_APART
            if is_near and start + n_bytes - first_start <= _MOST_AT_ONCE:
                groups[-1].append(one)
                continue
        groups.append([one])
    spans = []
    for group in groups:
        name, begin, _ = group[0]
        spans.append((name, begin, max(start + n_bytes for _, start, n_bytes in group) - begin))
    found: dict[Range, bytes | StoreError | None] = {}
    for group, (_, begin, _), content in zip(groups, spans, store.get_ranges(spans), strict=True):
        for one in group:
            at = one[1] - begin
            found[one] = content[at : at + one[2]] if isinstance(content, bytes) else content
    return [found[one] for one in ranges]

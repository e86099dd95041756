"""Moving entries into packs.

There are no locks, and each step may be the last one of a process:

- A pack is published before its index, and both before the single entries are deleted.
- Between the two, processes that know of neither have time to look again.
- A single entry is deleted while the packs have it, and it is still the file that was packed: it may be put anew.
- Who deletes an entry looks for new packs afterwards; who published a pack looks for what was deleted meanwhile.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ...errors import StoreError
from ...support.batches import batches
from ..base import StoredObject
from .catalog import Catalog
from .files import put_index
from .index import Location
from .names import PACK, PACKS, entry_key, id_of, new_name
from .store import PackedStore
from .tar import MAX_LENGTH, encode_pack, rows_of, taken

PACK_BYTES = 256_000_000
_BATCH = 64
_DELETED_AT_ONCE = 1000
_LOOKS = 2.0  # times the seconds after which a process looks again for what it misses
_SETTLED = 600.0  # seconds
_LATE = _SETTLED / 2  # after which a packer no longer takes an entry for deleted


_Object: TypeAlias = "tuple[str, bytes, float]"  # name, content, time of writing


@dataclass
class Packer:
    """Moves entries into packs."""

    store: PackedStore
    pack_bytes: int = PACK_BYTES
    is_good: Callable[[str, bytes], bool] = lambda name, content: True  # whether an entry may be packed
    n_packed: int = 0
    n_bytes: int = 0
    n_packs: int = 0  # that were written
    n_bad: int = 0  # entries that stay as they are, since `is_good` said no
    n_present: int = 0  # entries that a pack had already
    _waiting: list[tuple[float, list[StoredObject], dict[str, Location]]] = field(default_factory=list)

    def pack(self, entries: Iterable[StoredObject]) -> None:
        """Pack single entries, in this order, and delete them; after a StoreError what was packed stays packed."""
        objects: list[_Object] = []
        n_bytes = 0
        for name, content, modified in self._contents(entries):
            if n_bytes + taken(len(content)) > self.pack_bytes and objects:
                self._finish(objects)
                objects, n_bytes = [], 0
            objects.append((name, content, modified))
            n_bytes += taken(len(content))
        if objects:
            self._finish(objects)
        self._delete_singles(wait=True)

    def _contents(self, entries: Iterable[StoredObject]) -> Iterator[_Object]:
        for batch in batches(entries, _BATCH):
            found = {one.name: one for one in batch if one.n_bytes <= MAX_LENGTH}
            for name, content in zip(found, self.store.single.get_many(list(found)), strict=True):
                if isinstance(content, StoreError):
                    raise content
                if content is None:
                    continue  # deleted, or packed by another
                if self.is_good(name, content):
                    yield name, content, found[name].modified
                else:
                    self.n_bad += 1

    def _finish(self, objects: Sequence[_Object]) -> None:
        """Publish a pack of entries that are new, and have the single ones deleted later."""
        catalog = self.store.catalog
        catalog.refresh()
        new, old, same = [], [], []
        for one in objects:
            key = entry_key(one[0]) or b""
            places = list(catalog.places(key))
            if places and self.store.read_places(places) == [one[1]] * len(places):
                same.append(one)
            else:
                new.append(one)
                old += [(key, place) for place in places]
        packed = {}
        if new:
            packed = publish(self.store, new)
            self.n_packs += 1
            self.n_packed += len(packed)
            self.n_bytes += sum(place.length for place in packed.values())
            self.store.forget_places(old)  # the single entries were newer
        self.n_present += len(same)  # a packer was killed before it deleted them
        singles = [StoredObject(name, len(content), modified) for name, content, modified in objects]
        self._waiting.append((time.monotonic(), singles, packed))
        self._delete_singles(wait=False)

    def _delete_singles(self, *, wait: bool) -> None:
        """Delete the single entries of packs that everybody had time to find; `wait` until that is so for all."""
        grace = _LOOKS * self.store.catalog.missing_seconds
        while self._waiting:
            published, singles, packed = self._waiting[0]
            left = published + grace - time.monotonic()
            if left > 0 and not wait:
                return
            time.sleep(max(0.0, left))
            for batch in batches(singles, _DELETED_AT_ONCE):
                self._delete(batch, packed, is_late=time.monotonic() - published > _LATE)
            self._waiting.pop(0)

    def _delete(self, singles: Sequence[StoredObject], packed: Mapping[str, Location], *, is_late: bool) -> None:
        """Delete single entries that are still what was packed, and not deleted from the packs meanwhile."""
        store = self.store
        names = [one.name for one in singles]
        there = dict(zip(names, store.single.exists_many(names), strict=True))
        absent = [name for name in names if not there[name] and name in packed]
        if not is_late:
            # Deleted since they were read: by their user, or by a packer, which has them in a pack of its own.
            store.forget_places((entry_key(name) or b"", packed[name]) for name in absent)
        store.catalog.refresh()
        settled = settled_packs(store.catalog)
        going = [one for one in singles if there[one.name] and self._is_kept(one.name, packed, settled)]
        for error in store.single.delete_unchanged(going).values():
            raise error

    def _is_kept(self, name: str, packed: Mapping[str, Location], settled: Collection[str]) -> bool:
        """Return whether a pack has an entry for good: it was not put anew, which deletes it from the packs.

        What another packer has published just now, that one may still take for deleted.
        """
        places = set(self.store.catalog.places(entry_key(name) or b""))
        return packed.get(name) in places or any(place.pack in settled for place in places)


def settled_packs(catalog: Catalog) -> set[str]:
    """Return the packs that are so old that nobody compares them with the single entries any more."""
    listed = catalog.store.listing(f"{PACKS}/")
    old = (id_of(one.name, PACK) for one in listed if time.time() - one.modified > _SETTLED)
    return {pack for pack in old if pack is not None}


def publish(store: PackedStore, objects: Sequence[_Object]) -> dict[str, Location]:
    """Write a pack of these entries and its index; return where each is, by name; StoreError if that failed."""
    content, entries = encode_pack(objects)
    name = new_name(PACK)
    pack = id_of(name, PACK) or ""
    root = store.catalog.store
    root.put(name, content)
    index = put_index(root, rows_of(entries), [pack])
    root.sync([name])
    try:
        root.sync([index])
    except StoreError as exc:
        if exc.errno != errno.ENOENT:  # else another packer has put its rows into an index of its own
            raise
    sizes = {one.name: one.n_bytes for one in root.listing(f"{PACKS}/")}
    if sizes.get(name) != len(content):
        raise StoreError(f"{root.location(name)} was written, and is not there whole; nothing was deleted", name=name)
    store.catalog.refresh()
    return {entry.name: Location(pack, entry.offset, entry.length) for entry in entries}

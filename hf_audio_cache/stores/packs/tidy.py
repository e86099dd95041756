"""Giving back the room of what is deleted: packs that are mostly dead are written anew, small indexes merged.

There are no locks, and each step may be the last one of a process:

- A list of deleted entries names places and not entries, and stays as long as its packs.
- Of an entry in two packs, the one in the pack whose name comes first stays: all who tidy choose alike.
- Packs of the last minutes are left alone: their packer may still compare them with the single entries.
- What replaces a pack or an index is published first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from ...errors import CorruptEntryError, StoreError
from ...support.batches import batches
from ..base import Store, StoredObject
from ..folders import finished_name
from ..local import UNFINISHED_AFTER
from .catalog import Catalog
from .files import put_index
from .index import ROW, Index, Location, Rows, sort_rows
from .names import DELETED, INDEX, PACKS, entry_key, id_of, is_pack_file, pack_name
from .packer import PACK_BYTES, publish, settled_packs
from .store import PackedStore
from .tar import taken

_MOST_ROWS = 1 << 23  # of an index: 268 MB, and some times as much memory to write it
_AT_ONCE = 256  # entries that are read together


def tidy(store: PackedStore, *, anew: Iterable[str] = ()) -> None:
    """Delete dead packs, write mostly dead ones anew, drop doubles, write missing indexes, and merge small ones.

    `anew` are packs that are written anew in any case. Raises StoreError if the root cannot be read or written.
    """
    catalog = store.catalog
    if not _listed(catalog):
        return
    catalog.refresh()
    _write_missing_indexes(catalog)
    old = settled_packs(catalog)
    _drop_doubles(store, old)
    _drop_dead(store, old, frozenset(anew))
    for kind in (INDEX, DELETED):
        _merge(catalog, kind)
    latest = time.time() - UNFINISHED_AFTER  # what is older, a killed writer left
    left = [one.name for one in _listed(catalog) if not is_pack_file(one.name) and one.modified < latest]
    _delete(catalog.store, [name for name in left if is_pack_file(finished_name(name))])
    catalog.refresh()


def _listed(catalog: Catalog) -> list[StoredObject]:
    return catalog.store.listing(f"{PACKS}/")


def _delete(store: Store, names: Sequence[str]) -> None:
    for error in store.delete(names).values():
        raise error


def _write_missing_indexes(catalog: Catalog) -> None:
    """Write the indexes that were made here, and delete the damaged ones that they stand for."""
    state = catalog.state()
    made = [index for name, index in state.indexes.items() if not id_of(name, INDEX)]
    for index in made:
        put_index(catalog.store, _rows(index), index.packs)
    _delete(catalog.store, [name for name in state.damaged if id_of(name, INDEX)])
    if made or state.damaged:
        catalog.refresh()


def _rows(index: Index) -> Rows:
    return np.concatenate([np.empty(0, ROW), *index.rows()])


def _drop_doubles(store: PackedStore, old: Collection[str]) -> None:
    catalog = store.catalog
    if not catalog.doubles():
        return
    places: dict[bytes, set[Location]] = {}
    for index in catalog.state().indexes.values():
        for rows in index.rows():
            for key in {row.tobytes()[:16] for row in rows[catalog.is_double(rows)]}:
                places[key] = {place for place in catalog.places(key) if place.pack in old}
    store.forget_places((key, place) for key, found in places.items() for place in sorted(found)[1:])


def _drop_dead(store: PackedStore, old: Collection[str], anew: Collection[str]) -> None:
    catalog = store.catalog
    state = catalog.state()
    offsets: dict[str, list[Rows]] = {pack: [] for pack in state.packs}
    for index in state.indexes.values():
        for pack, starts in index.offsets():
            if pack in offsets:
                offsets[pack].append(starts)
    dead, mostly = [], []
    for pack, parts in offsets.items():
        n_rows = len(np.unique(np.concatenate(parts))) if parts else 0
        n_gone = len(state.gone_offsets.get(pack, ()))
        if n_gone >= n_rows and parts:
            dead.append(pack)
        elif pack in anew or (n_gone > n_rows / 2 and pack in old):
            mostly.append(pack)
    _write_anew(store, mostly)
    _delete(catalog.store, [pack_name(pack) for pack in (*dead, *mostly)])
    if dead or mostly:
        catalog.refresh()


def _write_anew(store: PackedStore, packs: Iterable[str]) -> None:
    """Put what is alive in these packs into new ones."""
    catalog = store.catalog
    objects: list[tuple[str, bytes, float]] = []
    sources: dict[str, Location] = {}
    n_bytes = 0
    for pack in packs:
        found = [  # a damaged header may give an entry a name that nobody finds it by
            (one, place)
            for one in catalog.alive_in(pack, with_doubles=True)
            if (place := Location(pack, one.offset, one.length)) in catalog.places(entry_key(one.name) or b"")
        ]
        for batch in batches(found, _AT_ONCE):
            contents = store.read_places([place for _, place in batch])
            for (entry, place), content in zip(batch, contents, strict=True):
                if not isinstance(content, bytes):
                    where = catalog.store.location(pack_name(pack))
                    raise content or StoreError(f"{where} was deleted meanwhile; run it again", name=pack_name(pack))
                if (n_bytes + taken(entry.length) > PACK_BYTES and objects) or entry.name in sources:
                    _publish_again(store, objects, sources)
                    n_bytes = 0
                objects.append((entry.name, content, entry.modified))
                sources[entry.name] = place
                n_bytes += taken(entry.length)
    if objects:
        _publish_again(store, objects, sources)


def _publish_again(store: PackedStore, objects: list[tuple[str, bytes, float]], sources: dict[str, Location]) -> None:
    packed = publish(store, objects)
    state = store.catalog.refresh()
    keys = {name: entry_key(name) or b"" for name in packed}
    # Deleted since it was read.
    store.forget_places((keys[name], packed[name]) for name in packed if not state.is_alive(keys[name], sources[name]))
    objects.clear()
    sources.clear()


def _merge(catalog: Catalog, kind: str) -> None:
    """Merge small indexes, or lists of deleted entries, so that the largest ones make up most."""
    state = catalog.state()
    indexes = {name: index for name, index in {**state.indexes, **state.gone}.items() if id_of(name, kind)}
    empty = [name for name, index in indexes.items() if not state.packs.keys() & set(index.packs)]
    by_size = sorted(indexes.keys() - set(empty), key=lambda name: -indexes[name].n_rows)
    sizes = [indexes[name].n_rows for name in by_size]
    # As Git does: each that is left alone is at least twice as large as all smaller ones together.
    kept = next((n for n, size in enumerate(sizes) if size < 2 * sum(sizes[n + 1 :])), len(sizes))
    while sum(sizes[kept:]) > _MOST_ROWS:
        kept += 1
    group = by_size[kept:]
    if len(group) > 1:
        with contextlib.suppress(CorruptEntryError, OSError):  # what is damaged stays; an index is made anew next time
            rows, packs = _merged([indexes[name] for name in group], state.packs)
            catalog.store.sync([put_index(catalog.store, rows, packs, kind)])
            empty += group
    _delete(catalog.store, empty)


def _merged(indexes: Sequence[Index], there: Mapping[str, int]) -> tuple[Rows, list[str]]:
    """Return the rows of some indexes, of the packs that are there, and the names of these packs."""
    packs = sorted({pack for index in indexes for pack in index.packs} & there.keys())
    numbers = {pack: number for number, pack in enumerate(packs)}
    parts = [np.empty(0, ROW)]
    for index in indexes:
        rows = _rows(index)
        new = np.array([numbers.get(pack, len(packs)) for pack in index.packs], "<u4")
        rows["pack"] = new[rows["pack"]]
        parts.append(rows[rows["pack"] < len(packs)])
    rows = sort_rows(np.concatenate(parts))
    is_new = np.ones(len(rows), bool)
    is_new[1:] = rows[1:] != rows[:-1]
    return rows[is_new], packs

"""`pack`: move entries into a few large files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..cache.access_records import records_of
from ..cache.entry import open_entry
from ..cache.layout import FEATURES, WAVEFORMS
from ..cache.open_root import OpenRoot
from ..cache.root import CacheRoot, as_cache_root
from ..errors import UnknownVersionError
from ..stores import Store, StoredObject
from ..stores.packs.names import PACKS
from ..stores.packs.packer import PACK_BYTES, Packer
from ..stores.packs.store import PackedStore
from ..support.checks import check_number
from ..support.report import Report, Table
from ..support.units import format_size
from .listing import check_cache, check_processor, is_processor, parse_entry
from .processors import processor_names

_SECONDS = 300.0  # that a far root may take for a pack, at least


@dataclass(frozen=True, repr=False)
class PackReport(Report):
    """What `pack` did.

    Attributes
    ----------
    root
        Where.
    n_packed, n_bytes_packed
        Entries that were moved into packs, and their size.
    n_present
        Entries that a pack had already. Their single files were deleted.
    n_bad
        Damaged entries, which stay as they are.
    n_packs
        Packs that were written.
    n_files
        Files of all packs now: packs, indexes and lists of deleted entries.
    """

    root: str
    n_packed: int
    n_bytes_packed: int
    n_present: int
    n_bad: int
    n_packs: int
    n_files: int

    def tables(self) -> list[Table]:
        figures: list[tuple[Any, ...]] = [
            ("packed", f"{self.n_packed:,}", format_size(self.n_bytes_packed)),
            ("packed before", f"{self.n_present:,}", ""),
            ("damaged, not packed", f"{self.n_bad:,}", ""),
            ("packs written", f"{self.n_packs:,}", ""),
            ("files of all packs", f"{self.n_files:,}", ""),
        ]
        return [Table(f"pack {self.root}", ("", "number", "size"), figures)]


def pack(
    root: str | os.PathLike[str] | CacheRoot,
    *,
    cache: str | None = None,
    processor: str | None = None,
    older_than_seconds: float = 0.0,
    pack_bytes: int = PACK_BYTES,
) -> PackReport:
    """Move entries into packs, as they are, and delete the single ones.

    Runs may read and write the root meanwhile, and another `pack` may run. If it is killed, nothing is lost, and the
    next one goes on. It takes twice the size of a pack in memory, and 0.4 kB for each entry that is to be packed. Packs
    that are mostly dead are written anew, and indexes are mended and merged.

    Parameters
    ----------
    root
        A path, a URL or a `CacheRoot`.
    cache
        ``"features"`` or ``"waveforms"``, to pack the entries of that cache alone.
    processor
        Name or sha (or its first digits) of a processor, to pack its features alone.
    older_than_seconds
        Only entries that were written longer ago are packed.
    pack_bytes
        Size of a pack, about.

    Returns
    -------
    PackReport
        What was packed.

    Raises
    ------
    ValueError
        If a setting is invalid, there is no such processor, or both waveforms and a processor are chosen.
    InvalidRootError
        If there is no folder at a path.
    StoreError
        If the root cannot be read or written; what was packed until then stays packed.
    """
    check_cache(cache, processor, "nothing was packed")
    check_number("older_than_seconds", older_than_seconds, "nothing was packed")
    check_number("pack_bytes", pack_bytes, "nothing was packed", is_positive=True)
    store = OpenRoot.for_maintenance(as_cache_root(root).with_read_timeout(_SECONDS)).store
    if not isinstance(store, PackedStore):
        raise ValueError(f"{store.location()} is only read; nothing was packed.")
    packer = Packer(store, pack_bytes, _is_good)
    packer.pack(_in_order(store, cache, processor, time.time() - older_than_seconds))
    store.tidy()
    return PackReport(
        str(store.location()),
        packer.n_packed,
        packer.n_bytes,
        packer.n_present,
        packer.n_bad,
        packer.n_packs,
        len(store.listing(f"{PACKS}/")),
    )


def _in_order(store: PackedStore, cache: str | None, processor: str | None, latest: float) -> Iterator[StoredObject]:
    """Yield the single entries that are to be packed, by the time of writing and then by name.

    Object stores tell times in seconds. Within one, entries go by their place in the access log, if they are in it.
    """
    folders = [folder for folder in (FEATURES, WAVEFORMS) if cache in (None, folder)]
    names: Mapping[str, str] = {}
    if processor is not None:
        names, folders = processor_names(store), [FEATURES]
        listed = (entry.processor for one in store.scan(f"{FEATURES}/") if (entry := parse_entry(one)))
        check_processor(processor, names, listed)
    places = {} if store.is_local else _places_in_log(store)
    last = len(places)
    found = sorted(
        (one.modified, places.get(hash(one.name), last), one.name, one.n_bytes)
        for folder in folders
        for one in store.single.scan(f"{folder}/")
        if one.modified <= latest and (entry := parse_entry(one)) is not None
        if processor is None or is_processor(entry.processor, processor, names)
    )
    return (StoredObject(name, n_bytes, modified) for modified, _, name, n_bytes in found)


def _places_in_log(store: Store) -> dict[int, int]:
    """Return when entries were first used, as numbers in that order, by the hashes of their names."""
    hashes = [hash(name) for _, names in records_of(store) for name in reversed(names)]  # the latest record first
    return {each: place for place, each in enumerate(dict.fromkeys(hashes[::-1]))}


def _is_good(name: str, content: bytes) -> bool:
    try:
        open_entry(content, None)
    except UnknownVersionError:
        return True
    except Exception:  # noqa: BLE001 - a bad entry, which `verify` names
        return False
    return True

"""Reading packs and their indexes, from the root or from copies in its near tier."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence

from ...errors import CorruptEntryError, StoreError
from ..base import Store
from ..local import LocalStore
from ..open_files import OpenFile
from .index import Index, Read, Rows, encode_index
from .names import DELETED, INDEX, PACKS, id_of, new_name, pack_name
from .tar import PackedEntry, read_entries, read_whole, rows_of


class ChangedError(Exception):
    """What was listed is there no more."""


def put_index(root: Store, rows: Rows, packs: Sequence[str], kind: str = INDEX) -> str:
    """Write an index, or a list of deleted entries, and return its name."""
    name = new_name(kind)
    root.put(name, encode_index(rows, packs, is_gone=kind == DELETED))
    return name


class PackFiles:
    """Reads packs and indexes.

    An index of a local root stays open. One of a far root is copied: into the near tier, or into a file without a name.
    """

    def __init__(self, store: Store, near: LocalStore | None) -> None:
        self._store, self._near = store, near
        self._made: dict[str, Index] = {}
        self._entries: dict[str, list[PackedEntry]] = {}

    def open_index(self, name: str, n_bytes: int) -> Index:
        """Return an index, or a list of deleted entries, of this size.

        Raises what `Index` does; ChangedError if it is gone; StoreError or OSError if it cannot be read.
        """
        if isinstance(self._store, LocalStore):
            try:
                return _index_in(self._store.open_file(name))
            except FileNotFoundError:
                raise ChangedError from None
        if self._near is not None:
            with contextlib.suppress(OSError, CorruptEntryError):
                file = self._near.open_file(name)
                if file.n_bytes == n_bytes:
                    return _index_in(file)
        content = self._store.get(name)
        if content is None:
            raise ChangedError
        if self._near is not None and not self._near.put_many({name: content}):
            with contextlib.suppress(OSError):
                return _index_in(self._near.open_file(name))
        try:
            with tempfile.TemporaryFile(prefix="hf-audio-cache-", buffering=0) as unnamed:
                unnamed.write(content)
                return _index_in(OpenFile(os.dup(unnamed.fileno())))
        except OSError:
            return _index_of(content)

    def drop_copy(self, name: str) -> bool:
        """Delete the near copy of an index that turned out to be damaged; return whether there was one."""
        if self._near is None or not self._near.exists(name):
            return False
        return not self._near.delete([name])

    def make_index(self, pack: str, n_bytes: int) -> Index:
        """Return an index of a pack of this size, made from the pack itself; it raises what `entries` does."""
        if pack not in self._made:
            self._made[pack] = _index_of(encode_index(rows_of(self.entries(pack, n_bytes)), [pack]))
        return self._made[pack]

    def reader(self, pack: str) -> Read:
        """Return a function that reads a pack from a start on, for a length; StoreError if it cannot."""

        def read(start: int, n_bytes: int) -> bytes:
            [found] = self._store.get_ranges([(pack_name(pack), start, n_bytes)])
            if isinstance(found, StoreError):
                raise found
            if found is None:
                raise ChangedError
            return found

        return read

    def entries(self, pack: str, n_bytes: int) -> list[PackedEntry]:
        """Return all entries of a pack of this size, deleted ones too.

        Raises UnknownVersionError if it is of a later version; ChangedError if it is gone; StoreError if it cannot be
        read.
        """
        if pack not in self._entries:
            read = self.reader(pack)
            try:
                found = read_entries(read, n_bytes)
            except CorruptEntryError:
                found = list(read_whole(read, n_bytes))
            self._entries = {pack: found}  # the last one's: one clip after the other may be looked up in it
        return self._entries[pack]

    def forget(self, listed: Mapping[str, int]) -> None:
        """Close files, and delete near copies of indexes, that are not listed any more."""
        self._made = {pack: index for pack, index in self._made.items() if pack_name(pack) in listed}
        if isinstance(self._store, LocalStore):
            self._store.close_all_but(set(listed))
        if self._near is not None:
            with contextlib.suppress(StoreError):
                copies = {name for name in self._near.names(f"{PACKS}/") if id_of(name, INDEX) or id_of(name, DELETED)}
                self._near.delete(copies - listed.keys())


def _index_in(file: OpenFile) -> Index:
    return Index(file.read_checked, file.n_bytes, file.is_open, file.announce)


def _index_of(content: bytes) -> Index:
    return Index(lambda start, n_bytes: content[start : start + n_bytes], len(content))

"""Deleting under a root, for `prune`, `remove`, `clear` and repairs.

There are no locks: programs may read and write the root meanwhile. For them a deleted entry is a miss, and is computed
again. Reading a reference to it is an error that says what to do, if the row has no audio.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

from ..cache.access_records import last_uses, records_of
from ..cache.layout import is_ours, parse_record_name
from ..cache.open_root import OpenRoot
from ..cache.root import CacheRoot, as_cache_root
from ..stores import UNFINISHED_AFTER, Store, StoredObject, is_temporary
from ..support.batches import batches
from ..support.progress import note_progress
from ..support.report import Report, Table
from ..support.units import format_size
from .listing import ListedEntry, parse_entry

_BATCH = 100_000  # each is one list of deleted entries, where they are in packs
_RECENT = 86_400.0  # seconds


@dataclass(frozen=True, repr=False)
class PruneReport(Report):
    """What `prune`, `remove` or `clear` deleted, or would delete.

    Attributes
    ----------
    root
        Where.
    n_deleted, n_bytes_deleted
        Entries, and unfinished files older than an hour, with their size.
    n_kept, n_bytes_kept
        Entries that stay, with their size.
    is_dry_run
        Whether nothing was really deleted.
    n_recent
        Deleted entries that were read or written in the last 24 hours, as far as is recorded.
    n_near
        Copies in this machine's near tier that were deleted with them.
    names
        The names of the deleted entries; not in `to_dict`, which would be long.
    """

    root: str
    n_deleted: int
    n_bytes_deleted: int
    n_kept: int
    n_bytes_kept: int
    is_dry_run: bool
    n_recent: int = 0
    n_near: int = 0
    names: tuple[str, ...] = field(default=(), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {name: value for name, value in super().to_dict().items() if name != "names"}

    def tables(self) -> list[Table]:
        does = "would be deleted" if self.is_dry_run else "deleted"
        rows = [
            (does, f"{self.n_deleted:,}", format_size(self.n_bytes_deleted)),
            ("  used in the last 24 h", f"{self.n_recent:,}", ""),
            *([("  and copies in the near tier", f"{self.n_near:,}", "")] if self.n_near else []),
            ("kept", f"{self.n_kept:,}", format_size(self.n_bytes_kept)),
        ]
        return [Table(self.root, ("", "entries", "size"), rows)]


@dataclass(frozen=True)
class Contents:
    """A listing of a root: for planning a deletion, and for doing it."""

    store: Store  # the root itself
    near: Store | None  # this machine's near tier of it; None without one
    now: float  # when it was listed, in seconds since 1970
    objects: Sequence[StoredObject]  # all files of the cache, unfinished ones too
    entries: Sequence[ListedEntry]  # the finished entries among it

    @classmethod
    def of(cls, root: str | os.PathLike[str] | CacheRoot) -> Contents:
        """List a root, and not what this machine's near tier has of it; StoreError if it cannot be listed."""
        store = OpenRoot.for_maintenance(root).store
        return cls._list(store, as_cache_root(root).open_near_tier(), last_uses(store))

    @classmethod
    def of_near_tier(cls, root: str | os.PathLike[str] | CacheRoot) -> Contents:
        """List this machine's near tier of a root; ValueError if the root has none."""
        root = as_cache_root(root)
        near = root.open_near_tier()
        if near is None:
            raise ValueError(f"there is no near tier of {root.url} on this machine; nothing was deleted.")
        return cls._list(near, None, {})

    @classmethod
    def _list(cls, store: Store, near: Store | None, uses: Mapping[str, float]) -> Contents:
        now = time.time()
        objects = [one for one in store.scan() if is_ours(one.name)]
        return cls(store, near, now, objects, [entry for one in objects if (entry := parse_entry(one, uses))])

    def unfinished(self) -> list[StoredObject]:
        """Return the unfinished files that are older than an hour."""
        return [one for one in self.objects if is_temporary(one.name) and self.now - one.modified > UNFINISHED_AFTER]

    def delete(
        self,
        going: Sequence[ListedEntry],
        more: Sequence[StoredObject] = (),
        *,
        copies: Sequence[str] = (),
        all_copies: bool = False,
        dry_run: bool,
    ) -> PruneReport:
        """Delete entries, files that were left unfinished, and the records of use of which no entry is left.

        Their copies in the near tier go too. Otherwise the next run would put them into the root again. Raises
        StoreError if an object cannot be deleted. `more` are objects that the report does not count, `copies` further
        files in the near tier; if these are `all_copies`, it is not listed.
        """
        unfinished = self.unfinished()
        gone = {entry.name for entry in going}
        kept = [entry for entry in self.entries if entry.name not in gone]
        # In this order: it may be killed.
        objects = dict.fromkeys([*(one.name for one in (*unfinished, *more)), *(entry.name for entry in going)])
        near = list(copies) if all_copies else self._among_copies([*objects, *copies])
        if not dry_run:
            delete(self.store, objects)
            self.store.tidy()
            if self.near is not None:
                delete(self.near, near)
            _delete_records(self.store, self.objects, {entry.name for entry in kept})
        return PruneReport(
            root=str(self.store.location()),
            n_deleted=len(going) + len(unfinished),
            n_bytes_deleted=sum(entry.n_bytes for entry in going) + sum(one.n_bytes for one in unfinished),
            n_kept=len(kept),
            n_bytes_kept=sum(entry.n_bytes for entry in kept),
            is_dry_run=dry_run,
            n_recent=sum(self.now - entry.accessed < _RECENT for entry in going),
            n_near=len(near),
            names=tuple(entry.name for entry in going),
        )

    def _among_copies(self, names: Sequence[str]) -> list[str]:
        """Return those of the names that the near tier has."""
        present = [] if self.near is None else self.near.exists_many(names)
        return list(dict.fromkeys(name for name, is_there in zip(names, present, strict=False) if is_there))


def _delete_records(store: Store, listed: Sequence[StoredObject], kept: Collection[str]) -> None:
    """Delete records of use without any remaining entry, and the descriptions of their runs.

    Records written since the listing stay: their run may still be writing.
    """
    before = {one.name: found for one in listed if (found := parse_record_name(one.name)) is not None}
    dead: set[str] = set()
    alive: set[str] = set()
    for record, names in records_of(store):
        is_alive = record.name not in before or any(name in kept for name in names)
        (alive if is_alive else dead).add(record.name)
    runs = {found.run for name in alive if (found := parse_record_name(name)) is not None}
    dead |= {name for name, found in before.items() if found.day is None and found.run not in runs}
    delete(store, sorted(dead))


def delete(store: Store, names: Iterable[str]) -> int:
    """Delete these objects, and return how many they were; StoreError if one could not be deleted."""
    n_deleted = 0
    total = len(names) if isinstance(names, Sized) else None
    for batch in batches(names, _BATCH):
        note_progress(n_deleted, total)
        n_deleted += len(batch)
        for error in store.delete(batch).values():
            raise error
    return n_deleted

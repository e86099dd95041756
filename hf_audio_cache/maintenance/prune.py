"""Making room under a root.

Nothing here locks anything. Programs may read and write the root meanwhile: an entry that is deleted under them is a
miss, and computed again (behind a reference whose row has no audio: an error that says what to do). The access log says
what a run used, to within its last record; for an entry without a record, the time when it was written counts.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..cache.access_log import last_uses, names_of_run, records_of
from ..cache.layout import is_ours, parse_record_name
from ..cache.open_root import OpenRoot
from ..cache.root import CacheRoot
from ..stores import Store, StoredObject, is_temporary
from ..support.report import Report, Table
from ..support.units import format_size
from .listing import ListedEntry, find_entries, is_processor, parse_entry
from .processors import processor_names
from .verify import UNFINISHED_AFTER, delete

__all__ = ["PruneReport", "clear", "prune", "remove"]

_RECENT = 86_400.0  # seconds


@dataclass(frozen=True, repr=False)
class PruneReport(Report):
    """What `prune`, `remove` or `clear` deleted, or would delete.

    Attributes
    ----------
    root
        Where.
    n_deleted, n_bytes_deleted
        Entries, and files that a writer left more than an hour ago, with their size.
    n_kept, n_bytes_kept
        Entries that stay, with their size.
    is_dry_run
        Whether nothing was really deleted.
    n_recent
        Of the deleted: entries that were read or written in the last 24 hours, as far as records say.
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
    names: tuple[str, ...] = field(default=(), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return {name: value for name, value in super().to_dict().items() if name != "names"}

    def tables(self) -> list[Table]:
        does = "would be deleted" if self.is_dry_run else "deleted"
        rows = [
            (does, f"{self.n_deleted:,}", format_size(self.n_bytes_deleted)),
            ("  used in the last 24 h", f"{self.n_recent:,}", ""),
            ("kept", f"{self.n_kept:,}", format_size(self.n_bytes_kept)),
        ]
        return [Table(self.root, ("", "entries", "size"), rows)]


def prune(
    root: str | os.PathLike[str] | CacheRoot,
    *,
    max_bytes: int | None = None,
    older_than_seconds: float | None = None,
    keep_free: float | None = None,
    processor: str | None = None,
    keep_run: str | Sequence[str] = (),
    dry_run: bool = False,
) -> PruneReport:
    """Delete entries until the rest is small or recent enough; those that were not used for longest go first.

    What a writer left unfinished more than an hour ago goes too, whatever the limits are, and so do records of use of
    which no entry is left. Manifests of processors stay.

    Parameters
    ----------
    root
        A path, a URL or a `CacheRoot`.
    max_bytes
        What all entries together may take afterwards.
    older_than_seconds
        How long ago an entry may have been used last.
    keep_free
        Share of the root's disk, between 0 and 1, that is to be free afterwards; for local roots.
    processor
        Name or sha (or its first digits) of a processor: nothing but its features is deleted; without a limit, all of
        them.
    keep_run
        A run, or several: what they used is not deleted; without a limit and without `processor`, everything else is.
    dry_run
        Whether to say only what would go.

    Raises
    ------
    ValueError
        If a limit is none, or nothing is known of a run.
    StoreError
        If the root cannot be listed, or an entry not be deleted.
    """
    _check(max_bytes, older_than_seconds, keep_free)
    store = OpenRoot.for_maintenance(root).store
    now = time.time()
    uses = last_uses(store)
    listed = [one for one in store.scan() if is_ours(one.name)]
    entries = [entry for one in listed if (entry := parse_entry(one, uses))]
    runs = [keep_run] if isinstance(keep_run, str) else list(keep_run)
    may_go = _candidates(store, entries, processor, runs)
    limits = (max_bytes, older_than_seconds, keep_free)
    if limits != (None, None, None):
        n_bytes = sum(entry.n_bytes for entry in entries)
        excess = max(0 if max_bytes is None else n_bytes - max_bytes, _lacking(store, keep_free))
        oldest = float("-inf") if older_than_seconds is None else now - older_than_seconds
        going = list(_least_recent(may_go, excess, oldest))
    else:
        going = may_go if processor is not None or runs else []
    return _delete_entries(store, listed, entries, going, now, dry_run=dry_run)


def _check(max_bytes: int | None, older_than_seconds: float | None, keep_free: float | None) -> None:
    for name, limit in (("max_bytes", max_bytes), ("older_than_seconds", older_than_seconds)):
        if limit is not None and not limit >= 0:
            raise ValueError(f"{name} must be at least 0, not {limit!r}; nothing was deleted.")
    if keep_free is not None and not 0 <= keep_free <= 1:
        raise ValueError(f"keep_free must be a share between 0 and 1, not {keep_free!r}; nothing was deleted.")


def _candidates(
    store: Store, entries: Sequence[ListedEntry], processor: str | None, runs: Sequence[str]
) -> list[ListedEntry]:
    """Return the entries that may go, as far as processors and runs are concerned."""
    kept: set[str] = set()
    for run in runs:
        used = names_of_run(store, run)
        if not used:
            raise ValueError(
                f"expected the id of a run that has records of use, and there are none of {run!r} under "
                f"{store.location()}; nothing was deleted. The folders under runs/ have the names of runs."
            )
        kept |= used
    names = processor_names(store) if processor is not None else {}
    may_go = [entry for entry in entries if entry.name not in kept]
    if processor is not None:
        may_go = [entry for entry in may_go if is_processor(entry.processor, processor, names)]
    return may_go


def _lacking(store: Store, keep_free: float | None) -> float:
    """Return how many bytes have to go for a share of the disk to be free."""
    if keep_free is None:
        return 0
    where = store.location()
    if not isinstance(where, Path):
        raise ValueError(f"keep_free is for roots on a disk, and {where} is none; nothing was deleted.")
    if not where.is_dir():
        return 0
    disk = shutil.disk_usage(where)
    return keep_free * disk.total - disk.free


def _least_recent(entries: Sequence[ListedEntry], excess: float, oldest: float) -> Iterator[ListedEntry]:
    """Yield what has to go: the least recently used until `excess` bytes have gone, and all used before `oldest`."""
    for entry in sorted(entries, key=lambda one: one.accessed):
        if excess <= 0 and entry.accessed >= oldest:
            return
        excess -= entry.n_bytes
        yield entry


def _delete_entries(
    store: Store,
    listed: Sequence[StoredObject],
    entries: Sequence[ListedEntry],
    going: Sequence[ListedEntry],
    now: float,
    *,
    dry_run: bool,
) -> PruneReport:
    unfinished = [one for one in listed if is_temporary(one.name) and now - one.modified > UNFINISHED_AFTER]
    gone = {entry.name for entry in going}
    if not dry_run:
        delete(store, [one.name for one in unfinished])
        delete(store, [entry.name for entry in going])
        _delete_records(store, listed, {entry.name for entry in entries} - gone)
    n_bytes = sum(entry.n_bytes for entry in going)
    return PruneReport(
        root=str(store.location()),
        n_deleted=len(going) + len(unfinished),
        n_bytes_deleted=n_bytes + sum(one.n_bytes for one in unfinished),
        n_kept=len(entries) - len(going),
        n_bytes_kept=sum(entry.n_bytes for entry in entries) - n_bytes,
        is_dry_run=dry_run,
        n_recent=sum(now - entry.accessed < _RECENT for entry in going),
        names=tuple(entry.name for entry in going),
    )


def _delete_records(store: Store, listed: Sequence[StoredObject], kept: Collection[str]) -> None:
    """Delete the records of use of which no entry is left, and the records of their runs.

    Only those that were there before the entries were listed: a run may be writing others.
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


def remove(root: str | os.PathLike[str] | CacheRoot, what: Sequence[str], *, dry_run: bool = False) -> PruneReport:
    """Delete entries.

    Parameters
    ----------
    root
        A path, a URL or a `CacheRoot`.
    what
        Names of entries under the root, or at least 8 digits of clips' sha256, for all that is there of them.
    dry_run
        Whether to say only what would go.

    Raises
    ------
    ValueError
        If one of them stands for nothing; nothing is deleted then.
    StoreError
        If the root cannot be listed, or an entry not be deleted.
    """
    store = OpenRoot.for_maintenance(root).store
    going = find_entries(store, what)
    if not dry_run:
        delete(store, [entry.name for entry in going])
    now = time.time()
    n_recent = sum(now - entry.accessed < _RECENT for entry in going)
    kept = [one for one in store.scan() if parse_entry(one)]
    n_kept, kept_bytes = len(kept), sum(one.n_bytes for one in kept)
    n_bytes = sum(entry.n_bytes for entry in going)
    if dry_run:
        n_kept, kept_bytes = n_kept - len(going), kept_bytes - n_bytes
    names = tuple(entry.name for entry in going)
    return PruneReport(str(store.location()), len(going), n_bytes, n_kept, kept_bytes, dry_run, n_recent, names)


def clear(root: str | os.PathLike[str] | CacheRoot, *, cache: str | None = None, dry_run: bool = False) -> PruneReport:
    """Delete everything under a root that is the cache's, unfinished files too; nothing else is touched.

    Parameters
    ----------
    root
        A path, a URL or a `CacheRoot`.
    cache
        ``"features"`` or ``"waveforms"``, to delete the entries of that one alone.
    dry_run
        Whether to say only what would go.

    Raises
    ------
    ValueError
        If there is no such cache.
    StoreError
        If the root cannot be listed, or an object not be deleted.
    """
    if cache not in (None, "features", "waveforms"):
        raise ValueError(f'cache must be "features", "waveforms" or None for all, not {cache!r}; nothing was deleted.')
    store = OpenRoot.for_maintenance(root).store
    now = time.time()
    ours = [one for one in store.scan() if is_ours(one.name)]
    going = [one for one in ours if cache is None or one.name.startswith(f"{cache}/")]
    uses = last_uses(store)
    entries = [entry for one in going if (entry := parse_entry(one, uses))]
    if not dry_run:
        delete(store, [one.name for one in going])
    going_names = {one.name for one in going}
    kept = [one for one in ours if one.name not in going_names and parse_entry(one)]
    return PruneReport(
        str(store.location()),
        len(entries),
        sum(entry.n_bytes for entry in entries),
        len(kept),
        sum(one.n_bytes for one in kept),
        dry_run,
        sum(now - entry.accessed < _RECENT for entry in entries),
        tuple(entry.name for entry in entries),
    )

"""`prune`, `remove` and `clear`: choose what to delete, and in which order.

The access log tells when an entry was last used. An entry without a record counts as used when it was written.
"""

from __future__ import annotations

import math
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ..cache.access_records import names_of_run
from ..cache.entry import open_entry
from ..cache.layout import is_ours
from ..cache.root import CacheRoot
from ..stores import Store
from ..support.checks import check_number
from .delete import Contents, PruneReport
from .listing import ListedEntry, check_cache, check_processor, find_copies, find_listed, is_processor
from .processors import processor_names

_DAY = 86_400.0  # seconds; the access log is kept by days
_SAMPLE = 16  # entries of a kind that are read, to see how long they took to compute


def prune(
    root: str | os.PathLike[str] | CacheRoot,
    *,
    max_bytes: int | None = None,
    older_than_seconds: float | None = None,
    keep_free: float | None = None,
    processor: str | None = None,
    cache: str | None = None,
    keep_run: str | Sequence[str] = (),
    dry_run: bool = False,
) -> PruneReport:
    """Delete entries until the rest is small or recent enough; those that were not used for longest go first.

    Among entries last used on the same day, counted back from now, those go first that are cheapest to make again for
    their bytes. What a writer left unfinished more than an hour ago goes too, whatever the limits are. So do records of
    use of which no entry is left. Manifests of processors stay.

    Parameters
    ----------
    root
        A path, a URL or a `CacheRoot`.
    max_bytes
        Maximum size of all entries afterwards.
    older_than_seconds
        Entries last used longer ago than this are deleted.
    keep_free
        Share of the root's disk, between 0 and 1, to be free afterwards; for local roots.
    processor
        Name or sha (or its first digits) of a processor: only its features are deleted; without a limit, all of them.
    cache
        ``"features"`` or ``"waveforms"``: only entries of that cache are deleted; without a limit, all of them.
    keep_run
        A run, or several: what they used is not deleted; without a limit, `processor` and `cache`, everything else is.
    dry_run
        Whether to report only what would be deleted.

    Returns
    -------
    PruneReport
        What was deleted, or would be.

    Raises
    ------
    ValueError
        If a limit is invalid, a cache, processor or run is unknown, or both waveforms and a processor are chosen.
    InvalidRootError, StoreError
        If there is no folder at a path; if the root cannot be listed, or an entry not be deleted.
    """
    check_cache(cache, processor, "nothing was deleted")
    has_limit = _check_limits(max_bytes=max_bytes, older_than_seconds=older_than_seconds, keep_free=keep_free)
    contents, going = Contents.of(root), []
    runs = [keep_run] if isinstance(keep_run, str) else list(keep_run)
    may_go = [entry for entry in _candidates(contents, processor, runs) if cache in (None, entry.cache)]
    if has_limit:
        excess = max(_beyond(contents, max_bytes), _lacking(contents.store, keep_free))
        oldest = float("-inf") if older_than_seconds is None else contents.now - older_than_seconds
        going = list(_first_to_go(contents, may_go, excess, oldest))
    elif processor is not None or cache is not None or runs:
        going = may_go
    return contents.delete(going, dry_run=dry_run)


def _check_limits(**limits: float | None) -> bool:
    """Return whether any of these limits is given; ValueError if one is invalid."""
    given = {name: limit for name, limit in limits.items() if limit is not None}
    for name, limit in given.items():
        check_number(name, limit, "nothing was deleted", most=1 if name == "keep_free" else math.inf)
    return bool(given)


def _candidates(contents: Contents, processor: str | None, runs: Sequence[str]) -> list[ListedEntry]:
    """Return the entries that `processor` and `keep_run` allow to delete."""
    kept: set[str] = set()
    for run in runs:
        used = names_of_run(contents.store, run)
        if not used:
            raise ValueError(
                f"No record of the run {run!r} under {contents.store.location()}. Pass an id that "
                "`hf-audio-cache runs` lists. Nothing was deleted."
            )
        kept |= used
    names = processor_names(contents.store) if processor is not None else {}
    may_go = [entry for entry in contents.entries if entry.name not in kept]
    if processor is not None:
        check_processor(processor, names, (entry.processor for entry in contents.entries))
        may_go = [entry for entry in may_go if is_processor(entry.processor, processor, names)]
    return may_go


def _beyond(contents: Contents, max_bytes: int | None) -> float:
    """Return how many bytes to delete until no more than these are left."""
    return 0 if max_bytes is None else sum(entry.n_bytes for entry in contents.entries) - max_bytes


def _lacking(store: Store, keep_free: float | None) -> float:
    """Return how many bytes to delete until this share of the disk is free."""
    if keep_free is None:
        return 0
    where = store.location()
    if not isinstance(where, Path):
        raise ValueError(f"keep_free is for roots on a local disk, not for {where}. Nothing was deleted.")
    if not where.is_dir():
        return 0
    disk = shutil.disk_usage(where)
    return keep_free * disk.total - disk.free


def _first_to_go(
    contents: Contents, may_go: Sequence[ListedEntry], excess: float, oldest: float
) -> Iterator[ListedEntry]:
    """Yield what has to go: enough for `excess` bytes, and all that was last used before `oldest`."""
    cost = _seconds_per_byte(contents.store, may_go) if excess > 0 else lambda entry: 0.0

    def rank(entry: ListedEntry) -> tuple[bool, float, float, float]:
        days_ago = (contents.now - entry.accessed) // _DAY
        return entry.accessed >= oldest, -days_ago, cost(entry), entry.accessed

    for entry in sorted(may_go, key=rank):
        if excess <= 0 and entry.accessed >= oldest:
            return
        excess -= entry.n_bytes
        yield entry


def _seconds_per_byte(store: Store, entries: Iterable[ListedEntry]) -> Callable[[ListedEntry], float]:
    """Return a function that estimates, for an entry, the seconds to make it again for each byte that it takes.

    Entries of one processor, rate and cap are one kind. If no entry of a kind can be read, its cost is 0.
    """
    kinds: dict[tuple[object, ...], list[ListedEntry]] = defaultdict(list)
    for entry in entries:
        kinds[_kind(entry)].append(entry)
    costs = {kind: _cost(store, found) for kind, found in kinds.items()}
    return lambda entry: costs.get(_kind(entry), 0.0)


def _kind(entry: ListedEntry) -> tuple[object, ...]:
    return entry.cache, entry.processor, entry.sampling_rate, entry.max_length_ms, entry.auto_resample


def _cost(store: Store, entries: Sequence[ListedEntry]) -> float:
    chosen = entries[:: max(len(entries) // _SAMPLE, 1)][:_SAMPLE]
    n_bytes, seconds = 0, 0.0
    for content in store.get_many([entry.name for entry in chosen]):
        if isinstance(content, bytes):
            try:
                seconds += open_entry(content, None).compute_seconds
            except Exception:  # noqa: BLE001 - a bad entry, which `verify` names
                continue
            n_bytes += len(content)
    return seconds / n_bytes if n_bytes else 0.0


def remove(root: str | os.PathLike[str] | CacheRoot, what: Sequence[str], *, dry_run: bool = False) -> PruneReport:
    """Delete entries.

    `what` are names of entries under the root, or at least 8 digits of clips' sha256, for all that is there of them.
    Raises ValueError if one of them matches nothing (nothing is deleted then); StoreError if the root cannot be listed,
    or an entry not be deleted.
    """
    contents = Contents.of(root)
    going = find_listed(contents.entries, what, contents.store.location(), near=contents.near)
    copies = () if contents.near is None else find_copies(contents.near, what)
    return contents.delete(going, copies=copies, dry_run=dry_run)


def clear(
    root: str | os.PathLike[str] | CacheRoot,
    *,
    cache: str | None = None,
    only_near: bool = False,
    dry_run: bool = False,
) -> PruneReport:
    """Delete all files of the cache under a root, unfinished ones too. Other files stay.

    `cache` is ``"features"`` or ``"waveforms"``, to delete the entries of that one alone. With `only_near` this
    machine's near tier of the root is deleted, and nothing in the root itself. Raises ValueError if there is no such
    cache, or no near tier; StoreError if the root cannot be listed, or an object not be deleted.
    """
    check_cache(cache, None, "nothing was deleted")
    contents = Contents.of_near_tier(root) if only_near else Contents.of(root)
    going = [entry for entry in contents.entries if cache in (None, entry.cache)]
    folder = "" if cache is None else f"{cache}/"
    more = [one for one in contents.objects if one.name.startswith(folder)]
    copies = [] if contents.near is None else list(filter(is_ours, contents.near.names(folder)))
    return contents.delete(going, more, copies=copies, all_copies=True, dry_run=dry_run)

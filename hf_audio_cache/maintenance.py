"""Looking after a root: what is wrong with it, and what may go.

Nothing here locks anything. Programs may read and write the root meanwhile: an entry that is deleted under them is a
miss, and computed again.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from .caches import AudioCache, WaveformCache
from .errors import CorruptEntryError, HfAudioCacheError, StoreError, UnsignedEntryError
from .manifest import Manifest, manifest_name
from .router import TAG_NAME
from .signing import SigningKey, SigningKeys, signing_keys
from .stores import Store, StoredObject, is_temporary, open_store
from .uses import check_use, is_use_name

__all__ = ["PruneReport", "VerifyReport", "prune", "verify"]

T = TypeVar("T")

UNFINISHED_AFTER = 3600.0  # seconds after which whoever began a file is taken for dead

_BATCH = 64
_TAG = re.compile(rf"(\.)?{re.escape(TAG_NAME)}(?(1)\.[0-9]+-[0-9a-f]{{8}}\.tmp)")
_MANIFEST = re.compile(r"processors/(\.)?(?P<sha>[0-9a-f]{64})\.json(?(1)\.[0-9]+-[0-9a-f]{8}\.tmp)")


@dataclass
class VerifyReport:
    """What `verify` found.

    Attributes
    ----------
    root
        Where.
    n_entries, n_bytes
        Entries that were read whole, and their size; bad ones are among them.
    bad
        What is wrong with each bad entry or manifest, by name.
    unsigned
        Names of entries of a signed root that no key signed.
    unreadable
        Why each object that could not be read was not, by name.
    unfinished
        Names of files that a writer left more than an hour ago.
    n_in_progress
        Younger unfinished files, which may have a writer.
    n_strangers
        Files that are not the cache's. They are never touched.
    n_deleted
        Of the bad, unsigned and unfinished: those that were deleted.
    """

    root: str
    n_entries: int = 0
    n_bytes: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    unsigned: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    n_in_progress: int = 0
    n_strangers: int = 0
    n_deleted: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.bad or self.unsigned or self.unreadable or self.unfinished)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


def verify(
    root: str | os.PathLike[str] | Store,
    *,
    repair: bool = False,
    signing_key: SigningKey | SigningKeys | None = None,
    **root_settings: Any,
) -> VerifyReport:
    """Read every entry under a root whole, and say what is wrong with which.

    Parameters
    ----------
    root
        As for `CachedFeatures`.
    repair
        Whether to delete what is bad, unsigned or was left unfinished; it is computed again when it is asked for.
    signing_key
        That of a signed root.
    **root_settings
        How the root is reached: ``storage_options``, ``filesystem``, ``timeouts``.

    Raises
    ------
    StoreError
        If the root cannot be listed, or what is to be repaired not be deleted.
    """
    store, keys = _open(root, root_settings), signing_keys(signing_key)
    report = VerifyReport(str(store.location()))
    caches: dict[str, AudioCache | WaveformCache] = {
        "features": AudioCache(store.child("features"), signing_key=keys),
        "waveforms": WaveformCache(store.child("waveforms"), signing_key=keys),
    }
    now = time.time()
    entries = (found for found in store.scan() if _is_to_be_read(found, report, now))
    for batch in _batches(entries, _BATCH):
        for folder, cache in caches.items():
            inside = [found for found in batch if found.name.startswith(f"{folder}/")]
            names = [found.name.partition("/")[2] for found in inside]
            for found, error in zip(inside, cache.check_many(names), strict=True):
                report.n_entries += 1
                report.n_bytes += found.n_bytes
                _note(report, found.name, error)
        for found in batch:
            if found.name.startswith("processors/"):
                _note(report, found.name, _check_manifest(store, found.name, keys))
            elif found.name.startswith(("access/", "runs/")):
                _note(report, found.name, _check_record(store, found.name))
    if repair:
        report.n_deleted = _delete(store, [*report.bad, *report.unsigned, *report.unfinished])
    return report


def _open(root: str | os.PathLike[str] | Store, settings: dict[str, Any]) -> Store:
    return open_store(root, **{"near": None, **settings})  # the root itself, and not what this machine has of it


def _is_to_be_read(found: StoredObject, report: VerifyReport, now: float) -> bool:
    if not _is_ours(found.name):
        report.n_strangers += 1
    elif not is_temporary(found.name):
        return found.name != TAG_NAME
    elif now - found.modified > UNFINISHED_AFTER:
        report.unfinished.append(found.name)
    else:
        report.n_in_progress += 1
    return False


def _is_ours(name: str) -> bool:
    """Return whether `name` is that of an entry, a manifest, a record of use or the tag, finished or not."""
    folder, _, inside = name.partition("/")
    if folder == "features":
        return AudioCache.owns(inside)
    if folder == "waveforms":
        return WaveformCache.owns(inside)
    return (_MANIFEST.fullmatch(name) or _TAG.fullmatch(name)) is not None or is_use_name(name)


def _check_manifest(store: Store, name: str, keys: SigningKeys | None) -> HfAudioCacheError | None:
    [found] = store.get_many([name])
    if not isinstance(found, bytes):
        return found
    try:
        manifest = Manifest.from_bytes(found, keys)
        if manifest_name(manifest.identity.sha) != name:
            return CorruptEntryError(f"it is the manifest of {manifest.identity.sha}")
    except HfAudioCacheError as exc:
        return exc
    except Exception as exc:  # noqa: BLE001 - whatever JSON of another form makes of it
        return CorruptEntryError(f"it is no manifest ({type(exc).__name__}: {exc})")
    return None


def _check_record(store: Store, name: str) -> HfAudioCacheError | None:
    [found] = store.get_many([name])
    return check_use(name, found) if isinstance(found, bytes) else found


def _note(report: VerifyReport, name: str, error: HfAudioCacheError | None) -> None:
    if isinstance(error, UnsignedEntryError):
        report.unsigned.append(name)
    elif isinstance(error, StoreError):
        report.unreadable[name] = str(error)
    elif error is not None:
        report.bad[name] = str(error)


def _delete(store: Store, names: list[str]) -> int:
    for error in store.delete(names).values():
        raise error
    return len(names)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


@dataclass(frozen=True)
class PruneReport:
    """What `prune` deleted, or would delete.

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
    """

    root: str
    n_deleted: int
    n_bytes_deleted: int
    n_kept: int
    n_bytes_kept: int
    is_dry_run: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


def prune(
    root: str | os.PathLike[str] | Store,
    *,
    max_bytes: int | None = None,
    older_than_seconds: float | None = None,
    dry_run: bool = False,
    **root_settings: Any,
) -> PruneReport:
    """Delete entries until the rest is small or young enough; those written first go first.

    What a writer left unfinished more than an hour ago goes too, whatever the limits are. Manifests of processors stay.

    Parameters
    ----------
    root
        As for `CachedFeatures`.
    max_bytes
        What all entries together may take afterwards.
    older_than_seconds
        How long ago an entry may have been written.
    dry_run
        Whether to say only what would go.
    **root_settings
        As for `verify`.

    Raises
    ------
    StoreError
        If the root cannot be listed, or an entry not be deleted.
    """
    for name, limit in (("max_bytes", max_bytes), ("older_than_seconds", older_than_seconds)):
        if limit is not None and not limit >= 0:
            raise ValueError(f"{name} must be at least 0, not {limit!r}; nothing was deleted.")
    store = _open(root, root_settings)
    now = time.time()
    found = [one for one in store.scan() if _is_ours(one.name)]
    kept = [one for one in found if not is_temporary(one.name) and one.name.startswith(("features/", "waveforms/"))]
    going = [one for one in found if is_temporary(one.name) and now - one.modified > UNFINISHED_AFTER]
    kept.sort(key=lambda one: one.modified, reverse=True)  # the oldest is the last, and the first to go
    n_bytes = sum(one.n_bytes for one in kept)
    while kept and (
        (max_bytes is not None and n_bytes > max_bytes)
        or (older_than_seconds is not None and now - kept[-1].modified > older_than_seconds)
    ):
        going.append(kept.pop())
        n_bytes -= going[-1].n_bytes
    if not dry_run:
        for batch in _batches(going, 1000):
            _delete(store, [one.name for one in batch])
    return PruneReport(
        root=str(store.location()),
        n_deleted=len(going),
        n_bytes_deleted=sum(one.n_bytes for one in going),
        n_kept=len(kept),
        n_bytes_kept=n_bytes,
        is_dry_run=dry_run,
    )

"""Check the entries of a root, and delete the damaged ones where that is asked for.

There are no locks: programs may read and write the root meanwhile. For them a deleted entry is a miss, and is computed
again.
"""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass, field

from ..cache.access_records import check_use
from ..cache.layout import PROCESSORS, TAG_NAME, is_entry, is_ours, manifest_name
from ..cache.open_root import OpenRoot
from ..cache.processor_manifest import Manifest
from ..cache.root import CacheRoot
from ..cache.signing import SigningKeys
from ..errors import CorruptEntryError, HfAudioCacheError, StoreError, UnknownVersionError, UnsignedEntryError
from ..stores import UNFINISHED_AFTER, Store, StoredObject, is_temporary
from ..stores.packs.check import check_packs
from ..stores.packs.names import PACK, PACKS, id_of
from ..stores.packs.store import PackedStore
from ..stores.packs.tidy import tidy
from ..support.batches import batches
from ..support.progress import note_progress
from ..support.report import Report, Table
from ..support.units import format_size
from .delete import delete

_BATCH = 64
_MAX_SHOWN = 50  # lines of a table


@dataclass(repr=False)
class VerifyReport(Report):
    """What `verify` found.

    Attributes
    ----------
    root
        Where.
    n_entries, n_bytes
        Entries that were read, bad ones included, and their size.
    bad
        What is wrong with each bad entry or manifest, by name.
    unsigned
        Names of entries of a signed root that no key signed.
    unknown_versions
        Names of entries and manifests of a later version of the format. They are not damaged, and never deleted.
    unreadable
        Why each object that could not be read was not, by name.
    unfinished
        Names of unfinished files older than an hour.
    n_in_progress
        Younger unfinished files, which may have a writer.
    n_strangers
        Files that do not belong to the cache. They are never touched.
    n_deleted
        How many bad, unsigned and unfinished files were deleted.
    """

    root: str
    n_entries: int = 0
    n_bytes: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    unsigned: list[str] = field(default_factory=list)
    unknown_versions: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    n_in_progress: int = 0
    n_strangers: int = 0
    n_deleted: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.bad or self.unsigned or self.unreadable or self.unfinished)

    @property
    def repairable(self) -> list[str]:
        """The names of what a repair deletes."""
        return [*self.bad, *self.unsigned, *self.unfinished]

    def tables(self) -> list[Table]:
        figures = [
            ("entries", f"{self.n_entries:,}"),
            ("size", format_size(self.n_bytes)),
            ("bad", f"{len(self.bad):,}"),
            ("unsigned", f"{len(self.unsigned):,}"),
            ("of a later version", f"{len(self.unknown_versions):,}"),
            ("unreadable", f"{len(self.unreadable):,}"),
            ("left unfinished", f"{len(self.unfinished):,}"),
            ("in progress", f"{self.n_in_progress:,}"),
            ("not the cache's", f"{self.n_strangers:,}"),
            ("deleted", f"{self.n_deleted:,}"),
        ]
        found = [(name, reason) for reasons in (self.bad, self.unreadable) for name, reason in reasons.items()]
        found += [(name, "no key signed it") for name in self.unsigned]
        found += [(name, "a writer left it unfinished") for name in self.unfinished]
        shown = [Table("what is wrong", ("name", "reason"), found[:_MAX_SHOWN])] if found else []
        return [Table(f"verify {self.root}", (), figures), *shown]


def verify(root: str | os.PathLike[str] | CacheRoot, *, repair: bool = False) -> VerifyReport:
    """Check every entry under a root and report damaged ones.

    Parameters
    ----------
    root
        A path, a URL or a `CacheRoot`.
    repair
        Whether to delete entries that are bad or unsigned, and unfinished files. They are computed again when needed.

    Returns
    -------
    VerifyReport
        What was found, and how much of it was deleted.

    Raises
    ------
    InvalidRootError
        If there is no folder at a path.
    StoreError
        If the root cannot be listed, or what is to be repaired not be deleted.
    """
    opened = OpenRoot.for_maintenance(root)
    store = opened.store
    report = VerifyReport(str(store.location()))
    now = time.time()
    entries = (found for found in store.scan() if _is_to_be_read(found, report, now))
    for batch in batches(entries, _BATCH):
        note_progress(report.n_entries)
        for found, content in zip(batch, store.get_many([found.name for found in batch]), strict=True):
            if is_entry(found.name):
                report.n_entries += 1
                report.n_bytes += found.n_bytes
            # Else deleted since it was listed, or why it could not be read.
            error = check_object(opened, found.name, content) if isinstance(content, bytes) else content
            _note(report, found.name, error)
    _check_packs(store, report, now)
    return repair_root(root, report) if repair else report


def _check_packs(store: Store, report: VerifyReport, now: float) -> None:
    if not isinstance(store, PackedStore):
        return
    for found in store.listing(f"{PACKS}/"):
        _is_to_be_read(found, report, now)
    report.bad |= check_packs(store.catalog)
    report.unknown_versions += sorted(store.catalog.state().later)


def repair_root(root: str | os.PathLike[str] | CacheRoot, report: VerifyReport) -> VerifyReport:
    """Delete what `verify` reports as bad, unsigned or left unfinished; return the report with their number.

    Indexes of packs are written anew from the packs.
    """
    store = OpenRoot.for_maintenance(root).store
    packs = {name: pack for name in report.bad if (pack := id_of(name, PACK))}
    n_deleted = delete(store, [name for name in report.repairable if name not in packs])
    if isinstance(store, PackedStore):  # a pack with a damaged list of contents is written anew
        tidy(store, anew=packs.values())
    return dataclasses.replace(report, n_deleted=n_deleted)


def _is_to_be_read(found: StoredObject, report: VerifyReport, now: float) -> bool:
    if not is_ours(found.name):
        report.n_strangers += 1
    elif not is_temporary(found.name):
        return found.name != TAG_NAME
    elif now - found.modified > UNFINISHED_AFTER:
        report.unfinished.append(found.name)
    else:
        report.n_in_progress += 1
    return False


def check_object(root: OpenRoot, name: str, content: bytes) -> HfAudioCacheError | None:
    """Return what is wrong with an entry, a manifest or a record of use that has this name under a root."""
    folder, _, inside = name.partition("/")
    if folder in root.caches:
        return root.caches[folder].check(inside, content)
    return _check_manifest(name, content, root.signing_keys) if folder == PROCESSORS else check_use(name, content)


def _check_manifest(name: str, content: bytes, keys: SigningKeys | None) -> HfAudioCacheError | None:
    try:
        manifest = Manifest.from_bytes(content, keys)
        if manifest_name(manifest.identity.sha) != name:
            return CorruptEntryError(f"it is the manifest of {manifest.identity.sha}")
    except HfAudioCacheError as exc:
        return exc
    except Exception as exc:  # noqa: BLE001 - whatever JSON of another form makes of it
        return CorruptEntryError(f"it is no manifest ({type(exc).__name__}: {exc})")
    return None


def _note(report: VerifyReport, name: str, error: HfAudioCacheError | None) -> None:
    if isinstance(error, UnsignedEntryError):
        report.unsigned.append(name)
    elif isinstance(error, UnknownVersionError):
        report.unknown_versions.append(name)
    elif isinstance(error, StoreError):
        report.unreadable[name] = str(error)
    elif error is not None:
        report.bad[name] = str(error)

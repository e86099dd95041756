"""Moving entries from one root to another, also by way of a tar.

An archive is a plain tar with the names of a root: ``features/…``, ``waveforms/…`` and ``processors/…``. It is not
trusted: only entries and manifests of plausible sizes are stored, each after the check that `verify` makes. For a
signed root their signatures are checked too.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..cache.layout import FEATURES, PROCESSORS, WAVEFORMS, is_entry, parse_manifest_name
from ..cache.open_root import OpenRoot
from ..cache.root import CacheRoot
from ..errors import ArchiveError, StoreError
from ..stores import Store
from ..support.batches import batches
from ..support.report import Report, Table
from ..support.units import format_size
from .listing import check_processor, is_processor, parse_entry
from .processors import processor_names
from .verify import check_object

_BATCH = 64  # objects that are read or put at once
_BATCH_BYTES = 64 << 20  # of an archive
_MAX_ENTRY_BYTES = 4 << 30
_MAX_MANIFEST_BYTES = 16 << 20
_MAX_PIPED_BYTES = 1 << 44
_MAX_REFUSED = 1000  # reasons that are kept


@dataclass(repr=False)
class TransferReport(Report):
    """What was moved."""

    source: str
    target: str
    n_entries: int = 0  # that were written
    n_bytes: int = 0
    n_present: int = 0  # that were there already, and were left as they are
    n_manifests: int = 0  # of processors
    n_refused: int = 0  # objects that are damaged or do not belong to a cache
    refused: dict[str, str] = field(default_factory=dict)  # the reasons by name, for the first thousand

    def refuse(self, name: str, reason: object) -> None:
        """Count something that is not moved."""
        self.n_refused += 1
        if len(self.refused) < _MAX_REFUSED:
            self.refused[name] = str(reason)

    def tables(self) -> list[Table]:
        figures = [
            ("entries", f"{self.n_entries:,}"),
            ("size", format_size(self.n_bytes)),
            ("there already", f"{self.n_present:,}"),
            ("manifests", f"{self.n_manifests:,}"),
            ("refused", f"{self.n_refused:,}"),
        ]
        reasons = [Table("refused", ("name", "reason"), list(self.refused.items())[:50])] if self.refused else []
        return [Table(f"{self.source} -> {self.target}", (), figures), *reasons]


def _selected(
    store: Store, clips: Collection[str] | None, processor: str | None, *, waveforms: bool
) -> tuple[list[str], list[str]]:
    """Return the names of the manifests and of the entries that are to be moved."""
    names = processor_names(store)
    entries: list[str] = []
    processors: set[str] = set()
    listed: set[str] = set()  # processors
    for folder in (FEATURES, WAVEFORMS) if waveforms else (FEATURES,):
        for found in store.scan(f"{folder}/"):
            entry = parse_entry(found)
            listed |= set() if entry is None else {entry.processor}
            if entry is None or (clips is not None and entry.blob_sha not in clips):
                continue
            if processor is None or not entry.processor or is_processor(entry.processor, processor, names):
                entries.append(entry.name)
                processors.add(entry.processor)
    if processor is not None:
        check_processor(processor, names, listed)
    manifests = [
        name
        for name in store.names(f"{PROCESSORS}/")
        if (sha := parse_manifest_name(name)) is not None and sha[:12] in processors
    ]
    return manifests, entries


def _good(root: OpenRoot, objects: Mapping[str, bytes], report: TransferReport) -> dict[str, bytes]:
    """Return the objects that may be stored under a root."""
    good: dict[str, bytes] = {}
    for name, content in objects.items():
        error = check_object(root, name, content)
        if error is None:
            good[name] = content
        else:
            report.refuse(name, error)
    return good


def _read(root: OpenRoot, names: Sequence[str], report: TransferReport) -> dict[str, bytes]:
    """Return those of these objects that are there and good."""
    found: dict[str, bytes] = {}
    for name, content in zip(names, root.store.get_many(names), strict=True):
        if isinstance(content, StoreError):
            raise content
        if content is not None:
            found[name] = content
    return _good(root, found, report)


def export_archive(
    root: str | os.PathLike[str] | CacheRoot,
    archive: str | os.PathLike[str],
    *,
    clips: Collection[str] | None = None,
    processor: str | None = None,
    waveforms: bool = False,
) -> TransferReport:
    """Write entries into a tar, with the manifests of their processors.

    The file appears when it is whole. `clips` are the ``blob_sha`` of those whose entries to take; `processor` is the
    name or sha (or its first digits) of the one whose features to take; None for all. Raises ValueError if there is no
    such processor, or nothing to export; StoreError if the root cannot be read; OSError if the file cannot be written.
    """
    source = OpenRoot.for_maintenance(root)
    path = Path(archive).expanduser()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}; nothing was written.")
    report = TransferReport(str(source.store.location()), str(path))
    manifests, entries = _selected(source.store, clips, processor, waveforms=waveforms)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with tarfile.open(unfinished, "w", format=tarfile.PAX_FORMAT) as tar:
            for batch in batches([*manifests, *entries], _BATCH):
                for name, content in _read(source, batch, report).items():
                    member = tarfile.TarInfo(name)
                    member.size, member.mtime, member.mode = len(content), int(time.time()), 0o644
                    tar.addfile(member, io.BytesIO(content))
                    _count(report, name, content)
        if not report.n_entries:
            why = "those that were chosen are damaged: call `hf-audio-cache verify`"
            if not entries:
                why = "none is of the chosen clips and processor: call `hf-audio-cache usage` to see what there is"
            raise ValueError(f"No entry to export under {report.source}, and {path} was not written; {why}.")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return report


def _count(report: TransferReport, name: str, content: bytes) -> None:
    if name.startswith(f"{PROCESSORS}/"):
        report.n_manifests += 1
    else:
        report.n_entries += 1
        report.n_bytes += len(content)


def copy_entries(
    root: str | os.PathLike[str] | CacheRoot,
    target: str | os.PathLike[str] | CacheRoot,
    *,
    clips: Collection[str] | None = None,
    processor: str | None = None,
    waveforms: bool = False,
) -> TransferReport:
    """Copy entries into another root, with the manifests of their processors; what is there already stays.

    Raises StoreError if one root cannot be read, or the other not be written.
    """
    source, other = OpenRoot.for_maintenance(root), OpenRoot.for_maintenance(target, may_be_new=True).store
    report = TransferReport(str(source.store.location()), str(other.location()))
    manifests, entries = _selected(source.store, clips, processor, waveforms=waveforms)
    for batch in batches([*manifests, *entries], _BATCH):
        _put(other, _read(source, _absent(other, batch, report), report), report)
    return report


def _put(store: Store, objects: Mapping[str, bytes], report: TransferReport) -> None:
    for error in store.put_many(objects).values():
        raise error
    for name, content in objects.items():
        _count(report, name, content)


def _absent(store: Store, names: list[str], report: TransferReport) -> list[str]:
    present = store.exists_many(names)
    absent = [name for name, there in zip(names, present, strict=True) if not there]
    report.n_present += sum(not name.startswith(f"{PROCESSORS}/") for name in set(names).difference(absent))
    return absent


def import_archive(archive: str | os.PathLike[str], root: str | os.PathLike[str] | CacheRoot) -> TransferReport:
    """Put the entries of a tar under a root; what is there already stays.

    Raises ArchiveError if the file is no tar, or not a whole one (what came before is stored); StoreError if the root
    cannot be written.
    """
    target = OpenRoot.for_maintenance(root, may_be_new=True)
    path = os.path.expanduser(os.fspath(archive))
    if os.path.isdir(path):
        raise ArchiveError(
            f"{path} is a folder and no tar; nothing was imported. To copy the entries of one root into another, use "
            "`hf-audio-cache export --root FROM --to INTO`.",
            path=path,
        )
    if not os.path.exists(path):
        raise ArchiveError(f"there is no archive {path}; nothing was imported.", path=path)
    report = TransferReport(path, str(target.store.location()))
    waiting: dict[str, bytes] = {}
    failure: Exception | None = None
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:  # uncompressed, and one pass
            end = _end_of(file)
            for member in tar:
                if tar.offset > end:  # tarfile would read on for as long as the header says
                    raise tarfile.ReadError("unexpected end of data")
                content = _content(tar, member, report)
                if content is not None:
                    waiting.setdefault(member.name, content)
                if len(waiting) == _BATCH or sum(map(len, waiting.values())) > _BATCH_BYTES:
                    _put_absent(target, waiting, report)
                    waiting = {}
    except (tarfile.TarError, EOFError, RecursionError) as exc:  # RecursionError: headers of headers
        failure = exc
    _put_absent(target, waiting, report)
    if failure is not None:
        raise ArchiveError(
            f"{path} is not an uncompressed tar, or was cut ({failure}). Export it again. Entries stored before that "
            f"place: {report.n_entries}.",
            path=path,
        ) from failure
    return report


def _put_absent(root: OpenRoot, objects: Mapping[str, bytes], report: TransferReport) -> None:
    """Store those that are good and not there yet."""
    absent = _absent(root.store, list(objects), report)
    _put(root.store, _good(root, {name: objects[name] for name in absent}, report), report)


def _end_of(file: IO[bytes]) -> int:
    """Return the size of a file; a limit for a pipe, which has none."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else _MAX_PIPED_BYTES


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, report: TransferReport) -> bytes | None:
    """Return the content of an archive member. A member that is no entry and no manifest is refused: then None."""
    name = member.name
    limit = _MAX_MANIFEST_BYTES if name.startswith(f"{PROCESSORS}/") else _MAX_ENTRY_BYTES
    if not member.isreg() or member.issparse() or not (is_entry(name) or parse_manifest_name(name)):
        report.refuse(ascii(name)[1:-1][:200], "it is no entry and no manifest of a cache")
        return None
    if member.size > limit:
        report.refuse(name, f"it has {member.size} bytes, and at most {limit} are taken")
        return None
    file: IO[bytes] | None = tar.extractfile(member)
    content = file.read(member.size) if file is not None else b""
    if len(content) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content

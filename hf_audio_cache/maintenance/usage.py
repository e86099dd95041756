"""Usage of a root: entries and bytes by processor, rate, cap and age."""

from __future__ import annotations

import bisect
import heapq
import os
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..audio.channels import Channels, in_words
from ..cache.entry import open_entry
from ..cache.layout import FEATURES, WAVEFORMS, is_entry, parse_entry_name
from ..cache.open_root import OpenRoot
from ..cache.root import CacheRoot, as_cache_root
from ..stores import Store, StoredObject
from ..stores.packs.names import PACKS, is_pack_file
from ..support.checks import check_number
from ..support.report import Report, Table
from ..support.units import format_size
from .processors import processor_names

_DAY = 86_400.0  # seconds
_AGES = (
    (_DAY, "less than a day"),
    (7 * _DAY, "1 to 7 days"),
    (30 * _DAY, "7 to 30 days"),
    (90 * _DAY, "30 to 90 days"),
    (float("inf"), "more than 90 days"),
)
_LIMITS = [limit for limit, _ in _AGES]
_KIND_START = {folder[0]: len(folder) + len("/00/") + 64 for folder in (FEATURES, WAVEFORMS)}
_SAMPLE = 64  # entries that are read to see what they hold


@dataclass(frozen=True)
class UsageLine:
    """Entries of one kind."""

    cache: str  # "features" or "waveforms"
    processor: str  # the first twelve digits of the processor's sha; "" for waveforms
    name: str  # the processor's class, or the name that the user gave a function; "" where there is no manifest
    sampling_rate: int
    max_length_ms: int
    auto_resample: bool
    n_entries: int
    n_bytes: int
    channels: Channels = "mean"


@dataclass(frozen=True, repr=False)
class Usage(Report):
    """Usage of a root.

    Attributes
    ----------
    root
        Where.
    n_entries, n_bytes
        All entries, and their size.
    lines
        The entries by cache, processor, rate and cap; the largest first.
    ages
        Entries and bytes by the time since they were written, the youngest first.
    n_packs, n_pack_bytes
        Files of packs, and their size: most entries may lie in them.
    n_other, n_other_bytes
        Other files: manifests, records of use, unfinished files, and what is not the cache's.
    n_sample, sample_bytes, sample_decoded_bytes
        Entries that were read for the compression ratio: their number, their size, and the size of their arrays.
    near, n_near, n_near_bytes
        Folder of this machine's near tier of the root, None without one; the entries in it, and their size.
    """

    root: str
    n_entries: int = 0
    n_bytes: int = 0
    lines: tuple[UsageLine, ...] = ()
    ages: dict[str, tuple[int, int]] = field(default_factory=dict)
    n_other: int = 0
    n_other_bytes: int = 0
    n_sample: int = 0
    sample_bytes: int = 0
    sample_decoded_bytes: int = 0
    near: str | None = None
    n_near: int = 0
    n_near_bytes: int = 0
    n_packs: int = 0
    n_pack_bytes: int = 0

    @property
    def compression_ratio(self) -> float | None:
        """Bytes of arrays to a byte stored, in the sample; None without one."""
        return self.sample_decoded_bytes / self.sample_bytes if self.sample_bytes else None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values, with the ratio."""
        return {**super().to_dict(), "compression_ratio": self.compression_ratio}

    def tables(self) -> list[Table]:
        kinds = [
            (
                line.name or line.cache,
                line.processor,
                f"{line.sampling_rate:,} Hz{in_words(line.channels)}",
                f"{line.max_length_ms / 1000:g} s" if line.max_length_ms else "none",
                "yes" if line.auto_resample else "no",
                f"{line.n_entries:,}",
                format_size(line.n_bytes),
            )
            for line in self.lines
        ]
        kinds.append(("all entries", "", "", "", "", f"{self.n_entries:,}", format_size(self.n_bytes)))
        if self.n_packs:
            kinds.append(("files of packs", "", "", "", "", f"{self.n_packs:,}", format_size(self.n_pack_bytes)))
        kinds.append(("other files", "", "", "", "", f"{self.n_other:,}", format_size(self.n_other_bytes)))
        shown = [Table(self.root, ("entries of", "sha", "rate", "cap", "resampled", "number", "size"), kinds)]
        if self.n_entries:
            ages = [(age, f"{count:,}", format_size(size)) for age, (count, size) in self.ages.items() if count]
            shown.append(Table("written", ("ago", "number", "size"), ages))
        if self.compression_ratio is not None:
            ratio = f"{self.compression_ratio:.2f} (of a sample of {self.n_sample} entries)"
            shown.append(Table("", (), [("compression ratio", ratio)]))
        if self.near is not None:
            near = [("entries", f"{self.n_near:,}"), ("size", format_size(self.n_near_bytes))]
            shown.append(Table(f"near tier {self.near}", (), near))
        return shown


def usage(root: str | os.PathLike[str] | CacheRoot, *, sample: int = _SAMPLE) -> Usage:
    """Return the usage of a root. It is listed once, in constant memory.

    Parameters
    ----------
    root
        A path, a URL or a `CacheRoot`.
    sample
        How many random entries to read for the compression ratio.

    Returns
    -------
    Usage
        Entries and bytes by processor, rate, cap and age, and this machine's near tier.

    Raises
    ------
    ValueError, InvalidRootError, StoreError
        If `sample` is no number, or negative; if there is no folder at a path; if the root cannot be listed.
    """
    check_number("sample", sample, "nothing was counted")
    store = OpenRoot.for_maintenance(root).store
    counted = _Counted()
    chosen = _sample(counted.entries_of(store), int(sample))
    lines = counted.lines(processor_names(store))
    packs = [found.n_bytes for found in store.listing(f"{PACKS}/") if is_pack_file(found.name)]
    near = as_cache_root(root).open_near_tier()
    copies = [one.n_bytes for one in near.scan() if is_entry(one.name)] if near is not None else []
    return Usage(
        str(store.location()),
        sum(line.n_entries for line in lines),
        sum(line.n_bytes for line in lines),
        lines,
        {name: (age.number, age.n_bytes) for (_, name), age in zip(_AGES, counted.ages, strict=True)},
        counted.others.number,
        counted.others.n_bytes,
        *_decoded_size(store, chosen),
        None if near is None else str(near.location()),
        len(copies),
        sum(copies),
        len(packs),
        sum(packs),
    )


@dataclass
class _Files:
    number: int = 0
    n_bytes: int = 0

    def add(self, found: StoredObject) -> None:
        self.number += 1
        self.n_bytes += found.n_bytes


class _Counted:
    """What is listed, added up."""

    def __init__(self) -> None:
        # By what stands in the name beside the clip: parsing each name is much slower.
        self._kinds: dict[str, _Files] = defaultdict(_Files)
        self._examples: dict[str, str] = {}
        self.ages = [_Files() for _ in _AGES]
        self.others = _Files()

    def entries_of(self, store: Store) -> Iterator[str]:
        """Count all that is listed, and yield the names of the entries."""
        now = time.time()
        for found in store.scan():
            name = found.name
            if not is_entry(name):
                self.others.add(found)
                continue
            kind = name[0] + name[_KIND_START[name[0]] :]
            self._kinds[kind].add(found)
            self._examples.setdefault(kind, name)
            self.ages[bisect.bisect_right(_LIMITS, now - found.modified)].add(found)
            yield name

    def lines(self, names: Mapping[str, str]) -> tuple[UsageLine, ...]:
        lines = [
            UsageLine(
                entry.cache,
                entry.processor,
                names.get(entry.processor, ""),
                entry.sampling_rate,
                entry.max_length_ms,
                entry.auto_resample,
                files.number,
                files.n_bytes,
                entry.channels,
            )
            for kind, files in self._kinds.items()
            if (entry := parse_entry_name(self._examples[kind])) is not None
        ]
        return tuple(sorted(lines, key=lambda line: -line.n_bytes))


def _sample(names: Iterable[str], size: int) -> list[str]:
    """Return a uniform sample of names, which does not depend on their order; all are taken from the iterator."""
    chosen = heapq.nsmallest(max(size, 1), names, key=lambda name: (zlib.crc32(name.encode()), name))
    return sorted(chosen[:size])


def _decoded_size(store: Store, names: Iterable[str]) -> tuple[int, int, int]:
    """Return how many of these entries are good, their bytes, and the bytes of the arrays in them."""
    n_read = n_bytes = n_decoded = 0
    for name in names:
        [found] = store.get_many([name])  # one by one: only one is in memory at a time
        if isinstance(found, bytes):
            try:
                values = open_entry(found, None).read_all().values()
            except Exception:  # noqa: BLE001 - a bad entry, which `verify` names
                continue
            n_read, n_bytes = n_read + 1, n_bytes + len(found)
            n_decoded += sum(value.nbytes for value in values if isinstance(value, np.ndarray))
    return n_read, n_bytes, n_decoded

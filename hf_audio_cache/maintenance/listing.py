"""List the entries of a root: the parts of their names, size, and time of last use."""

from __future__ import annotations

import itertools
import operator
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..cache.access_records import last_uses
from ..cache.layout import FEATURES, WAVEFORMS, EntryName, parse_entry_name
from ..cache.open_root import OpenRoot
from ..cache.root import CacheRoot
from ..stores import Store, StoredObject
from ..support.units import parse_seconds, parse_size
from .processors import processor_names

_FILTER = re.compile(r"\s*([a-z_]+)\s*(!=|>=|<=|=|>|<)\s*(.*?)\s*")
_SHA = re.compile(r"[0-9a-f]{8,64}")
_OPERATORS: dict[str, Any] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


@dataclass(frozen=True, kw_only=True)
class ListedEntry(EntryName):
    """An entry, as a listing shows it."""

    name: str  # under the root
    n_bytes: int
    modified: float  # when it was written, in seconds since 1970
    accessed: float  # when it was last written or, as far as is recorded, read, in seconds since 1970

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"name": self.name, **asdict(self)}


def parse_entry(found: StoredObject, uses: Mapping[str, float] | None = None) -> ListedEntry | None:
    """Return the entry that a listed object is; None for an unfinished or foreign file."""
    name = parse_entry_name(found.name)
    if name is None:
        return None
    accessed = max(found.modified, (uses or {}).get(found.name, 0.0))
    return ListedEntry(**vars(name), name=found.name, n_bytes=found.n_bytes, modified=found.modified, accessed=accessed)


# Fields to sort by.
SORT_FIELDS: dict[str, Callable[[ListedEntry], Any]] = {
    "name": lambda entry: entry.name,
    "size": lambda entry: entry.n_bytes,
    "modified": lambda entry: entry.modified,
    "accessed": lambda entry: entry.accessed,
    "processor": lambda entry: entry.processor,
    "rate": lambda entry: entry.sampling_rate,
    "cap": lambda entry: entry.max_length_ms,
}


def parse_filter(text: str, names: Mapping[str, str], now: float) -> Callable[[ListedEntry], bool]:
    """Return the test that a filter such as ``size>1MB`` stands for.

    It has a field, an operator (``=``, ``!=``, ``>``, ``>=``, ``<``, ``<=``) and a value: ``size`` in bytes or units,
    ``accessed`` and ``modified`` as ages (``accessed>30d``: not used for 30 days), ``processor`` (the beginning of a
    sha, or a name), ``clip`` (the beginning of a sha), ``cache`` (``features`` or ``waveforms``), ``rate`` in Hz,
    ``cap`` in seconds (0 for none). `names` are those of all processors there are, by the first twelve digits of their
    sha. Raises ValueError if it is no filter, or there is no such processor.
    """
    found = _FILTER.fullmatch(text)
    field, sign, value = found.groups() if found else ("", "", "")
    compare: Callable[[Any, Any], bool] = _OPERATORS.get(sign, operator.eq)
    if field == "size":
        size = parse_size(value)
        return lambda entry: compare(entry.n_bytes, size)
    if field in ("accessed", "modified"):
        age, when = parse_seconds(value), SORT_FIELDS[field]
        return lambda entry: compare(now - when(entry), age)
    if field == "rate" and value.isdecimal():
        rate = int(value)
        return lambda entry: compare(entry.sampling_rate, rate)
    if field == "cap" and re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", value, re.ASCII):
        cap = round(float(value) * 1000)
        return lambda entry: compare(entry.max_length_ms, cap)
    is_wanted = _text_test(field, value, names) if sign in ("=", "!=") and value else None
    if is_wanted is not None:
        return is_wanted if sign == "=" else lambda entry: not is_wanted(entry)
    raise ValueError(
        f"{text!r} is not a filter. Pass one such as size>1MB, accessed>30d, modified<2h, "
        "processor=WhisperFeatureExtractor, clip=SHA, cache=waveforms, rate=16000 or cap=30."
    )


def _text_test(field: str, value: str, names: Mapping[str, str]) -> Callable[[ListedEntry], bool] | None:
    if field == "cache" and value in (FEATURES, WAVEFORMS):
        return lambda entry: entry.cache == value
    if field == "clip":
        return lambda entry: entry.blob_sha.startswith(value.lower())
    if field == "processor":
        check_processor(value, names)
        return lambda entry: is_processor(entry.processor, value, names)
    return None


def is_processor(processor: str, wanted: str, names: Mapping[str, str]) -> bool:
    """Return whether the processor of an entry is the wanted one, which its name or (part of) its sha stands for."""
    if not processor or not wanted:
        return False
    by_sha = len(wanted) >= 4 and (processor.startswith(wanted.lower()) or wanted.lower().startswith(processor))
    return by_sha or names.get(processor, "").lower() == wanted.lower()


def check_processor(wanted: str, names: Mapping[str, str], of_entries: Iterable[str] = ()) -> None:
    """Raise ValueError if no manifest (in `names`) and no entry is of this processor: a typo must not find nothing."""
    if not any(is_processor(one, wanted, names) for one in itertools.chain(names, of_entries)):
        raise ValueError(
            f"No processor {wanted!r} in this cache; nothing was done. Pass its name, or the first 4 digits or more of "
            "its sha, as `hf-audio-cache processors` lists them."
        )


def check_cache(cache: str | None, processor: str | None, outcome: str) -> None:
    """Raise ValueError if there is no such cache, or if it is the one whose entries are of no processor."""
    if cache not in (None, FEATURES, WAVEFORMS):
        raise ValueError(f'cache must be "features" or "waveforms" (or None, for all), not {cache!r}; {outcome}.')
    if cache == WAVEFORMS and processor is not None:
        raise ValueError(f"Waveforms belong to no processor: choose a processor or waveforms, not both; {outcome}.")


def list_entries(
    root: str | os.PathLike[str] | CacheRoot, *, filters: Iterable[str] = (), sort: str = "name"
) -> list[ListedEntry]:
    """Return the entries under a root that pass all filters.

    `filters` are as `parse_filter` takes them. `sort` is ``"name"``, ``"size"``, ``"modified"``, ``"accessed"``,
    ``"processor"``, ``"rate"`` or ``"cap"``; with ``":desc"`` behind it the largest or latest comes first. Raises
    ValueError if a filter or the order is invalid, or there is no such processor; StoreError if the root cannot be
    listed.
    """
    field, _, order = sort.partition(":")
    if field not in SORT_FIELDS or order not in ("", "asc", "desc"):
        raise ValueError(f"Cannot sort by {sort!r}. Pass one of {', '.join(SORT_FIELDS)}, alone or with :desc.")
    store = OpenRoot.for_maintenance(root).store
    entries = list(_entries(store))
    names = {**dict.fromkeys((entry.processor for entry in entries), ""), **processor_names(store)}
    tests = [parse_filter(text, names, time.time()) for text in filters]
    found = [entry for entry in entries if all(test(entry) for test in tests)]
    return sorted(found, key=SORT_FIELDS[field], reverse=order == "desc")


def _entries(store: Store) -> Iterator[ListedEntry]:
    uses = last_uses(store)
    for folder in (FEATURES, WAVEFORMS):
        for found in store.scan(f"{folder}/"):
            entry = parse_entry(found, uses)
            if entry is not None:
                yield entry


def find_entries(store: Store, what: Sequence[str]) -> list[ListedEntry]:
    """Return the entries that names or the beginnings of clips' shas stand for; ValueError if one matches nothing."""
    objects = {match.name: match for one in what for match in _matches(store, one)}
    uses = last_uses(store)
    entries = [entry for match in objects.values() if (entry := parse_entry(match, uses))]
    return find_listed(entries, what, store.location())


def find_listed(
    entries: Sequence[ListedEntry], what: Sequence[str], where: object, *, near: Store | None = None
) -> list[ListedEntry]:
    """Do what `find_entries` does among the listed entries of a place; what only a near tier has is no error."""
    by_name = {entry.name: entry for entry in entries}
    found: dict[str, ListedEntry] = {}
    for one in what:
        if _SHA.fullmatch(one):
            matches = [entry for entry in entries if entry.blob_sha.startswith(one)]
        else:
            matches = [by_name[one]] if one in by_name else []
        if not matches and (near is None or not find_copies(near, [one])):
            raise ValueError(
                f"No entry {one!r} under {where}. Pass the name of one, as `hf-audio-cache ls -q` prints "
                "it, or the first 8 digits or more of a clip's sha256."
            )
        found.update((entry.name, entry) for entry in matches)
    return list(found.values())


def find_copies(near: Store, what: Sequence[str]) -> list[str]:
    """Return the names of the entries in a near tier that names or the beginnings of clips' shas stand for."""
    return [found.name for one in what for found in _matches(near, one) if parse_entry_name(found.name)]


def _matches(store: Store, one: str) -> Iterator[StoredObject]:
    if re.fullmatch(r"(features|waveforms)/[0-9a-f]{2}/[0-9a-z.]+|[0-9a-f]{8,64}", one):
        for prefix in [one] if "/" in one else [f"{folder}/{one[:2]}/{one}" for folder in (FEATURES, WAVEFORMS)]:
            yield from store.scan(prefix)

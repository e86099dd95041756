"""Reading the access log that `access_log` writes: the last use of entries, by which run, and what each run counted."""

from __future__ import annotations

import calendar
import contextlib
import gzip
import io
import json
import math
import time
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from ..errors import CorruptEntryError
from ..stores import Store, StoredObject
from ..support.batches import batches
from .layout import ACCESS, is_like_entry, parse_figures_name, parse_record_name
from .stats import Stats

_MAX_BYTES = 4 << 20  # maximum size of an unpacked record
_BATCH = 64
_DAY = 86_400.0


def check_use(name: str, content: bytes) -> CorruptEntryError | None:
    """Return what is wrong with a record of this name."""
    try:
        if parse_figures_name(name) is not None:
            read_figures(content)
            return None
        record = parse_record_name(name)
        if record is None or record.day is not None:
            _read_record(content)
        elif json.loads(content)["run"] != record.run:
            return CorruptEntryError("it is the record of another run")
    except CorruptEntryError as exc:
        return exc
    except Exception as exc:  # noqa: BLE001 - whatever bytes of another form make of it
        return CorruptEntryError(f"it is no record of use ({type(exc).__name__}: {exc})")
    return None


def read_figures(content: bytes) -> tuple[str | None, Stats]:
    """Return the processor's sha and the figures of a process of a run."""
    told = json.loads(content)
    sha = told["processor_sha"]
    names = {each.name: int if each.type == "int" else float for each in fields(Stats)}
    figures: dict[str, Any] = {name: kind(told[name]) for name, kind in names.items() if name in told}
    if not all(math.isfinite(figure) for figure in figures.values()) or not (sha is None or isinstance(sha, str)):
        raise CorruptEntryError("it has figures that are no numbers")
    return sha, Stats(**figures)


def _read_record(content: bytes) -> list[str]:
    with gzip.open(io.BytesIO(content)) as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise CorruptEntryError(f"it unpacks to more than {_MAX_BYTES} bytes")
    names = text.decode("ascii").splitlines()
    if not all(map(is_like_entry, names)):
        raise CorruptEntryError("it has names that are not those of entries")
    return names


def records_of(store: Store, run: str | None = None) -> Iterator[tuple[StoredObject, list[str]]]:
    """Yield each record of use that can be read, or those of one run, with the names in it; the latest day first.

    Raises StoreError if the root cannot be listed.
    """
    records = ((one, parse_record_name(one.name)) for one in store.scan(f"{ACCESS}/"))
    found = [one for one, record in records if record is not None and run in (None, record.run)]
    found.sort(key=lambda one: one.name, reverse=True)
    for batch in batches(found, _BATCH):
        for one, content in zip(batch, store.get_many([one.name for one in batch]), strict=True):
            if isinstance(content, bytes):
                with contextlib.suppress(Exception):  # a damaged record says nothing; `verify` names it
                    yield one, _read_record(content)


def _used_at(record: StoredObject) -> float:
    """Return when the entries of a record were used, in seconds since 1970: when it was written, on its day."""
    name = parse_record_name(record.name)
    if name is None or name.day is None:
        return record.modified
    start = float(calendar.timegm(time.strptime(name.day, "%Y-%m-%d")))
    return min(max(record.modified, start), start + _DAY)


def last_uses(store: Store) -> dict[str, float]:
    """Return the time of last use of each recorded entry, in seconds since 1970, by name under the root."""
    uses: dict[str, float] = {}
    for record, names in records_of(store):
        when = _used_at(record)
        for name in names:
            if when > uses.get(name, 0.0):
                uses[name] = when
    return uses


def names_of_run(store: Store, run: str) -> set[str]:
    """Return the names of the entries that a run used; empty for an unknown run."""
    return {name for _, names in records_of(store, run) for name in names}

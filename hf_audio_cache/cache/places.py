"""Places for the arrays of a batch: those of one output and form are rows of one array.

A large array is quicker to fill than many of its parts: its memory comes in huge pages, and from the system once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .codecs import Form
from .entry import Entry

__all__ = ["places_of"]


def places_of(entries: Sequence[Entry | object]) -> list[dict[str, npt.NDArray[Any]]]:
    """Return for each entry the places of its arrays by name. What is no entry has none, nor a form that comes once."""
    rows_of: dict[tuple[str, Form], list[int]] = {}
    for row, entry in enumerate(entries):
        forms: Mapping[str, Form] = entry.forms if isinstance(entry, Entry) else {}
        for named in forms.items():
            rows_of.setdefault(named, []).append(row)
    places: list[dict[str, npt.NDArray[Any]]] = [{} for _ in entries]
    for (name, (dtype, shape)), rows in rows_of.items():
        if len(rows) > 1:
            try:
                whole = np.empty((len(rows), *shape), dtype)
            except (ValueError, OverflowError, MemoryError):  # each is read alone, which says what is wrong
                continue
            for number, row in enumerate(rows):
                places[row][name] = whole[number, ...]  # an array, even of no axis
    return places

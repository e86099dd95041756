"""Memory for the arrays of a batch that is read: arrays of one output and shape are rows of one large array.

A large array is quicker to fill than many of its parts: its memory comes in huge pages, and from the system once.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .codecs import Form
from .entry import Entry


def give_places(entries: Iterable[object]) -> None:
    """Give each entry the places of its arrays. A form that comes once has none; what is no entry is left out."""
    of_form: dict[tuple[str, Form], list[Entry]] = {}
    for entry in entries:
        for named in entry.forms.items() if isinstance(entry, Entry) else ():
            of_form.setdefault(named, []).append(entry)  # type: ignore[arg-type]  # an entry, as was seen
    for (name, (dtype, shape)), alike in of_form.items():
        if len(alike) > 1:
            try:
                whole = np.empty((len(alike), *shape), dtype)
            except (ValueError, OverflowError, MemoryError):  # each is read alone, which says what is wrong
                continue
            for row, entry in enumerate(alike):
                entry.places[name] = whole[row, ...]  # an array, even of no axis

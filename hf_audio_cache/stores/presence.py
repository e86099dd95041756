"""Which of many objects are in a store: a listing tells it in fewer requests than one for each object."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

from .base import Store

_MANY = 1000  # fewer names are asked for one by one
_WORTH = 50  # listed objects for each name: a page of a listing has a thousand, and 16 to 32 requests run at once


def find_by_listing(store: Store, names: Sequence[str]) -> set[str] | None:
    """Return those of many names that a store has; None where it is better asked for each of them.

    That is so if they are few, or few among all that would be listed. One folder is listed to estimate that: names of
    entries begin with a hash, so that all folders hold about the same number. Raises StoreError if the store cannot be
    listed.
    """
    wanted = set(names)
    if len(wanted) < _MANY:
        return None
    folders = {name.rpartition("/")[0] for name in wanted}
    most = _WORTH * len(wanted) // len(folders)
    folder = min(folders)
    sample = list(itertools.islice(store.names(f"{folder}/" if folder else ""), most + 1))
    if len(sample) > most:
        return None
    if len(folders) == 1:
        return wanted.intersection(sample)
    above = os.path.commonpath(folders)
    return {name for name in store.names(f"{above}/" if above else "") if name in wanted}

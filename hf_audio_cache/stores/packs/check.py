"""Looking for damage in packs and their indexes."""

from __future__ import annotations

import numpy as np

from ...errors import CorruptEntryError, UnknownVersionError
from .catalog import Catalog
from .files import ChangedError
from .index import ROW, Index, Rows
from .names import DELETED, id_of, pack_name
from .tar import read_entries, rows_of


def check_packs(catalog: Catalog) -> dict[str, str]:
    """Return what is wrong with the files of the packs, by name, not with entries; StoreError if they are not read."""
    state = catalog.refresh()
    problems = dict(state.damaged)
    files = {name: index for name, index in {**state.indexes, **state.gone}.items() if not name.endswith(".tar")}
    for name, index in files.items():
        try:
            for _ in index.rows():
                pass
        except (CorruptEntryError, OSError) as exc:
            problems[name] = str(exc)
    for pack, n_bytes in state.packs.items():
        try:
            rows = rows_of(read_entries(catalog.files.reader(pack), n_bytes))
        except (UnknownVersionError, ChangedError):
            continue
        except CorruptEntryError as exc:
            problems[pack_name(pack)] = str(exc)
            continue
        for name, index in files.items():
            if pack in index.packs and name not in problems and not id_of(name, DELETED):
                there = _rows_of_pack(index, pack)
                if not np.array_equal(there, rows):
                    problems[name] = f"its rows are not those of the pack {pack}"
    return problems


def _rows_of_pack(index: Index, pack: str) -> Rows:
    number = index.packs.index(pack)
    found = np.concatenate([np.empty(0, ROW), *(rows[rows["pack"] == number] for rows in index.rows())])
    found["pack"] = 0
    return found

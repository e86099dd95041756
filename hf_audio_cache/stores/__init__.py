"""Stores: where the bytes of entries live."""

from __future__ import annotations

import os
from typing import Any

from .base import Store, StoredObject
from .local import LocalStore, is_temporary
from .location import Root

__all__ = ["LocalStore", "Root", "Store", "StoredObject", "is_temporary", "open_store"]


def open_store(root: str | os.PathLike[str] | Root | Store, **settings: Any) -> Store:
    """Return the store at `root`: a directory, a URL that fsspec knows, or a store that is open already.

    Nothing is created, and nothing is looked at.

    Parameters
    ----------
    root
        Where the store is.
    **settings
        For a path or a URL: ``storage_options``, ``filesystem``, and the fields of `Root`.

    Raises
    ------
    InvalidRootError
        If no store can be there.
    """
    if isinstance(root, Store):
        return root
    return (root if isinstance(root, Root) else Root.of(root, **settings)).open()

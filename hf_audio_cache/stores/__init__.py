"""Stores: where the bytes of entries live."""

from __future__ import annotations

from .base import Store, StoredObject
from .local import LocalStore, is_temporary
from .location import WritePolicy, absolute_root, open_store

__all__ = ["LocalStore", "Store", "StoredObject", "WritePolicy", "absolute_root", "is_temporary", "open_store"]

"""Stores: bytes by name, in a directory or in an object store.

`open_store` opens the store at a root: a `LocalStore`, or a remote store with retries, a circuit breaker and a local
tier. `Store` says what each of them guarantees. Remote stores, their drivers, options and errors are in `remote`. A
store that wraps another one derives from `wrapper.WrappingStore`.
"""

from __future__ import annotations

from .base import Store, StoredObject
from .local import NOT_ALLOWED, UNFINISHED_AFTER, LocalStore, is_temporary
from .location import WritePolicy, absolute_root, check_root, near_limit, open_store
from .near_folders import near_folder
from .remote.far_files import FarFiles, FileVersion
from .remote.urls import is_in_process, local_path
from .resilient import CHECK_NETWORK, RUN_GOES_ON

__all__ = [
    "CHECK_NETWORK",
    "NOT_ALLOWED",
    "RUN_GOES_ON",
    "UNFINISHED_AFTER",
    "FarFiles",
    "FileVersion",
    "LocalStore",
    "Store",
    "StoredObject",
    "WritePolicy",
    "absolute_root",
    "check_root",
    "is_in_process",
    "is_temporary",
    "local_path",
    "near_folder",
    "near_limit",
    "open_store",
]

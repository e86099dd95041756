"""Stores: where the bytes of entries live."""

from __future__ import annotations

import os

from ..errors import InvalidRootError
from .base import Store, StoredObject
from .local import LocalStore, is_temporary

__all__ = ["LocalStore", "Store", "StoredObject", "default_root", "is_temporary", "open_store"]


def default_root() -> str:
    """Return the root of a cache for which none is named.

    It is ``$HF_AUDIO_CACHE``, else ``$HF_HOME/audio_cache``, else ``~/.cache/huggingface/audio_cache``.
    """
    home = os.environ.get("HF_HOME") or os.path.join("~", ".cache", "huggingface")
    return os.environ.get("HF_AUDIO_CACHE") or os.path.join(home, "audio_cache")


def open_store(root: str | os.PathLike[str] | Store) -> Store:
    """Return the store at `root`: a directory, given by its path or as ``file://``, or a store that is open already.

    Nothing is created, and nothing is looked at.

    Raises
    ------
    InvalidRootError
        If no store can be there.
    """
    if isinstance(root, Store):
        return root
    try:
        path = os.fspath(root)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path:
        raise InvalidRootError(f"a cache's root must be a path, not {root!r}; nothing was opened.", root=str(root))
    protocol, separator, rest = path.partition("://")
    if separator and protocol == "file":
        path = rest
    elif separator:
        raise InvalidRootError(
            f"the root {path!r} has the protocol {protocol!r}, and this version keeps its caches in local "
            "directories; nothing was opened. Pass a path.",
            root=path,
        )
    return LocalStore(os.path.expanduser(path))

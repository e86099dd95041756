"""Default paths: the root, the near tiers, and the database of file hashes."""

from __future__ import annotations

import functools
import os
import tempfile

from ..errors import InvalidRootError
from .mounts import is_network_mount


def default_root() -> str:
    """Return the default root of a cache.

    It is ``$HF_AUDIO_CACHE``, else ``$HF_HOME/audio_cache``, else ``~/.cache/huggingface/audio_cache``.
    """
    return os.environ.get("HF_AUDIO_CACHE") or os.path.join(_home(), "audio_cache")


def near_root() -> str:
    """Return the default directory of the near tiers.

    It is ``$HF_AUDIO_CACHE_NEAR``, else ``$HF_HOME/audio_cache_near``, else ``~/.cache/huggingface/audio_cache_near``;
    if that is on a network mount, a directory of this user's in the system's directory of temporary files. Raises
    InvalidRootError if the variable is a URL.
    """
    named = os.environ.get("HF_AUDIO_CACHE_NEAR")
    if named and "://" in named:
        raise InvalidRootError(f"HF_AUDIO_CACHE_NEAR must be a folder, not {named!r}; nothing was opened.", root=named)
    if named:
        return os.path.abspath(os.path.expanduser(named))
    path = os.path.abspath(os.path.expanduser(os.path.join(_home(), "audio_cache_near")))
    if is_network_mount(path):
        return os.path.join(tempfile.gettempdir(), f"hf-audio-cache-near-{_user()}")
    return path


def hashes_path() -> str | None:
    """Return the path of the database of file hashes; None for no database.

    It is ``$HF_AUDIO_CACHE_HASHES`` (empty for none), else ``$HF_HOME/audio_cache_hashes.sqlite``, else
    ``~/.cache/huggingface/audio_cache_hashes.sqlite``; none on a network mount, where SQLite cannot rely on locks.
    """
    named = os.environ.get("HF_AUDIO_CACHE_HASHES")
    if named is not None:
        return os.path.abspath(os.path.expanduser(named)) if named else None
    path = os.path.abspath(os.path.expanduser(os.path.join(_home(), "audio_cache_hashes.sqlite")))
    return None if _has_unreliable_locks(path) else path


def _user() -> object:
    return os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")


@functools.lru_cache(maxsize=8)
def _has_unreliable_locks(path: str) -> bool:
    return is_network_mount(path)  # reads the table of mounts, which is too slow for each batch


def _home() -> str:
    return os.environ.get("HF_HOME") or os.path.join("~", ".cache", "huggingface")

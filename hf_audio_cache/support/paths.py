"""Where caches are that nobody named, and what is remembered beside them."""

from __future__ import annotations

import functools
import os
import tempfile

from .mounts import is_network_mount

__all__ = ["default_root", "hashes_path", "near_root"]


def default_root() -> str:
    """Return the root of a cache for which none is named.

    It is ``$HF_AUDIO_CACHE``, else ``$HF_HOME/audio_cache``, else ``~/.cache/huggingface/audio_cache``.
    """
    return os.environ.get("HF_AUDIO_CACHE") or os.path.join(_home(), "audio_cache")


def near_root() -> str:
    """Return the directory of the near tiers for which none is named.

    It is ``$HF_AUDIO_CACHE_NEAR``, else ``$HF_HOME/audio_cache_near``, else ``~/.cache/huggingface/audio_cache_near``;
    where that is a network mount, a directory of this user's among the system's temporary files.
    """
    named = os.environ.get("HF_AUDIO_CACHE_NEAR")
    if named:
        return os.path.expanduser(named)
    path = os.path.expanduser(os.path.join(_home(), "audio_cache_near"))
    if is_network_mount(path):
        return os.path.join(tempfile.gettempdir(), f"hf-audio-cache-near-{os.getuid()}")
    return path


def hashes_path() -> str | None:
    """Return the file in which the hashes of local files are remembered; None for none.

    It is ``$HF_AUDIO_CACHE_HASHES`` (empty for none), else ``$HF_HOME/audio_cache_hashes.sqlite``, else
    ``~/.cache/huggingface/audio_cache_hashes.sqlite``; none on a network mount, where its locks cannot be relied on.
    """
    named = os.environ.get("HF_AUDIO_CACHE_HASHES")
    if named is not None:
        return os.path.abspath(os.path.expanduser(named)) if named else None
    path = os.path.abspath(os.path.expanduser(os.path.join(_home(), "audio_cache_hashes.sqlite")))
    return None if _has_unreliable_locks(path) else path


@functools.lru_cache(maxsize=8)
def _has_unreliable_locks(path: str) -> bool:
    return is_network_mount(path)  # which reads the table of mounts: not for each batch


def _home() -> str:
    return os.environ.get("HF_HOME") or os.path.join("~", ".cache", "huggingface")

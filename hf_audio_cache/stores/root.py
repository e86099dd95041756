"""Where a cache is, and how it is reached."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InvalidRootError
from ..sealed import Sealed
from .base import Store
from .far import open_far
from .guarded import GuardedStore
from .local import LocalStore
from .mounts import is_network_mount
from .read_only import ReadOnlyStore
from .tiered import TieredStore

__all__ = ["Root", "default_root", "hashes_path", "near_root"]

_NEAR_SHARE = 10  # of a disk's bytes, what a near tier may take where nothing else is said
_IN_PROCESS = ("memory",)  # no disk is nearer
_ENDPOINTS = ("endpoint_url", "endpoint", "account_name", "host")


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


@dataclass(frozen=True)
class Access:
    """What may hold secrets."""

    storage_options: Mapping[str, Any]
    filesystem: Any = None


@dataclass(frozen=True)
class Root:
    """A root, as its user described it; it can be pickled, and holds no secret in the open.

    Parameters
    ----------
    url
        A path on a local disk, or a full URL.
    near
        Directory of the near tier; ``"auto"`` for one under `near_root`, if the root is far; None for none.
    near_max_bytes
        What the near tier may take; by default a tenth of its disk.
    write
        Where new entries go: ``"both"``, ``"near"`` or ``"none"``.
    read_only
        Whether nothing is ever written, near or far.
    timeouts
        Seconds to wait for a connection, and for an answer.
    access
        Storage options and filesystem, sealed.
    """

    url: str
    near: str | None = "auto"
    near_max_bytes: int | None = None
    write: Literal["both", "near", "none"] = "both"
    read_only: bool = False
    timeouts: tuple[float, float] = (2.0, 5.0)
    access: Sealed[Access] | None = None

    @classmethod
    def of(
        cls,
        root: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
        **settings: Any,
    ) -> Root:
        """Return the root that a user's arguments describe.

        Raises
        ------
        InvalidRootError
            If no store can be there.
        """
        try:
            path = os.fspath(root)
        except TypeError:
            path = None
        if not isinstance(path, str) or not path:
            raise InvalidRootError(
                f"a cache's root must be a path or a URL, not {root!r}; nothing was opened.", root=str(root)
            )
        protocol, separator, rest = path.partition("://")
        if separator and re.match(r"[^/]*:[^/]*@", rest):
            raise InvalidRootError(
                f"expected a URL without a password, and found one in a root of the protocol {protocol!r}; nothing was "
                "opened. Pass it by storage_options=, or where the protocol's library looks for it.",
                root=f"{protocol}://…",
            )
        if filesystem is None and (not separator or protocol in ("file", "local")):
            # Absolute, as it travels to processes that may have another working directory.
            path = os.path.abspath(os.path.expanduser(rest if separator else path))
        near = settings.get("near", "auto")
        if near not in (None, "auto"):
            settings["near"] = os.path.abspath(os.path.expanduser(os.fspath(near)))
        access = None
        if storage_options or filesystem is not None:
            value = Access(dict(storage_options or {}), filesystem)
            material = json.dumps([value.storage_options, repr(type(filesystem))], sort_keys=True, default=repr)
            access = Sealed(value, material.encode())
        return cls(path, access=access, **settings)

    def open(self) -> Store:
        """Return the store; nothing is contacted or created."""
        access = (self.access.value if self.access is not None else None) or Access({})
        store: Store
        if access.filesystem is None and "://" not in self.url:
            store = LocalStore(self.url)
        else:
            connect_timeout, read_timeout = self.timeouts
            store = GuardedStore(
                open_far(
                    self.url,
                    storage_options=access.storage_options,
                    filesystem=access.filesystem,
                    connect_timeout=connect_timeout,
                    read_timeout=read_timeout,
                )
            )
        if self.read_only:
            return ReadOnlyStore(store)
        near = self._near_path(access) if self.near == "auto" else self.near
        if near is None:
            return store if self.write == "both" else ReadOnlyStore(store)
        limit = self.near_max_bytes or shutil.disk_usage(_existing(near)).total // _NEAR_SHARE
        return TieredStore(LocalStore(near), store, write=self.write, near_max_bytes=limit)

    def _near_path(self, access: Access) -> str | None:
        """Return the directory of the near tier of a far root; None for a near one."""
        protocol, separator, rest = self.url.partition("://")
        if protocol in _IN_PROCESS or access.filesystem is not None:
            return None
        if not separator:
            return os.path.join(near_root(), "mount", self.url.lstrip("/")) if is_network_mount(self.url) else None
        # Buckets of one name at two endpoints are two buckets.
        options = {**access.storage_options, **(access.storage_options.get("client_kwargs") or {})}
        endpoint = [str(options[name]) for name in _ENDPOINTS if options.get(name)]
        digest = hashlib.sha256(json.dumps(endpoint).encode()).hexdigest()[:12]
        return os.path.join(near_root(), f"{protocol}-{digest}" if endpoint else protocol, rest.strip("/"))


def _existing(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path

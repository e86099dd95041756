"""Where a cache is, and how it is reached."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InvalidRootError
from ..support.mounts import is_network_mount
from ..support.paths import near_root
from ..support.secrets import Sealed
from .base import Store
from .local import LocalStore
from .read_only import ReadOnlyStore
from .remote.open import open_remote
from .resilient import ResilientStore
from .tiered import TieredStore

__all__ = ["Root"]

_NEAR_SHARE = 10  # of a disk's bytes, what a near tier may take where nothing else is said
_IN_PROCESS = ("memory",)  # no disk is nearer
_ENDPOINTS = ("endpoint_url", "endpoint", "account_name", "host")


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
            store = ResilientStore(
                open_remote(
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

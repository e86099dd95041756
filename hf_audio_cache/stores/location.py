"""From a path or a URL to an open store, first step: a local one, or `remote/open`'s; then the wrappers around it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from ..errors import InvalidRootError
from .base import Store
from .local import LocalStore
from .near_folders import near_folder
from .packs.store import PackedStore
from .read_only import ReadOnlyStore
from .remote.open import open_remote
from .remote.option_names import check_option_names
from .remote.urls import check_url, is_scheme
from .resilient import ResilientStore
from .tiered import TieredStore

WritePolicy: TypeAlias = Literal["both", "near", "none"]

_NEAR_SHARE = 10  # the near tier may take a tenth of its disk by default


def absolute_root(root: str | os.PathLike[str], *, is_in_filesystem: bool = False) -> str:
    """Return a root as a URL or an absolute path, which holds in processes with another working directory.

    A path inside an fsspec file system is returned as it is. Raises InvalidRootError if it is neither a path nor a URL,
    or a URL with a password in it.
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
    if not (separator or is_in_filesystem):
        _check_scheme(path)
    if separator and re.match(r"[^/]*:[^/]*@", rest):
        raise InvalidRootError(
            f"the root {protocol}://… has a password in its URL; nothing was opened. Pass it by storage_options=, or "
            "where the protocol's library looks for it.",
            root=f"{protocol}://…",
        )
    if is_in_filesystem or (separator and protocol not in ("file", "local")):
        return path
    return os.path.abspath(os.path.expanduser(rest if separator else path))


def _check_scheme(path: str) -> None:
    """Raise InvalidRootError for a path that is a URL with too few slashes."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.\-]*):/?(.*)", path)
    if found and is_scheme(found[1]):
        scheme = found[1].lower()
        meant = f"/{found[2]}" if scheme in ("file", "local") else f"{scheme}://{found[2]}"
        raise InvalidRootError(f"the root {path!r} is no URL: did you mean {meant!r}? Nothing was opened.", root=path)


def check_root(url: str, *, storage_options: Mapping[str, Any] | None = None, near: str | None = None) -> None:
    """Raise InvalidRootError for a root, or a directory of near tiers, that can never work; nothing is contacted."""
    if "://" in url:
        check_url(url)
        check_option_names(url, storage_options)
    else:
        _check_folder(url, "the root")
    if near not in (None, "auto"):
        _check_folder(str(near), "near")


def _check_folder(path: str, what: str) -> None:
    """Raise InvalidRootError if there is a file where a folder would have to be."""
    there = path
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if os.path.exists(there) and not os.path.isdir(there):
        place = "is a file" if there == path else f"lies under {there}, which is a file"
        raise InvalidRootError(f"{what} must be a folder, and {path} {place}; nothing was opened.", root=path)


def open_store(
    root: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: Any = None,
    near: str | None = "auto",
    near_max_bytes: int | None = None,
    write: WritePolicy = "both",
    read_only: bool = False,
    timeouts: tuple[float, float] = (2.0, 5.0),
) -> Store:
    """Return the store at a root, with its near tier; nothing is contacted or created.

    The parameters are those of `CacheRoot`. Raises InvalidRootError if no store can be there.
    """
    url = absolute_root(root, is_in_filesystem=filesystem is not None)
    store: Store
    if filesystem is None and "://" not in url:
        store = LocalStore(url)
    else:
        store = ResilientStore(open_remote(url, storage_options, filesystem, timeouts))
    folder = None
    if not read_only:
        folder = near_folder(url, near=near, storage_options=storage_options, filesystem=filesystem)
    store = PackedStore(store, None if folder is None else LocalStore(folder))
    if read_only:
        return ReadOnlyStore(store)
    if folder is None:
        return store if write == "both" else ReadOnlyStore(store)
    return TieredStore(LocalStore(folder), store, write=write, near_max_bytes=near_max_bytes or near_limit(folder))


def near_limit(folder: str) -> int:
    """Return how many bytes a near tier may take by default; the folder need not be there yet."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).total // _NEAR_SHARE

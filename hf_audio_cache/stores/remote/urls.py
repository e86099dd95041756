"""Check URLs, storage options and file systems: which can be the root of a remote store; nothing is opened."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations, registry

from ...errors import InvalidRootError
from .errors import without_password

_EXTRAS = {"s3fs": "s3", "gcsfs": "gcs", "adlfs": "azure"}
_LOCAL = {"file", "local"}
# Protocols of fsspec that keep copies on the disk, which are not safe to read while they are written.
_COPIES = {"simplecache", "filecache", "blockcache", "cached"}


def flat_options(root: str, storage_options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return storage options without a level of protocols, as in ``{"s3": {...}}``."""
    options = dict(storage_options or {})
    own = options.get(root.partition("://")[0])
    return {**options.pop(root.partition("://")[0]), **options} if isinstance(own, Mapping) else options


def protocols_of(system: Any) -> tuple[str, ...]:
    """Return the protocols of a file system."""
    protocol = type(system).protocol  # one that keeps copies shows another's as its own attribute
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def is_async(system: Any) -> bool:
    """Return whether a file system has coroutines; one of a folder in another has what that one has."""
    inner = system.fs if isinstance(system, DirFileSystem) else None
    return bool(system.async_impl) if inner is None else is_async(inner)


def local_path(system: Any, path: str) -> str | None:
    """Return the path on the local disk that a path in a file system of a local folder stands for; None for others.

    Raises InvalidRootError if the path leads out of the folder.
    """
    if not isinstance(system, DirFileSystem):
        return None
    inside = os.path.normpath(system._strip_protocol(path).strip("/"))
    if inside.split("/")[0] == "..":
        raise InvalidRootError(f"the root {path!r} leads out of {system.path}; nothing was opened.", root=path)
    joined = os.path.join(system.path, inside) if system.path else inside
    return os.path.abspath(joined) if isinstance(system.fs, LocalFileSystem) else local_path(system.fs, joined)


def is_scheme(name: str) -> bool:
    """Return whether fsspec has a file system for this protocol; upper and lower case are the same."""
    return name.lower() in known_implementations or name.lower() in registry


def is_in_process(root: str) -> bool:
    """Return whether a root is in the memory of this process, where no other finds it."""
    return root.partition("://")[0] == "memory"


def check_url(root: str) -> None:
    """Raise InvalidRootError for a URL that no remote store can ever serve."""
    protocol, _, path = root.partition("://")
    reason = ""
    if not path.strip("/"):
        reason = "names no place in it, such as a bucket"
    elif "::" in root or protocol in _COPIES:
        reason = "is read through a copy on the disk; name the store itself"
    elif protocol in _LOCAL:
        reason = "is on a local disk; pass its path"
    elif "?" in path:
        reason = "has a query; pass it as storage options"
    elif protocol not in registry and protocol not in known_implementations:
        near = difflib.get_close_matches(protocol.lower(), [*known_implementations, *registry], n=1, cutoff=0.5)
        meant = f" (did you mean {near[0]}://?)" if near else ""
        reason = f"has the protocol {protocol!r}, for which fsspec has no file system{meant}"
    if reason:
        raise _invalid(root, reason)


def check_driver(root: str) -> None:
    """Raise InvalidRootError if the driver of a URL is not installed."""
    protocol = root.partition("://")[0]
    if protocol in registry:
        return
    known = known_implementations[protocol]
    module = known["class"].partition(".")[0]
    if module == "fsspec":  # its own file systems are cheap to import, and may need another library
        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as exc:
            raise _invalid(root, f"cannot be used: {exc}") from exc
    elif importlib.util.find_spec(module) is None:
        said = known.get("err", f"install {module}")
        if module in _EXTRAS:
            said = f'`pip install "hf_audio_cache[{_EXTRAS[module]}]"`'
        raise _invalid(root, f"needs {module}, which is not installed: {said}")


def _invalid(root: str, reason: str) -> InvalidRootError:
    shown = without_password(root).partition("?")[0]  # a query may be a signature
    return InvalidRootError(f"the root {shown!r} {reason}; nothing was opened.", root=shown)


def check_file_system(filesystem: Any, storage_options: Mapping[str, Any] | None) -> None:
    """Raise InvalidRootError for a file system of the user's that a store cannot use."""
    reason = ""
    if not isinstance(filesystem, fsspec.AbstractFileSystem):
        reason = "is not an fsspec file system"
    elif storage_options:
        reason = "has its options already; pass either a file system or storage options"
    elif _LOCAL.intersection(protocols_of(filesystem)):
        reason = "is the local disk; pass a path alone"
    elif _COPIES.intersection(protocols_of(filesystem)):
        reason = "keeps copies on the disk; pass the file system behind it"
    elif getattr(filesystem, "asynchronous", False):
        reason = "was made with asynchronous=True, for another event loop; make one without"
    if reason:
        raise InvalidRootError(f"the file system {type(filesystem).__name__} {reason}; nothing was opened.")

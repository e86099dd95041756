"""fsspec's file systems: whether there is one for a root, and making it, once in each process."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations, registry

from ..errors import InvalidRootError
from .far_errors import Redactor, without_password

__all__ = ["FileSystems", "OpenFileSystem", "flat_options"]

_EXTRAS = {"s3fs": "s3", "gcsfs": "gcs", "adlfs": "azure"}
_LOCAL = {"file", "local"}
_COPIES = {"simplecache", "filecache", "blockcache", "cached"}  # whose own files are not safe to be read while written
# Drivers without a loop that may be called by many threads at once, and how many.
_THREADS = {"hf": 8}
_WRITES = {"pipe_file", "rm_file"}


def flat_options(root: str, storage_options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return storage options, also if they are given by protocol, as ``{"s3": {...}}``."""
    options = dict(storage_options or {})
    own = options.get(root.partition("://")[0])
    return {**options.pop(root.partition("://")[0]), **options} if isinstance(own, Mapping) else options


@dataclass(frozen=True)
class OpenFileSystem:
    """A file system, for use in the process that made it."""

    system: Any
    base: str
    concurrency: int
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Where its coroutines run; None if it has none."""
        return self.system.loop if self.system.async_impl else None

    def full(self, path: str) -> str:
        """Return the path within the file system of one that is relative to the root."""
        return f"{self.base.rstrip('/')}/{path}" if path else self.base

    def at_once(self, method: str) -> int:
        """Return how many calls of a method may run at the same time."""
        if self.system.async_impl:
            return self.concurrency
        threads = max(_THREADS.get(protocol, 1) for protocol in _protocols_of(self.system))
        return 1 if method in _WRITES else threads  # on the Hub a write is a commit, of which only one at once succeeds

    def method(self, name: str) -> Callable[..., Any]:
        """Return one of fsspec's methods for a single path, as a coroutine function if there is a loop."""
        if self.system.async_impl:
            call = getattr(self.system, f"_{name}")
        elif name in _WRITES:
            call = getattr(self, f"_{name}")
        else:
            call = getattr(self.system, name)
        if name == "ls":
            call = functools.partial(call, detail=True)
        return call if self.system.async_impl or self.at_once(name) > 1 else functools.partial(self._alone, call)

    def forget(self, path: str) -> None:
        """Forget what was listed at this path, and beside it: others may have written there since."""
        self.system.invalidate_cache(path)
        self.system.invalidate_cache(path.rpartition("/")[0])

    def _pipe_file(self, path: str, content: bytes) -> None:
        try:
            self.system.pipe_file(path, content)
        except Exception:  # noqa: BLE001 - each driver has its own words for a folder that is not there
            self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.system.pipe_file(path, content)

    def _rm_file(self, path: str) -> None:
        try:
            self.system.rm_file(path)
        except Exception:
            if self.system.exists(path):  # as above, for a file
                raise

    def _alone(self, call: Callable[..., Any], *arguments: Any) -> Any:
        with self._lock:
            return call(*arguments)


class FileSystems:
    """The file systems of one root, one in each process; parameters as for `FsspecStore`."""

    def __init__(
        self,
        root: str,
        storage_options: Mapping[str, Any] | None,
        filesystem: Any,
        *,
        connect_timeout: float,
        read_timeout: float,
        concurrency: int,
    ) -> None:
        self.connect_timeout, self.read_timeout, self.concurrency = connect_timeout, read_timeout, concurrency
        self._given = filesystem
        self._process = os.getpid()
        self._options = flat_options(root, storage_options)
        self._root = root if filesystem is not None else root.rstrip("/")
        user, separator, _ = root.partition("://")[2].partition("/")[0].rpartition("@")
        self.redact = Redactor(self._options, user.split(":")[1:] if separator else [])
        if filesystem is None:
            self.url = without_password(self._root)
            _check_url(self._root, self.url)
        else:
            _check_given(filesystem, storage_options)
            self.url = filesystem.unstrip_protocol(filesystem._strip_protocol(root)).rstrip("/")
        self._opened: dict[int, OpenFileSystem] = {}

    def open(self) -> OpenFileSystem:
        """Return this process' own."""
        process = os.getpid()
        # Those of the processes that this one was forked from are kept: their ends would reach for threads that are
        # not here.
        return self._opened.get(process) or self._opened.setdefault(process, self._make(process))

    def drop(self, opened: OpenFileSystem) -> None:
        """Let the next use make another, as this one hangs."""
        if self._given is None and self._opened.get(os.getpid()) is opened:
            del self._opened[os.getpid()]

    def _make(self, process: int) -> OpenFileSystem:
        if self._given is None:
            driver = fsspec.get_filesystem_class(self._root.partition("://")[0]).__module__.partition(".")[0]
            ours = {"asynchronous": False, "skip_instance_cache": True, "use_listings_cache": False}
            system, base = url_to_fs(self._root, **{**self._options, **self._settings(driver), **ours})
            if driver == "s3fs":
                system.retries = 1  # its own, on top of botocore's: a server that hangs would be asked 25 times
                # It reads the descriptions of S3 for some tenths of a second, which are not the first object's.
                system.connect()
        else:
            system = self._given
            if process != self._process:
                system = type(system)(*system.storage_args, **{**system.storage_options, "skip_instance_cache": True})
            base = system._strip_protocol(self._root)
        return OpenFileSystem(system, base, self.concurrency)

    def _settings(self, driver: str) -> dict[str, Any]:
        """Return what a driver has settings for and the user has not set."""
        if driver == "s3fs":
            config = {
                "connect_timeout": self.connect_timeout,
                "read_timeout": self.read_timeout,
                "retries": {"max_attempts": 1},
                "max_pool_connections": self.concurrency,
                **self._options.get("config_kwargs", {}),
            }
            # Of more than one, it would ask for the size of each object before reading it.
            settings = {"max_concurrency": 1, "config_kwargs": config}
        elif driver == "gcsfs":
            import aiohttp

            settings = {"requests_timeout": aiohttp.ClientTimeout(self.read_timeout, sock_connect=self.connect_timeout)}
        elif driver == "adlfs":
            settings = {"connection_timeout": self.connect_timeout, "read_timeout": self.read_timeout}
        else:
            settings = {}
        return {name: value for name, value in settings.items() if name == "config_kwargs" or name not in self._options}


def _protocols_of(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _check_url(root: str, url: str) -> None:
    """Refuse what cannot be the root of a far store."""
    protocol, _, path = root.partition("://")
    reason = ""
    if not path.strip("/"):
        reason = "names no place in it, such as a bucket"
    elif "::" in root or protocol in _COPIES:
        reason = "is read through a copy on the disk; name the store itself"
    elif protocol in _LOCAL:
        reason = "is on a local disk; pass its path"
    elif "?" in path:
        reason = "has a query; what it says belongs into the storage options"
    else:
        reason = _missing_driver(protocol)
    if reason:
        raise InvalidRootError(f"the root {url.partition('?')[0]} {reason}; nothing was opened.", root=url)


def _missing_driver(protocol: str) -> str:
    """Return what is missing for a protocol, if something is."""
    if protocol in registry:
        return ""
    if protocol not in known_implementations:
        return f"has the protocol {protocol!r}, for which fsspec has no file system"
    known = known_implementations[protocol]
    module = known["class"].partition(".")[0]
    if module == "fsspec":  # one of its own, whose import is cheap, and which may need another library
        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as exc:
            return f"cannot be used: {exc}"
    elif importlib.util.find_spec(module) is None:
        said = known.get("err", f"install {module}")
        if module in _EXTRAS:
            said = f'`pip install "hf_audio_cache[{_EXTRAS[module]}]"`'
        return f"needs {module}, which is not installed: {said}"
    return ""


def _check_given(filesystem: Any, storage_options: Mapping[str, Any] | None) -> None:
    """Refuse a user's file system that a store cannot use."""
    reason = ""
    if not isinstance(filesystem, fsspec.AbstractFileSystem):
        reason = "is no file system of fsspec"
    elif storage_options:
        reason = "was made already, so that storage options would change nothing; pass one or the other"
    elif _LOCAL.intersection(_protocols_of(filesystem)):
        reason = "is that of the local disk; pass a path alone"
    elif _COPIES.intersection(_protocols_of(filesystem)):
        reason = "keeps copies on the disk; pass the one behind it"
    elif getattr(filesystem, "asynchronous", False):
        reason = "belongs to a loop of its own, by asynchronous=True; make one without"
    if reason:
        raise InvalidRootError(f"the file system {type(filesystem).__name__} {reason}; nothing was opened.")

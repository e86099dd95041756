"""The fsspec file system of a root: each process makes its own, and makes it anew after a refusal of credentials."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs

from ...support.process_local import ProcessLocal
from .errors import Redactor, without_password
from .urls import check_driver, check_file_system, check_url, flat_options, is_async, protocols_of

# Drivers without an event loop that several threads may call, and how many.
_THREADS = {"hf": 8}
_WRITES = {"pipe_file", "rm_file"}


@dataclass(frozen=True)
class OpenFileSystem:
    """A file system, for use in the process that made it."""

    system: Any
    base: str
    concurrency: int
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of its coroutines; None if it has none."""
        return self.system.loop if is_async(self.system) else None

    def full(self, path: str) -> str:
        """Return the path within the file system of one that is relative to the root."""
        return f"{self.base.rstrip('/')}/{path}" if path else self.base

    def at_once(self, method: str) -> int:
        """Return how many calls of a method may run at a time."""
        if is_async(self.system):
            return self.concurrency
        threads = max(_THREADS.get(protocol, 1) for protocol in protocols_of(self.system))
        return 1 if method in _WRITES else threads  # on the Hub a write is a commit; two at once fail

    def method(self, name: str) -> Callable[..., Any]:
        """Return a method of fsspec for a single path; a coroutine function if there is an event loop."""
        if name == "rm_file" and getattr(type(self.system), "_rm_file", None) is AsyncFileSystem._rm_file:
            call = self.system._rm  # older releases of adlfs have no other
        elif is_async(self.system):
            call = getattr(self.system, f"_{name}")
        elif name in _WRITES:
            call = getattr(self, f"_{name}")
        else:
            call = getattr(self.system, name)
        if name == "ls":
            call = functools.partial(call, detail=True)
        return call if is_async(self.system) or self.at_once(name) > 1 else functools.partial(self._alone, call)

    def forget(self, path: str) -> None:
        """Drop cached listings of this path and its folder: others may have written there since."""
        self.system.invalidate_cache(path)
        self.system.invalidate_cache(path.rpartition("/")[0])

    def _pipe_file(self, path: str, content: bytes) -> None:
        try:
            self.system.pipe_file(path, content)
        except Exception:  # noqa: BLE001 - each driver has its own exception for a missing folder
            self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.system.pipe_file(path, content)

    def _rm_file(self, path: str) -> None:
        try:
            self.system.rm_file(path)
        except Exception:
            if self.system.exists(path):  # each driver has its own exception for a missing file, too
                raise

    def _alone(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        with self._lock:
            return call(*arguments, **keywords)


class FileSystems:
    """The file system of one root in each process; parameters as for `FsspecStore`."""

    def __init__(
        self,
        root: str,
        storage_options: Mapping[str, Any] | None,
        filesystem: Any,
        timeouts: tuple[float, float],
        concurrency: int,
    ) -> None:
        self.timeouts, self.concurrency = timeouts, concurrency
        self.answered = float("-inf")  # when it last did, by `time.monotonic`
        self._given = filesystem
        self._system: ProcessLocal[Any] = ProcessLocal()  # the one given, or its copy in a forked child
        if getattr(filesystem, "_pid", None) in (None, os.getpid()):  # a child may open a root that its parent made
            self._system.set(filesystem)
        self._options = flat_options(root, storage_options)
        self._root = root if filesystem is not None else root.rstrip("/")
        user, separator, _ = root.partition("://")[2].partition("/")[0].rpartition("@")
        self.redact = Redactor(self._options, user.split(":")[1:] if separator else [])
        if filesystem is None:
            self.url = without_password(self._root)
            check_url(self._root)
            check_driver(self._root)
        else:
            check_file_system(filesystem, storage_options)
            self.url = filesystem.unstrip_protocol(filesystem._strip_protocol(root)).rstrip("/")
        self._opened: ProcessLocal[OpenFileSystem] = ProcessLocal()

    def open(self) -> OpenFileSystem:
        """Return this process's own."""
        return self._opened.get(self._make)

    def drop(self, opened: OpenFileSystem) -> None:
        """Have the next use make another one, as this one hangs."""
        if self._given is None:
            self._opened.drop(opened)

    def renew(self) -> bool:
        """Have the next use make another one, with the credentials that there are then; False if it is the user's."""
        opened = self._opened.peek()
        if opened is not None:
            self.drop(opened)
        return self._given is None

    def _make(self) -> OpenFileSystem:
        if self._given is None:
            kind = fsspec.get_filesystem_class(self._root.partition("://")[0])
            driver = kind.__module__.partition(".")[0]
            ours = {**self._settings(driver), **_for_this_process(kind)}
            system, base = url_to_fs(self._root, **{**self._options, **ours})
            if driver == "s3fs":
                system.retries = 1  # s3fs retries on top of botocore: a server that hangs would be asked 25 times
                # Loading the description of S3 takes some tenths of a second, which would count for the first object.
                system.connect()
        else:
            system = self._system.get(lambda: _made_again(self._given))
            base = system._strip_protocol(self._root)
        return OpenFileSystem(system, base, self.concurrency)

    def _settings(self, driver: str) -> dict[str, Any]:
        """Return our time-outs and limits in the words of a driver, where the user has set nothing else."""
        connect, read = self.timeouts
        if driver == "s3fs":
            config = {
                "connect_timeout": connect,
                "read_timeout": read,
                "retries": {"max_attempts": 1},
                "max_pool_connections": self.concurrency,
                **self._options.get("config_kwargs", {}),
            }
            # With more than one, s3fs asks for the size of each object before it reads it.
            settings = {"max_concurrency": 1, "config_kwargs": config}
        elif driver == "gcsfs":
            import aiohttp

            settings = {"requests_timeout": aiohttp.ClientTimeout(read, sock_connect=connect)}
        elif driver == "adlfs":
            settings = {"connection_timeout": connect, "read_timeout": read}
        else:
            settings = {}
        return {name: value for name, value in settings.items() if name == "config_kwargs" or name not in self._options}


_running: ProcessLocal[asyncio.AbstractEventLoop] = ProcessLocal()


def _loop() -> asyncio.AbstractEventLoop:
    """Return this process's event loop for drivers, which runs in a thread of its own.

    In older releases of fsspec a forked process has its parent's loop, without the thread.
    """
    loop = _running.peek()
    if loop is None:
        made = asyncio.new_event_loop()
        loop = _running.get(lambda: made)
        if loop is made:
            threading.Thread(target=made.run_forever, daemon=True, name="hf_audio_cache loop").start()
        else:  # another thread was first
            made.close()
    return loop


def _for_this_process(kind: Any) -> dict[str, Any]:
    """Return the options for a file system of this class that no other process uses, without a cache of listings."""
    ours: dict[str, Any] = {"skip_instance_cache": True}
    return {**ours, "asynchronous": False, "loop": _loop(), "use_listings_cache": False} if kind.async_impl else ours


def _made_again(given: Any) -> Any:
    """Return a file system like this one, for this process; one around another gets that one made again, too."""
    if not isinstance(given, fsspec.AbstractFileSystem):
        return given
    kind = type(given)
    options = {name: _made_again(value) for name, value in given.storage_options.items()}
    return kind(*map(_made_again, given.storage_args), **{**options, **_for_this_process(kind)})

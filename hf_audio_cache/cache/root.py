"""`CacheRoot`: where a cache is, and how it is reached; pickled without its secrets."""

from __future__ import annotations

import copy
import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ..errors import InvalidRootError
from ..stores import LocalStore, Store, WritePolicy, absolute_root, check_root, local_path, near_folder, open_store
from ..support.checks import check_choice, check_number
from ..support.paths import default_root
from ..support.secrets import Secret, check_options
from .codecs import COMPRESSIONS
from .signing import SigningKey, SigningKeys, signing_keys


@dataclass(frozen=True)
class _Access:
    """Settings that may hold secrets."""

    storage_options: Mapping[str, Any]
    filesystem: Any = None


@dataclass(frozen=True, init=False, repr=False)
class CacheRoot:
    """Where a cache is, and how it is reached.

    Making one contacts nothing and creates nothing. It is immutable, and can be compared and pickled. Storage options,
    the filesystem and signing keys are never pickled, hashed, logged or shown: processes that this one forks or spawns
    have them, any other process does without.

    Parameters
    ----------
    url
        Directory of the cache, or its URL: ``s3://``, ``gs://``, ``az://``, ``hf://buckets/…``, ``memory://`` and
        whatever else fsspec knows. By default ``$HF_AUDIO_CACHE``, else ``$HF_HOME/audio_cache``, else
        ``~/.cache/huggingface/audio_cache``. The first entry that is stored creates it.
    storage_options
        Options of the URL's fsspec filesystem, as `datasets` takes them. Credentials are looked for where that
        filesystem does anyway.
    filesystem
        An fsspec filesystem, in which `url` is a path. One of a local folder (``fsspec.filesystem("dir", …)``) stands
        for that folder.
    near
        Directory of the near tier of a far root: it keeps what was read from there or written to it. ``"auto"``
        puts it under ``$HF_AUDIO_CACHE_NEAR``, else ``$HF_HOME/audio_cache_near``, else
        ``~/.cache/huggingface/audio_cache_near``, if the root is an object store or a network mount. None for none.
    near_max_bytes
        What the near tier may take; by default a tenth of its disk. The least recently used entries make room, except
        those that this run has used.
    write
        Where new entries go: ``"both"``, ``"near"`` or ``"none"``.
    read_only
        Whether nothing is ever written, in the root or in the near tier.
    timeouts
        Seconds to wait for a connection to a far root, and for an answer.
    strict
        Whether a store that fails is an error. Otherwise what could not be read is computed, and what could not be
        written is lost; both are counted, and warned of once.
    signing_key
        Makes the root a signed one: entries carry a signature, and entries without one are misses. A key of at least 16
        bytes, or several (all are accepted, the first one signs), or the `pathlib.Path` of a file that only you can
        read, with a key in each line. By default ``$HF_AUDIO_CACHE_SIGNING_KEY`` (keys separated by blanks), or the
        file ``$HF_AUDIO_CACHE_SIGNING_KEY_FILE``. A worker that is not forked or spawned by this process needs one of
        these variables.
    compression
        ``"blosc"`` (lossless), or None for entries as `numpy.savez` writes them. Either setting reads both.

    Raises
    ------
    InvalidRootError
        If no cache can ever be there: `url` is neither a path nor a URL, has a password in it or a scheme that fsspec
        does not know; it is a file, or lies under one; or the URL's filesystem has no such storage option.
    SigningKeyError
        If a signing key is too short, or others than its owner can read its file.
    ValueError
        If another setting is invalid.

    Examples
    --------
    >>> root = CacheRoot("s3://bucket/audio-cache", storage_options={"profile": "speech"})  # doctest: +SKIP
    >>> cached_features = CachedFeatures(processor, root)                                   # doctest: +SKIP
    >>> print(usage(root))                                                                  # doctest: +SKIP
    """

    url: str
    near: str | None
    near_max_bytes: int | None
    write: WritePolicy
    read_only: bool
    timeouts: tuple[float, float]
    strict: bool
    signing_keys: SigningKeys | None
    compression: str | None
    _access: Secret[_Access] | None

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
        near: str | os.PathLike[str] | None = "auto",
        near_max_bytes: int | None = None,
        write: WritePolicy = "both",
        read_only: bool = False,
        timeouts: tuple[float, float] = (2.0, 5.0),
        strict: bool = False,
        signing_key: SigningKey | SigningKeys | None = None,
        compression: str | None = "blosc",
    ) -> None:
        check_options("storage_options", storage_options)
        check_choice("write", write, get_args(WritePolicy), "nothing was opened")
        check_choice("compression", compression, COMPRESSIONS, "nothing was opened")
        if near_max_bytes is not None:
            check_number("near_max_bytes", near_max_bytes, "nothing was opened", is_positive=True)
        for name, flag in (("read_only", read_only), ("strict", strict)):
            if not isinstance(flag, bool):
                raise ValueError(f"{name} must be True or False, not {flag!r}; nothing was opened.")
        url = absolute_root(default_root() if url is None else url, is_in_filesystem=filesystem is not None)
        if filesystem is not None and not storage_options and (path := local_path(filesystem, url)) is not None:
            url, filesystem = path, None  # a store of our own, whose puts are atomic
        near = _absolute_near(near)
        if filesystem is None:  # one that is handed over is its owner's matter
            check_root(url, storage_options=storage_options, near=near)
        vars(self).update(
            url=url,
            near=near,
            near_max_bytes=near_max_bytes,
            write=write,
            read_only=read_only,
            timeouts=_two_seconds(timeouts),
            strict=strict,
            signing_keys=signing_keys(signing_key),
            compression=compression,
            _access=_secret_access(storage_options, filesystem),
        )

    def _with(self, **fields: Any) -> CacheRoot:
        other = copy.copy(self)
        vars(other).update(fields)
        return other

    def __repr__(self) -> str:
        """Return the settings that are not the default ones, without secrets."""
        told = [repr(self.url)]
        if self._access is not None:
            told.append("storage_options or filesystem given")
        told += [
            f"{name}={getattr(self, name)!r}" for name, default in _DEFAULTS.items() if getattr(self, name) != default
        ]
        if self.signing_keys is not None:
            told.append("signed")
        return f"CacheRoot({', '.join(told)})"

    def open_store(self) -> Store:
        """Return the store of everything under the root, with the near tier; nothing is contacted or created.

        Raises
        ------
        InvalidRootError
            If no store can be there.
        """
        return open_store(
            self.url,
            storage_options=self._known_access.storage_options,
            filesystem=self._known_access.filesystem,
            near=self.near,
            near_max_bytes=self.near_max_bytes,
            write=self.write,
            read_only=self.read_only,
            timeouts=self.timeouts,
        )

    def open_folder(self, folder: str) -> Store:
        """Return the store of a cache's entries, where this is the root of that cache alone.

        If it is the folder of a root with both caches, the entries in that root's packs belong to it.
        """
        above, _, name = self.url.rstrip("/").rpartition("/")
        is_inside = name == folder and above and not above.endswith(":/") and not os.path.islink(self.url)
        return self._with(url=above).open_store().child(folder) if is_inside else self.open_store()

    @property
    def near_path(self) -> str | None:
        """The folder of this machine's near tier of the root; None without one."""
        access = self._known_access
        return near_folder(
            self.url, near=self.near, storage_options=access.storage_options, filesystem=access.filesystem
        )

    def open_near_tier(self) -> Store | None:
        """Return the store of this machine's near tier of the root; None without one."""
        folder = self.near_path
        return None if folder is None or self.read_only else LocalStore(folder)

    @property
    def _known_access(self) -> _Access:
        return (self._access.value if self._access is not None else None) or _Access({})

    def without_near_tier(self) -> CacheRoot:
        """Return this root as all machines see it: for maintenance, and for what must be in the root itself."""
        return self._with(near=None)

    def with_read_timeout(self, seconds: float) -> CacheRoot:
        """Return this root with at least so many seconds for an answer of its store."""
        return self._with(timeouts=(self.timeouts[0], max(self.timeouts[1], seconds)))

    @property
    def secret(self) -> tuple[str, Any] | None:
        """Storage options and filesystem by their token, to be sent to a worker on purpose; None if there are none."""
        return None if self._access is None else (self._access.token, self._access.value)


_PARAMETERS = inspect.signature(CacheRoot).parameters
_TOLD = ("near", "near_max_bytes", "write", "read_only", "timeouts", "strict", "compression")
_DEFAULTS = {name: _PARAMETERS[name].default for name in _TOLD}


def _absolute_near(near: object) -> str | None:
    if near is None or near == "auto":
        return near
    path = absolute_root(near) if near and isinstance(near, (str, os.PathLike)) else ""
    if not path or "://" in path:
        raise InvalidRootError(
            f'near must be a folder or "auto" (or None, for none), not {near!r}; nothing was opened.', root=str(near)
        )
    return path


def _two_seconds(timeouts: Any) -> tuple[float, float]:
    if not (isinstance(timeouts, (tuple, list)) and len(timeouts) == 2):
        raise ValueError(f"timeouts must be two numbers of seconds, not {timeouts!r}; nothing was opened.")
    for seconds in timeouts:
        check_number("each of timeouts", seconds, "nothing was opened", is_positive=True)
    return timeouts[0], timeouts[1]


def _secret_access(storage_options: Mapping[str, Any] | None, filesystem: Any) -> Secret[_Access] | None:
    if not storage_options and filesystem is None:
        return None
    access = _Access(dict(storage_options or {}), filesystem)
    described = None if filesystem is None else [repr(type(filesystem)), getattr(filesystem, "storage_options", None)]
    material = json.dumps([access.storage_options, described], sort_keys=True, default=repr)
    return Secret(access, material.encode())


def as_cache_root(root: str | os.PathLike[str] | CacheRoot, *, compression: str | None = "blosc") -> CacheRoot:
    """Return the root that a path or a URL stands for, a `CacheRoot` as it is; InvalidRootError if it is neither."""
    return root if isinstance(root, CacheRoot) else CacheRoot(absolute_root(root), compression=compression)

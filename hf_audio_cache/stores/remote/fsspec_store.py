"""A store at any URL that fsspec has a file system for."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ...errors import StoreError
from ..base import Range, Store, StoredObject, check_name
from .batching import NOT_ASKED, in_threads, on_loop
from .errors import Redactor, is_missing, kind_of, store_error
from .filesystems import FileSystems

_LISTING_TAKES = 12  # times as long, at most, as an object: a folder may have many pages
_ANSWERS_FOR = 30.0  # s after an answer, a listing may be asked for without a look whether the store answers at all
_ANY_NAME = "answer"  # of an object, which need not be there
_TIMES = ("LastModified", "mtime", "last_modified", "updated", "modified", "created")


class FsspecStore(Store):
    """Objects at a URL, through fsspec.

    A put is atomic where the store's own puts are: S3, GCS, Azure, the Hub, ``memory://``. Over ``ftp://`` and the like
    a reader may see part of an object that is being written; entries are checked when they are read.

    Before the first use only the presence of the driver is checked; nothing is imported or contacted. Each process
    makes a file system of its own, since none survives a fork. Raises InvalidRootError if no store can be there, or its
    driver is not installed.

    `root` is a URL, or a path in `filesystem`, which is used as it is (a forked process makes another one with the same
    arguments). `timeouts` are the seconds to wait for a connection, where the driver has such a setting, and for an
    object, from the request to its last byte. `concurrency` is how many objects are read or written at once, where the
    driver can do that.
    """

    def __init__(
        self,
        root: str,
        storage_options: Mapping[str, Any] | None = None,
        *,
        filesystem: Any = None,
        timeouts: tuple[float, float] = (2.0, 5.0),
        concurrency: int = 32,
    ) -> None:
        self._files = FileSystems(root, storage_options, filesystem, timeouts, concurrency)
        self._inside = ""

    def get_many(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        paths = [self._path(check_name(name)) for name in names]
        return self.contents(names, self.ask("cat_file", [(path,) for path in paths]))

    def get_ranges(self, ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
        # By keywords: the second argument of s3fs is a version.
        places = [{"start": start, "end": start + n_bytes} for _, start, n_bytes in ranges]
        names = [check_name(name) for name, _, _ in ranges]
        return self.contents(names, self.ask("cat_file", [(self._path(name),) for name in names], places))

    def contents(self, names: Iterable[str], results: Iterable[Any]) -> list[bytes | StoreError | None]:
        """Return the results of reads, with errors in the place of exceptions."""

        def content(name: str, result: Any) -> Any:
            if not isinstance(result, Exception):
                return result
            return None if is_missing(result) else self.error("read", name, result)

        return [content(name, result) for name, result in zip(names, results, strict=True)]

    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        results = self.ask("pipe_file", [(self._path(check_name(name)), objects[name]) for name in objects])
        return self.put_errors(objects, results)

    def put_errors(self, names: Iterable[str], results: Sequence[Any]) -> dict[str, StoreError]:
        """Return the errors among the results of puts."""
        failed = {}
        for name, result in zip(names, results, strict=True):
            if isinstance(result, Exception):
                failed[name] = self.error("write", name, result)
                if is_missing(result):  # an object store has no folders that could be missing
                    failed[name].kind = "no bucket"
        return failed

    def exists_many(self, names: Sequence[str]) -> list[bool]:
        paths = [self._path(check_name(name)) for name in names]
        results = self.ask("info", [(path,) for path in paths])
        self.check_answered(names, results)
        return [isinstance(result, Mapping) and result.get("type") == "file" for result in results]

    def check_answered(self, names: Sequence[str], results: Sequence[Any]) -> None:
        """Raise StoreError if none of some requests was answered."""
        if results and all(isinstance(result, Exception) and not is_missing(result) for result in results):
            raise self.error("look for", names[0], results[0])

    def delete(self, names: Iterable[str]) -> dict[str, StoreError]:
        wanted = list(dict.fromkeys(names))
        results = self.ask("rm_file", [(self._path(check_name(name)),) for name in wanted])
        failed = {}
        for name, result in zip(wanted, results, strict=True):
            if isinstance(result, Exception) and not is_missing(result) and kind_of(result) != "no bucket":
                failed[name] = self.error("delete", name, result)
        return failed

    def renew(self) -> bool:
        return self._files.renew()

    def scan(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield each file, some folders at a time: a listing of the whole root would hold all names at once."""
        folders = [prefix.rpartition("/")[0]]
        while folders:
            now, folders = folders[: self._files.concurrency], folders[self._files.concurrency :]
            if (silence := self._silence()) is not None:
                raise self.error("list", now[0], silence)
            listings = self.ask("ls", [(self._path(folder),) for folder in now])
            for folder, listing in zip(now, listings, strict=True):
                if isinstance(listing, Exception):
                    if is_missing(listing):
                        continue
                    raise self.error("list", folder, listing)
                inner, files = self._sort_out(listing, folder, prefix)
                yield from files
                folders = inner + folders

    def _sort_out(
        self, listing: Iterable[Mapping[str, Any]], folder: str, prefix: str
    ) -> tuple[list[str], list[StoredObject]]:
        """Return the folders to look into, and the files of a listing."""
        base = self._files.open().full(self._path("")).rstrip("/")
        folders, files = [], []
        for found in listing:
            name = str(found["name"]).removeprefix(base).strip("/")
            if not name.startswith(f"{folder}/" if folder else "") or name == folder:
                continue  # the folder itself, which some stores list as an object
            if found.get("type") == "directory":
                if prefix.startswith(f"{name}/") or f"{name}/".startswith(prefix):
                    folders.append(name)
            elif name.startswith(prefix) and not str(found["name"]).endswith("/"):
                files.append(StoredObject(name, int(found.get("size") or 0), _time_of(found)))
        return folders, files

    def location(self, name: str = "") -> str:
        return "/".join((self._files.url, *filter(None, (self._inside, check_name(name) if name else ""))))

    def child(self, prefix: str) -> FsspecStore:
        child = object.__new__(type(self))
        child._files = self._files
        child._inside = "/".join(filter(None, (self._inside, check_name(prefix))))
        return child

    @property
    def timeouts(self) -> tuple[float, float]:
        """Seconds for a connection, and for an object."""
        return self._files.timeouts

    @property
    def redact(self) -> Redactor:
        """Cuts the secrets of the storage options out of texts."""
        return self._files.redact

    def _path(self, name: str) -> str:
        """Return the path of an object or a folder, relative to the root of the file system."""
        return "/".join(filter(None, (self._inside, name)))

    def ask(
        self,
        method: str,
        arguments: Sequence[tuple[Any, ...]],
        keywords: Sequence[Mapping[str, Any]] = (),
        *,
        limit: float | None = None,
        patience: float | None = None,
        at_once: int | None = None,
    ) -> list[Any]:
        """Call a method of the file system with each of these tuples, a path first; return results or exceptions.

        `keywords` are further arguments of each call; `limit` is how many seconds one may take, `patience` after how
        many one that fails counts as unanswered, and `at_once` how many may run at a time, at most.
        """
        if not arguments:
            return []
        files = self._files
        try:
            opened = files.open()
        except Exception as exc:  # noqa: BLE001 - a driver raises anything for its options or its environment
            return [StoreError(self.redact(f"the file system could not be opened: {exc}"), kind=kind_of(exc))] * len(
                arguments
            )
        call: Callable[..., Any] = opened.method(method)

        def ask(number: int) -> Any:
            path, *rest = arguments[number]
            full = opened.full(path)
            opened.forget(full)
            return call(full, *rest, **(keywords[number] if keywords else {}))

        limit = limit or files.timeouts[1] * (_LISTING_TAKES if method == "ls" else 1)
        run = in_threads if opened.loop is None else functools.partial(on_loop, opened.loop)
        results = run(
            ask,
            len(arguments),
            at_once=min(at_once or files.concurrency, opened.at_once(method)),
            limit=limit,
            patience=patience or 0.9 * min(files.timeouts),
            is_silent=_is_silent,
        )
        if opened.loop is None and any(result is NOT_ASKED for result in results):
            files.drop(opened)
        if not all(map(_is_silent, results)):
            files.answered = time.monotonic()
        return results

    def _silence(self) -> Exception | None:
        """Return the error of a store that does not answer; None if it does.

        gcsfs tries a listing again for half a minute, and a listing may take longer than an object. So an object is
        asked for first, unless the store has just answered.
        """
        if time.monotonic() - self._files.answered < _ANSWERS_FOR:
            return None
        [found] = self.ask("cat_file", [(self._path(_ANY_NAME),)])
        return found if _is_silent(found) else None

    def error(self, action: str, name: str, exc: Exception) -> StoreError:
        """Return the error for an object, from its driver's exception."""
        return store_error(action, self.location() + f"/{name}" * bool(name), name, exc, self.redact)


def _is_silent(result: Any) -> bool:
    """Return whether the result of a request is that nobody answered it."""
    return isinstance(result, Exception) and kind_of(result) == "unreachable"


def _time_of(found: Mapping[str, Any]) -> float:
    """Return when an object was put, in seconds since 1970; 0 if its store does not say."""
    value = next((found[name] for name in _TIMES if found.get(name)), 0.0)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            return 0.0
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    return float(value)

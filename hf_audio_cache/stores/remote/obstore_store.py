"""A store at S3, GCS and Azure through obstore, which is faster than fsspec."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from ...errors import StoreError
from ...support.batches import batches
from ...support.process_local import ForkStep, at_fork
from ..base import Range, Store, StoredObject, check_name
from ..wrapper import WrappingStore
from .batching import in_threads
from .errors import is_missing, kind_of
from .fsspec_store import FsspecStore
from .obstore_options import NoEquivalentError, Target

logger = logging.getLogger(__name__)

_THREADS = 16
_IN_ONE_DELETE = 1000
_IN_ONE_LISTING = 1000

# obstore's threads are lost in a fork: in the child its requests would never be answered.
_is_forked = False


def _note_fork() -> None:
    global _is_forked
    _is_forked = _is_forked or "obstore" in sys.modules


at_fork(ForkStep.CLIENTS, in_child=_note_fork)


class _Client:
    """obstore's client of one bucket, made at the first use."""

    def __init__(self, retarget: Callable[[], Target], target: Target, timeouts: tuple[float, float]) -> None:
        self._retarget, self._target = retarget, target
        self.timeouts = timeouts

    def renew(self) -> None:
        """Have another store made at the next use: from the environment as it is then."""
        try:
            self._target = self._retarget()
        except NoEquivalentError as exc:  # such as a session token that is new there
            logger.info("obstore is not used any more: %s", exc)
            self.__dict__["store"] = None
            return
        self.__dict__.pop("store", None)

    @functools.cached_property
    def store(self) -> Any:
        """Return obstore's store; None if it cannot be made."""
        connect, read = (timedelta(seconds=seconds) for seconds in self.timeouts)
        try:
            return getattr(importlib.import_module("obstore.store"), self._target.kind)(
                self._target.bucket,
                config=self._target.config,
                client_options={"connect_timeout": connect, "timeout": read, **self._target.client_options},
                # One more try, for a connection that the server has closed meanwhile; none after a time-out.
                retry_config={"max_retries": 1, "retry_timeout": read / 2},
            )
        except Exception as exc:  # noqa: BLE001 - obstore raises anything for its options or its environment
            logger.info("obstore is not used, as it cannot be set up (%s)", type(exc).__name__)
            return None


class ObstoreStore(WrappingStore):
    """Objects in a bucket, through obstore; through fsspec in a process forked from one that had imported obstore.

    `plain` is the same root through fsspec. `retarget` returns it for obstore, as the environment is now. Raises
    NoEquivalentError if obstore would not do the same as fsspec.
    """

    _wrapped: FsspecStore

    def __init__(self, plain: FsspecStore, retarget: Callable[[], Target]) -> None:
        target = retarget()
        super().__init__(plain)
        self._client = _Client(retarget, target, plain.timeouts)
        self._prefix = f"{target.prefix}/" if target.prefix else ""

    def get_many(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        paths = [self._prefix + check_name(name) for name in names]
        if self._is_plain():
            return super().get_many(names)
        results = self._ask(lambda store, number: bytes(store.get(paths[number]).bytes()), len(paths))
        return self._wrapped.contents(names, results)

    def get_ranges(self, ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
        if self._is_plain():
            return super().get_ranges(ranges)
        paths = [self._prefix + check_name(name) for name, _, _ in ranges]

        def read(store: Any, number: int) -> bytes:
            _, start, n_bytes = ranges[number]
            return bytes(store.get_range(paths[number], start=start, length=n_bytes))

        return self._wrapped.contents([name for name, _, _ in ranges], self._ask(read, len(paths)))

    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        paths = [self._prefix + check_name(name) for name in objects]
        if self._is_plain():
            return super().put_many(objects)
        contents = list(objects.values())
        results = self._ask(lambda store, number: store.put(paths[number], contents[number]), len(paths))
        return self._wrapped.put_errors(objects, results)

    def exists_many(self, names: Sequence[str]) -> list[bool]:
        paths = [self._prefix + check_name(name) for name in names]
        if self._is_plain():
            return super().exists_many(names)
        results = self._ask(lambda store, number: store.head(paths[number]), len(paths))
        self._wrapped.check_answered(names, results)
        return [not _failed(result) for result in results]

    def delete(self, names: Iterable[str]) -> dict[str, StoreError]:
        """Delete many by one request; one by one, through fsspec, if that fails.

        For GCS and Azure an absent object makes the whole request fail, and obstore does not say which one it was.
        """
        wanted = list(dict.fromkeys(map(check_name, names)))
        if self._is_plain():
            return super().delete(wanted)
        parts = list(batches(wanted, _IN_ONE_DELETE))
        results = self._ask(lambda store, number: store.delete([self._prefix + n for n in parts[number]]), len(parts))
        failed: dict[str, StoreError] = {}
        for part, result in zip(parts, results, strict=True):
            if _failed(result) and kind_of(result) in ("", "no bucket"):
                failed |= super().delete(part)
            elif _failed(result):
                failed |= {name: self._wrapped.error("delete", name, result) for name in part}
        return failed

    def scan(self, prefix: str = "") -> Iterator[StoredObject]:
        if self._is_plain():
            yield from super().scan(prefix)
            return
        folder = (self._prefix + prefix.rpartition("/")[0]).rstrip("/")
        pages = iter(self._client.store.list(folder or None, chunk_size=_IN_ONE_LISTING))
        while not isinstance(page := _next_page(pages), Exception):
            for found in page:
                if found["path"].startswith(self._prefix + prefix):
                    name = found["path"].removeprefix(self._prefix)
                    yield StoredObject(name, found["size"], found["last_modified"].timestamp())
        if not (isinstance(page, StopIteration) or is_missing(page)):
            raise self._wrapped.error("list", prefix, page)

    listing = Store.listing  # by `scan` of this store
    __repr__ = Store.__repr__

    def child(self, prefix: str) -> ObstoreStore:
        child = super().child(prefix)
        child._prefix = f"{self._prefix}{prefix}/"
        return child

    def renew(self) -> bool:
        self._client.renew()
        return super().renew()

    def _is_plain(self) -> bool:
        return _is_forked or self._client.store is None

    def _ask(self, request: Callable[[Any, int], Any], count: int) -> list[Any]:
        """Return the result or the exception of each request."""
        store = self._client.store
        if store is None:  # it was renewed by another thread, and is asked through fsspec from now on
            return [StoreError("the client was replaced meanwhile", kind="unreachable")] * count
        return in_threads(
            functools.partial(request, store),
            count,
            at_once=_THREADS,
            limit=3 * self._client.timeouts[1],  # longer than obstore itself takes
            patience=0.9 * min(self._client.timeouts),
            is_silent=lambda exc: kind_of(exc) == "unreachable",
        )


def _next_page(pages: Iterator[Any]) -> Any:
    """Return the next page of a listing, or the exception in its place."""
    try:
        return next(pages)
    except Exception as exc:  # noqa: BLE001 - obstore's exceptions have no common class
        return exc


def _failed(result: object) -> bool:
    return isinstance(result, Exception)

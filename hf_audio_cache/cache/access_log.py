"""Writing the access log: which entries a run used and when, and the record of the run, in batches.

Access times of stores are not reliable, and a lazy run has no end. So each process collects the names of the entries
that it read or wrote, and writes a few thousand at a time into a new object, which is never changed: names under the
root, one a line, gzipped. With the first one goes the description of the run. The figures of a machine, which are the
`Stats` of all its processes so far, replace those before. `layout` has the names of these objects.

Days are in UTC. A run is one `CachedFeatures` object with all its worker processes. A process that only reads
references is a run of its own (``runs/<run>/references.json``). The log lags by at most 4,096 names or 30 s. What a
killed process had not written is lost, and so is what cannot be written: no run depends on it.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import logging
import os
import platform
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..errors import StoreError
from ..stores import Store
from ..support.process_local import ProcessLocal, finalize_here
from ..support.write_behind import Writer
from .layout import access_name, figures_name, run_name
from .stats import Counters, Stats

logger = logging.getLogger(__name__)

_MAX_NAMES = 4096  # of a record
_MAX_SECONDS = 30.0  # from the first name of a record to its writing
_MAX_REMEMBERED = 1 << 18  # names a process remembers as recorded today; beyond that, some are recorded twice
_MAX_FAILURES = 3  # in a row; after that a process stops recording
_DAY = 86_400.0


@dataclass(frozen=True)
class Run:
    """One run."""

    id: str  # when it began, and a few random digits
    started: str  # as ISO 8601 in UTC
    # The number of rows of each dataset that it was given, by name.
    datasets: dict[str, int] = field(default_factory=dict, compare=False)

    @classmethod
    def new(cls) -> Run:
        """Return a run that begins now."""
        now = time.gmtime()
        return cls(
            time.strftime("%Y%m%dT%H%M%S-", now) + secrets.token_hex(4), time.strftime("%Y-%m-%dT%H:%M:%SZ", now)
        )


class UseRecorder:
    """Records which entries a run uses.

    It never raises or warns, and only `finish` waits for the store. Workers are often killed when they are done; so
    each process writes what all of them on its machine have counted.
    """

    def __init__(self, store: Store, run: Run | None = None, *, counters: Counters | None = None) -> None:
        self.run = run or Run.new()
        self.about: dict[str, Any] = {"user": _user(), "host": platform.node()}
        self._counters = counters or Counters("")
        self._store = store.bare()
        self._writer = Writer()
        self._own: ProcessLocal[_OwnUses] = ProcessLocal()

    def add(self, folder: str, names: Sequence[str]) -> None:
        """Note that the entries of these names in a folder of the root were read or written."""
        self._of_process().add([f"{folder}/{name}" for name in names])

    def finish(self) -> None:
        """Write the remaining names, and wait until they are written."""
        self._of_process().flush()
        self._writer.wait()

    def _of_process(self) -> _OwnUses:
        return self._own.get(self._make)

    def _make(self) -> _OwnUses:
        _at_the_end.get(lambda: finalize_here(_left, _write_left))  # before any log's own, so that it comes after them
        own = _OwnUses(self._store, self.run, self.about, self._counters, self._writer)
        finalize_here(self, own.close, weakref.ref(self))
        return own


_Record: TypeAlias = tuple[dict[str, bytes], list[str]]  # files, and entries of which one must still be there


def _user() -> str:
    return next((os.environ[name] for name in ("USER", "LOGNAME", "USERNAME") if os.environ.get(name)), "")


class _OwnUses:
    """The entries that one process used."""

    def __init__(self, store: Store, run: Run, about: dict[str, Any], counters: Counters, writer: Writer) -> None:
        self._token = secrets.token_hex(6)
        self._store, self._run, self._about, self._counters, self._writer = store, run, about, counters, writer
        self._told = Stats()
        self._told_at = time.time()
        self._some: list[str] = []  # the last names of entries
        self._lock, self._submitting = threading.Lock(), threading.Lock()
        self._day = 0
        self._known: set[int] = set()  # hashes: a name would take several times as much
        self._pending: list[str] = []
        self._since = 0.0
        self._n_records = 0
        self._described: set[tuple[str, int]] = set()
        self._n_failures = 0

    def add(self, names: Sequence[str]) -> None:
        if self._n_failures >= _MAX_FAILURES:
            return
        now = time.time()
        if int(now // _DAY) != self._day:
            self.flush()
        with self._lock:
            if int(now // _DAY) != self._day or len(self._known) > _MAX_REMEMBERED:
                self._day = int(now // _DAY)
                self._known.clear()
            new = [name for name in names if hash(name) not in self._known]
            if new:
                self._known.update(map(hash, new))
                self._since = self._since if self._pending else now
                self._pending += new
            self._some = [*names[:1], *names[-1:]] or self._some
            is_due = len(self._pending) >= _MAX_NAMES or (self._pending and now - self._since >= _MAX_SECONDS)
            is_due = is_due or now - self._told_at >= _MAX_SECONDS
        if is_due:
            self.flush()

    def flush(self) -> None:
        records = [(self, self._take()), *_take_left()]
        with self._submitting:
            for own, record in records:
                if record is not None:
                    self._writer.submit(functools.partial(own._write, *record))
            self._writer.release()  # it is long until the next record, and there may be many roots

    def close(self, owner: Callable[[], object]) -> None:
        """Write the remaining names, now or at the end of the process, when the log is no longer used."""
        if self._store.is_local:
            if (record := self._take()) is not None:
                self._write(*record)
        elif owner() is not None:  # the process ends; a thread of ours writes, since this may be one of the driver
            self.flush()
        elif (record := self._take()) is not None:
            # The garbage collector calls, perhaps in the middle of what holds a lock that a hand-over would wait for.
            _left.append((os.getpid(), self, record))

    def _take(self) -> _Record | None:
        """Return the next record, the run's description if it is not written yet, and its figures if they are new."""
        with self._lock:
            names, self._pending = self._pending, []
            self._told_at = time.time()
            figures = self._counters.total()
            if self._n_failures >= _MAX_FAILURES or not (names or (self._some and figures != self._told)):
                return None
            files = {}
            if names:
                day = time.strftime("%Y-%m-%d", time.gmtime(self._day * _DAY))
                name = access_name(day, self._run.id, self._token, self._n_records)
                files[name] = gzip.compress("\n".join(names).encode(), mtime=0)
                self._n_records += 1
            about = run_name(self._run.id, self._about.get("processor_sha"))
            if (about, len(self._run.datasets)) not in self._described:
                files[about] = self._description()
                self._described.add((about, len(self._run.datasets)))
            if figures != self._told:
                files[figures_name(self._run.id, self._counters.token or self._token)] = self._told_figures(figures)
                self._told = figures
            return files, self._some

    def _told_figures(self, figures: Stats) -> bytes:
        counted = {name: value for name, value in figures.to_dict().items() if value}
        return json.dumps({"run": self._run.id, "processor_sha": self._about.get("processor_sha"), **counted}).encode()

    def _description(self) -> bytes:
        description = {"run": self._run.id, "started": self._run.started, "datasets": self._run.datasets, **self._about}
        return (json.dumps(description, indent=1, sort_keys=True) + "\n").encode()

    def _write(self, files: dict[str, bytes], entries: Sequence[str]) -> list[StoreError]:
        """Write a record. Failures are not returned: they would count as lost entries."""
        try:
            if not any(self._store.exists_many(entries)):  # do not create a root again that was deleted meanwhile
                return []
            failed = self._store.put_many(files)
            for error in failed.values():
                logger.debug("a record of use was not written: %s", error)
            is_final = any(error.kind in ("read-only", "denied") for error in failed.values())
            self._n_failures = (_MAX_FAILURES if is_final else self._n_failures + 1) if failed else 0
        except Exception as exc:  # noqa: BLE001 - whatever it is, the run goes on
            logger.debug("a record of use was not written: %s", exc)
            self._n_failures += 1
        return []


# Records of logs that were collected, by the process that has to write them.
_left: deque[tuple[int, _OwnUses, _Record]] = deque()


def _take_left() -> Iterator[tuple[_OwnUses, _Record]]:
    with contextlib.suppress(IndexError):  # none is left, though another thread takes some, too
        while True:
            process, own, record = _left.popleft()
            if process == os.getpid():
                yield own, record


def _write_left() -> None:
    for own, record in _take_left():
        own._write(*record)


_at_the_end: ProcessLocal[None] = ProcessLocal()

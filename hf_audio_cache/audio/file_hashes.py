"""A database of the SHA-256 of files, so that one of the same inode, size and times is not read again.

A hash is valid for the same path, device, inode, size, mtime and ctime, to the nanosecond; only the machine's clock can
set ctime back. A file that changed less than two seconds before it was read is not remembered: a second change in the
same tick of its file system's clock would not show. (git's index has the same rule.) Nor is a file on a read-only mount
remembered or looked up: another image mounted there has the same device and inodes, and may have the same times.
A file at a URL has the same entity tag or generation, and the same size.

The database is one SQLite file (see `hashes_path`). Each row has a checksum over all its fields. A failure here is no
error: the file is read instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..support.mounts import is_network_mount
from ..support.paths import hashes_path
from ..support.process_local import ProcessLocal
from ..support.threads import in_threads

logger = logging.getLogger(__name__)

_TICK = 2_000_000_000  # ns: the coarsest clock of a file system, FAT's
_WAIT = 0.2  # s for a lock; to wait longer would take more than to read the file
_STATE = struct.Struct("<5q")
_SCHEMA = "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, sha BLOB, checked BLOB) WITHOUT ROWID"
_MOST_AT_ONCE = 500  # placeholders in one statement; SQLite allows 999


@dataclass(frozen=True)
class FileState:
    """State of a file, which changes whenever its content does."""

    path: str
    numbers: tuple[int, int, int, int, int]  # device, inode, size in bytes, mtime and ctime in nanoseconds

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> FileState | None:
        """Return the state of a file; None if it is not a regular file, or a number does not fit into 64 bits."""
        numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if not stat.S_ISREG(status.st_mode) or max(numbers) >= 1 << 63:
            return None
        return cls(os.path.abspath(path), numbers)

    def is_settled(self) -> bool:
        """Return whether any later change will show in the numbers; to be called as soon as the file was read."""
        return max(self.numbers[3:]) < time.time_ns() - _TICK

    def _key(self) -> bytes:
        return hashlib.blake2b(os.fsencode(self.path), digest_size=16).digest()

    def _check(self, sha: bytes) -> bytes:
        return hashlib.blake2b(_STATE.pack(*self.numbers) + sha, digest_size=16, key=self._key()).digest()


@dataclass(frozen=True)
class FarState:
    """State of a file at a URL."""

    url: str
    place: str  # tells its store from others with the same URL
    tag: str  # entity tag or generation
    n_bytes: int

    def _key(self) -> bytes:
        return hashlib.blake2b(f"{self.place} {self.url}".encode(), digest_size=16, person=b"far").digest()

    def _check(self, sha: bytes) -> bytes:
        said = f"{self.n_bytes} {self.tag}".encode()
        return hashlib.blake2b(said + sha, digest_size=16, key=self._key()).digest()


# By the path of the database; None if it cannot be used. A connection must not be carried over a fork.
_opened: ProcessLocal[dict[str, tuple[sqlite3.Connection, threading.Lock] | None]] = ProcessLocal()
_network_devices: dict[int, bool] = {}


def find_hashes(files: Sequence[str | FarState | None]) -> list[str | None]:
    """Return, for each file, the SHA-256 of its content in hexadecimal digits; None if it is unknown.

    A local file is given by its path, another by its state. A file may be None, and its hash is then, too.
    """
    states = [_state(file) if isinstance(file, str) else file for file in files]
    wanted = {state._key(): state for state in states if state is not None}
    known: dict[FileState | FarState, str] = {}
    opened = _open(make=False) if wanted else None
    if opened is not None:
        connection, lock = opened
        try:
            with lock:
                for key, sha, checked in _select(connection, list(wanted)):
                    if wanted[key]._check(sha) == checked:
                        known[wanted[key]] = sha.hex()
        except (sqlite3.Error, TypeError) as exc:
            _give_up(exc)
    return [None if state is None else known.get(state) for state in states]


def learn_hashes(found: Iterable[tuple[FileState | FarState, str]]) -> None:
    """Remember the SHA-256 of files that were read whole; their states must have been settled then."""
    rows = [
        (state._key(), bytes.fromhex(sha), state._check(bytes.fromhex(sha)))
        for state, sha in found
        if isinstance(state, FarState) or not (_is_on_network(state) or _is_on_read_only_mount(state.path))
    ]
    opened = _open(make=True) if rows else None
    if opened is None:
        return
    connection, lock = opened
    try:
        with lock, connection:
            connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
    except sqlite3.Error as exc:
        _give_up(exc)


def files_sha256(paths: Iterable[str], read: Callable[[str], str]) -> str:
    """Return a digest that changes whenever one of these files does: of their states, or of what they hold.

    A file that is not there counts, too: it may come back. `read` returns the SHA-256 of a file whose state might not
    show a change.
    """

    def tell(path: str) -> bytes:
        state = _state(path)
        if state is not None and state.is_settled() and not _is_on_network(state):
            told = _STATE.pack(*state.numbers)
        else:
            told = read(path).encode() if os.path.exists(path) else b"none"
        return hashlib.sha256(os.fsencode(path)).digest() + hashlib.sha256(told).digest()

    return hashlib.sha256(b"".join(in_threads(tell, list(paths)))).hexdigest()


def _is_on_network(state: FileState) -> bool:
    """Return whether a file is on a network mount, where another machine's clock sets its times."""
    device = state.numbers[0]
    if device not in _network_devices:
        _network_devices[device] = is_network_mount(state.path)
    return _network_devices[device]


def _is_on_read_only_mount(path: str) -> bool:
    if not hasattr(os, "ST_RDONLY"):  # Windows: nothing tells it
        return False
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)  # each time: a mount may change, and its device stay
    except (OSError, ValueError):
        return True


def _open(*, make: bool) -> tuple[sqlite3.Connection, threading.Lock] | None:
    try:
        path = hashes_path()
    except OSError:  # a relative path, and the working directory is gone
        path = None
    if path is None:
        return None
    opened = _opened.get(dict)
    if path not in opened:
        if not make and not os.path.exists(path):
            return None
        try:
            opened[path] = (_connect(path), threading.Lock())
        except (sqlite3.Error, OSError) as exc:
            _give_up(exc)
    return opened.get(path)


def _give_up(exc: Exception) -> None:
    if isinstance(exc, sqlite3.OperationalError) and "locked" in str(exc):
        return  # another process writes; the next batch may find it free
    logger.info("file hashes are not remembered in this process: %s", exc)
    path = hashes_path()
    if path is None:
        return
    _opened.get(dict)[path] = None
    if type(exc) is sqlite3.DatabaseError:  # the file is damaged, or not a database
        with contextlib.suppress(OSError):
            os.unlink(path)


def _state(path: str) -> FileState | None:
    try:
        state = FileState.of(path, os.stat(path))
        return None if state is None or _is_on_read_only_mount(path) else state
    except (OSError, ValueError):
        return None


def _connect(path: str) -> sqlite3.Connection:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # private, since it tells which files the user has
    connection = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for each other
    connection.execute("PRAGMA synchronous = NORMAL")
    with connection:
        connection.execute(_SCHEMA)
    return connection


def _select(connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[tuple[bytes, bytes, bytes]]:
    rows: list[tuple[bytes, bytes, bytes]] = []
    for start in range(0, len(keys), _MOST_AT_ONCE):
        some = keys[start : start + _MOST_AT_ONCE]
        rows += connection.execute(f"SELECT * FROM files WHERE path IN ({','.join('?' * len(some))})", some)
    return rows

"""A store in a directory: objects are written aside and renamed, and no link under the root is followed."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import StoreError
from ..support.threads import in_threads
from .base import Range, Store, StoredObject, check_name
from .folders import (
    MAKE_FILE,
    TEMPORARY_SUFFIX,
    Below,
    Folder,
    OpenFolder,
    is_file,
    open_in,
    open_top,
    read_end,
    replace_in,
    temporary_name,
    unlink_in,
    unlink_unchanged,
)
from .open_files import OpenFile, OpenFiles

NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM)  # a folder that this user may not write to
UNFINISHED_AFTER = 3600.0  # seconds after which a file counts as left by a killed writer

# That reading a part of a file takes from the page cache, at most; and one that was announced.
_CACHED_SECONDS, _ANNOUNCED_SECONDS = 40e-6, 10e-6
_MAX_BYTES = 1 << 34  # more than any entry has: a sparse file may claim any size


def is_temporary(name: str) -> bool:
    """Return whether `name` is that of an unfinished file."""
    file_name = name.rpartition("/")[2]
    return file_name.startswith(".") and file_name.endswith(TEMPORARY_SUFFIX)


# Stores that keep their folder open, the first one first: a process may have many stores, and few open files.
_MOST_OPEN = 16
_with_open_folder: deque[weakref.ref[LocalStore]] = deque()


class LocalStore(Store):
    """Objects as files under `root`.

    There are no locks. An object is written to a temporary file beside its final place, then renamed, which is atomic
    on POSIX file systems, including NFS and Lustre. File modes follow the umask: ``mkstemp`` would give 0600, which
    colleagues who share the root could not read.

    The root may be a symbolic link, but no link under it is followed: it could turn our writes and deletions to any
    place that we can reach. So each folder is opened from its parent, and not by its path, which somebody could change
    between a check and its use. The folder that all objects of a store lie in stays open, and is opened again when
    another one has taken its place. `inside` is a folder under the root that the store is confined to.
    """

    is_local = True

    def __init__(self, root: str | os.PathLike[str], inside: str = "") -> None:
        self._root = os.path.abspath(root)
        self._folders = tuple(check_name(inside).split("/")) if inside else ()
        self._path = os.path.join(self._root, *self._folders)
        self._kept: OpenFolder | None = None
        self._open_files = OpenFiles()
        self._disk_is_read = False

    def get_many(self, names: Sequence[str]) -> list[bytes | StoreError | None]:
        return self._read_many(names)

    def ends_many(self, names: Sequence[str], n_bytes: int) -> list[bytes | StoreError | None]:
        return self._read_many(names, n_bytes)

    def _read_many(self, names: Sequence[str], n_last: int | None = None) -> list[bytes | StoreError | None]:
        try:
            top = self._top()
        except (FileNotFoundError, NotADirectoryError):
            return [None for name in names if check_name(name)]
        except OSError as exc:
            return [self._error("read", name, exc) for name in names if check_name(name)]
        return in_threads(lambda name: self._read(top, name, n_last), names)

    def get_ranges(self, ranges: Sequence[Range]) -> list[bytes | StoreError | None]:
        def read(one: Range) -> bytes | StoreError | None:
            name, start, n_bytes = one
            try:
                return self._open_files.read(name, self.open_file, start, n_bytes)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except (OSError, MemoryError) as exc:
                return self._error("read", name, exc)

        if len(ranges) == 1:
            return [read(ranges[0])]
        started = time.perf_counter()
        limit = _CACHED_SECONDS
        if self._disk_is_read:  # not the page cache: many reads at once take hardly longer than one
            self._open_files.announce(ranges)
            limit = _ANNOUNCED_SECONDS
        found = in_threads(read, ranges)
        self._disk_is_read = time.perf_counter() - started > limit * len(ranges)
        return found

    def open_file(self, name: str) -> OpenFile:
        """Return an object as an open file; OSError if it cannot be opened."""
        folders, file_name = _split(name)
        with Below(self._top(), folders) as folder:
            return OpenFile(open_in(folder, file_name))

    def close_all_but(self, names: set[str]) -> None:
        """Close the files that `get_ranges` keeps open, but those of these objects."""
        self._open_files.keep_only(names)

    def sync(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                self.open_file(name).sync()
                with Below(self._top(), _split(name)[0]) as folder:
                    if isinstance(folder, int):
                        os.fsync(folder)
            except OSError as exc:
                raise self._error("write", name, exc) from exc

    def _read(self, top: OpenFolder, name: str, n_last: int | None) -> bytes | StoreError | None:
        folders, file_name = _split(name)
        try:
            with Below(top, folders) as folder:
                file = open_in(folder, file_name)
            try:
                return self._read_open(name, file) if n_last is None else read_end(file, n_last)
            finally:
                os.close(file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            return self._error("read", name, exc)

    def _read_open(self, name: str, file: int) -> bytes | StoreError:
        status = os.fstat(file)
        reason = "" if stat.S_ISREG(status.st_mode) else "it is not a regular file"
        if status.st_size > _MAX_BYTES:
            reason = f"it has {status.st_size} bytes, and at most {_MAX_BYTES} are read"
        if reason:
            return StoreError(f"could not read {self.location(name)}: {reason}", name=name)
        try:
            # One call reads all, if it asks for a byte more; a network file system may give less at once.
            content = os.read(file, status.st_size + 1)
            if len(content) == status.st_size:
                return content
            with open(file, "rb", buffering=0, closefd=False) as opened:
                return content + opened.read()
        except MemoryError:
            reason = f"its {status.st_size} bytes do not fit into memory"
            return StoreError(f"could not read {self.location(name)}: {reason}", name=name)

    def put_many(self, objects: Mapping[str, bytes]) -> dict[str, StoreError]:
        failed = {}
        places = {name: _split(name) for name in objects}  # a bad name is refused before anything is written
        for name, content in objects.items():
            try:
                try:
                    self._write(*places[name], content)
                except FileNotFoundError:  # somebody has deleted the folder or the unfinished file meanwhile
                    self._write(*places[name], content)
            except OSError as exc:
                failed[name] = self._error("write", name, exc)
        return failed

    def _write(self, folders: Sequence[str], file_name: str, content: bytes) -> None:
        temporary = temporary_name(file_name)
        with Below(self._top(make=True), folders, make=True) as folder:
            try:
                file = open_in(folder, temporary, MAKE_FILE)
                try:
                    remaining = memoryview(content)
                    while remaining:  # one call may write less than all: Linux stops at 2 GiB
                        remaining = remaining[os.write(file, remaining) :]
                finally:
                    os.close(file)
                replace_in(folder, temporary, file_name)
            except BaseException:
                with contextlib.suppress(OSError):
                    unlink_in(folder, temporary)
                raise

    def exists_many(self, names: Sequence[str]) -> list[bool]:
        try:
            top = self._top()
        except OSError:
            return [False for name in names if check_name(name)]
        return [is_file(top, *_split(name)) for name in names]

    def delete(self, names: Iterable[str]) -> dict[str, StoreError]:
        return self._delete((name, unlink_in) for name in names)

    def delete_unchanged(self, objects: Iterable[StoredObject]) -> dict[str, StoreError]:
        return self._delete((one.name, functools.partial(unlink_unchanged, listed=one)) for one in objects)

    def _delete(self, files: Iterable[tuple[str, Callable[[Folder, str], None]]]) -> dict[str, StoreError]:
        """Delete each file by the function that comes with it."""
        failed = {}
        for name, unlink in files:
            folders, file_name = _split(name)
            try:
                with Below(self._top(), folders) as folder:
                    unlink(folder, file_name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as exc:
                failed[name] = self._error("delete", name, exc)
        return failed

    def scan(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield each file but symbolic links: what they point to is not in the root."""
        yield from self._walk((), prefix)

    def _walk(self, folders: tuple[str, ...], prefix: str) -> Iterator[StoredObject]:
        relative = "".join(f"{name}/" for name in folders)
        try:
            with Below(self._top(), folders) as folder:
                with os.scandir(folder) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
                inner, files = self._sort_out(found, relative, prefix)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise self._error("list", relative, exc) from exc
        yield from files
        for name in inner:
            yield from self._walk((*folders, name), prefix)

    @staticmethod
    def _sort_out(
        found: Iterable[os.DirEntry[str]], relative: str, prefix: str
    ) -> tuple[list[str], list[StoredObject]]:
        """Return the folders to look into, and the files of a listing."""
        folders, files = [], []
        for entry in found:
            name = relative + entry.name
            if entry.is_dir(follow_symlinks=False):
                if prefix.startswith(f"{name}/") or f"{name}/".startswith(prefix):
                    folders.append(entry.name)
            elif entry.is_file(follow_symlinks=False) and name.startswith(prefix):
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    status = entry.stat(follow_symlinks=False)
                    files.append(StoredObject(name, status.st_size, status.st_mtime))
        return folders, files

    def location(self, name: str = "") -> Path:
        return Path(self._root, *self._folders, *(check_name(name).split("/") if name else ()))

    def child(self, prefix: str) -> LocalStore:
        return LocalStore(self._root, "/".join((*self._folders, check_name(prefix))))

    def _top(self, *, make: bool = False) -> OpenFolder:
        """Return the folder that all objects lie in, opened step by step where it is not open."""
        kept = self._kept
        if kept is not None and kept.is_at(self._path):
            return kept
        if make:
            if os.path.islink(self._root) and not os.path.exists(self._root):  # to a disk that is not mounted, say
                said = f"the root is a link to {os.readlink(self._root)}, which is not there"
                raise FileExistsError(errno.EEXIST, said)
            os.makedirs(self._root, exist_ok=True)
        self._kept = top = open_top(self._root, self._folders, make=make)
        _with_open_folder.append(weakref.ref(self))
        if len(_with_open_folder) > _MOST_OPEN:
            with contextlib.suppress(IndexError, AttributeError):  # another thread was first; the store is gone
                _with_open_folder.popleft()()._kept = None  # type: ignore[union-attr]
        return top

    def _error(self, action: str, name: str, exc: OSError | MemoryError) -> StoreError:
        where = os.path.join(self._root, *self._folders, name)
        error = StoreError(
            f"could not {action} {where}: {getattr(exc, 'strerror', None) or exc}",
            name=name,
            errno=getattr(exc, "errno", None),
        )
        error.__cause__ = exc
        return error


def _split(name: str) -> tuple[list[str], str]:
    """Return the folders of an object and its file name."""
    *folders, file_name = check_name(name).split("/")
    return folders, file_name

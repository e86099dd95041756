"""Open folders of the local disk step by step, each from the one above it. No symbolic link is followed.

Where a system opens no file relative to an open folder (Windows), a folder is its path: links are looked for before a
step, and somebody who puts one there at the right moment is not noticed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from .base import StoredObject

HAS_DESCRIPTORS = hasattr(os, "O_DIRECTORY") and {os.open, os.mkdir, os.stat, os.unlink} <= os.supports_dir_fd

Folder: TypeAlias = "int | str"  # a descriptor, or a path where there are none

_EVERYWHERE = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
_OPEN_STEP = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _EVERYWHERE
# Without O_NONBLOCK a reader would wait for a pipe in an object's place.
OPEN_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _EVERYWHERE
MAKE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _EVERYWHERE
TEMPORARY_SUFFIX = ".tmp"
_TEMPORARY = re.compile(rf"(?P<folder>(?:.*/)?)\.(?P<name>[^/]+)\.[0-9]+-[0-9a-f]{{8}}{re.escape(TEMPORARY_SUFFIX)}")
_TRIES, _PAUSE = 10, 0.01  # to replace a file that somebody reads, which Windows refuses


def open_in(folder: Folder, name: str, flags: int = OPEN_FILE) -> int:
    """Open a file in a folder; a new one gets the mode that the umask leaves it."""
    if isinstance(folder, int):
        return os.open(name, flags, 0o666, dir_fd=folder)
    path = os.path.join(folder, name)
    _refuse_link(path)
    try:
        return os.open(path, flags, 0o666)
    except PermissionError:
        if not os.path.isdir(path):
            raise
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path) from None


def replace_in(folder: Folder, old: str, new: str) -> None:
    """Rename a file in a folder, over one that may be there."""
    if isinstance(folder, int):
        os.replace(old, new, src_dir_fd=folder, dst_dir_fd=folder)
        return
    for left in reversed(range(_TRIES)):
        try:
            os.replace(os.path.join(folder, old), os.path.join(folder, new))
            return
        except PermissionError:
            if not left:
                raise
            time.sleep(_PAUSE)


def unlink_in(folder: Folder, name: str) -> None:
    """Delete a file in a folder."""
    if isinstance(folder, int):
        os.unlink(name, dir_fd=folder)
    else:
        os.unlink(os.path.join(folder, name))


def temporary_name(name: str) -> str:
    """Return a name for a file that is to get this one."""
    return f".{name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"


def finished_name(name: str) -> str:
    """Return the name that a temporary file would have got; another name as it is."""
    match = _TEMPORARY.fullmatch(name)
    return name if match is None else match["folder"] + match["name"]


def unlink_unchanged(folder: Folder, name: str, listed: StoredObject) -> None:
    """Delete a file that is still what was listed; moved aside first, or somebody could replace it before the end."""
    aside = temporary_name(name)
    replace_in(folder, name, aside)
    status = stat_in(folder, aside)
    if (status.st_size, status.st_mtime) == (listed.n_bytes, listed.modified):
        unlink_in(folder, aside)
    else:
        replace_in(folder, aside, name)


def is_file(top: OpenFolder, folders: Sequence[str], name: str) -> bool:
    """Return whether there is a regular file, and no link, of this name."""
    try:
        with Below(top, folders) as folder:
            return stat.S_ISREG(stat_in(folder, name).st_mode)
    except OSError:
        return False


def read_end(file: int, n_bytes: int) -> bytes | None:
    """Return the last bytes of an open file; None if it is no regular one."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        return None
    return read_at(file, n_bytes, max(0, status.st_size - n_bytes))


_one_at_a_time = threading.Lock()


def read_at(file: int, n_bytes: int, start: int) -> bytes:
    """Return bytes of an open file from a place on."""
    if hasattr(os, "pread"):
        return os.pread(file, n_bytes, start)
    with _one_at_a_time:  # Windows has none
        os.lseek(file, start, os.SEEK_SET)
        return os.read(file, n_bytes)


def open_top(root: str, folders: Sequence[str], *, make: bool) -> OpenFolder:
    """Open the folder that is reached from a root, which may itself be a link."""
    if HAS_DESCRIPTORS:
        first: Folder = os.open(root, _OPEN_STEP & ~getattr(os, "O_NOFOLLOW", 0))
    elif stat.S_ISDIR(os.stat(root).st_mode):
        first = root
    else:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), root)
    return OpenFolder(_open_below(first, folders, make=make))


class Opened:
    """An open file or folder, closed when nobody uses it any more."""

    def __init__(self, descriptor: Folder) -> None:
        self.descriptor = descriptor
        self.status = os.stat(descriptor)

    def is_open(self) -> bool:
        """Return whether the descriptor is still that of this one: a program that becomes a daemon closes all.

        A descriptor that was closed is forgotten, since its number comes again.
        """
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(self.descriptor), self.status):
                return True
        self.descriptor = -1
        return False

    def __del__(self) -> None:
        if isinstance(self.descriptor, int) and hasattr(self, "status") and self.is_open():
            os.close(self.descriptor)


class OpenFolder(Opened):
    """An open folder."""

    def is_at(self, path: str) -> bool:
        """Return whether it is still the folder at a path, and its descriptor still that of this folder."""
        try:
            return os.path.samestat(os.stat(path), self.status) and self.is_open()
        except OSError:
            return False


class Below:
    """Opens a folder below another one for a while."""

    def __init__(self, top: OpenFolder, folders: Sequence[str], *, make: bool = False) -> None:
        self._top, self._folders, self._make = top, folders, make

    def __enter__(self) -> Folder:
        if self._folders:
            first = _open_step(self._top.descriptor, self._folders[0], make=self._make)
            self._folder = _open_below(first, self._folders[1:], make=self._make)
            return self._folder
        return self._top.descriptor

    def __exit__(self, *exc: object) -> None:
        if self._folders:
            _close(self._folder)


def _open_below(folder: Folder, names: Iterable[str], *, make: bool = False) -> Folder:
    """Return a folder that is reached step by step; the first is closed."""
    for name in names:
        parent = folder
        try:
            folder = _open_step(parent, name, make=make)
        finally:
            _close(parent)
    return folder


def _close(folder: Folder) -> None:
    if isinstance(folder, int):
        os.close(folder)


def _open_step(parent: Folder, name: str, *, make: bool) -> Folder:
    try:
        return _step(parent, name)
    except FileNotFoundError:
        if not make:
            raise
        with contextlib.suppress(FileExistsError):
            if isinstance(parent, int):
                os.mkdir(name, dir_fd=parent)
            else:
                os.mkdir(os.path.join(parent, name))
        return _step(parent, name)
    except NotADirectoryError:  # Linux raises this for a link, others ELOOP
        if stat.S_ISLNK(stat_in(parent, name).st_mode):
            raise _link_error(name) from None
        raise


def _step(parent: Folder, name: str) -> Folder:
    if isinstance(parent, int):
        return os.open(name, _OPEN_STEP, dir_fd=parent)
    path = os.path.join(parent, name)
    _refuse_link(path)
    if not stat.S_ISDIR(os.stat(path).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    return path


def stat_in(folder: Folder, name: str) -> os.stat_result:
    """Return the status of a file in a folder, or of a link itself."""
    if isinstance(folder, int):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    return os.stat(os.path.join(folder, name), follow_symlinks=False)


def _refuse_link(path: str) -> None:
    """Raise OSError for a symbolic link, or a junction of Windows."""
    if os.path.islink(path) or getattr(os.path, "isjunction", os.path.islink)(path):
        raise _link_error(os.path.basename(path))


def _link_error(name: str) -> OSError:
    return OSError(errno.ELOOP, f"{name} is a symbolic link, and links under a root are not followed")

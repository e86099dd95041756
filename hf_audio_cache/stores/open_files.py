"""Files that stay open, to be read at any place."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable

from .base import Range
from .folders import Opened, read_at

_MOST_OPEN = 256  # of a store; processes may open 1,024 files by default
_READ_AHEAD = 1 << 13  # bytes that a part may begin after another to be read ahead with it


class OpenFile(Opened):
    """An open regular file. A descriptor of anything else is closed at once, and raises OSError."""

    descriptor: int

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.n_bytes = self.status.st_size
        if not stat.S_ISREG(self.status.st_mode):
            raise OSError("it is not a regular file")

    def read(self, start: int, n_bytes: int) -> bytes:
        """Return the bytes from `start` on; fewer, if the file ends before."""
        if not self.is_open():
            raise OSError(errno.EBADF, "another part of the program has closed it")
        return self.read_checked(start, n_bytes)

    def read_checked(self, start: int, n_bytes: int) -> bytes:
        """Do as `read`, for who checks what is read: it may come from another file, if the program closed this one."""
        content = read_at(self.descriptor, n_bytes, start)
        while len(content) < n_bytes:  # a network file system may give less at once
            more = read_at(self.descriptor, n_bytes - len(content), start + len(content))
            if not more:
                break
            content += more
        return content

    def announce(self, start: int, n_bytes: int) -> None:
        """Let the system begin to read this part."""
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(self.descriptor, start, n_bytes, os.POSIX_FADV_WILLNEED)

    def sync(self) -> None:
        """Wait until its content is on the disk."""
        os.fsync(self.descriptor)


class OpenFiles:
    """The files of a store that were read last, kept open."""

    def __init__(self) -> None:
        self._files: dict[str, OpenFile] = {}

    def _get(self, name: str, open_file: Callable[[str], OpenFile]) -> OpenFile:
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = open_file(name)
            while len(self._files) > _MOST_OPEN:
                self._files.pop(next(iter(list(self._files))), None)
        return file

    def read(self, name: str, open_file: Callable[[str], OpenFile], start: int, n_bytes: int) -> bytes:
        """Return bytes of a file, as `OpenFile.read` does; opened again if the program closed it."""
        try:
            return self._get(name, open_file).read(start, n_bytes)
        except OSError as exc:
            if exc.errno != errno.EBADF:
                raise
            self._files.pop(name, None)
            return self._get(name, open_file).read(start, n_bytes)

    def announce(self, ranges: Iterable[Range]) -> None:
        """Let the system begin to read these parts of files that are open.

        What follows another part is left out: the system reads ahead by itself, in fewer and larger requests.
        """
        last_name, last_end = "", 0
        for name, start, n_bytes in sorted(ranges):
            follows = name == last_name and start - last_end <= _READ_AHEAD
            if not follows and (file := self._files.get(name)) is not None:
                file.announce(start, n_bytes)
            last_name, last_end = name, start + n_bytes

    def keep_only(self, names: set[str]) -> None:
        """Close all others."""
        for name in self._files.keys() - names:
            self._files.pop(name, None)

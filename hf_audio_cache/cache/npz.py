"""Writing the zip structure of an ``.npz`` by hand; what its members hold, `entry` says.

`zipfile` and `numpy.savez` give the same bytes, and take several times as long for members of this size. The layout is
that of PKWARE's APPNOTE.TXT, sections 4.3.7 (a member), 4.3.12 (the directory), and 4.3.14 to 4.3.16 (its end); that of
a member is NumPy's format 1.0 (``numpy.lib.format``).
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_VERSION, _VERSION_64 = 20, 45
_LIMIT = (1 << 31) - 1  # beyond it numbers have 64 bits, as zipfile has it
_TIME, _DATE = 0, 33  # 1 January 1980, zip's earliest date: the same arrays give the same bytes
_UNIX, _PRIVATE_FILE = 3, 0o600 << 16
_ALIGNMENT = 64  # of NumPy's data
_GROWTH_DIGITS = 21  # NumPy leaves room for as many digits of the first axis


class NpzWriter:
    """Collects the parts of an ``.npz`` in their order. Arrays are not copied before `parts` are joined."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self._size = 0
        self._directory: list[bytes] = []

    def add(self, name: str, array: npt.NDArray[Any]) -> int:
        """Add an array, C-contiguous, as the member ``name``; return where its ``.npy`` starts in the file."""
        header = _npy_header(array)
        content: Any = memoryview(array.reshape(-1).view(np.uint8).data)
        crc = zlib.crc32(content, zlib.crc32(header))
        size, start, encoded = len(header) + len(content), self._size, name.encode("ascii")
        extra, stated = b"", size
        if size > _LIMIT:
            extra, stated = struct.pack("<2H2Q", 1, 16, size, size), 0xFFFFFFFF
        version = _VERSION_64 if extra else _VERSION
        local = _LOCAL.pack(
            *(b"PK\x03\x04", version, 0, 0, _TIME, _DATE, crc, stated, stated, len(encoded), len(extra))
        )
        self._append(local, encoded, extra, header)
        self._append(content)
        self._add_to_directory(encoded, version, crc, size, start)
        return start + len(local) + len(encoded) + len(extra)

    def _add_to_directory(self, name: bytes, version: int, crc: int, size: int, start: int) -> None:
        large = ([size, size] if size > _LIMIT else []) + ([start] if start > _LIMIT else [])
        extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
        version = _VERSION_64 if large else version
        stated = 0xFFFFFFFF if size > _LIMIT else size
        line = _CENTRAL.pack(
            *(b"PK\x01\x02", version, _UNIX, version, 0, 0, 0, _TIME, _DATE, crc, stated, stated),
            *(len(name), len(extra), 0, 0, 0, _PRIVATE_FILE, 0xFFFFFFFF if start > _LIMIT else start),
        )
        self._directory.append(b"".join((line, name, extra)))

    def end(self, comment_length: int) -> None:
        """Add the directory and the end record, after which a comment of that length is still to follow."""
        start, directory, count = self._size, b"".join(self._directory), len(self._directory)
        self._append(directory)
        if start > _LIMIT:
            end = self._size
            self._append(
                _END_64.pack(b"PK\x06\x06", 44, *(_VERSION_64, _VERSION_64, 0, 0), count, count, len(directory), start),
                _LOCATOR_64.pack(b"PK\x06\x07", 0, end, 1),
            )
        stated = 0xFFFFFFFF if start > _LIMIT else start
        self._append(_END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), stated, comment_length))

    def _append(self, *parts: bytes | memoryview) -> None:
        self.parts += parts
        self._size += sum(map(len, parts))


def _npy_header(array: npt.NDArray[Any]) -> bytes:
    """Return the header of a ``.npy``, of the same bytes as NumPy's."""
    shape = array.shape
    room = " " * (_GROWTH_DIGITS - len(str(shape[0]))) if shape else ""
    text = f"{{'descr': {array.dtype.str!r}, 'fortran_order': False, 'shape': {shape!r}, }}{room}"
    length = len(text) + 1
    length += _ALIGNMENT - (10 + length) % _ALIGNMENT
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", length) + text.ljust(length - 1).encode("ascii") + b"\n"

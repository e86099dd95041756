"""One index of packs: sorted rows in checked blocks, and the search in them; docs/packs.md has the format.

A process holds the tables before the rows: 16 bytes for a block of 128 rows. A block is read when it is searched, by
`pread` and not by a mapping: a mapped file that somebody cuts off would end the process.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from ...errors import CorruptEntryError, UnknownVersionError

Read = Callable[[int, int], bytes]  # start and number of bytes to the bytes there, fewer at the end

MAGIC, VERSION = b"HFACPACK", 1
ENTRIES, GONE = 0, 1  # kinds
ROW = np.dtype([("clip", "<u8"), ("name", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("pack", "<u4")])
BLOCK_ROWS = 128
_ROW_BYTES = ROW.itemsize
_BLOCK_BYTES = BLOCK_ROWS * _ROW_BYTES
_HEAD = struct.Struct("<8sIIQII")
_CHECK = struct.Struct("<Q")
_KEY = struct.Struct("<QQ")
_PLACE = struct.Struct("<QII")
_TABLES_AT = _HEAD.size + _CHECK.size
_READ_AT_ONCE = 2048  # blocks
_BLOCKS_IN_THE_TIME_OF_ONE = 32  # that are read one after the other, from a solid-state disk

Rows = npt.NDArray[Any]


class Location(NamedTuple):
    """Where an entry is."""

    pack: str
    offset: int
    length: int


def make_rows(places: Iterable[tuple[bytes, Location]], packs: Sequence[str]) -> Rows:
    """Return the sorted rows of entries, given by their keys, at these places in these packs."""
    numbers = {pack: number for number, pack in enumerate(packs)}
    rows = [(*_KEY.unpack(key), place.offset, place.length, numbers[place.pack]) for key, place in places]
    return sort_rows(np.array(rows, ROW))


def sort_rows(rows: Rows) -> Rows:
    """Return rows in the order of an index."""
    return rows[np.lexsort((rows["offset"], rows["pack"], rows["name"], rows["clip"]))]


def encode_index(rows: Rows, packs: Sequence[str], *, is_gone: bool = False) -> bytes:
    """Return the bytes of an index (or of a list of deleted entries) of these sorted rows."""
    body = rows.tobytes()
    blocks = range(0, len(body), _BLOCK_BYTES)
    checks = np.array([xxhash.xxh3_64_intdigest(body[at : at + _BLOCK_BYTES]) for at in blocks], "<u8")
    tables = b"".join((*map(bytes.fromhex, packs), rows["clip"][::BLOCK_ROWS].tobytes(), checks.tobytes()))
    head = _HEAD.pack(MAGIC, VERSION, GONE if is_gone else ENTRIES, len(rows), len(packs), 0)
    return b"".join((head, _CHECK.pack(xxhash.xxh3_64_intdigest(head + tables)), tables, body))


class Index:
    """An index, or a list of deleted entries, open for searching.

    `is_open` tells whether `read` can still read the file; `announce` lets the system begin to read a part of it.
    Raises CorruptEntryError if its header or tables are damaged; UnknownVersionError if it is of a later version.
    """

    def __init__(
        self,
        read: Read,
        n_bytes: int,
        is_open: Callable[[], bool] = lambda: True,
        announce: Callable[[int, int], object] = lambda start, n_bytes: None,
    ) -> None:
        self._read, self._announce = read, announce
        self.is_open = is_open
        head = read(0, _TABLES_AT)
        if len(head) < _TABLES_AT or head[:8] != MAGIC:
            raise CorruptEntryError("it is no index of packs, or not a whole one")
        _, version, kind, n_rows, n_packs, _ = _HEAD.unpack_from(head)
        if version > VERSION:
            raise UnknownVersionError(f"a later release wrote it, in version {version} of the format")
        n_blocks = -(-n_rows // BLOCK_ROWS)
        n_tables = 16 * (n_packs + n_blocks)
        if _TABLES_AT + n_tables + n_rows * _ROW_BYTES != n_bytes:
            raise CorruptEntryError(f"its {n_bytes} bytes are not those of {n_rows} rows")
        tables = read(_TABLES_AT, n_tables)
        if _CHECK.pack(xxhash.xxh3_64_intdigest(head[: _HEAD.size] + tables)) != head[_HEAD.size :]:
            raise CorruptEntryError("its checksum is wrong")
        self.is_gone = kind == GONE
        self.n_rows = n_rows
        self.packs = tuple(tables[at : at + 16].hex() for at in range(0, 16 * n_packs, 16))
        self._firsts = _numbers(tables[16 * n_packs : 16 * n_packs + 8 * n_blocks])
        self._checks = _numbers(tables[16 * n_packs + 8 * n_blocks :])
        self._rows_at = _TABLES_AT + n_tables
        self._n_looked_up = 0
        # Keys come in any order, so that each block is read from the disk in turn. After so many, all of them at once
        # take no longer than what was read already.
        self._n_before_all = n_blocks // _BLOCKS_IN_THE_TIME_OF_ONE

    def find(self, key: bytes) -> list[Location]:
        """Return where the entry of a key is: in one pack, or none, or in several.

        Raises CorruptEntryError if a block is damaged; OSError if it cannot be read.
        """
        clip = int.from_bytes(key[:8], "little")
        if self._n_looked_up == self._n_before_all:
            self._announce(self._rows_at, self.n_rows * _ROW_BYTES)
        self._n_looked_up += 1
        firsts = self._firsts
        number = bisect_right(firsts, clip) - 1
        if number < 0:
            return []
        found = self._find_in(number, key)
        while number and firsts[number] == clip:  # the rows of a clip may begin in the block before
            number -= 1
            found += self._find_in(number, key)
        return found

    def _find_in(self, number: int, key: bytes) -> list[Location]:
        block = self._blocks(number, 1)
        found = []
        at = block.find(key)
        while at >= 0:
            if at % _ROW_BYTES == 0:
                offset, length, pack = _PLACE.unpack_from(block, at + 16)
                if pack >= len(self.packs):
                    raise CorruptEntryError("a row names a pack that there is not")
                found.append(Location(self.packs[pack], offset, length))
            at = block.find(key, at + 1)
        return found

    def _blocks(self, number: int, count: int) -> bytes:
        content = self._read(self._rows_at + number * _BLOCK_BYTES, count * _BLOCK_BYTES)
        for place in range(count):
            block = content[place * _BLOCK_BYTES : (place + 1) * _BLOCK_BYTES]
            if xxhash.xxh3_64_intdigest(block) != self._checks[number + place]:
                raise CorruptEntryError("the checksum of a block is wrong")
        return content

    def rows(self, first_clip: int = 0, last_clip: int = (1 << 64) - 1) -> Iterator[Rows]:
        """Yield the rows of these clips, in order and some at a time.

        Raises what `find` does.
        """
        number = max(0, bisect_left(self._firsts, first_clip) - 1)
        end = bisect_right(self._firsts, last_clip)
        while number < end:
            count = min(_READ_AT_ONCE, end - number)
            rows = np.frombuffer(self._blocks(number, count), ROW)
            number += count
            clips = rows["clip"]
            rows = rows[(clips >= np.uint64(first_clip)) & (clips <= np.uint64(last_clip))]
            if len(rows) and rows["pack"].max() >= len(self.packs):
                raise CorruptEntryError("a row names a pack that there is not")
            if len(rows):
                yield rows

    def offsets(self) -> Iterator[tuple[str, Rows]]:
        """Yield where entries of a pack start, with the pack, which may come several times; raises what `find` does."""
        for rows in self.rows():
            for number in np.unique(rows["pack"]).tolist():
                yield self.packs[number], rows["offset"][rows["pack"] == number]


def _numbers(content: bytes) -> array[int]:
    numbers = array("Q")
    numbers.frombytes(content)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers

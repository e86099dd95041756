"""Packs: tars of entries, with a list of contents as their first member; docs/packs.md has the format."""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ...errors import CorruptEntryError, UnknownVersionError
from .index import Location, Read, Rows, make_rows
from .names import entry_key

MAX_LENGTH = (1 << 32) - 1  # of an entry in a pack
_BLOCK = tarfile.BLOCKSIZE
_CONTENTS = "CONTENTS.gz"
_VERSION = 1
_FIRST_LINE = re.compile(rb"hf_audio_cache pack ([0-9]{1,4})\n")
_LINE = re.compile(rb"([0-9]{1,15}) ([0-9]{1,10}) ([0-9]{1,12}) ([A-Za-z0-9_.\-/]{1,250})\n")
_AT_ONCE = 1 << 16
_READ_AT_ONCE = 8 << 20
_PAX_PATH = re.compile(rb"(?:^|\n)[0-9]+ path=([^\n]+)\n")


class PackedEntry(NamedTuple):
    """An entry in a pack: its name under the root, where its bytes are, and when it was written."""

    name: str
    offset: int
    length: int
    modified: float


def taken(n_bytes: int) -> int:
    """Return what an entry of so many bytes takes in a pack."""
    return _BLOCK + _padded(n_bytes)


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _BLOCK) * _BLOCK


def encode_pack(objects: Sequence[tuple[str, bytes, float]]) -> tuple[bytes, list[PackedEntry]]:
    """Return the bytes of a pack of entries (name, content, time of writing), and where each is."""
    parts: list[bytes] = []
    lines = [f"hf_audio_cache pack {_VERSION}\n"]
    at = 0
    starts = []
    for name, content, modified in objects:
        header = _header(name, len(content), modified)
        at += len(header)
        starts.append(at)
        lines.append(f"{at} {len(content)} {int(modified)} {name}\n")
        parts += (header, content, bytes(_padded(len(content)) - len(content)))
        at += _padded(len(content))
    contents = gzip.compress("".join(lines).encode(), 6, mtime=0)
    first = _header(_CONTENTS, len(contents), 0) + contents + bytes(_padded(len(contents)) - len(contents))
    entries = [
        PackedEntry(name, len(first) + start, len(content), float(int(modified)))
        for (name, content, modified), start in zip(objects, starts, strict=True)
    ]
    return b"".join((first, *parts, bytes(2 * _BLOCK))), entries


def _header(name: str, n_bytes: int, modified: float) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = n_bytes, max(0, int(modified)), 0o644
    try:
        return member.tobuf(tarfile.USTAR_FORMAT)
    except ValueError:  # a name that is too long for it
        return member.tobuf(tarfile.PAX_FORMAT)


def rows_of(entries: Iterable[PackedEntry]) -> Rows:
    """Return the sorted rows of an index of the entries of one pack."""
    keys_and_places = ((entry_key(one.name) or bytes(16), Location("", one.offset, one.length)) for one in entries)
    return make_rows(keys_and_places, [""])


def read_entries(read: Read, n_bytes: int) -> list[PackedEntry]:
    """Return the entries of a pack of this size, as its list of contents says.

    Raises CorruptEntryError if that is damaged; UnknownVersionError if the pack is of a later version.
    """
    start = read(0, _AT_ONCE)
    header = parse_header(start[:_BLOCK])
    if header is None or header.name != _CONTENTS or _BLOCK + header.size > n_bytes:
        raise CorruptEntryError("it does not begin with a list of contents")
    if _BLOCK + header.size > len(start):
        start += read(len(start), _BLOCK + header.size - len(start))
    text = _unpack(start[_BLOCK : _BLOCK + header.size], limit=300 * (n_bytes // _BLOCK + 1))
    first = _FIRST_LINE.match(text)
    if first is None:
        raise CorruptEntryError("its list of contents is damaged")
    if int(first[1]) > _VERSION:
        raise UnknownVersionError(f"a later release wrote it, in version {int(first[1])} of the format")
    return list(_parse(text, first.end(), _BLOCK + _padded(header.size), n_bytes))


def _unpack(packed: bytes, limit: int) -> bytes:
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)  # gzip
    try:
        text = unpacker.decompress(packed, limit)
    except zlib.error as exc:
        raise CorruptEntryError(f"its list of contents is damaged: {exc}") from None
    if not unpacker.eof:
        raise CorruptEntryError("its list of contents is damaged, or too long")
    return text


def _parse(text: bytes, at: int, base: int, n_bytes: int) -> Iterator[PackedEntry]:
    for match in _LINE.finditer(text, at):
        if match.start() != at:
            break
        at = match.end()
        offset, length, name = base + int(match[1]), int(match[2]), match[4].decode()
        if offset + length > n_bytes or entry_key(name) is None:
            raise CorruptEntryError("its list of contents names what it cannot hold")
        yield PackedEntry(name, offset, length, float(match[3]))
    if at != len(text):
        raise CorruptEntryError("its list of contents is damaged")


def parse_header(block: bytes) -> tarfile.TarInfo | None:
    """Return the member whose header this is; None if it is no header."""
    try:
        return tarfile.TarInfo.frombuf(block, "ascii", "replace")
    except (tarfile.TarError, ValueError):
        return None


def read_whole(read: Read, n_bytes: int) -> Iterator[PackedEntry]:
    """Yield the entries of a pack whose list of contents is damaged: all is read, and searched for their headers."""
    at = held_at = 0
    held = long_name = b""
    while at + _BLOCK <= n_bytes:
        if not held_at <= at <= held_at + len(held) - _BLOCK:
            held_at, held = at, read(at, _READ_AT_ONCE)
            if len(held) < _BLOCK:
                return
        header = parse_header(held[at - held_at : at - held_at + _BLOCK])
        at += _BLOCK
        if header is None or header.size < 0 or at + header.size > n_bytes:
            continue
        if header.type == tarfile.XHDTYPE and header.size <= _AT_ONCE:
            path = _PAX_PATH.search(read(at, header.size))
            long_name = path[1] if path else b""
            at += _padded(header.size)
        elif header.isreg():
            name = long_name.decode("ascii", "replace") or header.name
            long_name = b""
            if (
                entry_key(name) is not None
                and header.size <= MAX_LENGTH
                and _LINE.fullmatch(f"0 0 0 {name}\n".encode())
            ):
                yield PackedEntry(name, at, header.size, float(header.mtime))
            at += _padded(header.size)

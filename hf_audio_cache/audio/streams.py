"""Split a chained Ogg file or joined MP3s into their streams: a decoder may stop where the first one ends."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .containers import mp3_start, walk_mp3, xing_end

_FIVE_FRAMES = 5 * 1441  # bytes, at most


def streams_in(encoded: memoryview) -> Iterator[memoryview]:
    """Yield the parts of an Ogg file or an MP3 that can be decoded by themselves; other files are one part."""
    is_ogg = bytes(encoded[:4]) == b"OggS"
    while end := _end_of_first_link(encoded) if is_ogg else _end_of_first_mp3(encoded):
        yield encoded[:end]
        encoded = encoded[end:]
    yield encoded


def _end_of_first_link(encoded: memoryview) -> int:
    """Return where a page begins a stream behind a page that does not, in a chained Ogg (RFC 3533, section 4); or 0."""
    position, begins = 0, True
    while bytes(encoded[position : position + 4]) == b"OggS" and position + 27 <= len(encoded):
        begun, begins = begins, bool(encoded[position + 5] & 2)
        if begins and not begun:
            return position
        n_segments = encoded[position + 26]
        position += 27 + n_segments + sum(encoded[position + 27 : position + 27 + n_segments])
    return 0


def _end_of_first_mp3(encoded: memoryview) -> int:
    """Return the end that a Xing header states if more frames follow than an encoder miscounts; else 0."""
    try:
        start = mp3_start(encoded)
        end = xing_end(encoded, start)
        if end is None or end <= start:  # an encoder that cannot seek back states 0 bytes
            return 0
        if bytes(encoded[end : end + 3]) == b"TAG":
            end += 128  # an ID3v1 tag
        after = mp3_start(encoded, end)
        return end if walk_mp3(encoded[: after + _FIVE_FRAMES], after)[0] > 2 * 1152 else 0
    except struct.error:  # a header that is cut
        return 0

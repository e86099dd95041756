"""Split a chained Ogg file or joined MP3s into their streams: a decoder may stop where the first one ends."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice

from .mp3 import frames_at, mp3_start, xing_end


def streams_in(encoded: memoryview) -> Iterator[memoryview]:
    """Yield the parts of an Ogg file or an MP3 that can be decoded by themselves; other files are one part."""
    is_ogg = bytes(encoded[:4]) == b"OggS"
    while True:
        end, next_start = _first_link(encoded) if is_ogg else _first_mp3(encoded)
        if not end:
            break
        yield encoded[:end]
        encoded = encoded[next_start:]
    yield encoded


def _first_link(encoded: memoryview) -> tuple[int, int]:
    """Return where a page begins a stream behind a page that does not, in a chained Ogg (RFC 3533, section 4); or 0."""
    position, begins = 0, True
    while bytes(encoded[position : position + 4]) == b"OggS" and position + 27 <= len(encoded):
        begun, begins = begins, bool(encoded[position + 5] & 2)
        if begins and not begun:
            return position, position
        n_segments = encoded[position + 26]
        position += 27 + n_segments + sum(encoded[position + 27 : position + 27 + n_segments])
    return 0, 0


def _first_mp3(encoded: memoryview) -> tuple[int, int]:
    """Return the end that a Xing header states, and where more frames follow than an encoder miscounts; else 0."""
    try:
        start = mp3_start(encoded)
        end = xing_end(encoded, start)
        if end is None or end <= start:  # an encoder that cannot seek back states 0 bytes
            return 0, 0
        behind = mp3_start(encoded, end)
        more = sum(n_samples for n_samples, _ in islice(frames_at(encoded, behind), 5))
        return (end, behind) if more > 2 * 1152 else (0, 0)
    except struct.error:  # a header that is cut
        return 0, 0

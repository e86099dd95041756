"""Headers of audio files, without decoding: which length they state, and where a file holds several streams.

Truncated files are found by the length. A file that states none cannot be checked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from .mp3 import frames_at, mp3_start, xing_end

# First bytes of a WAV (RF64 and BW64: EBU Tech 3306), AIFF or CAF file: layout of the headers of its chunks.
_CHUNK_LAYOUTS = {
    b"RIFF": "<4sI", b"RIFX": ">4sI", b"RF64": "<4sI", b"BW64": "<4sI", b"FORM": ">4sI", b"caff": ">4sQ"
}  # fmt: skip
_MOST_CHUNKS = 1000
# Bytes between the header of the chunk with the samples and these: offset and block size in AIFF, edit count in CAF.
_BEFORE_SAMPLES = {b"FORM": 8, b"caff": 4}
_WAV_CHUNKS = {b"data", b"fmt ", b"fact", b"LIST", b"bext", b"cue ", b"smpl", b"JUNK", b"PEAK", b"id3 ", b"iXML"}
# Sizes from here on mean that the end was not known (sox: 0x7F000000, 0x7FFFF000, FFmpeg: 0xFFFFFFFF).
_UNKNOWN_SIZE = {"I": 0x7F000000, "Q": 1 << 63}


def is_plain_pcm16(encoded: bytes | memoryview, sampling_rate: int) -> bool:
    """Return whether a file is a mono WAV of 16-bit PCM at this rate, which is decoded as fast as an entry is read.

    The ``fmt`` chunk must come first, as nearly all programs write it.
    """
    if len(encoded) < 36 or encoded[:4] != b"RIFF" or encoded[8:16] != b"WAVEfmt ":
        return False
    kind, n_channels, rate, _, _, n_bits = struct.unpack_from("<HHIIHH", encoded, 20)
    return (kind, n_channels, rate, n_bits) == (1, 1, sampling_rate, 16)


@dataclass(frozen=True)
class Missing:
    """What shows that a file ends before its audio does."""

    sign: str  # what shows it, in words
    n_bytes: int = 0  # of audio that are there
    n_promised: int = 0  # by the container; 0 if that is unknown
    more_seconds: float | None = None  # that the container promises, if it says so

    def promised(self, n_frames: int, rate: int) -> float | None:
        """Return how many seconds the file promises, given the number of frames that are there; None if unknown."""
        if self.more_seconds is not None:
            return n_frames / rate + self.more_seconds
        if not n_frames or not self.n_bytes:
            return None
        step = self.n_bytes // n_frames  # bytes of a frame of PCM
        if self.n_bytes - step * n_frames < step:
            return self.n_promised // step / rate
        return n_frames * self.n_promised / self.n_bytes / rate


def missing_audio(encoded: memoryview) -> Missing | None:
    """Return what shows that a file is truncated; None if nothing does."""
    try:
        end, start, more_seconds = _stated_end(encoded)
    except (struct.error, IndexError, OverflowError):
        return Missing("it ends inside a header")
    if end <= len(encoded):
        return None
    said = f"its container goes on to byte {end} at least"
    if bytes(encoded[:4]) == b"RIFF" and struct.unpack_from("<I", encoded, 4)[0] + 8 == len(encoded):
        said += ", though by its first size it is whole"
    if start is None or start >= len(encoded):
        return Missing(said, more_seconds=more_seconds)
    return Missing(said, len(encoded) - start, end - start, more_seconds)


def _stated_end(encoded: memoryview) -> tuple[int, int | None, float | None]:
    """Return where a container ends (0 if it does not say), its audio begins, and the seconds of a page that is cut."""
    magic, form = bytes(encoded[:4]), bytes(encoded[8:12])
    if magic in _CHUNK_LAYOUTS and (magic == b"caff" or form in (b"WAVE", b"AIFF", b"AIFC")):
        start, size = _audio_chunk(encoded, _CHUNK_LAYOUTS[magic], 8 if magic == b"caff" else 12)
        return start + size, start + _BEFORE_SAMPLES.get(magic, 0), None
    if magic == b".snd":
        start, size = struct.unpack_from(">II", encoded, 4)
        return int(start + size) if size < _UNKNOWN_SIZE["I"] else 0, int(start), None
    if magic == b"riff":
        return _wave64_end(encoded)
    if magic == b"OggS":
        return _ogg_end(encoded)
    if magic == b"\x1aE\xdf\xa3":
        return _matroska_end(encoded), 0, None
    if bytes(encoded[4:8]) == b"ftyp":
        return _mp4_end(encoded), 0, None
    start = mp3_start(encoded)
    # The last frame may be cut: it is shorter than what counts as missing. Its header says how many there are.
    return max(start, xing_end(encoded, start) or 0), None, 0.0


def _wave64_end(encoded: memoryview) -> tuple[int, int | None, float | None]:
    """Return the end of a Sony Wave64 file, and where its samples begin."""
    (size,) = struct.unpack_from("<Q", encoded, 16)
    end, position = int(size) if size < _UNKNOWN_SIZE["Q"] else 0, 40
    for _ in range(_MOST_CHUNKS):
        (chunk, size) = struct.unpack_from("<4s12xQ", encoded, position)
        if chunk == b"data":
            return end, position + 24, None
        position += max(24, size + -size % 8)
    return end, None, None


def _audio_chunk(encoded: memoryview, layout: str, position: int) -> tuple[int, int]:
    """Return position and size of the chunk with the samples of a WAV, AIFF or CAF; 0 for unknown."""
    size_64 = 0
    for _ in range(_MOST_CHUNKS):
        chunk, size = struct.unpack_from(layout, encoded, position)
        position += struct.calcsize(layout)
        if chunk == b"ds64":
            (size_64,) = struct.unpack_from("<8xQ", encoded, position)
        if chunk in (b"data", b"SSND"):
            if size_64 and size == 0xFFFFFFFF:
                size = size_64
            return position, 0 if size >= _UNKNOWN_SIZE[layout[-1]] else int(size)
        position += size if layout.endswith("Q") else size + size % 2
    return 0, 0


def unpadded_chunk(encoded: memoryview) -> str:
    """Return which chunk of odd size in a WAV has no pad byte, so that those behind it are not found; else empty."""
    if bytes(encoded[:4]) != b"RIFF" or bytes(encoded[8:12]) != b"WAVE":
        return ""
    position = 12
    for _ in range(_MOST_CHUNKS):
        if position + 8 > len(encoded):
            break
        chunk, size = struct.unpack_from("<4sI", encoded, position)
        if chunk == b"data":
            break
        position += 8 + size
        if size % 2:
            if _chunk_at(encoded, position) and not _chunk_at(encoded, position + 1):
                return f"{chunk.decode('latin-1').strip()} chunk of {size} bytes"
            position += 1
    return ""


def _chunk_at(encoded: memoryview, position: int) -> bool:
    return bytes(encoded[position : position + 4]) in _WAV_CHUNKS


def with_known_end(encoded: memoryview) -> bytes | memoryview:
    """Return a WAV or CAF as libsndfile can open it.

    A streamed WAV with 0 for its unknown size gets 0xFFFFFFFF, and a CAF whose samples go beyond its end their size.
    """
    if bytes(encoded[:4]) == b"caff":
        try:
            position, size = _audio_chunk(encoded, _CHUNK_LAYOUTS[b"caff"], 8)
        except struct.error:
            return encoded
        if not position or position + size <= len(encoded):
            return encoded
        there = struct.pack(">Q", len(encoded) - position)
        return b"".join((encoded[: position - 8], there, encoded[position:]))
    if bytes(encoded[:4]) != b"RIFF" or bytes(encoded[8:12]) != b"WAVE":
        return encoded
    try:
        position, size = _audio_chunk(encoded, "<4sI", 12)
    except struct.error:
        return encoded
    (riff_size,) = struct.unpack_from("<I", encoded, 4)
    # If the outer size reaches beyond the samples, it was known that there are none.
    if size or position == len(encoded) or position - 8 < riff_size < _UNKNOWN_SIZE["I"]:
        return encoded
    return b"".join((encoded[:4], b"\xff" * 4, encoded[8 : position - 4], b"\xff" * 4, encoded[position:]))


def _ogg_end(encoded: memoryview) -> tuple[int, int | None, float | None]:
    """Walk the pages of an Ogg file (RFC 3533, section 6); return its end, and the length of what a cut page ends."""
    position = last_granule = granule = 0
    is_last = False
    while bytes(encoded[position : position + 4]) == b"OggS":
        is_last = bool(encoded[position + 5] & 4)
        last_granule, (stated,) = granule, struct.unpack_from("<q", encoded, position + 6)
        granule = max(granule, stated)  # -1 on a page where no packet ends
        position = _page_end(encoded, position)
    if position < len(encoded) and not is_last:
        return len(encoded) + 27, None, None  # another page must follow, of at least 27 bytes, and what follows is none
    rate = _granules_per_second(encoded)
    return position, None, (granule - last_granule) / rate if rate and granule > last_granule else None


def _page_end(encoded: memoryview, position: int) -> int:
    n_segments = encoded[position + 26]
    return position + 27 + n_segments + sum(encoded[position + 27 : position + 27 + n_segments])


def _granules_per_second(encoded: memoryview) -> int:
    """Return the unit in which the pages of an Ogg file state time; 0 if it is unknown."""
    packet = bytes(encoded[27 + encoded[26] :][:16])
    if packet.startswith(b"OpusHead"):
        return 48_000  # RFC 7845, section 4
    return int(struct.unpack_from("<I", packet, 12)[0]) if packet.startswith(b"\x01vorbis") else 0


def _matroska_end(encoded: memoryview) -> int:
    """Return the end of the segment of a WebM file (RFC 8794, sections 4 and 6.2)."""
    size, position = _ebml_size(encoded, 4)
    position += size
    if bytes(encoded[position : position + 4]) != b"\x18S\x80g":
        return 0
    size, position = _ebml_size(encoded, position + 4)
    return position + size


def _ebml_size(encoded: memoryview, position: int) -> tuple[int, int]:
    """Return the size of an element, 0 for unknown, and the position behind it."""
    length = 9 - encoded[position].bit_length()
    ones = (1 << 7 * length) - 1
    size = int.from_bytes(encoded[position : position + length], "big") & ones
    return 0 if size == ones else size, position + length


def _mp4_end(encoded: memoryview) -> int:
    """Walk the boxes of an MP4 or M4A file (ISO/IEC 14496-12, section 4.2)."""
    position = 0
    while position + 8 <= len(encoded):
        (size,) = struct.unpack_from(">I", encoded, position)
        if size == 1:
            (size,) = struct.unpack_from(">Q", encoded, position + 8)
        if size < 8:  # 0: to the end of the file
            return 0
        position += int(size)
    return position


def streams_in(encoded: memoryview) -> Iterator[memoryview]:
    """Yield the streams of a chained Ogg file or of joined MP3s: a decoder may stop where the first one ends.

    Other files are one part.
    """
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
        position = _page_end(encoded, position)
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

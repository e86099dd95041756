"""Headers of MP3 files, without decoding: tags, the Xing header, and the frames."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import islice

# Bit rates of layer III in kbit/s, for MPEG-1 and for MPEG-2 and 2.5 (ISO/IEC 11172-3, 2.4.2.3, and 13818-3, 2.4.2.3).
_BIT_RATES = (
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_SAMPLING_RATES = (44100, 48000, 32000)
_LAYER_III = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
# Formats whose first bytes may stand behind a tag. Their own lengths and offsets do not count it.
_TAGGED = {b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"caff", b"riff", b".snd", b"fLaC", b"OggS"}


def mp3_start(encoded: memoryview, position: int = 0) -> int:
    """Return where the tags end that begin at a position: ID3v1 and APE tags of a file before it, and ID3v2 tags."""
    while True:
        magic = bytes(encoded[position : position + 8])
        if magic[:3] == b"TAG":
            position += 128
        elif magic[:3] == b"ID3":
            flags, *size = struct.unpack_from("5B", encoded, position + 5)
            position += 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]) + (10 if flags & 16 else 0)
        elif magic == b"APETAGEX":
            n_bytes, _, flags = struct.unpack_from("<3I", encoded, position + 12)
            position += 32 + (n_bytes if flags & 1 << 29 else 0)  # behind the header; a footer ends the tag
        else:
            return position


def without_tags(encoded: memoryview) -> memoryview:
    """Return a WAV, FLAC or such without ID3 tags before it, for which libsndfile would leave out the end."""
    start = _behind_tags(encoded, 0)
    return encoded[start:] if bytes(encoded[start : start + 4]) in _TAGGED else encoded


def _behind_tags(encoded: memoryview, position: int) -> int:
    """Return where the tags end that begin at a position; the position, if they are cut."""
    try:
        return mp3_start(encoded, position)
    except struct.error:
        return position


def xing_end(encoded: memoryview, start: int) -> int | None:
    """Return the end that the Xing or Info header of an MP3 states; None without such a header."""
    # Behind the frame's header (4 bytes), its checksum (0 or 2) and side information (9, 17 or 32).
    header = re.match(rb"\xff[\xe0-\xff].{11,36}(?:Xing|Info)", encoded[start : start + 48], re.DOTALL)
    if header is None:
        return None
    position = start + header.end()
    (flags,) = struct.unpack_from(">I", encoded, position)
    if not flags & 2:
        return None
    (n_bytes,) = struct.unpack_from(">I", encoded, position + 4 + 4 * (flags & 1))
    return int(start + n_bytes)


def walk_mp3(encoded: memoryview, position: int) -> int:
    """Return how many samples per channel the layer III frames of an MP3 hold.

    What lies between frames is passed over: tags of files that were joined, and what else a decoder skips.
    """
    n_samples = 0
    while position + 4 <= len(encoded):
        for n_in_frame, frame_end in frames_at(encoded, position):
            n_samples += n_in_frame
            position = frame_end
        behind = _behind_tags(encoded, position)
        position = behind if behind > position else _next_frames(encoded, position)
    return n_samples


def frames_at(encoded: memoryview, position: int) -> Iterator[tuple[int, int]]:
    """Yield samples per channel, and the end, of each layer III frame in the row that begins at a position."""
    while position + 4 <= len(encoded):
        header = int.from_bytes(encoded[position : position + 4], "big")
        version, layer, bit_rate, rate = (
            header >> shift & mask for shift, mask in ((19, 3), (17, 3), (12, 15), (10, 3))
        )
        if header >> 21 != 0x7FF or version == 1 or layer != 1 or bit_rate in (0, 15) or rate == 3:
            return
        is_mpeg_2 = version != 3
        bits_per_second = 1000 * _BIT_RATES[is_mpeg_2][bit_rate - 1]
        samples_per_second = _SAMPLING_RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]  # MPEG-1, MPEG-2, MPEG-2.5
        n_samples = 576 if is_mpeg_2 else 1152
        position += n_samples // 8 * bits_per_second // samples_per_second + (header >> 9 & 1)
        yield n_samples, position


def _next_frames(encoded: memoryview, position: int) -> int:
    """Return where the next three frames in a row begin; the end of the file if there are none."""
    for match in _LAYER_III.finditer(encoded, position):
        if len(list(islice(frames_at(encoded, match.start()), 3))) == 3:
            return match.start()
    return len(encoded)

"""Where a container says that its audio ends, in the forms that no encoder here writes."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
import pytest
from audio_files import encode

from hf_audio_cache.audio.containers import is_plain_pcm16, missing_audio

FTYP = b"\0\0\0\x18ftypM4A \0\0\2\0M4A isom"
FILLER = b"JUNK" + struct.pack("<I", 2) + b"\0\0"
SEGMENT = b"\x1aE\xdf\xa3\x80\x18S\x80g"  # an empty EBML header, then the segment's name
NO_SEGMENT = b"\x1aE\xdf\xa3\x80\xec\x81\0"
W64 = b"riff" + bytes(12)


@pytest.mark.parametrize(
    ("content", "end"),
    [
        (FTYP + struct.pack(">I4sQ", 1, b"mdat", 200) + bytes(100), len(FTYP) + 200),  # a size of 64 bits
        (FTYP + struct.pack(">I4s", 0, b"mdat") + bytes(100), None),  # to the end of the file
        (SEGMENT + b"\x81" + bytes(1), None),
        (SEGMENT + b"\x40\xc8" + bytes(100), len(SEGMENT) + 2 + 200),
        (SEGMENT + b"\xff" + bytes(100), None),  # of unknown size, as a stream is
        (NO_SEGMENT, None),
        (b"RIFF\0\0\0\0WAVE" + 1001 * FILLER, None),  # more chunks than are looked at
        (W64 + struct.pack("<Q", 30_000) + bytes(16) + 1001 * (b"junk" + bytes(12) + struct.pack("<Q", 24)), 30_000),
    ],
)
def test_the_end_that_a_container_states(content: bytes, end: int | None) -> None:
    missing = missing_audio(memoryview(content))
    if end is None or end <= len(content):
        assert missing is None
    else:
        assert missing is not None
        assert missing.sign == f"its container goes on to byte {end} at least"


def test_only_a_wav_of_16_bits_at_its_rate_is_plain(sentence: npt.NDArray[np.int16]) -> None:
    wav = encode(sentence, 16000, "WAV")
    assert is_plain_pcm16(wav, 16000)
    assert not is_plain_pcm16(wav, 8000)
    assert not is_plain_pcm16(encode(sentence, 16000, "WAV", "PCM_24"), 16000)
    assert not is_plain_pcm16(encode(sentence, 16000, "FLAC"), 16000)
    assert not is_plain_pcm16(wav[:35], 16000)

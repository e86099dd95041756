"""Where the frames and tags of MP3 files are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from audio_files import ape_tag, encode

from hf_audio_cache.audio.mp3 import mp3_start, walk_mp3


def test_all_frames_are_counted_whatever_is_between(sentence: npt.NDArray[np.int16]) -> None:
    encoded = encode(sentence, 16000, "MP3", bitrate_mode="CONSTANT")
    n_samples = walk_mp3(memoryview(encoded), 0)
    assert n_samples >= len(sentence)
    assert walk_mp3(memoryview(encoded + b"TAG" + bytes(125)), 0) == n_samples
    for between in (b"TAG" + bytes(125), ape_tag(300), bytes(700)):
        assert walk_mp3(memoryview(encoded + between + encoded), 0) == 2 * n_samples


def test_tags_end_where_they_say() -> None:
    with_footer = b"ID3\x04\x00\x10" + bytes([0, 0, 1, 0]) + bytes(128) + b"3DI\x04\x00\x10" + bytes([0, 0, 1, 0])
    tags = b"TAG" + bytes(125) + ape_tag(300) + with_footer + b"ID3\x03\x00\x00" + bytes(4) + ape_tag(0, header=False)
    assert mp3_start(memoryview(tags + b"\xff\xfb")) == len(tags)

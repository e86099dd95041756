"""Audio files made of samples, and what a decoder has to make of them."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr

from hf_audio_cache.audio import decode
from hf_audio_cache.audio.length import Longer, Truncated
from hf_audio_cache.audio.request import Request
from hf_audio_cache.errors import AudioDecodeError

Float32 = npt.NDArray[np.float32]


def encode(samples: npt.NDArray[Any], rate: int, container: str, subtype: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype, **options)
    return file.getvalue()


def decode_audio(
    encoded: bytes | memoryview, *, truncated: Truncated = "error", longer: Longer = "cut", **settings: Any
) -> Float32:
    """The waveform as a pipeline has it, which refuses what is too long or not whole."""
    waveform = decode.decode_audio(encoded, Request(**settings))
    waveform.length.check(
        settings.get("clip", ""), truncated=truncated, longer=longer, max_length_ms=settings.get("max_length_ms", 0)
    )
    assert waveform.length.n_samples == waveform.samples.shape[-1]
    return waveform.samples


def reference(encoded: bytes, sampling_rate: int) -> Float32:
    """The waveform by soundfile, a mean and soxr, written down independently."""
    samples, rate = soundfile.read(io.BytesIO(encoded), dtype="float32")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    return np.asarray(mono if rate == sampling_rate else soxr.resample(mono, rate, sampling_rate, quality="HQ"))


def assert_same_bits(actual: Float32, expected: Float32) -> None:
    assert actual.dtype == np.float32
    assert actual.flags.c_contiguous
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.astype(np.float32).tobytes()


def refused(encoded: bytes, **changes: Any) -> AudioDecodeError:
    with pytest.raises(AudioDecodeError) as caught:
        decode_audio(encoded, **{"sampling_rate": 16000, "auto_resample": True, "clip": "a.wav", **changes})
    assert caught.value.clip == "a.wav"
    assert caught.value.n_bytes == len(encoded)
    assert f"'a.wav' ({len(encoded)} bytes), found {caught.value.cause}. It cannot be used." in str(caught.value)
    return caught.value


def make_mp3(speech: npt.NDArray[np.int16], bitrate_mode: str) -> tuple[bytes, bytes]:
    """An MP3, and the same without its first frame, which has the Xing or Info header."""
    # Silence last: where the bit rate varies, what comes first is not like the rest.
    samples = np.concatenate([speech[8000:], np.zeros(48000, np.int16)])
    whole = encode(samples, 16000, "MP3", bitrate_mode=bitrate_mode, compression_level=0.0)
    assert {b"Xing", b"Info"} & {whole[13:17], whole[21:25]}
    return whole, whole[whole.index(whole[:2], 100) :]


def ape_tag(n_bytes: int, *, header: bool = True) -> bytes:
    """An APEv2 tag with a title of so many bytes."""
    item = struct.pack("<II", n_bytes, 0) + b"Title\0" + bytes(n_bytes)
    ends = [
        struct.pack("<8s4I8x", b"APETAGEX", 2000, len(item) + 32, 1, 1 << 31 | is_header << 29) for is_header in (1, 0)
    ]
    return ends[0] + item + ends[1] if header else ends[1]

"""What libsndfile cannot open: M4A, AAC and WebM by torchcodec, and what is said where that is missing."""

from __future__ import annotations

import struct
import sys
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soxr
from audio_files import assert_same_bits, decode_audio, make_mp3, refused

from hf_audio_cache.errors import AudioDecodeError, SamplingRateError

M4A = b"\x00\x00\x00\x18ftypM4A \x00\x00\x02\x00M4A isom" + struct.pack(">I", 108) + b"mdat" + bytes(range(100))


@pytest.mark.usefixtures("no_torchcodec")
def test_without_torchcodec_the_message_says_what_to_install() -> None:
    error = refused(M4A)
    assert error.cause.startswith(
        "bytes that no decoder reads (libsndfile: Format not recognised; torchcodec: for M4A, "
    )
    assert str(error).endswith(
        " Install torchcodec (`pip install torchcodec`) and FFmpeg, or convert the clip to FLAC or WAV."
    )
    assert error.__cause__ is not None
    assert isinstance(error.__cause__.__cause__, ImportError)


def test_torchcodec_without_ffmpeg_is_as_if_it_were_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "torchcodec":
                raise RuntimeError("Could not load libtorchcodec. Likely causes:\n 1. FFmpeg is not installed")

    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.delitem(sys.modules, "torchcodec.decoders", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    error = refused(M4A)
    assert error.cause.endswith("cannot be imported (Could not load libtorchcodec. Likely causes:))")
    assert "FFmpeg" in str(error)


def test_whatever_torchcodec_raises_is_a_decode_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(_: bytes) -> None:
        raise KeyError("stream")

    decoders = ModuleType("torchcodec.decoders")
    decoders.AudioDecoder = raising  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    error = refused(M4A)
    assert error.cause == "bytes that torchcodec cannot decode: 'stream'"
    assert isinstance(error.__cause__, KeyError)


def ffmpeg_encode(samples: npt.NDArray[np.int16], container: str, **options: int) -> bytes:
    import torch
    from torchcodec.encoders import AudioEncoder

    encoder = AudioEncoder(torch.from_numpy((samples / 32768).astype(np.float32).T), sample_rate=16000)
    return bytes(encoder.to_tensor(container, **options).numpy())


@pytest.mark.torchcodec
@pytest.mark.parametrize("container", ["ipod", "mp4", "adts", "webm", "matroska"])
def test_m4a_aac_and_webm_decode_by_torchcodec(stereo: npt.NDArray[np.int16], container: str) -> None:
    from torchcodec.decoders import AudioDecoder

    encoded = ffmpeg_encode(stereo, container)
    decoded = AudioDecoder(encoded).get_all_samples()
    expected = decoded.data.numpy().mean(axis=0)
    if decoded.sample_rate != 16000:
        with pytest.raises(SamplingRateError):
            decode_audio(encoded, sampling_rate=16000)
        expected = soxr.resample(expected, decoded.sample_rate, 16000, quality="HQ")
    waveform = decode_audio(encoded, sampling_rate=16000, auto_resample=True)
    assert_same_bits(waveform, expected)

    # It is the sentence, behind the delay of its codec.
    mean = stereo.mean(axis=1) / 32768
    lag = int(np.argmax([np.dot(mean[20_000:60_000], waveform[20_000 + lag : 60_000 + lag]) for lag in range(2200)]))
    error = waveform[20_000 + lag : 60_000 + lag] - mean[20_000:60_000]
    assert np.square(error).mean() < 0.02 * np.square(mean[20_000:60_000]).mean()

    for max_length_ms in (10, 1000, 3333):
        capped = decode_audio(encoded, sampling_rate=16000, auto_resample=True, max_length_ms=max_length_ms)
        assert len(capped) == max_length_ms * 16
        assert np.abs(capped - waveform[: len(capped)]).max() <= 1e-4


@pytest.mark.torchcodec
@pytest.mark.parametrize("container", ["ipod", "adts", "webm", "matroska"])
def test_truncated_m4a_aac_and_webm_are_refused(sentence: npt.NDArray[np.int16], container: str) -> None:
    encoded = ffmpeg_encode(sentence, container)
    rng = np.random.default_rng(7)
    whole = len(decode_audio(encoded, sampling_rate=16000, auto_resample=True))
    for cut in [8, 40, *rng.integers(61, int(0.9 * len(encoded)), 25)]:
        refused(encoded[:cut])
    try:
        waveform = decode_audio(encoded[:-1], sampling_rate=16000, auto_resample=True)
    except AudioDecodeError:
        return
    assert whole - len(waveform) < 1600  # 100 ms, which count as whole


@pytest.mark.torchcodec
def test_plain_mp3_of_varying_bit_rate_decodes_by_torchcodec(sentence: npt.NDArray[np.int16]) -> None:
    whole, plain = make_mp3(sentence, "VARIABLE")
    by_header = decode_audio(whole, sampling_rate=16000)
    by_torchcodec = decode_audio(plain, sampling_rate=16000)
    # Without the header nothing tells the encoder's delay of 576 samples and the decoder's of 529.
    delay = 576 + 529
    assert 0 < len(by_torchcodec) - len(by_header) < 3 * 576
    assert np.abs(by_torchcodec[delay : delay + len(by_header)] - by_header[: len(by_torchcodec) - delay]).max() < 1e-4


@pytest.mark.parametrize(
    "text", [b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", b"<!DOCTYPE html>", b"#EXTM3U\nhttp://x/"]
)
def test_text_is_named_and_never_given_to_ffmpeg(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = ModuleType("torchcodec.decoders")
    decoders.AudioDecoder = lambda _: pytest.fail("text was given to FFmpeg")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    assert refused(text).cause == f"text that begins {text[:40].decode()!r}"

"""Real speech in every format, as it is, capped, damaged and cut off."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
from hf_audio_cache.decode import decode_audio, to_waveform
from hf_audio_cache.errors import AudioDecodeError, AudioError, SamplingRateError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Float32 = npt.NDArray[np.float32]

# The last two are not promised, but the corpora of this field have them.
FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_U8"),
    ("WAV", "FLOAT"),
    ("WAV", "ULAW"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
    ("NIST", "PCM_16"),
    ("W64", "PCM_16"),
]


def encode(samples: npt.NDArray[Any], rate: int, container: str, subtype: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype, **options)
    return file.getvalue()


def reference(encoded: bytes, sampling_rate: int) -> Float32:
    """The waveform by soundfile, a mean and soxr, written down independently."""
    samples, rate = soundfile.read(io.BytesIO(encoded), dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
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
    assert f"'a.wav' ({len(encoded)} bytes), found {caught.value.cause}. It gives no waveform." in str(caught.value)
    return caught.value


@pytest.fixture(scope="session")
def sentence(sentences: list[Path]) -> npt.NDArray[np.int16]:
    """Some 7 s of a read sentence at 16 kHz."""
    longest = max(sentences, key=lambda path: path.stat().st_size)
    samples, rate = soundfile.read(longest, dtype="int16")
    assert rate == 16000
    assert len(samples) > 80_000
    return np.asarray(samples)


@pytest.fixture(scope="session")
def stereo(sentence: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    return np.stack([sentence, sentence[::-1] // 3], axis=1)


@pytest.fixture
def no_torchcodec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)


# Whole files


@pytest.mark.parametrize("rate", [16000, 8000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("container", "subtype"), FORMATS)
def test_every_format_has_the_bits_of_soundfile(
    stereo: npt.NDArray[np.int16], container: str, subtype: str, channels: int, rate: int
) -> None:
    encoded = encode(stereo[:, :channels], 16000, container, subtype)
    waveform = decode_audio(encoded, sampling_rate=rate, auto_resample=True)
    assert_same_bits(waveform, reference(encoded, rate))


def test_every_kind_of_letter(letters: list[Path]) -> None:
    kinds = {(info.samplerate, info.channels): path for path in letters for info in [soundfile.info(path)]}
    assert {channels for _, channels in kinds} == {1, 2}
    assert len(kinds) >= 5
    for (rate, _), path in kinds.items():
        encoded = path.read_bytes()
        assert_same_bits(decode_audio(encoded, sampling_rate=rate), reference(encoded, rate))
        resampled = decode_audio(encoded, sampling_rate=16000, auto_resample=True)
        assert_same_bits(resampled, reference(encoded, 16000))


def test_16_bit_pcm_is_exact(prompts: list[Path]) -> None:
    for path in prompts[::40]:
        samples, _ = soundfile.read(path, dtype="int16")
        waveform = decode_audio(path.read_bytes(), sampling_rate=8000)
        assert_same_bits(waveform, (samples / 32768).astype(np.float32))
        assert np.array_equal(waveform * 32768, samples)


def test_mono_is_the_mean_of_the_channels(stereo: npt.NDArray[np.int16]) -> None:
    waveform = decode_audio(encode(stereo, 16000, "WAV"), sampling_rate=16000)
    assert np.array_equal(waveform * 65536, stereo.astype(np.int64).sum(axis=1))


def test_a_slice_of_a_larger_block_is_decoded_in_place(sentence: npt.NDArray[np.int16]) -> None:
    encoded = encode(sentence, 16000, "FLAC")
    block = memoryview(b"before" + encoded + b"behind")[6:-6]
    assert_same_bits(decode_audio(block, sampling_rate=16000), reference(encoded, 16000))


def test_threads_decode_as_one_does(letters: list[Path]) -> None:
    clips = [path.read_bytes() for path in letters[::60]]

    def decode(encoded: bytes) -> bytes:
        return decode_audio(encoded, sampling_rate=16000, auto_resample=True).tobytes()

    one_by_one = [decode(clip) for clip in clips]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(decode, clips * 3)) == one_by_one * 3


# The rate


def test_another_rate_is_refused_before_anything_is_decoded(
    prompts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(SamplingRateError) as caught:
        decode_audio(prompts[0].read_bytes(), sampling_rate=16000, clip="hello.wav")
    assert str(caught.value) == (
        "Expected 16000 Hz, found 8000 Hz in 'hello.wav'. It gives no waveform. Pass auto_resample=True to have it "
        "resampled."
    )
    assert (caught.value.clip, caught.value.expected, caught.value.actual) == ("hello.wav", 16000, 8000)


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
def test_a_rate_that_no_audio_has_is_not_resampled(sentence: npt.NDArray[np.int16], rate: int) -> None:
    encoded = bytearray(encode(sentence, 16000, "WAV"))
    encoded[24:28] = struct.pack("<I", rate)
    assert refused(bytes(encoded)).cause == f"a sampling rate of {rate} Hz, which no audio has"


# The cap


@pytest.mark.parametrize("max_length_ms", [1, 20, 333, 1000, 2999, 60_000])
@pytest.mark.parametrize(("source_rate", "rate"), [(16000, 16000), (16000, 8000), (16000, 44100), (48000, 16000)])
def test_a_capped_waveform_is_the_beginning_of_the_whole(
    sentence: npt.NDArray[np.int16], source_rate: int, rate: int, max_length_ms: int
) -> None:
    encoded = encode(sentence, source_rate, "FLAC")
    whole = decode_audio(encoded, sampling_rate=rate, auto_resample=True)
    capped = decode_audio(encoded, sampling_rate=rate, max_length_ms=max_length_ms, auto_resample=True)
    assert len(capped) == min(len(whole), max_length_ms * rate // 1000)
    assert np.abs(capped - whole[: len(capped)]).max() <= (0 if source_rate == rate else 1e-4)


def test_the_smallest_cap_keeps_one_sample(prompts: list[Path]) -> None:
    encoded = encode(soundfile.read(prompts[0], dtype="int16")[0], 900, "WAV")
    waveform = decode_audio(encoded, sampling_rate=900, max_length_ms=1)
    assert_same_bits(waveform, reference(encoded, 900)[:1])


@pytest.mark.parametrize("rate", [8000, 16000])
def test_of_an_hour_only_what_the_cap_needs_is_decoded(
    prompts: list[Path], monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    speech = np.concatenate([soundfile.read(path, dtype="int16")[0] for path in prompts[:100]])
    encoded = encode(np.resize(speech, 3600 * 8000), 8000, "FLAC")
    n_read = []
    read = soundfile.SoundFile.read

    def counting_read(*args: Any, **kwargs: Any) -> Any:
        block = read(*args, **kwargs)
        n_read.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counting_read)
    waveform = decode_audio(encoded, sampling_rate=rate, max_length_ms=30_000, auto_resample=True)
    assert sum(n_read) == 30 * 8000 + (800 if rate != 8000 else 0)
    assert len(waveform) == 30 * rate
    if rate == 8000:
        assert_same_bits(waveform, (speech[: 30 * 8000] / 32768).astype(np.float32))


# Damage


@pytest.mark.usefixtures("no_torchcodec")
def test_no_bytes(sentence: npt.NDArray[np.int16]) -> None:
    assert str(refused(b"")) == (
        "Expected audio in 'a.wav' (0 bytes), found no bytes at all. It gives no waveform. Replace the clip or leave "
        "it out."
    )
    assert refused(memoryview(b"")[:0]).n_bytes == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", [b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", b"<!DOCTYPE html>", b"#EXTM3U\nhttp://x/"]
)
def test_text_is_named_and_never_given_to_ffmpeg(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = ModuleType("torchcodec.decoders")
    decoders.AudioDecoder = lambda _: pytest.fail("text was given to FFmpeg")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    assert refused(text).cause == f"text that begins {text[:40].decode()!r}"


@pytest.mark.parametrize("container", ["WAV", "AIFF", "AU", "CAF", "OGG"])
def test_no_samples(container: str) -> None:
    assert refused(encode(np.zeros(0, np.int16), 16000, container)).cause == "no samples"


@pytest.mark.parametrize(("value", "name"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
@pytest.mark.parametrize("rate", [16000, 8000])
def test_a_sample_that_is_no_number(sentence: npt.NDArray[np.int16], value: float, name: str, rate: int) -> None:
    samples = (sentence / 32768).astype(np.float32)
    samples[70_000] = value
    encoded = encode(samples, 16000, "WAV", "FLOAT")
    assert refused(encoded, sampling_rate=rate).cause == f"a sample that is {name} (frame 70000)"
    capped = decode_audio(encoded, sampling_rate=rate, auto_resample=True, max_length_ms=4000)
    assert len(capped) == 4 * rate


def test_samples_that_overflow_when_resampled() -> None:
    loud = np.where(np.arange(8000) % 64 < 32, 3.4e38, -3.4e38).astype(np.float32)
    encoded = encode(loud, 16000, "WAV", "FLOAT")
    assert refused(encoded, sampling_rate=8000).cause == "too short or too loud a clip to be resampled to 8000 Hz"


# Every one of these promises its length: by its chunks, pages, header or frames.
@pytest.mark.usefixtures("no_torchcodec")
@pytest.mark.parametrize(("container", "subtype"), FORMATS)
def test_a_truncated_file_is_refused_wherever_it_is_cut(
    stereo: npt.NDArray[np.int16], container: str, subtype: str
) -> None:
    encoded = encode(stereo, 16000, container, subtype)
    rng = np.random.default_rng(7)
    cuts = [1, 4, 12, 20, 44, 60, *rng.integers(61, len(encoded), 25), len(encoded) - 2, len(encoded) - 1]
    for cut in cuts:
        error = refused(encoded[:cut])
        if cut > 5000:
            assert error.cause.startswith(("a truncated ", "bytes that libsndfile cannot decode: Error : flac"))


@pytest.mark.parametrize(("container", "subtype"), [("WAV", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")])
def test_a_container_that_is_cut_behind_the_cap_is_refused_too(
    sentence: npt.NDArray[np.int16], container: str, subtype: str
) -> None:
    encoded = encode(sentence, 16000, container, subtype)
    assert refused(encoded[:-100], max_length_ms=100).cause.startswith("a truncated file: its container goes on to byte ")
    assert str(refused(encoded[:-100])).endswith("It gives no waveform. Fetch the file again.")


def test_a_clip_with_a_tail_of_zeros_is_refused(sentence: npt.NDArray[np.int16]) -> None:
    for container, subtype in (("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16")):
        encoded = encode(sentence, 16000, container, subtype)
        half = len(encoded) // 2
        assert refused(encoded[:half] + bytes(len(encoded) - half)).cause.startswith(("a truncated", "bytes that lib"))


def test_what_follows_the_audio_is_no_damage(sentence: npt.NDArray[np.int16]) -> None:
    for container, subtype in FORMATS:
        encoded = encode(sentence, 16000, container, subtype)
        tag = b"TAG" + bytes(125)
        assert_same_bits(decode_audio(encoded + tag, sampling_rate=16000), reference(encoded, 16000))


def test_ogg_without_its_end_of_stream_flag_decodes(letters: list[Path]) -> None:
    # RFC 3533 wants the flag, and every fourth of these clips, as published, lacks it.
    flagless = [path for path in letters if not (clip := path.read_bytes())[clip.rindex(b"OggS") + 5] & 4]
    assert len(flagless) > 100
    for path in flagless[::50]:
        encoded = path.read_bytes()
        rate = soundfile.info(path).samplerate
        assert_same_bits(decode_audio(encoded, sampling_rate=rate), reference(encoded, rate))
        assert refused(encoded[:-1]).cause.startswith("a truncated file")


# Streams, whose length was not known when their header was written


@pytest.mark.parametrize("size", [0, 0x7F000000, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize(("container", "order", "chunk"), [("WAV", "<", b"data"), ("AIFF", ">", b"SSND")])
def test_a_streamed_wav_or_aiff_decodes(
    sentence: npt.NDArray[np.int16], container: str, order: str, chunk: bytes, size: int
) -> None:
    whole = encode(sentence, 16000, container)
    streamed = bytearray(whole)
    at = whole.index(chunk) + 4
    for start in (4, at):
        streamed[start : start + 4] = struct.pack(f"{order}I", size)
    assert_same_bits(decode_audio(bytes(streamed), sampling_rate=16000), reference(whole, 16000))


def test_a_streamed_au_decodes(sentence: npt.NDArray[np.int16]) -> None:
    whole = encode(sentence, 16000, "AU")
    streamed = whole[:8] + b"\xff\xff\xff\xff" + whole[12:]
    assert_same_bits(decode_audio(streamed, sampling_rate=16000), reference(whole, 16000))


def flac_stating(encoded: bytes, n_frames: int) -> bytes:
    """The same FLAC with another total in the last 36 bits before the MD5 of its STREAMINFO."""
    field = int.from_bytes(encoded[18:26], "big") >> 36 << 36 | n_frames
    return encoded[:18] + field.to_bytes(8, "big") + encoded[26:]


def test_a_streamed_flac_decodes(stereo: npt.NDArray[np.int16]) -> None:
    whole = encode(stereo, 16000, "FLAC")
    streamed = flac_stating(whole, 0)
    assert soundfile.info(io.BytesIO(streamed)).frames == 2**63 - 1
    assert_same_bits(decode_audio(streamed, sampling_rate=16000), reference(whole, 16000))
    assert_same_bits(decode_audio(streamed, sampling_rate=8000, auto_resample=True), reference(whole, 8000))
    for cut in range(len(streamed) // 2, len(streamed), 4999):
        assert "lost sync" in refused(streamed[:cut]).cause


def test_a_streamed_flac_without_samples(sentence: npt.NDArray[np.int16]) -> None:
    streamed = flac_stating(encode(sentence, 16000, "FLAC"), 0)
    # STREAMINFO is marked as the last block of the metadata, and nothing follows.
    header_only = b"fLaC\x80" + streamed[5:42]
    refused(header_only)


def test_a_header_that_promises_terabytes_allocates_nothing(sentence: npt.NDArray[np.int16]) -> None:
    encoded = flac_stating(encode(sentence, 16000, "FLAC"), 2**36 - 1)
    tracemalloc.start()
    try:
        error = refused(encoded)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error.cause == f"a truncated or damaged file: {len(sentence)} of the {2**36 - 1} frames that it states"
    assert peak < 10_000_000


# MP3


@pytest.fixture(scope="session")
def make_mp3(sentence: npt.NDArray[np.int16]) -> Callable[[str], tuple[bytes, bytes]]:
    """``make_mp3(mode)``: an MP3, and the same without its first frame, which has the Xing or Info header."""

    def make(bitrate_mode: str) -> tuple[bytes, bytes]:
        # A second of silence first: of a low bit rate, if the rate varies.
        samples = np.concatenate([np.zeros(16000, np.int16), sentence])
        whole = encode(samples, 16000, "MP3", bitrate_mode=bitrate_mode, compression_level=0.0)
        assert b"Xing" in whole[:64] or b"Info" in whole[:64]
        return whole, whole[whole.index(whole[:2], 100) :]

    return make


def test_plain_mp3_of_constant_bit_rate(make_mp3: Callable[[str], tuple[bytes, bytes]]) -> None:
    whole, plain = make_mp3("CONSTANT")
    waveform = decode_audio(plain, sampling_rate=16000)
    assert_same_bits(waveform, reference(plain, 16000))
    # The header also told what the encoder had put before and behind: up to three of its frames.
    assert 0 <= len(waveform) - len(decode_audio(whole, sampling_rate=16000)) <= 3 * 576
    for cut in range(len(plain) // 2, len(plain), 997):
        assert refused(plain[:cut]).cause.startswith("a truncated file")


@pytest.mark.usefixtures("no_torchcodec")
def test_plain_mp3_of_varying_bit_rate_is_never_shortened(make_mp3: Callable[[str], tuple[bytes, bytes]]) -> None:
    whole, plain = make_mp3("VARIABLE")
    assert soundfile.info(io.BytesIO(plain)).frames != soundfile.info(io.BytesIO(whole)).frames
    silent_start = make_loud_start(plain)
    assert len(reference(silent_start, 16000)) < 0.9 * len(decode_audio(whole, sampling_rate=16000))
    assert "an MP3 of varying bit rate without a Xing header" in refused(silent_start).cause
    beginning = decode_audio(silent_start, sampling_rate=16000, max_length_ms=500)
    assert_same_bits(beginning, reference(silent_start, 16000)[:8000])


def make_loud_start(plain: bytes) -> bytes:
    return plain

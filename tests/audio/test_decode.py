"""Real speech in every format, as it is, capped, damaged and cut off."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import resource
import signal
import struct
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
from audio_files import ape_tag, assert_same_bits, decode_audio, encode, make_mp3, reference, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_audio_cache.audio import decode
from hf_audio_cache.audio.libsndfile import decode_with_libsndfile
from hf_audio_cache.audio.mp3 import frames_at
from hf_audio_cache.audio.request import Decoded, NotForThisDecoderError, Request
from hf_audio_cache.errors import AudioError, SamplingRateError

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


# Between `open` and `with` an interrupt leaves the file to the garbage collector, in any program.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("container", "subtype"), [("WAV", "PCM_16"), ("MP3", "MPEG_LAYER_III")])
def test_an_interrupt_never_shortens_a_clip(stereo: npt.NDArray[np.int16], container: str, subtype: str) -> None:
    encoded = encode(stereo, 16000, container, subtype)
    started = time.perf_counter()
    whole = decode_audio(encoded, sampling_rate=16000)
    seconds = time.perf_counter() - started
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    n_interrupted, n_steps = 0, 200
    try:
        for step in range(1, n_steps):
            try:
                signal.setitimer(signal.ITIMER_REAL, step / n_steps * seconds)
                assert_same_bits(decode_audio(encoded, sampling_rate=16000), whole)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                n_interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert n_interrupted > n_steps // 10


def test_files_in_memory_are_closed_and_may_be_forbidden(stereo: npt.NDArray[np.int16]) -> None:
    encoded = encode(stereo, 16000, "FLAC", "PCM_16")
    before = os.listdir("/proc/self/fd")
    whole = decode_audio(encoded, sampling_rate=16000)
    for damaged in (encoded[:30], b"fLaC" + bytes(400), bytes(4000)):
        with contextlib.suppress(AudioError):
            decode_audio(damaged, sampling_rate=16000)
    assert os.listdir("/proc/self/fd") == before
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        assert_same_bits(decode_audio(encoded, sampling_rate=16000), whole)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir("/proc/self/fd") == before


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
        "Expected 16000 Hz, found 8000 Hz in 'hello.wav'. It cannot be used. Pass auto_resample=True to have it "
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
    assert sum(n_read) == 30 * 8000 + (800 if rate != 8000 else 1)
    assert len(waveform) == 30 * rate
    if rate == 8000:
        assert_same_bits(waveform, (speech[: 30 * 8000] / 32768).astype(np.float32))


# Damage


@pytest.mark.usefixtures("no_torchcodec")
def test_no_bytes(sentence: npt.NDArray[np.int16]) -> None:
    assert str(refused(b"")) == (
        "Expected audio in 'a.wav' (0 bytes), found no bytes at all. It cannot be used. Replace the clip or leave "
        "it out."
    )
    assert refused(memoryview(b"")[:0]).n_bytes == 0  # type: ignore[arg-type]


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


def test_a_clip_with_a_tail_of_zeros_is_refused(sentence: npt.NDArray[np.int16]) -> None:
    for container, subtype in (("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16")):
        encoded = encode(sentence, 16000, container, subtype)
        half = len(encoded) // 2
        assert refused(encoded[:half] + bytes(len(encoded) - half)).cause.startswith("a truncated")


def test_what_follows_the_audio_is_no_damage(sentence: npt.NDArray[np.int16]) -> None:
    for container, subtype in FORMATS[:-1]:  # but Wave64, of which libsndfile takes everything for samples
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


@pytest.mark.parametrize("tag", [20_001, 5], ids=["long", "short"])
@pytest.mark.parametrize(("container", "subtype"), FORMATS[:-3] + FORMATS[-1:])
def test_a_tag_before_the_audio_costs_nothing_of_its_end(
    sentence: npt.NDArray[np.int16], container: str, subtype: str, tag: int
) -> None:
    encoded = encode(sentence, 16000, container, subtype)
    id3 = b"ID3\x04\x00\x00" + bytes([0, 0, tag >> 7, tag & 127]) + bytes(tag)
    tagged = decode_audio(id3 + id3 + encoded, sampling_rate=16000, auto_resample=True)
    assert_same_bits(tagged, reference(encoded, 16000))
    assert refused((id3 + encoded)[: -len(encoded) // 3]).cause.startswith("a truncated")


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


def test_a_wav_without_samples_is_not_taken_for_a_streamed_one(sentence: npt.NDArray[np.int16]) -> None:
    header = encode(sentence[:0], 16000, "WAV")
    comment = b"LIST\x0c\x00\x00\x00INFOICMT\x00\x00\x00\x00"
    wav = header[:4] + struct.pack("<I", len(header + comment) - 8) + header[8:] + comment
    assert refused(wav).cause == "no samples"


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
    assert error.cause == (
        f"a truncated or damaged file: {len(sentence) / 16000:.3f} s of the 4294967.296 s that its header promises are "
        f"there ({len(sentence)} of {2**36 - 1} frames)"
    )
    assert peak < 10_000_000


# MP3


def test_plain_mp3_of_constant_bit_rate(sentence: npt.NDArray[np.int16]) -> None:
    whole, plain = make_mp3(sentence, "CONSTANT")
    waveform = decode_audio(plain, sampling_rate=16000)
    assert_same_bits(waveform, reference(plain, 16000))
    # The header also told how many samples of its own the encoder had put around: less than three frames.
    assert 0 < len(waveform) - len(decode_audio(whole, sampling_rate=16000)) < 3 * 576


@pytest.mark.usefixtures("no_torchcodec")
def test_plain_mp3_of_varying_bit_rate_is_never_shortened(sentence: npt.NDArray[np.int16]) -> None:
    whole, plain = make_mp3(sentence, "VARIABLE")
    assert len(reference(plain, 16000)) < 0.9 * len(decode_audio(whole, sampling_rate=16000))
    assert "an MP3 of varying bit rate without a Xing header" in refused(plain).cause
    beginning = decode_audio(plain, sampling_rate=16000, max_length_ms=500)
    assert_same_bits(beginning, reference(plain, 16000)[:8000])


@pytest.mark.usefixtures("no_torchcodec")
def test_nor_where_something_else_lies_between_its_frames(sentence: npt.NDArray[np.int16]) -> None:
    _, plain = make_mp3(sentence, "VARIABLE")
    second = list(islice(frames_at(memoryview(plain), 0), 2))[1][1]
    for between in (bytes(100), b"\xff\xfb\x90\x04" + bytes(500), ape_tag(300)):
        assert "whose end it misses" in refused(plain[:second] + between + plain[second:]).cause


def test_mp3_with_an_id3_tag(sentence: npt.NDArray[np.int16]) -> None:
    whole, plain = make_mp3(sentence, "CONSTANT")
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 2, 44]) + bytes(300)
    for encoded in (whole, plain):
        assert_same_bits(decode_audio(tag + encoded, sampling_rate=16000), decode_audio(encoded, sampling_rate=16000))
    assert refused(tag[:200]).cause.startswith(
        "a truncated file: its container goes on to byte 310 at least; bytes that"
    )


def test_mp3_with_a_tag_whose_xing_header_states_no_bytes(sentence: npt.NDArray[np.int16]) -> None:
    whole, _ = make_mp3(sentence, "CONSTANT")
    n_bytes = (whole.find(b"Info") if b"Info" in whole[:40] else whole.find(b"Xing")) + 12
    encoded = _ID3V2 + whole[:n_bytes] + bytes(4) + whole[n_bytes + 4 :]
    assert_same_bits(decode_audio(encoded, sampling_rate=16000), reference(encoded, 16000))


# Several files in one

_ID3V2 = b"ID3\x04\x00\x00" + bytes([0, 0, 2, 44]) + bytes(300)


@pytest.mark.parametrize("rate", [16000, 8000])
@pytest.mark.parametrize(
    ("container", "subtype", "between"),
    [
        ("OGG", "VORBIS", b""),
        ("OGG", "OPUS", b""),
        ("MP3", "MPEG_LAYER_III", b""),
        ("MP3", "MPEG_LAYER_III", b"TAG" + bytes(125) + _ID3V2 + _ID3V2),
        ("MP3", "MPEG_LAYER_III", ape_tag(5000) + b"TAG" + bytes(125)),
    ],
)
def test_of_several_streams_one_after_another_all_are_decoded(
    sentence: npt.NDArray[np.int16], container: str, subtype: str, between: bytes, rate: int
) -> None:
    parts = [encode(part, 16000, container, subtype) for part in np.array_split(sentence, 3)]
    whole = np.concatenate([reference(part, 16000) for part in parts])
    expected = whole if rate == 16000 else soxr.resample(whole, 16000, rate, quality="HQ")
    settings: dict[str, Any] = {"sampling_rate": rate, "auto_resample": True}
    assert_same_bits(decode_audio(between.join(parts), **settings), expected)
    if rate == 16000:
        for max_length_ms in (500, 1000 * len(whole) // 16000 - 500):
            capped = decode_audio(between.join(parts), max_length_ms=max_length_ms, **settings)
            assert_same_bits(capped, whole[: 16 * max_length_ms])
    truncated = between.join([*parts[:2], parts[2][: len(parts[2]) // 2]])
    assert refused(truncated).cause.startswith("a truncated")


@pytest.mark.usefixtures("no_torchcodec")
def test_streams_of_different_rates_are_not_joined(sentence: npt.NDArray[np.int16]) -> None:
    ogg = b"".join(encode(sentence, rate, "OGG", "VORBIS") for rate in (16000, 8000))
    assert "several streams of different rates or channels, one after another" in refused(ogg).cause
    beginning = decode_audio(ogg, sampling_rate=16000, max_length_ms=500)
    assert len(beginning) == 8000


@pytest.mark.usefixtures("no_torchcodec")
def test_an_mp3_behind_two_tags_is_looked_at_for_its_length(sentence: npt.NDArray[np.int16]) -> None:
    _, plain = make_mp3(sentence, "VARIABLE")
    assert "an MP3 of varying bit rate without a Xing header" in refused(_ID3V2 + _ID3V2 + plain).cause


_ID3V1 = b"TAG" + bytes(125)


@pytest.mark.usefixtures("no_torchcodec")
@pytest.mark.parametrize("tags", [_ID3V1, _ID3V2, _ID3V1 + _ID3V2 + _ID3V2], ids=["v1", "v2", "both"])
def test_of_mp3s_without_a_header_that_were_joined_with_their_tags_none_is_left_out(
    sentence: npt.NDArray[np.int16], tags: bytes
) -> None:
    _, varying = make_mp3(sentence, "VARIABLE")
    assert "whose end it misses" in refused(varying + tags + varying).cause
    _, constant = make_mp3(sentence, "CONSTANT")
    slower = encode(sentence, 8000, "MP3", bitrate_mode="CONSTANT")
    assert "whose end it misses" in refused(constant + tags + slower).cause
    assert len(decode_audio(constant + tags + constant, sampling_rate=16000)) == 2 * len(reference(constant, 16000))
    assert_same_bits(decode_audio(constant + tags[:-9], sampling_rate=16000), reference(constant, 16000))


# Bytes that are nothing


BEGINNINGS = [
    b"",
    b"RIFF\x00\x01\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00",
    b"RF64\xff\xff\xff\xffWAVEds64",
    b"FORM\x00\x01\x00\x00AIFFCOMM\x00\x00\x00\x12",
    b"caff\x00\x01\x00\x00",
    b".snd\x00\x00\x00\x18",
    b"riff.\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00",
    b"fLaC\x00\x00\x00\x22",
    b"OggS\x00\x02",
    b"ID3\x04\x00\x00\x00\x00\x00\x05",
    b"\xff\xf3\x88\xc4",
    b"\x1aE\xdf\xa3",
    b"\x00\x00\x00\x18ftyp",
]


@pytest.mark.filterwarnings("error")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(beginning=st.sampled_from(BEGINNINGS), rest=st.binary(max_size=400))
def test_random_bytes_are_refused(beginning: bytes, rest: bytes) -> None:
    without = pytest.MonkeyPatch()
    without.setitem(sys.modules, "torchcodec", None)
    without.setitem(sys.modules, "torchcodec.decoders", None)
    with without.context(), contextlib.suppress(AudioError):
        # Some hundred bytes behind a good header may be samples; anything but such a waveform is an AudioError.
        waveform = decode_audio(beginning + rest, sampling_rate=16000, auto_resample=True, clip="x")
        assert 0 < len(waveform) < 1_000_000
        assert np.isfinite(waveform).all()
    without.undo()


@pytest.mark.usefixtures("no_torchcodec")
@pytest.mark.parametrize(("container", "subtype"), FORMATS)
def test_a_damaged_header_is_refused_or_decoded(sentence: npt.NDArray[np.int16], container: str, subtype: str) -> None:
    encoded = encode(sentence[:4000], 16000, container, subtype)
    rng = np.random.default_rng(3)
    n_refused = 0
    for _ in range(120):
        damaged = bytearray(encoded)
        for at in rng.integers(0, 64, 3):
            damaged[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        try:
            waveform = decode_audio(bytes(damaged), sampling_rate=16000, auto_resample=True)
        except AudioError:
            n_refused += 1
        else:
            assert waveform.dtype == np.float32
            assert np.isfinite(waveform).all()
    assert n_refused > 0


def test_nothing_is_printed_of_a_header_that_points_nowhere(
    sentence: npt.NDArray[np.int16], capfd: pytest.CaptureFixture[str]
) -> None:
    whole = bytearray(encode(sentence[:100], 16000, "AIFF"))
    whole[4:8] = whole[whole.index(b"SSND") + 4 : whole.index(b"SSND") + 8] = bytes(4)
    for cut in range(12, len(whole)):
        with contextlib.suppress(AudioError):
            decode_audio(bytes(whole[:cut]), sampling_rate=16000)
    assert capfd.readouterr() == ("", "")


def test_errors_survive_pickling(prompts: list[Path]) -> None:
    errors: list[AudioError] = [refused(b"\x00\x01" * 500)]
    with pytest.raises(SamplingRateError) as caught:
        decode_audio(prompts[0].read_bytes(), sampling_rate=16000, clip="a.wav")
    for error in [*errors, caught.value]:
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)


# Further decoders


def test_a_decoder_of_the_list_gets_what_those_before_it_cannot_open(
    sentence: npt.NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode_words(encoded: memoryview, request: Request) -> Decoded:
        if encoded[:5] != b"words":
            raise NotForThisDecoderError("it does not begin with words", "Begin with words.")
        request.check_rate(8000)
        return Decoded(np.frombuffer(encoded[5:], np.float32), 8000)

    monkeypatch.setattr(decode, "_DECODERS", {"libsndfile": decode_with_libsndfile, "words": decode_words})
    samples = (sentence[:4000] / 32768).astype(np.float32)
    assert_same_bits(decode_audio(b"words" + samples.tobytes(), sampling_rate=8000), samples)
    wav = encode(sentence, 16000, "WAV")
    assert_same_bits(decode_audio(wav, sampling_rate=16000), reference(wav, 16000))
    error = refused(b"neither")
    assert error.cause == (
        "bytes that no decoder reads (libsndfile: Format not recognised; words: it does not begin with words)"
    )
    assert str(error).endswith("It cannot be used. Begin with words.")

"""Real speech in every format, as it is, capped, damaged and cut off."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_audio_cache.audio.decode import decode_audio, to_waveform
from hf_audio_cache.errors import AudioDecodeError, AudioError, SamplingRateError

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
    assert refused(encoded[:-100], max_length_ms=100).cause.startswith(
        "a truncated file: its container goes on to byte "
    )
    assert str(refused(encoded[:-100])).endswith("It gives no waveform. Fetch the file again.")


def test_ogg_that_is_cut_inside_the_header_of_a_page_is_refused(sentence: npt.NDArray[np.int16]) -> None:
    for subtype in ("VORBIS", "OPUS"):
        encoded = encode(sentence, 16000, "OGG", subtype)
        last_page = encoded.rindex(b"OggS")
        for n_left in range(1, 40):
            assert refused(encoded[: last_page + n_left]).cause.startswith("a truncated file: it")


def test_a_clip_with_a_tail_of_zeros_is_refused(sentence: npt.NDArray[np.int16]) -> None:
    for container, subtype in (("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16")):
        encoded = encode(sentence, 16000, container, subtype)
        half = len(encoded) // 2
        assert refused(encoded[:half] + bytes(len(encoded) - half)).cause.startswith(("a truncated", "bytes that lib"))


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
    assert error.cause == f"a truncated or damaged file: {len(sentence)} of the {2**36 - 1} frames that it states"
    assert peak < 10_000_000


# MP3


def make_mp3(speech: npt.NDArray[np.int16], bitrate_mode: str) -> tuple[bytes, bytes]:
    """An MP3, and the same without its first frame, which has the Xing or Info header."""
    # Silence last: where the bit rate varies, what comes first is not like the rest.
    samples = np.concatenate([speech[8000:], np.zeros(48000, np.int16)])
    whole = encode(samples, 16000, "MP3", bitrate_mode=bitrate_mode, compression_level=0.0)
    assert {b"Xing", b"Info"} & {whole[13:17], whole[21:25]}
    return whole, whole[whole.index(whole[:2], 100) :]


def test_plain_mp3_of_constant_bit_rate(sentence: npt.NDArray[np.int16]) -> None:
    whole, plain = make_mp3(sentence, "CONSTANT")
    waveform = decode_audio(plain, sampling_rate=16000)
    assert_same_bits(waveform, reference(plain, 16000))
    # The header also told how many samples of its own the encoder had put around: less than three frames.
    assert 0 < len(waveform) - len(decode_audio(whole, sampling_rate=16000)) < 3 * 576
    for cut in range(len(plain) // 2, len(plain), 997):
        assert refused(plain[:cut]).cause.startswith("a truncated file")


@pytest.mark.usefixtures("no_torchcodec")
def test_plain_mp3_of_varying_bit_rate_is_never_shortened(sentence: npt.NDArray[np.int16]) -> None:
    whole, plain = make_mp3(sentence, "VARIABLE")
    assert len(reference(plain, 16000)) < 0.9 * len(decode_audio(whole, sampling_rate=16000))
    assert "an MP3 of varying bit rate without a Xing header" in refused(plain).cause
    beginning = decode_audio(plain, sampling_rate=16000, max_length_ms=500)
    assert_same_bits(beginning, reference(plain, 16000)[:8000])


def test_mp3_with_an_id3_tag(sentence: npt.NDArray[np.int16]) -> None:
    whole, plain = make_mp3(sentence, "CONSTANT")
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 2, 44]) + bytes(300)
    for encoded in (whole, plain):
        assert_same_bits(decode_audio(tag + encoded, sampling_rate=16000), decode_audio(encoded, sampling_rate=16000))
        assert refused((tag + encoded)[:-500]).cause.startswith("a truncated file")
    assert refused(tag[:200]).cause == "a truncated file: its container goes on to byte 310 at least"


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


# What libsndfile cannot open

M4A = b"\x00\x00\x00\x18ftypM4A \x00\x00\x02\x00M4A isom" + struct.pack(">I", 108) + b"mdat" + bytes(range(100))


@pytest.mark.usefixtures("no_torchcodec")
def test_without_torchcodec_the_message_says_what_to_install() -> None:
    error = refused(M4A)
    assert error.cause.startswith("what libsndfile cannot open (Format not recognised), and torchcodec, which decodes ")
    assert str(error).endswith(
        " Install torchcodec (`pip install torchcodec`) and FFmpeg, or convert the clip to FLAC or WAV."
    )
    assert isinstance(error.__cause__, ImportError)


def test_torchcodec_without_ffmpeg_is_as_if_it_were_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "torchcodec":
                raise RuntimeError("Could not load libtorchcodec. Likely causes:\n 1. FFmpeg is not installed")

    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.delitem(sys.modules, "torchcodec.decoders", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    error = refused(M4A)
    assert error.cause.endswith("cannot be imported (Could not load libtorchcodec. Likely causes:)")
    assert "FFmpeg" in str(error)


def test_whatever_torchcodec_raises_is_a_decode_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(_: bytes) -> None:
        raise KeyError("stream")

    decoders = ModuleType("torchcodec.decoders")
    decoders.AudioDecoder = raising  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    error = refused(M4A)
    assert error.cause == "bytes that libsndfile (Format not recognised) and torchcodec cannot decode: 'stream'"
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
    for cut in [8, 40, *rng.integers(61, len(encoded), 25), len(encoded) - 1]:
        refused(encoded[:cut])


@pytest.mark.torchcodec
def test_plain_mp3_of_varying_bit_rate_decodes_by_torchcodec(sentence: npt.NDArray[np.int16]) -> None:
    whole, plain = make_mp3(sentence, "VARIABLE")
    by_header = decode_audio(whole, sampling_rate=16000)
    by_torchcodec = decode_audio(plain, sampling_rate=16000)
    # Without the header nothing tells the encoder's delay of 576 samples and the decoder's of 529.
    delay = 576 + 529
    assert 0 < len(by_torchcodec) - len(by_header) < 3 * 576
    assert np.abs(by_torchcodec[delay : delay + len(by_header)] - by_header[: len(by_torchcodec) - delay]).max() < 1e-4


# Arrays that are decoded already


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4", ">i4", "<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("rate", [16000, 8000])
def test_decoded_arrays_have_one_scale(sentence: npt.NDArray[np.int16], dtype: str, rate: int) -> None:
    full_scale = {"i2": 1, "i4": 65536}.get(dtype[1:], 1 / 32768)
    samples = (sentence.astype(np.float64) * full_scale).astype(dtype)
    expected = (sentence / 32768).astype(np.float16 if dtype == "<f2" else np.float32).astype(np.float32)
    if rate != 16000:
        expected = soxr.resample(expected, 16000, rate, quality="HQ")
    assert_same_bits(to_waveform(samples, 16000, sampling_rate=rate, auto_resample=True), expected)


def test_bytes_and_array_of_a_clip_are_one_waveform(stereo: npt.NDArray[np.int16]) -> None:
    encoded = encode(stereo, 16000, "WAV")
    settings: dict[str, Any] = {"sampling_rate": 11025, "auto_resample": True, "max_length_ms": 2500}
    waveform = decode_audio(encoded, **settings)
    assert len(waveform) == 2500 * 11025 // 1000
    for samples in (stereo, np.ascontiguousarray(stereo.T), (stereo / 32768).astype(np.float64)):
        assert_same_bits(to_waveform(samples, 16000, **settings), waveform)


@pytest.mark.parametrize("shape", [(4000, 1), (1, 4000), (33, 32), (32, 33)])
def test_the_shorter_axis_has_the_channels(sentence: npt.NDArray[np.int16], shape: tuple[int, int]) -> None:
    samples = sentence[: shape[0] * shape[1]].reshape(shape) / 32768
    waveform = to_waveform(samples, 16000, sampling_rate=16000)
    assert waveform.shape == (max(shape),)
    assert np.allclose(waveform, samples.mean(axis=int(np.argmin(shape))), atol=1e-7)


@pytest.mark.parametrize("shape", [(), (2, 2), (40, 40), (33, 34), (2, 3, 4)])
def test_a_shape_that_does_not_show_its_channels_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(AudioDecodeError, match=r"It gives no waveform\. Pass shape") as caught:
        to_waveform(np.ones(shape, np.float32), 16000, sampling_rate=16000, clip="row 3")
    assert caught.value.cause == f"an array of shape {shape}, which does not show what its channels are"
    assert caught.value.n_bytes == 4 * int(np.prod(shape))
    assert caught.value.clip == "row 3"


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int64", "bool", "complex64", "object", "U3", "M8[s]"])
def test_a_dtype_without_a_scale_is_named(dtype: str) -> None:
    with pytest.raises(
        AudioDecodeError, match="Pass float32 between -1 and 1, or int16 or int32 of full scale"
    ) as caught:
        to_waveform(np.zeros(100, dtype), 16000, sampling_rate=16000)
    assert caught.value.cause == f"an array of dtype {np.dtype(dtype)}"


@pytest.mark.parametrize("shape", [(0,), (0, 2), (2, 0)])
def test_an_empty_array(shape: tuple[int, ...]) -> None:
    with pytest.raises(AudioDecodeError) as caught:
        to_waveform(np.zeros(shape, np.float32), 16000, sampling_rate=16000)
    assert caught.value.cause == "no samples"
    assert "in a clip without a name (0 bytes)" in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_an_array_with_a_sample_that_is_no_float32(sentence: npt.NDArray[np.int16], value: float) -> None:
    samples = np.stack([sentence / 32768, sentence / 32768], axis=1)
    samples[123, 1] = value
    with pytest.raises(AudioDecodeError) as caught:
        to_waveform(samples, 16000, sampling_rate=16000)
    assert caught.value.cause == f"a sample that is {np.float32(value) if value != 1e39 else 'inf'} (frame 123)"


def test_an_array_at_another_rate() -> None:
    with pytest.raises(SamplingRateError, match="Expected 16000 Hz, found 0 Hz in a clip without a name") as caught:
        to_waveform(np.ones(100, np.float32), 0, sampling_rate=16000)
    assert (caught.value.expected, caught.value.actual) == (16000, 0)


def test_an_array_too_short_to_be_resampled() -> None:
    with pytest.raises(AudioDecodeError) as caught:
        to_waveform(np.ones(1, np.float32), 48000, sampling_rate=8000, auto_resample=True)
    assert caught.value.cause == "too short or too loud a clip to be resampled to 8000 Hz"


def test_the_waveform_is_an_array_of_its_own() -> None:
    samples = np.linspace(-1, 1, 1000, dtype=np.float32)
    waveform = to_waveform(samples, 16000, sampling_rate=16000, max_length_ms=10)
    waveform[:] = 0
    assert samples[0] == -1
    assert waveform.base is None

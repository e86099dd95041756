"""Files whose header promises more than there is, and clips longer than the cap."""

from __future__ import annotations

import io
import struct

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from audio_files import assert_same_bits, decode_audio, encode, make_mp3, reference, refused

from hf_audio_cache.audio import decode
from hf_audio_cache.audio.length import ClipLength, Shortfall
from hf_audio_cache.audio.request import Request
from hf_audio_cache.errors import AudioTooLongError, TruncatedAudioError

Samples = npt.NDArray[np.int16]

# By container and subtype: the samples of one of its blocks, which are lost together.
CONTAINERS = {
    ("WAV", "PCM_16"): 1,
    ("WAV", "PCM_24"): 1,
    ("WAV", "FLOAT"): 1,
    ("WAV", "ULAW"): 1,
    ("WAVEX", "PCM_16"): 1,
    ("RF64", "PCM_16"): 1,
    ("AIFF", "PCM_16"): 1,
    ("AU", "PCM_16"): 1,
    ("CAF", "PCM_16"): 1,
    ("W64", "PCM_16"): 1,
    ("NIST", "PCM_16"): 1,
    ("FLAC", "PCM_16"): 4096,
    ("MP3", "MPEG_LAYER_III"): 576,
    ("OGG", "VORBIS"): 16_000,
    ("OGG", "OPUS"): 16_000,
}


def lying(wav: bytes, n_more: int, *, riff_too: bool = True) -> bytes:
    """A WAV of 44 bytes of header whose sizes promise so many bytes more than there are."""
    lie = bytearray(wav)
    struct.pack_into("<I", lie, 40, len(wav) - 44 + n_more)
    if riff_too:
        struct.pack_into("<I", lie, 4, len(wav) - 8 + n_more)
    return bytes(lie)


@pytest.mark.usefixtures("no_torchcodec")
@pytest.mark.parametrize(("container", "subtype"), CONTAINERS)
def test_what_is_there_of_a_file_that_is_cut(stereo: Samples, container: str, subtype: str) -> None:
    encoded = encode(stereo[:64_000], 16000, container, subtype)
    whole = reference(encoded, 16000)
    rng = np.random.default_rng(7)
    n_refused = n_whole = 0
    n_bytes = len(encoded)
    for cut in [*rng.integers(n_bytes // 3, n_bytes, 9), n_bytes - 100, n_bytes - 2, n_bytes - 1]:
        accepted = decode_audio(encoded[:cut], sampling_rate=16000, truncated="accept")
        n_there, lost = len(accepted), len(whole) - len(accepted)
        if subtype not in ("VORBIS", "MPEG_LAYER_III"):  # these end a file in another way than a block
            assert_same_bits(accepted, whole[:n_there])
        short = decode.decode_audio(encoded[:cut], Request(16000)).length.short
        if short is None:
            n_whole += 1
            assert lost < 1600 or container == "OGG"
            assert_same_bits(decode_audio(encoded[:cut], sampling_rate=16000), accepted)
            continue
        n_refused += 1
        error = refused(encoded[:cut])
        assert isinstance(error, TruncatedAudioError)
        assert (error.seconds, error.promised) == (short.seconds, short.promised)
        assert short.seconds == pytest.approx(n_there / 16000, abs=1e-6)
        assert short.promised is not None
        if container == "OGG":  # it only says how long the page is that was cut
            assert n_there + 1600 <= short.promised * 16000 <= len(whole) + 1
        else:
            assert short.promised * 16000 == pytest.approx(len(whole), abs=2)
            assert lost >= 1600
    assert n_refused >= 7
    if CONTAINERS[container, subtype] < 1600:
        assert n_whole >= 2


@pytest.mark.usefixtures("no_torchcodec")
def test_of_the_header_alone_nothing_is_accepted(stereo: Samples) -> None:
    for container, subtype in CONTAINERS:
        encoded = encode(stereo, 16000, container, subtype)
        for cut in (1, 4, 12, 20):
            refused(encoded[:cut], truncated="accept")


@pytest.mark.parametrize(("n_more", "is_whole"), [(1, True), (44, True), (3198, True), (3200, False), (96_000, False)])
@pytest.mark.parametrize("riff_too", [True, False])
def test_a_wav_whose_header_lies(sentence: Samples, n_more: int, is_whole: bool, riff_too: bool) -> None:
    lie = lying(encode(sentence, 16000, "WAV"), n_more, riff_too=riff_too)
    expected = soundfile.read(io.BytesIO(lie), dtype="float32")[0]
    assert len(expected) == len(sentence)
    assert_same_bits(decode_audio(lie, sampling_rate=16000, truncated="accept"), expected)
    if is_whole:
        assert_same_bits(decode_audio(lie, sampling_rate=16000), expected)
        assert decode.decode_audio(lie, Request(16000)).length.short is None
        return
    seconds, promised = len(sentence) / 16000, (len(sentence) + n_more / 2) / 16000
    error = refused(lie)
    assert isinstance(error, TruncatedAudioError)
    assert (error.seconds, error.promised) == pytest.approx((seconds, promised), abs=1e-6)
    end = f"its container goes on to byte {len(lie) + n_more} at least"
    end += "" if riff_too else ", though by its first size it is whole"
    assert str(error) == (
        f"Expected audio in 'a.wav' ({len(lie)} bytes), found a truncated or damaged file: {seconds:.3f} s of the "
        f"{promised:.3f} s that its header promises are there ({end}). It cannot be used. Fetch the file again; "
        'or, if there is no more of it (its header may be wrong), pass truncated="accept" to take what is there.'
    )


def test_a_file_that_is_cut_behind_the_cap_is_refused_too(sentence: Samples) -> None:
    for container, subtype in (("WAV", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16")):
        encoded = encode(sentence, 16000, container, subtype)
        half = encoded[: len(encoded) // 2]
        error = refused(half, max_length_ms=100)
        assert isinstance(error, TruncatedAudioError)
        assert error.seconds == pytest.approx(refused(half).seconds)  # type: ignore[attr-defined]
        beginning = decode_audio(half, sampling_rate=16000, max_length_ms=100, truncated="accept")
        assert_same_bits(beginning, decode_audio(encoded, sampling_rate=16000, max_length_ms=100))


def test_ogg_that_is_cut_inside_the_header_of_a_page(sentence: Samples) -> None:
    for subtype in ("VORBIS", "OPUS"):
        encoded = encode(sentence, 16000, "OGG", subtype)
        last_page = encoded.rindex(b"OggS")
        before = reference(encoded[:last_page], 16000)
        for n_left in (1, 13, 26):
            error = refused(encoded[: last_page + n_left])
            assert isinstance(error, TruncatedAudioError)
            assert error.seconds == pytest.approx(len(before) / 16000, abs=1e-6)
            assert error.promised is None
            accepted = decode_audio(encoded[: last_page + n_left], sampling_rate=16000, truncated="accept")
            assert_same_bits(accepted, before)


def test_an_mp3_that_lacks_a_byte_or_a_frame_is_whole(sentence: Samples) -> None:
    for mode in ("CONSTANT", "VARIABLE"):
        whole, plain = make_mp3(sentence, mode)
        expected = decode_audio(whole, sampling_rate=16000)
        for n_bytes in (1, 2, 50):
            waveform = decode_audio(whole[:-n_bytes], sampling_rate=16000)
            assert 0 <= len(expected) - len(waveform) <= 2 * 576
            assert_same_bits(waveform[:-576], expected[: len(waveform) - 576])
    # Without its first frame nothing says how long it was.
    _, plain = make_mp3(sentence, "CONSTANT")
    for n_bytes in (1, 500, len(plain) // 2):
        decode_audio(plain[:-n_bytes], sampling_rate=16000)


def test_a_wav_with_an_odd_chunk_without_its_pad_byte_is_said_to_be_that(sentence: Samples) -> None:
    wav = encode(sentence, 16000, "WAV")
    text = b"a title of 19 bytes"
    content = b"INFOINAM" + struct.pack("<I", len(text)) + text
    chunk = b"LIST" + struct.pack("<I", len(content)) + content
    assert len(content) % 2
    padded, unpadded = wav[:36] + chunk + b"\0" + wav[36:], wav[:36] + chunk + wav[36:]
    assert_same_bits(decode_audio(padded, sampling_rate=16000), reference(wav, 16000))
    assert_same_bits(decode_audio(wav + chunk, sampling_rate=16000), reference(wav, 16000))
    for truncated in ("error", "accept"):
        error = refused(unpadded, truncated=truncated)
        assert error.cause == (
            "a WAV whose LIST chunk of 31 bytes lacks its pad byte, so that the chunks behind it are not found"
        )
        assert str(error).endswith(
            "A chunk of odd size needs a zero byte behind it: add it, or correct the program that made the file."
        )


# The cap


@pytest.mark.parametrize(("source_rate", "container"), [(16000, "WAV"), (16000, "FLAC"), (8000, "WAV"), (44100, "OGG")])
def test_a_clip_is_too_long_from_one_sample_on(sentence: Samples, source_rate: int, container: str) -> None:
    encoded = encode(sentence[: 2 * source_rate], source_rate, container)
    settings = {"sampling_rate": 16000, "auto_resample": True}
    for max_length_ms, is_cut in ((1, True), (1999, True), (2000, False), (2001, False), (0, False)):
        length = decode.decode_audio(encoded, Request(max_length_ms=max_length_ms, **settings)).length
        assert length == ClipLength(min(32_000, max_length_ms * 16 or 32_000), is_cut)
    with pytest.raises(AudioTooLongError) as caught:
        decode_audio(encoded, max_length_ms=1999, longer="error", clip="a.wav", **settings)
    assert str(caught.value) == (
        "Expected at most 1.999 s in 'a.wav', found more. It cannot be used. "
        'Pass longer="cut" to keep the beginning of such clips, or a greater max_length_seconds=.'
    )
    assert (caught.value.clip, caught.value.max_seconds) == ("a.wav", 1.999)


# In a manifest


@pytest.mark.parametrize(
    "length",
    [
        ClipLength(1),
        ClipLength(480_000, is_cut=True),
        ClipLength(5, short=Shortfall(0.5, None, 44, "it ends inside a header")),
        ClipLength(5, is_cut=True, short=Shortfall(0.5, 1e6, 0, "")),
    ],
)
def test_a_manifest_states_a_length(length: ClipLength) -> None:
    assert ClipLength.from_json(length.to_json()) == length


@pytest.mark.parametrize(
    "stated",
    [
        {},
        {"samples": 0},
        {"samples": -1},
        {"samples": True},
        {"samples": 1.5},
        {"samples": "5"},
        {"samples": 1 << 60},
        {"samples": 5, "cut": 1},
        {"samples": 5, "short": []},
        {"samples": 5, "short": [float("nan"), None, 5, ""]},
        {"samples": 5, "short": [1.0, float("inf"), 5, ""]},
        {"samples": 5, "short": [1.0, -1, 5, ""]},
        {"samples": 5, "short": [True, 1.0, 5, ""]},
        {"samples": 5, "short": [1.0, 2.0, "5", ""]},
        {"samples": 5, "short": [1.0, 2.0, 5, "a\x1b[2Jb"]},
        {"samples": 5, "short": [1.0, 2.0, 5, "a" * 201]},
        {"samples": 5, "short": [1.0, 2.0, 5, ["a"]]},
    ],
)
def test_a_length_that_is_none_is_refused(stated: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        ClipLength.from_json(stated)

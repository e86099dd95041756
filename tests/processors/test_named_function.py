"""A front end of the user's own, under an identity that the user gives it."""

from __future__ import annotations

import audio_datasets as data
import numpy as np
import pytest
from audio_files import decode_audio
from datasets.fingerprint import Hasher

from hf_audio_cache import CachedFeatures, processor_sha256
from hf_audio_cache.errors import AudioExtractionError, ProcessorError, UnfingerprintableProcessorError
from hf_audio_cache.processors.extractor import NamedFunction

RATE = 16000


def framed(waveform, sampling_rate, *, length=400):
    """Return an array: the energy of each frame."""
    frames = waveform[: len(waveform) // length * length].reshape(-1, length)
    return np.square(frames).sum(axis=1)


def several(waveform, sampling_rate):
    """Return several outputs by name: arrays, numbers, and values that are none."""
    return {
        "energy": framed(waveform, sampling_rate),
        "peak": np.float32(abs(waveform).max()),
        "n_samples": len(waveform),
        "words": ["a", "b"],
        "rate": sampling_rate,
    }


def other(waveform, sampling_rate):
    return framed(waveform, sampling_rate) * np.float32(2)


@pytest.fixture(scope="module")
def clips(sentences):
    return data.shortest(sentences, 4)


@pytest.fixture
def waveforms(clips):
    return [decode_audio(clip.read_bytes(), sampling_rate=RATE) for clip in clips]


def cached(function, root, *, identity="my-energy-v1", **settings):
    return CachedFeatures(function, root, identity=identity, sampling_rate=RATE, **settings)


def test_an_array_is_the_input_features(clips, waveforms, tmp_path):
    cached_features = cached(framed, tmp_path)
    for computed in (4, 4):
        rows = cached_features({"audio": data.columns(clips)["audio"]})
        assert list(rows) == ["input_features"]
        for row, waveform in zip(rows["input_features"], waveforms, strict=True):
            data.assert_same_bits(row, framed(waveform, RATE))
        assert cached_features.stats.computed == computed


def test_outputs_by_name(clips, waveforms, tmp_path):
    cached_features = cached(several, tmp_path)
    for _ in range(2):
        row = cached_features({"audio": data.columns(clips)["audio"][0]})
        data.assert_same_bits(row["energy"], framed(waveforms[0], RATE))
        assert row["peak"] == abs(waveforms[0]).max()
        assert row["n_samples"] == len(waveforms[0])
        assert row["words"] == ["a", "b"]
        assert row["rate"] == RATE
        assert list(row) == ["energy", "peak", "n_samples", "words", "rate"]
    assert cached_features.stats.computed == 1


def test_arguments_are_handed_on_and_count(clips, waveforms, tmp_path):
    cells = {"audio": data.columns(clips)["audio"]}
    plain = cached(framed, tmp_path)
    short = cached(framed, tmp_path, processor_kwargs={"length": 200})
    assert plain.processor_sha != short.processor_sha
    plain(cells)
    data.assert_same_bits(short(cells)["input_features"][0], framed(waveforms[0], RATE, length=200))
    assert short.stats.computed == 4


def test_the_name_is_all_that_counts(clips, tmp_path):
    cells = {"audio": data.columns(clips)["audio"]}
    first = cached(framed, tmp_path)(cells)["input_features"]
    same_name = cached(other, tmp_path)
    assert same_name(cells)["input_features"][0].tobytes() == first[0].tobytes()
    assert same_name.stats.hits == 4
    another_name = cached(other, tmp_path, identity="my-energy-v2")
    assert another_name(cells)["input_features"][0].tobytes() == (first[0] * 2).tobytes()
    assert another_name.stats.hits == 0
    sha = processor_sha256(NamedFunction(framed, "my-energy-v1"))
    assert same_name.processor_sha == sha
    assert sha == processor_sha256(NamedFunction(len, "my-energy-v1"))


def test_a_lambda_with_anything_in_its_closure_works(clips, tmp_path):
    generator = (x for x in ())
    cached_features = cached(lambda waveform, sampling_rate: (waveform, generator)[0], tmp_path)
    assert len(cached_features({"audio": data.columns(clips)["audio"]})["input_features"]) == 4


def test_what_datasets_keeps_goes_by_the_name(tmp_path):
    sha = Hasher.hash(cached(framed, tmp_path))
    assert Hasher.hash(cached(framed, tmp_path / "elsewhere")) == sha
    assert Hasher.hash(cached(other, tmp_path)) == sha
    assert Hasher.hash(cached(framed, tmp_path, identity="my-energy-v2")) != sha
    assert Hasher.hash(cached(framed, tmp_path, processor_kwargs={"length": 200})) != sha


def test_its_manifest_says_its_name(clips, tmp_path):
    cached_features = cached(framed, tmp_path, processor_kwargs={"length": 200})
    cached_features({"audio": data.columns(clips)["audio"]})
    manifest = (tmp_path / "processors" / f"{cached_features.processor_sha}.json").read_text(encoding="utf-8")
    assert '"identity": "my-energy-v1"' in manifest
    assert '"length": 200' in manifest


# Errors ---------------------------------------------------------------------------------------------------------------


def test_a_function_needs_a_name(tmp_path):
    with pytest.raises(
        ProcessorError, match=r"The function .*framed.* needs a name for its key, and its rate"
    ) as error:
        CachedFeatures(framed, tmp_path)
    assert 'Pass CachedFeatures(function, identity="my-mel-v1", sampling_rate=16_000).' in str(error.value)
    with pytest.raises((ProcessorError, UnfingerprintableProcessorError), match=r"needs a name|identity="):
        CachedFeatures(framed, tmp_path, sampling_rate=RATE)


def test_a_function_needs_a_rate(tmp_path):
    with pytest.raises(ProcessorError, match=r"does not say its sampling rate\. Pass sampling_rate="):
        CachedFeatures(framed, tmp_path, identity="my-energy-v1")


@pytest.mark.parametrize("function", [None, 3, "mel", [framed]])
def test_what_cannot_be_called_is_refused(function, tmp_path):
    with pytest.raises(ProcessorError, match=r"names a function\(waveform, sampling_rate\), and .* cannot be called"):
        cached(function, tmp_path)


@pytest.mark.parametrize("identity", ["", 3, b"name"])
def test_what_is_no_name_is_refused(identity, tmp_path):
    with pytest.raises(ProcessorError, match="identity must be a name, not"):
        cached(framed, tmp_path, identity=identity)


def test_what_the_function_raises_is_told(clips, tmp_path):
    def failing(waveform, sampling_rate):
        raise KeyError("no such window")

    with pytest.raises(
        AudioExtractionError, match=r"failed on .*\.wav \(\d+ samples at 16000 Hz\) with KeyError"
    ) as error:
        cached(failing, tmp_path)({"audio": data.columns(clips)["audio"]})
    assert "my-energy-v1" in str(error.value)


def test_a_function_that_returns_nothing_is_refused(clips, tmp_path):
    with pytest.raises(ProcessorError, match="Nothing was stored") as error:
        cached(lambda waveform, sampling_rate: {}, tmp_path)({"audio": data.columns(clips)["audio"]})
    assert "my-energy-v1" in str(error.value)


def test_its_name_is_in_its_repr(tmp_path):
    assert "my-energy-v1" in repr(cached(framed, tmp_path))


def test_a_clip_too_loud_for_the_dtype_is_one_bad_clip(tmp_path):
    cached_features = CachedFeatures(
        lambda waveform, rate: waveform[:5] * 80_000,
        tmp_path,
        identity="x",
        sampling_rate=8000,
        dtype="float16",
        on_error="null",
    )
    clips = [{"array": np.full(4000, peak, np.float32), "sampling_rate": 8000} for peak in (0.5, 1.0)]
    quiet, loud = cached_features({"audio": clips})["input_features"]
    assert quiet.tolist() == [40_000.0] * 5
    assert loud is None
    [bad] = cached_features.bad_clips
    assert bad.error == "AudioExtractionError"
    assert "values of up to 80000" in bad.reason


class Streaming:
    """A feature extractor whose state cannot be seen."""

    sampling_rate = RATE

    def __init__(self):
        self.steps = (number for number in ())

    def __call__(self, raw_speech, sampling_rate=None, return_tensors=None):
        return {"energy": [framed(waveform, sampling_rate) for waveform in raw_speech]}


def test_a_feature_extractor_may_be_named_too(clips, waveforms, tmp_path):
    with pytest.raises(UnfingerprintableProcessorError, match=r"processor\.steps .* Pass identity="):
        CachedFeatures(Streaming(), tmp_path)
    cached_features = CachedFeatures(Streaming(), tmp_path, identity="streaming-v1")
    for _ in range(2):
        rows = cached_features({"audio": data.columns(clips)["audio"]})
        for row, waveform in zip(rows["energy"], waveforms, strict=True):
            data.assert_same_bits(row, framed(waveform, RATE))
    assert cached_features.stats.computed == 4
    assert cached_features.processor_sha == processor_sha256(NamedFunction(framed, "streaming-v1"))

"""Which channels of a clip its features are made from."""

from __future__ import annotations

import hashlib
import io
import logging
import re

import audio_datasets as data
import extractors
import numpy as np
import pytest
import soundfile
from audio_files import encode

from hf_audio_cache import CachedFeatures, WaveformCacheKey
from hf_audio_cache.errors import AudioDecodeError, AudioExtractionError, InvalidKeyError, ProcessorError

RATE = 16_000


def wav(samples, rate=RATE, container="WAV"):
    return encode(samples, rate, container)


@pytest.fixture(scope="module")
def speakers(sentences):
    """Two people who speak at the same time, one in each channel."""
    first, second = (soundfile.read(path, dtype="int16")[0][:16_000] for path in sentences[:2])
    return np.stack([first, second], axis=1)


@pytest.fixture
def dataset(speakers):
    cells = [
        {"bytes": wav(speakers), "path": "two.wav"},
        {"bytes": wav(speakers, container="FLAC"), "path": "two.flac"},
        {"array": (speakers.T / 32768).astype(np.float32), "sampling_rate": RATE, "path": "array"},
    ]
    return cells


@pytest.fixture
def make(make_processor, tmp_path):
    def make(**settings):
        return CachedFeatures(make_processor("wav2vec2"), tmp_path / "root", waveforms="always", **settings)

    return make


@pytest.mark.parametrize(
    ("channels", "suffix", "mix"),
    [
        ("mean", "", lambda samples: samples.mean(axis=1)),
        (0, ".ch0", lambda samples: samples[:, 0]),
        (1, ".ch1", lambda samples: samples[:, 1]),
        (np.int64(1), ".ch1", lambda samples: samples[:, 1]),
    ],
)
def test_each_channel_has_its_features_and_its_names(channels, suffix, mix, make, dataset):
    cached_features = make(channels=channels)
    for cell in dataset:
        encoded = cell.get("bytes")
        samples = soundfile.read(io.BytesIO(encoded), dtype="float32")[0] if encoded else cell["array"].T
        processor = cached_features.processor
        expected = processor([mix(samples)], sampling_rate=RATE, return_tensors="np")["input_values"][0]
        data.assert_same_bits(cached_features({"audio": cell})["input_values"], expected)
    names = {path.relative_to(cached_features.root).as_posix() for path in cached_features.root.rglob("*.npz")}
    sha = cached_features.processor_sha[:12]
    assert {name.partition(".")[2] for name in names} == {f"{sha}.16000.0{suffix}.npz", f"16000.0{suffix}.wav.npz"}
    assert len(names) == 6


def test_one_root_has_the_channels_side_by_side_in_every_form(make, dataset, speakers):
    rows = data.of_cells(dataset[:1])
    found = {}
    for channels in ("mean", 0, 1):
        cached_features = make(channels=channels)
        references = cached_features.map(rows)
        assert references.features["input_values"].channels == channels
        forms = [references, rows.map(cached_features).with_format("numpy"), cached_features.attach(rows)]
        arrays = [np.asarray(form[0]["input_values"]) for form in forms]
        for array in arrays[1:]:
            data.assert_same_bits(array, arrays[0])
        assert cached_features.stats.computed == 1
        found[channels] = arrays[0].tobytes()
    assert len(set(found.values())) == 3
    with pytest.raises(ProcessorError, match="They have channels=1, not 'mean'"):
        make().attach(references)


def test_a_mapped_result_of_another_channel_is_not_taken(make, dataset):
    rows = data.of_cells(dataset[:1])
    first, second = (rows.map(make(channels=channel)) for channel in (0, 1))
    assert first[0]["input_values"] != second[0]["input_values"]


def test_a_channel_that_a_clip_does_not_have_is_an_error_of_the_clip(make, speakers):
    mono = {"bytes": wav(speakers[:, 0]), "path": "mono.wav"}
    message = (
        "Expected audio in 'mono.wav' (32044 bytes), found 1 channel, and no channel 1. It cannot be used. "
        'Channels are counted from 0. Pass channels="mean", or leave the clip out.'
    )
    with pytest.raises(AudioDecodeError) as caught:
        make(channels=1)({"audio": mono})
    assert str(caught.value) == f'{message} To go on without such clips, pass on_error="null" or "skip".'
    array = {"array": speakers / 32768, "sampling_rate": RATE, "path": "pair"}
    with pytest.raises(AudioDecodeError, match="found 2 channels, and no channel 2"):
        make(channels=2)({"audio": array})
    data.assert_same_bits(make(channels=0)({"audio": mono})["input_values"], make()({"audio": mono})["input_values"])


@pytest.mark.parametrize("channels", ["left", -1, True, 1.0, None, "0", 10_000])
def test_channels_that_are_none_are_named(channels, make):
    with pytest.raises(InvalidKeyError, match='channels must be "mean", "all" or the number of a channel'):
        make(channels=channels)


# All channels


def test_encodec_gets_both_channels_of_48_khz(tmp_path, speakers):
    processor = extractors.make("Encodec", feature_size=2, sampling_rate=48_000, chunk_length_s=1.0, overlap=0.01)
    cached_features = CachedFeatures(processor, tmp_path, channels="all", waveforms="always")
    encoded = wav(np.tile(speakers, (3, 1)), 48_000, "FLAC")
    samples = soundfile.read(io.BytesIO(encoded), dtype="float32")[0]
    expected = processor([samples.T], sampling_rate=48_000, return_tensors="np")
    rows = data.of_cells([{"bytes": encoded, "path": "a.flac"}])
    for found in (cached_features(rows[0]), cached_features.map(rows)[0], cached_features.attach(rows)[0]):
        for name, value in expected.items():
            data.assert_same_bits(found[name], value[0])
    assert expected["input_values"].shape[:2] == (1, 2)
    assert (cached_features.stats.computed, cached_features.stats.hits) == (1, 2)
    mapped = rows.map(cached_features, features=cached_features.features(rows.features)).with_format("numpy")
    data.assert_same_bits(mapped[0]["input_values"], expected["input_values"][0])
    key = WaveformCacheKey(hashlib.sha256(encoded).hexdigest(), 48_000, 0, channels="all")
    assert key.name().endswith(".48000.0.chall.wav.npz")
    data.assert_same_bits(cached_features.waveform_cache.get(key), np.ascontiguousarray(samples.T))
    mono = {"bytes": wav(speakers[:, 0], 48_000), "path": "mono.wav"}
    with pytest.raises(AudioExtractionError, match=r"failed on mono\.wav .*Expected stereo audio"):
        cached_features({"audio": mono})


def test_all_channels_are_resampled_and_cut_each_on_its_own(tmp_path, speakers):
    def shapes(waveform, sampling_rate):
        return {"waveform": waveform}

    settings = {"identity": "as it is", "sampling_rate": 8000, "auto_resample": True, "max_length_seconds": 0.5}
    cell = {"bytes": wav(speakers), "path": "two.wav"}
    both = CachedFeatures(shapes, tmp_path, channels="all", **settings)({"audio": cell})["waveform"]
    each = [CachedFeatures(shapes, tmp_path, channels=n, **settings)({"audio": cell})["waveform"] for n in (0, 1)]
    data.assert_same_bits(both, np.stack(each))
    assert both.shape == (2, 4000)


@pytest.mark.parametrize(("name", "settings"), [("Wav2Vec2", {}), ("Whisper", {}), ("Encodec", {})])
def test_an_extractor_for_mono_is_not_given_all_channels(name, settings, tmp_path):
    with pytest.raises(ProcessorError, match='takes clips of one channel, and channels="all" gives all of them'):
        CachedFeatures(extractors.make(name, **settings), tmp_path, channels="all")


def test_an_extractor_for_stereo_asks_for_all_channels(tmp_path):
    with pytest.raises(ProcessorError, match=r'takes clips of two channels, .* Pass channels="all"'):
        CachedFeatures(extractors.make("Encodec", feature_size=2), tmp_path)


# Channels that cancel each other out


@pytest.mark.parametrize("container", ["WAV", "FLAC", "array"])
def test_channels_in_opposite_phase_are_warned_of_once(container, make, speakers, caplog):
    pair = np.stack([speakers[:, 0], -speakers[:, 0]], axis=1)
    cell = {"array": pair, "sampling_rate": RATE, "path": "pair"}
    if container != "array":
        cell = {"bytes": wav(pair, container=container), "path": "pair"}
    other = {"array": pair[:8000], "sampling_rate": RATE, "path": "other"}
    cached_features = make(on_error="null")
    with caplog.at_level(logging.WARNING):
        cached_features({"audio": [cell, other]})
    messages = [record.getMessage() for record in caplog.records if "cancel" in record.getMessage()]
    assert len(messages) == 1
    assert re.fullmatch(
        r"The channels of '(pair|other)' cancel each other out: their mean is silence, and its features are those of "
        r"silence\. Pass channels=0 to take the first channel of each clip\. \(Further such clips are not told\.\)",
        messages[0],
    )


def test_stereo_and_silence_are_not_warned_of(make, speakers, caplog):
    quiet = np.zeros((8000, 2), np.int16)
    nearly = np.stack([speakers[:, 0], -speakers[:, 0] // 2], axis=1)
    cells = [{"array": each, "sampling_rate": RATE} for each in (speakers, quiet, nearly)]
    pair = {"bytes": wav(np.stack([speakers[:, 0], -speakers[:, 0]], axis=1)), "path": "pair"}
    with caplog.at_level(logging.WARNING):
        make(on_error="null", nonfinite="keep")({"audio": cells})
        make(channels=0)({"audio": pair})
    assert "cancel" not in caplog.text

"""What is stored: whether reading features is faster than making them, and which waveforms are worth an entry."""

import io
import logging
import time

import audio_datasets as data
import numpy as np
import pytest
import soundfile
from configs import make_processor

from hf_audio_cache import CachedFeatures, CacheRoot
from hf_audio_cache.pipeline import storage_policy

MEASURED = storage_policy.FeatureStoragePolicy.is_undecided  # conftest turns it off
RATE = 16_000


@pytest.fixture(autouse=True)
def _measured(_features_are_stored, monkeypatch):
    monkeypatch.setattr(storage_policy.FeatureStoragePolicy, "is_undecided", MEASURED)


def fast(waveform, sampling_rate):
    return waveform[:1]


def slow(waveform, sampling_rate):
    time.sleep(0.05)  # far above what a read of a few kB takes
    return waveform[:1]


def features_of(function, root, **options):
    return CachedFeatures(function, root, identity=function.__name__, sampling_rate=RATE, auto_resample=True, **options)


def cells(paths):
    return [{"bytes": path.read_bytes(), "path": path.name} for path in paths]


def n_entries(cached_features):
    stores = cached_features.audio_cache._store, cached_features.waveform_cache._store
    return tuple(len(list(store.names())) for store in stores)


@pytest.fixture
def slow_reads(monkeypatch):
    """A root that takes its time for features, and none for waveforms."""
    read = storage_policy._seconds
    monkeypatch.setattr(
        storage_policy, "_seconds", lambda call: read(call) + (1.0 if call.__name__ == "read_features" else 0)
    )


def test_features_that_take_longer_to_read_are_not_stored_from_then_on(tmp_path, prompts, slow_reads, caplog):
    caplog.set_level(logging.WARNING, "hf_audio_cache")
    cached_features = features_of(fast, tmp_path)
    first, second = cells(data.shortest(prompts, 14))[:4], cells(data.shortest(prompts, 14))[4:]
    cached_features({"audio": first})
    assert n_entries(cached_features) == (4, 4)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("fast makes features in ")
    results = cached_features({"audio": second + first})["input_features"]
    assert n_entries(cached_features) == (4, 14)
    plain = features_of(fast, tmp_path / "other", features="always")({"audio": second + first})["input_features"]
    assert all(map(np.array_equal, results, plain))
    assert cached_features.stats.waveform_hits == 4
    assert cached_features.stats.decodes == 14
    assert cached_features.stats.computed == 18
    assert len(caplog.messages) == 1


def test_arrays_that_are_overwritten_afterwards_end_no_run(tmp_path, prompts, slow_reads):
    cached_features = features_of(fast, tmp_path)
    for number, path in enumerate(data.shortest(prompts, 6)):
        samples = soundfile.read(path, dtype="float32")[0]
        cached_features({"audio": {"array": samples, "sampling_rate": RATE}})
        samples[:] = np.nan
        assert n_entries(cached_features) == (number + 1, 0)


def test_features_that_take_longer_to_make_are_stored(tmp_path, prompts, caplog):
    caplog.set_level(logging.WARNING, "hf_audio_cache")
    cached_features = features_of(slow, tmp_path)
    clips = cells(data.shortest(prompts, 6))
    for clip in clips:
        cached_features({"audio": clip})
    assert n_entries(cached_features) == (6, 6)
    cached_features({"audio": clips})
    assert cached_features.stats.computed == 6
    assert caplog.messages == []


def test_references_are_to_entries_whatever_it_costs(tmp_path, prompts, slow_reads):
    cached_features = features_of(fast, tmp_path)
    paths = data.shortest(prompts, 12)
    cached_features({"audio": cells(paths[:4])})
    rows = cached_features.map(data.in_memory(paths))
    assert n_entries(cached_features) == (12, 12)
    assert [row.shape for row in rows["input_features"]] == [(1,)] * 12


def test_what_cannot_be_stored_goes_on_being_computed(tmp_path, prompts):
    cached_features = features_of(fast, CacheRoot(tmp_path, read_only=True))
    for _ in range(2):
        cached_features({"audio": cells(data.shortest(prompts, 5))})
    assert cached_features.stats.computed == 10
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("policy", "entries"), [("always", (5, 5)), ("never", (0, 5))])
def test_what_is_said_is_done(tmp_path, prompts, slow_reads, policy, entries):
    cached_features = features_of(fast, tmp_path, features=policy)
    for _ in range(2):
        cached_features({"audio": cells(data.shortest(prompts, 5))})
    assert n_entries(cached_features) == entries
    assert cached_features.stats.computed == (5 if policy == "always" else 10)
    assert cached_features.stats.decodes == 5


def test_a_policy_must_be_one(tmp_path):
    with pytest.raises(ValueError, match='features must be "auto", "always" or "never", not True'):
        features_of(fast, tmp_path, features=True)
    with pytest.raises(ValueError, match="waveforms must be"):
        features_of(fast, tmp_path, waveforms="sometimes")


def encoded(waveform, rate=RATE, subtype="PCM_16", container="WAV"):
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, subtype, format=container)
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.parametrize(("policy", "kept"), [("auto", [0, 0, 1, 1, 1, 1]), ("always", [1] * 6), ("never", [0] * 6)])
def test_waveforms_are_stored_where_decoding_costs_more_than_a_read(tmp_path, sentences, policy, kept):
    waveform, rate = soundfile.read(sentences[0], dtype="float32")
    assert rate == RATE
    stereo = np.stack([waveform, waveform / 2], axis=1)
    clips = [
        encoded(waveform),
        {"array": waveform, "sampling_rate": RATE},
        encoded(waveform, subtype="PCM_24"),
        encoded(stereo),
        encoded(waveform, rate=8000),
        encoded(waveform, container="FLAC"),
    ]
    for clip, expected in zip(clips, kept, strict=True):
        cached_features = features_of(fast, tmp_path / str(len(list(tmp_path.iterdir()))), waveforms=policy)
        features = cached_features({"audio": clip})["input_features"]
        assert n_entries(cached_features) == (1, expected)
        cached_features.audio_cache.clear()
        assert np.array_equal(cached_features({"audio": clip})["input_features"], features)
        assert cached_features.stats.decodes == 2 - expected


def test_a_rounded_processor_is_another(tmp_path, prompts):
    clips = data.shortest(prompts, 3)
    dataset = data.in_memory(clips)
    plain = CachedFeatures(make_processor("seamless_m4t"), tmp_path, auto_resample=True)
    half = CachedFeatures(make_processor("seamless_m4t"), tmp_path, auto_resample=True, dtype="float16")
    brain = CachedFeatures(make_processor("seamless_m4t"), tmp_path, auto_resample=True, dtype="bfloat16")
    assert len({plain.processor_sha, half.processor_sha, brain.processor_sha}) == 3
    for row in range(3):
        exact = plain.attach(dataset)[row]["input_features"]
        for rounded, dtype, error in ((half, np.float16, 2**-11), (brain, np.float32, 2**-8)):
            for form in (rounded.attach(dataset), rounded.map(dataset)):
                features = form[row]["input_features"]
                assert features.dtype == dtype
                assert 0 < np.abs(features - exact).max() <= error * np.abs(exact).max()
    assert half.features(dataset.features)["input_features"].dtype == "float16"
    assert half.attach(dataset)[0]["attention_mask"].dtype == plain.attach(dataset)[0]["attention_mask"].dtype
    assert half.stats.computed == 3

"""Outputs that are not finite, or have no frames, are errors of their clips in every calling form."""

from __future__ import annotations

import io

import audio_datasets as data
import numpy as np
import pytest
import soundfile
from audio_files import encode

from hf_audio_cache import CachedFeatures, processor_sha256
from hf_audio_cache.errors import AudioExtractionError

RATE = 8000
GOOD = [0, 3]
BAD = ["short.wav", "silent.wav"]


def log_energy(waveform, sampling_rate):
    """A front end with the usual faults: the logarithm of silence, and no frame of a short clip."""
    frames = waveform[: len(waveform) // 400 * 400].reshape(-1, 400)
    with np.errstate(divide="ignore"):
        return np.log(np.square(frames).sum(axis=1))


def wav(waveform):
    return encode(waveform, RATE, "WAV")


@pytest.fixture(scope="module")
def cells(prompts):
    first, second = data.columns(data.shortest(prompts, 2))["audio"]
    samples = soundfile.read(io.BytesIO(first["bytes"]))[0]
    silent = {"bytes": wav(np.concatenate([samples[:800], np.zeros(1600), samples[800:]])), "path": "silent.wav"}
    return [first, silent, {"bytes": wav(samples[:399]), "path": "short.wav"}, second]


@pytest.fixture
def dataset(cells):
    return data.of_cells(cells)


def make(root, on_error="null", **settings):
    return CachedFeatures(log_energy, root, identity="log-energy", sampling_rate=RATE, on_error=on_error, **settings)


def of_stream(cached_features, dataset):
    return list(cached_features.attach(dataset.to_iterable_dataset()))


FORMS = {
    "map": lambda cached_features, dataset: dataset.map(cached_features),
    "batched": lambda cached_features, dataset: dataset.map(cached_features, batched=True),
    "two processes": lambda cached_features, dataset: dataset.map(cached_features, batched=True, num_proc=2),
    "references": lambda cached_features, dataset: cached_features.map(dataset),
    "references by two": lambda cached_features, dataset: cached_features.map(dataset, num_proc=2),
    "attach": lambda cached_features, dataset: cached_features.attach(dataset),
    "stream": of_stream,
}


@pytest.mark.parametrize(
    ("form", "on_error"),
    [*((form, "null") for form in FORMS), *((form, "skip") for form in FORMS if form not in ("map", "attach"))],
)
def test_a_bad_output_is_an_error_of_its_clip(form, on_error, dataset, cells, tmp_path):
    cached_features = make(tmp_path, on_error)
    rows = list(FORMS[form](cached_features, dataset))
    values = [row["input_features"] for row in rows]
    wanted = [log_energy(soundfile.read(io.BytesIO(cells[row]["bytes"]), dtype="float32")[0], RATE) for row in GOOD]
    if on_error == "null":
        assert [value is None for value in values] == [False, True, True, False]
        values = [values[row] for row in GOOD]
    for value, array in zip(values, wanted, strict=True):
        np.testing.assert_array_equal(np.asarray(value, np.float32), array)
    assert sorted(clip.clip for clip in cached_features.bad_clips) == BAD
    assert {clip.error for clip in cached_features.bad_clips} == {"AudioExtractionError"}
    assert len(list((tmp_path / "features").rglob("*.npz"))) == cached_features.stats.computed == 2


@pytest.mark.parametrize("form", FORMS)
def test_by_default_it_ends_the_run_and_names_clip_output_and_count(form, dataset, tmp_path):
    cached_features = make(tmp_path, "raise")
    message = r"'input_features' of log-energy for silent\.wav .* has 4 of \d+ values that are not finite; nothing"
    with pytest.raises(AudioExtractionError, match=message) as error:
        list(FORMS[form](cached_features, dataset))
    assert (error.value.clip, error.value.output, error.value.count) == ("silent.wav", "input_features", 4)


def test_a_front_end_that_means_them_keeps_them_under_a_key_of_its_own(dataset, cells, tmp_path):
    keeping, plain = make(tmp_path, nonfinite="keep"), make(tmp_path)
    for _ in range(2):
        rows = keeping({"audio": cells})["input_features"]
        assert [None if row is None else int(np.isinf(row).sum()) for row in rows] == [0, 4, None, 0]
    assert (keeping.stats.computed, keeping.stats.hits, len(list(tmp_path.rglob("features/*/*.npz")))) == (3, 3, 3)
    assert [clip.clip for clip in keeping.bad_clips] == ["short.wav"]
    references = keeping.map(dataset).with_format("numpy")
    assert np.isneginf(references[1]["input_features"]).sum() == 4
    # Another identity: what was kept is no hit for one that refuses it.
    assert plain({"audio": cells})["input_features"][1] is None
    assert (plain.stats.hits, plain.stats.computed) == (0, 2)


def test_what_is_kept_is_part_of_the_identity(make_processor):
    whisper = make_processor("whisper_tiny")
    assert processor_sha256(whisper) == processor_sha256(whisper, nonfinite="error")
    assert processor_sha256(whisper) != processor_sha256(whisper, nonfinite="keep")
    with pytest.raises(ValueError, match=r"nonfinite must be .* not 'drop'"):
        CachedFeatures(whisper, nonfinite="drop")

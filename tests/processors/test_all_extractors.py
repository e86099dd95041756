"""Every audio extractor of transformers through `CachedFeatures`, on real speech: bit for bit what it gives alone."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pickle
import re

import audio_datasets as data
import extractors
import extractors_table
import numpy as np
import pytest

from hf_audio_cache import CachedFeatures
from hf_audio_cache.errors import AudioExtractionError, ProcessorError
from hf_audio_cache.processors.extractor import extract

SECONDS = (3.0, 35.0)
# What they make of a long clip has an axis more, for the parts that they cut it into.
NO_ONE_TYPE = frozenset({"CohereAsr", "MossTranscribeDiarize"})


def cached(name, root, **settings):
    kwargs = extractors.PROCESSOR_KWARGS.get(name, {})
    return CachedFeatures(extractors.make_or_skip(name), root, processor_kwargs=kwargs, **settings)


def expected(name, *seconds, **kwargs):
    extractor = extractors.make(name)
    clips = [extractors.clip(one, extractor.sampling_rate) for one in seconds]
    return [extractors.rows_of_one_clip(extractors.call(extractor, clip, **kwargs)) for clip in clips]


def assert_same_outputs(row, outputs):
    assert list(row) == list(outputs)
    for name, value in outputs.items():
        if isinstance(value, np.ndarray):
            assert isinstance(row[name], np.ndarray)
        assert extractors_table.same_bits({name: row[name]}, {name: value}), name


@pytest.mark.parametrize("name", extractors.names())
def test_features_have_the_bits_of_a_direct_call(name, tmp_path):
    cached_features = cached(name, tmp_path)
    rate = cached_features.processor.sampling_rate
    # CLAP draws crops of what is longer than 10 s.
    seconds = (3.0, 9.0) if name == "Clap" else SECONDS
    outputs = expected(name, *seconds)
    sha = cached_features.processor_sha
    for hits in (0, len(seconds)):
        for one, wanted in zip(seconds, outputs, strict=True):
            assert_same_outputs(cached_features({"audio": extractors.cell(one, rate)}), wanted)
        assert cached_features.stats.hits == hits
        assert cached_features.stats.computed == len(seconds)
    fresh = pickle.loads(pickle.dumps(cached(name, tmp_path)))
    assert fresh.processor_sha == cached_features.processor_sha == sha
    assert_same_outputs(fresh({"audio": extractors.cell(seconds[1], rate)}), outputs[1])
    assert fresh.stats.computed == 0


@pytest.mark.parametrize("name", extractors.parameters("AST", "Parakeet", "Wav2Vec2", "Whisper"))
def test_features_come_of_a_cached_waveform_too(name, tmp_path):
    """An entry of the waveforms may be an array that cannot be written to, at which torch warns."""
    cached_features = cached(name, tmp_path)
    cell = extractors.cell(3.0, cached_features.processor.sampling_rate)
    first = cached_features({"audio": cell})
    for path in (tmp_path / "features").rglob("*.npz"):
        path.unlink()
    again = cached(name, tmp_path)
    assert_same_outputs(again({"audio": cell}), first)
    assert again.stats.waveform_hits == 1
    assert again.stats.decodes == 0


@pytest.mark.parametrize("name", extractors.parameters("CohereAsr", "Dots3Note", "SeamlessM4T", "Wav2Vec2", "Whisper"))
def test_columns_hold_the_features(name, tmp_path):
    cached_features = cached(name, tmp_path)
    cells = [extractors.cell(one, cached_features.processor.sampling_rate) for one in (3.0, 1.0)]
    dataset = data.datasets.Dataset.from_dict({"audio": cells}).cast_column("audio", data.datasets.Audio(decode=False))
    wanted = [
        {name: np.asarray(value) for name, value in row.items() if isinstance(value, (np.ndarray, np.generic))}
        for row in expected(name, 3.0, 1.0)
    ]
    references = cached_features.map(dataset).with_format("numpy")
    for row, outputs in zip(references, wanted, strict=True):
        for output, array in outputs.items():
            # (`datasets`' NumPy format makes int64 of every integer.)
            assert row[output].tobytes() == array.astype(row[output].dtype).tobytes(), output
            assert row[output].dtype == array.dtype or array.dtype.kind == "i"
    if name in NO_ONE_TYPE:
        with pytest.raises(ProcessorError, match="more axes for a long clip than for a short one"):
            cached_features.features(dataset.features)
        return
    features = cached_features.features(dataset.features)
    mapped = dataset.map(cached_features, features=features, load_from_cache_file=False).with_format("numpy")
    for row, outputs in zip(mapped, wanted, strict=True):
        for output, array in outputs.items():
            assert np.array_equal(row[output], array), output
    assert cached_features.stats.computed == 2


# By extractor and clip: the output, and how many of its values are not finite (0: it has no frames).
UNSOUND = {
    "Gemma4Audio": {"100 samples": ("input_features", 0)},
    "Parakeet": {"100 samples": ("input_features", 80)},
    "SeamlessM4T": {"400 samples": ("input_features", 80), "399 samples": ("input_features", 0)},
    "Speech2Text": {"silence": ("input_features", 7840), "399 samples": ("input_features", 0)},
}


def direct_or_none(extractor, name, waveform):
    """Return what an extractor gives; None where it fails, or where that is no features."""
    try:
        outputs = extractors.rows_of_one_clip(extractors.call(extractor, waveform))
    except Exception:  # noqa: BLE001 - whatever an extractor raises
        return None
    arrays = [np.asarray(value) for value in outputs.values() if isinstance(value, (np.ndarray, np.generic))]
    floats = [array for array in arrays if array.dtype.kind == "f"]
    return outputs if all(array.size and np.isfinite(array).all() for array in floats) else None


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")  # what they say of such clips
@pytest.mark.parametrize("name", extractors.names())
def test_hard_clips_give_finite_features_or_an_error(name, tmp_path):
    cached_features = cached(name, tmp_path, on_error="null", reason_column="reason")
    extractor = cached_features.processor
    clips = extractors.hard_clips(extractor)
    cells = [
        {"bytes": extractors.encoded(clip, extractor.sampling_rate), "path": f"{kind}.wav"}
        for kind, clip in clips.items()
    ]
    wanted = {kind: direct_or_none(extractor, name, clip) for kind, clip in clips.items()}
    assert any(outputs is not None for outputs in wanted.values())
    for _ in range(2):
        rows = [cached_features({"audio": cell}) for cell in cells]
        for (kind, outputs), row in zip(wanted.items(), rows, strict=True):
            reason = row.pop("reason")
            if outputs is None:
                assert set(row.values()) == {None}
                assert f"{kind}.wav" in reason
            else:
                assert reason == ""
                assert_same_outputs(row, outputs)
    bad = [clip for clip in cached_features.bad_clips if clip.error == "AudioExtractionError"]
    assert [clip.clip for clip in bad] == [f"{kind}.wav" for kind, outputs in wanted.items() if outputs is None]
    n_good = len({cell["bytes"] for cell, outputs in zip(cells, wanted.values(), strict=True) if outputs is not None})
    assert len(list((tmp_path / "features").rglob("*.npz"))) == n_good == cached_features.stats.computed
    for kind, (output, count) in UNSOUND.get(name, {}).items():
        with pytest.raises(AudioExtractionError, match=f"{output!r} of {name}FeatureExtractor for {kind}.wav") as error:
            cached(name, tmp_path)({"audio": cells[list(clips).index(kind)]})
        assert (error.value.output, error.value.count) == (output, count)


def test_some_extractors_take_any_rate_without_a_word():
    """Which is why the rate is not left to them."""
    extractor = extractors.make("Gemma3nAudio")
    waveform = extractors.clip(1.0, 11025)
    assert "input_features" in extract(extractor, waveform, 11025, {})
    with pytest.raises(ValueError, match="sampling"):
        extract(extractors.make("Whisper"), waveform, 11025, {})


def test_one_that_cannot_run_is_refused_with_what_it_lacks(tmp_path):
    for name in extractors.unusable():
        assert re.match(r"(ImportError|ModuleNotFoundError|NameError): ", extractors.problem(name))
        for extractor in extractors.constructible([name]).values():
            with pytest.raises(
                ProcessorError, match=rf"{name}.* needs .*, which cannot be imported here\. Install it: "
            ) as caught:
                CachedFeatures(extractor, tmp_path)({"audio": extractors.cell(1.0, extractor.sampling_rate)})
            missing = re.search(r"pip install ([\w ]+)\.", str(caught.value))[1].split()
            assert all(importlib.util.find_spec(library) is None for library in missing)


def test_well_known_extractors_run_everywhere():
    assert {"Whisper", "Wav2Vec2", "SeamlessM4T", "Clap"} <= set(extractors.usable())


@pytest.mark.torch
def test_the_table_of_the_documentation_is_what_a_run_finds():
    text = extractors_table.TABLE.read_text(encoding="utf-8")
    version = importlib.metadata.version("transformers")
    if f"transformers {version}," not in text:
        pytest.skip(f"the table is of another transformers than {version}")
    committed = {row.cells["extractor"]: row.without_times() for row in extractors_table.rows(text)}
    found = [extractors_table.measure(name, timed=False) for name in extractors.names()]
    assert committed == {row.cells["extractor"]: row.without_times() for row in found}

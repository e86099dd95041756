"""`estimate` against what a run then takes; `coverage` against what is there."""

from __future__ import annotations

import json

import audio_datasets as data
import configs
import datasets
import numpy as np
import pytest

from hf_audio_cache import CachedFeatures, usage
from hf_audio_cache.errors import AudioColumnError
from hf_audio_cache.transform.audio_rows import clip_shas, encoded_sizes
from hf_audio_cache.transform.estimate import Estimate

RATE = 8000


@pytest.fixture(scope="module")
def extractor():
    return configs.make_processor("seamless_m4t", sampling_rate=RATE)


def make(extractor, root, **settings):
    """Return a cache that stores all, whether it pays or not."""
    return CachedFeatures(extractor, root, features="always", waveforms="always", **settings)


def written(root):
    lines = {line.cache: line.n_bytes for line in usage(root).lines}
    return lines.get("features", 0), lines.get("waveforms", 0)


def test_clips_take_what_was_estimated(prompts, tmp_path):
    extractor = configs.make_processor("wav2vec2", sampling_rate=RATE)
    cached_features = make(extractor, tmp_path / "root")
    dataset = data.of_paths(prompts[::4])
    report = cached_features.estimate(dataset)
    assert not (tmp_path / "root").exists()
    assert (report.n_rows, report.n_sample, report.n_sample_cached, report.n_sample_bad) == (139, 64, 0, 0)
    cached_features.map(dataset)
    for estimated, found in zip(
        (report.features_bytes, report.waveforms_bytes), written(tmp_path / "root"), strict=True
    ):
        assert 0.8 * found < estimated < 1.2 * found


def test_clips_of_one_length_take_the_mean(sentences, extractor, tmp_path):
    cached_features = make(extractor, tmp_path, auto_resample=True)
    dataset = data.in_memory(sentences[:1] * 7)
    report = cached_features.estimate(dataset)
    cached_features.map(dataset.select([0]))
    # To the digits of the seconds that an entry says it took.
    assert (report.features_bytes, report.waveforms_bytes) == pytest.approx(
        [7 * n for n in written(tmp_path)], abs=7 * 5
    )
    assert report.n_rows == report.n_sample == 7
    again = cached_features.estimate(dataset, sample=3)
    assert (again.n_sample, again.n_sample_cached, again.n_sample_cached_waveforms) == (3, 3, 3)


def test_waveforms_that_are_not_stored_take_no_room(prompts, extractor, tmp_path):
    dataset = data.in_memory(prompts[:3])  # 16-bit PCM at the processor's rate
    report = CachedFeatures(extractor, tmp_path).estimate(dataset)
    assert report.waveforms_bytes == 0 < report.features_bytes
    assert make(extractor, tmp_path).estimate(dataset).waveforms_bytes > 0


def test_bad_rows_are_counted_and_cost_nothing(sentences, extractor, tmp_path):
    cells = [{"bytes": clip.read_bytes(), "path": None} for clip in sentences[:2]]
    cells += [{"bytes": b"no audio", "path": "bad.wav"}, {"bytes": None, "path": "/no/such/file.wav"}]
    dataset = data.of_cells(cells)
    cached_features = make(extractor, tmp_path, auto_resample=True)
    report = cached_features.estimate(dataset)
    assert (report.n_sample, report.n_sample_bad) == (4, 2)
    assert report.features_bytes > 0
    nothing = cached_features.estimate(dataset.select([2, 3]))
    assert (nothing.features_bytes, nothing.seconds_first_run) == (0, 0.0)
    assert nothing.verdict == "No row of the sample has features: there is nothing to compare."
    assert cached_features.bad_clips == []
    assert not any(tmp_path.iterdir())


def test_the_verdict_follows_from_the_times():
    settings = {"n_rows": 10, "n_sample": 10, "seconds_reading_audio": 1.0}
    slow = Estimate(**settings, seconds_extracting=20.0, seconds_reading_features=1.0)
    assert slow.features_pay
    assert slow.verdict == "Caching pays: a pass over cached features is 10.5 times as fast as one without a cache."
    decoding = Estimate(**settings, seconds_decoding=9.0, seconds_extracting=1.0, seconds_reading_features=1.0)
    assert (decoding.features_pay, decoding.waveforms_pay) == (False, True)
    cheap = Estimate(**settings, seconds_extracting=0.1, seconds_reading_features=0.1)
    assert (cheap.features_pay, cheap.waveforms_pay) == (False, False)
    assert "does not pay" in cheap.verdict
    assert slow.to_dict()["seconds_first_run"] == 21.0
    assert slow.to_dict()["verdict"] in repr(slow)
    assert "<table>" in slow._repr_html_()


def test_coverage_says_what_is_there(prompts, sentences, extractor, tmp_path):
    clips = data.shortest(prompts, 60)[-12:]
    cached_features = make(extractor, tmp_path, auto_resample=True)
    cached_features({"audio": data.columns(clips[:5])["audio"]})
    other = make(configs.make_processor("wav2vec2", sampling_rate=RATE), tmp_path, auto_resample=True)
    other({"audio": data.columns(clips[5:8])["audio"]})
    rows = [*clips, clips[0], clips[11]]
    dataset = data.in_memory(rows)
    before = cached_features.stats
    report = cached_features.coverage(dataset)
    assert (report.n_rows, report.n_clips, report.n_cached, report.n_with_waveform, report.n_bad) == (14, 12, 6, 3, 0)
    assert report.share == 6 / 14
    assert report.rest is not None
    assert (report.rest.n_rows, report.rest.n_sample_cached) == (8, 0)
    assert (cached_features.stats - before).computed == 0
    assert json.loads(json.dumps(report.to_dict()))["rest"]["n_rows"] == 8
    assert "6 (42.9%)" in repr(report)
    cached_features.map(dataset)
    full = cached_features.coverage(datasets.DatasetDict({"a": dataset, "b": dataset.select([1])}))
    assert (full.n_rows, full.n_cached, full.rest, full.share) == (15, 15, None, 1.0)


def test_coverage_counts_bad_rows(sentences, extractor, tmp_path):
    cells = [{"bytes": None, "path": "/no/such/file.wav"}, {"bytes": sentences[0].read_bytes(), "path": None}]
    dataset = data.of_cells(cells)
    report = make(extractor, tmp_path, auto_resample=True).coverage(dataset)
    assert (report.n_rows, report.n_cached, report.n_bad) == (2, 0, 1)
    empty = make(extractor, tmp_path).coverage(dataset.select([]))
    assert (empty.n_rows, empty.rest, empty.share) == (0, None, 1.0)


def test_sizes_are_known_without_reading(prompts, tmp_path):
    clips = prompts[:5]
    sizes = [clip.stat().st_size for clip in clips]
    for dataset in (data.in_memory(clips), data.of_paths(clips), data.from_parquet(clips, tmp_path)):
        rows = dataset.cast_column("audio", datasets.Audio(decode=False)).select_columns("audio")
        assert encoded_sizes(rows, "audio").tolist() == sizes
    shuffled = data.in_memory(clips).select([3, 1]).select_columns("audio")
    assert encoded_sizes(shuffled, "audio").tolist() == [sizes[3], sizes[1]]
    plain = datasets.Dataset.from_dict({"audio": [str(clip) for clip in clips]})
    assert encoded_sizes(plain, "audio").tolist() == sizes
    assert np.array_equal(encoded_sizes(datasets.Dataset.from_dict({"audio": ["/no/such"]}), "audio"), [1.0])
    untyped = datasets.Dataset.from_dict({"audio": [{"bytes": None, "path": str(clip)} for clip in clips]})
    assert encoded_sizes(untyped, "audio").tolist() == sizes
    of_bytes = datasets.Dataset.from_dict({"audio": [clip.read_bytes() for clip in clips]})
    assert encoded_sizes(of_bytes, "audio").tolist() == sizes


def test_the_shas_of_a_dataset(prompts):
    clips = prompts[:3]
    assert clip_shas(data.in_memory(clips, decode=True), "audio") == {data.sha256(clip) for clip in clips}


def test_what_has_no_rows_to_count_is_an_error(prompts, extractor, tmp_path):
    cached_features = make(extractor, tmp_path)
    for ask in (cached_features.coverage, cached_features.estimate):
        with pytest.raises(TypeError, match="Of a stream, which does not know its number of rows"):
            ask(data.in_memory(prompts[:2]).to_iterable_dataset())
        with pytest.raises(AudioColumnError):
            ask(data.in_memory(prompts[:2]).remove_columns("audio"))
    with pytest.raises(ValueError, match="sample must be at least 1 row, not 0; nothing was computed"):
        cached_features.estimate(data.in_memory(prompts[:2]), sample=0)


@pytest.mark.parametrize("kind", ["files", "flat columns"])
def test_coverage_reads_no_file_whose_hash_is_remembered(kind, clips, cached_features, monkeypatch):
    dataset = data.of_paths(clips)
    cached_features.map(dataset, load_from_cache_file=False)
    monkeypatch.setattr("hf_audio_cache.pipeline.audio_reader.read_source", lambda cell: pytest.fail("a file was read"))
    if kind == "flat columns":
        dataset = dataset.flatten()
        assert "audio" not in dataset.column_names
    assert cached_features.coverage(dataset).n_cached == len(clips)
    assert len(clip_shas(dataset, "audio", cached_features.pipeline.audio_reader)) == len(clips)


@pytest.mark.parametrize("made", ["decoded", "encoded"])
def test_flat_columns_are_estimated_and_materialized(made, clips, cached_features, tmp_path):
    dataset = data.in_memory(clips) if made == "encoded" else data.of_paths(clips)
    dataset = dataset.flatten().shuffle(seed=1)
    assert cached_features.estimate(dataset).n_sample == len(clips)
    references = cached_features.map(dataset)
    assert cached_features.coverage(dataset).share == 1
    assert len(cached_features.materialize(references)["input_values"]) == len(clips)

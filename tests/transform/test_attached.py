"""What `attach` does beside other transforms, and in requests that want no features."""

from __future__ import annotations

import copy
import pickle

import audio_datasets as data
import datasets
import numpy as np
import pytest
from crossed import crossed

from hf_audio_cache import CachedFeatures, CachedWaveforms
from hf_audio_cache.errors import AudioColumnError, ProcessorError
from hf_audio_cache.transform.attached import LateColumns

N_CLIPS = 6


@pytest.fixture
def other(make_processor, tmp_path):
    """Another front end over the same root."""
    return CachedFeatures(make_processor("seamless_m4t"), tmp_path / "root", auto_resample=True)


def upper(batch):
    return {**batch, "upper": [text.upper() for text in batch["text"]]}


# Other transforms


def test_a_transform_and_two_attaches_are_all_applied(clips, expected, wanted, cached_features, other):
    dataset = data.in_memory(clips).with_transform(upper)
    attached = other.attach(cached_features.attach(dataset, remove_columns="audio"))
    for rows in ([attached[index] for index in range(6)], list(attached), attached.select([0, 1, 2, 3, 4, 5])):
        data.assert_rows(list(rows), [{**one, **two} for one, two in zip(expected, wanted, strict=True)])
        assert [row["upper"] for row in rows] == [clip.stem.upper() for clip in clips]
        assert set(rows[0]) == {"text", "number", "upper", *expected[0], *wanted[0]}
    assert (cached_features.stats.computed, other.stats.computed) == (6, 6)


@pytest.mark.parametrize("other", ["team/corpus", [1], None])
def test_what_is_no_dataset_is_refused(other, cached_features):
    with pytest.raises(TypeError, match="attach needs a Dataset, a stream, or a dict of either, not"):
        cached_features.attach(other)


def test_a_transform_of_some_columns_keeps_them(clips, expected, cached_features):
    dataset = data.in_memory(clips)
    chosen = cached_features.attach(dataset.with_transform(upper, columns=["text"]))
    assert set(chosen[0]) == {"text", "upper", "input_values"}
    others = cached_features.attach(dataset.with_transform(upper, columns=["text"], output_all_columns=True))
    assert set(others[0]) == {"text", "upper", "audio", "number", "input_values"}
    for attached in (chosen, others):
        data.assert_rows(list(attached), expected)
        assert attached[1:3]["upper"] == [clip.stem.upper() for clip in clips[1:3]]


@pytest.mark.parametrize("keeps_others", [False, True])
def test_a_transform_of_some_columns_leaves_references_to_be_read(keeps_others, clips, expected, cached_features):
    references = cached_features.map(data.in_memory(clips), remove_columns="audio")
    transformed = references.with_transform(upper, columns=["text"], output_all_columns=keeps_others)
    attached = cached_features.attach(transformed)
    assert set(attached[0]) == {"text", "upper", "input_values", *(["number"] if keeps_others else [])}
    data.assert_rows(list(attached), expected)
    before = cached_features.stats
    assert attached[1:3]["upper"] == [clip.stem.upper() for clip in clips[1:3]]
    assert (cached_features.stats - before).hits == 0


def test_features_are_made_of_the_audio_that_a_transform_returns(clips, expected, cached_features):
    def backwards(batch):
        return {**batch, "audio": batch["audio"][::-1]}

    attached = cached_features.attach(data.in_memory(clips).with_transform(backwards))
    data.assert_rows([{"input_values": array} for array in attached[:]["input_values"]], expected[::-1])


def test_a_transform_gets_the_arrays_of_references(clips, expected, cached_features):
    def with_sums(batch):
        return {**batch, "sum": [array.sum() for array in batch["input_values"]]}

    attached = cached_features.attach(cached_features.map(data.in_memory(clips)).with_transform(with_sums))
    data.assert_rows(list(attached), expected)
    assert attached[:]["sum"] == [outputs["input_values"].sum() for outputs in expected]


def test_a_transform_that_loses_the_audio_or_gives_no_columns_is_refused(clips, cached_features):
    dataset = data.in_memory(clips)
    attached = cached_features.attach(dataset.with_transform(lambda batch: {"text": batch["text"]}))
    with pytest.raises(AudioColumnError, match=r"does not return the audio column 'audio', .* but 'text'\. "):
        attached[0]
    assert attached["text"][:] == [clip.stem for clip in clips]
    with pytest.raises(ProcessorError, match="returned a list, and features can be added to a dict"):
        cached_features.attach(dataset.with_transform(lambda batch: [1]))[0]
    fewer = dataset.with_transform(lambda batch: {"text": batch["text"][:1]}, columns=["text"])
    with pytest.raises(ProcessorError, match="returned another number of rows than it got"):
        cached_features.attach(fewer)[:3]
    assert cached_features.stats.computed == 0


def test_attached_twice_is_attached_once(clips, expected, cached_features, make_processor, tmp_path):
    attached = cached_features.attach(cached_features.attach(data.in_memory(clips)))
    data.assert_rows(list(attached), expected)
    assert (cached_features.stats.computed, cached_features.stats.hits) == (6, 0)
    references = cached_features.map(data.in_memory(clips))
    data.assert_rows(list(cached_features.attach(cached_features.attach(references))), expected)
    assert (cached_features.stats.computed, cached_features.stats.hits) == (6, 12)
    spanish = CachedFeatures(make_processor("wav2vec2_spanish"), tmp_path / "root", auto_resample=True)
    with pytest.raises(ProcessorError, match="keep both, by output_names"):
        spanish.attach(attached)


def test_streams_are_attached_to_twice(clips, expected, wanted, cached_features, other):
    stream = data.in_memory(clips).to_iterable_dataset().map(upper, batched=True)
    rows = list(other.attach(cached_features.attach(stream)))
    data.assert_rows(rows, [{**one, **two} for one, two in zip(expected, wanted, strict=True)])
    assert [row["upper"] for row in rows] == [clip.stem.upper() for clip in clips]


@pytest.mark.parametrize("workers", [None, 2])
def test_a_map_reads_what_is_attached(workers, clips, expected, cached_features):
    def mean(row):
        return {"mean": float(row["input_values"].mean())}

    mapped = cached_features.attach(data.in_memory(clips)).map(mean, num_proc=workers)
    assert mapped.with_format(None)["mean"][:] == [float(outputs["input_values"].mean()) for outputs in expected]


WRITERS = {
    "map": lambda dataset: dataset.map(lambda batch: {**batch, "n": batch["number"]}, batched=True),
    "flatten_indices": lambda dataset: dataset.select([1, 0]).flatten_indices(),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_features_that_were_written_after_attach_are_told_from_others(writer, clips, cached_features):
    written = WRITERS[writer](cached_features.attach(data.in_memory(clips)))
    with pytest.raises(ProcessorError, match=r"'input_values' was written after attach, .* Attach last"):
        written[0]
    assert len(written.with_format("numpy")[0]["input_values"]) > 0


@pytest.mark.parametrize("form", ["map", "materialize"])
def test_a_map_to_references_keeps_a_transform(form, clips, expected, cached_features):
    dataset = data.in_memory(clips).with_transform(upper)
    mapped = cached_features.map(cached_features.attach(dataset) if form == "map" else dataset, remove_columns="audio")
    if form == "materialize":
        mapped = cached_features.materialize(mapped)
    row = mapped[1]
    assert row["upper"] == clips[1].stem.upper()
    assert np.asarray(row["input_values"], np.float32).tobytes() == expected[1]["input_values"].tobytes()
    chosen = cached_features.map(data.in_memory(clips).with_transform(upper, columns=["text"]))
    assert set(chosen[0]) == {"text", "upper", "input_values"}
    others = cached_features.attach(
        data.in_memory(clips).with_transform(upper, columns=["text"], output_all_columns=True)
    )
    assert {"text", "upper", "number", "input_values"} <= set(cached_features.map(others, remove_columns="audio")[0])


# Requests that want no features


REQUESTS = {
    "a column of a slice": lambda ds: ds[:]["text"],
    "a slice of a column": lambda ds: ds["text"][:],
    "rows of a column": lambda ds: ds["text"][[0, 1, 2, 3, 4, 5]],
    "a batched map of a column": lambda ds: ds.map(
        lambda texts: {"n": texts}, input_columns=["text"], batched=True
    ).with_format(None)["n"],
    "a map of a column": lambda ds: ds.map(lambda text: {"n": text}, input_columns=["text"]).with_format(None)["n"],
    "a batched map": lambda ds: ds.map(lambda batch: {"n": batch["text"]}, batched=True).with_format(None)["n"],
    "a filter of a column": lambda ds: ds.filter(lambda number: number > -1, input_columns=["number"]).with_format(
        None
    )["text"],
    "a batched filter": lambda ds: ds.filter(
        lambda batch: [number > -1 for number in batch["number"]], batched=True
    ).with_format(None)["text"],
    "selected columns": lambda ds: ds.select_columns(["text"])["text"],
    "unique": lambda ds: ds.unique("text"),
}


@pytest.mark.parametrize(("request_", "kind"), crossed([*REQUESTS], ["audio", "references", "audio after a transform"]))
def test_a_request_without_features_neither_fails_nor_extracts(request_, kind, clips, cached_features):
    dataset = data.in_memory(clips)
    if kind == "references":
        dataset = cached_features.map(dataset)
    elif kind != "audio":
        dataset = dataset.with_transform(dict)
    before = cached_features.stats
    attached = cached_features.attach(dataset)
    assert list(REQUESTS[request_](attached)) == [clip.stem for clip in clips]
    stats = cached_features.stats - before
    assert (stats.computed, stats.hits, stats.decodes) == (0, 0, 0)


def late(calls):
    def make():
        calls.append(1)
        return {"features": [3, 4]}

    return LateColumns({"text": ["a", "b"]}, make)


FULL = {"text": ["a", "b"], "features": [3, 4]}
LOOKS = {
    "item": lambda batch: batch["features"] == [3, 4],
    "get": lambda batch: batch.get("features") == [3, 4],
    "in": lambda batch: "features" in batch,
    "dict": lambda batch: dict(batch) == FULL,
    "unpacked": lambda batch: {**batch} == FULL,
    "updated": lambda batch: {"text": 1} | batch == FULL,
    "or": lambda batch: batch | {"more": 1} == {**FULL, "more": 1},
    "keyword": lambda batch: dict(**batch) == FULL,
    "into another": lambda batch: (found := {}).update(batch) or found == FULL,
    "list": lambda batch: list(batch) == list(FULL),
    "items": lambda batch: list(batch.items()) == list(FULL.items()),
    "len": lambda batch: len(batch) == 2,
    "equal": lambda batch: batch == FULL and not batch != FULL,  # noqa: SIM202
    "equal from the right": lambda batch: FULL == batch,
    "repr": lambda batch: repr(batch) == repr(FULL),
    "pickle": lambda batch: pickle.loads(pickle.dumps(batch)) == FULL,
    "copy": lambda batch: copy.copy(batch) == copy.deepcopy(batch) == batch.copy() == FULL,
    "pop": lambda batch: batch.pop("features") == [3, 4],
    "set": lambda batch: batch.__setitem__("features", 5) or batch["features"] == 5,
    "no such column": lambda batch: batch.get("none") is None and "none" not in batch,
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_batch_is_complete_however_it_is_looked_at(look):
    calls = []
    assert LOOKS[look](late(calls))
    assert calls == [1]


def test_columns_that_are_there_cost_nothing():
    calls = []
    batch = late(calls)
    assert batch["text"] == batch.get("text") == ["a", "b"]
    assert "text" in batch
    assert calls == []


def test_what_failed_once_fails_again():
    def fail():
        raise AudioColumnError("no")

    batch = LateColumns({"text": ["a"]}, fail)
    for _ in range(2):
        with pytest.raises(AudioColumnError):
            batch["features"]
    assert batch["text"] == ["a"]


def test_a_batch_in_a_loader(clips, expected, cached_features):
    attached = cached_features.attach(data.in_memory(clips))
    rows = attached.__getitems__([3, 1])
    assert all(type(row) is dict for row in rows)
    data.assert_rows(rows, [expected[3], expected[1]])
    assert np.asarray(attached[[3, 1]]["number"]).tolist() == [3, 1]
    assert isinstance(attached[[3, 1]], dict)
    assert isinstance(attached, datasets.Dataset)


def test_a_column_that_is_stored_costs_nothing_row_by_row(clips, cached_features, tmp_path):
    dataset = data.in_memory(clips)
    attached = cached_features.attach(dataset)
    assert [attached["text"][row] for row in range(len(clips))] == dataset["text"][:]
    assert list(attached["number"]) == dataset["number"][:]
    assert cached_features.stats.misses == 0
    waveforms = CachedWaveforms(tmp_path / "root", sampling_rate=16_000, auto_resample=True)
    attached = waveforms.attach(dataset)
    assert attached["audio"][0]["array"].dtype == np.float32
    upper = dataset.with_transform(lambda batch: {**batch, "text": [text.upper() for text in batch["text"]]})
    assert cached_features.attach(upper)["text"][0] == clips[0].stem.upper()

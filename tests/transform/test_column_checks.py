"""References know their audio column, and no column takes another's place in silence."""

from __future__ import annotations

import dataclasses

import audio_datasets as data
import datasets
import numpy as np
import pytest

from hf_audio_cache import CachedFeatures
from hf_audio_cache.errors import AudioColumnError, ProcessorError

N_CLIPS = 4


@pytest.fixture
def pairs(clips):
    """A dataset of preferences, with two audio columns."""
    columns = {"chosen": data.columns(clips[:2])["audio"], "rejected": data.columns(clips[2:])["audio"]}
    dataset = datasets.Dataset.from_dict({**columns, "text": ["a", "b"]})
    for name in columns:
        dataset = dataset.cast_column(name, datasets.Audio(decode=False))
    return dataset


@pytest.fixture
def make(wav2vec2, tmp_path):
    def of(column, **settings):
        return CachedFeatures(wav2vec2, tmp_path / "root", auto_resample=True, audio_column=column, **settings)

    return of


@pytest.fixture
def wanted(wav2vec2, clips):
    arrays = [data.expected_features(wav2vec2, clip, auto_resample=True)["input_values"] for clip in clips]
    return {"chosen": arrays[:2], "rejected": arrays[2:]}


def has(rows, column, arrays):
    return [np.asarray(row[column], np.float32).tobytes() for row in rows] == [array.tobytes() for array in arrays]


FORMS = {
    "attach": lambda cached_features, dataset: cached_features.attach(dataset),
    "attach without audio": lambda cached_features, dataset: cached_features.attach(
        dataset.remove_columns(["chosen", "rejected"])
    ),
    "attach to a stream": lambda cached_features, dataset: cached_features.attach(dataset.to_iterable_dataset()),
    "map": lambda cached_features, dataset: cached_features.map(dataset),
    "the callable": lambda cached_features, dataset: dataset.map(cached_features),
    "the callable, batched": lambda cached_features, dataset: dataset.map(cached_features, batched=True),
    "the callable, arrow": lambda cached_features, dataset: dataset.with_format("arrow").map(cached_features),
}


@pytest.mark.parametrize("form", FORMS)
def test_references_to_another_audio_column_are_an_error_that_names_both(form, pairs, make):
    chosen, rejected = make("chosen"), make("rejected")
    references = chosen.map(pairs)
    assert references.features["input_values"].audio_column == "chosen"
    with pytest.raises(AudioColumnError, match=r"made from the audio column 'chosen', and audio_column is 'rejected'"):
        list(FORMS[form](rejected, references))
    assert rejected.stats.computed == rejected.stats.hits == 0


def test_both_columns_by_output_names(pairs, make, wanted):
    chosen, rejected = make("chosen"), make("rejected", output_names={"input_values": "rejected_values"})
    both = rejected.map(chosen.map(pairs))
    for rows in (list(both), list(rejected.attach(both)), list(chosen.attach(both)), list(chosen.materialize(both))):
        assert has(rows, "input_values", wanted["chosen"])
        assert has(rows, "rejected_values", wanted["rejected"])
    assert (chosen.stats.computed, rejected.stats.computed) == (2, 2)
    attached = rejected.attach(chosen.map(pairs))
    assert has(list(attached), "input_values", wanted["chosen"])
    assert has(list(attached), "rejected_values", wanted["rejected"])


def test_after_the_audio_column_was_renamed_the_reference_is_told(pairs, make, wanted):
    references = make("chosen").map(pairs).rename_column("chosen", "speech")
    speech = make("speech")
    with pytest.raises(AudioColumnError, match=r"ds\.cast_column\('input_values', dataclasses\.replace\(") as error:
        speech.attach(references)
    assert (error.value.column, error.value.columns) == ("speech", ("chosen",))
    feature = dataclasses.replace(references.features["input_values"], audio_column="speech")
    told = references.cast_column("input_values", feature)
    assert has(list(speech.attach(told)), "input_values", wanted["chosen"])
    assert has(list(speech.map(told)), "input_values", wanted["chosen"])
    assert (speech.stats.computed, speech.stats.misses) == (0, 0)
    # What says no column is believed: nobody knows.
    unknown = references.cast_column("input_values", dataclasses.replace(feature, audio_column=None))
    assert has(list(speech.attach(unknown)), "input_values", wanted["chosen"])


def test_a_reference_keeps_its_column_in_files(pairs, make, tmp_path):
    make("chosen").map(pairs).save_to_disk(tmp_path / "saved")
    make("chosen").map(pairs).to_parquet(tmp_path / "rows.parquet")
    for loaded in (
        datasets.load_from_disk(tmp_path / "saved"),
        datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache")),
    ):
        assert loaded.features["input_values"].audio_column == "chosen"
        with pytest.raises(AudioColumnError, match="'chosen'"):
            make("rejected").attach(loaded)


OTHERS = {
    "map": lambda cached_features, dataset: cached_features.map(dataset),
    "attach": lambda cached_features, dataset: cached_features.attach(dataset),
    "stream": lambda cached_features, dataset: cached_features.attach(dataset.to_iterable_dataset()),
    "stream whose columns nobody knows": lambda cached_features, dataset: cached_features.attach(
        dataset.to_iterable_dataset().map(lambda row: row)
    ),
}


@pytest.mark.parametrize("form", OTHERS)
def test_a_column_of_the_same_name_is_not_replaced(form, pairs, make, wanted):
    tokenized = pairs.map(lambda row: {"input_values": [1, 2, 3]})
    cached_features = make("chosen")
    with pytest.raises(ProcessorError, match=r"column 'input_values' already.*output_names=\{'input_values': 'my_inp"):
        list(OTHERS[form](cached_features, tokenized))
    renamed = make("chosen", output_names={"input_values": "audio_values"})
    rows = list(OTHERS[form](renamed, tokenized))
    assert has(rows, "audio_values", wanted["chosen"])
    assert [np.asarray(row["input_values"]).tolist() for row in rows] == [[1, 2, 3]] * 2


def test_another_processors_outputs_are_not_replaced(pairs, make, make_processor, tmp_path, wanted):
    wav2vec2 = make("chosen")
    spanish = CachedFeatures(
        make_processor("wav2vec2_spanish"), tmp_path / "root", auto_resample=True, audio_column="chosen"
    )
    for form in FORMS:
        if form != "attach without audio":
            with pytest.raises(ProcessorError, match="keep both, by output_names"):
                list(FORMS[form](spanish, wav2vec2.map(pairs)))
    with pytest.raises(ProcessorError, match="'input_values' already"):
        list(spanish.attach(wav2vec2.attach(pairs.to_iterable_dataset())))
    # The same processor's are the same.
    again = wav2vec2.map(wav2vec2.map(pairs))
    assert has(list(again), "input_values", wanted["chosen"])
    assert again.column_names.count("input_values") == 1
    assert spanish.stats.hits == 0


@pytest.mark.skipif(not hasattr(datasets.Audio(), "stream_index"), reason="an older datasets")
@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("form", ["map", "attach", "attach to a stream", "ds.map"])
def test_another_stream_than_the_one_that_is_decoded_is_refused(form, lists, pairs, make):
    second = datasets.Audio(stream_index=1)
    if lists:
        pairs = datasets.Dataset.from_dict({"chosen": [[cell] for cell in pairs["chosen"]]})
    asking = pairs.cast_column("chosen", datasets.List(second) if lists else second)
    cached_features = make("chosen")
    forms = {
        "map": cached_features.map,
        "attach": cached_features.attach,
        "attach to a stream": lambda dataset: cached_features.attach(dataset.to_iterable_dataset()),
        "ds.map": lambda dataset: dataset.map(cached_features, batched=True),
    }
    with pytest.raises(AudioColumnError, match=r"the audio column 'chosen' is Audio\(stream_index=1\)"):
        forms[form](asking)

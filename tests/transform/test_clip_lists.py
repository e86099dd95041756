"""Audio columns whose cells are lists of clips."""

from __future__ import annotations

import hashlib
import io

import audio_datasets as data
import datasets
import numpy as np
import pyarrow as pa
import pytest
import soundfile
from crossed import crossed

from hf_audio_cache import CachedFeatures, CachedWaveforms
from hf_audio_cache.errors import AudioError, AudioSourceError, MissingEntryError

SIZES = (2, 0, 1, 3)
CELL = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


@pytest.fixture
def rows(clips):
    """Four rows with lists of two, no, one and three clips, of which one is there twice."""
    ahead = iter([{"bytes": path.read_bytes(), "path": path.name} for path in [*clips[:5], clips[0]]])
    return [[next(ahead) for _ in range(size)] for size in SIZES]


@pytest.fixture
def dataset(rows):
    features = datasets.Features({"audio": datasets.List(CELL), "text": datasets.Value("string")})
    return datasets.Dataset.from_dict({"audio": rows, "text": list("abcd")}, features=features)


@pytest.fixture
def lists(wav2vec2, rows):
    """The features of each row, by the extractor alone."""
    return [
        [data.expected_features(wav2vec2, cell["bytes"], auto_resample=True)["input_values"] for cell in row]
        for row in rows
    ]


def assert_lists(found, expected):
    assert [None if row is None else len(row) for row in found] == [len(row) for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        for one, other in zip(row, wanted, strict=True):
            data.assert_same_bits(np.asarray(one, np.float32), other)


FORMS = {
    "callable, batched": lambda cached, ds: ds.map(cached, batched=True, batch_size=3),
    "callable, typed": lambda cached, ds: ds.map(cached, batched=True, features=cached.features(ds.features)),
    "callable, row by row": lambda cached, ds: ds.map(cached),
    "callable, Arrow": lambda cached, ds: ds.with_format("arrow").map(cached, batched=True).with_format(None),
    "references": lambda cached, ds: cached.map(ds),
    "references alone": lambda cached, ds: cached.map(ds, remove_columns=["audio"]),
    "references, materialized": lambda cached, ds: cached.materialize(cached.map(ds)),
    "references in a stream": lambda cached, ds: cached.map(ds).to_iterable_dataset().remove_columns("audio"),
    "references, attached": lambda cached, ds: cached.attach(cached.map(ds)),
    "references alone, attached": lambda cached, ds: cached.attach(cached.map(ds, remove_columns=["audio"])),
    "attached": lambda cached, ds: cached.attach(ds),
    "a stream": lambda cached, ds: ds.to_iterable_dataset().map(cached, batched=True),
    "a stream, row by row": lambda cached, ds: ds.to_iterable_dataset().map(cached),
    "an attached stream": lambda cached, ds: cached.attach(ds.to_iterable_dataset()),
    "an attached stream of references": lambda cached, ds: cached.attach(cached.map(ds).to_iterable_dataset()),
}


@pytest.mark.parametrize(("form", "kind"), crossed([*FORMS], ["struct", "Audio"]))
def test_each_form_gives_lists(form, kind, dataset, lists, wav2vec2, tmp_path):
    if kind == "Audio":
        decode = not form.startswith(("a stream", "callable"))  # which need no torchcodec then
        dataset = dataset.cast_column("audio", datasets.List(datasets.Audio(decode=decode)))
    cached_features = CachedFeatures(wav2vec2, tmp_path / "root", auto_resample=True, length_column="length")
    made = list(FORMS[form](cached_features, dataset))
    assert [row["text"] for row in made] == list("abcd")
    assert_lists([row["input_values"] for row in made], lists)
    assert [list(row["length"]) for row in made] == [[len(each) for each in row] for row in lists]
    assert cached_features.stats.computed == 5


BAD = {"bytes": b"no audio", "path": "bad.wav"}


@pytest.mark.parametrize("form", ["callable, batched", "references", "an attached stream", "references, attached"])
@pytest.mark.parametrize("bad", [BAD, None])
def test_bad_clips_of_lists(form, bad, dataset, rows, lists, wav2vec2, tmp_path):
    rows[3][1] = bad
    dataset = datasets.Dataset.from_dict({"audio": rows, "text": list("abcd")}, features=dataset.features)

    def made(**settings):
        cached_features = CachedFeatures(wav2vec2, tmp_path / "root", auto_resample=True, **settings)
        return list(FORMS[form](cached_features, dataset))

    with pytest.raises(AudioError, match=r" It is item 1 of row \d of the (batch|dataset)\."):
        made()
    found = made(on_error="null", reason_column="why")
    assert found[3]["input_values"][1] is None
    assert found[3]["why"].startswith("item 1: ")
    assert [row["why"] for row in found[:3]] == ["", "", ""]
    del found[3]["input_values"][1], lists[3][1]
    assert_lists([row["input_values"] for row in found], lists)
    found = made(on_error="skip")
    assert [row["text"] for row in found] == list("abc")
    assert_lists([row["input_values"] for row in found], lists[:3])


def test_references_in_lists_live_as_other_columns_do(dataset, lists, wav2vec2, tmp_path):
    cached_features = CachedFeatures(wav2vec2, tmp_path / "root", auto_resample=True)
    made = cached_features.map(dataset, remove_columns=["audio"])
    assert made.data.column("input_values").type == pa.list_(pa.binary())
    made.save_to_disk(tmp_path / "saved")
    made.to_parquet(tmp_path / "rows.parquet")
    loaded = datasets.load_from_disk(str(tmp_path / "saved"))
    parquet = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    for each in (loaded, parquet, made.select(range(4)), made.filter(bool, input_columns="text")):
        assert_lists(each["input_values"], lists)
    assert_lists(made.select([3, 0])["input_values"], [lists[3], lists[0]])
    assert_lists(datasets.concatenate_datasets([made, made])["input_values"], lists * 2)
    numpy = made.with_format("numpy")
    assert_lists([numpy[row]["input_values"] for row in range(4)], lists)
    assert cached_features.stats.computed == 5


def test_a_missing_entry_is_named_with_its_row_and_its_place(dataset, rows, wav2vec2, tmp_path):
    cached_features = CachedFeatures(wav2vec2, tmp_path / "root", auto_resample=True)
    made = cached_features.map(dataset, remove_columns=["audio"])
    sha = hashlib.sha256(rows[3][1]["bytes"]).hexdigest()
    [entry] = (tmp_path / "root" / "features").rglob(f"{sha}.*")
    entry.unlink()
    with pytest.raises(MissingEntryError, match=r"^For item 1 of a list, the output 'input_values' of the entry"):
        made[3]
    with pytest.raises(MissingEntryError, match=r"^For item 1 of row 3 of the batch, the output") as found:
        cached_features.attach(made)[:]["input_values"]
    assert found.value.key.blob_sha == sha


def test_coverage_estimates_and_explanations_are_of_each_clip(dataset, rows, wav2vec2, tmp_path):
    cached_features = CachedFeatures(wav2vec2, tmp_path / "root", auto_resample=True)
    cached_features.map(dataset.select([0]))
    for each in (dataset, dataset.select([3, 2, 1, 0])):
        found = cached_features.coverage(each)
        assert (found.n_rows, found.n_clips, found.n_cached, found.n_bad) == (6, 5, 3, 0)  # the first is there twice
    assert cached_features.estimate(dataset).n_rows == 6
    assert [each.status for each in cached_features.explain({"audio": [rows[0]]})] == ["hit", "hit"]
    assert [each.status for each in cached_features.explain(dataset[3])] == ["never seen", "never seen", "hit"]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ([0.0, 0.5, 0.25], r"a list of 3 values\. .* Pass a dict of bytes or path"),
        ([[BAD]], r"a list of 1 values\. .* Pass a dict of bytes or path"),
        ([{"role": "user"}], r"a dict of role: str\. .* Pass a dict of bytes or path"),
        ([3], r"a list of 1 values\. .* Pass a dict of bytes or path"),
    ],
)
def test_a_wrong_shape_is_told_as_what_it_is(cell, said, wav2vec2, tmp_path):
    cached_features = CachedFeatures(wav2vec2, tmp_path / "root")
    with pytest.raises(AudioSourceError, match=said) as found:
        cached_features({"audio": [cell, cell]})
    assert "ilter such rows" not in str(found.value)


@pytest.mark.skipif(int(datasets.__version__.split(".")[0]) < 5, reason="earlier datasets lose rows on resuming")
def test_a_stream_of_lists_is_resumed(dataset, lists, wav2vec2, tmp_path):
    cached_features = CachedFeatures(wav2vec2, tmp_path / "root", auto_resample=True, length_column="length")
    stream = cached_features.attach(dataset.to_iterable_dataset(num_shards=2))
    ahead = iter(stream)
    first = [next(ahead) for _ in range(3)]
    state = stream.state_dict()
    computed = cached_features.stats.computed
    stream = cached_features.attach(dataset.to_iterable_dataset(num_shards=2))
    stream.load_state_dict(state)
    rest = list(stream)
    assert_lists([row["input_values"] for row in [*first, *rest]], lists)
    assert [row["length"] for row in rest] == [[len(each) for each in lists[3]]]
    assert cached_features.stats.computed == computed


def test_waveforms_come_in_lists(dataset, rows, tmp_path):
    cached_waveforms = CachedWaveforms(tmp_path / "root", sampling_rate=8_000)
    found = [row["audio"] for row in cached_waveforms.attach(dataset)]
    assert [[clip["sampling_rate"] for clip in row] for row in found] == [[8_000] * size for size in SIZES]
    for row, cells in zip(found, rows, strict=True):
        for clip, cell in zip(row, cells, strict=True):
            samples, _ = soundfile.read(io.BytesIO(cell["bytes"]), dtype="float32")
            data.assert_same_bits(clip["array"], samples)

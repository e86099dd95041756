"""Rows in other forms than a column of encoded audio: decoded arrays, flat columns, Column objects, relative paths."""

from __future__ import annotations

import json

import audio_datasets as data
import datasets
import numpy as np
import pyarrow as pa
import pytest
import soundfile
from audio_files import encode
from crossed import crossed

from hf_audio_cache import CachedFeatures
from hf_audio_cache.errors import AudioColumnError, AudioSourceError
from hf_audio_cache.transform.audio_rows import audio_rows, encoded_sizes

RATE = 16_000


def wav(samples):
    return encode(samples, RATE, "WAV")


@pytest.fixture(scope="module")
def samples(sentences):
    return [soundfile.read(path, dtype="float32")[0][:6000] for path in sentences[:3]]


@pytest.fixture
def make(make_processor, tmp_path):
    return lambda **settings: CachedFeatures(make_processor("wav2vec2"), tmp_path / "root", **settings)


@pytest.fixture
def cached_features(make):
    return make()


@pytest.fixture
def expected(samples, cached_features):
    return [
        {"input_values": cached_features.processor([each], sampling_rate=RATE, return_tensors="np")["input_values"][0]}
        for each in samples
    ]


DATASETS = {
    "arrays": lambda samples: datasets.Dataset.from_dict(
        {"audio": [{"array": each, "sampling_rate": RATE} for each in samples], "n": range(3)}
    ),
    "flattened arrays": lambda samples: DATASETS["arrays"](samples).flatten(),
    "array and sampling_rate": lambda samples: datasets.Dataset.from_dict(
        {"array": samples, "sampling_rate": [RATE] * 3, "n": range(3)}
    ),
    "flattened bytes": lambda samples: data.of_cells(
        [{"bytes": wav(each), "path": "a.wav"} for each in samples], n=range(3)
    ).flatten(),
}
FORMS = {
    "map": lambda cached_features, ds: ds.map(cached_features).with_format("numpy"),
    "batched": lambda cached_features, ds: ds.map(cached_features, batched=True).with_format("numpy"),
    "numpy": lambda cached_features, ds: ds.with_format("numpy").map(cached_features),
    "numpy, batched": lambda cached_features, ds: ds.with_format("numpy").map(cached_features, batched=True),
    "arrow": lambda cached_features, ds: (
        ds.with_format("arrow").map(cached_features, batched=True).with_format("numpy")
    ),
    "references": lambda cached_features, ds: cached_features.map(ds),
    "attach": lambda cached_features, ds: cached_features.attach(ds),
    "attached references": lambda cached_features, ds: cached_features.attach(cached_features.map(ds)),
    "stream": lambda cached_features, ds: list(cached_features.attach(ds.to_iterable_dataset())),
    "by hand": lambda cached_features, ds: [cached_features(row) for row in ds],
    "a batch by hand": lambda cached_features, ds: (
        [{"input_values": each} for each in cached_features(ds[:])["input_values"]]
    ),
}


@pytest.mark.parametrize(("kind", "form"), crossed([*DATASETS], [*FORMS]))
def test_rows_of_each_kind_have_their_features_in_each_form(kind, form, samples, cached_features, expected):
    dataset = DATASETS[kind](samples)
    if "bytes" in kind and "numpy" in form:  # in which NumPy has cut off zeros at their end
        with pytest.raises(AudioSourceError, match=r"are a NumPy string.* Use ds\.with_format\(None\)"):
            FORMS[form](cached_features, dataset)
        return
    found = FORMS[form](cached_features, dataset)
    data.assert_rows([found[row] for row in range(3)], expected)
    if form in ("map", "batched", "references"):
        assert {"n", "input_values", *dataset.column_names} == {*found.column_names}
    assert cached_features.stats.computed == 3


def test_an_array_and_its_flat_columns_are_one_clip(samples, cached_features):
    for kind in ("arrays", "flattened arrays", "array and sampling_rate"):
        cached_features.map(DATASETS[kind](samples))
    assert cached_features.stats.computed == 3


def test_bad_rows_of_flat_columns_are_left_out(samples, make):
    dataset = DATASETS["flattened bytes"](samples)
    columns = dataset.to_dict()
    columns["audio.bytes"][1] = b"no audio"
    dataset = datasets.Dataset.from_dict(columns)
    cached_features = make(on_error="skip")
    assert dataset.map(cached_features, batched=True)["n"][:] == [0, 2]
    assert cached_features.map(dataset)["n"][:] == [0, 2]


def test_bare_samples_without_a_rate_are_told_what_is_missing(samples, cached_features):
    with pytest.raises(AudioSourceError, match=r"found a list of 6000 values\. .* a dict of array and sampling_rate"):
        cached_features({"audio": [samples[0].tolist()]})
    with pytest.raises(AudioColumnError, match="There is no audio column 'audio', only the columns 'array', 'n'"):
        datasets.Dataset.from_dict({"array": samples, "n": range(3)}).map(cached_features)
    with pytest.raises(AudioSourceError, match="A decoded array has the sampling_rate None"):
        cached_features.map(datasets.Dataset.from_dict({"audio.array": samples}))


# Column objects


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("form", [None, "numpy", "arrow"])
def test_column_objects_are_batches_and_are_not_decoded(decode, form, samples, cached_features, expected):
    cells = [{"bytes": wav(each), "path": None} for each in samples]
    dataset = datasets.Dataset.from_list([{"audio": cell} for cell in cells])
    storage = dataset.cast_column("audio", datasets.Audio(decode=False)).with_format("arrow")[:]
    dataset = datasets.Dataset(storage).cast_column("audio", datasets.Audio(decode=decode)).with_format(form)
    column = dataset.with_format(None)["audio"] if form == "arrow" else dataset["audio"]
    assert isinstance(column, datasets.arrow_dataset.Column)
    for batch in ({"audio": column}, column):
        found = cached_features(batch)["input_values"]
        data.assert_rows([{"input_values": each} for each in found], expected)


def test_columns_of_a_transform_and_of_flat_parts(samples, cached_features, expected):
    dataset = DATASETS["flattened arrays"](samples)
    columns = {name: dataset[name] for name in dataset.column_names}
    data.assert_rows([{"input_values": each} for each in cached_features(columns)["input_values"]], expected)
    quieter = DATASETS["arrays"](samples).with_transform(
        lambda batch: {
            "audio": [{**cell, "array": np.asarray(cell["array"], np.float32) / 2} for cell in batch["audio"]]
        }
    )
    halves = cached_features({"audio": quieter["audio"]})["input_values"]
    raw = cached_features.processor([samples[0] / 2], sampling_rate=RATE, return_tensors="np")["input_values"][0]
    data.assert_same_bits(halves[0], raw)


def test_an_arrow_column_of_a_table(samples, cached_features, expected):
    table = pa.table({"array": [each.tolist() for each in samples], "sampling_rate": [RATE] * 3})
    found = cached_features(table)
    assert found.column_names == ["array", "sampling_rate", "input_values"]
    assert np.allclose(found["input_values"][2].as_py(), expected[2]["input_values"])


# Paths


@pytest.fixture
def manifest(samples, tmp_path):
    """A JSONL manifest whose paths start at its own folder, in which nobody is."""
    folder = tmp_path / "corpus"
    (folder / "clips").mkdir(parents=True)
    names = ["clips/a.wav", "clips/spk1::utt7.wav", "c.wav"]
    for name, each in zip(names, samples, strict=True):
        (folder / name).write_bytes(wav(each))
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps({"audio": name, "n": n}) + "\n" for n, name in enumerate(names)))
    return path


def of_manifest(path):
    return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))


@pytest.mark.parametrize("form", ["map", "batched", "references", "attach", "attached references", "stream", "by hand"])
def test_relative_paths_start_at_data_dir(form, manifest, make, expected):
    cached_features = make(data_dir=manifest.parent)
    found = FORMS[form](cached_features, of_manifest(manifest))
    data.assert_rows([found[row] for row in range(3)], expected)
    again = make(data_dir=str(manifest.parent))
    FORMS[form](again, of_manifest(manifest))
    assert again.stats.computed == 0
    assert again.explain(of_manifest(manifest)[0]).status == "hit"


def test_a_dataset_of_relative_paths_is_counted_and_estimated(manifest, make, samples):
    cached_features = make(data_dir=manifest.parent)
    dataset = of_manifest(manifest)
    estimated = cached_features.estimate(dataset)
    assert (estimated.n_sample, estimated.n_sample_bad) == (3, 0)
    cached_features.map(dataset.select([0]))
    covered = cached_features.coverage(dataset)
    assert (covered.n_rows, covered.n_cached, covered.n_bad) == (3, 1, 0)
    sizes = encoded_sizes(audio_rows(dataset, "audio"), "audio", str(manifest.parent))
    assert sizes.tolist() == [len(wav(each)) for each in samples]


def test_without_data_dir_the_error_says_where_was_looked(manifest, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AudioSourceError) as caught:
        make().map(of_manifest(manifest))
    assert (
        f"The audio file clips/a.wav could not be read (FileNotFoundError: [Errno 2] No such file or directory: "
        f"'clips/a.wav'). It cannot be used. It is a relative path. It may start from a folder that is not "
        f"{tmp_path}: pass that folder as data_dir=, such as the one of the manifest. Check that"
    ) in str(caught.value)
    monkeypatch.chdir(manifest.parent)
    make().map(of_manifest(manifest))


def test_absolute_paths_and_urls_are_left_as_they_are(manifest, make, samples, expected, tmp_path):
    cached_features = make(data_dir=tmp_path / "elsewhere")
    cells = [
        str(manifest.parent / "c.wav"),
        (manifest.parent / "c.wav").as_uri(),
        {"bytes": wav(samples[2]), "path": "x"},
    ]
    for cell in cells:
        data.assert_rows([cached_features({"audio": cell})], expected[2:])


@pytest.mark.parametrize("name", ["spk1::utt7.wav", "::.wav", "a::b::c.wav", "s3 ::x.wav"])
def test_a_file_whose_name_has_two_colons_is_no_url(name, samples, tmp_path, cached_features, expected, monkeypatch):
    (tmp_path / name).write_bytes(wav(samples[0]))
    monkeypatch.chdir(tmp_path)
    for cell in (str(tmp_path / name), name, {"bytes": None, "path": name}, tmp_path / name):
        data.assert_rows([cached_features({"audio": cell})], expected[:1])
    assert cached_features.stats.computed == 1


def test_a_chain_of_file_systems_is_one(samples, tmp_path, cached_features, expected):
    (tmp_path / "c.wav").write_bytes(wav(samples[0]))
    chain = f"simplecache::file://{tmp_path}/c.wav"
    data.assert_rows([cached_features({"audio": chain})], expected[:1])

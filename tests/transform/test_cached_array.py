"""`CachedFeatures.map` and `CachedArray`: 32 bytes a row in Arrow, read from the cache when the row is read."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pickle
import shutil

import audio_datasets as data
import datasets
import numpy as np
import pytest
import soundfile

from hf_audio_cache import CachedArray, CachedFeatures, CacheRoot
from hf_audio_cache.errors import AudioColumnError, AudioDecodeError, MissingEntryError, ProcessorError

# Two outputs, so that there are two columns: float32 of shape (n, 160), and an int32 mask.
OUTPUTS = ("input_features", "attention_mask")


N_CLIPS = 12


@pytest.fixture
def seamless(make_processor):
    return make_processor("seamless_m4t")


@pytest.fixture(scope="module")
def expected(clips):
    import configs

    extractor = configs.make_processor("seamless_m4t")
    return [data.expected_features(extractor, clip, auto_resample=True) for clip in clips]


@pytest.fixture(scope="module")
def warm_root(clips, tmp_path_factory):
    """A root that has the features of the clips; not to be changed."""
    import configs

    root = tmp_path_factory.mktemp("warm")
    warm = CachedFeatures(configs.make_processor("seamless_m4t"), root, auto_resample=True)
    warm({"audio": data.columns(clips)["audio"]})
    return root


@pytest.fixture
def cached_features(seamless, warm_root):
    return CachedFeatures(seamless, warm_root, auto_resample=True)


@pytest.fixture
def references(cached_features, clips):
    return cached_features.map(data.in_memory(clips))


@pytest.fixture
def own_root(warm_root, tmp_path):
    """A copy of the warm root, to be changed."""
    return shutil.copytree(warm_root, tmp_path / "own")


def by_number(rows, expected):
    """Check rows in whatever order, by their column `number`."""
    data.assert_rows(rows, [expected[int(row["number"])] for row in rows])


# Making them


@pytest.mark.parametrize("decode", [False, True])
def test_map_adds_a_column_of_references_for_each_output(decode, clips, expected, seamless, tmp_path):
    cached_features = CachedFeatures(seamless, tmp_path / "root", auto_resample=True)
    dataset = data.from_parquet(clips, tmp_path / "data") if decode else data.in_memory(clips)
    mapped = cached_features.map(dataset)
    assert mapped.column_names == ["audio", "text", "number", *OUTPUTS]
    for name in OUTPUTS:
        assert mapped.features[name] == CachedArray(
            root=str(cached_features.audio_cache.root),
            processor_sha=cached_features.processor_sha,
            sampling_rate=16000,
            max_length_ms=0,
            auto_resample=True,
            name=name,
            audio_column="audio",
        )
        stored = mapped.with_format("arrow")[:][name]
        assert stored.to_pylist() == [bytes.fromhex(data.sha256(clip)) for clip in clips]
    rows = list(mapped)
    data.assert_rows(rows, expected)
    assert [row["text"] for row in rows] == [clip.stem for clip in clips]
    assert [row["audio"]["bytes"] for row in rows] == [clip.read_bytes() for clip in clips]
    assert (cached_features.stats.computed, cached_features.stats.decodes) == (12, 12)


@pytest.mark.torchcodec
def test_map_leaves_the_audio_as_it_is_where_datasets_can_decode_it(clips, expected, cached_features, tmp_path):
    from torchcodec.decoders import AudioDecoder

    folder = data.audio_folder(clips, tmp_path / "folder")
    for dataset in (data.in_memory(clips, decode=True), data.from_parquet(clips, tmp_path / "data"), folder):
        mapped = cached_features.map(dataset)
        assert mapped.features["audio"] == dataset.features["audio"]
        data.assert_rows(list(mapped.remove_columns("audio")), expected)
        assert isinstance(mapped[0]["audio"], AudioDecoder)
        plain = cached_features.materialize(mapped)
        assert plain.features["audio"] == dataset.features["audio"]
        data.assert_stored(plain, expected)
        assert isinstance(plain[0]["audio"], AudioDecoder)
    assert cached_features.stats.computed == 0


def test_map_over_a_dict_by_two_processes(clips, expected, seamless, tmp_path, capsys, monkeypatch):
    cached_features = CachedFeatures(seamless, tmp_path / "root", auto_resample=True)
    parts = datasets.DatasetDict({"train": data.in_memory(clips[:8]), "test": data.in_memory(clips[8:])})
    mapped = cached_features.map(parts, num_proc=2, remove_columns=["audio"])
    assert type(mapped) is datasets.DatasetDict
    assert mapped.column_names == {key: ["text", "number", *OUTPUTS] for key in ("train", "test")}
    data.assert_rows(list(mapped["train"]), expected[:8])
    data.assert_rows(list(mapped["test"]), expected[8:])
    assert (cached_features.stats.computed, cached_features.stats.misses) == (12, 12)

    bars = importlib.import_module("datasets.utils.tqdm")  # the package has a class of the same name
    monkeypatch.setattr(bars, "_hf_datasets_progress_bars_disabled", False)
    cached_features.map(parts["train"], desc="Once more", load_from_cache_file=False)
    assert "Once more: 100%" in capsys.readouterr().err
    assert (cached_features.stats.computed, cached_features.stats.hits) == (12, 8)


def test_map_can_leave_the_references_alone(clips, expected, cached_features):
    dataset = data.in_memory(clips)
    alone = cached_features.map(dataset, remove_columns=dataset.column_names)
    assert alone.column_names == list(OUTPUTS)
    data.assert_rows(list(alone), expected)
    assert cached_features.map(dataset, remove_columns="audio").column_names == ["text", "number", *OUTPUTS]


def test_map_again_replaces_references(references, expected, cached_features, make_processor, own_root):
    again = cached_features.map(references)
    assert again.column_names == references.column_names
    data.assert_rows(list(again), expected)
    whisper = CachedFeatures(make_processor("whisper_tiny"), own_root, auto_resample=True)
    with pytest.raises(ProcessorError, match=r"made by another processor .* keep both, by output_names"):
        whisper.map(references)
    other = whisper.map(references, remove_columns="input_features")
    assert sorted(other.column_names) == sorted(references.column_names)
    assert other[0]["input_features"].shape == (80, 3000)
    assert other[0]["attention_mask"].shape == expected[0]["attention_mask"].shape


def test_map_of_an_empty_split_has_the_same_columns(clips, cached_features):
    parts = datasets.DatasetDict({"train": data.in_memory(clips), "test": data.in_memory(clips).select([])})
    mapped = cached_features.map(parts, remove_columns="audio")
    assert mapped["test"].features == mapped["train"].features
    assert len(mapped["test"]) == 0
    assert datasets.concatenate_datasets(list(mapped.values())).num_rows == len(clips)
    plain = cached_features.materialize(mapped)
    assert plain["test"].features == plain["train"].features


def test_map_of_a_stream_says_what_to_use(clips, cached_features):
    with pytest.raises(TypeError, match=r"not IterableDataset\. .* use cached_features\.attach\(stream\)"):
        cached_features.map(data.in_memory(clips).to_iterable_dataset())
    with pytest.raises(AudioColumnError, match="only the columns 'sound', 'text', 'number'"):
        cached_features.map(data.in_memory(clips).rename_column("audio", "sound"))


def test_map_gives_bad_clips_null_rows(clips, expected, seamless, own_root):
    rows = data.columns(clips[:2])["audio"]
    rows = [{"bytes": b"no audio", "path": "notes.txt"}, rows[0], rows[1]]
    dataset = datasets.Dataset.from_dict({"audio": rows}).cast_column("audio", datasets.Audio(decode=False))
    with pytest.raises(AudioDecodeError, match=r"notes\.txt"):
        CachedFeatures(seamless, own_root, auto_resample=True).map(dataset)

    lenient = CachedFeatures(seamless, own_root, auto_resample=True, on_error="null")
    mapped = lenient.map(dataset)
    for form in (None, "numpy", "arrow"):
        assert mapped.with_format(form).with_format(None)[0]["input_features"] is None
    for rows in (list(mapped), list(mapped.with_format("numpy")), list(lenient.attach(mapped))):
        assert [rows[0][name] for name in OUTPUTS] == [None, None]
        for row, outputs in zip(rows[1:], expected[:2], strict=True):
            data.assert_same_bits(row["input_features"], outputs["input_features"])
            assert np.array_equal(row["attention_mask"], outputs["attention_mask"])
    column = lenient.attach(mapped)[:]["attention_mask"]
    assert column[0] is None
    data.assert_same_bits(column[1], expected[0]["attention_mask"])
    plain = lenient.materialize(mapped)
    assert plain[0]["input_features"] is None
    data.assert_stored(plain.select([1, 2]), expected[:2])
    only_bad = lenient.map(dataset.select([0]))
    assert only_bad[0]["input_features"] is None


def test_map_refuses_a_processor_that_changes_under_way(clips, make_processor, tmp_path):
    extractor = make_processor("wav2vec2")
    cached_features = CachedFeatures(extractor, tmp_path, auto_resample=True)
    dataset = data.in_memory(clips)

    n_samples = soundfile.info(str(clips[3])).frames * 2  # at 16 kHz

    class Changing:
        sampling_rate = 16000
        gain = 1

        def __call__(self, waveforms, **kwargs):
            if len(waveforms[0]) == n_samples:  # not before the second batch
                self.gain = 2
            return extractor(waveforms, **kwargs)

    cached_features.map(dataset)
    with pytest.raises(
        ProcessorError, match=r"changed during the map.* Change a processor before \.map\(ds\) or after it"
    ):
        CachedFeatures(Changing(), tmp_path / "changing", auto_resample=True).map(dataset, batch_size=2)


# Their size, and being found again


def test_datasets_finds_its_own_result_again_but_not_for_another_root(
    clips, cached_features, seamless, own_root, tmp_path
):
    dataset = data.saved(clips, tmp_path / "saved")
    first = cached_features.map(dataset)
    before = cached_features.stats
    again = cached_features.map(dataset)
    assert cached_features.stats == before  # not one entry was looked up
    assert again._fingerprint == first._fingerprint
    equal = CachedFeatures(seamless, CacheRoot(cached_features.root, compression=None), auto_resample=True)
    equal.map(dataset)
    assert equal.stats.hits == 0

    other = CachedFeatures(seamless, own_root, auto_resample=True)
    elsewhere = other.map(dataset)
    assert other.stats.hits == len(clips)
    assert elsewhere.features["input_features"].root == str(other.audio_cache.root)
    assert elsewhere._fingerprint != first._fingerprint


def test_a_shuffled_or_selected_dataset_keeps_its_order(clips, cached_features, tmp_path):
    dataset = data.saved(clips, tmp_path / "saved")
    for taken in (dataset.select([1, 5, 2, 7]), dataset.shuffle(seed=2)):
        mapped = cached_features.map(taken)
        assert mapped["number"][:] == taken["number"][:]
        shas = [mapped.features["input_features"].key(row) for row in _stored(mapped)]
        assert [key.blob_sha for key in shas] == [data.sha256(clips[number]) for number in taken["number"]]


def _stored(mapped):
    return mapped.with_format("arrow")["input_features"].to_pylist()


# What `datasets` does with them


def test_rows_read_one_by_one_in_batches_and_in_columns(references, expected):
    data.assert_rows([references[index] for index in (3, 3, 0)], [expected[index] for index in (3, 3, 0)])
    batch = references[2:6]
    for name in OUTPUTS:
        for array, outputs in zip(batch[name], expected[2:6], strict=True):
            data.assert_same_bits(array, outputs[name])
    for array, outputs in zip(references["input_features"], expected, strict=True):
        data.assert_same_bits(array, outputs["input_features"])
    data.assert_same_bits(references["attention_mask"][4], expected[4]["attention_mask"])


DERIVED = {
    "select": lambda ds: ds.select([7, 2, 2, 0]),
    "shuffle": lambda ds: ds.shuffle(seed=5),
    "sort": lambda ds: ds.sort("number", reverse=True),
    "filter": lambda ds: ds.filter(lambda number: number % 3 == 0, input_columns=["number"]),
    "filter by the features": lambda ds: ds.filter(lambda row: len(row["attention_mask"]) > 20),
    "train_test_split": lambda ds: ds.train_test_split(4, seed=1)["test"],
    "concatenate": lambda ds: datasets.concatenate_datasets([ds.select(range(5)), ds.select([9, 8])]),
    "interleave": lambda ds: datasets.interleave_datasets([ds.select(range(5)), ds.select([9, 8])]),
    "shard": lambda ds: ds.shard(3, 1),
    "repeat": lambda ds: ds.select([4]).repeat(2),
    "flatten_indices": lambda ds: ds.shuffle(seed=5).flatten_indices(),
    "map of another column": lambda ds: ds.map(lambda text: {"upper": text.upper()}, input_columns=["text"]),
    "map of the features": lambda ds: ds.map(lambda array: {"n": len(array)}, input_columns=["input_features"]),
    "map in a format": lambda ds: (
        ds.with_format("numpy").map(lambda row: {"n": len(row["attention_mask"])}).with_format(None)
    ),
    "map by two processes": lambda ds: ds.map(lambda row: {"twice": 2 * row["number"]}, num_proc=2),
    "add_column": lambda ds: ds.add_column("more", list(range(len(ds)))),
    "remove_columns": lambda ds: ds.remove_columns("audio"),
    "from Arrow": lambda ds: datasets.Dataset(ds._data.table, info=ds.info),
    "take and skip": lambda ds: ds.skip(2).take(5),
    "stream": lambda ds: ds.to_iterable_dataset(num_shards=3).shuffle(seed=1, buffer_size=4),
    "pickle": lambda ds: pickle.loads(pickle.dumps(ds)),
}


# datasets 5.2 sorts with an argument that pyarrow 25 deprecates.
@pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")
@pytest.mark.parametrize("derive", DERIVED)
def test_references_go_through(derive, references, expected):
    derived = DERIVED[derive](references)
    rows = list(derived)
    assert len(rows) > 1
    by_number(rows, expected)
    if isinstance(derived, datasets.Dataset):
        assert {name: derived.features[name] for name in OUTPUTS} == {
            name: references.features[name] for name in OUTPUTS
        }


def test_a_mapped_function_that_touches_a_row_gets_arrays_written(references, expected):
    # datasets writes what it has decoded for a function again, and has no way back from an array to its reference.
    mapped = references.map(lambda row: {"frames": len(row["input_features"])})
    assert mapped.features["input_features"] == datasets.List(datasets.List(datasets.Value("float32")))
    assert mapped.features["attention_mask"] == references.features["attention_mask"]
    data.assert_stored(mapped, expected)
    assert mapped["frames"][:] == [len(outputs["input_features"]) for outputs in expected]


@pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")
def test_map_over_what_was_derived(clips, expected, cached_features):
    dataset = data.in_memory(clips)
    for derive in (
        "select",
        "shuffle",
        "sort",
        "train_test_split",
        "concatenate",
        "shard",
        "repeat",
        "flatten_indices",
    ):
        by_number(list(cached_features.map(DERIVED[derive](dataset))), expected)


def test_renamed_columns_still_know_their_output(references, expected, cached_features):
    renamed = references.rename_columns({"input_features": "x", "attention_mask": "mask"})
    for dataset in (renamed, cached_features.attach(renamed)):
        row = dataset[3]
        data.assert_same_bits(row["x"], expected[3]["input_features"])
        data.assert_same_bits(row["mask"], expected[3]["attention_mask"])
    plain = cached_features.materialize(renamed)
    data.assert_same_bits(plain.with_format("numpy")[3]["x"], expected[3]["input_features"])


def test_several_processors_side_by_side(clips, make_processor, own_root, expected, tmp_path):
    seamless = CachedFeatures(make_processor("seamless_m4t"), own_root, auto_resample=True)
    wav2vec2 = CachedFeatures(make_processor("wav2vec2"), tmp_path / "other", auto_resample=True)
    both = wav2vec2.map(seamless.map(data.in_memory(clips)))
    wanted = [
        outputs | data.expected_features(wav2vec2.processor, clip, auto_resample=True)
        for clip, outputs in zip(clips, expected, strict=True)
    ]
    data.assert_rows(list(both), wanted)
    data.assert_rows(list(seamless.attach(both)), wanted)
    data.assert_stored(wav2vec2.materialize(both), wanted)


def test_numpy_format(references, expected):
    formatted = references.with_format("numpy")
    for row, outputs in zip(formatted, expected, strict=True):
        data.assert_same_bits(row["input_features"], outputs["input_features"])
        assert np.array_equal(row["attention_mask"], outputs["attention_mask"])
    batch = formatted[2:5]
    for array, outputs in zip(batch["input_features"], expected[2:5], strict=True):
        data.assert_same_bits(array, outputs["input_features"])


@pytest.mark.torch
def test_torch_format(references, expected):
    import torch

    formatted = references.with_format("torch", columns=[*OUTPUTS, "number"])
    for row, outputs in zip(formatted, expected, strict=True):
        assert isinstance(row["input_features"], torch.Tensor)
        data.assert_same_bits(row["input_features"].numpy(), outputs["input_features"])
        assert np.array_equal(row["attention_mask"].numpy(), outputs["attention_mask"])
    same_length = formatted.select([3, 3])[:]
    assert same_length["input_features"].shape == (2, *expected[3]["input_features"].shape)


def test_arrow_format_shows_what_is_stored(references, clips):
    table = references.with_format("arrow")[1:4]
    assert table["input_features"].to_pylist() == [bytes.fromhex(data.sha256(clip)) for clip in clips[1:4]]


@pytest.mark.parametrize("form", [None, "numpy", pytest.param("torch", marks=pytest.mark.torch), "arrow"])
def test_map_keeps_the_format(form, clips, cached_features):
    dataset = data.in_memory(clips).with_format(form)
    mapped = cached_features.map(dataset)
    assert mapped.format["type"] == form
    assert mapped.format["columns"] == mapped.column_names
    narrow = cached_features.map(data.in_memory(clips).with_format(form, columns=["number"]))
    assert narrow.format["columns"] == ["number", *OUTPUTS]
    removed = cached_features.map(dataset.with_format(form, columns=["audio", "number"]), remove_columns="audio")
    assert removed.format["columns"] == ["number", *OUTPUTS]


def test_decode_false_gives_the_sha_and_reads_nothing(references, clips, reads):
    feature = dataclasses.replace(references.features["input_features"], decode=False)
    plain = references.select_columns(["input_features"]).cast_column("input_features", feature)
    assert plain[2] == {"input_features": bytes.fromhex(data.sha256(clips[2]))}
    assert reads == []


def test_zeros_at_the_end_of_a_sha_are_not_lost(cached_features, references):
    feature = references.features["input_features"]
    sha = "ab" * 30 + "0000"
    assert feature.key(np.bytes_(bytes.fromhex(sha))).blob_sha == sha
    for given in (sha, bytes.fromhex(sha), feature.key(bytes.fromhex(sha))):
        assert feature.encode_example(given) == bytes.fromhex(sha)


def test_a_reference_can_be_made_of_a_key(references, expected, clips):
    feature = references.features["input_features"]
    shas = [data.sha256(clips[4]), bytes.fromhex(data.sha256(clips[5])), None]
    made = datasets.Dataset.from_dict({"x": shas}, features=datasets.Features({"x": feature}))
    data.assert_same_bits(made[0]["x"], expected[4]["input_features"])
    data.assert_same_bits(made[1]["x"], expected[5]["input_features"])
    assert made[2]["x"] is None


def test_features_survive_json(references):
    features = references.features
    again = datasets.Features.from_dict(json.loads(json.dumps(features.to_dict())))
    assert again == features
    assert type(again["input_features"]) is CachedArray
    schema = datasets.Features.from_arrow_schema(features.arrow_schema)
    assert schema == features
    assert "secret" not in json.dumps(features.to_dict())


READ_ELSEWHERE = """
import hashlib, json, sys
import datasets
import hf_audio_cache

saved, parquet = sys.argv[1:]
rows = {}
for name, ds in {
    "save_to_disk": datasets.load_from_disk(saved),
    "parquet": datasets.load_dataset("parquet", data_files=parquet, split="train", cache_dir=saved + "-cache"),
    "parquet stream": datasets.load_dataset("parquet", data_files=parquet, split="train", streaming=True),
}.items():
    rows[name] = [
        [row["number"], *([str(a.dtype), a.shape, hashlib.sha256(a.tobytes()).hexdigest()]
                          for a in (row["input_features"], row["attention_mask"]))]
        for row in ds
    ]
    rows[name + " by column"] = [str(a.dtype) for a in ds["input_features"]]
both = datasets.concatenate_datasets([datasets.load_from_disk(saved)] * 2)
assert len(both) == 2 * len(rows["parquet"])
assert "transformers" not in sys.modules
print(json.dumps(rows))
"""


def test_another_process_reads_what_was_saved(references, expected, tmp_path):
    shuffled = references.remove_columns("audio").shuffle(seed=1)
    shuffled.save_to_disk(tmp_path / "saved")
    shuffled.to_parquet(tmp_path / "references.parquet")
    found = data.run_program(READ_ELSEWHERE, tmp_path / "saved", tmp_path / "references.parquet")
    numbers = shuffled["number"][:]
    wanted = []
    for number in numbers:
        arrays = [expected[number][name] for name in OUTPUTS]
        wanted.append([number, *([str(a.dtype), list(a.shape), data.digest(a)] for a in arrays)])
    for name in ("save_to_disk", "parquet", "parquet stream"):
        assert found[name] == wanted
        assert found[f"{name} by column"] == ["float32"] * len(numbers)


WITHOUT_IMPORT = """
import json, sys
import datasets

try:
    datasets.load_from_disk(sys.argv[1])
    result = "read"
except ValueError as exc:
    result = str(exc)
assert "hf_audio_cache" not in sys.modules
import hf_audio_cache
rows = len(datasets.load_from_disk(sys.argv[1])[:]["input_features"])
print(json.dumps([result, rows]))
"""


def test_a_process_that_has_not_imported_the_package_is_told_the_type(references, tmp_path):
    references.remove_columns("audio").save_to_disk(tmp_path / "saved")
    message, rows = data.run_program(WITHOUT_IMPORT, tmp_path / "saved")
    assert "Feature type 'CachedArray' not found" in message
    assert rows == len(references)


def test_streams_of_references(references, expected, cached_features):
    stream = references.to_iterable_dataset(num_shards=2)
    data.assert_rows(list(stream), expected)
    formatted = list(stream.with_format("numpy"))
    for row, outputs in zip(formatted, expected, strict=True):
        data.assert_same_bits(row["input_features"], outputs["input_features"])
    data.assert_rows(list(cached_features.attach(stream)), expected)


def test_attach_to_an_arrow_stream_of_references(references, expected, cached_features):
    stream = references.to_iterable_dataset().with_format("arrow")
    rows = list(cached_features.attach(stream, remove_columns="audio"))
    for row, outputs in zip(rows, expected, strict=True):
        array = np.array(row["input_features"].to_pylist()[0], np.float32)
        data.assert_same_bits(array, outputs["input_features"])


@pytest.mark.torch
@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [0, 2])
def test_dataloader_over_references(workers, references, expected, cached_features):
    from torch.utils.data import DataLoader

    plain = references.remove_columns("audio")
    sources = (plain, cached_features.attach(plain), plain.to_iterable_dataset(num_shards=2))
    for source in sources:
        loader = DataLoader(source, batch_size=5, num_workers=workers, collate_fn=list)
        rows = [row for batch in loader for row in batch]
        assert sorted(row["number"] for row in rows) == list(range(12))
        by_number(rows, expected)


# Reads


def test_the_outputs_of_an_entry_are_read_at_once(references, reads):
    for index in (4, 0, 4):
        reads.clear()
        assert references[index].keys() >= set(OUTPUTS)
        assert len(reads) == 1
    reads.clear()
    references[2:8]
    assert len(reads) == 6
    reads.clear()
    references.with_format("numpy")[1:3]
    assert len(reads) == 2


def test_attach_reads_a_batch_at_once(references, expected, cached_features, reads):
    attached = cached_features.attach(references, remove_columns="audio")
    batch = attached[2:9]
    assert [len(names) for names in reads] == []  # nothing was looked at
    assert batch.keys() == {"text", "number", *OUTPUTS}
    assert [len(names) for names in reads] == [7]
    for name in OUTPUTS:
        for array, outputs in zip(batch[name], expected[2:9], strict=True):
            data.assert_same_bits(array, outputs[name])
    reads.clear()
    twice = dict(attached.select([3, 3, 4])[:])
    assert [len(names) for names in reads] == [2]
    twice["input_features"][0][:] = 0
    data.assert_same_bits(twice["input_features"][1], expected[3]["input_features"])

    reads.clear()
    stream = cached_features.attach(references.to_iterable_dataset(), remove_columns="audio")
    data.assert_rows(list(stream), expected)
    assert [len(names) for names in reads] == [12]

    parts = cached_features.attach(references.train_test_split(4, seed=1))
    assert type(parts) is datasets.DatasetDict
    by_number(list(parts["test"]), expected)


def test_attach_reads_references_of_another_root(references, expected, seamless, tmp_path):
    elsewhere = CachedFeatures(seamless, tmp_path / "elsewhere", auto_resample=True)
    data.assert_rows(list(elsewhere.attach(references)), expected)
    assert not elsewhere.root.exists()


def test_attach_needs_neither_the_audio_nor_the_same_processor(references, expected, make_processor, tmp_path):
    other = CachedFeatures(make_processor("wav2vec2"), tmp_path / "elsewhere")
    data.assert_rows(list(other.attach(references.remove_columns("audio"))), expected)


# Plain arrays again


@pytest.mark.parametrize("num_proc", [None, 2])
def test_materialize_puts_the_arrays_in_the_place_of_references(num_proc, references, expected, cached_features):
    plain = cached_features.materialize(references, num_proc=num_proc)
    assert plain.column_names == references.column_names
    assert plain.features["input_features"] == datasets.Array2D((None, 160), "float32")
    assert plain.features["attention_mask"] == datasets.List(datasets.Value("int32"))
    data.assert_stored(plain, expected)
    assert plain["text"][:] == references["text"][:]
    assert plain[5]["audio"] == references[5]["audio"]
    assert cached_features.materialize(plain) is plain


def test_materialize_of_a_dict_and_of_formats(references, expected, cached_features):
    parts = cached_features.materialize(references.train_test_split(4, seed=1))
    assert type(parts) is datasets.DatasetDict
    for part in parts.values():
        data.assert_stored(part, [expected[number] for number in part["number"]])
    formatted = cached_features.materialize(references.with_format("numpy", columns=["number", *OUTPUTS]))
    assert formatted[0].keys() == {"number", *OUTPUTS}
    data.assert_same_bits(formatted[1]["input_features"], expected[1]["input_features"])


def test_materialize_leaves_audio_that_cannot_be_decoded_here(references, expected, clips, cached_features):
    # As references are that were made where torchcodec is.
    of_decoders = references.cast_column("audio", datasets.Audio())
    plain = cached_features.materialize(of_decoders)
    assert plain.features["audio"] == datasets.Audio()
    data.assert_stored(plain, expected)
    stored = plain.cast_column("audio", datasets.Audio(decode=False))
    assert [row["audio"]["bytes"] for row in stored] == [clip.read_bytes() for clip in clips]


PUBLISHED = """
import json, sys
import datasets

ds = datasets.load_dataset("parquet", data_files=sys.argv[1], split="train", cache_dir=sys.argv[1] + "-cache")
assert "hf_audio_cache" not in sys.modules
row = ds.with_format("numpy")[3]
print(json.dumps([row["input_features"].tobytes().hex(), list(row["input_features"].shape)]))
"""


def test_what_was_materialized_needs_this_package_no_more(references, expected, cached_features, tmp_path):
    cached_features.materialize(references.remove_columns("audio")).to_parquet(tmp_path / "plain.parquet")
    content, shape = data.run_program(PUBLISHED, tmp_path / "plain.parquet")
    assert (content, shape) == (
        expected[3]["input_features"].tobytes().hex(),
        list(expected[3]["input_features"].shape),
    )


# A cache that is not where it was


def test_a_moved_root_is_an_error_whose_remedy_works_as_printed(clips, expected, seamless, own_root, tmp_path):
    cached_features = CachedFeatures(seamless, own_root, auto_resample=True)
    ds = cached_features.map(data.in_memory(clips))
    key = ds.features["input_features"].key(bytes.fromhex(data.sha256(clips[3])))
    before = str(cached_features.audio_cache.root)
    moved = tmp_path / "moved"
    own_root.rename(moved)
    for reader in (ds, cached_features.attach(ds.remove_columns("audio"))):
        with pytest.raises(MissingEntryError) as caught:
            reader[3]
        assert caught.value.key == key
        assert caught.value.root == before
        for part in ("input_features", key.blob_sha, key.processor_sha, before, "the row was not read"):
            assert part in str(caught.value)
    remedy = (
        "ds.cast_column(column, dataclasses.replace(ds.features[column], root=str(cached_features.audio_cache.root)))"
    )
    assert remedy in str(caught.value)
    cached_features = CachedFeatures(seamless, moved, auto_resample=True)
    for column in OUTPUTS:
        names = {"ds": ds, "column": column, "dataclasses": dataclasses, "cached_features": cached_features}
        ds = eval(remedy, names)
    data.assert_rows(list(ds), expected)


def test_a_moved_root_may_be_named_as_cached_features_names_it(clips, expected, seamless, own_root, tmp_path):
    ds = CachedFeatures(seamless, own_root, auto_resample=True).map(data.in_memory(clips))
    own_root.rename(tmp_path / "moved")
    moved = CachedFeatures(seamless, tmp_path / "moved", auto_resample=True)
    for column in OUTPUTS:
        ds = ds.cast_column(column, dataclasses.replace(ds.features[column], root=str(moved.audio_cache.root)))
    data.assert_rows(list(ds), expected)
    assert ds.features == moved.map(data.in_memory(clips)).features


def test_a_missing_entry_is_an_error_whose_remedy_works_as_printed(clips, expected, seamless, own_root, tmp_path):
    cached_features = CachedFeatures(seamless, own_root, auto_resample=True)
    ds = cached_features.map(data.saved(clips, tmp_path / "saved"))
    key = ds.features["input_features"].key(bytes.fromhex(data.sha256(clips[3])))
    path = cached_features.audio_cache.path_for(key)
    for damage in (path.unlink, lambda: path.write_bytes(path.read_bytes()[:-7])):
        damage()
        data.assert_rows([ds[2], ds[4]], [expected[2], expected[4]])
        with pytest.raises(MissingEntryError, match=key.blob_sha) as caught:
            ds[3]
        remedy = "cached_features.map(ds, load_from_cache_file=False)"
        assert remedy in str(caught.value)
        ds = eval(remedy, {"ds": ds, "cached_features": cached_features})
        data.assert_rows(list(ds), expected)
    assert cached_features.stats.computed == 2


def test_the_error_comes_out_of_a_worker_process(references, seamless, own_root, clips):
    ds = CachedFeatures(seamless, own_root, auto_resample=True).map(data.in_memory(clips))
    shutil.rmtree(own_root)
    with pytest.raises(MissingEntryError) as caught:
        ds.map(lambda row: {"n": len(row["attention_mask"])}, num_proc=2)
    assert caught.value.root == str(own_root / "features")
    assert caught.value.key.processor_sha == references.features["input_features"].processor_sha


# What is gone is computed again where it can be


def test_attach_and_materialize_compute_a_damaged_entry_from_the_audio(clips, expected, seamless, own_root):
    cached_features = CachedFeatures(seamless, own_root, auto_resample=True)
    ds = cached_features.map(data.in_memory(clips))
    for read in (cached_features.attach, lambda ds: cached_features.materialize(ds).with_format("numpy")):
        path = cached_features.audio_cache.path_for(ds.features["input_features"].key(_stored(ds)[2]))
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
        for row, outputs in zip(read(ds), expected, strict=True):
            assert np.asarray(row["input_features"]).tobytes() == outputs["input_features"].tobytes()


def test_map_fills_a_cache_that_was_cleared(clips, expected, seamless, own_root, tmp_path):
    cached_features = CachedFeatures(seamless, own_root, auto_resample=True)
    dataset = data.saved(clips, tmp_path / "saved")
    cached_features.map(dataset)
    cached_features.audio_cache.clear()
    data.assert_rows(list(cached_features.map(dataset).remove_columns("audio")), expected)


def test_another_processors_references_are_not_attached(clips, cached_features, make_processor, tmp_path):
    ds = cached_features.map(data.in_memory(clips))
    other = CachedFeatures(make_processor("seamless_m4t"), tmp_path / "other", auto_resample=True, max_length_seconds=1)
    with pytest.raises(ProcessorError, match=r"with other settings\. .*max_length_ms=0, not 1000"):
        other.attach(ds)


def test_attach_computes_beside_another_processors_references(
    clips, cached_features, expected, make_processor, tmp_path
):
    ds = cached_features.map(data.in_memory(clips))
    other = CachedFeatures(make_processor("wav2vec2"), tmp_path / "other", auto_resample=True)
    rows = list(other.attach(ds))
    data.assert_rows([{name: row[name] for name in OUTPUTS} for row in rows], expected)
    fresh = [data.expected_features(other.processor, clip, auto_resample=True) for clip in clips]
    data.assert_rows([{"input_values": row["input_values"]} for row in rows], fresh)


def test_another_processor_does_not_compute_what_is_missing(clips, seamless, own_root, make_processor):
    ds = CachedFeatures(seamless, own_root, auto_resample=True).map(data.in_memory(clips))
    other = CachedFeatures(make_processor("seamless_m4t", stride=4), own_root, auto_resample=True)
    other.audio_cache.clear()
    with pytest.raises(MissingEntryError):
        other.materialize(ds)

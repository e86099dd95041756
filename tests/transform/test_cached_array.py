"""`CachedArray`, the type of references: 32 bytes a row in Arrow, read from the cache when the row is read."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil

import audio_datasets as data
import datasets
import numpy as np
import pytest

from hf_audio_cache import CachedArray, CachedFeatures
from hf_audio_cache.errors import MissingEntryError, ProcessorError

# Two outputs, so that there are two columns: float32 of shape (n, 160), and an int32 mask.
OUTPUTS = ("input_features", "attention_mask")

N_CLIPS = 12


def by_number(rows, wanted):
    """Check rows in whatever order, by their column `number`."""
    data.assert_rows(rows, [wanted[int(row["number"])] for row in rows])


# What `datasets` does with them


def test_rows_read_one_by_one_in_batches_and_in_columns(references, wanted):
    data.assert_rows([references[index] for index in (3, 3, 0)], [wanted[index] for index in (3, 3, 0)])
    batch = references[2:6]
    for name in OUTPUTS:
        for array, outputs in zip(batch[name], wanted[2:6], strict=True):
            data.assert_same_bits(array, outputs[name])
    for array, outputs in zip(references["input_features"], wanted, strict=True):
        data.assert_same_bits(array, outputs["input_features"])
    data.assert_same_bits(references["attention_mask"][4], wanted[4]["attention_mask"])


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
def test_references_go_through(derive, references, wanted):
    derived = DERIVED[derive](references)
    rows = list(derived)
    assert len(rows) > 1
    by_number(rows, wanted)
    if isinstance(derived, datasets.Dataset):
        assert {name: derived.features[name] for name in OUTPUTS} == {
            name: references.features[name] for name in OUTPUTS
        }


def test_a_mapped_function_that_touches_a_row_gets_arrays_written(references, wanted):
    # datasets writes what it has decoded for a function again, and has no way back from an array to its reference.
    mapped = references.map(lambda row: {"frames": len(row["input_features"])})
    assert mapped.features["input_features"] == datasets.List(datasets.List(datasets.Value("float32")))
    assert mapped.features["attention_mask"] == references.features["attention_mask"]
    data.assert_stored(mapped, wanted)
    assert mapped["frames"][:] == [len(outputs["input_features"]) for outputs in wanted]


@pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")
def test_map_over_what_was_derived(clips, wanted, warm):
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
        by_number(list(warm.map(DERIVED[derive](dataset))), wanted)


def test_renamed_columns_still_know_their_output(references, wanted, warm):
    renamed = references.rename_columns({"input_features": "x", "attention_mask": "mask"})
    for dataset in (renamed, warm.attach(renamed)):
        row = dataset[3]
        data.assert_same_bits(row["x"], wanted[3]["input_features"])
        data.assert_same_bits(row["mask"], wanted[3]["attention_mask"])
    plain = warm.materialize(renamed)
    data.assert_same_bits(plain.with_format("numpy")[3]["x"], wanted[3]["input_features"])


def test_numpy_format(references, wanted):
    formatted = references.with_format("numpy")
    for row, outputs in zip(formatted, wanted, strict=True):
        data.assert_same_bits(row["input_features"], outputs["input_features"])
        assert np.array_equal(row["attention_mask"], outputs["attention_mask"])
    batch = formatted[2:5]
    for array, outputs in zip(batch["input_features"], wanted[2:5], strict=True):
        data.assert_same_bits(array, outputs["input_features"])


@pytest.mark.torch
def test_torch_format(references, wanted):
    import torch

    formatted = references.with_format("torch", columns=[*OUTPUTS, "number"])
    for row, outputs in zip(formatted, wanted, strict=True):
        assert isinstance(row["input_features"], torch.Tensor)
        data.assert_same_bits(row["input_features"].numpy(), outputs["input_features"])
        assert np.array_equal(row["attention_mask"].numpy(), outputs["attention_mask"])
    same_length = formatted.select([3, 3])[:]
    assert same_length["input_features"].shape == (2, *wanted[3]["input_features"].shape)


def test_arrow_format_shows_what_is_stored(references, clips):
    table = references.with_format("arrow")[1:4]
    assert table["input_features"].to_pylist() == [bytes.fromhex(data.sha256(clip)) for clip in clips[1:4]]


def test_decode_false_gives_the_sha_and_reads_nothing(references, clips, reads):
    feature = dataclasses.replace(references.features["input_features"], decode=False)
    plain = references.select_columns(["input_features"]).cast_column("input_features", feature)
    assert plain[2] == {"input_features": bytes.fromhex(data.sha256(clips[2]))}
    assert reads == []


def test_zeros_at_the_end_of_a_sha_are_not_lost(warm, references):
    feature = references.features["input_features"]
    sha = "ab" * 30 + "0000"
    assert feature.key(np.bytes_(bytes.fromhex(sha))).blob_sha == sha
    for given in (sha, bytes.fromhex(sha), feature.key(bytes.fromhex(sha))):
        assert feature.encode_example(given) == bytes.fromhex(sha)


def test_a_reference_can_be_made_of_a_key(references, wanted, clips):
    feature = references.features["input_features"]
    shas = [data.sha256(clips[4]), bytes.fromhex(data.sha256(clips[5])), None]
    made = datasets.Dataset.from_dict({"x": shas}, features=datasets.Features({"x": feature}))
    data.assert_same_bits(made[0]["x"], wanted[4]["input_features"])
    data.assert_same_bits(made[1]["x"], wanted[5]["input_features"])
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

saved, parquet = sys.argv[1:]
try:
    datasets.load_from_disk(saved)
    refused = "it was read"
except ValueError as exc:
    refused = str(exc)
assert "hf_audio_cache" not in sys.modules
import hf_audio_cache

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
print(json.dumps([refused, rows]))
"""


def test_another_process_reads_what_was_saved_and_is_told_the_type_before_it_imports_the_package(
    references, wanted, tmp_path
):
    shuffled = references.remove_columns("audio").shuffle(seed=1)
    shuffled.save_to_disk(tmp_path / "saved")
    shuffled.to_parquet(tmp_path / "references.parquet")
    refused, found = data.run_program(READ_ELSEWHERE, tmp_path / "saved", tmp_path / "references.parquet")
    assert "Feature type 'CachedArray' not found" in refused
    numbers = shuffled["number"][:]
    rows_wanted = []
    for number in numbers:
        arrays = [wanted[number][name] for name in OUTPUTS]
        rows_wanted.append([number, *([str(a.dtype), list(a.shape), data.digest(a)] for a in arrays)])
    for name in ("save_to_disk", "parquet", "parquet stream"):
        assert found[name] == rows_wanted
        assert found[f"{name} by column"] == ["float32"] * len(numbers)


def test_streams_of_references(references, wanted, warm):
    stream = references.to_iterable_dataset(num_shards=2)
    data.assert_rows(list(stream), wanted)
    formatted = list(stream.with_format("numpy"))
    for row, outputs in zip(formatted, wanted, strict=True):
        data.assert_same_bits(row["input_features"], outputs["input_features"])
    data.assert_rows(list(warm.attach(stream)), wanted)


CHANGED = {
    "remove_columns": lambda stream: stream.remove_columns("audio"),
    "rename_column": lambda stream: stream.remove_columns("audio").rename_column("text", "sentence"),
    "in a format": lambda stream: stream.remove_columns("audio").map(lambda row: {"more": 1}).with_format("numpy"),
    "batch": lambda stream: stream.remove_columns("audio").batch(5),
}


IN_TABLES = pytest.mark.skipif(
    int(datasets.__version__.split(".")[0]) < 5, reason="earlier datasets put the arrays of such rows into tables"
)


@pytest.mark.parametrize(
    "change", [pytest.param(name, marks=IN_TABLES if "column" in name else ()) for name in CHANGED]
)
def test_a_stream_with_other_columns_has_the_arrays(change, references, wanted):
    # datasets then decodes each row twice.
    found = [row["input_features"] for row in CHANGED[change](references.to_iterable_dataset(num_shards=2))]
    arrays = [array for batch in found for array in batch] if change == "batch" else found
    for array, outputs in zip(arrays, wanted, strict=True):
        data.assert_same_bits(array, outputs["input_features"])


def test_attach_to_a_filtered_stream_of_references(references, wanted, warm):
    # A filter of whole rows has read the arrays.
    stream = references.to_iterable_dataset(num_shards=2).filter(lambda row: row["number"] != 4)
    data.assert_rows(list(warm.attach(stream)), wanted[:4] + wanted[5:])


def test_attach_to_an_arrow_stream_of_references(references, wanted, warm):
    stream = references.to_iterable_dataset().with_format("arrow")
    rows = list(warm.attach(stream, remove_columns="audio"))
    for row, outputs in zip(rows, wanted, strict=True):
        array = np.array(row["input_features"].to_pylist()[0], np.float32)
        data.assert_same_bits(array, outputs["input_features"])


@pytest.mark.torch
@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [0, 2])
def test_dataloader_over_references(workers, references, wanted, warm):
    from torch.utils.data import DataLoader

    plain = references.remove_columns("audio")
    sources = (plain, warm.attach(plain), plain.to_iterable_dataset(num_shards=2))
    for source in sources:
        loader = DataLoader(source, batch_size=5, num_workers=workers, collate_fn=list)
        rows = [row for batch in loader for row in batch]
        assert sorted(row["number"] for row in rows) == list(range(12))
        by_number(rows, wanted)


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


def test_attach_reads_a_batch_at_once(references, wanted, warm, reads):
    attached = warm.attach(references, remove_columns="audio")
    batch = attached[2:9]
    assert [len(names) for names in reads] == []  # nothing was looked at
    assert batch.keys() == {"text", "number", *OUTPUTS}
    assert [len(names) for names in reads] == [7]
    for name in OUTPUTS:
        for array, outputs in zip(batch[name], wanted[2:9], strict=True):
            data.assert_same_bits(array, outputs[name])
    reads.clear()
    twice = dict(attached.select([3, 3, 4])[:])
    assert [len(names) for names in reads] == [2]
    twice["input_features"][0][:] = 0
    data.assert_same_bits(twice["input_features"][1], wanted[3]["input_features"])

    reads.clear()
    stream = warm.attach(references.to_iterable_dataset(), remove_columns="audio")
    data.assert_rows(list(stream), wanted)
    assert [len(names) for names in reads] == [12]

    parts = warm.attach(references.train_test_split(4, seed=1))
    assert type(parts) is datasets.DatasetDict
    by_number(list(parts["test"]), wanted)


def test_attach_reads_references_of_another_root(references, wanted, seamless, tmp_path):
    elsewhere = CachedFeatures(seamless, tmp_path / "elsewhere", auto_resample=True)
    data.assert_rows(list(elsewhere.attach(references)), wanted)
    assert not elsewhere.root.exists()


def test_attach_needs_neither_the_audio_nor_the_same_processor(references, wanted, make_processor, tmp_path):
    other = CachedFeatures(make_processor("wav2vec2"), tmp_path / "elsewhere")
    data.assert_rows(list(other.attach(references.remove_columns("audio"))), wanted)


# A cache that is not where it was


def test_a_moved_root_is_an_error_whose_remedy_works_as_printed(clips, wanted, seamless, own_root, tmp_path):
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
    data.assert_rows(list(ds), wanted)


def test_a_moved_root_may_be_named_as_cached_features_names_it(clips, wanted, seamless, own_root, tmp_path):
    ds = CachedFeatures(seamless, own_root, auto_resample=True).map(data.in_memory(clips))
    own_root.rename(tmp_path / "moved")
    moved = CachedFeatures(seamless, tmp_path / "moved", auto_resample=True)
    for column in OUTPUTS:
        ds = ds.cast_column(column, dataclasses.replace(ds.features[column], root=str(moved.audio_cache.root)))
    data.assert_rows(list(ds), wanted)
    assert ds.features == moved.map(data.in_memory(clips)).features


def test_a_missing_entry_is_an_error_whose_remedy_works_as_printed(clips, wanted, seamless, own_root, tmp_path):
    cached_features = CachedFeatures(seamless, own_root, auto_resample=True)
    ds = cached_features.map(data.saved(clips, tmp_path / "saved"))
    key = ds.features["input_features"].key(bytes.fromhex(data.sha256(clips[3])))
    path = cached_features.audio_cache.path_for(key)
    for damage in (path.unlink, lambda: path.write_bytes(path.read_bytes()[:-7])):
        damage()
        data.assert_rows([ds[2], ds[4]], [wanted[2], wanted[4]])
        with pytest.raises(MissingEntryError, match=key.blob_sha) as caught:
            ds[3]
        remedy = "cached_features.map(ds, load_from_cache_file=False)"
        assert remedy in str(caught.value)
        ds = eval(remedy, {"ds": ds, "cached_features": cached_features})
        data.assert_rows(list(ds), wanted)
    assert cached_features.stats.computed == 2


def test_an_entry_that_cannot_be_read_is_not_said_to_be_gone(seamless, own_root, clips, caplog):
    cached_features = CachedFeatures(seamless, own_root, auto_resample=True)
    ds = cached_features.map(data.in_memory(clips))
    path = cached_features.audio_cache.path_for(ds.features["input_features"].key(bytes.fromhex(data.sha256(clips[0]))))
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(MissingEntryError, match="or could not be read"):
        ds[0]
    assert f"could not read {path}" in caplog.text


def test_the_error_comes_out_of_a_worker_process(references, seamless, own_root, clips):
    ds = CachedFeatures(seamless, own_root, auto_resample=True).map(data.in_memory(clips))
    shutil.rmtree(own_root)
    with pytest.raises(MissingEntryError) as caught:
        ds.map(lambda row: {"n": len(row["attention_mask"])}, num_proc=2)
    assert caught.value.root == str(own_root / "features")
    assert caught.value.key.processor_sha == references.features["input_features"].processor_sha


# Beside another processor


def test_another_processors_references_are_not_attached(clips, warm, make_processor, tmp_path):
    ds = warm.map(data.in_memory(clips))
    other = CachedFeatures(make_processor("seamless_m4t"), tmp_path / "other", auto_resample=True, max_length_seconds=1)
    with pytest.raises(ProcessorError, match=r"with other settings\. .*max_length_ms=0, not 1000"):
        other.attach(ds)


def test_attach_computes_beside_another_processors_references(clips, warm, wanted, make_processor, tmp_path):
    ds = warm.map(data.in_memory(clips))
    other = CachedFeatures(make_processor("wav2vec2"), tmp_path / "other", auto_resample=True)
    rows = list(other.attach(ds))
    data.assert_rows([{name: row[name] for name in OUTPUTS} for row in rows], wanted)
    fresh = [data.expected_features(other.processor, clip, auto_resample=True) for clip in clips]
    data.assert_rows([{"input_values": row["input_values"]} for row in rows], fresh)

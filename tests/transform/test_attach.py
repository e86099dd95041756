"""`CachedFeatures.attach`, and the callable on streams: features that never enter Arrow."""

from __future__ import annotations

import itertools
from pathlib import Path

import audio_datasets as data
import datasets
import numpy as np
import pytest

from hf_audio_cache import CachedFeatures
from hf_audio_cache.errors import AudioColumnError, MissingEntryError, SamplingRateError

SOURCES = {
    "memory": lambda clips, folder: data.in_memory(clips),
    "memory, decode=True": lambda clips, folder: data.in_memory(clips, decode=True),
    "parquet": data.from_parquet,
    "save_to_disk": data.saved,
    "paths": lambda clips, folder: data.of_paths(clips),
    "audiofolder": data.audio_folder,
}
STREAMS = {
    "memory": lambda clips, folder: data.in_memory(clips).to_iterable_dataset(),
    "two shards": lambda clips, folder: data.in_memory(clips).to_iterable_dataset(num_shards=2),
    "memory, decode=True": lambda clips, folder: data.in_memory(clips, decode=True).to_iterable_dataset(),
    "parquet": lambda clips, folder: data.from_parquet(clips, folder, streaming=True),
    "tar of bytes": lambda clips, folder: data.tar_stream(data.tar_file(clips, folder / "clips.tar")),
    "audiofolder": lambda clips, folder: data.audio_folder(clips, folder, streaming=True),
    "webdataset": lambda clips, folder: data.web_archive(clips, folder / "clips.tar").rename_column("wav", "audio"),
}


def marked(names):
    needs = ("audiofolder", "webdataset")
    return [pytest.param(name, marks=pytest.mark.torchcodec) if name in needs else name for name in names]


@pytest.mark.parametrize("source", marked(SOURCES))
def test_attach_gives_each_row_its_features_and_all_that_it_had(source, clips, expected, cached_features, tmp_path):
    dataset = SOURCES[source](clips, tmp_path / "data")
    attached = cached_features.attach(dataset)
    assert not cached_features.root.exists()
    assert len(attached) == len(clips)
    data.assert_rows([attached[index] for index in range(len(clips))], expected)
    batch = attached[2:5]
    data.assert_rows([{"input_values": array} for array in batch["input_values"]], expected[2:5])
    assert batch.keys() == {*dataset.column_names, "input_values"}
    if source != "audiofolder":
        assert batch["text"] == [clip.stem for clip in clips[2:5]]
        assert batch["number"] == [2, 3, 4]
    row = attached[3]
    assert row.keys() == batch.keys()
    assert (row["audio"]["bytes"] or Path(row["audio"]["path"]).read_bytes()) == clips[3].read_bytes()
    assert (cached_features.stats.computed, cached_features.stats.hits) == (8, 4)


@pytest.mark.parametrize("source", marked(STREAMS))
def test_attach_to_a_stream(source, clips, expected, cached_features, tmp_path):
    stream = STREAMS[source](clips, tmp_path / "data")
    attached = cached_features.attach(stream)
    assert not cached_features.root.exists()
    for _ in range(2):
        rows = list(attached)
        data.assert_rows(rows, expected)
    if "text" in rows[0]:
        assert [row["text"] for row in rows] == [clip.stem for clip in clips]
        assert [row["number"] for row in rows] == list(range(8))
    assert (cached_features.stats.computed, cached_features.stats.hits) == (8, 8)

    without = list(cached_features.attach(stream, remove_columns=["audio"]))
    assert "audio" not in without[0]
    data.assert_rows(without, expected)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("source", ["memory", "tar of bytes", pytest.param("webdataset", marks=pytest.mark.torchcodec)])
def test_map_of_a_stream(source, batched, clips, expected, cached_features, tmp_path):
    stream = STREAMS[source](clips, tmp_path / "data")
    data.assert_rows(list(stream.map(cached_features, batched=batched, batch_size=3)), expected)


def test_map_of_a_parquet_stream_without_decoding(clips, expected, cached_features, tmp_path):
    stream = data.from_parquet(clips, tmp_path / "data", streaming=True)
    rows = list(stream.decode(False).map(cached_features, remove_columns=["audio"]))
    data.assert_rows(rows, expected)
    assert rows[0].keys() == {"text", "number", "input_values"}


@pytest.mark.torchcodec
def test_map_of_a_stream_takes_decoders_through_their_encoded_bytes(clips, expected, cached_features, tmp_path):
    stream = data.from_parquet(clips, tmp_path / "data", streaming=True)
    cached_features({"audio": data.columns(clips)["audio"]})
    data.assert_rows(list(stream.map(cached_features)), expected)
    data.assert_rows(list(stream.map(cached_features, batched=True)), expected)
    assert (cached_features.stats.computed, cached_features.stats.hits) == (8, 16)


def test_attach_to_dicts(clips, expected, cached_features):
    parts = datasets.DatasetDict({"train": data.in_memory(clips[:5]), "test": data.in_memory(clips[5:])})
    attached = cached_features.attach(parts, remove_columns="audio")
    assert type(attached) is datasets.DatasetDict
    data.assert_rows(list(attached["train"]), expected[:5])
    data.assert_rows(list(attached["test"]), expected[5:])
    assert attached["test"][0].keys() == {"text", "number", "input_values"}

    streams = datasets.IterableDatasetDict({name: part.to_iterable_dataset() for name, part in parts.items()})
    attached = cached_features.attach(streams, remove_columns="audio")
    assert type(attached) is datasets.IterableDatasetDict
    data.assert_rows(list(attached["train"]), expected[:5])
    data.assert_rows(list(attached["test"]), expected[5:])
    assert next(iter(attached["test"])).keys() == {"text", "number", "input_values"}


def test_attach_removes_columns_by_name_or_names(clips, cached_features):
    dataset = data.in_memory(clips[:2])
    assert cached_features.attach(dataset, remove_columns="audio")[0].keys() == {"text", "number", "input_values"}
    names = ["audio", "text"]
    assert cached_features.attach(dataset, remove_columns=names)[:2].keys() == {"number", "input_values"}
    # What is left out is still there, for another use of the same dataset.
    assert dataset[0].keys() == {"audio", "text", "number"}


def test_a_column_that_is_not_there_cannot_be_removed(clips, cached_features):
    dataset = data.in_memory(clips[:2])
    made = dataset.with_transform(lambda batch: {**batch, "made": batch["text"]})
    assert "made" not in cached_features.attach(made, remove_columns=["made"])[0]
    for of_it, form in (
        (cached_features.attach, dataset),
        (cached_features.attach, dataset.to_iterable_dataset()),
        (cached_features.map, dataset),
    ):
        with pytest.raises(ValueError, match=r"\['txet'\] is not among .*'number'.* Nothing was computed"):
            of_it(form, remove_columns=["audio", "txet"])
    assert cached_features.stats.misses == 1  # of the row that was asked for above


def test_attach_goes_through_select_shuffle_and_split(clips, expected, cached_features):
    attached = cached_features.attach(data.in_memory(clips))
    for derived in (attached.select([5, 1]), attached.shuffle(seed=3), attached.train_test_split(3, seed=1)["test"]):
        rows = [derived[index] for index in range(len(derived))]
        data.assert_rows(rows, [expected[row["number"]] for row in rows])


def test_attach_asks_for_the_column_at_once(clips, cached_features):
    renamed = data.in_memory(clips).rename_column("audio", "sound")
    with pytest.raises(AudioColumnError, match="only the columns 'sound', 'text', 'number'"):
        cached_features.attach(renamed)
    with pytest.raises(AudioColumnError, match="only the columns 'sound', 'text', 'number'"):
        cached_features.attach(renamed.to_iterable_dataset())


def test_an_error_of_a_clip_reaches_the_reader(clips, make_processor, tmp_path):
    cached_features = CachedFeatures(make_processor("wav2vec2"), tmp_path)
    with pytest.raises(SamplingRateError, match="Expected 16000 Hz, found 8000 Hz"):
        cached_features.attach(data.in_memory(clips))[0]


# What a batched map of a torch-formatted stream returns, datasets makes tensors of once more.
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
@pytest.mark.parametrize("form", ["numpy", "arrow", pytest.param("torch", marks=pytest.mark.torch)])
def test_attach_to_a_stream_that_has_a_format(form, clips, expected, cached_features):
    stream = data.in_memory(clips).to_iterable_dataset().with_format(form)
    rows = list(cached_features.attach(stream, remove_columns="audio"))
    for index, (row, outputs) in enumerate(zip(rows, expected, strict=True)):
        array = row["input_values"]
        array = array.combine_chunks().flatten().to_numpy() if form == "arrow" else np.asarray(array)
        assert array.tobytes() == outputs["input_values"].tobytes()
        assert row["number"] == index if form != "arrow" else row["number"].to_pylist() == [index]


# A batch is looked up at once


def test_a_batch_is_looked_up_at_once(clips, expected, cached_features, reads):
    attached = cached_features.attach(data.in_memory(clips))
    dict(attached[:])
    reads.clear()
    dict(attached[1:7])
    assert [len(batch) for batch in reads] == [6]
    reads.clear()
    data.assert_rows(attached.__getitems__([0, 7, 0, 3]), [expected[index] for index in (0, 7, 0, 3)])
    assert [len(batch) for batch in reads] == [3]


def test_a_stream_is_looked_up_64_rows_at_a_time(prompts, cached_features, reads):
    stream = data.in_memory(data.shortest(prompts, 70)).to_iterable_dataset()
    attached = cached_features.attach(stream, remove_columns="audio")
    assert len(list(attached)) == 70
    # A clip that is missing is looked for once more before it is computed: another process may have stored it.
    assert [len(batch) for batch in reads] == [64, *[1] * 64, 6, *[1] * 6]
    reads.clear()
    assert len(list(itertools.islice(attached, 10))) == 10
    assert [len(batch) for batch in reads] == [64]


# DataLoader


def identity(rows):
    """What a DataLoader collates with here; a function of the module, for spawn."""
    return rows


def load(dataset, workers, method, *, batch_size=3):
    from torch.utils.data import DataLoader

    loader = DataLoader(
        dataset, batch_size=batch_size, num_workers=workers, multiprocessing_context=method, collate_fn=identity
    )
    return [row for batch in loader for row in batch]


@pytest.mark.torch
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (1, "spawn")])
def test_dataloader_over_a_dataset(workers, method, clips, expected, cached_features):
    attached = cached_features.attach(data.in_memory(clips, decode=True), remove_columns="audio")
    rows = load(attached, workers, method)
    data.assert_rows(rows, expected)
    assert [row["text"] for row in rows] == [clip.stem for clip in clips]
    assert (cached_features.stats.computed, cached_features.stats.hits) == (8, 0)
    data.assert_rows(load(attached, 0, None), expected)
    assert (cached_features.stats.computed, cached_features.stats.hits) == (8, 8)


@pytest.mark.torch
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "source", ["parquet", "tar of bytes", pytest.param("webdataset", marks=pytest.mark.torchcodec)]
)
def test_dataloader_over_what_is_read_from_files(source, clips, expected, cached_features, tmp_path):
    attached = cached_features.attach(STREAMS[source](clips, tmp_path / "data"), remove_columns="audio")
    data.assert_rows(load(attached, 1, "fork"), expected)
    data.assert_rows(load(attached, 0, None), expected)
    assert (cached_features.stats.computed, cached_features.stats.hits) == (8, 8)


@pytest.mark.torch
def test_dataloader_with_its_own_collator(clips, make_processor, tmp_path):
    import torch
    from torch.utils.data import DataLoader

    whisper = make_processor("whisper_tiny")
    cached_features = CachedFeatures(whisper, tmp_path, auto_resample=True)
    attached = cached_features.attach(data.in_memory(clips[:4]), remove_columns=["audio", "text"])
    batches = list(DataLoader(attached, batch_size=2))
    assert [batch["number"].tolist() for batch in batches] == [[0, 1], [2, 3]]
    features = torch.cat([batch["input_features"] for batch in batches])
    assert features.dtype == torch.float32
    expected = [data.expected_features(whisper, clip, auto_resample=True)["input_features"] for clip in clips[:4]]
    data.assert_same_bits(features.numpy(), np.stack(expected))


def test_references_whose_root_was_moved_are_read_from_the_new_one(tmp_path, clips, wav2vec2, expected):
    references = CachedFeatures(wav2vec2, tmp_path / "root", auto_resample=True, length_column="length").map(
        data.of_paths(clips), remove_columns="audio"
    )
    (tmp_path / "root").rename(tmp_path / "moved")
    moved = CachedFeatures(wav2vec2, tmp_path / "moved", auto_resample=True, length_column="length")
    rows = moved.attach(references)[:]
    for row, outputs in zip(rows["input_values"], expected, strict=True):
        data.assert_same_bits(row, outputs["input_values"])
    assert rows["length"] == references["length"][:]
    assert moved.stats.hits == len(clips)
    assert repr(moved.audio_cache) == f"AudioCache('{tmp_path / 'moved' / 'features'}', {len(clips)} entries read)"
    other = CachedFeatures(wav2vec2, tmp_path / "elsewhere", auto_resample=True)
    with pytest.raises(MissingEntryError):
        other.attach(references)[:]["input_values"]


@pytest.mark.parametrize("form", [None, "numpy", "pandas", "arrow"])
def test_a_format_that_attach_replaces_is_told(form, clips, expected, cached_features, warnings_logged):
    attached = cached_features.attach(data.in_memory(clips).with_format(form))
    data.assert_rows([attached[row] for row in range(len(clips))], expected)
    said = [message for message in warnings_logged() if "attach takes the place of the dataset's format" in message]
    assert [f"{form!r}" in message for message in said] == [True] * (form in ("pandas", "arrow"))

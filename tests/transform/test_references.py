"""Columns of references: `map` makes them, `materialize` replaces them by arrays."""

from __future__ import annotations

import importlib

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


def stored(references):
    return references.with_format("arrow")["input_features"].to_pylist()


# Making them


@pytest.mark.parametrize("decode", [False, True])
def test_map_adds_a_column_of_references_for_each_output(decode, clips, wanted, seamless, tmp_path):
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
    data.assert_rows(rows, wanted)
    assert [row["text"] for row in rows] == [clip.stem for clip in clips]
    assert [row["audio"]["bytes"] for row in rows] == [clip.read_bytes() for clip in clips]
    assert (cached_features.stats.computed, cached_features.stats.decodes) == (12, 12)


@pytest.mark.torchcodec
def test_map_leaves_the_audio_as_it_is_where_datasets_can_decode_it(clips, wanted, warm, tmp_path):
    from torchcodec.decoders import AudioDecoder

    folder = data.audio_folder(clips, tmp_path / "folder")
    for dataset in (data.in_memory(clips, decode=True), data.from_parquet(clips, tmp_path / "data"), folder):
        mapped = warm.map(dataset)
        assert mapped.features["audio"] == dataset.features["audio"]
        data.assert_rows(list(mapped.remove_columns("audio")), wanted)
        assert isinstance(mapped[0]["audio"], AudioDecoder)
        plain = warm.materialize(mapped)
        assert plain.features["audio"] == dataset.features["audio"]
        data.assert_stored(plain, wanted)
        assert isinstance(plain[0]["audio"], AudioDecoder)
    assert warm.stats.computed == 0


def test_map_over_a_dict_by_two_processes(clips, wanted, seamless, tmp_path, capsys, monkeypatch):
    cached_features = CachedFeatures(seamless, tmp_path / "root", auto_resample=True)
    parts = datasets.DatasetDict({"train": data.in_memory(clips[:8]), "test": data.in_memory(clips[8:])})
    mapped = cached_features.map(parts, num_proc=2, remove_columns=["audio"])
    assert type(mapped) is datasets.DatasetDict
    assert mapped.column_names == {key: ["text", "number", *OUTPUTS] for key in ("train", "test")}
    data.assert_rows(list(mapped["train"]), wanted[:8])
    data.assert_rows(list(mapped["test"]), wanted[8:])
    assert (cached_features.stats.computed, cached_features.stats.misses) == (12, 12)

    bars = importlib.import_module("datasets.utils.tqdm")  # the package has a class of the same name
    monkeypatch.setattr(bars, "_hf_datasets_progress_bars_disabled", False)
    cached_features.map(parts["train"], desc="Once more", load_from_cache_file=False)
    assert "Once more: 100%" in capsys.readouterr().err
    assert (cached_features.stats.computed, cached_features.stats.hits) == (12, 8)


def test_map_can_leave_the_references_alone(clips, wanted, warm):
    dataset = data.in_memory(clips)
    alone = warm.map(dataset, remove_columns=dataset.column_names)
    assert alone.column_names == list(OUTPUTS)
    data.assert_rows(list(alone), wanted)
    assert warm.map(dataset, remove_columns="audio").column_names == ["text", "number", *OUTPUTS]


def test_map_again_replaces_references(references, wanted, warm, make_processor, own_root):
    again = warm.map(references)
    assert again.column_names == references.column_names
    data.assert_rows(list(again), wanted)
    whisper = CachedFeatures(make_processor("whisper_tiny"), own_root, auto_resample=True)
    with pytest.raises(ProcessorError, match=r"made by another processor .* keep both, by output_names"):
        whisper.map(references)
    other = whisper.map(references, remove_columns="input_features")
    assert sorted(other.column_names) == sorted(references.column_names)
    assert other[0]["input_features"].shape == (80, 3000)
    assert other[0]["attention_mask"].shape == wanted[0]["attention_mask"].shape


def test_map_of_an_empty_split_has_the_same_columns(clips, warm):
    parts = datasets.DatasetDict({"train": data.in_memory(clips), "test": data.in_memory(clips).select([])})
    mapped = warm.map(parts, remove_columns="audio")
    assert mapped["test"].features == mapped["train"].features
    assert len(mapped["test"]) == 0
    assert datasets.concatenate_datasets(list(mapped.values())).num_rows == len(clips)
    plain = warm.materialize(mapped)
    assert plain["test"].features == plain["train"].features


def test_map_of_a_stream_says_what_to_use(clips, warm):
    with pytest.raises(TypeError, match=r"not IterableDataset\. .* use cached_features\.attach\(stream\)"):
        warm.map(data.in_memory(clips).to_iterable_dataset())
    with pytest.raises(AudioColumnError, match="only the columns 'sound', 'text', 'number'"):
        warm.map(data.in_memory(clips).rename_column("audio", "sound"))


def test_map_gives_bad_clips_null_rows(clips, wanted, seamless, own_root):
    rows = data.columns(clips[:2])["audio"]
    rows = [{"bytes": b"no audio", "path": "notes.txt"}, rows[0], rows[1]]
    dataset = data.of_cells(rows)
    with pytest.raises(AudioDecodeError, match=r"notes\.txt"):
        CachedFeatures(seamless, own_root, auto_resample=True).map(dataset)

    lenient = CachedFeatures(seamless, own_root, auto_resample=True, on_error="null")
    mapped = lenient.map(dataset)
    for form in (None, "numpy", "arrow"):
        assert mapped.with_format(form).with_format(None)[0]["input_features"] is None
    for rows in (list(mapped), list(mapped.with_format("numpy")), list(lenient.attach(mapped))):
        assert [rows[0][name] for name in OUTPUTS] == [None, None]
        for row, outputs in zip(rows[1:], wanted[:2], strict=True):
            data.assert_same_bits(row["input_features"], outputs["input_features"])
            assert np.array_equal(row["attention_mask"], outputs["attention_mask"])
    column = lenient.attach(mapped)[:]["attention_mask"]
    assert column[0] is None
    data.assert_same_bits(column[1], wanted[0]["attention_mask"])
    plain = lenient.materialize(mapped)
    assert plain[0]["input_features"] is None
    data.assert_stored(plain.select([1, 2]), wanted[:2])
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


def test_the_other_columns_are_not_written_again(clips, warm, tmp_path):
    dataset = data.saved(clips, tmp_path / "saved")
    before = set((tmp_path / "saved").iterdir())
    mapped = warm.map(dataset)
    written = sum(path.stat().st_size for path in set((tmp_path / "saved").iterdir()) - before)
    assert 0 < written < sum(clip.stat().st_size for clip in clips) / 4
    assert mapped["number"][:] == dataset["number"][:]


# Being found again


def test_datasets_finds_its_own_result_again_but_not_for_another_root(clips, warm, seamless, own_root, tmp_path):
    dataset = data.saved(clips, tmp_path / "saved")
    first = warm.map(dataset)
    before = warm.stats
    again = warm.map(dataset)
    assert warm.stats == before  # not one entry was looked up
    assert again._fingerprint == first._fingerprint
    equal = CachedFeatures(seamless, CacheRoot(warm.root, compression=None), auto_resample=True)
    equal.map(dataset)
    assert equal.stats.hits == 0

    other = CachedFeatures(seamless, own_root, auto_resample=True)
    elsewhere = other.map(dataset)
    assert other.stats.hits == len(clips)
    assert elsewhere.features["input_features"].root == str(other.audio_cache.root)
    assert elsewhere._fingerprint != first._fingerprint


@pytest.mark.parametrize(
    ("name", "num_proc", "form"),
    [
        ("cache_file_name", None, "map"),
        ("cache_file_name", 2, "materialize"),
        ("new_fingerprint", None, "materialize"),
        ("new_fingerprint", 2, "map"),
    ],
)
def test_a_file_or_fingerprint_of_a_chosen_name_does_not_bring_back_other_rows(
    name, num_proc, form, clips, wanted, warm, tmp_path
):
    saved = data.saved(clips, tmp_path / "saved")
    named = {name: str(tmp_path / "named.arrow") if name == "cache_file_name" else "0123456789abcdef"}
    for dataset in (saved, saved.select(range(7, -1, -1))):
        if form == "map":
            mapped = warm.map(dataset, num_proc=num_proc, **named)
        else:
            mapped = warm.materialize(warm.map(dataset), num_proc=num_proc, **named)
        for row, number in zip(mapped, dataset["number"], strict=True):
            assert row["number"] == number
            assert np.array_equal(row["input_features"], wanted[number]["input_features"])


def test_a_shuffled_or_selected_dataset_keeps_its_order(clips, warm, tmp_path):
    dataset = data.saved(clips, tmp_path / "saved")
    for taken in (dataset.select([1, 5, 2, 7]), dataset.shuffle(seed=2)):
        mapped = warm.map(taken)
        assert mapped["number"][:] == taken["number"][:]
        shas = [mapped.features["input_features"].key(row) for row in stored(mapped)]
        assert [key.blob_sha for key in shas] == [data.sha256(clips[number]) for number in taken["number"]]


@pytest.mark.parametrize("form", [None, "numpy", pytest.param("torch", marks=pytest.mark.torch), "arrow"])
def test_map_keeps_the_format(form, clips, warm):
    dataset = data.in_memory(clips).with_format(form)
    mapped = warm.map(dataset)
    assert mapped.format["type"] == form
    assert mapped.format["columns"] == mapped.column_names
    narrow = warm.map(data.in_memory(clips).with_format(form, columns=["number"]))
    assert narrow.format["columns"] == ["number", *OUTPUTS]
    removed = warm.map(dataset.with_format(form, columns=["audio", "number"]), remove_columns="audio")
    assert removed.format["columns"] == ["number", *OUTPUTS]


def test_map_of_a_nested_column_that_was_cast_and_flattened(clips, wanted, seamless, warm_root):
    cells = data.columns(clips)["audio"]
    nested = datasets.Dataset.from_dict({"clip": [{"audio": cell} for cell in cells]})
    audio = datasets.Audio(decode=False)
    flat = nested.cast(datasets.Features({"clip": {"audio": audio}})).flatten()
    assert flat.format["columns"] == ["clip"]  # which `datasets` forgets to change
    cached_features = CachedFeatures(seamless, warm_root, audio_column="clip.audio", auto_resample=True)
    data.assert_rows(list(cached_features.map(flat)), wanted)


def test_several_processors_side_by_side(clips, make_processor, own_root, wanted, tmp_path):
    seamless = CachedFeatures(make_processor("seamless_m4t"), own_root, auto_resample=True)
    wav2vec2 = CachedFeatures(make_processor("wav2vec2"), tmp_path / "other", auto_resample=True)
    both = wav2vec2.map(seamless.map(data.in_memory(clips)))
    rows_wanted = [
        outputs | data.expected_features(wav2vec2.processor, clip, auto_resample=True)
        for clip, outputs in zip(clips, wanted, strict=True)
    ]
    data.assert_rows(list(both), rows_wanted)
    data.assert_rows(list(seamless.attach(both)), rows_wanted)
    data.assert_stored(wav2vec2.materialize(both), rows_wanted)


# Plain arrays again


@pytest.mark.parametrize("num_proc", [None, 2])
def test_materialize_puts_the_arrays_in_the_place_of_references(num_proc, references, wanted, warm):
    plain = warm.materialize(references, num_proc=num_proc)
    assert plain.column_names == references.column_names
    assert plain.features["input_features"] == datasets.Array2D((None, 160), "float32")
    assert plain.features["attention_mask"] == datasets.List(datasets.Value("int32"))
    data.assert_stored(plain, wanted)
    assert plain["text"][:] == references["text"][:]
    assert plain[5]["audio"] == references[5]["audio"]
    assert warm.materialize(plain) is plain


def test_materialize_of_a_dict_and_of_formats(references, wanted, warm):
    parts = warm.materialize(references.train_test_split(4, seed=1))
    assert type(parts) is datasets.DatasetDict
    for part in parts.values():
        data.assert_stored(part, [wanted[number] for number in part["number"]])
    formatted = warm.materialize(references.with_format("numpy", columns=["number", *OUTPUTS]))
    assert formatted[0].keys() == {"number", *OUTPUTS}
    data.assert_same_bits(formatted[1]["input_features"], wanted[1]["input_features"])


@pytest.mark.parametrize("removed", ["audio", ["audio", "text"], ["attention_mask"], OUTPUTS], ids=str)
def test_materialize_leaves_columns_out(removed, references, wanted, warm):
    plain = warm.materialize(references.with_format("numpy"), remove_columns=removed)
    left = [name for name in references.column_names if name != removed and name not in removed]
    assert plain.column_names == plain.format["columns"] == left
    if "input_features" in left:
        assert not any("hf_audio_cache" in str(type(feature)) for feature in plain.features.values())
        for row, outputs in zip(plain, wanted, strict=True):
            data.assert_same_bits(row["input_features"], outputs["input_features"])
    with pytest.raises(ValueError, match="txet"):
        warm.materialize(references, remove_columns=["txet"])


def test_materialize_leaves_audio_that_cannot_be_decoded_here(references, wanted, clips, warm):
    # As references are that were made where torchcodec is.
    of_decoders = references.cast_column("audio", datasets.Audio())
    plain = warm.materialize(of_decoders)
    assert plain.features["audio"] == datasets.Audio()
    data.assert_stored(plain, wanted)
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


def test_what_was_materialized_needs_this_package_no_more(references, wanted, warm, tmp_path):
    warm.materialize(references.remove_columns("audio")).to_parquet(tmp_path / "plain.parquet")
    content, shape = data.run_program(PUBLISHED, tmp_path / "plain.parquet")
    assert (content, shape) == (wanted[3]["input_features"].tobytes().hex(), list(wanted[3]["input_features"].shape))


# What is gone is computed again where it can be


def test_attach_and_materialize_compute_a_damaged_entry_from_the_audio(clips, wanted, seamless, own_root):
    cached_features = CachedFeatures(seamless, own_root, auto_resample=True)
    ds = cached_features.map(data.in_memory(clips))
    for read in (cached_features.attach, lambda ds: cached_features.materialize(ds).with_format("numpy")):
        path = cached_features.audio_cache.path_for(ds.features["input_features"].key(stored(ds)[2]))
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
        for row, outputs in zip(read(ds), wanted, strict=True):
            assert np.asarray(row["input_features"]).tobytes() == outputs["input_features"].tobytes()


def test_map_fills_a_cache_that_was_cleared(clips, wanted, seamless, own_root, tmp_path):
    cached_features = CachedFeatures(seamless, own_root, auto_resample=True)
    dataset = data.saved(clips, tmp_path / "saved")
    cached_features.map(dataset)
    cached_features.audio_cache.clear()
    data.assert_rows(list(cached_features.map(dataset).remove_columns("audio")), wanted)


def test_another_processor_does_not_compute_what_is_missing(clips, seamless, own_root, make_processor):
    ds = CachedFeatures(seamless, own_root, auto_resample=True).map(data.in_memory(clips))
    other = CachedFeatures(make_processor("seamless_m4t", stride=4), own_root, auto_resample=True)
    other.audio_cache.clear()
    with pytest.raises(MissingEntryError):
        other.materialize(ds)


def test_workers_cannot_fill_a_root_in_memory(clips, make_processor):
    cached_features = CachedFeatures(make_processor("wav2vec2"), "memory://of-this-process", auto_resample=True)
    dataset = data.in_memory(clips[:2])
    with pytest.raises(ValueError, match=r"Leave out num_proc="):
        cached_features.map(dataset, num_proc=2)
    assert cached_features.stats.computed == 0
    assert len(cached_features.map(dataset)[1]["input_values"]) > 0

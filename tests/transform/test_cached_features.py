"""`CachedFeatures` as a callable: what `ds.map` hands it in each form, and what it gives back."""

from __future__ import annotations

import json

import audio_datasets as data
import datasets
import numpy as np
import pytest
import soundfile
from assertions import rows_of
from audio_files import decode_audio
from crossed import crossed

from hf_audio_cache import AudioCacheKey, CachedFeatures, processor_sha256
from hf_audio_cache.errors import (
    AudioColumnError,
    AudioError,
    AudioSourceError,
    InvalidKeyError,
    ProcessorError,
    SamplingRateError,
)


def cells(clips, kind="dict"):
    batch = data.columns(clips)["audio"]
    return batch if kind == "dict" else [cell["bytes"] for cell in batch]


def test_two_outputs_of_one_name_are_refused(make_processor, clips, tmp_path):
    processor = make_processor("wav2vec2_spanish")
    cached_features = CachedFeatures(
        processor, tmp_path, auto_resample=True, output_names={"attention_mask": "input_values"}
    )
    with pytest.raises(ProcessorError, match="two columns would have one name"):
        cached_features({"audio": str(clips[0])})


# Where the datasets come from


def containers():
    return {
        "memory": lambda clips, folder: data.in_memory(clips),
        "memory, decode=True": lambda clips, folder: data.in_memory(clips, decode=True),
        "parquet": data.from_parquet,
        "save_to_disk": data.saved,
        "save_to_disk, decode=True": lambda clips, folder: data.saved(clips, folder, decode=True),
        "paths": lambda clips, folder: data.of_paths(clips),
        "audiofolder": data.audio_folder,
    }


TORCHCODEC_TOO = [
    pytest.param(name, marks=pytest.mark.torchcodec) if name == "audiofolder" else name for name in containers()
]
# With torchcodec, datasets makes decoders of these; without, they cannot be read but through their Arrow table.
DECODERS = ["memory, decode=True", "parquet", "save_to_disk, decode=True", "audiofolder"]


@pytest.mark.parametrize(("container", "batched"), crossed(TORCHCODEC_TOO, [False, True]))
def test_map_adds_the_features_of_each_clip(container, batched, clips, expected, cached_features, tmp_path):
    dataset = containers()[container](clips, tmp_path / "data")
    mapped = dataset.map(cached_features, batched=batched, batch_size=3)
    data.assert_stored(mapped, expected)
    assert mapped.column_names == [*dataset.column_names, "input_values"]
    assert mapped.features["audio"] == dataset.features["audio"]
    assert cached_features.stats.computed == len(clips)

    again = containers()[container](clips, tmp_path / "again")
    data.assert_stored(again.map(cached_features, batched=batched, load_from_cache_file=False), expected)
    assert cached_features.stats.computed == len(clips)
    assert cached_features.stats.hits == len(clips)


@pytest.mark.torchcodec
@pytest.mark.parametrize("form", [None, "numpy", "torch", "arrow"])
@pytest.mark.parametrize("container", DECODERS)
def test_map_takes_decoders_through_their_encoded_bytes(
    container, form, clips, expected, cached_features, tmp_path, monkeypatch
):
    cached_features({"audio": cells(clips)})
    dataset = containers()[container](clips, tmp_path / "data").with_format(form)
    assert dataset.features["audio"].decode
    from torchcodec.decoders import AudioDecoder

    for decoding in ("get_all_samples", "get_samples_played_in_range"):
        monkeypatch.setattr(AudioDecoder, decoding, lambda *_args, **_kwargs: pytest.fail("a clip was decoded"))
    for batched in (False, True):
        data.assert_stored(dataset.map(cached_features, batched=batched), expected)
    if form != "arrow":
        data.assert_stored(dataset.map(cached_features, input_columns=["audio"]), expected)
    assert cached_features.stats.computed == cached_features.stats.decodes == len(clips)


@pytest.mark.parametrize("form", [None, "numpy", pytest.param("torch", marks=pytest.mark.torch), "arrow"])
@pytest.mark.parametrize("batched", [False, True])
def test_map_takes_every_format(form, batched, clips, wanted, seamless, tmp_path):
    dataset = data.in_memory(clips).with_format(form)
    cached_features = CachedFeatures(seamless, tmp_path / "root", auto_resample=True)
    mapped = dataset.map(cached_features, batched=batched, batch_size=5)
    assert mapped.format["type"] == form
    data.assert_stored(mapped, wanted)
    with_types = dataset.map(cached_features, batched=batched, features=cached_features.features(dataset.features))
    data.assert_stored(with_types, wanted)
    assert with_types[:]["number"] is not None
    assert with_types.with_format(None)["text"][:] == [clip.stem for clip in clips]
    assert cached_features.stats.computed == len(clips)


def test_a_pandas_frame_is_refused_with_the_format_to_use(clips, cached_features):
    with pytest.raises(AudioSourceError, match=r'ds\.with_format\(None\) or ds\.with_format\("arrow"\)'):
        data.in_memory(clips).with_format("pandas").map(cached_features)


class DataFrame:
    """What is asked of a frame, or a column, of polars, which is not installed here."""

    def to_arrow(self):
        raise NotImplementedError


@pytest.mark.parametrize("on_error", ["raise", "null"])
def test_a_polars_frame_is_no_bad_clip(on_error, make_processor, tmp_path):
    cached_features = CachedFeatures(make_processor("seamless_m4t"), tmp_path, on_error=on_error)
    for examples in (DataFrame(), {"audio": DataFrame()}):
        with pytest.raises(AudioSourceError, match=r'a DataFrame is neither.*ds.with_format\("arrow"\) before map'):
            cached_features(examples)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("form", [None, "numpy", pytest.param("torch", marks=pytest.mark.torch)])
def test_map_takes_the_audio_alone_by_input_columns(form, batched, clips, expected, cached_features):
    dataset = data.in_memory(clips).with_format(form)
    mapped = dataset.map(cached_features, input_columns=["audio"], batched=batched, remove_columns=["text"])
    assert mapped.column_names == ["audio", "number", "input_values"]
    data.assert_stored(mapped, expected)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    "beside", [{"with_indices": True}, {"with_rank": True}, {"with_indices": True, "with_rank": True, "num_proc": 2}]
)
def test_map_with_indices_or_ranks(beside, batched, clips, expected, cached_features):
    data.assert_stored(data.in_memory(clips).map(cached_features, batched=batched, **beside), expected)
    stream = data.in_memory(clips).to_iterable_dataset()
    if set(beside) == {"with_indices"}:  # a stream's map takes no rank
        for row, outputs in zip(stream.map(cached_features, batched=batched, **beside), expected, strict=True):
            data.assert_same_bits(np.asarray(row["input_values"], np.float32), outputs["input_values"])


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("other", ["text", "number"])
def test_map_refuses_further_input_columns(other, batched, clips, cached_features):
    dataset = data.in_memory(clips).map(lambda number: {"number": number / 2}, input_columns=["number"])
    with pytest.raises(AudioColumnError, match=r"input_columns=\['audio'\]"):
        dataset.map(cached_features, input_columns=["audio", other], batched=batched)


@pytest.mark.parametrize("batched", [False, True])
def test_map_takes_an_arrow_array_by_input_columns(batched, clips, expected, cached_features):
    dataset = data.in_memory(clips).with_format("arrow")
    mapped = dataset.map(cached_features, input_columns=["audio"], batched=batched)
    # From an Arrow format datasets keeps no column that the function does not return.
    assert mapped.column_names == ["input_values"]
    assert mapped.features["input_values"] == datasets.List(datasets.Value("float32"))
    data.assert_stored(mapped, expected)


def test_map_by_two_processes(clips, expected, cached_features, tmp_path):
    dataset = data.from_parquet(clips, tmp_path / "data")
    mapped = dataset.map(cached_features, num_proc=2, remove_columns=dataset.column_names)
    assert mapped.column_names == ["input_values"]
    data.assert_stored(mapped, expected)
    stats = cached_features.stats
    assert (stats.computed, stats.misses, stats.hits) == (len(clips), len(clips), 0)

    batched = dataset.map(cached_features, num_proc=2, batched=True, batch_size=2, remove_columns=["audio"])
    data.assert_stored(batched, expected)
    assert (cached_features.stats - stats).hits == len(clips)
    assert cached_features.stats.computed == len(clips)


def test_map_inside_a_function_of_the_users_own(clips, expected, cached_features, tmp_path):
    from transformers import Wav2Vec2CTCTokenizer

    vocabulary = tmp_path / "vocab.json"
    vocabulary.write_text(
        json.dumps({letter: n for n, letter in enumerate("[]|ABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789")})
    )
    tokenizer = Wav2Vec2CTCTokenizer(vocabulary, unk_token="[", pad_token="]", word_delimiter_token="|")

    def prepare(batch):
        batch.update(cached_features(batch))
        batch["labels"] = tokenizer([text.upper() for text in batch["text"]]).input_ids
        return batch

    dataset = data.from_parquet(clips, tmp_path / "data")
    mapped = dataset.map(prepare, batched=True, batch_size=3, remove_columns=["audio", "number"])
    assert mapped.column_names == ["text", "input_values", "labels"]
    data.assert_stored(mapped, expected)
    assert list(mapped["labels"]) == tokenizer([clip.stem.upper() for clip in clips]).input_ids

    def prepare_one(example):
        example.update(cached_features(example))
        example["labels"] = tokenizer(example["text"].upper()).input_ids
        return example

    one_by_one = dataset.map(prepare_one, remove_columns=["audio", "number"])
    data.assert_stored(one_by_one, expected)
    assert list(one_by_one["labels"]) == list(mapped["labels"])
    assert cached_features.stats.computed == len(clips)


def test_map_uses_what_the_users_function_put_in_the_place_of_the_audio(clips, expected, cached_features):
    def swap(batch):
        batch["audio"] = batch["audio"][::-1]
        return cached_features(batch)

    data.assert_stored(data.in_memory(clips).map(swap, batched=True, remove_columns="audio"), expected[::-1])


PLACES = {
    "call": "row 2 of the batch",
    "ds.map": "row 2 of the batch",
    "attach": "row 1 of the batch",
    "map": "row 66 of the dataset",
    "map by two": "row 66 of the dataset",
}
BAD = [None, {"bytes": b"", "path": None}, {"bytes": b"no audio at all", "path": None}]


@pytest.mark.parametrize(("form", "bad"), crossed([*PLACES], BAD))
def test_an_error_says_in_which_row_its_clip_is_and_that_it_can_be_left_out(form, bad, clips, cached_features):
    few = [*data.columns(clips)["audio"][:2], bad]
    many = data.of_cells([few[0]] * 66 + [bad])
    forms = {
        "call": lambda: cached_features({"audio": few}),
        "ds.map": lambda: data.of_cells(few).map(cached_features, batched=True),
        "attach": lambda: cached_features.attach(data.of_cells(few))[1:3]["input_values"],
        "map": lambda: cached_features.map(many),
        "map by two": lambda: cached_features.map(many, num_proc=2),
    }
    with pytest.raises(AudioError) as caught:
        forms[form]()
    assert str(caught.value).endswith(
        f' It is {PLACES[form]}. To go on without such clips, pass on_error="null" or "skip".'
    )
    [noted] = cached_features.bad_clips
    assert "on_error" not in noted.reason


# What comes back


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("whisper_tiny", {"input_features": (80, 3000)}),
        ("qwen2_audio", {"input_features": (128, 3000), "attention_mask": (480000,)}),
        ("seamless_m4t", {"input_features": (None, 160), "attention_mask": (None,)}),
        ("wav2vec2_spanish", {"input_values": (None,), "attention_mask": (None,)}),
        pytest.param("ast", {"input_values": (1024, 128)}, marks=pytest.mark.torch),
        ("clap_unfused", {"input_features": (1, 1001, 64), "is_longer": (1,)}),
    ],
)
def test_outputs_are_numpy_arrays_without_a_batch_axis(name, shapes, clips, make_processor, tmp_path):
    extractor = make_processor(name)
    cached_features = CachedFeatures(extractor, tmp_path, auto_resample=True)
    expected = [data.expected_features(extractor, clip, auto_resample=True) for clip in clips[:2]]
    for _ in range(2):  # computed, then read
        batch = cached_features({"audio": cells(clips[:2])})
        assert {output: type(column) for output, column in batch.items()} == dict.fromkeys(shapes, list)
        rows = rows_of(batch)
        data.assert_rows(rows, expected)
        for row in rows:
            for output, shape in shapes.items():
                pairs = zip(row[output].shape, shape, strict=True)
                assert all(is_wanted in (None, actual) for actual, is_wanted in pairs)
                assert row[output].flags.c_contiguous
                assert row[output].flags.writeable


def test_features_are_the_types_that_the_arrays_have(clips, make_processor, tmp_path):
    dataset = data.in_memory(clips[:3])
    types = {
        "whisper_tiny": {"input_features": datasets.Array2D((80, 3000), "float32")},
        "wav2vec2": {"input_values": datasets.List(datasets.Value("float32"))},
        "seamless_m4t": {
            "input_features": datasets.Array2D((None, 160), "float32"),
            "attention_mask": datasets.List(datasets.Value("int32")),
        },
        "clap_unfused": {
            "input_features": datasets.Array3D((1, 1001, 64), "float32"),
            "is_longer": datasets.List(datasets.Value("bool")),
        },
    }
    for name, wanted in types.items():
        cached_features = CachedFeatures(make_processor(name), tmp_path / name, auto_resample=True)
        features = cached_features.features(dataset.features)
        assert features == datasets.Features({**dataset.features, **wanted})
        mapped = dataset.map(cached_features, features=features)
        assert mapped.features == features
        expected = [data.expected_features(make_processor(name), clip, auto_resample=True) for clip in clips[:3]]
        data.assert_stored(mapped, expected)


def test_duplicates_are_computed_once_and_are_arrays_of_their_own(clips, expected, cached_features):
    once = cells(clips[:2])
    for _ in range(2):
        batch = cached_features({"audio": [once[0], once[1], once[0], once[0]]})
        arrays = batch["input_values"]
        for array, index in zip(arrays, (0, 1, 0, 0), strict=True):
            data.assert_same_bits(array, expected[index]["input_values"])
        arrays[0][:] = 7
        data.assert_same_bits(arrays[2], expected[0]["input_values"])
    assert cached_features.stats.computed == 2
    data.assert_rows([cached_features({"audio": once[0]})], expected[:1])


def test_output_names_rename_columns(clips, make_processor, tmp_path):
    extractor = make_processor("qwen2_audio")
    cached_features = CachedFeatures(
        extractor, tmp_path, auto_resample=True, output_names={"attention_mask": "feature_attention_mask"}
    )
    mapped = data.in_memory(clips[:2]).map(cached_features, remove_columns=["audio", "text", "number"])
    assert mapped.column_names == ["input_features", "feature_attention_mask"]
    for row, clip in zip(mapped.with_format("numpy"), clips[:2], strict=True):
        outputs = data.expected_features(extractor, clip, auto_resample=True)
        data.assert_same_bits(row["input_features"], outputs["input_features"])
        assert np.array_equal(row["feature_attention_mask"], outputs["attention_mask"])
    assert set(cached_features.features(datasets.Features())) == {"input_features", "feature_attention_mask"}

    # A name is no part of an entry: the same one serves both.
    plain = CachedFeatures(extractor, tmp_path, auto_resample=True)
    assert set(plain({"audio": cells(clips[:1])})) == {"input_features", "attention_mask"}
    assert plain.stats.computed == 0

    wrong = CachedFeatures(extractor, tmp_path, auto_resample=True, output_names={"mask": "m"})
    with pytest.raises(
        ProcessorError, match=r"renames 'mask', which the processor does not give.* It gives 'input_features'"
    ):
        wrong({"audio": cells(clips[:1])})


# Settings


def test_a_missing_column_says_which_there_are_and_how_it_goes_missing(clips, cached_features, tmp_path):
    dataset = data.in_memory(clips)
    renamed = dataset.rename_column("audio", "sound")
    for form in (None, "numpy", "arrow"):
        with pytest.raises(AudioColumnError) as caught:
            renamed.with_format(form).map(cached_features)
        message = str(caught.value)
        assert "There is no audio column 'audio', only the columns 'sound', 'text', 'number'" in message
        assert "CachedFeatures(…, audio_column=…)" in message
        assert "remove_unused_columns=False" in message
        assert "Trainer" in message
        assert (caught.value.column, caught.value.columns) == ("audio", ("sound", "text", "number"))
    assert not cached_features.root.exists()

    named = CachedFeatures(cached_features.processor, tmp_path / "named", auto_resample=True, audio_column="sound")
    assert "input_values" in renamed.map(named, batched=True).column_names


def test_a_cap_cuts_the_clip_and_has_entries_of_its_own(prompts, make_processor, tmp_path):
    long = max(prompts, key=lambda path: path.stat().st_size)
    extractor = make_processor("wav2vec2")
    capped = CachedFeatures(extractor, tmp_path, auto_resample=True, max_length_seconds=1.5)
    [array] = capped({"audio": [str(long)]})["input_values"]
    wanted = data.expected_features(extractor, long, auto_resample=True, max_length_ms=1500)["input_values"]
    assert array.shape == (24000,)
    data.assert_same_bits(array, wanted)

    whole = CachedFeatures(extractor, tmp_path, auto_resample=True)
    [array] = whole({"audio": [str(long)]})["input_values"]
    assert array.shape == (soundfile.info(long).frames * 2,)
    assert (whole.stats.computed, whole.stats.decodes, whole.stats.hits) == (1, 1, 0)

    for bad in (0, -1, 0.0004, float("inf"), float("nan")):
        with pytest.raises(InvalidKeyError, match="max_length_seconds"):
            CachedFeatures(extractor, tmp_path, max_length_seconds=bad)


def test_another_rate_is_an_error_that_names_both_and_the_remedy(clips, sentences, make_processor, tmp_path):
    cached_features = CachedFeatures(make_processor("wav2vec2"), tmp_path)
    with pytest.raises(SamplingRateError) as caught:
        data.in_memory(clips).map(cached_features)
    assert "Expected 16000 Hz, found 8000 Hz" in str(caught.value)
    assert clips[0].name in str(caught.value)
    assert "auto_resample=True" in str(caught.value)
    assert (caught.value.expected, caught.value.actual) == (16000, 8000)

    right = data.shortest(sentences, 3)
    expected = [data.expected_features(make_processor("wav2vec2"), clip) for clip in right]
    data.assert_stored(data.in_memory(right).map(cached_features), expected)
    # Not served to who asked for resampling: that would be another setting's entry, if an equal one here.
    resampling = CachedFeatures(make_processor("wav2vec2"), tmp_path, auto_resample=True)
    resampling({"audio": cells(right)})
    assert (resampling.stats.computed, resampling.stats.hits) == (3, 0)


def test_on_error_null_with_arrays_of_two_dimensions(clips, make_processor, tmp_path):
    whisper = make_processor("whisper_tiny")
    lenient = CachedFeatures(whisper, tmp_path, auto_resample=True, on_error="null")
    rows = [{"bytes": b"", "path": "empty.wav"}, *cells(clips[:1])]
    dataset = data.of_cells(rows)
    mapped = dataset.map(lenient, features=lenient.features(dataset.features))
    assert mapped[0]["input_features"] is None
    wanted = data.expected_features(whisper, clips[0], auto_resample=True)["input_features"]
    data.assert_same_bits(mapped.with_format("numpy")[1]["input_features"], wanted)


def test_processor_kwargs_are_part_of_the_key(clips, make_processor, tmp_path):
    extractor = make_processor("whisper_tiny")
    plain = CachedFeatures(extractor, tmp_path, auto_resample=True)
    masked = CachedFeatures(extractor, tmp_path, auto_resample=True, processor_kwargs={"return_attention_mask": True})
    assert set(plain({"audio": cells(clips[:1])})) == {"input_features"}
    assert set(masked({"audio": cells(clips[:1])})) == {"input_features", "attention_mask"}
    assert (masked.stats.computed, masked.stats.waveform_hits, masked.stats.decodes) == (1, 1, 0)
    assert masked.processor_sha == processor_sha256(extractor, processor_kwargs={"return_attention_mask": True})
    assert plain.processor_sha == processor_sha256(extractor) != masked.processor_sha


# The caches beneath


def test_entries_are_where_the_caches_say(clips, expected, cached_features):
    cached_features({"audio": cells(clips[:1])})
    blob_sha = data.sha256(clips[0])
    key = AudioCacheKey(blob_sha, cached_features.processor_sha, 16000, 0, auto_resample=True)
    data.assert_same_bits(cached_features.audio_cache.get(key), expected[0]["input_values"])
    waveform = decode_audio(clips[0].read_bytes(), sampling_rate=16000, auto_resample=True)
    data.assert_same_bits(cached_features.waveform_cache.get(key.waveform_key()), waveform)
    root = cached_features.root
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == sorted(
        [
            "CACHEDIR.TAG",
            f"features/{blob_sha[:2]}/{blob_sha}.{cached_features.processor_sha[:12]}.16000.0.rs.npz",
            f"processors/{cached_features.processor_sha}.json",
            f"waveforms/{blob_sha[:2]}/{blob_sha}.16000.0.rs.wav.npz",
        ]
    )


def test_features_that_are_gone_are_made_of_the_waveform(clips, expected, cached_features, monkeypatch):
    cached_features({"audio": cells(clips)})
    assert cached_features.audio_cache.clear() == len(clips)
    monkeypatch.setattr(soundfile.SoundFile, "__init__", lambda *_args, **_kwargs: pytest.fail("a clip was decoded"))
    batch = cached_features({"audio": cells(clips)})
    data.assert_rows(rows_of(batch), expected)
    stats = cached_features.stats
    assert (stats.decodes, stats.waveform_hits, stats.computed) == (len(clips), len(clips), 2 * len(clips))


# Figures


def test_figures_of_a_run(clips, cached_features):
    cached_features({"audio": cells(clips)})
    cold = cached_features.stats
    assert (cold.hits, cold.misses, cold.computed, cold.decodes) == (0, 8, 8, 8)
    assert (cold.waveform_misses, cold.waveform_hits, cold.bytes_read) == (8, 0, 0)
    entries = list(cached_features.root.rglob("*.npz"))
    assert cold.bytes_written == sum(path.stat().st_size for path in entries)
    cached_features({"audio": cells(clips)})
    warm = cached_features.stats - cold
    assert (warm.hits, warm.misses, warm.computed, warm.decodes, warm.bytes_written) == (8, 0, 0, 0, 0)
    assert warm.bytes_read == sum(path.stat().st_size for path in (cached_features.root / "features").rglob("*.npz"))
    assert warm.hit_rate == 1.0


def test_repr_says_what_it_is(cached_features):
    assert repr(cached_features) == (
        f"CachedFeatures(Wav2Vec2FeatureExtractor {cached_features.processor_sha[:12]}, "
        f"root={str(cached_features.root)!r}, sampling_rate=16000, auto_resample=True)"
    )

"""Waveforms in every calling form: right, decoded once, and in the cache that features are made from."""

from __future__ import annotations

import io
import os
import pickle

import audio_datasets as data
import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from audio_files import encode, reference
from crossed import crossed

from hf_audio_cache import CachedArray, CachedFeatures, CachedWaveforms, CacheRoot, WaveformCache, WaveformCacheKey
from hf_audio_cache.errors import (
    AudioColumnError,
    AudioTooLongError,
    CannotSkipError,
    InvalidKeyError,
    MissingEntryError,
    ProcessorError,
    StoreError,
    TruncatedAudioError,
)

RATE = 16_000


def typed(waveforms, dataset):
    return waveforms.features(dataset.features)


FORMS = {
    "map": lambda waveforms, dataset: dataset.map(waveforms, features=typed(waveforms, dataset)).with_format("numpy"),
    "batched": lambda waveforms, dataset: dataset.map(
        waveforms, batched=True, batch_size=3, features=typed(waveforms, dataset)
    ).with_format("numpy"),
    "two processes": lambda waveforms, dataset: dataset.map(
        waveforms, num_proc=2, features=typed(waveforms, dataset)
    ).with_format("numpy"),
    "arrow": lambda waveforms, dataset: dataset.with_format("arrow").map(waveforms, batched=True).with_format("numpy"),
    "references": lambda waveforms, dataset: waveforms.map(dataset),
    "references by two": lambda waveforms, dataset: waveforms.map(dataset, num_proc=2),
    "materialized": lambda waveforms, dataset: waveforms.materialize(waveforms.map(dataset)).with_format("numpy"),
    "attach": lambda waveforms, dataset: waveforms.attach(dataset),
    "attached references": lambda waveforms, dataset: waveforms.attach(waveforms.map(dataset)),
    "stream": lambda waveforms, dataset: waveforms.attach(dataset.to_iterable_dataset()),
    "mapped stream": lambda waveforms, dataset: dataset.to_iterable_dataset().map(waveforms, batched=True),
}


@pytest.fixture(scope="module")
def files(sentences):
    """The same speech in several containers, rates and channels, by name."""
    speech, rate = soundfile.read(max(sentences, key=lambda path: path.stat().st_size), dtype="int16")
    assert rate == RATE
    speech = speech[:30_000]
    return {
        "16k.wav": encode(speech, RATE, "WAV"),
        "8k.wav": encode(speech, 8000, "WAV"),
        "44k.flac": encode(speech, 44_100, "FLAC"),
        "stereo.flac": encode(np.stack([speech, speech // 2], axis=1), RATE, "FLAC"),
        "22k.ogg": encode(speech, 22_050, "OGG"),
        "48k.opus": encode(speech, 48_000, "OGG", "OPUS"),
        "16k.mp3": encode(speech, RATE, "MP3"),
    }


@pytest.fixture
def dataset(files):
    return rows_of(*files.values())


def rows_of(*contents):
    cells = [{"bytes": content, "path": f"{number}"} for number, content in enumerate(contents)]
    return data.of_cells(cells, number=range(len(cells)))


@pytest.fixture
def make(tmp_path):
    def make(root=tmp_path / "root", **settings):
        return CachedWaveforms(root, **{"sampling_rate": RATE, "auto_resample": True, **settings})

    return make


@pytest.mark.parametrize(("form", "array_column"), crossed([*FORMS], [None, "wave"]))
def test_every_form_gives_what_soundfile_and_soxr_do_and_decodes_once(form, array_column, make, dataset, files):
    expected = [reference(encoded, RATE).astype(np.float32) for encoded in files.values()]
    for has_entries in (False, True):
        waveforms = make(array_column=array_column, length_column="n")
        for row, samples in zip(FORMS[form](waveforms, dataset), expected, strict=True):
            found = row["wave"] if array_column else row["audio"]["array"]
            data.assert_same_bits(np.asarray(found), samples)
            assert int(row["n"]) == len(samples)
            assert array_column or int(row["audio"]["sampling_rate"]) == RATE
            assert array_column is None or row["audio"]["bytes"] in files.values()
        # 16k.wav is stored by references alone: it is decoded as fast as it is read.
        left_out = [] if "referen" in form or form == "materialized" else ["16k.wav"]
        stats = waveforms.stats
        assert stats.decodes == (len(left_out) if has_entries else len(files))
        assert (stats.hits, stats.misses, stats.computed, stats.bad_clips) == (0, 0, 0, 0)
        assert stats.waveform_hits >= (len(files) - len(left_out) if has_entries else 0)


@pytest.mark.parametrize("channels", ["mean", 0, 1, "all"])
def test_channels_and_the_cap_are_those_of_features(channels, make, files):
    stereo = files["stereo.flac"]
    samples = soundfile.read(io.BytesIO(stereo), dtype="float32")[0][:RATE]
    expected = {"mean": samples.mean(axis=1), 0: samples[:, 0], 1: samples[:, 1], "all": samples.T}[channels]
    waveforms = make(channels=channels, max_length_seconds=1.0)
    mapped = waveforms.map(rows_of(stereo))
    data.assert_same_bits(mapped[0]["audio"]["array"], np.ascontiguousarray(expected))
    [path] = waveforms.root.rglob("*.npz")
    suffix = "" if channels == "mean" else f".ch{channels}"
    assert path.name.partition(".")[2] == f"16000.1000.rs{suffix}.wav.npz"
    stored = waveforms.materialize(mapped).with_format("numpy")[0]["audio"]["array"]
    assert np.array_equal(np.stack(stored) if channels == "all" else stored, expected)


@pytest.mark.parametrize("first", ["waveforms", "features"])
def test_waveforms_and_features_fill_one_cache(first, make, make_processor, dataset, files):
    waveforms = make()
    features = CachedFeatures(make_processor("wav2vec2"), waveforms.root, auto_resample=True, waveforms="always")
    transforms = {"waveforms": waveforms, "features": features}
    transforms.pop(first).map(dataset)
    [second] = transforms.values()
    second.map(dataset)
    assert (second.stats.waveform_hits, second.stats.decodes) == (len(files), 0)


@pytest.mark.parametrize("order", [1, -1])
def test_waveforms_and_features_of_one_row_are_made_of_the_same_audio(order, make, make_processor, dataset, files):
    waveforms = make()
    features = CachedFeatures(make_processor("wav2vec2"), waveforms.root, auto_resample=True, features="always")
    for transform in (waveforms, features)[::order]:
        dataset = transform.attach(dataset)
    batch = dataset[:]
    for row, values, encoded in zip(batch["audio"], batch["input_values"], files.values(), strict=True):
        data.assert_same_bits(row["array"], reference(encoded, RATE))
        [expected] = features.processor([row["array"]], sampling_rate=RATE, return_tensors="np")["input_values"]
        data.assert_same_bits(values, expected)
    # The second one finds what the first one decoded, but for 16k.wav.
    assert waveforms.stats.decodes + features.stats.decodes == len(files) + 1


def test_references_are_small_and_survive_whatever_datasets_does_with_them(make, dataset, files, tmp_path):
    waveforms = make()
    mapped = waveforms.map(dataset)
    assert mapped.data.nbytes < 100 * len(files)
    kind = mapped.features["audio"]
    assert (kind.processor_sha, kind.name, kind.sampling_rate) == (None, "audio", RATE)
    mapped.to_parquet(tmp_path / "clips.parquet")
    mapped.save_to_disk(tmp_path / "saved")
    again = {
        "parquet": datasets.Dataset.from_parquet(str(tmp_path / "clips.parquet"), cache_dir=str(tmp_path / "kept")),
        "saved": datasets.load_from_disk(tmp_path / "saved"),
        "pickled": pickle.loads(pickle.dumps(mapped)),
        "selected": mapped.select(range(len(mapped))),
        "side by side": datasets.concatenate_datasets([mapped, mapped]).select(range(len(mapped))),
        "stream": mapped.to_iterable_dataset(),
        "renamed stream": mapped.to_iterable_dataset().rename_column("audio", "clip").rename_column("clip", "audio"),
    }
    assert pq.read_schema(tmp_path / "clips.parquet").field("audio").type == "binary"
    for name, dataset_again in again.items():
        for row, encoded in zip(dataset_again, files.values(), strict=True):
            assert np.array_equal(row["audio"]["array"], reference(encoded, RATE).astype(np.float32)), name
    assert datasets.Features.from_dict(mapped.features.to_dict()) == mapped.features
    assert datasets.Features._from_yaml_list(mapped.features._to_yaml_list()) == mapped.features
    assert CachedArray("x", None, RATE).key(bytes(32)) == WaveformCacheKey("00" * 32, RATE, 0)


def test_a_lost_entry_is_an_error_where_the_audio_is_gone_and_made_again_where_it_is_not(make, dataset, files):
    alone, beside = make(), make(array_column="wave")
    gone, kept = alone.map(dataset), beside.map(dataset)
    alone.waveform_cache.clear()
    for read in (lambda: gone[0], lambda: alone.attach(gone)[0], lambda: kept[0]):
        with pytest.raises(MissingEntryError, match=r"cached_waveforms\.map\(ds, load_from_cache_file=False\)"):
            read()
    for row, encoded in zip(beside.attach(kept)[:]["wave"], files.values(), strict=True):
        assert np.array_equal(row, reference(encoded, RATE).astype(np.float32))
    assert kept[0]["wave"].dtype == np.float32  # stored again
    alone.waveform_cache.clear()
    assert alone.map(dataset)[0]["audio"]["array"].shape == (30_000,)  # though datasets kept the references


def test_references_to_waveforms_are_no_audio(make, make_processor, dataset):
    mapped = make().map(dataset)
    features = CachedFeatures(make_processor("wav2vec2"), make().root, auto_resample=True)
    for wrong in (features.map, features.attach, make().map, make(array_column="wave").attach):
        with pytest.raises(AudioColumnError, match=r"'audio' holds references to waveforms or features, and no audio"):
            wrong(mapped)


@pytest.mark.parametrize("form", ["map", "batched", "references", "attach", "stream"])
def test_bad_clips_have_none_and_a_reason(form, make, files):
    rows = rows_of(files["22k.ogg"], b"no audio", files["8k.wav"])
    with pytest.raises(Exception, match="Expected audio in '1'"):
        list(FORMS[form](make(), rows))
    waveforms = make(array_column="wave", on_error="null", reason_column="why", length_column="n")
    found = list(FORMS[form](waveforms, rows))
    assert [row["wave"] is None for row in found] == [False, True, False]
    assert [bool(row["why"]) for row in found] == [False, True, False]
    assert [bad.clip for bad in waveforms.bad_clips] == ["1"]


def test_bad_clips_are_skipped_where_rows_can_be(make, files):
    rows = rows_of(files["22k.ogg"], b"no audio", files["8k.wav"])
    waveforms = make(on_error="skip")
    for form in ("batched", "references", "stream"):
        assert [int(row["number"]) for row in FORMS[form](waveforms, rows)] == [0, 2]
    with pytest.raises(CannotSkipError):
        waveforms.attach(rows)


@pytest.mark.parametrize("form", ["batched", "references", "attach"])
def test_a_strict_reader_refuses_what_a_tolerant_one_stored(form, make, files):
    lying = bytearray(files["8k.wav"])
    lying[40:44] = (2 * 60_000).to_bytes(4, "little")
    rows = rows_of(bytes(lying))
    tolerant = FORMS[form](make(truncated="accept"), rows)
    assert tolerant[0]["audio"]["array"].shape == (60_000,)
    long = FORMS[form](make(truncated="accept", max_length_seconds=1), rows)
    assert long[0]["audio"]["array"].shape == (RATE,)
    for wrong, error in (
        ({}, TruncatedAudioError),
        ({"truncated": "accept", "max_length_seconds": 1, "longer": "error"}, AudioTooLongError),
    ):
        with pytest.raises(error):
            FORMS[form](make(**wrong), rows)[0]["audio"]


def roots(tmp_path):
    return {
        "signed": CacheRoot(tmp_path / "signed", signing_key=b"0123456789abcdef"),
        "far": CacheRoot("memory://waveforms", near=tmp_path / "near"),
        "plain entries": CacheRoot(tmp_path / "plain", compression=None),
    }


@pytest.mark.parametrize("root", ["signed", "far", "plain entries"])
def test_roots_of_every_kind(root, make, dataset, files, tmp_path):
    root = roots(tmp_path)[root]
    mapped = make(root).map(dataset)
    warm = make(root)
    for found in (mapped, warm.attach(dataset)):
        for row, encoded in zip(found, files.values(), strict=True):
            assert np.array_equal(row["audio"]["array"], reference(encoded, RATE).astype(np.float32))
    assert warm.stats.decodes == 0


def test_an_entry_without_our_signature_is_decoded_again(make, dataset, files, tmp_path):
    make(tmp_path / "signed").map(dataset)
    waveforms = make(roots(tmp_path)["signed"])
    assert waveforms.explain(dataset[1]).status == "unsigned entry"
    waveforms.attach(dataset)[:]["audio"]
    assert (waveforms.stats.unsigned_entries, waveforms.stats.decodes) == (len(files), len(files))


def test_a_root_that_takes_nothing_ends_no_run_and_gives_no_references(make, dataset, files, tmp_path):
    root = CacheRoot(tmp_path / "root", read_only=True)
    assert len(make(root).attach(dataset)[:]["audio"]) == len(files)
    assert not (tmp_path / "root").exists()
    with pytest.raises(StoreError, match=r"waveforms could not be stored .* cached_waveforms\.attach\(ds\)"):
        make(root).map(dataset)
    make().map(dataset)
    assert len(make(root).map(dataset)) == len(files)


def test_results_that_datasets_kept_are_found_again_and_not_mixed_up(make, dataset, tmp_path):
    dataset.save_to_disk(tmp_path / "saved")
    dataset = datasets.load_from_disk(tmp_path / "saved")
    prints = {}
    for number, settings in enumerate(
        [{}, {"array_column": "wave"}, {"channels": 0}, {"max_length_seconds": 1}, {"length_column": "n"}]
    ):
        first, again = (make(**settings).map(dataset) for _ in range(2))
        assert first._fingerprint == again._fingerprint
        prints[first._fingerprint] = number
        waveforms = make(**settings)
        mapped = [dataset.map(waveforms, features=typed(waveforms, dataset)) for _ in range(2)]
        assert mapped[0]._fingerprint == mapped[1]._fingerprint
        assert waveforms.stats.waveform_hits + waveforms.stats.decodes == len(dataset)
    assert len(prints) == 5


def test_explain_says_what_is_there(make, dataset):
    cell = dataset[1]
    assert make().explain(cell).status == "never seen"
    make().map(dataset)
    assert make().explain(cell).status == "hit"
    other = make(channels=0).explain(cell)
    assert (other.status, len(other.reasons)) == ("other settings", 1)
    [path] = make().root.rglob(f"{make().explain(cell).key.as_filename()}")
    path.write_bytes(path.read_bytes()[:-1])
    assert make().explain(cell).status == "bad entry"


def test_settings_that_cannot_be_are_refused(make, dataset):
    for wrong, error in (
        ({"sampling_rate": 0}, InvalidKeyError),
        ({"channels": "left"}, InvalidKeyError),
        ({"array_column": "audio"}, ValueError),
        ({"longer": "error"}, ValueError),
        ({"on_error": "ignore"}, ValueError),
    ):
        with pytest.raises(error):
            make(**wrong)
    taken = make(array_column="number")
    for form in (taken.map, lambda rows: taken.attach(rows)[0]["number"]):
        with pytest.raises(ProcessorError, match="there is a column 'number' already"):
            form(dataset)


def test_a_pickle_counts_with_the_object_it_was_made_of(make, dataset):
    waveforms = make()
    copy = pickle.loads(pickle.dumps(waveforms))
    assert repr(copy) == repr(waveforms)
    copy(dataset[:])
    assert waveforms.stats.decodes == len(dataset)
    assert waveforms.stats.hit_rate == 0
    copy(dataset[1])
    assert waveforms.stats.hit_rate == pytest.approx(1 / (len(dataset) + 1))


def test_paths_from_data_dir(make, files, tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.ogg").write_bytes(files["22k.ogg"])
    rows = datasets.Dataset.from_dict({"audio": ["a.ogg"]})
    waveforms = make(data_dir=os.path.relpath(tmp_path / "audio"))
    assert waveforms.map(rows)[0]["audio"]["array"].shape == waveforms(rows[0])["audio"]["array"].shape
    cache = WaveformCache(waveforms.waveform_cache.root)
    assert cache.get(waveforms.explain(rows[0]).key).dtype == np.float32


@pytest.mark.torch
@pytest.mark.parametrize("form", ["references", "attach", "stream"])
def test_workers_of_a_data_loader(form, make, dataset, files):
    import torch

    found = FORMS[form](make(length_column="n"), dataset.remove_columns("number"))
    loader = torch.utils.data.DataLoader(found, batch_size=None, num_workers=1)
    arrays = [np.asarray(row["audio"]["array"]) for row in loader]
    for array, encoded in zip(arrays, files.values(), strict=True):
        assert np.array_equal(array, reference(encoded, RATE).astype(np.float32))

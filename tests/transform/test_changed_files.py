"""Datasets of paths whose files change, go and come back between two runs."""

from __future__ import annotations

import json
import os
import shutil
import time

import audio_datasets as data
import datasets
import numpy as np
import pytest

from hf_audio_cache import CachedFeatures
from hf_audio_cache.errors import MissingEntryError

NAME = "input_values"


N_CLIPS = 6


@pytest.fixture
def files(clips, tmp_path):
    """Copies of the first four clips, last changed a while ago."""
    copies = data.copies(clips[:4], tmp_path / "files")
    return [aged(path) for path in copies]


def aged(path, seconds=100):
    """Set the times of a file back, all but the one that only the machine's clock can; wait for that."""
    os.utime(path, (time.time() - seconds,) * 2)
    return path


@pytest.fixture
def settled(monkeypatch):
    """Take files for settled at once."""
    monkeypatch.setattr("hf_audio_cache.audio.file_hashes._TICK", 0)


SOURCES = {
    "JSON": lambda paths, folder: json_dataset(paths, folder),
    "Audio": lambda paths, folder: json_dataset(paths, folder).cast_column("audio", datasets.Audio(decode=False)),
}


def json_dataset(paths, folder):
    lines = [json.dumps({"audio": str(path), "number": number}) for number, path in enumerate(paths)]
    if not (folder / "rows.jsonl").exists():  # `datasets` looks at its times
        (folder / "rows.jsonl").write_text("\n".join(lines))
    return datasets.load_dataset(
        "json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=str(folder / "cache")
    )


def make(processor, tmp_path, **settings):
    return CachedFeatures(processor, tmp_path / "root", auto_resample=True, **settings)


def assert_features(rows, clips, processor):
    for row, clip in zip(rows, clips, strict=True):
        if clip is None:
            assert row[NAME] is None
        else:
            wanted = data.expected_features(processor, clip, auto_resample=True)[NAME]
            assert np.asarray(row[NAME], np.float32).tobytes() == wanted.tobytes()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("source", SOURCES)
def test_a_map_notices_a_file_that_was_overwritten(source, files, clips, wav2vec2, tmp_path):
    def run():
        cached_features = make(wav2vec2, tmp_path)
        references = cached_features.map(SOURCES[source](files, tmp_path))
        return references, cached_features.stats

    references, stats = run()
    assert (stats.computed, stats.hits) == (4, 0)
    again, stats = run()
    assert (stats.computed, stats.misses, stats.hits) == (0, 0, 0)  # `datasets` kept it
    assert again.cache_files == references.cache_files
    shutil.copy(clips[4], files[1])
    now = [clips[0], clips[4], *clips[2:4]]
    changed, stats = run()
    assert (stats.computed, stats.hits) == (1, 3)
    assert_features(list(changed), now, wav2vec2)
    _, stats = run()
    assert (stats.computed, stats.hits) == (0, 0)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("form", ["attach", "stream", "materialize"])
def test_references_are_checked_against_their_files(form, files, clips, wav2vec2, tmp_path):
    references = make(wav2vec2, tmp_path).map(json_dataset(files, tmp_path))

    def run():
        cached_features = make(wav2vec2, tmp_path)
        if form == "materialize":
            return list(cached_features.materialize(references)), cached_features.stats
        loaded = references.to_iterable_dataset() if form == "stream" else references
        attached = cached_features.attach(loaded)
        return list(attached) if form == "stream" else attached.__getitems__([0, 1, 2, 3]), cached_features.stats

    rows, stats = run()
    assert_features(rows, clips[:4], wav2vec2)
    assert (stats.computed, stats.hits, stats.misses) == (0, 4, 0)
    shutil.copy(clips[4], files[1])
    rows, stats = run()
    assert_features(rows, [clips[0], clips[4], *clips[2:4]], wav2vec2)
    assert (stats.computed, stats.hits, stats.misses) == (1, 3, 1)
    files[2].unlink()  # what is known of a file that is gone is all that there is
    rows, stats = run()
    assert_features(rows, [clips[0], clips[4], *clips[2:4]], wav2vec2)
    assert (stats.computed, stats.hits, stats.misses) == (0, 4, 0)


@pytest.mark.usefixtures("settled")
def test_references_of_another_processor_to_a_changed_file_are_refused(
    files, clips, wav2vec2, make_processor, tmp_path
):
    references = make(wav2vec2, tmp_path).map(data.of_paths(files))
    seamless = make(make_processor("seamless_m4t"), tmp_path)
    attached = seamless.attach(references)
    assert_features(attached.__getitems__([0, 1]), clips[:2], wav2vec2)
    shutil.copy(clips[4], files[1])
    with pytest.raises(MissingEntryError, match=r"0001\.wav has changed since the reference was made"):
        attached.__getitems__([0, 1])


@pytest.mark.usefixtures("settled")
def test_a_changed_file_of_a_relative_path_is_noticed_too(
    files, clips, wav2vec2, make_processor, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = str(files[0].parent)
    names = datasets.Dataset.from_dict({"audio": [path.name for path in files]})
    references = make(wav2vec2, tmp_path, data_dir=folder).map(names)
    attached = make(make_processor("seamless_m4t"), tmp_path, data_dir=folder).attach(references)
    shutil.copy(clips[4], files[1])
    with pytest.raises(MissingEntryError, match=r"0001\.wav has changed since the reference was made"):
        attached.__getitems__([0, 1])


@pytest.mark.parametrize("on_error", ["null", "skip"])
def test_rows_without_features_are_tried_again(on_error, files, clips, wav2vec2, tmp_path):
    files[1].rename(tmp_path / "away")
    files[2].write_bytes(b"no audio")

    def run():
        cached_features = make(wav2vec2, tmp_path, on_error=on_error)
        return list(cached_features.map(json_dataset(files, tmp_path))), cached_features.stats

    rows, stats = run()
    assert_features(rows, [clips[0], None, None, clips[3]] if on_error == "null" else [clips[0], clips[3]], wav2vec2)
    assert stats.computed == 2
    (tmp_path / "away").rename(files[1])
    shutil.copy(clips[2], files[2])
    rows, stats = run()
    assert_features(rows, clips[:4], wav2vec2)
    assert (stats.computed, stats.hits) == (2, 2)


def test_rows_without_features_are_tried_again_where_no_file_tells(clips, wav2vec2, tmp_path, monkeypatch):
    """An address that did not answer in the first run."""
    paths = [f"memory://clips/{index}.wav" for index in range(3)]
    import fsspec

    memory = fsspec.filesystem("memory")
    for path, clip in list(zip(paths, clips, strict=False))[:2]:
        memory.pipe(path, clip.read_bytes())

    def run():
        cached_features = make(wav2vec2, tmp_path, on_error="null")
        return list(cached_features.map(json_dataset(paths, tmp_path))), cached_features

    rows, _ = run()
    assert_features(rows, [*clips[:2], None], wav2vec2)
    rows, cached_features = run()
    assert_features(rows, [*clips[:2], None], wav2vec2)
    assert [clip.clip for clip in cached_features.bad_clips] == [paths[2]]
    assert cached_features.stats.computed == cached_features.stats.hits == 0
    memory.pipe(paths[2], clips[2].read_bytes())
    rows, cached_features = run()
    assert_features(rows, clips[:3], wav2vec2)
    assert cached_features.stats.computed == 1


def test_an_attach_tries_rows_without_features_again(files, clips, wav2vec2, tmp_path):
    cached_features, dataset = make(wav2vec2, tmp_path, on_error="null"), data.of_paths(files)
    files[1].rename(tmp_path / "away")
    attached = cached_features.attach(cached_features.map(dataset))
    assert_features(attached.__getitems__([0, 1]), [clips[0], None], wav2vec2)
    (tmp_path / "away").rename(files[1])
    assert_features(attached.__getitems__([0, 1]), clips[:2], wav2vec2)


def test_an_entry_that_is_gone_counts_one_clip_as_one(clips, wav2vec2, tmp_path):
    cached_features = make(wav2vec2, tmp_path)
    references = cached_features.map(data.in_memory(clips))
    entries = sorted((tmp_path / "root" / "features").rglob("*.npz"))
    entries[0].unlink()
    before = cached_features.stats
    assert_features(cached_features.attach(references).__getitems__(range(6)), clips, wav2vec2)
    stats = cached_features.stats - before
    assert (stats.computed, stats.misses, stats.hits) == (1, 1, 5)
    assert sorted((tmp_path / "root" / "features").rglob("*.npz")) == entries


def test_rows_of_one_clip_share_no_json_outputs(clips, tmp_path):
    def front_end(waveform, sampling_rate):
        return {"x": waveform[:5].copy(), "sizes": {"a": [1, 2]}}

    cached_features = CachedFeatures(front_end, tmp_path / "root", identity="sizes", sampling_rate=8000)
    references = cached_features.map(data.in_memory([clips[0]] * 3), remove_columns="audio")
    for form in (cached_features.attach(references)[:], next(cached_features.attach(references).iter(3))):
        form["sizes"][0]["a"].append(3)
        form["x"][0][:] = 9
        assert form["sizes"][1:] == [{"a": [1, 2]}] * 2
        assert not np.array_equal(form["x"][1], form["x"][0])

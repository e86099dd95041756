"""What runs used is written down, a batch at a time, and nothing depends on it."""

from __future__ import annotations

import calendar
import gc
import gzip
import json
import logging
import multiprocessing
import os
import platform
import shutil
import threading
import time
from pathlib import Path

import audio_datasets as data
import multiprocess
import pytest
import soundfile

from hf_audio_cache import AudioCacheKey, CachedFeatures, CacheRoot, verify
from hf_audio_cache.cache import access_log
from hf_audio_cache.cache.access_log import UseRecorder
from hf_audio_cache.cache.access_records import check_use, last_uses, names_of_run, read_figures, records_of
from hf_audio_cache.errors import CorruptEntryError
from hf_audio_cache.stores import LocalStore, open_store

N_CLIPS = 8


@pytest.fixture(scope="module")
def clips(prompts):
    """Eight prompts of about a second."""
    return data.shortest(prompts, 200)[-N_CLIPS:]


def energy(waveform, sampling_rate):
    return {"energy": waveform[: len(waveform) // 80 * 80].reshape(-1, 80).max(axis=1)}


def make(root):
    """Return a cache that stores all, whether it pays or not."""
    return CachedFeatures(energy, root, identity="energy-v1", sampling_rate=8000, features="always", waveforms="always")


def audio(clips):
    return {"audio": data.columns(clips)["audio"]}


def entries(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.glob("*/??/*.npz")}


def features(root: Path) -> set[str]:
    return {name for name in entries(root) if name.startswith("features/")}


def recorded(root: Path) -> list[list[str]]:
    """Return the names in each record, by the file system's account."""
    return [gzip.decompress(path.read_bytes()).decode().split("\n") for path in sorted(root.glob("access/*/*.gz"))]


def recorded_names(root: Path) -> set[str]:
    return {name for names in recorded(root) for name in names}


def test_a_run_records_each_entry_once(tmp_path, clips):
    cached_features = make(tmp_path)
    for _ in range(3):
        cached_features(audio(clips))
    assert recorded(tmp_path) == []  # nothing is written per hit
    cached_features.pipeline.access_log.finish()
    [names] = recorded(tmp_path)
    assert len(names) == len(set(names)) == 2 * N_CLIPS
    assert set(names) == entries(tmp_path)

    run = cached_features.pipeline.access_log.run
    [path] = [path for path in tmp_path.glob("runs/*/*.json") if not path.name.startswith("figures-")]
    assert path.relative_to(tmp_path) == Path("runs", run.id, f"{cached_features.processor_sha[:12]}.json")
    assert json.loads(path.read_text()) == {
        "run": run.id,
        "started": run.started,
        "user": os.environ.get("USER", ""),
        "host": platform.node(),
        "datasets": {},
        "processor": "energy-v1",
        "processor_sha": cached_features.processor_sha,
        "sampling_rate": 8000,
        "max_length_ms": 0,
        "auto_resample": False,
        "channels": "mean",
    }
    assert verify(tmp_path).is_clean
    assert verify(tmp_path).n_strangers == 0
    cached_features(audio(clips))
    cached_features.pipeline.access_log.finish()
    assert len(recorded(tmp_path)) == 1  # known today already


def test_the_rest_is_written_with_the_object_s_end(tmp_path, clips):
    cached_features = make(tmp_path)
    cached_features(audio(clips))
    del cached_features
    gc.collect()
    assert recorded_names(tmp_path) == entries(tmp_path)


def test_hits_of_another_run_are_its_own(tmp_path, clips):
    make(tmp_path).map(data.in_memory(clips))
    again = make(tmp_path)
    again(audio(clips[:3]))
    again.pipeline.access_log.finish()
    wanted = {
        f"features/{again.pipeline.key(data.sha256(clip), again.pipeline.identity()).name()}" for clip in clips[:3]
    }
    assert names_of_run(LocalStore(tmp_path), again.pipeline.access_log.run.id) == wanted
    assert names_of_run(LocalStore(tmp_path), "20200101T000000-00000000") == set()


@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_map_has_recorded_its_entries_when_it_returns(num_proc, tmp_path, clips):
    cached_features = make(tmp_path)
    cached_features.map(data.in_memory(clips), num_proc=num_proc)
    assert features(tmp_path) <= names_of_run(LocalStore(tmp_path), cached_features.pipeline.access_log.run.id)
    assert len(list((tmp_path / "runs").iterdir())) == 1  # its workers are the same run


def _use(cached_features, batch):
    cached_features(batch)


def test_forked_and_spawned_processes_record_under_the_same_run(tmp_path, clips):
    cached_features = make(tmp_path)
    cached_features(audio(clips[:4]))  # not written yet when the processes start: theirs to leave alone
    contexts = multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")
    for context, batch in zip(
        (*contexts, multiprocess.get_context("fork")), map(audio, (clips[4:6], clips[6:7], clips[7:])), strict=True
    ):  # the last are the workers of `datasets`
        process = context.Process(target=_use, args=(cached_features, batch))
        process.start()
        process.join()
        assert process.exitcode == 0
    assert sorted(map(len, recorded(tmp_path))) == [2, 2, 4]
    cached_features.pipeline.access_log.finish()
    assert sorted(map(len, recorded(tmp_path))) == [2, 2, 4, 8]
    assert names_of_run(LocalStore(tmp_path), cached_features.pipeline.access_log.run.id) == entries(tmp_path)


READER = """
import json, sys
import datasets, hf_audio_cache
rows = datasets.load_from_disk(sys.argv[1])
print(json.dumps(len([row["energy"] for row in rows])))
"""


def test_reading_references_is_a_run_of_its_own(tmp_path, clips):
    root = tmp_path / "root"
    make(root).map(data.in_memory(clips), remove_columns="audio").save_to_disk(tmp_path / "saved")
    shutil.rmtree(root / "access")
    shutil.rmtree(root / "runs")
    assert data.run_program(READER, tmp_path / "saved", has_torch=False) == N_CLIPS
    [figures, path] = sorted(root.glob("runs/*/*.json"))
    assert path.name == "references.json"
    assert read_figures(figures.read_bytes())[1].hits == N_CLIPS
    assert names_of_run(LocalStore(root), path.parent.name) == features(root)


def test_many_uses_are_written_while_the_run_goes_on(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(access_log, "_MAX_NAMES", 4)
    cached_features = make(tmp_path)
    for clip in clips:
        cached_features(audio([clip]))
    cached_features.pipeline.access_log._writer.wait()
    written = recorded(tmp_path)
    assert [len(names) for names in written] == [4] * (2 * N_CLIPS // 4)
    assert recorded_names(tmp_path) == entries(tmp_path)


def test_few_uses_are_written_after_a_while(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(access_log, "_MAX_SECONDS", 0.0)
    cached_features = make(tmp_path)
    cached_features(audio(clips[:1]))
    cached_features.pipeline.access_log._writer.wait()
    assert recorded_names(tmp_path) == entries(tmp_path)


def test_what_a_process_remembers_is_bounded(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(access_log, "_MAX_REMEMBERED", 4)
    cached_features = make(tmp_path)
    for _ in range(2):
        for clip in clips:
            cached_features(audio([clip]))
    cached_features.pipeline.access_log.finish()
    assert len(cached_features.pipeline.access_log._of_process()._known) <= 6
    assert recorded_names(tmp_path) == entries(tmp_path)


@pytest.mark.parametrize("settings", [{"read_only": True}, {"write": "none"}])
def test_a_root_that_is_only_read_gets_no_record(settings, tmp_path, clips):
    make(tmp_path)(audio(clips))
    gc.collect()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    reader = make(CacheRoot(tmp_path, **settings))
    reader(audio(clips))
    assert reader.stats.hits == N_CLIPS
    reader.pipeline.access_log.finish()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_root_that_was_deleted_does_not_come_back(tmp_path, clips):
    root = tmp_path / "root"
    cached_features = make(root)
    cached_features(audio(clips))
    shutil.rmtree(root)
    cached_features.pipeline.access_log.finish()
    del cached_features
    gc.collect()
    assert not root.exists()


def test_a_record_that_cannot_be_written_costs_nothing(tmp_path, clips, caplog):
    (tmp_path / "access").write_bytes(b"a stranger's file, in the way")
    caplog.set_level(logging.INFO, "hf_audio_cache")
    cached_features = make(CacheRoot(tmp_path, strict=True))
    for _ in range(2):
        rows = cached_features(audio(clips))["energy"]
        cached_features.pipeline.access_log.finish()
    for row, clip in zip(rows, clips, strict=True):
        data.assert_same_bits(row, energy(soundfile.read(clip, dtype="float32")[0], 8000)["energy"])
    assert cached_features.stats.write_errors == 0
    assert caplog.records == []
    assert (tmp_path / "access").read_bytes() == b"a stranger's file, in the way"


def test_a_far_root_has_its_records_and_the_near_tier_none(clips, tmp_path):
    url = "memory://uses/root"
    cached_features = make(CacheRoot(url, near=tmp_path / "near"))
    cached_features.map(data.in_memory(clips))
    store = open_store(url, near=None)
    used = names_of_run(store, cached_features.pipeline.access_log.run.id)
    assert used == {name for name in store.names() if name.endswith(".npz")}
    assert len(used) == 2 * N_CLIPS
    assert {path.name for path in (tmp_path / "near" / "memory" / "uses" / "root").iterdir()} == {
        "features",
        "waveforms",
        "processors",
        "CACHEDIR.TAG",
    }


def test_when_an_entry_was_used_is_on_the_day_that_its_record_says(tmp_path):
    store = LocalStore(tmp_path)
    name = f"features/ab/ab{'0' * 62}.{'1' * 12}.16000.0.npz"
    new_year = calendar.timegm((2026, 1, 1, 0, 0, 0))
    cases = {"2026-01-01": new_year + 86_400.0, "2025-12-30": new_year - 86_400.0}
    for day, expected in cases.items():
        store.put(f"access/{day}/20260101T120000-0a1b2c3d-0123456789ab-0.gz", gzip.compress(name.encode()))
        assert last_uses(store) == {name: expected}  # written later than that day: its end
        store.delete(list(store.names("access/")))
    today = time.strftime("%Y-%m-%d", time.gmtime())
    store.put(f"access/{today}/20260101T120000-0a1b2c3d-0123456789ab-0.gz", gzip.compress(name.encode()))
    [found] = store.scan("access/")
    assert last_uses(store) == {name: found.modified}


BAD = {
    "no gzip": b"hello",
    "cut": gzip.compress(b"features/ab/" * 100)[:-20],
    "other names": gzip.compress(b"../../etc/passwd"),
    "not ASCII": gzip.compress("features/ab/é".encode()),
    "too long": gzip.compress((f"features/ab/{'a' * 100}\n" * 50_000).encode()),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_damaged_record_says_nothing_and_is_named(kind, tmp_path):
    name = "access/2026-01-01/20260101T120000-0a1b2c3d-0123456789ab-0.gz"
    LocalStore(tmp_path).put(name, BAD[kind])
    assert list(records_of(LocalStore(tmp_path))) == []
    assert isinstance(check_use(name, BAD[kind]), CorruptEntryError)
    report = verify(tmp_path, repair=True)
    assert (list(report.bad), report.n_deleted) == ([name], 1)
    assert verify(tmp_path).is_clean


def test_a_record_of_a_run_is_of_that_run():
    run = "20260101T120000-0a1b2c3d"
    name = f"runs/{run}/0123456789ab.json"
    assert check_use(name, json.dumps({"run": run}).encode()) is None
    assert isinstance(check_use(name, b'{"run": "another"}'), CorruptEntryError)


def test_a_record_may_name_entries_of_a_later_version(tmp_path):
    """What a later version adds to a name says nothing against the record."""
    name = f"features/ab/{'ab' * 32}.0123456789ab.16000.0.rs.ch2.npz"
    record = "access/2026-01-01/20260101T120000-0a1b2c3d-0123456789ab-0.gz"
    LocalStore(tmp_path).put(record, gzip.compress(name.encode()))
    assert [names for _, names in records_of(LocalStore(tmp_path))] == [[name]]
    assert verify(tmp_path).is_clean


def test_a_log_of_a_remote_root_that_is_collected_hands_nothing_over_and_is_written_later():
    """The garbage collector may call in the middle of what holds a lock of a thread pool."""
    url = "memory://collected"
    log, store = UseRecorder(open_store(url)), open_store(url)
    name = AudioCacheKey("ab" * 32, "7d" * 32, 16_000, 0).name()
    store.put(f"features/{name}", b"content")
    log.add("features", [name])
    run = log.run.id
    before = threading.active_count()
    del log
    gc.collect()
    assert threading.active_count() == before
    assert names_of_run(store, run) == set()
    UseRecorder(open_store("memory://other")).finish()  # any other log of this process
    assert names_of_run(store, run) == {f"features/{name}"}

"""Remembered hashes of files: found again only for the very same content, and never in the way."""

import concurrent.futures
import contextlib
import hashlib
import itertools
import multiprocessing
import os
import shutil
import sqlite3
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import audio_datasets as data
import numpy as np
import pytest
from children import in_child

from hf_audio_cache import CachedFeatures
from hf_audio_cache.audio import file_hashes
from hf_audio_cache.audio.file_hashes import FileState, files_sha256, find_hashes, learn_hashes
from hf_audio_cache.audio.source import read_source
from hf_audio_cache.pipeline import audio_reader
from hf_audio_cache.support.process_local import ProcessLocal


@pytest.fixture(autouse=True)
def database(tmp_path, monkeypatch):
    path = tmp_path / "hashes.sqlite"
    monkeypatch.setenv("HF_AUDIO_CACHE_HASHES", str(path))
    return path


@pytest.fixture
def clips(tmp_path, prompts):
    """Copies of clips, settled long ago."""
    folder = tmp_path / "clips"
    folder.mkdir()
    copies = [Path(shutil.copy(path, folder / f"{number}.wav")) for number, path in enumerate(prompts[:10])]
    settle(*copies)
    return copies


def settle(*paths):
    """Wait until the last change of files is one that no further change can be confused with."""
    last = max(max(path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in paths)
    time.sleep(max(0.0, (last + file_hashes._TICK - time.time_ns()) / 1e9) + 0.05)


@pytest.fixture(autouse=True)
def _short_tick(monkeypatch):
    monkeypatch.setattr(file_hashes, "_TICK", 300_000_000)  # what is tested is the rule, not how long one waits


def learn(paths):
    sources = [read_source(str(path)) for path in paths]
    learn_hashes((source.file, source.blob_sha) for source in sources if source.file is not None)


def find(paths):
    return find_hashes([str(path) for path in paths])


@pytest.fixture
def in_a_new_process(monkeypatch):
    """What was opened is forgotten, as in a new process."""
    return lambda: monkeypatch.setattr(file_hashes, "_opened", ProcessLocal())


def sha_of(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_forked_process_finds_hashes_and_what_it_learns_others_find(clips):
    learn(clips[:5])
    expected = [sha_of(path) for path in clips[:5]] + [None] * 5
    assert find(clips) == in_child(find, clips) == expected
    in_child(learn, clips[5:])
    assert find(clips) == [sha_of(path) for path in clips]


@pytest.fixture
def set_read_only(monkeypatch):
    """``set_read_only(True)``: what lies in the folder of the clips is on a read-only mount."""
    statvfs = os.statvfs
    now = {"flag": 0}

    def answer(path):
        found = statvfs(path)
        return SimpleNamespace(f_flag=found.f_flag | now["flag"]) if "/clips/" in str(path) else found

    monkeypatch.setattr(os, "statvfs", answer)
    return lambda is_read_only: now.update(flag=os.ST_RDONLY if is_read_only else 0)


def test_on_a_read_only_mount_nothing_is_believed_or_remembered(clips, database, set_read_only):
    expected = [sha_of(path) for path in clips]
    learn(clips[:5])
    set_read_only(True)
    assert find(clips) == [None] * 10
    learn(clips)
    set_read_only(False)
    assert find(clips) == expected[:5] + [None] * 5


def test_an_image_that_was_mounted_in_the_place_of_another_is_read(clips, set_read_only, tmp_path, monkeypatch):
    """Two squashfs images have the same device, inodes, sizes and times, if they were made alike."""
    cached_features = CachedFeatures(loudness, tmp_path / "root", identity="loudness", sampling_rate=8000)
    set_read_only(True)
    rows = [cached_features({"audio": str(path)})["input_features"][0] for path in clips]
    before = {str(path): os.stat(path) for path in clips}
    contents = [path.read_bytes() for path in clips]
    for path, content in zip(clips, contents[::-1], strict=True):
        path.write_bytes(content)
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **how: before.get(str(path)) or stat(path, **how))
    assert [cached_features({"audio": str(path)})["input_features"][0] for path in clips] == rows[::-1]
    assert (len(set(rows)), cached_features.stats.computed) == (10, 10)


def test_a_digest_of_files_changes_with_each_of_them(clips, set_read_only, monkeypatch):
    read = []

    def digest():
        read.clear()
        return files_sha256([str(path) for path in clips], lambda path: read.append(path) or sha_of(path))

    first = digest()
    assert (digest(), read) == (first, [])
    content = clips[3].read_bytes()
    clips[3].unlink()
    gone = digest()
    assert (gone != first, read) == (True, [])
    clips[3].write_bytes(content)
    assert digest() not in (first, gone)
    assert read in ([], [str(clips[3])])  # it has changed just now, unless the machine is slow
    set_read_only(True)
    image = digest()
    assert (digest(), len(read)) == (image, 10)
    before = {str(path): os.stat(path) for path in clips}
    clips[3].write_bytes(content[:-2] + b"??")
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **how: before.get(str(path)) or stat(path, **how))
    assert digest() != image


def loudness(waveform, sampling_rate):
    """Return a number that no other clip has."""
    return np.array([np.abs(waveform).sum()])


def append(path):
    with open(path, "ab") as file:
        file.write(b"\0")


def overwrite_in_place(path):
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"\1\2\3\4")


def overwrite_and_set_the_time_back(path):
    status = path.stat()
    overwrite_in_place(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_another_of_its_size_and_time(path):
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[100] ^= 255
    other = path.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize(
    "change", [append, overwrite_in_place, overwrite_and_set_the_time_back, replace_by_another_of_its_size_and_time]
)
def test_a_file_that_changed_is_unknown(clips, change):
    learn(clips)
    change(clips[3])
    expected = [sha_of(path) for path in clips]
    expected[3] = None
    assert find(clips) == expected


def test_a_file_that_has_just_changed_is_not_remembered(clips):
    """A second change in the same tick would leave size and times as they are."""
    overwrite_in_place(clips[0])
    learn(clips)
    assert find(clips[:1]) == [None]
    settle(clips[0])
    learn(clips)
    assert find(clips[:1]) == [sha_of(clips[0])]


def test_a_file_that_had_just_changed_when_it_was_read_is_not_remembered_later(clips):
    """It may have changed again in that tick, while the features of its batch were looked up."""
    overwrite_in_place(clips[0])
    source = read_source(str(clips[0]))
    settle(clips[0])
    learn_hashes([(source.file, source.blob_sha)] if source.file is not None else [])
    assert find(clips[:1]) == [None]


def test_a_file_that_is_written_while_it_is_read_has_no_state(clips, monkeypatch):
    fstat = os.fstat

    def fstat_and_append(descriptor):
        status = fstat(descriptor)
        append(clips[0])
        return status

    monkeypatch.setattr(os, "fstat", fstat_and_append)
    source = read_source(str(clips[0]))
    assert source.file is None


def test_a_row_that_was_damaged_is_not_believed(clips, database):
    learn(clips)
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT path, sha FROM files ORDER BY path").fetchall()
        for (path, sha), (_, other) in zip(rows, [*rows[1:], rows[0]], strict=True):
            wrong = other if rows.index((path, sha)) % 2 else bytes([sha[0] ^ 1]) + sha[1:]
            connection.execute("UPDATE files SET sha = ? WHERE path = ?", (wrong, path))
    connection.close()
    assert find(clips) == [None] * 10


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_database_is_replaced(clips, database, content, in_a_new_process):
    database.write_bytes(content)
    learn(clips)
    assert find(clips[:1]) == [None]
    in_a_new_process()
    learn(clips)
    assert find(clips[:1]) == [sha_of(clips[0])]


def test_what_another_process_has_locked_is_learned_later(clips, database):
    learn(clips[:5])
    with contextlib.closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        learn(clips[5:])
        assert find(clips) == [sha_of(path) for path in clips[:5]] + [None] * 5
        other.rollback()
    learn(clips[5:])
    assert find(clips) == [sha_of(path) for path in clips]


@pytest.mark.parametrize("damage", ["DROP TABLE files", "UPDATE files SET sha = 5"])
def test_a_database_that_another_process_damages_remembers_nothing_more(clips, database, damage):
    learn(clips)
    with contextlib.closing(sqlite3.connect(database)) as other, other:
        other.execute(damage)
    assert find(clips[:2]) == [None, None]
    learn(clips)
    assert find(clips[:2]) == [None, None]


def test_a_relative_database_below_a_folder_that_is_gone_remembers_nothing(clips, monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setenv("HF_AUDIO_CACHE_HASHES", "hashes.sqlite")
    learn(clips[:1])
    assert find(clips[:1]) == [None]


def test_where_none_can_be_kept_nothing_is_remembered(clips, monkeypatch, tmp_path):
    for place in ("", str(clips[0] / "below a file.sqlite"), str(tmp_path)):
        monkeypatch.setenv("HF_AUDIO_CACHE_HASHES", place)
        learn(clips)
        assert find(clips[:1]) == [None]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips"]


def test_looking_makes_nothing(clips, database):
    assert find_hashes([str(clips[0]), None]) == [None, None]
    assert not database.exists()


def test_only_its_owner_can_read_it(clips, database):
    learn(clips)
    assert database.stat().st_mode & 0o077 == 0


def learn_and_find(paths):
    end = time.monotonic() + 60
    for turn in itertools.count():
        learn(paths)  # learns nothing while another process has the database locked
        found = [find([path]) == [sha_of(path)] for path in paths]
        if (turn >= 20 and all(found)) or time.monotonic() > end:
            return found


def test_processes_learn_at_the_same_time_and_others_find_it(clips):
    paths = [str(path) for path in clips]
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(learn_and_find, [paths] * 2))
    assert results == [[True] * 10] * 2
    assert find(clips) == [sha_of(path) for path in clips]


@pytest.mark.parametrize("form", ["a dict", "a path"])
def test_a_warm_epoch_opens_no_audio_file(tmp_path, clips, form):
    cached_features = CachedFeatures(
        lambda waveform, rate: waveform[:5], tmp_path / "root", identity="x", sampling_rate=8000
    )
    cells = [{"path": str(path), "bytes": None} if form == "a dict" else str(path) for path in clips]
    cold = cached_features({"audio": cells})["input_features"]
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
    warm = cached_features({"audio": cells})["input_features"]
    seen = [path for path in opened if isinstance(path, str) and path.endswith(".wav")]
    assert seen == []
    assert [a.tobytes() for a in warm] == [b.tobytes() for b in cold]
    assert cached_features.stats.hits == 10
    assert any(str(path).endswith(".npz") for path in opened)  # so the hook sees what is opened


def test_a_file_whose_features_are_gone_is_read_again(tmp_path, clips):
    cached_features = CachedFeatures(
        lambda waveform, rate: waveform[:5], tmp_path / "root", identity="x", sampling_rate=8000
    )
    dataset = data.of_paths(clips)
    cold = [row["input_features"] for row in cached_features.attach(dataset)]
    cached_features.audio_cache.clear()
    assert [row["input_features"].tobytes() for row in cached_features.attach(dataset)] == [a.tobytes() for a in cold]
    overwrite_in_place(clips[3])
    changed = [row["input_features"].tobytes() for row in cached_features.attach(dataset)]
    fresh = CachedFeatures(lambda waveform, rate: waveform[:5], tmp_path / "fresh", identity="x", sampling_rate=8000)
    assert changed == [row["input_features"].tobytes() for row in fresh.attach(dataset)]


def test_a_file_that_changes_between_its_hash_and_its_reading_gives_its_new_features(tmp_path, clips, monkeypatch):
    def samples(waveform, rate):
        return waveform[20:40]

    cached_features = CachedFeatures(samples, tmp_path / "root", identity="x", sampling_rate=8000)
    learn(clips)

    def find_and_change(paths):
        shas = find_hashes(paths)
        overwrite_in_place(clips[3])
        return shas

    monkeypatch.setattr(audio_reader, "find_hashes", find_and_change)
    results = cached_features({"audio": [str(path) for path in clips]})["input_features"]
    fresh = CachedFeatures(samples, tmp_path / "fresh", identity="x", sampling_rate=8000)
    expected = fresh({"audio": [{"bytes": path.read_bytes()} for path in clips]})["input_features"]
    assert [a.tobytes() for a in results] == [b.tobytes() for b in expected]


def test_a_state_is_that_of_a_regular_file(tmp_path):
    assert FileState.of(str(tmp_path), os.stat(tmp_path)) is None

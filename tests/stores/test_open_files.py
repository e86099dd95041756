"""Files that stay open, in programs that close them."""

from __future__ import annotations

import os

import pytest

from hf_audio_cache.stores import LocalStore
from hf_audio_cache.stores.open_files import OpenFile, OpenFiles


@pytest.fixture
def store(tmp_path):
    store = LocalStore(tmp_path)
    assert store.put_many({name: name.encode() * 3 for name in ("abc", "xyz")}) == {}
    return store


def test_a_file_that_the_program_closed_is_opened_again(store, tmp_path):
    assert store.get_ranges([("abc", 1, 4)]) == [b"bcab"]
    number = store._open_files._files["abc"].descriptor
    os.close(number)
    other = os.open(tmp_path / "xyz", os.O_RDONLY)
    assert other == number  # its number comes again
    assert store.get_ranges([("abc", 1, 4), ("xyz", 0, 3)]) == [b"bcab", b"xyz"]
    assert os.pread(other, 3, 0) == b"xyz"
    os.close(other)


def test_no_more_than_some_stay_open(store, monkeypatch, tmp_path):
    files = OpenFiles()
    monkeypatch.setattr("hf_audio_cache.stores.open_files._MOST_OPEN", 1)
    for _ in range(3):
        assert files.read("abc", store.open_file, 0, 3) == b"abc"
        assert files.read("xyz", store.open_file, 0, 3) == b"xyz"
        assert len(files._files) == 1
    files.keep_only({"abc"})
    assert files._files == {}


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system has no such call")
def test_parts_are_announced_but_not_those_that_follow_another(store, monkeypatch):
    announced = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, *part: announced.append(part[:2]))
    files = OpenFiles()
    files.read("abc", store.open_file, 0, 1)
    kept = [(9000, 10), (20_000, 10)]
    files.announce([("abc", *kept[1]), ("abc", 9010, 990), ("abc", *kept[0]), ("abc", 10_500, 500), ("xyz", 0, 3)])
    assert announced == kept  # what follows comes with them, and "xyz" is not open


def test_what_comes_from_the_disk_is_announced_from_the_next_batch_on(store, monkeypatch):
    announced = []
    monkeypatch.setattr(OpenFiles, "announce", lambda files, ranges: announced.append(len(ranges)))
    ranges = [("abc", 0, 3), ("xyz", 0, 3)]
    for limit, count in [(1e9, 0), (-1.0, 0), (1e9, 1), (1e9, 1)]:
        for name in ("_CACHED_SECONDS", "_ANNOUNCED_SECONDS"):
            monkeypatch.setattr(f"hf_audio_cache.stores.local.{name}", limit)
        assert store.get_ranges(ranges) == [b"abc", b"xyz"]
        assert len(announced) == count


def test_what_is_no_file_is_not_opened(store, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("abc")
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "link", "pipe"):
        with pytest.raises(OSError, match=r"regular file|symbolic links|directory"):
            store.open_file(name)


def test_a_file_is_closed_with_its_last_user(store, tmp_path):
    file = store.open_file("abc")
    assert (file.read(3, 100), file.n_bytes) == (b"abcabc", 9)
    number = file.descriptor
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        OpenFile(number)

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
    number = store._open_files._files["abc"]._descriptor
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
    number = file._descriptor
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        OpenFile(number)

"""The file system of a root: left when it blocks, made anew in a forked process."""

from __future__ import annotations

import concurrent.futures

import fsspec
import pytest
from remote_stores import NAMES, assert_unreachable, in_fork, new_bucket

from hf_audio_cache.stores.remote.fsspec_store import FsspecStore

pytestmark = pytest.mark.servers


def test_a_file_system_that_blocks_is_left_and_made_again(blocking):
    store = FsspecStore("blocking://root", timeouts=(0.2, 0.3))
    store.put_many(dict.fromkeys(NAMES, b"content"))
    made_before = blocking.made
    blocking.hangs.set()
    assert_unreachable(store.get_many(NAMES))
    blocking.hangs.clear()
    assert store.get_many(NAMES) == [b"content"] * 64
    assert blocking.made == made_before + 1


def test_a_file_system_without_a_loop_is_used_by_one_thread_at_a_time(blocking):
    store = FsspecStore("blocking://root")
    store.put_many(dict.fromkeys(NAMES, b"content"))
    blocking.most = 0
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for got in threads.map(store.get_many, [NAMES[:16]] * 4):
            assert got == [b"content"] * 16
    assert blocking.most == 1


def test_a_file_system_of_a_user_is_made_again_in_a_forked_child(weed):
    system = fsspec.filesystem("s3", **weed.storage_options)
    store = FsspecStore(weed.url(new_bucket(weed)), filesystem=system)
    store.put("name", b"content")
    assert store._files.open().system is system

    def look():
        return store.get("name"), store._files.open().system is system

    assert in_fork(look) == (b"content", False)

"""Many requests at once, up to a bound, and none to a store that has stopped answering."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from remote_stores import NAMES, SOON, CountingFileSystem, assert_unreachable, timed

from hf_audio_cache.stores.remote.fsspec_store import FsspecStore

pytestmark = pytest.mark.servers


def test_objects_are_read_at_once_up_to_a_bound():
    system = CountingFileSystem()
    store = FsspecStore("root", filesystem=system, concurrency=8)
    names = [f"{i}" for i in range(64)]
    assert store.get_many(names) == [f"root/{name}".encode() for name in names]
    assert system.most == 8


def test_a_hanging_batch_is_given_up_after_its_first_objects():
    system = CountingFileSystem()
    system.answer = "hang"
    store = FsspecStore("root", filesystem=system, concurrency=8, timeouts=(0.2, 0.3))
    got, took = timed(store.get_many, NAMES)
    assert_unreachable(got)
    assert took < SOON
    assert system.asked == 8
    assert system.running == 0
    assert "no answer in 0.3 s" in str(got[0])
    assert "not asked, since" in str(got[-1])


def test_a_refusing_batch_is_given_up_after_as_many_as_run_at_once():
    system = CountingFileSystem()
    system.answer = "refuse"
    store = FsspecStore("root", filesystem=system, concurrency=8)
    got = store.get_many(NAMES)
    assert_unreachable(got)
    assert 8 <= system.asked < 32


@pytest.fixture
def interruptible():
    """What is begun in the background of a shell takes no interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_a_batch():
    system = CountingFileSystem()
    system.answer = "hang"
    store = FsspecStore("root", filesystem=system)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        store.get_many(NAMES)
    until = time.monotonic() + 5
    while system.running and time.monotonic() < until:
        time.sleep(0.01)
    assert system.running == 0

"""Storing behind the computation of the next clip."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from children import start_child

from hf_audio_cache import AudioCache, AudioCacheKey
from hf_audio_cache.errors import StoreError, UnstorableOutputError
from hf_audio_cache.support.write_behind import Writer


def key_of(number):
    return AudioCacheKey(f"{number:064x}", "ab" * 32, 16_000, 0)


class Gate:
    """What stores for these tests: it waits until it is opened, and keeps what it is given."""

    def __init__(self):
        self.opened, self.entered, self.stored = threading.Event(), threading.Event(), []

    def __call__(self, content):
        self.entered.set()
        assert self.opened.wait(30)
        self.stored.append(content)
        return []


def test_storing_goes_on_while_the_caller_computes():
    writer, gate = Writer(), Gate()
    writer.submit(lambda: gate(b"a"))
    assert gate.entered.wait(30)  # it began, and we are here
    gate.opened.set()
    assert writer.wait() == []
    assert gate.stored == [b"a"]


def test_no_more_than_a_bounded_number_is_pending():
    writer, gate = Writer(), Gate()
    submitted = []

    def submit_many():
        for number in range(30):
            writer.submit(lambda: gate(b"x"))
            submitted.append(number)

    thread = threading.Thread(target=submit_many)
    thread.start()
    time.sleep(0.3)
    assert 1 <= len(submitted) <= 8
    gate.opened.set()
    thread.join()
    writer.wait()
    assert len(gate.stored) == 30


def test_a_thread_waits_for_what_it_submitted_also_while_others_wait():
    """Else it would hand out arrays, for their owner to change, that are still to be stored."""
    writer, first, second = Writer(), Gate(), Gate()
    error = StoreError("could not write ab/name: No space left on device", name="ab/name")
    submitted, ended, results = threading.Event(), threading.Event(), []

    def submit_two_and_wait():
        writer.submit(lambda: first(b"a"))
        writer.submit(lambda: second(b"b") or [error])
        submitted.set()
        results.extend(writer.wait())
        ended.set()

    owner = threading.Thread(target=submit_two_and_wait)
    owner.start()
    assert submitted.wait(30)
    other = threading.Thread(target=lambda: results.append(writer.wait()))
    other.start()
    time.sleep(0.1)  # both wait
    first.opened.set()
    assert not ended.wait(0.3)
    second.opened.set()
    owner.join(30)
    other.join(30)
    assert sorted(results, key=str) == sorted([error, []], key=str)


def test_what_could_not_be_stored_is_returned_once():
    writer, error = Writer(), StoreError("could not write ab/name: No space left on device", name="ab/name")
    writer.submit(lambda: [error])
    writer.submit(list)
    assert writer.wait() == [error]
    assert writer.wait() == []


def test_an_output_that_cannot_be_stored_is_raised_where_it_was_computed(tmp_path):
    cache, writer = AudioCache(tmp_path), Writer()
    writer.submit(lambda: cache.store_many({key_of(1): {"x": object()}}))
    with pytest.raises(UnstorableOutputError, match="'x'"):
        writer.wait()
    assert writer.wait() == []
    assert not cache.exists(key_of(1))


def child_of_a_fork(writer, path):
    writer.submit(lambda: path.write_bytes(b"b") and [])
    writer.wait()


def test_a_fork_finds_all_written_and_its_child_can_write(tmp_path):
    writer, gate = Writer(), Gate()
    writer.submit(lambda: gate(b"a"))
    threading.Timer(0.1, gate.opened.set).start()
    child = start_child(child_of_a_fork, writer, tmp_path / "b")
    assert gate.stored == [b"a"]  # before the fork returned
    child.join(30)
    assert child.exitcode == 0
    assert (tmp_path / "b").read_bytes() == b"b"


def test_a_process_that_ends_waits_for_what_is_pending(tmp_path):
    program = (
        "import pathlib, sys, time\n"
        "from hf_audio_cache.support.write_behind import Writer\n"
        "def write():\n"
        "    time.sleep(0.3)\n"
        "    pathlib.Path(sys.argv[1]).write_bytes(b'a')\n"
        "    return []\n"
        "Writer().submit(write)\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "a"], check=True, timeout=60, env=os.environ)
    assert (tmp_path / "a").read_bytes() == b"a"


def test_what_is_asked_for_at_once_is_done_by_the_caller():
    writer = Writer()
    error = StoreError("not stored")
    names = []
    writer.submit(lambda: names.append(threading.current_thread().name) or [error], at_once=True)
    assert names == [threading.current_thread().name]
    assert writer.wait() == [error]
    assert writer.wait() == []

"""What belongs to one process, and in which order a fork waits for the rest."""

from __future__ import annotations

import concurrent.futures
import importlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from children import in_child

import hf_audio_cache
from hf_audio_cache.audio import libsndfile
from hf_audio_cache.support import write_behind
from hf_audio_cache.support.process_local import ProcessLocal, finalize_here, is_forked
from hf_audio_cache.transform import prefetch


class Probe:
    """Stands for a reader of rows ahead, its lock and a writer; notes what a fork asks of it, and whether it may open.

    A fork keeps others from opening audio files; `is_open_to_others` says whether it does at that moment.
    """

    def __init__(self):
        self.noted = []
        self.reading = self  # the lock of a reader

    def note(self, what):
        self.noted.append((what, not libsndfile._OPENING.locked()))

    def acquire(self, timeout):
        self.note("rows wait")
        return True

    def release(self):
        self.note("rows go on in the parent")

    def go_on_without_thread(self):
        self.note("rows go on in the child")

    @property
    def _unfinished(self):
        self.note("writes are waited for")
        return set()

    def _begin(self):
        self.note("writes begin anew")


def test_a_fork_stops_rows_then_openings_then_waits_for_writes_and_goes_back_the_same_way():
    """A row that is being read opens audio and submits writes, so that it must be waited for first."""
    probe = Probe()
    prefetch._readers.add(probe)
    write_behind._WRITERS.add(probe)
    before = [("rows wait", True), ("writes are waited for", False)]
    noted_in_child = in_child(lambda: probe.noted)
    assert noted_in_child == [*before, ("writes begin anew", False), ("rows go on in the child", True)]
    assert probe.noted == [*before, ("rows go on in the parent", True)]


def test_a_forked_child_makes_a_value_of_its_own():
    local = ProcessLocal()
    mine = local.get(object)
    assert in_child(lambda: (local.peek() is None, local.get(lambda: "the child's"), local.peek())) == (
        True,
        *["the child's"] * 2,
    )
    assert local.peek() is local.get(object) is mine


def test_two_threads_that_make_a_value_at_once_get_the_same():
    local, both_make = ProcessLocal(), threading.Barrier(2)

    def make():
        both_make.wait(30)
        return object()

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        first, second = threads.map(local.get, [make, make])
    assert first is second


def test_only_the_value_that_is_still_in_use_is_dropped():
    local = ProcessLocal()
    old = local.get(object)
    local.set(new := object())
    local.drop(old)
    assert local.peek() is new
    local.drop(new)
    assert local.peek() is None


def test_what_a_process_does_at_the_end_of_an_object_its_children_do_not():
    class Owner:
        pass

    done, owners = [], [Owner()]
    finalize_here(owners[0], done.append, "the end")
    assert in_child(lambda: owners.clear() or list(done)) == []
    owners.clear()
    assert done == ["the end"]


_owners = []  # as a worker's global variables keep what it made, until it ends


def _finish_into(path, *whats):
    def write(what):
        with open(path, "a") as file:
            file.write(what)

    for what in whats:
        _owners.append(type("Owner", (), {})())
        finalize_here(_owners[-1], write, what)


@pytest.mark.parametrize("module", ["multiprocessing", "multiprocess"])
def test_a_forked_worker_does_at_its_end_what_any_process_does_the_last_first(module, tmp_path):
    """It ends by `os._exit`, which calls no finalizers. `datasets` has workers of multiprocess."""
    _finish_into(tmp_path / "of_parent", "a")
    context = importlib.import_module(module).get_context("fork")
    worker = context.Process(target=_finish_into, args=(tmp_path / "done", "a", "b", "c"))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert (tmp_path / "done").read_text() == "cba"
    assert not (tmp_path / "of_parent").exists()
    _owners.clear()
    assert (tmp_path / "of_parent").read_text() == "a"


def test_a_process_knows_whether_it_was_forked():
    assert not is_forked()
    assert in_child(is_forked)


# Python's own modules are imported before: some of them need hooks wherever there is `os.fork`.
WITHOUT_FORKS = """
import os, sys
import hf_audio_cache
for name in [name for name in sys.modules if name.startswith("hf_audio_cache")]:
    del sys.modules[name]
del os.register_at_fork
import hf_audio_cache.stores.remote.obstore_store
from hf_audio_cache.support.process_local import ProcessLocal
print(ProcessLocal().get(lambda: "made"))
"""


def test_a_system_without_forks_can_import_the_package():
    ran = subprocess.run([sys.executable, "-c", WITHOUT_FORKS], check=True, capture_output=True, text=True, timeout=120)
    assert ran.stdout == "made\n"


def test_only_this_module_registers_hooks_of_a_fork():
    modules = Path(hf_audio_cache.__file__).parent.rglob("*.py")
    found = [module.name for module in modules if "register_at_fork" in module.read_text(encoding="utf-8")]
    assert found == ["process_local.py"]


ASKS_DURING_A_FORK = """
import os
from hf_audio_cache.support.write_behind import Writer
import concurrent.futures, logging, threading, time

locks = {
    "concurrent.futures": lambda: concurrent.futures.ThreadPoolExecutor(1).submit(int).result(),
    "logging": lambda: logging.getLogger("another").warning("lost"),
}
has_begun = threading.Event()
os.register_at_fork(before=has_begun.set)  # called first
writer = Writer()

def write():
    has_begun.wait()
    time.sleep(0.2)  # so that a hook which is called before ours has its lock
    locks[LIBRARY]()
    return []

writer.submit(write)
child = os.fork()
if child == 0:
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("library", ["concurrent.futures", "logging"])
def test_a_write_may_take_locks_that_libraries_hold_during_a_fork(library):
    """The program imports this package first, and then the library."""
    code = ASKS_DURING_A_FORK.replace("LIBRARY", repr(library))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "0\n"

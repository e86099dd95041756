"""What belongs to one process, and in which order a fork waits for the rest."""

from __future__ import annotations

from children import in_child

from hf_audio_cache.audio import decode
from hf_audio_cache.support import write_behind
from hf_audio_cache.transform import prefetch


class Probe:
    """Stands for a reader of rows ahead, its lock and a writer; notes what a fork asks of it, and whether it may open.

    A fork keeps others from opening audio files; `is_open_to_others` says whether it does at that moment.
    """

    def __init__(self):
        self.noted = []
        self.reading = self  # the lock of a reader

    def note(self, what):
        self.noted.append((what, not decode._OPENING.locked()))

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

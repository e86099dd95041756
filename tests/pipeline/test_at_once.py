"""Clips that are computed at once: the same as one at a time, whatever goes on beside them."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from types import SimpleNamespace

import audio_datasets as data
import configs
import numpy as np
import pytest
from children import in_child, python_path, start_child
from threadpoolctl import threadpool_info, threadpool_limits

from hf_audio_cache import CacheRoot
from hf_audio_cache.errors import AudioError, RandomOutputError
from hf_audio_cache.pipeline import FeaturePipeline, FeatureSettings, WaveformSettings, missing_clips
from hf_audio_cache.pipeline import at_once as module
from hf_audio_cache.processors.determinism import difference
from hf_audio_cache.support import threads
from hf_audio_cache.support.process_local import ProcessLocal

SETTINGS = FeatureSettings(WaveformSettings(16_000, 0, True))


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """The threads that other modules' servers and clients have left in this process draw no random numbers."""
    left = set(threading.enumerate()) - {threading.current_thread()}
    enumerate_all = threading.enumerate
    monkeypatch.setattr(threading, "enumerate", lambda: [one for one in enumerate_all() if one not in left])


@pytest.fixture
def make_processor(make_processor):
    """The same, with a Whisper that pads to 2 s: 30 s would take most of the time here."""
    return lambda name, **changes: make_processor(
        name, **{**({"chunk_length": 2} if name == "whisper_tiny" else {}), **changes}
    )


@pytest.fixture
def cells(prompts):
    """Twelve clips, of which one is no audio and one comes twice."""
    clips = [clip.read_bytes() for clip in data.shortest(prompts, 60)[30:40]]
    return [{"bytes": clip, "path": None} for clip in (*clips[:8], b"no audio", *clips[8:], clips[0])]


@pytest.fixture
def shared(monkeypatch):
    """How many clips were given to threads, each time."""
    given = []
    share_out = missing_clips.share_out_on_one_core_each

    def noted(call, items, n_threads):
        given.append(len(items))
        share_out(call, items, n_threads)

    monkeypatch.setattr(missing_clips, "share_out_on_one_core_each", noted)
    return given


def pipeline_of(processor, root):
    return FeaturePipeline(processor, CacheRoot(root), SETTINGS)


def assert_same_rows(rows, others):
    for row, other in zip(rows, others, strict=True):
        if isinstance(other, AudioError):
            assert (type(row), str(row)) == (type(other), str(other))
        else:
            assert difference(row.outputs, other.outputs) is None
            assert row.length in (other.length, None)


COUNTS = ("hits", "misses", "decodes", "computed", "bad_clips", "waveform_misses", "bad_entries", "write_errors")


def counts(pipeline):
    stats = pipeline.counters.total()
    return {name: getattr(stats, name) for name in COUNTS}


@pytest.mark.parametrize("name", configs.parameters("whisper_tiny", "seamless_m4t", "wav2vec2", "ast"))
def test_rows_entries_and_counts_are_those_of_one_at_a_time(name, make_processor, cells, tmp_path, at_once, shared):
    alone = pipeline_of(make_processor(name), tmp_path / "one")
    rows = alone.features(cells)
    assert shared == []
    at_once(True)
    several = pipeline_of(make_processor(name), tmp_path / "two")
    assert_same_rows(several.features(cells), rows)
    assert shared == [11]
    assert counts(several) == counts(alone)
    assert_same_rows(several.features(cells), rows)  # read
    names = [{path.relative_to(root) for path in root.rglob("*.npz")} for root in (tmp_path / "one", tmp_path / "two")]
    assert names[0] == names[1]
    assert len(names[0]) == 20


def test_it_is_the_same_in_another_order_and_in_parts(make_processor, cells, tmp_path, at_once, monkeypatch):
    rows = pipeline_of(make_processor("whisper_tiny"), tmp_path / "one").features(cells)
    at_once(True)
    monkeypatch.setattr(missing_clips, "_IN_MEMORY", 3)
    order = random.Random(0).sample(range(len(cells)), len(cells))
    found = pipeline_of(make_processor("whisper_tiny"), tmp_path / "two").features([cells[row] for row in order])
    assert_same_rows(found, [rows[row] for row in order])


def test_keys_of_ensured_clips_have_entries(make_processor, cells, tmp_path, at_once, shared):
    at_once(True)
    pipeline = pipeline_of(make_processor("whisper_tiny"), tmp_path)
    keys = pipeline.ensure(cells, pipeline.identity().sha)
    assert shared == [11]
    assert isinstance(keys.pop(8), AudioError)
    assert all(pipeline.audio_cache.exists_many([stored.key for stored in keys]))


# What is not safe in threads, or random ------------------------------------------------------------------------------


def test_who_may_be_called_by_threads(make_processor, tmp_path):
    own = type("Own", (type(make_processor("whisper_tiny")),), {"__module__": "__main__"})
    config = {name: value for name, value in configs.CONFIGS["whisper_tiny"].items() if name != "processor_class"}
    for processor, is_safe in (
        (make_processor("whisper_tiny"), True),
        (make_processor("speecht5"), False),
        (own(**config), False),
    ):
        assert pipeline_of(processor, tmp_path).extraction.is_safe_in_threads() is is_safe


def test_one_that_uses_a_buffer_again_is_found_out(make_processor, cells, tmp_path, at_once, monkeypatch):
    kind = type(make_processor("wav2vec2"))
    call = kind.__call__
    buffer = np.zeros(10**6, np.float32)

    def with_buffer(self, waveforms, **kwargs):
        outputs = call(self, waveforms, **kwargs)
        [values] = outputs["input_values"]
        buffer[: len(values)] = values
        time.sleep(0.01)  # another thread writes its own
        outputs["input_values"] = [buffer[: len(values)].copy()]
        return outputs

    monkeypatch.setattr(kind, "__call__", with_buffer)
    rows = pipeline_of(make_processor("wav2vec2"), tmp_path / "one").features(cells)
    decided = at_once(None)
    assert_same_rows(pipeline_of(make_processor("wav2vec2"), tmp_path / "two").features(cells), rows)
    assert list(decided.values()) == [False]


def test_a_random_one_is_refused_and_leaves_the_generator_as_it_was(make_processor, cells, tmp_path, at_once):
    for is_faster in (True, None):
        at_once(is_faster)
        pipeline = pipeline_of(make_processor("whisper_tiny", dither=1e-5), tmp_path / str(is_faster))
        np.random.seed(5)
        before = np.random.get_state()[1].tobytes()
        rows = pipeline.features(cells[7::-1])  # the longest first: of most, no second call is made
        assert [type(row) for row in rows] == [RandomOutputError] * 8
        assert np.random.get_state()[1].tobytes() == before
        assert not list((tmp_path / str(is_faster)).rglob("features/*/*.npz"))


def test_threads_that_draw_random_numbers_change_nothing(make_processor, cells, tmp_path, at_once, shared):
    rows = pipeline_of(make_processor("whisper_tiny"), tmp_path / "one").features(cells)
    decided = at_once(True)
    is_done = threading.Event()

    def draw():
        while not is_done.is_set():
            random.random()
            time.sleep(1e-4)

    drawing = threading.Thread(target=draw)
    drawing.start()
    try:
        pipeline = pipeline_of(make_processor("whisper_tiny"), tmp_path / "two")
        assert_same_rows(pipeline.features(cells), rows)
    finally:
        is_done.set()
        drawing.join()
    assert shared == [11]
    assert list(decided.values()) == [False]  # from here on one at a time
    assert_same_rows(pipeline.features(cells), rows)


class Clock:
    """In place of the time: so much of it passes as a function says that stands for an extraction."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def takes(self, seconds):
        """Return an extraction that takes these seconds; of a list, each clip takes one by its number."""

        def extract(number):
            self.now += seconds[number % len(seconds)] if isinstance(seconds, list) else seconds
            return {"x": np.full(3, number)}

        return extract

    def alone(self, seconds, other_seconds=0.0):
        """Return `alone` of `try_out`."""
        extract = self.takes(seconds)

        def alone(number):
            started = self.now
            return module.Tried(extract(number), self.now - started, other_seconds)

        return alone


@pytest.mark.parametrize(
    ("beside_seconds", "alone_seconds", "other_seconds", "is_faster"),
    [(0.04, 0.0, 0.0, False), (0.0, 0.04, 0.0, True), (0.06, 0.02, 0.1, True), (0.06, 0.02, 0.01, False)],
)
def test_what_was_faster_is_done(beside_seconds, alone_seconds, other_seconds, is_faster, at_once, monkeypatch):
    decided, clock = at_once(None), Clock(monkeypatch)
    alone = clock.alone(alone_seconds, other_seconds)
    beside = clock.takes(beside_seconds / 2)  # two at a time
    tried = module.try_out("sha", "one", 2, alone=alone, beside=beside, again=pytest.fail)
    assert [int(one.outputs["x"][0]) for one in tried] == list(range(2 * module.ROUNDS))
    assert decided == {"sha": is_faster}


def test_the_first_clips_decide(make_processor, cells, tmp_path, at_once):
    rows = pipeline_of(make_processor("whisper_tiny"), tmp_path / "one").features(cells)
    decided = at_once(None)
    pipeline = pipeline_of(make_processor("whisper_tiny"), tmp_path / "two")
    assert_same_rows(pipeline.features(cells[:3]), rows[:3])
    assert decided == {}  # too few
    assert_same_rows(pipeline.features(cells), rows)
    assert list(decided) == [pipeline.identity().sha]


def test_rounds_are_compared_with_their_own_clips(at_once, monkeypatch):
    """A short clip alone takes less than the mean of a round with a long one."""
    decided, clock = at_once(None), Clock(monkeypatch)
    alone, beside = clock.alone([0.3, 0.1]), clock.takes(0.3 / 2)
    module.try_out("sha", "one", 2, alone=alone, beside=beside, again=pytest.fail)
    assert decided == {"sha": True}


def test_one_that_is_random_now_and_then_is_an_error_of_its_clip(at_once):
    decided = at_once(None)
    draws = itertools.count()

    def extract(_):
        return {"x": np.full(3, next(draws))}

    tried = module.try_out(
        "sha", "one", 2, alone=lambda number: module.Tried(extract(number)), beside=extract, again=lambda number: None
    )
    assert [one.outputs for one in tried] == [None] * 2 * module.ROUNDS
    assert decided == {"sha": False}


# Threads, processes and kills ----------------------------------------------------------------------------------------


@pytest.mark.torch
def test_libraries_have_all_their_threads_again(make_processor, cells, tmp_path, at_once, monkeypatch):
    import torch

    monkeypatch.setattr(threads, "_pool", ProcessLocal())  # whose threads are new
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    at_once(True)
    pipeline = pipeline_of(make_processor("whisper_tiny"), tmp_path)
    extract = pipeline.extraction.extract

    def noted(*arguments, **how):
        blas = {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}
        seen.append((torch.get_num_threads(), *blas))
        return extract(*arguments, **how)

    pipeline.extraction.extract = noted
    try:
        with threadpool_limits(2, user_api="blas"):
            pipeline.features(cells)
            assert {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"} == {2}
        assert set(seen) == {(1, 1)}
        assert torch.get_num_threads() == 3
        later = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [3]
    finally:
        torch.set_num_threads(before)


def _features_here(processor, root, cells):
    """Return the rows, and how many threads extracted them."""
    pipeline, idents = pipeline_of(processor, root), set()
    extract = pipeline.extraction.extract
    pipeline.extraction.extract = lambda *given, **how: idents.add(threading.get_ident()) or extract(*given, **how)
    read = missing_clips.ClipSteps.read
    missing_clips.ClipSteps.read = lambda *given: idents.add(threading.get_ident()) or read(*given)
    return pipeline.features(cells), len(idents)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_does_all_in_one_thread(method, make_processor, cells, tmp_path, at_once, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", python_path(has_torch=False))
    rows = pipeline_of(make_processor("seamless_m4t"), tmp_path / "one").features(cells[:3])
    at_once(True)
    found, n_threads = in_child(
        _features_here, make_processor("seamless_m4t"), tmp_path / "two", cells[:3], method=method
    )
    assert n_threads == 1
    assert_same_rows(found, rows)


def test_a_fork_in_mid_pass_has_what_it_needs(make_processor, cells, tmp_path, at_once):
    rows = pipeline_of(make_processor("seamless_m4t"), tmp_path / "one").features(cells)
    at_once(True)
    pipeline, done = pipeline_of(make_processor("seamless_m4t"), tmp_path / "two"), []
    passes = threading.Thread(target=lambda: done.append(pipeline.features(cells)), name="hf-audio-cache-test")
    passes.start()
    while passes.is_alive():
        assert_same_rows(in_child(pipeline.features, cells[:2]), rows[:2])
    passes.join()
    assert_same_rows(done[0], rows)


def _killed_at(n_clips, processor, root, cells):
    pipeline, begun = pipeline_of(processor, root), []
    extract = pipeline.extraction.extract

    def counted(*arguments, **how):
        begun.append(None)
        if len(begun) > n_clips:
            os.kill(os.getpid(), signal.SIGKILL)
        return extract(*arguments, **how)

    pipeline.extraction.extract = counted
    missing_clips.is_worker = lambda: False
    pipeline.features(cells)


@pytest.mark.parametrize("n_clips", [1, 5, 9])
def test_a_kill_loses_what_is_in_flight_and_no_more(n_clips, make_processor, cells, tmp_path, at_once):
    at_once(True)
    child = start_child(_killed_at, n_clips, make_processor("seamless_m4t"), tmp_path, cells)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    n_stored = len(list(tmp_path.rglob("features/*/*.npz")))
    assert n_stored >= n_clips - 2 * 4  # four that are looked at together, in each of two threads
    rows = pipeline_of(make_processor("seamless_m4t"), tmp_path).features(cells)
    assert_same_rows(rows, pipeline_of(make_processor("seamless_m4t"), tmp_path / "other").features(cells))

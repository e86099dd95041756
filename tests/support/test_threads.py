"""Threads that share work: order, errors, forks, and a process that ends."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest
from children import in_child
from threadpoolctl import threadpool_info, threadpool_limits

from hf_audio_cache import CachedFeatures
from hf_audio_cache.pipeline.compute import Extraction
from hf_audio_cache.support import library_threads, threads
from hf_audio_cache.support.library_threads import leaving_a_core
from hf_audio_cache.support.threads import ahead, in_threads, share_out


@pytest.fixture(autouse=True)
def _two_processors(monkeypatch):
    """Let threads be used whatever the machine has."""
    monkeypatch.setattr(threads, "thread_count", lambda: 2)
    monkeypatch.setattr(threads, "_WORTH_SHARING", 0.0)


@pytest.mark.parametrize("n_items", [0, 1, 3, 8, 9, 100])
def test_results_come_in_order(n_items):
    assert in_threads(str, range(n_items)) == [str(number) for number in range(n_items)]
    assert list(ahead(str, range(n_items))) == [str(number) for number in range(n_items)]


def test_work_is_shared_between_threads():
    meeting = threading.Barrier(2, timeout=30)  # nobody passes it alone
    names = in_threads(
        lambda number: (number in (1, 8) and meeting.wait(), threading.current_thread().name)[1], range(9)
    )
    assert len(set(names)) == 2
    assert names[0] == names[1] == threading.current_thread().name


def test_a_fork_waits_for_the_items_that_are_shared_out():
    begun, end, ended, in_children = threading.Event(), threading.Event(), [], []

    def work(number):
        begun.set()
        assert end.wait(30)
        ended.append(number)

    def fork():
        in_children.extend(in_child(ended.copy))

    sharing = threading.Thread(target=share_out, args=(work, range(6), 2))
    forking = threading.Thread(target=fork)
    sharing.start()
    begun.wait()
    forking.start()
    forking.join(0.2)
    assert forking.is_alive()
    end.set()
    forking.join()
    sharing.join()
    assert 0 < len(in_children) <= 6
    assert sorted(ended) == list(range(6))


def test_items_wait_for_the_last_of_two_forks():
    gate = threads._Gate()
    gate.close()
    gate.close()
    gate.open()
    entering = threading.Thread(target=gate.__enter__)
    entering.start()
    entering.join(0.2)
    assert entering.is_alive()
    gate.open()
    entering.join(30)
    assert not entering.is_alive()


def test_an_item_may_fork():
    def fork(_):
        process = os.fork()
        if not process:
            os._exit(0)
        statuses.append(os.waitpid(process, 0)[1])

    statuses = []
    share_out(fork, range(3), 1)
    assert statuses == [0, 0, 0]


@pytest.mark.parametrize(("n_items", "worth"), [(4, 0.0), (100, 60.0)])
def test_few_or_quick_items_stay_in_this_thread(n_items, worth, monkeypatch):
    monkeypatch.setattr(threads, "_WORTH_SHARING", worth)
    names = in_threads(lambda _: threading.current_thread().name, range(n_items))
    assert set(names) == {threading.current_thread().name}


def test_the_next_ones_are_under_way_meanwhile():
    begun = [threading.Event() for _ in range(3)]
    results = ahead(lambda number: begun[number].set() or number, range(3))
    assert next(results) == 0
    assert begun[1].wait(30)
    assert begun[2].wait(30)
    assert list(results) == [1, 2]


def test_what_is_raised_is_raised_here():
    def fail(number):
        if number == 7:
            raise KeyError(number)
        return number

    with pytest.raises(KeyError, match="7"):
        in_threads(fail, range(8))
    results = ahead(fail, range(5, 9))
    assert [next(results), next(results)] == [5, 6]
    with pytest.raises(KeyError, match="7"):
        next(results)


def test_a_thread_of_ours_does_not_wait_for_its_own_kind():
    inner = in_threads(lambda _: in_threads(str, range(8)), range(64))
    assert inner == [[str(number) for number in range(8)]] * 64


def test_a_forked_child_has_threads_of_its_own():
    assert in_threads(str, range(8)) == list("01234567")
    assert in_child(in_threads, str, range(8)) == list("01234567")


def test_at_the_end_of_a_process_work_is_done_all_the_same():
    program = """
        import atexit
        from hf_audio_cache.support import library_threads, threads
        threads.thread_count, threads._WORTH_SHARING = lambda: 2, 0.0
        atexit.register(lambda: print(threads.in_threads(str, range(8)), list(threads.ahead(str, range(3)))))
        threads.in_threads(str, range(8))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"{list('01234567')} {list('012')}\n"
    assert done.stderr == ""


def blas_threads():
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


@pytest.mark.parametrize(("n_cores", "before", "meanwhile"), [(4, 4, 3), (4, 2, 2), (2, 2, 1), (1, 3, 1)])
def test_a_core_is_left_and_given_back(n_cores, before, meanwhile, monkeypatch):
    monkeypatch.setattr(library_threads, "n_cores", lambda: n_cores)
    with threadpool_limits(before, user_api="blas"):
        assert set(blas_threads()) == {before}
        with leaving_a_core():
            assert set(blas_threads()) == {meanwhile}  # never more than there were
        assert set(blas_threads()) == {before}


@pytest.mark.parametrize(("is_own", "of_several"), [(False, {2}), (True, {1})])
def test_a_clip_alone_has_all_cores(is_own, of_several, monkeypatch, make_processor, prompts, tmp_path):
    """Nothing is done beside it; beside a front end of one's own, the next clips are decoded."""
    monkeypatch.setattr(library_threads, "n_cores", lambda: 2)
    seen = []
    extract = Extraction.extract

    def note(self, *arguments, **how):
        seen.append(set(blas_threads()))
        return extract(self, *arguments, **how)

    monkeypatch.setattr(Extraction, "extract", note)
    own = {"processor": lambda waveform, _: waveform[:400], "identity": "own", "sampling_rate": 16_000}
    how = own if is_own else {"processor": make_processor("wav2vec2")}
    cached_features = CachedFeatures(**how, root=tmp_path, auto_resample=True)
    with threadpool_limits(2, user_api="blas"):
        cached_features({"audio": str(prompts[0])})
        cached_features({"audio": [str(clip) for clip in prompts[1:3]]})
    assert seen == [{2}, of_several, of_several]

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import multiprocessing
import os
import pickle
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from children import in_child, start_child

from hf_audio_cache.cache import stats as stats_module
from hf_audio_cache.cache.stats import BadClip, Counters, Stats


@pytest.fixture
def counters():
    return Counters()


def add(counters, **counts):
    counters.add(**counts)


def add_hits(counters, number):
    for _ in range(number):
        counters.add(hits=1, seconds_computing=0.5)


def bad_clip(number, reason="it is bad"):
    return BadClip(f"{number}.wav", "AudioDecodeError", reason)


def add_bad_clips(counters, numbers):
    for number in numbers:
        counters.add_bad_clip(bad_clip(number))


# Stats ----------------------------------------------------------------------------------------------------------------


def test_stats_can_be_subtracted():
    before, after = Stats(hits=3, misses=1, seconds_saved=0.5), Stats(hits=10, misses=1, decodes=2, seconds_saved=2.0)
    assert after - before == Stats(hits=7, decodes=2, seconds_saved=1.5)
    assert after - after == Stats()


def test_the_hit_rate_is_a_share():
    for hits, misses, rate in ((0, 0, 0.0), (0, 5, 0.0), (5, 0, 1.0), (3, 1, 0.75)):
        assert Stats(hits=hits, misses=misses).hit_rate == rate


def test_stats_show_what_happened_only():
    assert repr(Stats(hits=1200, seconds_saved=1.23456)) == "Stats(hits=1,200, seconds_saved=1.235)"
    assert repr(Stats()) == "Stats()"
    assert Stats(hits=2).to_dict() == {**dict.fromkeys(Stats().to_dict(), 0), "hits": 2}


def test_stats_pickle():
    stats = Stats(hits=2, seconds_saved=0.25)
    assert pickle.loads(pickle.dumps(stats)) == stats


# Counters in one process ----------------------------------------------------------------------------------------------


def test_counts_add_up(counters):
    assert counters.total() == Stats()
    counters.add(hits=2, misses=1)
    counters.add(hits=3, bytes_read=2**40, seconds_saved=-0.25)
    assert counters.total() == Stats(hits=5, misses=1, bytes_read=2**40, seconds_saved=-0.25)


def test_whole_numbers_stay_whole(counters):
    counters.add(**dict.fromkeys(Stats().to_dict(), 1))
    for name, value in counters.total().to_dict().items():
        assert value == 1
        assert type(value) is (float if name.startswith("seconds") else int)


def test_an_unknown_figure_is_an_error(counters):
    with pytest.raises(KeyError, match="hit_count"):
        counters.add(hit_count=1)


def test_threads_lose_no_count():
    for _ in range(10):
        counters = Counters()
        barrier = threading.Barrier(8)

        def work(counters=counters, barrier=barrier):
            barrier.wait()
            for _ in range(20):
                counters.add(hits=1)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counters.total().hits == 160


def test_the_directory_is_made_at_first_use_and_is_private(counters):
    directory = Path(counters.directory)
    assert directory.parent == Path(tempfile.gettempdir())
    assert not directory.exists()
    counters.total()
    assert not directory.exists()
    counters.add(hits=1)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(list(directory.iterdir())) == 1


def test_the_directory_goes_with_the_object():
    counters = Counters()
    counters.add(hits=1)
    directory = Path(counters.directory)
    assert directory.is_dir()
    del counters
    gc.collect()
    assert not directory.exists()


def test_two_objects_count_apart():
    one, two = Counters(), Counters()
    one.add(hits=1)
    assert one.directory != two.directory
    assert two.total() == Stats()


def test_a_copy_by_pickle_counts_into_the_same_total(counters):
    counters.add(hits=1)
    copy = pickle.loads(pickle.dumps(counters))
    copy.add(hits=2)
    assert counters.total().hits == copy.total().hits == 3
    del copy
    gc.collect()
    assert counters.total().hits == 3


def test_pickling_before_use_creates_nothing(counters):
    pickle.dumps(counters)
    assert not os.path.exists(counters.directory)


# Counters over processes ----------------------------------------------------------------------------------------------


def count_and_list(counters, numbers):
    add_hits(counters, 100)
    add_bad_clips(counters, numbers)


@pytest.mark.parametrize(("method", "is_used_before"), [("fork", True), ("fork", False), ("spawn", True)])
def test_what_worker_processes_count_and_list_is_added(counters, method, is_used_before):
    if is_used_before:
        counters.add(hits=1)
        counters.add_bad_clip(bad_clip(0))
    n_workers = 3 if method == "fork" else 1
    workers = [start_child(count_and_list, counters, range(1, 10 * n), method=method) for n in range(1, n_workers + 1)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    counters.add(hits=1)
    assert counters.total() == Stats(
        hits=100 * n_workers + is_used_before + 1,
        seconds_computing=50.0 * n_workers,
        bad_clips=sum(10 * n - 1 for n in range(1, n_workers + 1)) + is_used_before,
    )
    listed = [clip.clip for clip in counters.bad_clips()]  # each once
    assert sorted(listed) == sorted(f"{number}.wav" for number in range(0 if is_used_before else 1, 10 * n_workers))


def test_a_worker_of_a_worker_counts(counters):
    def have_a_child(counters):
        counters.add(hits=1)
        process = multiprocessing.get_context("fork").Process(target=add_hits, args=(counters, 10))
        multiprocessing.current_process()._config["daemon"] = False
        process.start()
        process.join()
        return process.exitcode

    assert in_child(have_a_child, counters) == 0
    assert counters.total().hits == 11


def count_until_killed(counters, sender):
    count_and_list(counters, range(100))
    sender.send(None)
    signal.pause()


def test_what_a_killed_process_counted_and_listed_stays(counters):
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    with receiver, sender:
        process = start_child(count_until_killed, counters, sender)
        receiver.recv()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert counters.total() == Stats(hits=100, seconds_computing=50.0, bad_clips=100)
    assert counters.bad_clips() == [bad_clip(number) for number in range(100)]
    [listed] = Path(counters.directory).glob("*.bad-clips")
    content = listed.read_bytes()
    for cut in (1, 2, 10, 40):  # as if it had been killed while it wrote the last line
        listed.write_bytes(content[:-cut])
        assert counters.bad_clips() == [bad_clip(number) for number in range(99)]


def test_a_file_of_a_process_killed_while_it_made_it_counts_nothing(counters):
    counters.add(hits=1)
    Path(counters.directory, "4711-00").write_bytes(b"\1" * 5)
    Path(counters.directory, "4712-00").write_bytes(b"")
    assert counters.total() == Stats(hits=1)


def test_a_forked_process_leaves_the_directory(counters):
    counters.add(hits=1)

    def end(counters):
        copies = [counters]
        del counters, copies
        gc.collect()

    in_child(end, counters)
    assert counters.total() == Stats(hits=1)


_kept = []  # as a worker's global variables keep what it made, until it ends


def _make_and_keep():
    _kept.append(Counters())
    _kept[-1].add(hits=1)
    return os.listdir(_kept[-1].directory), _kept[-1].directory


def test_the_directory_of_a_forked_worker_goes_with_the_worker():
    made, directory = in_child(_make_and_keep)
    assert len(made) == 1
    assert not os.path.exists(directory)


FORK_AND_END = """
import os, sys
from hf_audio_cache.cache.stats import Counters

counters = Counters()
counters.add(hits=1)
process = os.fork()
if process == 0:
    sys.exit()  # with all that a process does at its end
assert os.waitpid(process, 0)[1] == 0
print(counters.total().hits)
"""


def test_a_forked_process_that_ends_in_order_leaves_the_directory():
    done = subprocess.run([sys.executable, "-c", FORK_AND_END], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


# Bad clips ------------------------------------------------------------------------------------------------------------


def test_bad_clips_are_counted_each_time_and_listed_once(counters):
    assert counters.bad_clips() == []
    for number in (1, 2, 1, 1):
        counters.add_bad_clip(bad_clip(number))
    counters.add_bad_clip(bad_clip(1, "for another reason"))
    assert counters.total() == Stats(bad_clips=5)
    assert counters.bad_clips() == [bad_clip(1), bad_clip(2), bad_clip(1, "for another reason")]


def test_a_list_of_bad_clips_is_no_figure_of_a_process(counters):
    counters.add(hits=2)
    clip = bad_clip(1)
    size_of_figures = stats_module._FILE.size
    # A list of the very size that figures have.
    line = json.dumps([clip.clip, clip.error, ""]) + "\n"
    counters.add_bad_clip(dataclasses.replace(clip, reason="x" * (size_of_figures - len(line))))
    sizes = {path.suffix: path.stat().st_size for path in Path(counters.directory).iterdir()}
    assert sizes == {"": size_of_figures, ".bad-clips": size_of_figures}
    assert counters.total() == Stats(hits=2, bad_clips=1)
    assert pickle.loads(pickle.dumps(counters)).total() == Stats(hits=2, bad_clips=1)


ODD_TEXTS = ["two\nlines", 'a "quote"]\n', "\r\u2028", "\0", "ä😀", "\udcff.wav", "", "x" * 100_000]


@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
def test_a_bad_clip_is_listed_as_it_is_called(text, counters):
    clip = BadClip(text, "AudioSourceError", f"{text} is gone")
    counters.add_bad_clip(clip)
    counters.add_bad_clip(bad_clip(1))
    assert pickle.loads(pickle.dumps(counters)).bad_clips() == [clip, bad_clip(1)]


def test_a_worker_sees_what_all_counted_and_listed(counters):
    counters.add(hits=5)
    counters.add_bad_clip(bad_clip(0))

    def add_and_look(counters):
        before = counters.bad_clips()
        counters.add(hits=1)
        counters.add_bad_clip(bad_clip(1))
        return before, counters.bad_clips(), counters.total()

    after = [bad_clip(1), bad_clip(0)]
    assert in_child(add_and_look, counters) == ([bad_clip(0)], after, Stats(hits=6, bad_clips=2))
    assert counters.bad_clips() == [bad_clip(0), bad_clip(1)]


def test_threads_lose_no_bad_clip(counters):
    barrier = threading.Barrier(8)

    def work(thread):
        barrier.wait()
        add_bad_clips(counters, range(100 * thread, 100 * thread + 100))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {clip.clip for clip in pickle.loads(pickle.dumps(counters)).bad_clips()} == {f"{n}.wav" for n in range(800)}
    assert counters.total() == Stats(bad_clips=800)


def test_there_is_an_end_to_the_list_and_not_to_the_count(counters, monkeypatch):
    monkeypatch.setattr(stats_module, "_MAX_BAD_CLIPS", 10)
    add_bad_clips(counters, range(25))
    assert counters.bad_clips() == [bad_clip(number) for number in range(10)]
    assert counters.total() == Stats(bad_clips=25)


# Without a place for temporary files ----------------------------------------------------------------------------------


def test_without_a_directory_figures_and_bad_clips_are_of_this_process(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    counters = Counters()
    counters.add(hits=2)
    counters.add(hits=1)
    add_bad_clips(counters, [1, 2, 1])
    assert counters.bad_clips() == [bad_clip(1), bad_clip(2)]
    assert counters.total() == Stats(hits=3, bad_clips=3)


def test_a_worker_without_a_directory_counts_for_itself(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    counters = Counters()
    counters.add(hits=2)

    def count(counters):
        counters.add(hits=5)
        return counters.total()

    assert in_child(count, counters) == Stats(hits=5)
    assert counters.total() == Stats(hits=2)


def test_no_writable_temporary_directory_at_all_does_not_end_a_run(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root, to have a file system in which nothing can be written")

    def count(root):
        os.chroot(root)
        os.chdir("/")
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        tempfile.tempdir = None
        counters = Counters()
        counters.add(hits=1)
        return counters.total()

    (tmp_path / "root").mkdir(mode=0o555)
    assert in_child(count, str(tmp_path / "root")) == Stats(hits=1)


def test_a_full_temporary_directory_does_not_kill_the_process(tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=16k tmpfs {full} 2> /dev/null"):
        pytest.skip("needs to mount a small file system")
    try:
        with open(full / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(4096)):
                pass

        def count(directory):
            tempfile.tempdir = directory
            counters = Counters()
            counters.add(hits=1)
            return counters.total()

        assert in_child(count, str(full)) == Stats(hits=1)
    finally:
        os.system(f"umount {full}")

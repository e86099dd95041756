"""Long runs: memory, open files, threads and temporary files stay what they were; and a fork at any moment."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import audio_datasets as data
import configs
import numpy as np
import pytest
import soundfile
import speech

from hf_audio_cache import CachedFeatures, CacheRoot, prune, verify
from hf_audio_cache.transform import reference_reader

RATE = 8000
MEGABYTE = 1 << 20

pytestmark = pytest.mark.timeout(900)


def envelope(waveform, sampling_rate):
    """A front end of two outputs that costs next to nothing."""
    frames = waveform[: len(waveform) // 80 * 80].reshape(-1, 80)
    return {"envelope": np.abs(frames).max(axis=1), "frames": frames[:20].copy()}


def make(root: Path | str, signing_key: str | None = None, **settings: Any) -> CachedFeatures:
    return CachedFeatures(
        envelope,
        CacheRoot(root, signing_key=signing_key),
        **{"identity": "envelope", "sampling_rate": RATE, "waveforms": "always", **settings},
    )


def short_clips(count: int) -> list[Path]:
    """Return prompts of about a second."""
    return [clip for clip in data.shortest(speech.clips("prompts"), 300) if soundfile.info(clip).frames > 6000][:count]


@functools.cache  # and asked for before a test has threads: soundfile opens files under a lock, which a fork would copy
def envelope_of(clip: Path) -> dict[str, np.ndarray]:
    """Return what soundfile and the front end make of a clip."""
    return envelope(soundfile.read(clip, dtype="float32")[0], RATE)


def wrong_rows(outputs: Any, clips: list[Path]) -> int:
    """Return how many rows are not what soundfile and the front end make of the clips."""
    return sum(
        any(not np.array_equal(outputs[name][index], array) for name, array in envelope_of(clip).items())
        for index, clip in enumerate(clips)
    )


# Memory ---------------------------------------------------------------------------------------------------------------
# Each of these is run in a process of its own. What it returns is called once for each batch.

Step = Callable[[], object]


def warm(root: str) -> Step:
    cached_features = CachedFeatures(
        configs.make_processor("seamless_m4t"),
        CacheRoot(root, signing_key="a-key-of-twenty-bytes"),
        auto_resample=True,
        waveforms="always",
    )
    batch = {"audio": data.columns(short_clips(4))["audio"]}
    return lambda: cached_features(batch)


def cold(root: str) -> Step:
    """Each batch has clips that were never seen; what is stored is cleared now and then."""
    cached_features = make(root)
    contents = [clip.read_bytes() for clip in short_clips(4)]
    number = 0

    def step() -> None:
        nonlocal number
        number += 1
        mark = struct.pack("<q", number)
        cached_features({"audio": [{"bytes": content[:-8] + mark, "path": None} for content in contents]})
        if number % 50 == 0:
            cached_features.audio_cache.clear()
            cached_features.waveform_cache.clear()

    return step


def damaged(root: str) -> Step:
    """Each batch meets bad clips, damaged entries and entries that are gone."""
    cached_features = make(root, on_error="null", reason_column="why")
    clips = short_clips(6)
    cells = [*data.columns(clips)["audio"], {"bytes": b"no audio", "path": "x.wav"}, None, "/nowhere/missing.wav"]
    cells.append({"bytes": clips[0].read_bytes()[:-100], "path": "cut.wav"})
    number = 0

    def step() -> None:
        nonlocal number
        number += 1
        cached_features({"audio": cells})
        entries = sorted(Path(root).rglob("*.npz"))
        for entry in entries[number % 3 :: 3]:
            if number % 2:
                entry.write_bytes(entry.read_bytes()[: number % 5000])
            else:
                entry.unlink()

    return step


def rows_of_datasets(root: str) -> Step:
    """Each batch reads rows of attached datasets, of references and of streams, and asks for figures."""
    cached_features = make(root)
    dataset = data.in_memory(short_clips(16))
    mapped = cached_features.map(dataset)
    attached, with_references = cached_features.attach(dataset), cached_features.attach(mapped)
    stream = cached_features.attach(dataset.to_iterable_dataset())
    rng = random.Random(0)

    def step() -> None:
        rows = rng.sample(range(16), 4)
        attached.__getitems__(rows)
        with_references.__getitems__(rows)
        for row in rows:
            assert mapped[row]["frames"].shape == (20, 80)
            assert attached[row]["frames"].shape == (20, 80)
        mapped.select_columns(["envelope"])[rows[0]]  # whose other output nobody asks for
        next(iter(stream))
        assert cached_features.stats.hits > 0
        cached_features.explain(dataset[rows[0]])

    return step


STEPS = {step.__name__: step for step in (warm, cold, damaged, rows_of_datasets)}


def resident() -> int:
    """Return the bytes of memory that this process has."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(name: str, root: str, n_batches: int) -> dict[str, list[int]]:
    """Return how much memory there is after a warm-up, in the middle, and at the end; then what Python allocated."""
    step = STEPS[name](root)
    for _ in range(max(50, n_batches // 5)):
        step()
    sizes = [resident()]
    for _ in range(2):
        for _ in range(n_batches // 2):
            step()
        sizes.append(resident())
    tracemalloc.start()
    traced = []
    for _ in range(3):
        for _ in range(n_batches // 20):
            step()
        gc.collect()
        traced.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return {"resident": sizes, "traced": traced}


MEASURE = """
import json, sys
import datasets, test_faults_leaks
datasets.disable_progress_bars()
root, batches = sys.argv[1:]
print(json.dumps({
    name: test_faults_leaks.measure(name, f"{root}-{name}", n_batches)
    for name, n_batches in json.loads(batches).items()
}))
"""
N_BATCHES = {"warm": (160, 5000), "cold": (100, 2000), "damaged": (80, 2000), "rows_of_datasets": (60, 2000)}


@pytest.mark.timeout(3600)
def test_memory_does_not_grow_with_the_batches(tmp_path, faults):
    n_batches = {name: faults.times(*bounded_and_long) for name, bounded_and_long in N_BATCHES.items()}
    found = data.run_program(MEASURE, tmp_path / "root", json.dumps(n_batches), timeout=3000, has_torch=False)
    for name, measured in found.items():
        after_warm_up, in_the_middle, at_the_end = measured["resident"]
        assert at_the_end - after_warm_up < 8 * MEGABYTE, name
        # What leaked with each batch would grow in the second half as it did in the first.
        assert at_the_end - in_the_middle < 4 * MEGABYTE, name
        _, once, again = measured["traced"]
        assert again - once < 20_000 + 200 * (n_batches[name] // 20), name
        faults.survived(f"memory after batches: {name}", n_batches[name])


# Files, threads and temporary files -----------------------------------------------------------------------------------


def open_files() -> list[str]:
    """Return what each file descriptor stands for."""
    gc.collect()
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(found)


def other_than_readers(names: Iterable[str]) -> list[str]:
    """Return the names of threads but those of the few that read, for as long as the process lives."""
    return [name for name in names if "reader" not in name]


def threads() -> tuple[list[str], int]:
    """Return the threads that Python knows of, and how many there are for the system."""
    deadline = time.monotonic() + 10
    # Those of a pool that is gone are ending; the readers stay.
    while len(other_than_readers(thread.name for thread in threading.enumerate())) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    return sorted(thread.name for thread in threading.enumerate()), len(os.listdir("/proc/self/task"))


def all_forms(folder: Path, root: Path, clips: list[Path], **settings: Any) -> None:
    """Use everything there is, once, and let go of it."""
    cached_features = make(root, **settings)
    cached_features({"audio": data.columns(clips)["audio"]})
    dataset = data.saved(clips, folder / "saved")
    dataset.map(cached_features, batched=True, batch_size=2, cache_file_name=str(folder / "arrays.arrow"))
    mapped = cached_features.map(dataset, cache_file_name=str(folder / "references.arrow"))
    assert mapped[0]["frames"].shape == mapped[:]["frames"][1].shape == (20, 80)
    cached_features.materialize(mapped, cache_file_name=str(folder / "materialized.arrow"))
    assert cached_features.attach(dataset)[0]["frames"].shape == (20, 80)
    assert len(list(cached_features.attach(dataset.to_iterable_dataset()))) == len(clips)
    assert cached_features.map(dataset, num_proc=2)[0]["frames"].shape == (20, 80)
    cached_features.explain(str(clips[0]))
    assert cached_features.stats.computed >= 0
    verify(root)
    prune(root, max_bytes=10_000)


def all_errors(folder: Path, root: Path, clips: list[Path], **settings: Any) -> None:
    """Run into every error there is, once."""
    for use in (
        lambda one: one({"audio": [str(clips[0]), b"no audio"]}),
        lambda one: one({"audio": [clips[1].read_bytes()[:-1000]]}),
        lambda one: one({"audio": [None, str(folder / "missing.wav"), str(folder)]}),
        lambda one: one({"sound": []}),
        lambda one: one.map(data.of_paths(clips), num_proc=2) and one({"audio": [b"no audio"]}),
        lambda one: (
            one.map(data.in_memory(clips)) and one.audio_cache.clear() and one.map(data.in_memory(clips))[0] and 1 / 0
        ),
        lambda one: (
            [path.write_bytes(b"bad") for path in root.rglob("*.npz")] and one({"audio": [str(clips[0]), None]})
        ),
        lambda one: one({"audio": _interrupted(clips)}),
        lambda one: next(iter(one.attach(data.in_memory(clips).to_iterable_dataset()))) and 1 / 0,
        lambda one: _use_a_file_as_root(one, root, clips),
    ):
        with contextlib.suppress(Exception, KeyboardInterrupt):
            use(make(root, **settings))
            raise AssertionError("it went well")
    root.unlink()


def _use_a_file_as_root(cached_features: CachedFeatures, root: Path, clips: list[Path]) -> Any:
    shutil.rmtree(root)
    root.write_bytes(b"no folder")
    cached_features({"audio": [str(clips[0])]})
    return cached_features.map(data.in_memory(clips))


def _interrupted(clips: list[Path]) -> Any:
    raise KeyboardInterrupt


def what_is_open() -> dict[str, Any]:
    """Return what is open and running, and how many temporary folders there are; these have new names each time."""
    files = [re.sub("[0-9]+", "N", re.sub("hf-audio-cache-[0-9a-f]+/.*", "figures", name)) for name in open_files()]
    folders = [path for path in Path(tempfile.gettempdir()).iterdir() if path.name.startswith("hf-audio-cache-")]
    names, count = threads()
    return {"files": sorted(files), "folders": len(folders), "threads": names, "of the system": count}


def after_each_round(folder: str, n_rounds: int, settings: dict[str, Any]) -> list[Any]:
    """Return what is open and running after each of some rounds of use, of roots that are made anew each time."""
    clips = short_clips(4)
    found = []
    for _ in range(1 + n_rounds):
        for kind in ({}, settings) if n_rounds > 1 else (settings,):
            for use in (all_forms, all_errors):
                place = Path(folder, f"{use.__name__}-{len(kind)}")
                place.mkdir(parents=True)
                use(place, place / "root", clips, **kind)
                shutil.rmtree(place)
        found.append(what_is_open())
    return found


def after_many_roots(folder: str, n_roots: int, settings: dict[str, Any]) -> list[Any]:
    """Return what is open and running after references to a root were read, and after they were to many."""
    clips = short_clips(2)
    opened = reference_reader._opened
    assert opened.cache_parameters()["maxsize"] == MOST_READERS
    if n_roots <= MOST_READERS:  # so that fewer roots show what the limit does
        reference_reader._opened = functools.lru_cache(maxsize=FEWER_READERS)(opened.__wrapped__)
    found = []
    for number in range(n_roots):
        cached_features = make(Path(folder, str(number)), **settings)
        mapped = cached_features.map(data.in_memory(clips))
        assert mapped[0]["frames"].shape == (20, 80)
        del cached_features, mapped
        if number in (0, n_roots - 1):
            found.append(what_is_open())
    return found


CALL = """
import json, sys
import datasets, tqdm
import test_faults_leaks
datasets.disable_progress_bars()
tqdm.tqdm.monitor_interval = 0  # else it has a thread of its own
function, folder, count, settings = sys.argv[1:]
print(json.dumps(getattr(test_faults_leaks, function)(folder, int(count), json.loads(settings))))
"""
SIGNED = '{"signing_key": "a-key-of-twenty-bytes"}'
MOST_READERS, FEWER_READERS = 32, 4  # of references, for roots that are open at once


@pytest.fixture
def scratch():
    """Where a child is to have its temporary files: at a short path, as it has sockets there."""
    with tempfile.TemporaryDirectory(prefix="scratch-") as folder:
        yield Path(folder)


def assert_same_threads(before: dict[str, Any], after: list[dict[str, Any]]) -> None:
    """Check that Python has no more threads, but the few that read, and the system few more: pyarrow's and Blosc's."""
    for one in after:
        assert other_than_readers(one["threads"]) == ["MainThread"]
        assert len(one["threads"]) <= 1 + 4
        assert one["of the system"] <= before["of the system"] + 12


# Ten seconds on a busy machine: two roots, each used in every form and through every error, twice.
def test_nothing_stays_open_and_no_thread_runs_on(scratch, tmp_path, faults):
    n_rounds = faults.times(1, 30)
    place = tmp_path / "work"
    before, *after = data.run_program(
        CALL, "after_each_round", place, n_rounds, SIGNED, timeout=800, TMPDIR=str(scratch)
    )
    assert_same_threads(before, after)
    assert [one["files"] for one in after] == [before["files"]] * n_rounds
    assert [one["folders"] for one in after] == [before["folders"]] * n_rounds
    assert before["folders"] <= 4  # of the readers of the four roots, for references to come
    faults.survived("files and threads after runs and errors", n_rounds)


@pytest.mark.parametrize("settings", ["{}", pytest.param(SIGNED, marks=pytest.mark.long)], ids=["plain", "signed"])
def test_of_many_roots_few_stay_open(settings, scratch, tmp_path, faults):
    n_roots, most = faults.times(12, 400), faults.times(FEWER_READERS, MOST_READERS)
    one, many = data.run_program(
        CALL,
        "after_many_roots",
        tmp_path / "work",
        n_roots,
        settings,
        timeout=800,
        has_torch=False,
        TMPDIR=str(scratch),
    )
    assert len(many["files"]) - len(one["files"]) <= most
    assert many["folders"] <= most + 1
    assert_same_threads(one, [many])
    faults.survived("files after references to many roots", n_roots)


LEAVE = """
import json, sys
import test_faults_leaks
from pathlib import Path
clips = test_faults_leaks.short_clips(2)
kept = []
for settings in ({}, json.loads(sys.argv[2])):
    kept.append(test_faults_leaks.make(Path(sys.argv[1], str(len(settings))), **settings))
    kept.append(kept[-1].map(test_faults_leaks.data.in_memory(clips), num_proc=2))
    kept.append(kept[-1][0])
print(json.dumps(len([path for path in Path(sys.argv[3]).iterdir() if path.name.startswith("hf-audio-cache-")])))
"""


def test_a_process_that_ends_leaves_no_temporary_files(scratch, tmp_path):
    # While it runs, there are the figures of two, and those of a reader of references.
    assert data.run_program(LEAVE, tmp_path / "root", SIGNED, scratch, has_torch=False, TMPDIR=str(scratch)) in (2, 3)
    assert [path.name for path in scratch.iterdir() if path.name.startswith("hf-audio-cache-")] == []


# A fork at any moment -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(work: Callable[[], None], n_threads: int) -> Iterator[list[BaseException]]:
    """Let threads do some work over and over; yield what they raised."""
    is_over = threading.Event()
    raised: list[BaseException] = []

    def loop() -> None:
        try:
            while not is_over.is_set():
                work()
        except BaseException as exc:  # noqa: BLE001 - it is looked at below
            raised.append(exc)

    started = [threading.Thread(target=loop) for _ in range(n_threads)]
    for thread in started:
        thread.start()
    try:
        yield raised
    finally:
        is_over.set()
        for thread in started:
            thread.join()


HUNG = 3
SOUNDFILE_LOCK = "a lock of soundfile's that another thread held at the fork is never opened in the child"


def fork_and_use(use: Callable[[], bool], limit: float = 20) -> int:
    """Return the exit code of a forked child: 0 if what it found is right, 1 if not, 2 if it raised, or `HUNG`."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if use() else 1
        finally:
            os._exit(code)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return HUNG


class SlowFile(io.BytesIO):
    """A file that is read when somebody says so."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.is_asked, self.may_go_on = threading.Event(), threading.Event()

    def readinto(self, buffer: Any, /) -> int:
        self.is_asked.set()
        self.may_go_on.wait()
        return super().readinto(buffer)


@pytest.mark.xfail(reason=SOUNDFILE_LOCK)
def test_a_fork_while_another_thread_opens_a_clip_gives_a_process_that_decodes(tmp_path):
    clips = short_clips(2)
    cached_features = make(tmp_path / "root")
    slow = SlowFile(clips[0].read_bytes())
    thread = threading.Thread(target=soundfile.info, args=(slow,))
    thread.start()
    slow.is_asked.wait(60)
    code = fork_and_use(lambda: wrong_rows(cached_features({"audio": [str(clips[1])]}), clips[1:]) == 0, limit=2)
    slow.may_go_on.set()
    thread.join()
    assert code == 0
    assert cached_features.stats.computed == 1


@pytest.mark.parametrize(
    ("forking", "settings"),
    [
        ("by the main thread", {"signing_key": "a-key-of-twenty-bytes"}),
        ("by another thread", {}),
        pytest.param("by the main thread", {}, marks=pytest.mark.long),
        pytest.param("by another thread", {"signing_key": "a-key-of-twenty-bytes"}, marks=pytest.mark.long),
    ],
)
def test_a_fork_in_the_middle_of_a_batch_gives_a_process_that_works(forking, settings, tmp_path, faults):
    clips = short_clips(6)
    cached_features = make(tmp_path / "root", **settings)
    batch = {"audio": data.columns(clips)["audio"]}
    for clip in clips:
        envelope_of(clip)
    mine = threading.local()
    n_tried = faults.times(12, 300)
    rng = random.Random(0)

    def work() -> None:
        """Read, compute and store, with bad clips and bad entries among it."""
        mine.number = getattr(mine, "number", 0) + 1
        outputs = cached_features(batch)
        assert wrong_rows(outputs, clips) == 0
        with contextlib.suppress(ValueError):
            cached_features({"audio": [b"no audio"]})
        if mine.number % 2:
            cached_features.audio_cache.clear()
        if mine.number % 4 == 0:
            cached_features.waveform_cache.clear()
        assert cached_features.stats.computed

    def use() -> bool:
        outputs = cached_features(batch)
        cached_features.audio_cache.clear()
        again = cached_features(batch)
        assert cached_features.stats.computed
        assert len(cached_features.bad_clips) <= 1
        cached_features.explain(batch["audio"][0])
        return wrong_rows(outputs, clips) == wrong_rows(again, clips) == 0

    codes: list[int] = []

    def fork_on() -> None:
        for _ in range(n_tried):
            time.sleep(rng.random() * 0.01)
            codes.append(fork_and_use(use))
            if codes[-1] == HUNG:
                return

    if forking == "by the main thread":
        with running(work, 2) as raised:
            fork_on()
    else:
        forker = threading.Thread(target=fork_on)
        with running(work, 1) as raised:
            forker.start()
            while forker.is_alive():
                work()
            forker.join()
    assert raised == []
    assert HUNG not in codes
    assert len(codes) == n_tried
    assert wrong_rows(cached_features(batch), clips) == 0
    report = verify(CacheRoot(tmp_path / "root", signing_key=settings.get("signing_key")))
    assert report.is_clean
    assert report.n_in_progress == 0
    faults.survived(
        f"a fork {forking}, in the middle of a batch", n_tried, wrong_values=codes.count(1), exceptions=codes.count(2)
    )


def test_a_fork_counts_apart_and_together(tmp_path):
    """A child that was forked in the middle of a batch counts into the figures of all, and takes none away."""
    clips = short_clips(4)
    cached_features = make(tmp_path / "root")
    batch = {"audio": data.columns(clips)["audio"]}
    cached_features(batch)
    n_reads = [0]

    def work() -> None:
        cached_features(batch)
        n_reads[0] += 1

    with running(work, 1) as raised:
        codes = [fork_and_use(lambda: cached_features(batch) is not None) for _ in range(10)]
    assert raised == []
    assert codes == [0] * 10
    stats = cached_features.stats
    assert (stats.hits, stats.misses, stats.computed) == (4 * (n_reads[0] + 10), 4, 4)


def a_file_more(folder: str, count: int, settings: dict[str, Any]) -> list[list[str]]:
    """Return what is open before a file is, while it is, and after."""
    before = open_files()
    with Path(folder, "file").open("w"):
        found = open_files()
    return [before, found, open_files()]


def test_this_system_says_what_is_open(tmp_path):
    """Else the tests above would show nothing."""
    # Asked in a process of its own, as there: threads of earlier tests open and close files in this one.
    before, found, after = data.run_program(CALL, "a_file_more", tmp_path, 1, "{}", has_torch=False)
    assert found == sorted([*before, str(tmp_path / "file")])
    assert after == before
    assert sys.platform == "linux"

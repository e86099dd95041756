"""Writers and sweepers killed by `kill -9` at any moment: what was stored stays, and nothing torn is ever served."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import audio_datasets as data
import numpy as np
import pytest
import soundfile
from assertions import all_same
from children import start_child

from hf_audio_cache import AudioCache, AudioCacheKey, CachedFeatures, CacheRoot, WaveformCache, prune, verify

RATE = 8000  # that of the prompts: their waveforms are what soundfile reads
PROCESSOR_SHA = "7d865e95" * 8
UNFINISHED = ".tmp"

pytestmark = pytest.mark.timeout(900)

Outputs = dict[str, np.ndarray]


def front_end(waveform: np.ndarray, sampling_rate: int) -> Outputs:
    """Return two outputs, so cheap that much of a run is writing."""
    frames = waveform[: len(waveform) // 80 * 80].reshape(-1, 80)
    return {"frames": frames.copy(), "loudness": np.abs(frames).max(axis=1)}


@dataclass(frozen=True)
class Truth:
    """Clips, and what must be stored of each by its sha, found without the cache."""

    clips: list[Path]
    waveforms: dict[str, np.ndarray]
    features: dict[str, Outputs]

    @classmethod
    def of(cls, clips: list[Path]) -> Truth:
        """Return what soundfile and the front end make of the clips."""
        waveforms = {data.sha256(clip): soundfile.read(clip, dtype="float32")[0] for clip in clips}
        return cls(clips, waveforms, {sha: front_end(waveform, RATE) for sha, waveform in waveforms.items()})

    def stored_as(self, name: str) -> Outputs:
        """Return the arrays that the entry of this name must hold."""
        folder, _, file_name = name.split("/")
        sha = file_name.partition(".")[0]
        return self.features[sha] if folder == "features" else {"waveform": self.waveforms[sha]}


@pytest.fixture(scope="module")
def truth(prompts):
    """Forty prompts of 5 to 21 seconds."""
    return Truth.of(data.shortest(prompts, len(prompts))[-44:-4])


@pytest.fixture(scope="module")
def truth_of_few(truth):
    """Eight prompts of about 20 seconds."""
    return Truth.of(truth.clips[-8:])


# Writers --------------------------------------------------------------------------------------------------------------


class Writer:
    """A process that writes, and says of each entry that it is stored."""

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self._receiver, sender = os.pipe()
        self.process = start_child(function, sender, *arguments)
        os.close(sender)

    def wait(self) -> None:
        """Wait until it said something, or has ended."""
        select.select([self._receiver], [], [])

    def kill(self) -> None:
        """Kill it as `kill -9` does."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        assert self.process.exitcode == -signal.SIGKILL, "it ended before it was killed"

    def kill_in_a_write(self, root: Path) -> None:
        """Kill it while a file of its own under `root` is not finished."""
        assert kill_in_a_write(self.process.pid, root), "it ended before it was killed"
        self.kill()

    def acknowledged(self) -> set[str]:
        """Return the names of the entries that it said were stored; all writers must be dead."""
        with open(self._receiver, encoding="ascii") as receiver:
            return {line[:-1] for line in receiver if line.endswith("\n")}


def kill_in_a_write(pid: int, root: Path) -> bool:
    """Kill a process while it writes under `root`; return whether it lived long enough."""
    is_stopped = stop_in_a_write(pid, root)
    if is_stopped:
        os.kill(pid, signal.SIGKILL)
    return is_stopped


def stop_in_a_write(pid: int, root: Path) -> bool:
    """Stop a process while it writes under `root`; return whether it lived long enough.

    It is stopped at one moment after the other, until one falls into a write.
    """
    moments = random.Random(pid)
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, signal.SIGSTOP)
            while (state := state_of(pid)) not in "TZX":
                time.sleep(0)
            if state != "T":
                return False
            if pid in writing_processes(root):
                return True
            os.kill(pid, signal.SIGCONT)
            time.sleep(moments.uniform(0.0, 0.004))
    return False


def state_of(pid: int) -> str:
    """Return the state of a process as `ps` shows it: T if it is stopped, Z if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


def writing_processes(root: Path) -> set[int]:
    """Return the pids of those whose files are not finished, as the names of these say."""
    return {int(path.name.split(".")[-2].partition("-")[0]) for path in root.rglob(f".*{UNFINISHED}")}


def acknowledge(sender: int, names: Iterable[str]) -> None:
    """Say that the entries of these names are stored."""
    os.write(sender, "".join(f"{name}\n" for name in names).encode())


def cached_by(root: Path, cap: int) -> CachedFeatures:
    """Return a cache whose keys have a cap of `cap` seconds, longer than any clip: new keys, and no new values."""
    return CachedFeatures(
        front_end,
        CacheRoot(root, compression=None),
        identity="frames",
        sampling_rate=RATE,
        max_length_seconds=cap,
        waveforms="always",
    )


def features_of(clips: Iterable[Path], cached_features: CachedFeatures, cap: int) -> list[str]:
    """Return the names of the entries that references to these clips need; no reference needs a waveform."""
    sha = cached_features.processor_sha
    return [f"features/{AudioCacheKey(data.sha256(clip), sha, RATE, 1000 * cap).name()}" for clip in clips]


def map_for_ever(sender: int, root: Path, clips: list[Path], caps: Iterable[int], seed: int) -> None:
    """Make references to the clips, four at a time, under one cap after the other."""
    order = random.Random(seed)
    for cap in caps:
        cached_features = cached_by(root, cap)
        shuffled = order.sample(clips, len(clips))
        for some in (shuffled[i : i + 4] for i in range(0, len(shuffled), 4)):
            cached_features.map(data.in_memory(some))
            acknowledge(sender, features_of(some, cached_features, cap))


def put_for_ever(sender: int, root: Path, truth: Truth, seed: int) -> None:
    """Put entry after entry, most of them in the place of one that is there."""
    order = random.Random(seed)
    features = AudioCache(CacheRoot(root / "features", compression="blosc"))
    waveforms = WaveformCache(CacheRoot(root / "waveforms", compression="blosc"))
    while True:
        sha = order.choice(list(truth.features))
        key = AudioCacheKey(sha, PROCESSOR_SHA, RATE, 0)
        waveforms.put(key.waveform_key(), truth.waveforms[sha])
        features.put(key, truth.features[sha])
        acknowledge(sender, [f"features/{key.name()}", f"waveforms/{key.waveform_key().name()}"])


# What they left -------------------------------------------------------------------------------------------------------


def files_of(root: Path) -> dict[str, Path]:
    return {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}


def unfinished(root: Path) -> dict[str, Path]:
    return {name: path for name, path in files_of(root).items() if name.endswith(UNFINISHED)}


def entries(root: Path) -> dict[str, Path]:
    return {name: path for name, path in files_of(root).items() if name.endswith(".npz")}


def digests(root: Path) -> dict[str, str]:
    """Return a digest of every file but the unfinished ones."""
    finished = {name: path for name, path in files_of(root).items() if not name.endswith(UNFINISHED)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in finished.items()}


def sizes(root: Path) -> dict[str, int]:
    return {name: path.stat().st_size for name, path in files_of(root).items()}


def read_by_numpy(path: Path) -> Outputs | None:
    """Return the arrays of an entry as NumPy reads them, which compares zip's own checksums."""
    try:
        with np.load(path, allow_pickle=False) as npz:
            return {name: npz[name] for name in npz.files}
    except Exception:  # noqa: BLE001 - whatever NumPy raises for it
        return None


def n_wrong(root: Path, truth: Truth, names: Iterable[str]) -> int:
    """Return how many entries NumPy cannot open, or are not what their clip gives; the cache has no part in this."""
    return sum(not all_same(read_by_numpy(root / name), truth.stored_as(name)) for name in names)


def n_bytes_missing(root: Path, acknowledged: set[str], truth: Truth) -> int:
    """Return the bytes of the arrays that a writer said were stored, and that are not there."""
    missing = acknowledged - entries(root).keys()
    return sum(array.nbytes for name in missing for array in truth.stored_as(name).values())


def n_bad(root: Path) -> int:
    """Return how many bad files `verify` finds; what else it says is compared with the files that are there."""
    report, there = verify(root), entries(root)
    assert (report.n_entries, report.n_bytes) == (len(there), sum(path.stat().st_size for path in there.values()))
    assert (report.unfinished, report.n_in_progress) == ([], len(unfinished(root)))
    assert (report.unsigned, report.unreadable, report.n_strangers) == ([], {}, 0)
    return len(report.bad)


def age(paths: Iterable[Path]) -> None:
    """Make files two days old: older than what a day of use puts together."""
    then = time.time() - 2 * 86_400
    for path in paths:
        os.utime(path, (then, then))


def sweep(root: Path) -> int:
    """Have what was left unfinished swept by `verify` and by `prune`, half by each; return the bytes lost beside it."""
    before, n_bytes, strays = digests(root), sizes(root), unfinished(root)
    first, second = list(strays)[::2], list(strays)[1::2]

    assert verify(root, repair=True).n_deleted == prune(root).n_deleted == 0  # they may have a writer yet
    assert unfinished(root) == strays
    age(strays[name] for name in first)
    assert verify(root).unfinished == first
    assert verify(root).is_clean == (not first)
    report = verify(root, repair=True)
    assert (report.unfinished, report.n_in_progress, report.n_deleted) == (first, len(second), len(first))
    assert list(unfinished(root)) == second

    age(strays[name] for name in second)
    pruned = prune(root)
    assert (pruned.n_deleted, pruned.n_bytes_deleted) == (len(second), sum(n_bytes[name] for name in second))
    assert pruned.n_kept == len(entries(root))
    assert unfinished(root) == {}
    assert verify(root).is_clean

    after = digests(root)
    assert after.keys() <= before.keys()
    return sum(n_bytes[name] for name in before if after.get(name) != before[name])


# Killed while they write ----------------------------------------------------------------------------------------------


def test_killed_maps_leave_whole_entries_and_all_that_they_returned(truth, tmp_path, faults):
    moments, caps = random.Random(0), itertools.count(1000)
    n_kills = n_acknowledged = wrong = lost = 0
    for number in range(faults.times(1, 18)):
        root, acknowledged = tmp_path / f"root{number}", set[str]()
        for _ in range(3):
            before, new_caps = entries(root).keys(), [next(caps) for _ in range(20)]
            writers = [Writer(map_for_ever, root, truth.clips, new_caps, seed) for seed in range(2)]
            time.sleep(moments.uniform(0.0, 0.4))
            writers[0].kill()
            writers[1].wait()
            writers[1].kill_in_a_write(root)
            n_kills += 2
            acknowledged = acknowledged.union(*(writer.acknowledged() for writer in writers))
            wrong += n_bad(root) + n_wrong(root, truth, entries(root).keys() - before)
        assert len(unfinished(root)) >= 3
        lost += n_bytes_missing(root, acknowledged, truth) + sweep(root)
        wrong += n_wrong(root, truth, entries(root))
        n_acknowledged += len(acknowledged)
        shutil.rmtree(root)
    assert n_acknowledged >= 2 * n_kills
    faults.survived("kill -9 of cached_features.map(ds), two at a time", n_kills, wrong_values=wrong, bytes_lost=lost)


def test_killed_puts_leave_the_old_entry_or_the_new_one(truth_of_few, tmp_path, faults):
    moments, root, acknowledged = random.Random(1), tmp_path, set[str]()
    n_kills, wrong = faults.times(6, 108), 0
    keys = {sha: AudioCacheKey(sha, PROCESSOR_SHA, RATE, 0) for sha in truth_of_few.features}
    for number in range(n_kills):
        writer = Writer(put_for_ever, root, truth_of_few, number)
        time.sleep(moments.uniform(0.0, 0.2))
        if number % 2:
            writer.wait()
            writer.kill_in_a_write(root)
        else:
            writer.kill()
        acknowledged |= writer.acknowledged()
        wrong += n_bad(root)
        features, waveforms = AudioCache(root / "features"), WaveformCache(root / "waveforms")
        for sha, key in keys.items():
            stored = features.get_all(key)
            wrong += stored is not None and not all_same(stored, truth_of_few.features[sha])
            waveform = waveforms.get(key.waveform_key())
            wrong += waveform is not None and not np.array_equal(waveform, truth_of_few.waveforms[sha])
        assert features.stats.bad_entries == waveforms.stats.bad_entries == 0
        assert features.stats.hits == sum(name.startswith("features/") for name in entries(root))
    assert len(unfinished(root)) >= n_kills // 2
    assert len(acknowledged) >= len(keys)
    lost = n_bytes_missing(root, acknowledged, truth_of_few) + sweep(root)
    faults.survived("kill -9 of AudioCache.put over entries", n_kills, wrong_values=wrong, bytes_lost=lost)


def map_by_workers(sender: int, root: Path, clips: list[Path], cap: int) -> None:
    """Make references in two worker processes; `datasets` raises where one of them dies."""
    with contextlib.suppress(RuntimeError):
        cached_features = cached_by(root, cap)
        cached_features.map(data.in_memory(clips), num_proc=2, batch_size=2)
        acknowledge(sender, features_of(clips, cached_features, cap))


def test_a_worker_that_is_killed_alone_loses_its_own_clip_at_most(truth, tmp_path, faults):
    n_kills = wrong = lost = 0
    wanted, clips = faults.times(1, 20), truth.clips
    for cap in range(1000, 1000 + 10 * wanted):
        root = tmp_path / f"root{cap}"
        writer = Writer(map_by_workers, root, clips, cap)
        workers: set[int] = set()
        while not workers and writer.process.is_alive():
            workers = writing_processes(root)
        n_kills += any(kill_in_a_write(worker, root) for worker in workers)
        writer.process.join()
        assert writer.process.exitcode == 0
        wrong += n_bad(root) + n_wrong(root, truth, entries(root))
        lost += n_bytes_missing(root, writer.acknowledged(), truth)

        with_features, with_waveform = (
            {name.split("/")[2].partition(".")[0] for name in entries(root) if name.startswith(kind)}
            for kind in ("features", "waveforms")
        )
        missing = {data.sha256(clip) for clip in clips} - with_features
        cached_features = cached_by(root, cap)
        cached_features.map(data.in_memory(clips))
        stats = cached_features.stats
        assert (stats.hits, stats.computed) == (len(with_features), len(missing))
        assert stats.decodes == len(missing - with_waveform)
        wrong += n_wrong(root, truth, entries(root))
        lost += sweep(root)
        shutil.rmtree(root)
        if n_kills == wanted:
            break
    faults.survived("kill -9 of a worker of num_proc=2 while it writes", n_kills, wrong_values=wrong, bytes_lost=lost)


# Stopped while others sweep -------------------------------------------------------------------------------------------

SWEEPERS: dict[str, Callable[[Path], Any]] = {
    "verify(repair=True)": lambda root: verify(root, repair=True),
    "prune(max_bytes=…)": lambda root: prune(root, max_bytes=50_000),
    "clear()": lambda root: (AudioCache(root / "features").clear(), WaveformCache(root / "waveforms").clear()),
}


def map_once(sender: int, root: Path, clips: list[Path]) -> None:
    """Make references to the clips; where an entry cannot be stored, this raises."""
    cached_by(root, 1000).map(data.in_memory(clips))


@pytest.mark.parametrize("sweeper", SWEEPERS)
def test_a_writer_that_a_sweeper_overtakes_stores_its_entry_all_the_same(sweeper, truth, tmp_path, faults):
    wanted, n_tried, n_failed, wrong = faults.times(1, 30), 0, 0, 0
    for number in range(20 * wanted):
        root = tmp_path / f"root{number}"
        writer = Writer(map_once, root, truth.clips[::4])
        is_stopped = stop_in_a_write(writer.process.pid, root)
        being_written = [name.rpartition("/") for name in unfinished(root)]
        try:
            SWEEPERS[sweeper](root)
        finally:
            os.kill(writer.process.pid, signal.SIGCONT)
            writer.process.join()
        if not is_stopped:  # it was too fast
            continue
        n_tried += 1
        n_failed += writer.process.exitcode != 0
        finished = [Path(folder, name[1:].rpartition(".")[0].rpartition(".")[0]) for folder, _, name in being_written]
        n_failed += not all((root / path).is_file() for path in finished)
        assert verify(root).is_clean
        wrong += n_wrong(root, truth, entries(root))
        shutil.rmtree(root)
        if n_tried == wanted:
            break
    faults.survived(f"{sweeper} while a writer is in the middle", n_tried, wrong_values=wrong, exceptions=n_failed)


# Killed while they sweep ----------------------------------------------------------------------------------------------


def fill(root: Path, clip: Path, n_entries: int) -> tuple[set[str], set[str]]:
    """Store features of one clip under many caps, so that all are in one folder; damage half of them.

    Returns the names of the good ones and of the bad ones. The good ones were written after the bad ones.
    """
    sha = data.sha256(clip)
    waveform = soundfile.read(clip, dtype="float32")[0][:100]
    names: tuple[set[str], set[str]] = set(), set()
    cache = AudioCache(root / "features")
    for cap in range(1, n_entries + 1):
        key = AudioCacheKey(sha, PROCESSOR_SHA, RATE, cap)
        path = Path(cache.put(key, waveform))
        names[cap % 2].add(f"features/{key.name()}")
        if cap % 2:
            path.write_bytes(path.read_bytes()[:-1])
            age([path])
    return names


@pytest.mark.parametrize("sweeper", SWEEPERS)
def test_a_sweeper_that_is_killed_took_nothing_else_and_can_be_run_again(sweeper, prompts, tmp_path, faults):
    clip = data.shortest(prompts, 1)[0]
    moments, wanted, n_kills, lost = random.Random(2), faults.times(1, 15), 0, 0
    for number in range(20 * wanted):
        root = tmp_path / f"root{number}"
        good, bad = fill(root, clip, 200)
        stranger = root / "features" / clip.name
        stranger.write_bytes(clip.read_bytes())
        before, n_bytes = digests(root), sizes(root)
        folder = root / Path(min(good)).parent
        process = start_child(SWEEPERS[sweeper], root)
        while len(os.listdir(folder)) == 200 and process.is_alive():
            pass
        time.sleep(moments.uniform(0.0, 0.0005))
        process.kill()
        process.join()
        n_kills += 0 < len(os.listdir(folder)) < 200 and process.exitcode == -signal.SIGKILL  # it had begun, not ended

        after = digests(root)
        assert after.items() <= before.items()
        gone = before.keys() - after.keys()
        lost += sum(n_bytes[name] for name in gone if sweeper == "verify(repair=True)" and name in good)
        if after.keys() & bad and sweeper.startswith("prune"):  # the oldest go first, and here the bad ones are
            lost += sum(n_bytes[name] for name in gone & good)

        SWEEPERS[sweeper](root)
        left = set(digests(root)) - {f"features/{clip.name}"}
        assert stranger.read_bytes() == clip.read_bytes()
        if sweeper == "clear()":
            assert left == set()
        elif sweeper.startswith("prune"):
            assert left < good
            assert 45_000 < sum(n_bytes[name] for name in left) <= 50_000
        else:
            assert left == good
            assert verify(root).is_clean
        shutil.rmtree(root)
        if n_kills == wanted:
            break
    faults.survived(f"kill -9 of {sweeper}", n_kills, bytes_lost=lost)

"""Eight processes on one root: five that read and write, and three that delete what these need."""

from __future__ import annotations

import itertools
import logging
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import audio_datasets as data
import numpy as np
import pytest
import soundfile
from children import start_child

from hf_audio_cache import AudioCache, AudioCacheKey, CachedFeatures, CacheRoot, Stats, WaveformCache, prune, verify

logger = logging.getLogger(__name__)

RATE = 8000  # that of the prompts: their waveforms are what soundfile reads
N_SHARED = 12  # clips that every process uses
N_OWN = 4  # clips that only one does

Outputs = Mapping[str, np.ndarray]


def spectrum(waveform: np.ndarray, sampling_rate: int) -> Outputs:
    frames = waveform[: len(waveform) // 160 * 160].reshape(-1, 160)
    return {"spectrum": np.abs(np.fft.rfft(frames, axis=1)).astype(np.float32), "is_loud": frames.max(axis=1) > 0.1}


def start(waveform: np.ndarray, sampling_rate: int) -> Outputs:
    return {"input_values": waveform[:8000].copy()}


FRONT_ENDS = {"spectrum": spectrum, "start": start}
NAMES = list(FRONT_ENDS)


def make(name: str, root: Path, **settings: Any) -> CachedFeatures:
    return CachedFeatures(
        FRONT_ENDS[name], CacheRoot(root, **settings), identity=name, sampling_rate=RATE, waveforms="always"
    )


@dataclass(frozen=True)
class Clip:
    """A clip, and what each front end makes of it, found without the cache."""

    path: Path
    sha: str
    waveform: np.ndarray
    outputs: Mapping[str, Outputs]


@pytest.fixture(scope="module")
def clips(prompts):
    """Forty prompts of 1 to 3 seconds."""
    found = []
    for path in data.shortest(prompts, 300)[-(N_SHARED + 7 * N_OWN) :]:
        waveform, _ = soundfile.read(path, dtype="float32")
        outputs = {name: front_end(waveform, RATE) for name, front_end in FRONT_ENDS.items()}
        found.append(Clip(path, data.sha256(path), waveform, outputs))
    return found


@dataclass
class Tally:
    """What one process did and saw."""

    role: str
    n_done: int = 0
    stored: set[tuple[str, str]] = field(default_factory=set)  # front end and clip
    n_new: int = 0  # of the last batch, those that this process had not stored
    n_values: int = 0
    n_wrong: int = 0
    errors: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def check(self, found: Any, expected: np.ndarray) -> None:
        """Count a value that was given out, and whether it is right."""
        self.n_values += 1
        is_array = isinstance(found, np.ndarray) and found.dtype == expected.dtype
        self.n_wrong += not (is_array and np.array_equal(found, expected))

    def check_rows(self, rows: Any, clips: list[Clip], processor: str) -> None:
        """Check every output of a batch, by name; all of it is in the cache now."""
        batch = {(processor, clip.sha) for clip in clips}
        self.n_new = len(batch - self.stored)
        self.stored |= batch
        for name in clips[0].outputs[processor]:
            assert len(rows[name]) == len(clips)
            for found, clip in zip(rows[name], clips, strict=True):
                self.check(found, clip.outputs[processor][name])

    def note(self, stats: Stats) -> None:
        """Count, of the last batch, bad entries, and what was computed though this process had stored it before."""
        self.counts["bad_entries"] += stats.bad_entries
        self.counts["missed"] += max(stats.computed - self.n_new, 0)


# What the processes do: each of these yields after every step ---------------------------------------------------------


def call(root: Path, clips: list[Clip], rng: random.Random, tally: Tally) -> Iterator[None]:
    """Ask for the features of a batch of cells."""
    caches = {name: make(name, root) for name in NAMES}
    while True:
        name, some = rng.choice(NAMES), rng.sample(clips, 4)
        before = caches[name].stats
        batch = caches[name]({"audio": data.columns([clip.path for clip in some])["audio"]})
        tally.check_rows(batch, some, name)
        tally.note(caches[name].stats - before)
        yield


def attach(root: Path, clips: list[Clip], rng: random.Random, tally: Tally) -> Iterator[None]:
    """Read rows of a dataset with attached features, through a new cache each time."""
    while True:
        name, some = rng.choice(NAMES), rng.sample(clips, 4)
        cached_features = make(name, root, compression=rng.choice([None, "blosc"]))
        attached = cached_features.attach(data.in_memory([clip.path for clip in some]))
        tally.check_rows(attached[:], some, name)
        tally.note(cached_features.stats)
        yield


def refer(root: Path, clips: list[Clip], rng: random.Random, tally: Tally) -> Iterator[None]:
    """Make references, and read them beside the audio they came from, as the entries may be gone again."""
    while True:
        name, some = rng.choice(NAMES), rng.sample(clips, 4)
        cached_features = make(name, root)
        mapped = cached_features.map(data.in_memory([clip.path for clip in some]))
        tally.check_rows(cached_features.attach(mapped)[:], some, name)
        tally.note(cached_features.stats)
        yield


def map_into_arrow(root: Path, clips: list[Clip], rng: random.Random, tally: Tally) -> Iterator[None]:
    """Map a dataset, so that Arrow holds the arrays."""
    while True:
        some = rng.sample(clips, 4)
        cached_features = make("start", root)
        ds = data.in_memory([clip.path for clip in some])
        mapped = ds.map(cached_features, batched=True, features=cached_features.features(ds.features))
        tally.check_rows(mapped.remove_columns("audio").with_format("numpy")[:], some, "start")
        tally.note(cached_features.stats)
        yield


def put_and_get(root: Path, clips: list[Clip], rng: random.Random, tally: Tally) -> Iterator[None]:
    """Use the two caches by hand, with the keys that the others use."""
    shas = {name: make(name, root).processor_sha for name in NAMES}
    features, waveforms = (
        AudioCache(root / "features"),
        WaveformCache(CacheRoot(root / "waveforms", compression="blosc")),
    )
    while True:
        name, clip = rng.choice(NAMES), rng.choice(clips)
        key = AudioCacheKey(clip.sha, shas[name], RATE, 0)
        if rng.random() < 0.5:
            features.put(key, clip.outputs[name])
            waveforms.put(key.waveform_key(), clip.waveform)
            tally.stored.add((name, clip.sha))
        outputs, waveform = features.get_all(key), waveforms.get(key.waveform_key())
        tally.counts["missed"] += outputs is None and (name, clip.sha) in tally.stored
        if outputs is not None:
            assert outputs.keys() == clip.outputs[name].keys()
            for output, array in outputs.items():
                tally.check(array, clip.outputs[name][output])
        if waveform is not None:
            tally.check(waveform, clip.waveform)
        tally.counts["bad_entries"] = features.stats.bad_entries + waveforms.stats.bad_entries
        yield


def clear(root: Path, clips: list[Clip], rng: random.Random, tally: Tally) -> Iterator[None]:
    """Empty both caches."""
    features, waveforms = AudioCache(root / "features"), WaveformCache(root / "waveforms")
    while True:
        time.sleep(rng.uniform(0.0, 0.2))
        tally.counts["deleted"] += features.clear() + waveforms.clear()
        yield


def prune_to_size(root: Path, clips: list[Clip], rng: random.Random, tally: Tally) -> Iterator[None]:
    """Delete the oldest entries, all but some 20 kB."""
    while True:
        time.sleep(rng.uniform(0.0, 0.02))
        tally.counts["deleted"] += prune(root, max_bytes=rng.choice([0, 20_000, 200_000])).n_deleted
        yield


def verify_and_repair(root: Path, clips: list[Clip], rng: random.Random, tally: Tally) -> Iterator[None]:
    """Look for damage, of which there is none."""
    while True:
        report = verify(root, repair=True)
        tally.counts += Counter(read=report.n_entries, found=len(report.bad) + len(report.unreadable))
        tally.counts += Counter(found=len(report.unfinished) + report.n_strangers, deleted=report.n_deleted)
        yield


Role = Callable[[Path, list[Clip], random.Random, Tally], Iterator[None]]

WORKERS: list[Role] = [call, attach, refer, map_into_arrow, put_and_get]
SWEEPERS: list[Role] = [clear, prune_to_size, verify_and_repair]


def play(sender: Any, role: Role, root: Path, clips: list[Clip], seed: int, seconds: float) -> None:
    """Do what `role` says for some time, and send what came of it."""
    tally = Tally(role.__name__)
    until = time.monotonic() + seconds
    for attempt in itertools.count():
        steps = role(root, clips, random.Random(1000 * seed + attempt), tally)
        try:
            while time.monotonic() < until:
                next(steps)
                tally.n_done += 1
        except Exception:  # noqa: BLE001 - it is counted, and the process goes on
            tally.errors.append(traceback.format_exc())
        if time.monotonic() >= until or len(tally.errors) >= 100:
            break
    sender.send(tally)


def run(roles: list[Role], root: Path, clips: list[Clip], seconds: float) -> list[Tally]:
    """Have every role played by a process of its own, all at once; return what each saw."""
    shared, own = clips[:N_SHARED], clips[N_SHARED:]
    pipes, processes = [], []
    for seed, role in enumerate(roles):
        receiver, sender = get_context("fork").Pipe(duplex=False)
        used = [*shared, *own[N_OWN * seed : N_OWN * (seed + 1)]]
        processes.append(start_child(play, sender, role, root, used, seed, seconds))
        sender.close()
        pipes.append(receiver)
    tallies = [receiver.recv() for receiver in pipes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for tally in tallies:
        for error in tally.errors[:1]:
            logger.error("%s had %d errors, of which the first: %s", tally.role, len(tally.errors), error)
    return tallies


def sums(tallies: list[Tally]) -> dict[str, int]:
    """Return the figures of all processes, as the table has them."""
    return {
        "tried": sum(tally.n_done for tally in tallies),
        "wrong_values": sum(tally.n_wrong for tally in tallies),
        "exceptions": sum(len(tally.errors) for tally in tallies),
    }


def assert_all_is_well(root: Path, tallies: list[Tally]) -> None:
    """Check that the root is clean by the product's own account, and that each process did something."""
    report = verify(root)
    files = [path.name for path in root.rglob("*") if path.is_file()]
    assert report.is_clean
    assert (report.n_in_progress, report.n_strangers) == (0, 0)
    assert report.n_entries == sum(name.endswith(".npz") for name in files)
    assert not any(name.endswith(".tmp") for name in files)
    assert [tally.role for tally in tallies if tally.n_done == 0] == []
    assert [tally.counts["bad_entries"] for tally in tallies] == [0] * len(tallies)
    assert [(tally.counts["found"], tally.counts["deleted"]) for tally in tallies if tally.counts["read"]] == [(0, 0)]


def test_eight_processes_on_one_root_get_right_values_and_no_error(clips, tmp_path, faults):
    tallies = run(WORKERS + SWEEPERS, tmp_path, clips, faults.times(4, 90))
    assert_all_is_well(tmp_path, tallies)
    assert sum(tally.n_values for tally in tallies) > 50
    assert min(tally.counts["deleted"] for tally in tallies if tally.role in ("clear", "prune_to_size")) > 0
    faults.survived("8 processes map, put, get, clear, prune and repair", **sums(tallies))


def test_what_eight_processes_computed_at_once_is_all_kept(clips, tmp_path, faults):
    tallies = run([*WORKERS, refer, call, verify_and_repair], tmp_path, clips, faults.times(3, 60))
    assert_all_is_well(tmp_path, tallies)
    shas = {name: make(name, tmp_path).processor_sha for name in NAMES}
    cache, lost, wrong = AudioCache(tmp_path / "features"), 0, Tally("afterwards")
    by_sha = {clip.sha: clip for clip in clips}
    stored = set.union(*(tally.stored for tally in tallies))
    assert len(stored) > 2 * N_SHARED
    assert [tally.counts["missed"] for tally in tallies] == [0] * len(tallies)
    for name, sha in stored:
        found = cache.get_all(AudioCacheKey(sha, shas[name], RATE, 0))
        for output, expected in by_sha[sha].outputs[name].items():
            if found is None:
                lost += expected.nbytes
            else:
                wrong.check(found[output], expected)
    faults.survived("8 processes map, put and get the same keys", bytes_lost=lost, **sums([*tallies, wrong]))

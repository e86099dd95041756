"""Disks that are full, read-only, forbidden, broken or taken away: a run goes on, and its features are right.

The faults are real ones. File systems of a given size are mounted where that is allowed; a read or a write of a broken
disk is a system call that the kernel refuses, by a filter on the thread that runs the job.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import platform
import random
import re
import resource
import shutil
import signal
import struct
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from children import become_nobody, in_child, no_more_open_files, start_child
from datasets import Audio, Dataset

from hf_audio_cache import AudioCache, CachedFeatures, Stats, VerifyReport, WaveformCache, prune, verify
from hf_audio_cache.errors import StoreError
from hf_audio_cache.support import threads
from hf_audio_cache.support.process_local import ProcessLocal

RATE = 8000  # that of the prompts: their waveforms are what soundfile reads

pytestmark = pytest.mark.timeout(900)


def front_end(waveform, sampling_rate):
    """Return two outputs, one of two axes, which cost next to nothing."""
    frames = waveform[: len(waveform) // 80 * 80].reshape(-1, 80)
    return {"frames": frames.copy(), "is_loud": (np.abs(frames).max(axis=1) > 0.1).astype(np.int32)}


@dataclass(frozen=True)
class Clip:
    """A clip, and what the front end makes of it, found without the cache."""

    name: str
    encoded: bytes
    outputs: Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def clips(prompts):
    """Ten prompts of 1 to 5 seconds."""
    paths = sorted(prompts, key=lambda path: (path.stat().st_size, path))[150:500:35]
    return [
        Clip(path.name, path.read_bytes(), front_end(soundfile.read(path, dtype="float32")[0], RATE)) for path in paths
    ]


# The job --------------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a job did, as its process tells it."""

    n_rows: int = 0
    n_wrong: int = 0
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stats: Stats = field(default_factory=Stats)
    store_error: str | None = None


class Job:
    """A user's run: a cache on a root, and its clips through ``ds.map`` and ``attach``."""

    def __init__(self, root: Path, clips: Sequence[Clip]) -> None:
        self.root, self.clips = root, clips
        cells = [{"bytes": clip.encoded, "path": clip.name} for clip in clips]
        self.dataset = Dataset.from_dict({"audio": cells}).cast_column("audio", Audio(decode=False))
        self.cached_features = CachedFeatures(
            front_end, root, identity="frames", sampling_rate=RATE, waveforms="always"
        )

    def run(self, *forms: Callable[[], Any]) -> Outcome:
        """Run it in these forms, by default both; return what came of it."""
        before, outcome = self.cached_features.stats, Outcome()
        with warnings_in(outcome.warnings):
            for form in forms or (self.into_arrow, self.attached):
                try:
                    rows = form()
                    for name in self.clips[0].outputs:
                        for found, clip in zip(rows[name], self.clips, strict=True):
                            outcome.n_rows += 1
                            outcome.n_wrong += not is_as_in_arrow(found, clip.outputs[name])
                except Exception:  # noqa: BLE001 - it is counted
                    outcome.errors.append(traceback.format_exc())
        outcome.stats = self.cached_features.stats - before
        return outcome

    def into_arrow(self) -> Any:
        """Return the rows of ``ds.map(cached_features)``, as Arrow holds them."""
        features = self.cached_features.features(self.dataset.features)
        mapped = self.dataset.map(self.cached_features, features=features, batched=True, batch_size=4)
        return mapped.remove_columns("audio").with_format("numpy")[:]

    def attached(self) -> Any:
        """Return the rows of ``cached_features.attach(ds)``."""
        attached = self.cached_features.attach(self.dataset)
        batches = [attached[start : start + 4] for start in range(0, len(attached), 4)]
        return {name: [row for batch in batches for row in batch[name]] for name in self.clips[0].outputs}

    def references(self) -> Any:
        """Return the rows of ``cached_features.map(ds)``, read from their entries."""
        return self.cached_features.map(self.dataset)[:]

    def attached_references(self) -> Any:
        """Return the same, where an entry that cannot be read may be computed from its audio."""
        return dict(self.cached_features.attach(self.cached_features.map(self.dataset))[:])

    def store_error(self) -> str | None:
        """Return what ``cached_features.map(ds)`` says where an entry cannot be stored."""
        try:
            self.cached_features.map(self.dataset)
        except StoreError as error:
            return str(error)
        except Exception:  # noqa: BLE001 - the wrong answer, to be shown
            return traceback.format_exc()
        return None


@contextlib.contextmanager
def warnings_in(messages: list[str]) -> Iterator[None]:
    """Append to `messages` what the package warns of."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("hf_audio_cache")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def is_as_in_arrow(found: Any, expected: np.ndarray) -> bool:
    """Compare with an array; integers by value, as Arrow's are read as int64."""
    array = np.asarray(found)
    return (array.dtype == expected.dtype or expected.dtype.kind == "i") and np.array_equal(array, expected)


def entries_in(root: Path) -> list[Path]:
    """Return the entries under a root that are finished."""
    return sorted(root.rglob("*.npz"))


# Faults: each is a context of the process that it befalls -------------------------------------------------------------

Fault = Callable[[Path], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def a_file_in_its_place(root: Path) -> Iterator[None]:
    root.write_bytes(b"precious")
    yield
    assert root.read_bytes() == b"precious"
    root.unlink()


def modes(mode: int) -> Fault:
    """Take permissions of all folders of the root; the process must not be root's own, who has them all."""

    @contextlib.contextmanager
    def changed(root: Path) -> Iterator[None]:
        root.mkdir(exist_ok=True)
        folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
        for folder in reversed(folders):
            folder.chmod(mode)
        yield
        for folder in folders:
            folder.chmod(0o755)

    return changed


@contextlib.contextmanager
def a_parent_that_cannot_be_written(root: Path) -> Iterator[None]:
    root.parent.chmod(0o555)
    yield
    root.parent.chmod(0o755)


@contextlib.contextmanager
def no_files_beyond_20_kb(root: Path) -> Iterator[None]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit is an error then
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def remounted(during: str, afterwards: str) -> Fault:
    """Give the file system that is mounted at the root other options."""

    @contextlib.contextmanager
    def changed(root: Path) -> Iterator[None]:
        mount(root, during, remount=True)
        yield
        mount(root, afterwards, remount=True)

    return changed


# Being somebody else, somewhere else ----------------------------------------------------------------------------------


def stay(root: Path) -> None:
    """Do nothing."""


def give_up_root(root: Path) -> None:
    become_nobody()


_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_READ_ONLY, _REMOUNT, _RECURSIVE, _PRIVATE = 1, 32, 1 << 14, 1 << 18


def mount_a_disk(root: Path) -> None:
    """Mount a file system in memory at the root, which this process alone can see, and which ends with it."""
    uid, gid = os.geteuid(), os.getegid()
    call("unshare", ctypes.c_int(_NEW_MOUNTS if uid == 0 else _NEW_MOUNTS | _NEW_USER))
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    call("mount", b"none", b"/", None, ctypes.c_ulong(_RECURSIVE | _PRIVATE), None)
    root.mkdir(parents=True)
    mount(root, "size=100m")


def mount(root: Path, options: str, *, remount: bool = False) -> None:
    """Mount a tmpfs, or mount it again with other options; ``ro`` and ``rw`` are among them."""
    flags = (_REMOUNT if remount else 0) | (_READ_ONLY if "ro" in options.split(",") else 0)
    others = ",".join(option for option in options.split(",") if option not in ("ro", "rw"))
    call("mount", b"none", os.fsencode(root), b"tmpfs", ctypes.c_ulong(flags), others.encode())


def call(function: str, *arguments: Any) -> None:
    """Call a function of the C library that returns 0 where it succeeds."""
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def can_mount(folder: Path) -> bool:
    """Return whether `mount_a_disk` works here; containers often forbid it."""
    return bool(in_child(_try_to_mount, folder / "try"))


def _try_to_mount(root: Path) -> bool:
    try:
        mount_a_disk(root)
    except OSError:
        return False
    return True


# A broken disk: system calls that fail --------------------------------------------------------------------------------

_SYSCALLS = {
    "x86_64": {"read": 0, "write": 1, "openat": 257, "unlinkat": 263, "renameat": 264},
    "aarch64": {"read": 63, "write": 64, "openat": 56, "unlinkat": 35, "renameat": 38},
}
# Of classic BPF, as the kernel runs it for seccomp: load a word, jump if equal, if at least, if a bit is set; return.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_SET_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2


@dataclass(frozen=True)
class Refused:
    """A system call that fails with an error, if one of its arguments meets a condition.

    A filter is for ever, but for the thread that set it and those that it starts; so the fault ends with the thread.
    """

    syscall: str
    error: int
    argument: int = 0
    test: int = _IF_AT_LEAST
    value: int = 0
    and_if_odd: bool = False  # of that argument

    def set(self) -> None:
        """Set the filter on this thread."""
        odd = [(_LOAD, 0, 0, 16 + 8 * self.argument), (_IF_BIT, 0, 1, 1)] if self.and_if_odd else []
        program = [
            (_LOAD, 0, 0, 0),  # the call's number
            (_IF_EQUAL, 0, 3 + len(odd), _SYSCALLS[platform.machine()][self.syscall]),
            (_LOAD, 0, 0, 16 + 8 * self.argument),  # the lower half of an argument
            (self.test, 0, 1 + len(odd), self.value),
            *odd,
            (_RETURN, 0, 0, _FAIL | self.error),
            (_RETURN, 0, 0, _ALLOW),
        ]
        code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
        buffer = ctypes.create_string_buffer(code, len(code))
        description = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
        call("prctl", *map(ctypes.c_ulong, (_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)))
        call("prctl", *map(ctypes.c_ulong, (_SET_SECCOMP, _FILTER)), description, None, None)


def in_thread(filters: Sequence[Refused], function: Callable[[], Any]) -> Any:
    """Return what `function` returns in a thread whose system calls are refused."""
    results: list[Any] = []

    def run() -> None:
        for refused in filters:
            refused.set()
        results.append(function())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


# No entry is smaller; all else that the thread reads and writes, such as messages, is.
_ENTRY_BYTES = 4000
# libsndfile reads a clip, which is no file of a disk, by 8,192 bytes.
READ_EIO = Refused("read", errno.EIO, 2, value=8193)
WRITE_EIO = Refused("write", errno.EIO, 2, value=_ENTRY_BYTES)


# What befalls a job, and what must come of it -------------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """A fault, and what it makes impossible: none, some or all of the reads and of the writes."""

    fault: Fault | tuple[Refused, ...]
    reads_fail: str = "none"
    writes_fail: str = "none"
    prepare: Callable[[Path], None] = stay
    is_warm: float = 0.0  # the share of the clips that is in the cache before

    @property
    def keeps_references(self) -> bool:
        """Whether there is an entry for each clip, so that there can be references to them."""
        return self.writes_fail == "none"


@dataclass
class Results:
    """What a job did under a fault, and after it."""

    during: Outcome
    store_error: str | None
    in_all: Stats
    n_new_entries: int
    referring: Outcome | None
    after: Outcome
    again: Outcome
    report: VerifyReport
    entry_sizes: dict[str, list[int]]


def suffer(disk: Disk, root: Path, clips: Sequence[Clip]) -> Results:
    """Run a job under a fault, and again after it; in a process of its own."""
    disk.prepare(root)
    root.parent.mkdir(exist_ok=True)
    if disk.is_warm:
        Job(root, clips[: round(disk.is_warm * len(clips))]).run()
    job, n_before = Job(root, clips), len(entries_in(root))

    def under_it() -> tuple[Outcome, str | None, Outcome | None]:
        during, store_error = job.run(), job.store_error()
        return during, store_error, job.run(job.attached_references) if disk.keeps_references else None

    if callable(disk.fault):
        with disk.fault(root):
            during, store_error, referring = under_it()
    else:
        during, store_error, referring = in_thread(disk.fault, under_it)
        # The filter is inherited by threads that were started under it: those that write, and those that read.
        job.cached_features.pipeline.writer.write_behind.release()
        threads._pool = ProcessLocal()
    in_all, n_new_entries = job.cached_features.stats, len(entries_in(root)) - n_before
    after, fresh = job.run(), Job(root, clips)
    again = fresh.run(fresh.into_arrow, fresh.attached, fresh.references)
    sizes = {kind: [path.stat().st_size for path in entries_in(root / kind)] for kind in ("features", "waveforms")}
    return Results(during, store_error, in_all, n_new_entries, referring, after, again, verify(root), sizes)


ALL_REFUSED = (Refused("openat", errno.ESTALE, 2, _IF_BIT, os.O_NOFOLLOW),)  # with which the store alone opens
NOTHING_RENAMED = Refused("renameat", errno.EIO)
NOTHING_DELETED = Refused("unlinkat", errno.EIO)

DISKS = {
    "no file larger than 20 kB": Disk(no_files_beyond_20_kb, writes_fail="some"),
    "a file in the root's place": Disk(a_file_in_its_place, writes_fail="all"),
    "a root without permission": Disk(modes(0), "all", "all", give_up_root),
    "a root without permission, full of entries": Disk(modes(0), "all", "all", give_up_root, is_warm=1.0),
    "a read-only root": Disk(modes(0o555), writes_fail="all", prepare=give_up_root),
    "a read-only root with half the entries": Disk(modes(0o555), "none", "all", give_up_root, is_warm=0.5),
    "a read-only root with every entry": Disk(modes(0o555), prepare=give_up_root, is_warm=1.0),
    "a root that cannot be made": Disk(a_parent_that_cannot_be_written, writes_fail="all", prepare=give_up_root),
    "too many open files": Disk(lambda _: no_more_open_files(), "all", "all"),
    "too many open files, with half the entries": Disk(lambda _: no_more_open_files(), "all", "all", is_warm=0.5),
    "reads that fail with EIO": Disk((READ_EIO,), reads_fail="all", is_warm=1.0),
    "some reads that fail with EIO": Disk((replace(READ_EIO, and_if_odd=True),), reads_fail="some", is_warm=1.0),
    "writes that fail with EIO": Disk((WRITE_EIO,), writes_fail="all"),
    "some writes that fail with EIO": Disk((replace(WRITE_EIO, and_if_odd=True),), writes_fail="some"),
    "writes beyond the quota": Disk((replace(WRITE_EIO, error=errno.EDQUOT),), writes_fail="all", is_warm=0.5),
    "files that cannot be renamed": Disk((NOTHING_RENAMED,), writes_fail="all"),
    "a file server that lost its files (ESTALE)": Disk(ALL_REFUSED, "all", "all", is_warm=1.0),
}
MOUNTED = {
    "a disk that is full from the beginning": Disk(
        remounted("size=4k", "size=100m"), writes_fail="all", prepare=mount_a_disk
    ),
    "a disk that gets full": Disk(remounted("size=300k", "size=100m"), writes_fail="some", prepare=mount_a_disk),
    "a disk without inodes": Disk(remounted("nr_inodes=1", "nr_inodes=10000"), writes_fail="all", prepare=mount_a_disk),
    "a disk that runs out of inodes": Disk(
        remounted("nr_inodes=20", "nr_inodes=10000"), writes_fail="some", prepare=mount_a_disk
    ),
    "a disk mounted read-only": Disk(remounted("ro", "rw"), writes_fail="all", prepare=mount_a_disk),
    "a disk mounted read-only, half its entries there": Disk(
        remounted("ro", "rw"), writes_fail="all", prepare=mount_a_disk, is_warm=0.5
    ),
}


def samples(clips: Sequence[Clip], times: int) -> list[list[Clip]]:
    """Return the clips in as many orders."""
    return [random.Random(seed).sample(clips, len(clips)) for seed in range(times)]


# Each fails as another one does: at the same calls, with the same error, or with entries there or not.
ALIKE = {
    "a root without permission",
    "a read-only root",
    "too many open files, with half the entries",
    "writes that fail with EIO",
    "a disk without inodes",
    "a disk mounted read-only, half its entries there",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in ALIKE else ()) for name in [*DISKS, *MOUNTED]]
)
def test_a_run_goes_on_with_right_features_and_the_cache_works_again_afterwards(name, clips, public_folder, faults):
    disk = {**DISKS, **MOUNTED}[name]
    if name in MOUNTED and not can_mount(public_folder):
        pytest.skip("no file system may be mounted here")
    tried, wrong, errors = 0, 0, []
    for number, some in enumerate(samples(clips, faults.times(1, 8))):
        root = public_folder / f"disk{number}" / "root"
        results = in_child(suffer, disk, root, some)
        tried += 1
        for outcome in filter(None, [results.during, results.referring, results.after, results.again]):
            wrong += outcome.n_wrong
            errors += outcome.errors
        check(disk, root, len(some), results)
    assert errors == []
    faults.survived(name, tried, wrong_values=wrong, exceptions=len(errors))


def check(disk: Disk, root: Path, n: int, results: Results) -> None:
    """Check what a job says of itself against what it did."""
    during = results.during.stats
    assert (results.during.n_rows, results.after.n_rows, results.again.n_rows) == (2 * 2 * n, 2 * 2 * n, 3 * 2 * n)

    # What could not be read is a miss, and counted.
    assert during.bad_entries == 0
    if disk.reads_fail == "none":
        assert during.read_errors == 0
    else:
        assert during.read_errors == during.misses + during.waveform_misses
        assert (during.hits == 0) == (disk.reads_fail == "all")

    # What could not be written is what is not there: a waveform and features of each clip, the manifest and the tag.
    in_all = results.in_all
    n_lost = in_all.computed + in_all.decodes - results.n_new_entries if disk.writes_fail != "none" else 0
    assert n_lost <= in_all.write_errors <= (n_lost + 2 if n_lost else 0)
    assert (n_lost > 0) == (disk.writes_fail != "none")
    assert (results.n_new_entries > 0) == (disk.writes_fail == "some")

    # The first failure of each cache is warned of, and no other.
    warned = [
        sum(f" {root / folder}/" in message for message in results.during.warnings)
        for folder in ("features", "waveforms")
    ]
    assert sum(warned) == len(results.during.warnings)
    if "all" in (disk.reads_fail, disk.writes_fail):
        assert warned == [1, 1]
    else:
        assert max(warned) == ("some" in (disk.reads_fail, disk.writes_fail))
    assert results.after.warnings == []

    # References need entries.
    where = re.escape(str(root / "features"))
    full = ("No space left on device", "Disk quota exceeded", "File too large")
    remedy = "Make room, use another root" if str(results.store_error).endswith(full) else "Use another root"
    told = (
        rf"features could not be stored under {where}, and references need them there\. "
        rf"{remedy}, or read with cached_features\.attach\(ds\)\. No column was made: could not write .*: .*"
    )
    assert (results.store_error is None) == disk.keeps_references
    assert results.store_error is None or re.fullmatch(told, results.store_error)

    # Afterwards all is stored, and found.
    after, again = results.after.stats, results.again.stats
    assert (after.read_errors, after.write_errors, after.bad_entries) == (0, 0, 0)
    assert (again.hits, again.misses, again.computed) == (3 * n, 0, 0)
    features, waveforms = results.entry_sizes["features"], results.entry_sizes["waveforms"]
    assert len(features) == n
    assert len(waveforms) == n if disk.writes_fail != "some" else len(waveforms) <= n  # features alone do as well
    assert results.report == VerifyReport(str(root), len(features + waveforms), sum(features + waveforms))


# The root taken away --------------------------------------------------------------------------------------------------


def remove_for_ever(root: Path) -> None:
    while True:
        shutil.rmtree(root, ignore_errors=True)


def run_and_run_again(root: Path, clips: Sequence[Clip], times: int) -> tuple[list[Outcome], Stats]:
    job = Job(root, clips)
    return [job.run() for _ in range(times)], job.cached_features.stats


def test_a_root_that_others_keep_removing_costs_what_it_held_and_nothing_else(clips, tmp_path, faults):
    times, n, root = faults.times(3, 40), len(clips), tmp_path / "root"
    remover = start_child(remove_for_ever, root)
    try:
        outcomes, in_all = in_child(run_and_run_again, root, clips, times)
    finally:
        remover.kill()
        remover.join()
    assert in_all.computed > 2 * n  # what was removed was computed again
    assert sum(len(outcome.warnings) for outcome in outcomes) <= 2
    job = Job(root, clips)
    outcomes += [job.run(), job.run(job.references)]
    assert job.cached_features.stats.write_errors == 0
    assert job.cached_features.stats.hits >= 2 * n
    assert verify(root).is_clean
    assert len(entries_in(root / "features")) == n
    errors = [error for outcome in outcomes for error in outcome.errors]
    assert errors == []
    wrong = sum(outcome.n_wrong for outcome in outcomes)
    faults.survived("rm -rf of the root, again and again", 2 * times, wrong_values=wrong, exceptions=len(errors))


# What cannot be deleted -----------------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def meet_damage(root: Path, clips: Sequence[Clip]) -> tuple[Outcome, list[str], dict[str, bytes]]:
    """Run over damaged entries that cannot be deleted, and sweep there; return the errors, and what is left."""
    job = Job(root, clips)
    Job(root, clips).run()
    for path in entries_in(root):
        damage(path)

    def run_and_sweep() -> tuple[Outcome, list[str]]:
        outcome, errors = job.run(), []
        damage(entries_in(root)[0])
        for sweep in (
            lambda: verify(root, repair=True),
            lambda: prune(root, max_bytes=0),
            lambda: AudioCache(root / "features").clear(),
            lambda: WaveformCache(root / "waveforms").clear(),
        ):
            with pytest.raises(StoreError, match="could not delete") as caught:
                sweep()
            errors.append(str(caught.value))
        return outcome, errors

    outcome, errors = in_thread([NOTHING_DELETED], run_and_sweep)
    return outcome, errors, {str(path): path.read_bytes() for path in entries_in(root)}


def test_bad_entries_that_cannot_be_deleted_are_replaced_and_sweepers_say_what_they_could_not(clips, tmp_path, faults):
    tried, wrong, errors = 0, 0, []
    for number, some in enumerate(samples(clips, faults.times(1, 8))):
        root, n = tmp_path / f"root{number}", len(some)
        outcome, told, left = in_child(meet_damage, root, some)
        tried, wrong = tried + 2 * n, wrong + outcome.n_wrong
        errors += outcome.errors
        assert (outcome.stats.bad_entries, outcome.stats.computed, outcome.stats.hits) == (2 * n, n, n)
        assert (outcome.stats.read_errors, outcome.stats.write_errors) == (0, 0)
        assert [message.partition(": ")[0].rpartition("/")[0].split("/")[-2] for message in outcome.warnings] == [
            "features",
            "waveforms",
        ]
        assert all(
            " is damaged and counts as a miss: " in message and message.count(": Input/output error") == 1
            for message in outcome.warnings
        )
        first, last = sorted(left)[0], sorted(left)[-1]
        assert told[0] == told[2] == f"could not delete {first}: Input/output error"
        assert told[1].startswith(f"could not delete {root}/")
        assert told[3].startswith(f"could not delete {Path(last).parents[1]}/")

        assert {str(path): path.read_bytes() for path in entries_in(root)} == left
        assert list(verify(root).bad) == [str(Path(first).relative_to(root))]
        assert verify(root, repair=True).n_deleted == 1
        again = Job(root, some)
        outcome = again.run()
        assert (outcome.stats.hits, outcome.stats.computed) == (2 * n - 1, 1)
        assert prune(root, max_bytes=0).n_deleted == 2 * n
        wrong += outcome.n_wrong
    assert errors == []
    faults.survived("damaged entries that cannot be deleted", tried, wrong_values=wrong, exceptions=len(errors))


def run_where_nothing_is_finished(root: Path, clips: Sequence[Clip]) -> Outcome:
    job = Job(root, clips)
    return in_thread([NOTHING_RENAMED, NOTHING_DELETED], job.run)


def test_files_that_can_be_neither_finished_nor_deleted_are_swept_when_they_are_old(clips, tmp_path, faults):
    root = tmp_path / "root"
    outcome = in_child(run_where_nothing_is_finished, root, clips)
    assert outcome.errors == []
    assert entries_in(root) == []
    left = [path for path in root.rglob("*") if path.is_file()]
    assert all(path.name.endswith(".tmp") for path in left)
    assert len(left) == outcome.stats.write_errors == outcome.stats.computed + outcome.stats.decodes + 2
    assert (verify(root).n_in_progress, verify(root).n_strangers) == (len(left), 0)

    job = Job(root, clips)
    again = job.run(job.references, job.into_arrow)
    assert again.errors == []
    n_bytes = sum(path.stat().st_size for path in left)
    for path in left:
        os.utime(path, (0, 0))
    assert len(verify(root).unfinished) == len(left)
    report = prune(root)
    assert (report.n_deleted, report.n_bytes_deleted, report.n_kept) == (len(left), n_bytes, 2 * len(clips))
    assert verify(root).is_clean
    assert not any(path.exists() for path in left)
    faults.survived(
        "files that can be neither renamed nor deleted", len(left), wrong_values=outcome.n_wrong + again.n_wrong
    )

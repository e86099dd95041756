"""Entries that somebody crafted, with right checksums and keys: each costs a miss, and neither time nor memory.

Who can write an unsigned root can give wrong values in an honest form, which no reader can see. Everything else is
tried here: each family of entries is read in a process of its own, whose address space and CPU time have a limit.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import resource
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import entry_tools as tools
import pytest
from assertions import all_same, is_same
from children import in_child
from crafted_entries import BASES, FAMILIES, HONEST, MB, PLAIN, agrees, shared_json, strange_headers, strange_texts
from entry_tools import KEY, OUTPUTS, Outcomes, base, seal, split, with_manifest

from hf_audio_cache import AudioCache, AudioCacheKey, CacheRoot, WaveformCache, verify
from hf_audio_cache.cache.signing import signing_keys

SIGNING_KEY = "a key that the attacker has not"


# Reading --------------------------------------------------------------------------------------------------------------


@dataclass
class Reading:
    """What came of reading one entry."""

    label: str
    outcome: str  # "miss", "hit", or what was raised
    is_same: bool = False  # as an honest entry of the same outputs
    agrees: bool = False  # with its own manifest
    seconds: float = 0.0
    megabytes: float = 0.0  # that the process had to grow by
    log: str = ""


ADDRESS_SPACE = 3 << 30  # beyond what the process has: what no case may take at once
CPU_SECONDS = 200


def confine() -> None:
    """Let the process fail, or be killed, where it takes far too much memory or time."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def start_of_peak() -> float:
    """Forget the most memory that the process ever had, where the system can; return what it is then, in MB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_each(root: Path, cases: Mapping[str, bytes], last: Path, signing_key: str | None = None) -> list[Reading]:
    """Put each entry under the key's name and get it, in a process that was confined."""
    confine()
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger("hf_audio_cache").addHandler(handler)
    logging.getLogger("hf_audio_cache").setLevel(logging.INFO)
    cache = AudioCache(CacheRoot(root, signing_key=signing_key))
    path = cache.path_for(KEY)
    path.parent.mkdir(parents=True, exist_ok=True)
    readings = []
    for label, content in cases.items():
        last.write_text(label)  # who killed the process
        path.write_bytes(content)
        reading = Reading(label, "miss")
        before, started = start_of_peak(), time.perf_counter()
        try:
            found = cache.get_all(KEY)
        except BaseException as exc:  # noqa: BLE001 - what may not happen, told to the parent
            reading.outcome = repr(exc)[:300]
        else:
            if found is not None:
                same = any(all_same(found, outputs) for outputs in HONEST)
                reading.outcome, reading.is_same, reading.agrees = "hit", same, agrees(content, found)
            found = None
        reading.seconds, reading.megabytes = time.perf_counter() - started, peak() - before
        reading.log = "".join(logged)
        logged.clear()
        if reading.outcome == "miss" and path.exists() is not (signing_key is not None):
            reading.outcome = "a miss that was not deleted, or deleted though it is not ours"
        readings.append(reading)
    stats = cache.stats
    n_misses = sum(reading.outcome == "miss" for reading in readings)
    assert stats.misses == n_misses, (stats, n_misses)
    assert (stats.unsigned_entries if signing_key else stats.bad_entries) == n_misses, (stats, n_misses)
    return readings


def read_confined(root: Path, cases: Mapping[str, bytes], outcomes: Outcomes, **settings: Any) -> list[Reading]:
    """Read the entries in a child; a crash of it is an exception of the one that it read last."""
    last = root.with_name(f"{root.name}-last")
    root.mkdir()
    try:
        return in_child(functools.partial(read_each, **settings), root, cases, last)
    except RuntimeError as exc:
        outcomes.raised.append(f"{last.read_text()}: {exc}")
        return []


def has_control(text: str) -> bool:
    """Return whether a line of a log would not be one line, or would steer a terminal."""
    return any(ord(character) < 32 or ord(character) == 127 for character in text)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_crafted_entry_costs_a_miss_and_nothing_else(family, faults, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MARKER would be made
    cases = FAMILIES[family].make()
    outcomes = Outcomes(tried=len(cases))
    readings = read_confined(tmp_path / "root", cases, outcomes)
    for reading in readings:
        is_right = reading.is_same or (FAMILIES[family].may_differ and reading.agrees)
        if reading.outcome not in ("miss", "hit"):
            outcomes.raised.append(f"{reading.label}: {reading.outcome}")
        elif reading.outcome == "hit" and not is_right:
            outcomes.wrong.append(f"{reading.label}: a hit")
        elif reading.seconds > 20:
            outcomes.raised.append(f"{reading.label}: took {reading.seconds:.1f} s")
        elif reading.megabytes > FAMILIES[family].megabytes + 256 * len(cases[reading.label]) / MB:
            outcomes.raised.append(f"{reading.label}: took {reading.megabytes:.0f} MB")
        elif has_control(reading.log):
            outcomes.raised.append(f"{reading.label}: logged {reading.log[:300]!r}")
    assert outcomes.raised or len(readings) == len(cases)
    assert outcomes.raised or any(reading.outcome == "miss" for reading in readings)
    listing = sorted(path.name for path in tmp_path.iterdir())
    assert listing == ["root", "root-last"], "something was made outside of the root"
    outcomes.report(faults, f"crafted entries: {family}")


# Signed roots ---------------------------------------------------------------------------------------------------------

PARSERS = {"_open_checked", "load_foreign_npz", "parse_header", "check_header", "_unframe"}
PARSERS |= {"loads", "raw_decode", "_RealGetContents", "read_magic", "literal_eval", "find_class"}


def read_each_watched(root: Path, cases: Mapping[str, bytes], last: Path) -> tuple[list[Reading], set[str]]:
    """Read the entries in a signed root; return also which parsers were called, by name."""
    called = set()

    def watch(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_name in PARSERS:
            called.add(frame.f_code.co_name)

    AudioCache(root)  # what is imported late, is imported
    sys.setprofile(watch)
    try:
        return read_each(root, cases, last, signing_key=SIGNING_KEY), called
    finally:
        sys.setprofile(None)


def wrongly_signed() -> dict[str, bytes]:
    """Return good entries without a signature, and one that somebody else signed."""
    theirs = tools.encode_entry(KEY, OUTPUTS["raw"], signing_keys=signing_keys("another key, of the attacker"))
    return {"signed with another key": theirs} | {f"unsigned {kind}": base(kind) for kind in [*BASES, "savez"]}


def test_in_a_signed_root_all_of_them_are_refused_before_they_are_parsed(faults, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = wrongly_signed()
    for name, family in FAMILIES.items():
        some = list(family.make().items())[:: faults.times(6, 1)]
        cases |= {f"{name}: {label}": content for label, content in some if len(content) < MB}
    assert len(cases) > faults.times(500, 3000)
    outcomes = Outcomes(tried=len(cases))
    (tmp_path / "root").mkdir()
    readings, called = in_child(read_each_watched, tmp_path / "root", cases, tmp_path / "last")
    assert called == set()
    outcomes.wrong += [f"{reading.label}: a hit" for reading in readings if reading.outcome == "hit"]
    outcomes.raised += [f"{one.label}: {one.outcome}" for one in readings if one.outcome not in ("miss", "hit")]
    assert max(reading.megabytes for reading in readings) < 32
    outcomes.report(faults, "crafted and unsigned entries in a signed root")
    # What was watched for is seen where there is a signature.
    good = {"ours": tools.encode_entry(KEY, OUTPUTS["raw"], signing_keys=signing_keys(SIGNING_KEY))}
    (tmp_path / "good").mkdir()
    [reading], called = in_child(read_each_watched, tmp_path / "good", good, tmp_path / "last")
    assert reading.is_same
    assert {"_open_checked", "loads", "check_header"} <= called


# What looks after a root ----------------------------------------------------------------------------------------------


def verify_confined(root: Path, repair: bool) -> Any:
    confine()
    return verify(root, repair=repair)


def test_verify_says_what_is_wrong_with_each_of_them(faults, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcomes, names = Outcomes(), []
    for name in ("lying manifests", "unsafe offsets", "strange JSON", "strange npy headers", "strange zips"):
        for content in list(FAMILIES[name].make().values())[:: faults.times(5, 1)]:
            key = AudioCacheKey(f"{len(names):064x}", KEY.processor_sha, 16000, 30000, True)
            names.append(f"features/{key.name()}")
            (tmp_path / "root" / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "root" / names[-1]).write_bytes(content)
    outcomes.tried = len(names)
    try:
        report = in_child(verify_confined, tmp_path / "root", False)
        assert report.n_entries == len(names)
        # Those that have no key of their own are good under any name: they say what an honest file of savez says.
        for name in set(names) - report.bad.keys():
            found = AudioCache(tmp_path / "root" / "features").get_all(_key_of(name))
            if found is None or not all(value.dtype.kind in "biufc" for value in found.values()):
                outcomes.wrong.append(f"{name} is not found to be bad")
        assert len(report.bad) > 0.9 * len(names)
        repaired = in_child(verify_confined, tmp_path / "root", True)
        assert repaired.n_deleted == len(report.bad)
        assert in_child(verify_confined, tmp_path / "root", False).is_clean
    except RuntimeError as exc:
        outcomes.raised.append(str(exc))
    outcomes.report(faults, "verify over crafted entries")


def _key_of(name: str) -> AudioCacheKey:
    return AudioCacheKey(name.rpartition("/")[2][:64], KEY.processor_sha, 16000, 30000, True)


def test_the_seconds_that_an_entry_claims_do_not_spoil_the_figures(faults, tmp_path):
    claims: list[Any] = [math.nan, math.inf, -math.inf, -1e300, -1, 1e308, "nan", "inf", "-1", True, 1 << 2000]
    cache = AudioCache(tmp_path)
    outcomes = Outcomes()
    path = cache.put(KEY, OUTPUTS["raw"])
    good = path.read_bytes()
    for claim in claims:
        path.write_bytes(with_manifest(good, compute_seconds=claim))
        outcomes.tried += 1
        found = cache.get_all(KEY)
        if found is not None and not all_same(found, OUTPUTS["raw"]):
            outcomes.wrong.append(f"{claim}: another array")
        saved = cache.stats.seconds_saved
        if not (math.isfinite(saved) and saved > -60):
            outcomes.wrong.append(f"{claim}: saved {saved} s")
            cache = AudioCache(tmp_path)
    outcomes.report(faults, "entries that claim to have taken no time, or all of it")


# Threads with small stacks --------------------------------------------------------------------------------------------


def read_in_a_thread(root: Path, cases: Mapping[str, bytes], last: Path, stack: int) -> list[str]:
    """Get each entry in a thread; return what was raised or found."""
    cache = AudioCache(root)
    path = cache.path_for(KEY)
    path.parent.mkdir(parents=True, exist_ok=True)
    found: list[str] = []
    threading.stack_size(stack)
    for label, content in cases.items():
        last.write_text(label)
        path.write_bytes(content)
        thread = threading.Thread(target=lambda: found.append(repr(cache.get_all(KEY))[:100]))
        thread.start()
        thread.join()
    return found


def test_in_a_thread_with_a_small_stack_they_are_misses_too(faults, tmp_path):
    """512 kB is what threads have on some systems. Whatever nests deeply must not be followed that far."""
    cases = {**strange_headers(), **strange_texts(), "deep JSON": shared_json(2, 1)}
    cases["an output of deep JSON"] = tools.with_frame(base("json"), b"[" * 200_000)
    outcomes = Outcomes(tried=len(cases))
    (tmp_path / "root").mkdir()
    last = tmp_path / "last"
    try:
        found = in_child(read_in_a_thread, tmp_path / "root", cases, last, 512 << 10)
        assert len(found) == len(cases)
    except RuntimeError as exc:
        outcomes.raised.append(f"{last.read_text()}: {exc}")
    outcomes.report(faults, "crafted entries, read in a thread with a stack of 512 kB")


# Things that are no files ---------------------------------------------------------------------------------------------


def a_link_to(target: Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s")
        os.rename("s", path.name)
    finally:
        os.chdir(here)


def a_folder_with_a_file(path: Path) -> None:
    path.mkdir()
    (path / "kept").write_bytes(b"kept")


def a_sparse_file(n_bytes: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(n_bytes)

    return make


def an_unreadable_file(path: Path) -> None:
    path.write_bytes(b"x")
    path.chmod(0)


def a_device(major: int, minor: int) -> Callable[[Path], None]:
    return lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))


def special_files(outside: Path) -> dict[str, Callable[[Path], None]]:
    return {
        "a link to a good entry": a_link_to(outside / "good.npz"),
        "a link to a secret": a_link_to(outside / "secret"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a link to nothing": a_link_to(outside / "nothing"),
        "a link to a folder": a_link_to(outside),
        "a link to an endless device": a_link_to(Path("/dev/zero")),
        "a link to a terminal": a_link_to(Path("/dev/tty")),
        "a pipe": os.mkfifo,
        "a socket": a_socket,
        "a folder": Path.mkdir,
        "a folder with a file": a_folder_with_a_file,
        "a sparse file of 1 TB": a_sparse_file(1 << 40),
        "a sparse file of 4 GB": a_sparse_file(1 << 32),
        "a file that nobody may read": an_unreadable_file,
        "an endless device": a_device(1, 5),
        "a device that blocks": a_device(5, 0),
    }


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def read_special(cache_type: Any, key: Any, value: Any, root: Path) -> tuple[Any, Any, int]:
    """Get what is in the place of an entry, several times; then put a good entry there."""
    confine()
    cache = cache_type(root)
    cache.stats  # noqa: B018 - opens what it counts in
    cache.get(type(key)(**{**vars(key), "blob_sha": "0" * 64}))
    before = open_descriptors()
    found = [cache.get(key) for _ in range(20)]
    found += [None] * cache.exists(key)
    cache.put(key, value)
    return found, cache.get(key), open_descriptors() - before


@pytest.mark.parametrize("kind", ["features", "waveforms"])
def test_what_is_no_regular_file_is_a_miss_and_nothing_outside_is_touched(kind, faults, tmp_path):
    cache_type, key, value = {
        "features": (AudioCache, KEY, PLAIN),
        "waveforms": (WaveformCache, KEY.waveform_key(), OUTPUTS["pcm16"]["waveform"]),
    }[kind]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"a secret")
    name = "waveform" if kind == "waveforms" else "input_features"
    (outside / "good.npz").write_bytes(tools.encode_entry(key, {name: value[::-1].copy()}))
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    outcomes = Outcomes()
    for number, (label, make) in enumerate(special_files(outside).items()):
        root = tmp_path / f"root-{number}"
        path = cache_type(root).path_for(key)
        path.parent.mkdir(parents=True)
        try:
            make(path)
        except PermissionError:
            continue  # devices are for root
        outcomes.tried += 1
        try:
            found, put, n_left_open = in_child(read_special, cache_type, key, value, root)
        except RuntimeError as exc:
            outcomes.raised.append(f"{label}: {exc}")
            continue
        if any(one is not None for one in found):
            outcomes.wrong.append(f"{label}: a hit")
        is_replaced = is_same(put, value) and stat.S_ISREG(path.lstat().st_mode)
        if is_replaced is label.startswith("a folder"):  # which is left alone
            outcomes.wrong.append(f"{label}: {'' if is_replaced else 'not '}replaced")
        if n_left_open > 0:
            outcomes.raised.append(f"{label}: {n_left_open} descriptors are left open")
        if "with a file" in label:
            assert (path / "kept").read_bytes() == b"kept"
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before
    outcomes.report(faults, f"links, pipes, devices and folders in the place of {kind}")


# What fuzzing found ---------------------------------------------------------------------------------------------------


def test_what_fuzzing_kept_is_read_without_harm(faults, tmp_path, monkeypatch):
    """Inputs that reach every branch of the reader, and those that once did harm, which are refused."""
    monkeypatch.chdir(tmp_path)
    cases = {path.name: path.read_bytes() for path in sorted(tools.CORPUS.iterdir())}
    assert len(cases) >= 24
    assert sum(map(len, cases.values())) < 100_000
    outcomes = Outcomes(tried=len(cases))
    for reading in read_confined(tmp_path / "root", cases, outcomes):
        if reading.outcome not in ("miss", "hit") or reading.megabytes > 300 or reading.seconds > 20:
            outcomes.raised.append(f"{reading.label}: {reading}")
        elif has_control(reading.log):
            outcomes.raised.append(f"{reading.label}: logged {reading.log[:300]!r}")
        elif reading.outcome == "hit" and (not reading.agrees or reading.label.startswith("refused-")):
            outcomes.wrong.append(f"{reading.label}: {reading}")
    outcomes.report(faults, "inputs that fuzzing kept")


def test_the_good_entries_that_all_this_starts_from_are_hits(tmp_path):
    cases = {kind: base(kind) for kind in [*BASES, "savez"]}
    readings = read_confined(tmp_path / "root", cases, Outcomes())
    assert [(reading.label, reading.is_same, reading.agrees) for reading in readings] == [
        (kind, True, True) for kind in cases
    ]
    assert {line["codec"] for kind in BASES for line in tools.manifest_of(base(kind))["members"]} == {
        "raw",
        "json",
        "blosc",
        "pcm16",
    }
    assert any("tail" in line for line in tools.manifest_of(base("tail"))["members"])
    assert seal(*split(base("raw"))) == base("raw")

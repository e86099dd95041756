"""`verify` says what is wrong with a root, `verify(repair=True)` deletes just that; `prune` makes room."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import audio_datasets as data
import numpy as np
import pytest
import xxhash
from children import become_nobody, in_child
from entry_tools import savez
from full_roots import N_CLIPS, RATE, SIGNING_KEY, age, cached_by_all, contents, entries, flip, manifests, n_bytes

from hf_audio_cache import AudioCache, AudioCacheKey, CacheRoot, VerifyReport, prune, verify
from hf_audio_cache.errors import InvalidRootError, StoreError

OTHER_KEY = "and-another-one-that-is-as-long"
HOUR = 3600.0
DAY = 24 * HOUR  # entries that were used on one day go by what they cost


# What is there, by the file system's account --------------------------------------------------------------------------


def plant(root: Path, name: str, content: bytes = b"a stranger's") -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return name


def report_of(root: Path, **found: Any) -> VerifyReport:
    """Return the report of a root whose entries are all those that are there, and what else was found."""
    names = entries(root)
    return VerifyReport(str(root), n_entries=len(names), n_bytes=n_bytes(root, names), **found)


# A root in which nothing is wrong -------------------------------------------------------------------------------------


def test_a_root_that_is_missing_stays_so_and_is_an_error(tmp_path):
    for call in (verify, prune, functools.partial(verify, repair=True)):
        with pytest.raises(
            InvalidRootError, match=r"no cache found at .*/root\. Pass its root=…, .*; nothing was read or deleted"
        ):
            call(tmp_path / "root")
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_empty_stays_so(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    for report in (verify(root), verify(root, repair=True)):
        assert report == VerifyReport(str(root))
        assert report.is_clean
    for pruned in (prune(root), prune(root, max_bytes=0, older_than_seconds=0)):
        assert (pruned.n_deleted, pruned.n_bytes_deleted, pruned.n_kept, pruned.n_bytes_kept) == (0, 0, 0, 0)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("kind", ["blosc", "plain", "signed"])
def test_a_good_root_is_counted_whole_and_left_as_it_is(kind, copy_of):
    root = copy_of(kind)
    before = contents(root)
    assert len(entries(root, "features")) == 3 * N_CLIPS
    assert len(entries(root, "waveforms")) == N_CLIPS
    assert len(manifests(root)) == 3
    for signing_key in (None, SIGNING_KEY) if kind == "signed" else (None,):
        for repair in (False, True):
            report = verify(CacheRoot(root, signing_key=signing_key), repair=repair)
            assert report == report_of(root)
            assert report.is_clean
    assert contents(root) == before


def test_every_form_of_a_root_is_taken(root):
    for form in (root, str(root), CacheRoot(root), f"file://{root}"):
        assert verify(form) == report_of(root)
        assert prune(form).n_kept == len(entries(root))


def test_a_root_of_more_entries_than_one_batch_is_read_to_its_end(tmp_path):
    cache = AudioCache(tmp_path / "features")
    names = []
    for cap in range(1, 1301):
        key = AudioCacheKey(f"{cap % 7:064x}", "7d865e95" * 8, RATE, cap)
        cache.put(key, np.full(3, cap))
        names.append(f"features/{key.name()}")
    for name in names[::100]:
        (tmp_path / name).write_bytes(b"")
    report = verify(tmp_path, repair=True)
    assert sorted(report.bad) == sorted(names[::100])
    assert (report.n_entries, report.n_deleted) == (1300, 13)
    assert entries(tmp_path) == sorted(set(names) - set(names[::100]))
    pruned = prune(tmp_path, max_bytes=0)
    assert (pruned.n_deleted, pruned.n_kept) == (1287, 0)
    assert entries(tmp_path) == []


# Damage, kind by kind -------------------------------------------------------------------------------------------------


def with_a_broken_frame(content: bytes) -> bytes:
    """Return an unsigned entry with another byte in a Blosc frame's header, and the checksum that goes with it."""
    start = content.index(b"\n", content.index(b"\x93NUMPY")) + 1  # where the first member's array begins
    comment = content.rindex(b"PK\x05\x06") + 22
    broken = flip(content, start + 4)  # of the decoded length
    digest = xxhash.xxh3_64(broken[:comment] + broken[comment + 16 :]).hexdigest().encode()
    return broken[:comment] + digest + broken[comment + 16 :]


IN_AN_ENTRY: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a bit flipped in an array": (lambda entry: flip(entry, 200), "its checksum is wrong"),
    "a bit flipped in the first byte": (lambda entry: flip(entry, 0), "its checksum is wrong"),
    "a bit flipped in the manifest": (lambda entry: flip(entry, len(entry) - 20), "its checksum is wrong"),
    "a bit flipped in the last byte": (lambda entry: flip(entry, len(entry) - 1), ""),
    "cut by a byte": (lambda entry: entry[:-1], "it does not end where its comment ends"),
    "cut by half": (lambda entry: entry[: len(entry) // 2], "it"),
    "empty": (lambda entry: b"", "its 0 bytes are no zip, or not a whole one"),
    "a byte longer": (lambda entry: entry + b"\0", "it does not end where its comment ends"),
    "all zeros": (lambda entry: bytes(len(entry)), "no zip, or not a whole one"),
    "a broken frame with the right checksum": (with_a_broken_frame, "a frame of "),
    "text": (lambda entry: b"not a zip at all\n", "no zip, or not a whole one"),
    "a pickle in an npz": (lambda entry: savez(waveform=np.array([{}], dtype=object)), "a .npy member begins with"),
    "an npz with a wrong checksum": (
        lambda entry: flip(savez(waveform=np.zeros(99, np.float32)), 300),
        "BadZipFile while reading it: Bad CRC-32",
    ),
    "an npz without an array": (lambda entry: savez(), "it has no manifest, and the members []"),
}


def one_of_each(root: Path) -> list[str]:
    """Return the names of an entry of each processor, and of a waveform."""
    by_processor = {name.split(".")[1]: name for name in entries(root, "features")}
    assert len(by_processor) == 3
    return [*by_processor.values(), entries(root, "waveforms")[0]]


def assert_repaired(root: Path, going: set[str], clips: list[Path], **settings: Any) -> None:
    """Check that a repair deletes these files and no other, and that the next runs put entries in their place."""
    before, names = contents(root), entries(root)
    found = verify(CacheRoot(root, **settings))
    assert verify(CacheRoot(root, **settings), repair=True) == dataclasses.replace(found, n_deleted=len(going))
    assert contents(root) == {name: content for name, content in before.items() if name not in going}
    assert verify(CacheRoot(root, **settings)) == report_of(root)

    computed = decoded = 0
    for cached_features in cached_by_all(CacheRoot(root, **settings)):
        cached_features({"audio": data.columns(clips)["audio"]})
        stats = cached_features.stats
        assert (stats.bad_entries, stats.unsigned_entries, stats.read_errors) == (0, 0, 0)
        computed, decoded = computed + stats.computed, decoded + stats.decodes
    assert computed == sum(name.startswith("features/") for name in going & set(names))
    assert decoded <= sum(name.startswith("waveforms/") for name in going & set(names))


def test_damaged_entries_are_named_with_their_reasons_and_repaired(root, clips):
    names = [*entries(root, "waveforms")[:5], *entries(root, "features")[::2]]
    damaged = dict(zip(names, IN_AN_ENTRY.values(), strict=True))
    for name, (change, _) in damaged.items():
        (root / name).write_bytes(change((root / name).read_bytes()))
    before = contents(root)
    report = verify(root)
    assert {name: reason in report.bad[name] for name, (_, reason) in damaged.items()} == dict.fromkeys(names, True)
    assert report == report_of(root, bad=report.bad)
    assert sorted(report.bad) == sorted(names)
    assert not report.is_clean
    assert contents(root) == before
    assert_repaired(root, set(names), clips)


def test_an_entry_under_another_ones_name_is_bad(root, clips):
    by_processor = sorted(entries(root, "features"), key=lambda name: name.split(".")[1])
    one, two, three = by_processor[0], by_processor[1], by_processor[N_CLIPS]  # another clip's; another processor's
    waveforms = entries(root, "waveforms")
    copied = {one: two, two: three, waveforms[0]: waveforms[1], three: waveforms[0], waveforms[2]: one}
    was = contents(root)
    for name, source in copied.items():
        (root / name).write_bytes(was[source])
    report = verify(root)
    assert report == report_of(root, bad=report.bad)
    assert sorted(report.bad) == sorted(copied)
    for name in (one, two, waveforms[0]):
        assert report.bad[name].startswith("it is the entry of another key, {'blob_sha': '")
    assert_repaired(root, set(copied), clips)


def test_a_foreign_npz_is_as_good_as_its_content(root, clips):
    features, waveforms = one_of_each(root)[:2], entries(root, "waveforms")
    good = {
        features[0]: savez(input_values=np.arange(5)),
        features[1]: savez(anything=np.ones((2, 3)), more=np.array(True)),
        waveforms[0]: savez(waveform=np.zeros(99, np.float32)),
    }
    bad = {
        waveforms[1]: savez(waveform=np.zeros(99)),
        waveforms[2]: savez(waveform=np.zeros((3, 33), np.float32)),
        waveforms[3]: savez(input_values=np.zeros(99, np.float32)),
    }
    for name, content in (good | bad).items():
        (root / name).write_bytes(content)
    report = verify(root)
    assert report == report_of(root, bad=report.bad)
    assert sorted(report.bad) == sorted(bad)
    assert all("and not one float32 waveform" in reason for reason in report.bad.values())
    assert_repaired(root, set(bad), clips)
    assert {name: contents(root)[name] for name in good} == good


def changed_json(content: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(content), **changes}).encode()


IN_A_MANIFEST: dict[str, tuple[Callable[[bytes, bytes], bytes], str]] = {
    "another one's": (lambda own, other: other, "it is the manifest of "),
    "cut by half": (lambda own, other: own[: len(own) // 2], "it is no manifest (JSONDecodeError: "),
    "empty": (lambda own, other: b"", "it is no manifest (JSONDecodeError: "),
    "binary": (lambda own, other: b"\xff\xfe\0", "it is no manifest (UnicodeDecodeError: "),
    "a list": (lambda own, other: b"[]", "it is no manifest (TypeError: "),
    "without outputs": (lambda own, other: b'{"identity": {}, "processor_sha": ""}', "it is no manifest ("),
    "another identity": (lambda own, other: changed_json(own, identity={"a": 1}), "it is no manifest (ValueError: "),
    "another sha": (lambda own, other: changed_json(own, processor_sha="0" * 64), "it is no manifest (ValueError: "),
    "deep": (lambda own, other: b"[" * 100_000, "it is no manifest (RecursionError: "),
}


def test_a_damaged_manifest_is_named_with_its_reason_and_repaired(root, clips):
    own, other, _ = manifests(root)
    good, of_other = (root / own).read_bytes(), (root / other).read_bytes()
    for change, reason in IN_A_MANIFEST.values():
        (root / own).write_bytes(change(good, of_other))
        report = verify(root)
        assert report.bad[own].startswith(reason)
        assert report == report_of(root, bad={own: report.bad[own]})
    assert_repaired(root, {own}, clips)


# Signed roots ---------------------------------------------------------------------------------------------------------


def test_a_signed_root_is_checked_with_its_key(copy_of):
    root = copy_of("signed")
    everything = sorted(entries(root) + manifests(root))
    for accepted in (SIGNING_KEY, [SIGNING_KEY, OTHER_KEY], [OTHER_KEY, SIGNING_KEY.encode()]):
        assert verify(CacheRoot(root, signing_key=accepted)) == report_of(root)
    report = verify(CacheRoot(root, signing_key=OTHER_KEY))
    assert sorted(report.unsigned) == everything
    assert report == report_of(root, unsigned=report.unsigned)
    assert not report.is_clean


def test_the_key_of_the_environment_is_used(copy_of, monkeypatch):
    root = copy_of("signed")
    monkeypatch.setenv("HF_AUDIO_CACHE_SIGNING_KEY", OTHER_KEY)
    assert len(verify(root).unsigned) == len(entries(root) + manifests(root))
    monkeypatch.setenv("HF_AUDIO_CACHE_SIGNING_KEY", SIGNING_KEY)
    assert verify(root) == report_of(root)


def test_what_nobody_signed_is_deleted_from_a_signed_root_alone(copy_of, full_roots, clips):
    root = copy_of("signed")
    unsigned = full_roots / "blosc"
    taken = [*one_of_each(root), manifests(root)[0]]
    for name in taken:
        shutil.copy(unsigned / name, root / name)
    plain, flipped, short = sorted(set(entries(root)) - set(taken))[:3]
    (root / plain).write_bytes(savez(waveform=np.zeros(99, np.float32)))
    (root / flipped).write_bytes(flip((root / flipped).read_bytes(), 200))
    (root / short).write_bytes((root / short).read_bytes()[:-1])
    going = {*taken, plain, flipped, short}
    report = verify(CacheRoot(root, signing_key=SIGNING_KEY))
    assert sorted(report.unsigned) == sorted(going)
    assert report == report_of(root, unsigned=report.unsigned)
    assert_repaired(root, going, clips, signing_key=SIGNING_KEY)


def test_a_signed_entry_under_another_ones_name_is_unsigned(copy_of, clips):
    root = copy_of("signed")
    one, two = entries(root, "features")[:2]
    shutil.copy(root / two, root / one)
    own, other, _ = manifests(root)
    shutil.copy(root / other, root / own)
    report = verify(CacheRoot(root, signing_key=SIGNING_KEY))
    assert (report.unsigned, list(report.bad)) == ([one], [own])
    assert report == report_of(root, bad=report.bad, unsigned=[one])
    assert_repaired(root, {one, own}, clips, signing_key=SIGNING_KEY)


# What others put there, and what writers left -------------------------------------------------------------------------


def plant_strangers(root: Path) -> list[str]:
    """Put files into a root that only resemble what the cache writes."""
    feature, waveform, manifest = entries(root, "features")[0], entries(root, "waveforms")[0], manifests(root)[0]
    folder, _, name = feature.rpartition("/")
    names = [
        "notes.txt",
        "features/notes.txt",
        f"{folder}/notes.npz",
        f"{folder}/.notes.txt.1-0a1b2c3d.tmp",
        f"{folder}/{name}.bak",
        f"{folder}/{name.upper()}",
        f"{folder}/deeper/{name}",
        f"features/{name}",
        f"features/zz/{name}",
        name,
        f"other/{folder.partition('/')[2]}/{name}",
        waveform.replace("waveforms/", "features/"),
        feature.replace("features/", "waveforms/"),
        f"{manifest}.bak",
        "processors/notes.json",
        f"processors/deeper/{manifest.partition('/')[2]}",
        manifest.partition("/")[2],
        "features/CACHEDIR.TAG",
        ".notes.tmp",
    ]
    for stranger in names:
        assert not (root / stranger).exists()
        age(root / plant(root, stranger), 10 * HOUR)
    return names


def test_strangers_are_counted_and_never_touched(root):
    entry_names = entries(root)
    n_bytes_of_entries = n_bytes(root, entry_names)
    strangers = plant_strangers(root)
    before = contents(root)
    for report in (verify(root), verify(root, repair=True)):
        expected = VerifyReport(str(root), len(entry_names), n_bytes_of_entries, n_strangers=len(strangers))
        assert report == expected
        assert report.is_clean
    assert contents(root) == before
    pruned = prune(root, max_bytes=0)
    assert (pruned.n_deleted, pruned.n_bytes_deleted) == (len(entry_names), n_bytes_of_entries)
    assert (pruned.n_kept, pruned.n_bytes_kept) == (0, 0)
    assert contents(root) == {name: content for name, content in before.items() if name not in entry_names}
    assert {*strangers, *manifests(root), "CACHEDIR.TAG"} == contents(root).keys()


def test_nothing_behind_a_link_is_read_counted_or_deleted(root, tmp_path):
    outside = tmp_path / "outside"
    one, two, *_ = entries(root, "features")
    shutil.copytree(root / "features", outside / "features")
    (root / one).unlink()
    (root / one).symlink_to(outside / one)
    (outside / one).write_bytes(b"damaged")
    shutil.rmtree((root / two).parent)
    (root / two).parent.symlink_to((outside / two).parent)
    (root / "processors" / f"{'0' * 64}.json").symlink_to(outside / one)
    (root / "more").symlink_to(outside)
    gone = {name for name in entries(root) if (root / name).is_symlink() or (root / name).parent.is_symlink()}
    before, before_outside = contents(root), contents(outside)
    there = sorted(set(entries(root)) - gone)
    for report in (verify(root), verify(root, repair=True)):
        assert report == VerifyReport(str(root), len(there), n_bytes(root, there))
    pruned = prune(root, max_bytes=0)
    assert (pruned.n_deleted, pruned.n_kept) == (len(there), 0)
    assert contents(outside) == before_outside
    assert contents(root) == {name: content for name, content in before.items() if name not in there}


def test_a_link_may_lead_to_the_root(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    (root / entries(root)[0]).write_bytes(b"")
    report = verify(tmp_path / "link", repair=True)
    assert (report.root, report.n_deleted) == (str(tmp_path / "link"), 1)
    assert verify(root).is_clean


def unfinished_names(root: Path) -> list[str]:
    """Return names of files that a killed writer leaves, one for each kind of file that it writes."""
    finished = [entries(root, "features")[0], entries(root, "waveforms")[0], manifests(root)[0], "CACHEDIR.TAG"]
    folders = [name.rpartition("/") for name in finished]
    return [f"{folder}{slash}.{name}.4711-0a1b2c3d.tmp" for folder, slash, name in folders]


def test_a_writers_file_is_in_progress_for_an_hour_and_unfinished_afterwards(root):
    before = contents(root)
    young = unfinished_names(root)
    old = [name.replace("4711", "4712") for name in young]
    for name in young:
        age(root / plant(root, name, b"half an en"), HOUR - 60)
    for name in old:
        age(root / plant(root, name, b"half an en"), HOUR + 60)
    report = verify(root)
    assert sorted(report.unfinished) == sorted(old)
    assert report == report_of(root, unfinished=report.unfinished, n_in_progress=len(young))
    assert not report.is_clean

    repaired = verify(root, repair=True)
    assert repaired == dataclasses.replace(report, n_deleted=len(old))
    assert contents(root) == {**before, **dict.fromkeys(young, b"half an en")}
    assert verify(root) == report_of(root, n_in_progress=len(young))
    assert verify(root).is_clean


def test_a_pruning_takes_every_old_unfinished_file_whatever_the_limits(root):
    before = contents(root)
    young = unfinished_names(root)
    old = [name.replace("4711", "4712") for name in young]
    for name in young:
        plant(root, name, b"half an en")
    for name in old:
        age(root / plant(root, name, b"half an en"), HOUR + 60)
    planned = prune(root, dry_run=True)
    assert (planned.n_deleted, planned.n_bytes_deleted, planned.is_dry_run) == (len(old), 10 * len(old), True)
    assert all((root / name).exists() for name in old)
    pruned = prune(root)
    assert pruned == dataclasses.replace(planned, is_dry_run=False)
    assert (pruned.n_kept, pruned.n_bytes_kept) == (len(entries(root)), n_bytes(root, entries(root)))
    assert contents(root) == {**before, **dict.fromkeys(young, b"half an en")}


# What cannot be read or deleted ---------------------------------------------------------------------------------------


@pytest.fixture
def public_root(full_roots) -> Iterator[Path]:
    """A root that every user can reach, and read."""
    folder = Path(tempfile.mkdtemp(prefix="hf-audio-cache-public-"))
    folder.chmod(0o755)
    shutil.copytree(full_roots / "blosc", folder / "root")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield folder / "root"
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(folder)


def as_nobody(call: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """Return what a call returns, or raises, by a user who owns nothing."""
    become_nobody()
    try:
        return call(*arguments, **settings)
    except StoreError as error:
        return error


def verify_and_repair(root: Path) -> Any:
    return as_nobody(verify, root, repair=True)


def test_what_cannot_be_read_is_told_apart_from_what_is_bad_and_stays(public_root):
    root = public_root
    secret, manifest = [*one_of_each(root)[:2], entries(root, "waveforms")[-1]], manifests(root)[1]
    for name in [*secret, manifest]:
        (root / name).chmod(0)
    report = in_child(as_nobody, verify, root)
    assert report.unreadable == {
        name: f"could not read {root / name}: Permission denied" for name in [*secret, manifest]
    }
    assert report == report_of(root, unreadable=report.unreadable)
    assert not report.is_clean
    repaired = in_child(verify_and_repair, root)
    assert repaired == report
    assert len(entries(root)) == 4 * N_CLIPS


@pytest.mark.parametrize("folder", ["", "features", "processors"])
def test_a_folder_that_cannot_be_listed_is_an_error(folder, public_root):
    (public_root / folder).chmod(0)
    for call in (verify, prune):
        error = in_child(as_nobody, call, public_root)
        assert isinstance(error, StoreError)
        assert str(error) == f"could not list {os.path.join(public_root, folder, '')}: Permission denied"


# Reports --------------------------------------------------------------------------------------------------------------


def test_reports_are_json(root):
    (root / entries(root)[0]).write_bytes(b"")
    age(root / plant(root, unfinished_names(root)[0]), 2 * HOUR)
    for report in (verify(root), verify(root, repair=True)):
        given = json.loads(json.dumps(report.to_dict()))
        assert given == dataclasses.asdict(report)
        assert VerifyReport(**given) == report
    for pruned in (prune(root, max_bytes=1000, dry_run=True), prune(root, max_bytes=1000)):
        given = json.loads(json.dumps(pruned.to_dict()))
        assert type(pruned)(**given) == pruned
    assert list(verify(root).to_dict()) == [
        "root",
        "n_entries",
        "n_bytes",
        "bad",
        "unsigned",
        "unknown_versions",
        "unreadable",
        "unfinished",
        "n_in_progress",
        "n_strangers",
        "n_deleted",
    ]


# Making room ----------------------------------------------------------------------------------------------------------


def written_in_turn(root: Path) -> list[str]:
    """Give each entry another age, a day apart, in no order of names; return them, the oldest first."""
    order = np.random.default_rng(0).permutation(entries(root)).tolist()
    for n_later, name in enumerate(reversed(order)):
        age(root / name, (n_later + 0.5) * DAY)
    return order


def assert_pruned(root: Path, going: list[str], **limits: Any) -> None:
    """Check that a pruning says and takes these entries, and that it says the same beforehand."""
    before, staying = contents(root), sorted(set(entries(root)) - set(going))
    planned = prune(root, dry_run=True, **limits)
    assert contents(root) == before
    assert (planned.root, planned.is_dry_run) == (str(root), True)
    assert (planned.n_deleted, planned.n_bytes_deleted) == (len(going), n_bytes(root, going))
    assert (planned.n_kept, planned.n_bytes_kept) == (len(staying), n_bytes(root, staying))
    assert prune(root, **limits) == dataclasses.replace(planned, is_dry_run=False)
    assert contents(root) == {name: content for name, content in before.items() if name not in going}
    again = prune(root, **limits)
    assert (again.n_deleted, again.n_kept) == (0, len(staying))


def going_for(root: Path, order: list[str], max_bytes: int) -> list[str]:
    """Return the oldest entries that have to go until the rest takes at most `max_bytes`."""
    left = list(order)
    while left and n_bytes(root, left) > max_bytes:
        left.pop(0)
    return order[: len(order) - len(left)]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, 1.0])
def test_the_oldest_go_until_the_rest_is_small_enough(share, root):
    order = written_in_turn(root)
    total = n_bytes(root, order)
    max_bytes = int(share * total)
    going = going_for(root, order, max_bytes)
    assert (len(going) == 0) == (share >= 1.0)
    assert (len(going) == len(order)) == (share == 0.0)
    assert_pruned(root, going, max_bytes=max_bytes)


@pytest.mark.parametrize("days", [0, 7, 24])
def test_what_was_written_too_long_ago_goes(days, root):
    order = written_in_turn(root)
    assert len(order) == 24
    assert_pruned(root, order[: len(order) - min(days, 24)], older_than_seconds=days * DAY)


@pytest.mark.parametrize(("days", "share"), [(20, 0.2), (3, 0.9)])
def test_both_limits_hold_at_once(days, share, root):
    order = written_in_turn(root)
    max_bytes = int(share * n_bytes(root, order))
    by_age, by_size = order[: len(order) - days], going_for(root, order, max_bytes)
    assert len(by_age) != len(by_size)
    assert_pruned(root, max(by_age, by_size, key=len), max_bytes=max_bytes, older_than_seconds=days * DAY)


def test_without_a_limit_no_entry_goes(root):
    written_in_turn(root)
    assert_pruned(root, [])


def test_a_limit_that_is_none_is_an_error_and_deletes_nothing(root):
    before = contents(root)
    for limit, wrong in itertools.product(
        ("max_bytes", "older_than_seconds"), (-1, -0.5, float("nan"), float("-inf"), "5GB")
    ):
        with pytest.raises(ValueError, match=f"{limit} must be a number of at least 0, not .*; nothing was deleted"):
            prune(root, **{limit: wrong})
    assert contents(root) == before

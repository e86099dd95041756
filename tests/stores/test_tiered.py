"""A near tier in front of a remote store: who is asked, what is kept, and what makes room for it."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import random
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
from children import become_nobody, in_child, start_child
from scripted_store import ScriptedStore, denied, down, fine, kinds
from store_contract import StoreContract, files_under

from hf_audio_cache.errors import InvalidNameError, StoreError
from hf_audio_cache.stores import LocalStore, eviction
from hf_audio_cache.stores.tiered import TieredStore


def entry_name(number):
    sha = hashlib.sha256(str(number).encode()).hexdigest()
    return f"{sha[:2]}/{sha}.16000.0.wav.npz"


def content_of(name, n_bytes=1000):
    return (name.encode() * (n_bytes // len(name) + 1))[:n_bytes]


def write_files(root, objects):
    for name, content in objects.items():
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class TestTieredStore(StoreContract):
    """Where others write the same root they write to its far store; and no two contents ever have one name."""

    @pytest.fixture(params=[None, 1], ids=lambda limit: f"limit={limit}")
    def store(self, tmp_path, request):
        return self.open(tmp_path, request.param)

    def open(self, root, limit):
        store = TieredStore(LocalStore(root / "near"), LocalStore(root / "far"), near_max_bytes=limit)
        store.parts = root, limit
        return store

    def open_again(self, store):
        root, limit = store.parts
        inside = Path(store.location()).relative_to(root / "far")
        again = self.open(root, limit)
        return again.child(str(inside)) if inside.parts else again

    def write_raw(self, store, name, content):
        far = Path(store.location())
        write_files(far, {name: content})
        self.near(far).joinpath(name).unlink(missing_ok=True)

    def read_raw(self, store):
        far = Path(store.location())
        return files_under(self.near(far)) | files_under(far)

    @staticmethod
    def near(far):
        return Path(str(far).replace("/far", "/near"))


class TestTieredStoreThatWritesNear(TestTieredStore):
    @pytest.fixture(params=[None])
    def store(self, tmp_path, request):
        return self.open(tmp_path, request.param)

    def open(self, root, limit):
        store = TieredStore(LocalStore(root / "near"), LocalStore(root / "far"), write="near", near_max_bytes=limit)
        store.parts = root, limit
        return store

    def write_raw(self, store, name, content):
        write_files(self.near(Path(store.location())), {name: content})


@pytest.fixture(autouse=True)
def looks_as_often_as_needed(monkeypatch):
    """What is kept does not depend on how busy the machine is."""
    monkeypatch.setattr(eviction, "_LISTING_SHARE", 1e9)


@pytest.fixture
def far():
    return ScriptedStore()


@pytest.fixture
def near(tmp_path):
    return LocalStore(tmp_path / "near")


@pytest.fixture
def store(near, far):
    return TieredStore(near, far)


# Reading --------------------------------------------------------------------------------------------------------------


def test_what_is_missing_near_is_read_far_at_once_and_kept(store, near, far):
    near.put("x/a", b"A")
    far.objects = {"x/b": b"B", "x/c": b"C"}
    wanted = ["x/c", "x/a", "x/missing", "x/b", "x/c"]
    assert store.get_many(wanted) == [b"C", b"A", None, b"B", b"C"]
    assert far.requests == [("get", ["x/c", "x/missing", "x/b"])]
    assert files_under(near.location()) == {"x/a": b"A", "x/b": b"B", "x/c": b"C"}
    assert store.get_many(wanted) == [b"C", b"A", None, b"B", b"C"]
    assert far.requests[1:] == [("get", ["x/missing"])]


def test_what_is_near_is_read_without_the_far_store(store, near, far):
    near.put_many({"a": b"A", "b": b"B"})
    assert store.get_many(["a", "b"]) == [b"A", b"B"]
    assert far.requests == []
    far.fails = down
    assert kinds(store.get_many(["a", "c"])) == [b"A", "unreachable"]


@pytest.mark.parametrize("write", ["both", "none"])
def test_what_is_there_is_what_the_far_store_has(near, far, write):
    store = TieredStore(near, far, write=write)
    near.put("a", b"A")
    far.objects = {"b": b"B"}
    assert store.exists_many(["b", "missing", "a", "b"]) == [True, False, False, True]
    assert far.requests == [("exists", ["b", "missing", "a"])]
    assert store.copies.get_many(["a", "b"]) == [b"A", None]
    assert store.child("x").copies.location() == near.location("x")
    far.fails = down
    assert store.exists_many(["a", "b"]) == [False, False]


def test_where_new_objects_go_near_what_is_near_is_there(near, far):
    store = TieredStore(near, far, write="near")
    near.put("a", b"A")
    far.objects = {"b": b"B"}
    assert store.exists_many(["b", "missing", "a"]) == [True, False, True]
    assert far.requests == [("exists", ["b", "missing"])]
    assert store.copies is None


@pytest.mark.parametrize(("far_has", "expected"), [({"ab/name": b"far"}, b"far"), ({}, None)])
def test_a_near_object_that_cannot_be_read_is_read_far(store, near, far, far_has, expected, caplog):
    Path(near.location(), "ab/name/folder").mkdir(parents=True)
    far.objects = far_has
    for _ in range(3):
        assert store.get_many(["ab/name"]) == [expected]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the near tier failed, and the run goes on with the remote store: could not read" in caplog.messages[0]


def test_a_near_folder_that_may_not_be_written_to_is_told_by_its_variable(store, far, monkeypatch, caplog):
    def refuse(folder, name, *flags):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)

    far.objects = {"ab/name": b"far"}
    monkeypatch.setattr("hf_audio_cache.stores.local.open_in", refuse)
    assert store.get_many(["ab/name"]) == [b"far"]
    [said] = caplog.messages
    assert "Read-only file system. Set HF_AUDIO_CACHE_NEAR to a folder that you may write to" in said


def test_a_listing_has_what_either_holds_once(store, near, far):
    near.put_many({"x/a": b"A", "x/b": b"B", "y": b"Y"})
    far.objects = {"x/b": b"B", "x/c": b"C"}
    assert sorted(store.names()) == ["x/a", "x/b", "x/c", "y"]
    far.fails = down
    with pytest.raises(StoreError, match="could not scan"):
        list(store.names())


def test_its_location_is_the_far_one(store, far):
    assert store.location("ab/name") == far.location("ab/name")
    assert store.location() == far.location()


# Writing --------------------------------------------------------------------------------------------------------------


def test_a_put_goes_to_both(store, near, far):
    assert store.put_many({"x/a": b"A", "x/b": b"B"}) == {}
    assert far.objects == files_under(near.location()) == {"x/a": b"A", "x/b": b"B"}


def test_a_put_that_the_far_store_lost_has_failed_and_is_near(store, near, far):
    far.fails = lambda action, name: "unreachable" if name == "x/a" else None
    assert kinds(store.put_many({"x/a": b"A", "x/b": b"B"}).values()) == ["unreachable"]
    assert far.objects == {"x/b": b"B"}
    assert store.get_many(["x/a", "x/b"]) == [b"A", b"B"]


def test_a_copy_that_is_put_into_the_root_stays_as_it_is_near(store, near, far):
    near.put_many({"x/a": b"A", "x/b": b"B"})
    before = os.stat(Path(near.location("x/a"))).st_ino
    assert store.put_copies({"x/a": b"A"}) == {}
    far.fails = down
    assert kinds(store.put_copies({"x/b": b"B"}).values()) == ["unreachable"]
    assert far.objects == {"x/a": b"A"}
    assert os.stat(Path(near.location("x/a"))).st_ino == before
    assert files_under(near.location()) == {"x/a": b"A", "x/b": b"B"}


def test_a_put_that_only_the_near_tier_lost_has_not_failed(tmp_path, far, caplog):
    (tmp_path / "near").write_bytes(b"a file where the directory should be")
    store = TieredStore(LocalStore(tmp_path / "near"), far)
    for _ in range(3):
        assert store.put_many({"x/a": b"A"}) == {}
        assert store.get("x/a") == b"A"
    assert far.objects == {"x/a": b"A"}
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("fails", [True, False])
def test_an_old_near_copy_does_not_hide_a_put(near, far, monkeypatch, fails):
    near.put("x/a", b"old")
    if fails:
        failed = {"x/a": StoreError("the disk is full", name="x/a")}
        monkeypatch.setattr(LocalStore, "put_many", lambda store, objects: failed)
    store = TieredStore(near, far, near_max_bytes=5)
    store.put("x/a", b"longer than the limit")
    assert store.get("x/a") == b"longer than the limit"


def test_under_near_the_far_store_is_only_read(near, far):
    far.objects = {"x/b": b"B", "x/c": b"C"}
    store = TieredStore(near, far, write="near")
    assert store.put_many({"x/a": b"A"}) == {}
    assert store.get_many(["x/a", "x/b"]) == [b"A", b"B"]
    assert files_under(near.location()) == {"x/a": b"A", "x/b": b"B"}
    assert sorted(store.names()) == ["x/a", "x/b", "x/c"]
    assert store.delete(["x/a", "x/b", "x/c"]) == {}
    assert files_under(near.location()) == {}
    assert {action for action, _ in far.requests} == {"get", "scan"}


def test_under_near_a_put_that_is_lost_has_failed(tmp_path, far):
    (tmp_path / "near").write_bytes(b"a file where the directory should be")
    store = TieredStore(LocalStore(tmp_path / "near"), far, write="near")
    assert list(store.put_many({"x/a": b"A"})) == ["x/a"]
    limited = TieredStore(LocalStore(tmp_path / "other"), far, write="near", near_max_bytes=10)
    [error] = limited.put_many({"x/a": b"A" * 11}).values()
    assert (error.name, error.errno) == ("x/a", errno.ENOSPC)
    assert "near_max_bytes allows no more" in str(error)


def test_under_none_a_put_is_refused_and_what_was_read_is_kept(near, far):
    far.objects = {"x/b": b"B"}
    store = TieredStore(near, far, write="none")
    [error] = store.put_many({"x/a": b"A"}).values()
    assert (error.name, error.kind) == ("x/a", "read-only")
    assert str(error) == "far://bucket/x/a was not written: this root is only read"
    assert str(store.refuse_puts(["x/a"])["x/a"]) == str(error)
    assert TieredStore(near, far, write="both").refuse_puts(["x/a"]) == {}
    assert store.get_many(["x/a", "x/b"]) == [None, b"B"]
    assert files_under(near.location()) == {"x/b": b"B"}
    assert store.delete(["x/b"]) == {}
    assert far.objects == {"x/b": b"B"}
    assert files_under(near.location()) == {}
    with pytest.raises(InvalidNameError):
        TieredStore(near, LocalStore(near.location()), write="none").put("../bad", b"")


def test_it_is_not_pickled(store):
    with pytest.raises(TypeError, match="open its root again"):
        pickle.dumps(store)


# Bad objects ----------------------------------------------------------------------------------------------------------


def test_a_deletion_goes_to_both(store, near, far):
    store.put_many({"x/a": b"A", "x/b": b"B"})
    assert store.delete(name for name in ["x/a", "x/missing"]) == {}
    assert far.objects == files_under(near.location()) == {"x/b": b"B"}
    far.fails = denied("delete")
    assert kinds(store.delete(["x/b"]).values()) == ["denied"]


@pytest.mark.parametrize("write", ["both", "near", "none"])
def test_a_bad_near_copy_gives_way_to_a_good_far_one(near, far, write):
    store = TieredStore(near, far, write=write)
    near.put_many({"x/a": b"damaged", "x/b": b"damaged"})
    far.objects = {"x/a": b"A"}
    assert store.get_again(["x/a", "x/b"]) == [b"A", None]
    assert files_under(near.location()) == {"x/a": b"A"}
    assert far.objects == {"x/a": b"A"}
    assert store.get_many(["x/a", "x/b"]) == [b"A", None]


def test_a_bad_near_copy_is_dropped_while_the_far_store_fails(store, near, far):
    near.put("x/a", b"damaged")
    far.objects, far.fails = {"x/a": b"A"}, down
    assert kinds(store.get_again(["x/a"])) == ["unreachable"]
    far.fails = fine
    assert store.get_many(["x/a"]) == [b"A"]


def put_a_copy_on_a_full_disk(root):
    near, far = LocalStore(root), ScriptedStore()
    near.put("x/a", b"a" * 1000)
    far.fails = down
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    TieredStore(near, far).put_copies({"x/a": b"a" * 1000})


def test_a_copy_is_not_lost_when_neither_the_disk_nor_the_root_takes_it(tmp_path):
    in_child(put_a_copy_on_a_full_disk, tmp_path)
    assert files_under(tmp_path) == {"x/a": b"a" * 1000}


# A near tier that fails ----------------------------------------------------------------------------------------------


def use_on_a_full_disk(root):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit is an error then
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    far = ScriptedStore()
    far.objects = {"far/small": b"s" * 1000, "far/big": b"b" * 300_000}
    store = TieredStore(LocalStore(root), far)
    lost = store.put_many({"new/small": b"s" * 1000, "new/big": b"b" * 300_000})
    names = ["far/small", "far/big", "new/small", "new/big"]
    return lost, [len(found) for _ in range(3) for found in store.get_many(names)], far.requests[-1]


def test_on_a_full_disk_the_far_store_does_it(tmp_path):
    lost, sizes, last_request = in_child(use_on_a_full_disk, tmp_path)
    assert lost == {}
    assert sizes == [1000, 300_000] * 6
    assert last_request == ("get", ["far/big", "new/big"])
    assert files_under(tmp_path).keys() == {"far/small", "new/small"}


def use_read_only(root):
    become_nobody()
    far = ScriptedStore()
    far.objects = {"x/b": b"B"}
    store = TieredStore(LocalStore(root), far, near_max_bytes=1000)
    lost = store.put_many({"x/c": b"C", "y/c": b"C"})
    return lost, store.get_many(["x/a", "x/b", "x/c"]), store.get_again(["x/b"]), sorted(store.names())


def test_a_read_only_near_tier_is_read(public_folder):
    root = public_folder / "near"
    write_files(root, {"x/a": b"A"})
    for folder in (root / "x", root):
        folder.chmod(0o555)
    lost, found, again, names = in_child(use_read_only, root)
    assert lost == {}
    assert found == [b"A", b"B", b"C"]
    assert again == [b"B"]
    assert names == ["x/a", "x/b", "x/c", "y/c"]
    for folder in (root, root / "x"):
        folder.chmod(0o755)


# Room -----------------------------------------------------------------------------------------------------------------


def fill_near(near, numbers, age=3600.0, n_bytes=1000):
    """Put entries near that an earlier run left there, the first the longest ago."""
    names = [entry_name(number) for number in numbers]
    write_files(near.location(), {name: content_of(name, n_bytes) for name in names})
    for i, name in enumerate(names):
        when = time.time() - age + i
        os.utime(near.location(name), (when, when))
    return names


def near_bytes(near):
    return sum(file.n_bytes for file in near.scan())


@pytest.fixture
def looks(monkeypatch):
    """The times that the near directory was looked through."""
    seen = []
    scan = LocalStore.scan
    monkeypatch.setattr(LocalStore, "scan", lambda store, prefix="": (seen.append(store), scan(store, prefix))[1])
    return seen


def test_what_was_not_used_for_longest_makes_room(near, far):
    names = fill_near(near, range(100))
    store = TieredStore(near, far, near_max_bytes=100_000)
    assert store.put_many({entry_name("new"): content_of("new")}) == {}
    assert not any(near.exists_many(names[:11]))
    assert all(near.exists_many([*names[11:], entry_name("new")]))
    assert near_bytes(near) == 90_000


def test_what_is_used_is_not_what_was_not_used_for_longest(near, far):
    names = fill_near(near, range(100))
    TieredStore(near, far, near_max_bytes=100_000).get_many(names[:10])  # another run, some time ago
    store = TieredStore(near, far, near_max_bytes=100_000)
    store.put(entry_name("new"), content_of("new"))
    assert all(near.exists_many(names[:10]))
    assert not any(near.exists_many(names[10:21]))


def test_what_this_run_touched_is_never_removed(near, far):
    rng = random.Random(0)
    names = fill_near(near, range(200))
    store = TieredStore(near, far, near_max_bytes=100_000)
    touched = set()
    for step in range(500):
        number = rng.randrange(400)
        name = entry_name(number)
        if number < 200 and step % 2:
            [found] = store.get_many([name])
            assert found in (content_of(name), None)
        else:
            store.put(name, content_of(name))
        if near.exists(name):
            touched.add(name)
            os.utime(near.location(name), (0, 0))  # the record alone protects it
        if step % 20 == 0:
            assert all(near.exists_many(list(touched)))
            assert near_bytes(near) <= max(200_000 - 1000 * step, 100_000)
    assert not all(near.exists_many(names))


def test_when_all_is_used_nothing_more_is_kept_and_nothing_fails(near, far, looks):
    names = [entry_name(i) for i in range(500)]
    far.objects = {name: content_of(name) for name in names}
    store = TieredStore(near, far, near_max_bytes=100_000)
    began = time.monotonic()
    for _ in range(4):
        for name in names:
            assert store.get(name) == content_of(name)
        assert near.exists_many(names) == [True] * 100 + [False] * 400
    assert len(looks) < 20 + time.monotonic() - began  # one a second, while there is no room
    assert store.put_many({entry_name("new"): b"content"}) == {}


def test_an_object_larger_than_the_limit_removes_nothing(near, far):
    names = fill_near(near, range(10))
    store = TieredStore(near, far, near_max_bytes=10_000)
    assert store.put_many({entry_name("new"): b"x" * 10_001}) == {}
    assert all(near.exists_many(names))


def test_nothing_but_entries_makes_room(near, far):
    sha = "ab" * 32
    kept = ["precious", "features/ab/x.npz", f"cd/{sha}.npz", f"ab/{sha}", f"lfs/ab/ab/{sha}", f"ab/{sha[:-1]}.x.npz"]
    kept += ["processors/abc.json", f"ab/{'AB' * 32}.x.npz", f"ab/{sha}.x/inner"]
    removed = [f"ab/{sha}.16000.0.wav.npz", f"features/ab/{sha}.16000.0.npz", f"ab/.{sha}.16000.0.wav.npz.1-0.tmp"]
    write_files(near.location(), dict.fromkeys([*kept, *removed], b"x" * 1000))
    for path in Path(near.location()).rglob("*"):
        os.utime(path, (0, 0))
    store = TieredStore(near, far, near_max_bytes=1000)
    store.put("manifest.json", b"content")
    assert set(near.names()) == {*kept, "manifest.json"}


def test_children_share_the_limit_and_what_is_known_to_be_used(near, far):
    for folder in ("features", "waveforms"):
        write_files(near.location(), {f"{folder}/{entry_name(i)}": b"x" * 1000 for i in range(50)})
    for path in Path(near.location()).rglob("*"):
        os.utime(path, (0, 0))
    store = TieredStore(near, far, near_max_bytes=100_000)
    features, waveforms = store.child("features"), store.child("waveforms")
    used = [entry_name(i) for i in range(40)]
    assert all(features.get_many(used))
    waveforms.put(entry_name("new"), b"x" * 1000)
    assert all(near.child("features").exists_many(used))
    assert near_bytes(near) <= 90_000


def test_without_a_limit_nothing_is_looked_at_nor_touched(near, far, looks):
    [name] = fill_near(near, [1])
    before = near.location(name).stat().st_mtime
    store = TieredStore(near, far)
    store.get(name)
    store.put_many({entry_name(i): b"x" for i in range(2, 50)})
    assert looks == []
    assert near.location(name).stat().st_mtime == before


def test_a_look_is_rare(near, far, looks):
    store = TieredStore(near, far, near_max_bytes=1_000_000)
    assert looks == []
    store.get(entry_name(0))
    assert looks == []
    for i in range(1, 900):
        store.put(entry_name(i), b"x" * 1000)
    assert len(looks) <= 16


def test_looks_take_a_small_part_of_the_time(near, far, monkeypatch):
    monkeypatch.setattr(eviction, "_LISTING_SHARE", 1 / 20)
    looks = []
    scan = LocalStore.scan

    def slow_scan(store, prefix=""):
        looks.append(store)
        time.sleep(0.02)
        return scan(store, prefix)

    monkeypatch.setattr(LocalStore, "scan", slow_scan)
    store = TieredStore(near, far, near_max_bytes=1_000_000)
    began = time.monotonic()
    for i in range(900):
        assert store.put_many({entry_name(i): b"x" * 1000}) == {}
    assert len(looks) <= 1 + (time.monotonic() - began) / 0.4


def touch_all(root, names):
    store = TieredStore(LocalStore(root), ScriptedStore(), near_max_bytes=100_000)
    return [found is not None for found in store.get_many(names)]


def test_what_another_process_of_this_run_uses_is_not_removed(near, far):
    names = fill_near(near, range(100))
    store = TieredStore(near, far, near_max_bytes=100_000)
    assert all(in_child(touch_all, near.location(), names[:50]))
    for i in range(100, 200):
        store.put(entry_name(i), content_of(entry_name(i)))
    assert all(near.exists_many(names[:50]))
    assert near_bytes(near) <= 100_000


def test_a_near_directory_that_cannot_be_listed_keeps_nothing_more(near, far, monkeypatch, caplog):
    def scan(store, prefix=""):
        raise StoreError("could not list it")

    monkeypatch.setattr(LocalStore, "scan", scan)
    store = TieredStore(near, far, near_max_bytes=1000)
    assert store.put_many({"a": b"A", "b": b"B"}) == {}
    assert files_under(near.location()) == {}
    assert len(caplog.messages) == 1


def test_while_one_thread_looks_the_others_do_without(near, far, monkeypatch):
    looks = []
    scan = LocalStore.scan

    def scan_with_another_thread(found, prefix=""):
        looks.append(found)
        assert store.put_many({entry_name("other"): b"content"}) == {}
        return scan(found, prefix)

    monkeypatch.setattr(LocalStore, "scan", scan_with_another_thread)
    store = TieredStore(near, far, near_max_bytes=1000)
    store.put(entry_name("name"), b"content")
    assert len(looks) == 1
    assert files_under(near.location()).keys() == {entry_name("name")}


def test_files_that_cannot_be_deleted_make_no_room(near, far, monkeypatch):
    fill_near(near, range(10))
    refused = {name: StoreError("could not delete it", name=name) for name in near.names()}
    monkeypatch.setattr(LocalStore, "delete", lambda store, names: {n: refused[n] for n in names if n in refused})
    TieredStore(near, far, near_max_bytes=10_000).put(entry_name("new"), content_of("new"))
    assert near_bytes(near) == 10_000


def test_threads_share_a_limit(near, tmp_path):
    far = LocalStore(tmp_path / "far")
    fill_near(near, range(1000, 1100))
    store = TieredStore(near, far, near_max_bytes=100_000)
    errors = []

    def use(seed):
        rng = random.Random(seed)
        try:
            for _ in range(100):
                name = entry_name(rng.randrange(60))
                found = store.get(name)
                if found is None:
                    store.put(name, content_of(name))
                elif found != content_of(name):
                    errors.append(name)
        except Exception as exc:  # noqa: BLE001 - shown by the assertion below
            errors.append(exc)

    threads = [threading.Thread(target=use, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert near_bytes(near) <= 110_000


def run_after_run(root, seed, runs):
    """Read and write through a small near tier that the other process does the same to; return what was wrong."""
    rng = random.Random(seed)
    wrong = []
    n_near = 0
    for _ in range(runs):
        store = TieredStore(LocalStore(root / "near"), LocalStore(root / "far"), near_max_bytes=20_000)
        for _ in range(20):
            names = [entry_name(rng.randrange(60)) for _ in range(4)]
            for name, found in zip(names, store.get_many(names), strict=True):
                if found is None:
                    wrong += store.put_many({name: content_of(name)}).values()
                elif found != content_of(name):
                    wrong.append((name, found))
            n_near += sum(LocalStore(root / "near").exists_many(names))
    return wrong, n_near


def test_two_processes_share_a_near_tier_that_is_too_small_for_both(tmp_path):
    results = []
    threads = [
        threading.Thread(target=lambda seed=seed: results.append(in_child(run_after_run, tmp_path, seed, 20)))
        for seed in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [wrong for wrong, _ in results] == [[], []]
    assert all(n_near > 100 for _, n_near in results)  # or nothing was ever kept
    assert len(files_under(tmp_path / "far")) == 60
    assert near_bytes(LocalStore(tmp_path / "near")) <= 30_000


def fill(store, numbers):
    for number in numbers:
        store.put(entry_name(number), b"x" * 1000)


def test_processes_that_fill_a_near_tier_together_respect_its_limit_about(tmp_path):
    near = LocalStore(tmp_path / "near")
    store = TieredStore(near, LocalStore(tmp_path / "far"), near_max_bytes=400_000)
    children = [start_child(fill, store, range(i * 150, (i + 1) * 150)) for i in range(8)]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert 250_000 < near_bytes(near) < 600_000

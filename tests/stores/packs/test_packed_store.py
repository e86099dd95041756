"""A store with packs behaves as one without packs, also while other processes pack, tidy and delete."""

from __future__ import annotations

import os
import tarfile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from pack_tools import age, entry_name, in_tars, indexes, make_packed, open_packed, pack_all, packs, singles
from scripted_store import ScriptedStore, denied, down, fine, kinds
from store_contract import StoreContract, files_under

from hf_audio_cache.errors import StoreError
from hf_audio_cache.stores import LocalStore
from hf_audio_cache.stores.packs import store as store_module
from hf_audio_cache.stores.packs.tidy import tidy
from hf_audio_cache.stores.resilient import ResilientStore
from hf_audio_cache.stores.tiered import TieredStore

NAMES = [entry_name(0), entry_name(0, "ba9876543210"), entry_name(0, folder="waveforms"), entry_name(1), entry_name(2)]
OBJECTS = {entry_name(number): f"content {number}".encode() * (1 + number % 7) for number in range(400)}


class TestPackedStoreWithoutPacks(StoreContract):
    """Without packs it is the store that it wraps."""

    @pytest.fixture
    def store(self, tmp_path):
        return open_packed(tmp_path / "root")

    def open_again(self, store):
        again = open_packed(store.single._root)
        for folder in filter(None, store._inside.split("/")):
            again = again.child(folder)
        return again


class Far(ScriptedStore):
    """Lists what has the prefix alone."""

    def scan(self, prefix=""):
        return (found for found in super().scan(prefix) if found.name.startswith(prefix))


@pytest.fixture
def root(tmp_path):
    make_packed(tmp_path / "root", OBJECTS, pack_bytes=100_000)
    return tmp_path / "root"


def test_it_behaves_as_a_dict_whoever_packs(tmp_path):
    roots = iter(tmp_path / str(number) for number in range(10_000))
    which, names = st.sampled_from([0, 1]), st.lists(st.sampled_from(NAMES), max_size=4)

    class PackedStoreAndDict(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.root = next(roots)
            self.stores = [open_packed(self.root), open_packed(self.root)]
            self.expected = {}

        @rule(which=which, objects=st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=50), max_size=4))
        def put(self, which, objects):
            assert self.stores[which].put_many(objects) == {}
            self.expected |= objects

        @rule(which=which, wanted=names)
        def delete(self, which, wanted):
            assert self.stores[which].delete(wanted) == {}
            for name in wanted:
                self.expected.pop(name, None)

        @rule(which=which, pack_bytes=st.sampled_from([1, 2000, 1 << 20]))
        def pack(self, which, pack_bytes):
            pack_all(self.stores[which], pack_bytes)
            assert singles(self.root) == {}

        @rule(which=which, is_old=st.booleans())
        def tidy(self, which, is_old):
            if is_old and (self.root / "packs").exists():
                age(self.root)
            self.stores[which].tidy()

        @rule(which=which)
        def open_again(self, which):
            self.stores[which] = open_packed(self.root)

        @rule(which=which, prefix=st.sampled_from(["", "features/", "features/5f/", NAMES[0], NAMES[0][:30]]))
        def list(self, which, prefix):
            there = {name: len(content) for name, content in self.expected.items() if name.startswith(prefix)}
            found = [(one.name, one.n_bytes) for one in self.stores[which].scan(prefix)]
            assert sorted(found) == sorted(there.items())

        @invariant()
        def both_see_the_same(self):
            for store in self.stores:
                assert store.get_many(NAMES) == [self.expected.get(name) for name in NAMES]
                assert store.exists_many(NAMES) == [name in self.expected for name in NAMES]
                assert store.child("features").ends_many([NAMES[3][9:]], 3) == [
                    self.expected[NAMES[3]][-3:] if NAMES[3] in self.expected else None
                ]

    bounded = settings(max_examples=60, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(PackedStoreAndDict, settings=bounded)


def test_packs_are_tars_in_the_order_of_writing(tmp_path):
    store = LocalStore(tmp_path)
    for second, (name, content) in enumerate(OBJECTS.items()):
        store.put(name, content)
        os.utime(tmp_path / name, (1000 + second // 2, 1000 + second // 2))
    moved = pack_all(tmp_path, 100_000)
    assert (moved.n_packed, moved.n_packs, singles(tmp_path)) == (400, len(packs(tmp_path)), {})
    assert 4 <= moved.n_packs <= 6
    assert all(path.stat().st_size < 120_000 for path in packs(tmp_path))
    assert dict(in_tars(tmp_path)) == OBJECTS
    first = open_packed(tmp_path).catalog
    in_order = [name for pack in first.state().packs for name in [entry.name for entry in first.alive_in(pack)]]
    numbers = {name: number for number, name in enumerate(OBJECTS)}
    starts = {pack: [numbers[e.name] // 2 for e in first.alive_in(pack)] for pack in first.state().packs}
    assert all(found == sorted(found) for found in starts.values())
    assert len(in_order) == 400
    found = {one.name: one.modified for one in open_packed(tmp_path).scan()}
    assert found == {name: 1000.0 + number // 2 for name, number in numbers.items()}


def test_a_long_name_is_packed_too(tmp_path):
    name = entry_name(1).replace(".16000.0.", ".192000.36000000.rs.chall.")
    make_packed(tmp_path, {name: b"content", entry_name(2): b"other"})
    assert [found for found, _ in in_tars(tmp_path)] == [name, entry_name(2)]
    for index in indexes(tmp_path):
        index.unlink()
    assert open_packed(tmp_path).get(name) == b"content"


@pytest.mark.parametrize("damage", ["no index", "flipped", "cut", "contents too"])
def test_packs_without_a_good_index_are_read_and_get_a_new_one(root, damage, caplog):
    for index in indexes(root):
        content = bytearray(index.read_bytes())
        content[-200 if damage == "flipped" else 20] ^= 1
        index.write_bytes(content[: 500 if damage == "cut" else None])
        if damage == "no index":
            index.unlink()
    for pack in packs(root) if damage == "contents too" else ():
        pack.write_bytes(pack.read_bytes()[:600] + b"xxxx" + pack.read_bytes()[604:])
    store = open_packed(root)
    assert store.get_many(list(OBJECTS)) == list(OBJECTS.values())
    assert set(store.names()) == OBJECTS.keys()
    store.tidy()
    assert 1 <= len(indexes(root)) <= 3
    assert [bool(record.message) for record in caplog.records] == [True] * len(caplog.records)
    caplog.clear()
    assert open_packed(root).get_many(list(OBJECTS)) == list(OBJECTS.values())
    assert caplog.records == []


def test_an_entry_that_a_damaged_header_gives_another_name_is_not_written_anew(root):
    pack = packs(root)[0]
    with tarfile.open(pack) as tar:
        member = tar.getmembers()[5]
    name, member.name = member.name, member.name.replace(".16000.", ".26000.")
    content = bytearray(pack.read_bytes())
    content[member.offset : member.offset + 512] = member.tobuf(tarfile.USTAR_FORMAT)
    content[600] ^= 1  # in the list of contents
    pack.write_bytes(content)
    tidy(open_packed(root), anew=[pack.stem])
    assert pack not in packs(root)
    others = OBJECTS.keys() - {name}
    store = open_packed(root)
    assert set(store.names()) == others
    assert store.get_many(list(others)) == [OBJECTS[other] for other in others]


def test_a_bad_entry_whose_index_is_found_damaged_meanwhile_is_no_longer_there(root, monkeypatch):
    store = open_packed(root)
    name = next(iter(OBJECTS))
    assert store.get(name) == OBJECTS[name]
    monkeypatch.setattr(store.catalog, "places", lambda key: iter(()))
    assert store.get_again([name]) == [None]


def test_a_root_without_packs_is_looked_at_once(tmp_path):
    store = open_packed(Far())
    store.catalog.missing_seconds = 15.0
    store.single.objects = dict(OBJECTS)
    for _ in range(5):
        store.get_many([*OBJECTS, entry_name(-1)])
        store.exists_many([entry_name(-1)])
    assert [request for request in store.single.requests if request[0] == "scan"] == [("scan", ["packs/"])]


@pytest.fixture
def far(root):
    """The packed root as a far store."""
    store = Far()
    store.objects = files_under(root)
    return store


def test_neighbours_are_read_by_one_request(far, monkeypatch):
    names = list(dict.fromkeys(one.name for one in open_packed(far).scan()))
    store = open_packed(far)
    store.get_many(names[:1])
    asked = []
    monkeypatch.setattr(far, "get_ranges", lambda ranges: asked.append(ranges) or type(far).get_ranges(far, ranges))
    catalog = store.catalog
    state = catalog.state()
    first = max(state.packs, key=lambda pack: state.packs[pack])
    in_pack = [entry.name for entry in catalog.alive_in(first)]
    asked.clear()
    assert store.get_many(in_pack[10:42]) == [OBJECTS[name] for name in in_pack[10:42]]
    assert [len(ranges) for ranges in asked] == [1]
    monkeypatch.setattr(store_module, "_MOST_APART", -1)
    asked.clear()
    assert store.get_many(in_pack[10:42]) == [OBJECTS[name] for name in in_pack[10:42]]
    assert [len(ranges) for ranges in asked] == [32]


def test_the_near_tier_keeps_indexes_and_entries(far, tmp_path):
    near = tmp_path / "near"
    names = list(OBJECTS)
    for _ in range(2):
        store = TieredStore(LocalStore(near), open_packed(far, near))
        assert store.get_many(names[:50]) == [OBJECTS[name] for name in names[:50]]
        assert {name for name in files_under(near) if name.startswith("packs/")} == {
            name for name in far.objects if name.endswith(".index")
        }
        far.requests.clear()
    assert store.get_many(names[:50]) == [OBJECTS[name] for name in names[:50]]
    assert far.requests == []
    assert set(store.names()) == OBJECTS.keys()
    for name in files_under(near):
        if name.startswith("packs/"):  # a damaged copy of an index is fetched again
            (near / name).write_bytes(b"damaged")
    assert open_packed(far, near).get_many(names[50:]) == [OBJECTS[name] for name in names[50:]]
    for name in [name for name in far.objects if name.endswith(".index")]:
        del far.objects[name]
    open_packed(far, near).tidy()
    assert {name for name in files_under(near) if name.startswith("packs/")} <= far.objects.keys()


def test_who_may_not_list_reads_single_entries(far):
    far.objects |= {entry_name(-1): b"single"}
    far.fails = denied("scan")
    store = open_packed(far)
    assert store.get_many([entry_name(-1), entry_name(0)]) == [b"single", None]


def test_without_an_answer_a_miss_is_an_error(far):
    far.fails = lambda action, name: "unreachable" if action == "scan" else None
    store = open_packed(far)
    [found] = store.get_many([entry_name(0)])
    assert isinstance(found, StoreError)
    assert found.kind == "unreachable"
    far.fails = fine
    assert store.get_many([entry_name(0)]) == [OBJECTS[entry_name(0)]]


def test_the_error_of_the_listing_is_said_where_it_stopped_the_reading(far):
    far.fails, far.seconds = down, 3.0
    store = open_packed(ResilientStore(far, clock=far.clock, sleep=far.sleep))
    names = [entry_name(0), entry_name(1)]
    first, second = (store.get_many(names) for _ in range(2))
    assert kinds(first) == ["unreachable"] * 2
    assert [error.name for error in first] == names
    assert [action for action, _ in far.requests] == ["scan"]
    assert kinds(second) == ["circuit open"] * 2

"""A store around another one hands everything on but what it is there for."""

from __future__ import annotations

import inspect
import pickle

import pytest
from scripted_store import ScriptedStore, kinds
from store_contract import StoreContract

from hf_audio_cache.stores import LocalStore, Store
from hf_audio_cache.stores.read_only import ReadOnlyStore
from hf_audio_cache.stores.wrapper import WrappingStore

# These are made of the others, by `Store` itself.
DERIVED = {"delete_unchanged", "get", "ends_many", "put", "put_copies", "exists", "names"}


class CountingStore(WrappingStore):
    """Such a store of a user's: it counts the objects that are read, with its children."""

    def __init__(self, wrapped):
        super().__init__(wrapped)
        self.counts = {"read": 0}

    def get_many(self, names):
        self.counts["read"] += len(names)
        return super().get_many(names)


class TestWrappingStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return CountingStore(LocalStore(tmp_path / "root"))

    def open_again(self, store):
        return CountingStore(LocalStore(store.location()))


def test_every_call_of_a_store_is_handed_on():
    calls = {name for name, member in vars(Store).items() if inspect.isfunction(member) and not name.startswith("_")}
    assert calls - DERIVED == {name for name in vars(WrappingStore) if name in calls}
    assert "is_local" in vars(WrappingStore)


def test_a_child_shares_what_its_parent_knows(tmp_path):
    store = CountingStore(LocalStore(tmp_path))
    store.child("features").get_many(["ab/x", "ab/y"])
    store.get("ab/z")
    assert store.counts == {"read": 3}
    assert isinstance(store.child("features"), CountingStore)
    assert isinstance(store.bare(), CountingStore)


def test_it_is_not_pickled(tmp_path):
    with pytest.raises(TypeError, match="a store is not pickled: CountingStore"):
        pickle.dumps(CountingStore(LocalStore(tmp_path)))


def test_a_read_only_store_is_read_as_ever_and_never_written_to():
    inner = ScriptedStore()
    inner.objects["a"] = b"A"
    inner.get_again = inner.get_many
    store = ReadOnlyStore(inner)
    assert store.get_many(["a", "b"]) == store.get_again(["a", "b"]) == [b"A", None]
    assert kinds(store.put_many({"b": b"B"}).values()) == ["read-only"]
    assert kinds(store.refuse_puts(["b"]).values()) == ["read-only"]
    assert kinds(store.delete(["a"]).values()) == ["read-only"]
    assert kinds(store.child("x").put_many({"b": b"B"}).values()) == ["read-only"]
    assert kinds(store.bare().put_many({"b": b"B"}).values()) == ["read-only"]
    assert inner.objects == {"a": b"A"}
    assert {action for action, _ in inner.requests} == {"get"}

"""Which of many objects are there: few names are asked for one by one, many are looked up in listings."""

from __future__ import annotations

import hashlib

import pytest
from scripted_store import ScriptedStore, denied, down

from hf_audio_cache.errors import StoreError
from hf_audio_cache.stores import StoredObject
from hf_audio_cache.stores.resilient import ResilientStore


class ListedStore(ScriptedStore):
    """One that lists what has the prefix alone, a page of a thousand names a request."""

    def scan(self, prefix=""):
        for place, name in enumerate(sorted(name for name in self.objects if name.startswith(prefix))):
            if place % 1000 == 0:
                for error in self._request("scan", [prefix]).values():
                    raise error
            yield StoredObject(name, 1, 0.0)


def names(count, first=0):
    shas = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(first, first + count)]
    return [f"{sha[:2]}/{sha}.npz" for sha in shas]


@pytest.fixture
def remote():
    return ListedStore()


@pytest.fixture
def store(remote):
    return ResilientStore(remote, clock=remote.clock, sleep=remote.sleep)


@pytest.mark.parametrize(
    ("n_asked", "n_there", "is_listed"),
    [(64, 64, False), (999, 999, False), (1000, 1000, True), (5000, 4000, True), (1000, 60_000, False)],
)
def test_many_are_found_by_listing_and_few_are_asked_for(store, remote, n_asked, n_there, is_listed):
    wanted = names(n_asked, first=10)
    remote.objects = dict.fromkeys(names(n_there, first=n_asked // 2), b"x")
    found = store.exists_many([*wanted, *wanted[:3]])
    assert found == [name in remote.objects for name in [*wanted, *wanted[:3]]]
    assert any(action == "exists" for action, _ in remote.requests) != is_listed
    assert len(remote.requests) < (3 + n_there // 1000 if is_listed else 3)


def test_names_in_one_folder_are_listed_there(store, remote):
    wanted = [f"ab/{number}" for number in range(2000)]
    remote.objects = dict.fromkeys(wanted[:500], b"x") | dict.fromkeys((f"cd/{number}" for number in range(5000)), b"x")
    assert store.exists_many(wanted) == [True] * 500 + [False] * 1500
    assert remote.requests == [("scan", ["ab/"])]


def test_who_may_not_list_asks_for_each(store, remote):
    remote.objects = dict.fromkeys(names(1500), b"x")
    remote.fails = denied("scan")
    assert all(store.exists_many(names(1500)))
    assert remote.requests[-1] == ("exists", names(1500))


def test_a_listing_that_fails_is_no_answer(store, remote):
    remote.objects = dict.fromkeys(names(1500), b"x")
    remote.fails = down
    assert not any(store.exists_many(names(1500)))
    assert {action for action, _ in remote.requests} == {"scan"}
    assert isinstance(store.refuse_puts(["a"]), dict)
    with pytest.raises(StoreError):
        list(store.names())

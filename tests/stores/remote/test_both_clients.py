"""What holds for both clients of a remote store: errors, time-outs, secrets, listings and forks."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import time
import traceback

import pytest
from crossed import crossed
from fault_proxy import Fault, FaultProxy
from remote_stores import (
    BOTH,
    CONTENTS,
    NAMES,
    SECRET,
    SOON,
    assert_unreachable,
    before,
    in_fork,
    new_bucket,
    open_fast,
    open_plain,
    timed,
)

from hf_audio_cache.errors import StoreError
from hf_audio_cache.stores.remote import fsspec_store

pytestmark = pytest.mark.servers


@BOTH
def test_a_store_shows_nothing_of_its_options(opened):
    store = opened("s3://bucket/x", {"key": "k" * 20, "secret": SECRET, "endpoint_url": "http://127.0.0.1:1"})
    for each in (store, store.child("y")):
        assert repr(each) == f"{type(store).__name__}({each.location()!r})"
        assert str(each) == repr(each)
        with pytest.raises(TypeError, match="a store is not pickled") as caught:
            pickle.dumps(each)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("opened", "changed"), crossed([open_plain, open_fast], ["secret", "key", "token"]))
def test_wrong_credentials_are_denied_and_not_told(weed, caplog, opened, changed):
    caplog.set_level(logging.DEBUG, "hf_audio_cache")
    store = opened(weed.url(new_bucket(weed)), {**weed.storage_options, changed: SECRET})
    errors = [store.get_many(["a"])[0], store.put_many({"a": b"content"})["a"]]
    with pytest.raises(StoreError) as caught:
        list(store.scan())
    for error in (*errors, caught.value):
        assert error.kind == "unauthenticated"
        assert error.__cause__ is not None
        told = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)
        assert SECRET not in told
        assert weed.credentials["secret"] not in told
    with pytest.raises(StoreError, match="could not look for"):
        store.exists_many(["a"])
    assert SECRET not in caplog.text


@BOTH
@pytest.mark.parametrize("name", ["seaweedfs", "azurite"])
def test_each_kind_of_error_of_a_server(started, opened, name):
    with before(started(name), opened) as (store, proxy):
        for status, kind in [(403, "denied"), (429, "throttled"), (503, "throttled"), (500, "unreachable")]:
            if (name, opened) == ("azurite", open_plain) and status >= 500:
                continue  # adlfs tries again for longer than we wait: it has no setting for that
            with proxy.inflicting(Fault("status", status=status)):
                errors = [
                    store.get_many(["00/name"])[0],
                    store.put_many({"00/name": b"new"})["00/name"],
                    store.delete(["00/name"])["00/name"],
                ]
                assert [error.kind for error in errors] == [kind] * 3, errors
                assert [error.name for error in errors] == ["00/name"] * 3
                assert all(error.__cause__ is not None for error in errors)
        with proxy.inflicting(Fault("status", status=403)):
            with pytest.raises(StoreError, match="could not look for"):
                store.exists_many(["00/name"])
            with pytest.raises(StoreError, match="could not list") as caught:
                list(store.scan())
            assert caught.value.kind == "denied"
        assert store.get("00/name") == CONTENTS[0]


# Not GCS by obstore: fake-gcs-server takes its uploads in the contract alone, through `XmlUploads`. Azure by obstore is
# long: obstore has one HTTP client for all stores.
WAYS = pytest.mark.parametrize(
    ("name", "opened"),
    [
        pytest.param(
            name,
            opened,
            id=f"{name}-{'fsspec' if opened is open_plain else 'obstore'}",
            marks=[pytest.mark.long] if (name, opened) == ("azurite", open_fast) else [],
        )
        for name, opened in itertools.product(("seaweedfs", "fake_gcs", "azurite"), (open_plain, open_fast))
        if (name, opened) != ("fake_gcs", open_fast)
    ],
)


@WAYS
def test_a_short_answer_does_not_pass_for_an_object(started, opened, name):
    with before(started(name), opened, timeouts=(2.0, 2.0)) as (store, proxy):
        with proxy.inflicting(Fault("truncate", 0.5)):
            got = store.get_many(NAMES[:8])
        assert proxy.inflicted["truncate"] > 0
        for i, found in enumerate(got):
            assert found == CONTENTS[i] or found.kind == "unreachable"


@BOTH
def test_one_object_that_fails_does_not_fail_the_others(weed, opened):
    with before(weed, opened, timeouts=(2.0, 2.0)) as (store, proxy):
        for kind in ("reset", "hang"):
            with proxy.inflicting(Fault(kind, methods=("GET", "PUT"), containing="07/name")):
                got = store.get_many(NAMES)
                failed = store.put_many(dict.fromkeys(NAMES[:20], b"new")) if kind == "reset" else {}
            assert [i for i, found in enumerate(got) if isinstance(found, StoreError)] == [7]
            assert got[7].kind == "unreachable"
            assert [error.kind for error in failed.values()] == ["unreachable"] * (kind == "reset")


@WAYS
def test_a_server_that_hangs_costs_one_time_out(started, opened, name, monkeypatch):
    monkeypatch.setattr(fsspec_store, "_LISTING_TAKES", 2)
    with before(started(name), opened, timeouts=(2.0, 1.0)) as (store, proxy):
        with proxy.inflicting(Fault("hang")):
            got, took = timed(store.get_many, NAMES)
            assert_unreachable(got)
            assert 0.9 < took < SOON
            if name == "seaweedfs":
                for ask in (lambda names: store.put_many(dict.fromkeys(names, b"new")), store.delete):
                    failed, took = timed(ask, NAMES)
                    assert_unreachable(list(failed.values()))
                    assert took < SOON
                began = time.monotonic()
                with pytest.raises(StoreError, match="could not look for"):
                    store.exists_many(NAMES)
                assert time.monotonic() - began < SOON
                with pytest.raises(StoreError, match="could not list") as caught:
                    list(store.scan())
                assert caught.value.kind == "unreachable"
        assert store.get_many(NAMES[:8]) == CONTENTS[:8]  # it answers again


@WAYS
def test_a_server_that_is_gone_is_soon_known(started, opened, name):
    with before(started(name), opened, timeouts=(2.0, 1.0)) as (store, proxy):
        proxy.refuse()
        got, took = timed(store.get_many, NAMES)
        assert_unreachable(got)
        assert took < SOON
        failed = store.put_many(dict.fromkeys(NAMES, b"new")) if name == "seaweedfs" else {}
        assert {error.kind for error in failed.values()} <= {"unreachable"}
        proxy.listen()
        assert store.get("01/name") == CONTENTS[1]


QUIET = """
    import json, sys, time
    arguments = json.loads(sys.argv[1])
    sys.path[:0] = arguments["path"]
    import servers  # what it sets for gcsfs
    from hf_audio_cache.stores.remote.fsspec_store import FsspecStore
    names = [f"{i}/name" for i in range(50)]
    for url, options in arguments["stores"]:
        store = FsspecStore(url, options, timeouts=(2.0, 0.4))
        kinds = {found.kind for found in store.get_many(names)}
        kinds |= {error.kind for error in store.put_many(dict.fromkeys(names, b"content")).values()}
        print(*kinds)
    time.sleep(0.5)
"""


def test_what_does_not_answer_leaves_no_noise(started):
    with contextlib.ExitStack() as stack:
        stores = []
        for name, fault in itertools.product(("seaweedfs", "fake_gcs", "azurite"), ("hang", "refuse")):
            server = started(name)
            proxy = stack.enter_context(FaultProxy(server.port))
            proxy.faults = [Fault("hang")]
            if fault == "refuse":
                proxy.refuse()
            stores.append((server.url("bucket", "root"), server.storage_options_at(proxy.port)))
        command = [sys.executable, "-c", textwrap.dedent(QUIET), json.dumps({"path": sys.path, "stores": stores})]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stdout == "unreachable\n" * len(stores)
    assert done.stderr == ""


@BOTH
def test_requests_go_out_at_the_same_time(weed, opened):
    with before(weed, opened) as (store, proxy):
        store.get_many(NAMES)
        with proxy.inflicting(Fault("delay", seconds=0.5)):
            got, took = timed(store.get_many, NAMES)
        assert got == CONTENTS
        assert took < 0.5 * 64 / 2
        before_it = proxy.requests["GET"]
        store.get_many(NAMES)
        assert proxy.requests["GET"] - before_it == 64
        assert proxy.requests["HEAD"] == 0  # no question for the size first


@BOTH
def test_a_listing_says_sizes_and_times_over_many_pages(weed, opened):
    bucket = new_bucket(weed)
    options = weed.storage_options
    objects = {f"00/{i}": b"x" * (i % 5) for i in range(1010)} | {"01/x": b"x", "02/y": b"y"}
    began = time.time()
    assert open_fast(weed.url(bucket, "root"), options).put_many({**objects, "00": b"y"}) == {}
    with FaultProxy(weed.port) as proxy:
        store = opened(weed.url(bucket, "root"), weed.storage_options_at(proxy.port))
        found = {each.name: each for each in store.scan("0")}
        assert {name: each.n_bytes for name, each in found.items()} == {"00": 1} | {
            name: len(content) for name, content in objects.items()
        }
        assert all(began - 2 <= each.modified <= time.time() + 2 for each in found.values())
        assert proxy.requests["GET"] <= 6  # the pages, and before them whether there is an answer at all
        assert list(store.names("02/")) == ["02/y"]
        assert store.delete([*objects][20:]) == {}
    assert weed.names(bucket) == sorted(f"root/{name}" for name in ("00", *[*objects][:20]))


def use(store):
    got = store.get_many(NAMES[:16])
    failed = store.put_many({f"child/{os.getpid()}": b"content"})
    return got, failed, store.exists_many(NAMES[:2]), sorted(store.names("0")), store.delete([NAMES[16]])


@pytest.mark.parametrize(("opened", "used_before"), crossed([open_plain, open_fast], [True, False]))
def test_a_forked_child_reads_and_writes_as_its_parent_did(weed, opened, used_before):
    bucket = new_bucket(weed)
    store = opened(weed.url(bucket, "root"), weed.storage_options)
    for name, content in zip(NAMES[:17], CONTENTS, strict=False):
        weed.write(bucket, f"root/{name}", content)
    if used_before:
        assert store.get_many(NAMES[:17]) == CONTENTS[:17]
    assert in_fork(use, store) == (CONTENTS[:16], {}, [True, True], NAMES[:16], {})
    assert store.get_many(NAMES[:17]) == [*CONTENTS[:16], None]

"""Stores through fsspec: the contract on each protocol, buckets, folders and listings."""

from __future__ import annotations

import os
import time

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from remote_stores import SECRET, SOON, RemoteContract, new_bucket, open_fast, open_plain
from store_contract import StoreContract

from hf_audio_cache.errors import StoreError
from hf_audio_cache.stores.remote.fsspec_store import FsspecStore
from hf_audio_cache.stores.resilient import ResilientStore

pytestmark = pytest.mark.servers


class TestS3ByFsspec(RemoteContract):
    server_name = "seaweedfs"


class TestGcsByFsspec(RemoteContract):
    server_name = "fake_gcs"


class TestAzureByFsspec(RemoteContract):
    server_name = "azurite"


class TestMemory(StoreContract):
    max_examples = 10

    @pytest.fixture
    def store(self):
        yield FsspecStore("memory://some/root")
        MemoryFileSystem.store.clear()

    def open_again(self, store):
        return FsspecStore(store.location())

    def write_raw(self, store, name, content):
        MemoryFileSystem().pipe_file(f"{store.location()}/{name}", content)

    def read_raw(self, store):
        folder = "/" + store.location().partition("://")[2].strip("/") + "/"
        found = MemoryFileSystem.store.items()
        return {name.removeprefix(folder): file.getvalue() for name, file in found if name.startswith(folder)}


class TestMemoryFileSystemOfAUser(TestMemory):
    @pytest.fixture
    def store(self):
        yield FsspecStore("/some/root", filesystem=MemoryFileSystem())
        MemoryFileSystem.store.clear()


def test_what_a_file_system_of_a_user_has_listed_is_not_believed(weed):
    system = fsspec.filesystem("s3", **weed.storage_options, use_listings_cache=True)
    bucket = new_bucket(weed)
    weed.write(bucket, "root/ab/old", b"old")
    assert len(system.ls(f"{bucket}/root")) == len(system.ls(f"{bucket}/root/ab")) == 1
    store = FsspecStore(f"s3://{bucket}/root", filesystem=system)
    for name in ("root/ab/new", "root/cd/new"):
        weed.write(bucket, name, b"new content")
    weed.delete(bucket, "root/ab/old")
    names = ["ab/new", "cd/new", "ab/old"]
    assert store.get_many(names) == [b"new content", b"new content", None]
    assert store.exists_many(names) == [True, True, False]
    assert sorted(store.names()) == ["ab/new", "cd/new"]


def test_the_environment_names_the_server_and_the_key(weed, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", weed.credentials["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", weed.credentials["secret"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", weed.endpoint)
    bucket = new_bucket(weed)
    open_fast(weed.url(bucket), None).put("fast", b"1")
    open_plain(weed.url(bucket), None).put("plain", b"2")
    assert weed.read_all(bucket) == {"fast": b"1", "plain": b"2"}


@pytest.mark.parametrize("name", ["seaweedfs", "rclone_s3", "fake_gcs", "azurite"])
def test_no_bucket_is_told_from_no_object(started, name):
    server = started(name)
    store = FsspecStore(server.url("nobucket", "root"), server.storage_options)
    assert not ResilientStore(store).exists("a")
    assert store.delete(["a"]) == {}
    [found] = store.get_many(["a"])
    # Of gcsfs' error only its class is left.
    assert getattr(found, "kind", None) == (None if name == "fake_gcs" else "no bucket")
    if name != "seaweedfs":  # which makes the bucket
        assert store.put_many({"a": b"content"})["a"].kind == "no bucket"


def test_a_host_without_an_address_is_unreachable():
    options = {"key": "k", "secret": "s", "endpoint_url": "http://no-such-host.invalid"}
    for opened in (open_plain, open_fast):
        [error] = opened("s3://bucket/x", options, timeouts=(2.0, 2.0)).get_many(["a"])
        assert error.kind == "unreachable"


def test_a_store_that_is_gone_is_not_listed():
    """gcsfs would try for half a minute."""
    store = FsspecStore("gs://bucket/x", {"token": "anon", "endpoint_url": "http://127.0.0.1:1"}, timeouts=(2.0, 2.0))
    began = time.monotonic()
    with pytest.raises(StoreError, match="could not list") as caught:
        list(store.scan())
    assert (caught.value.kind, time.monotonic() - began < SOON) == ("unreachable", True)


def test_a_store_that_has_just_answered_is_listed_without_further_ado(monkeypatch):
    asked = []
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda self, path, **_: asked.append(path) or b"")
    store = FsspecStore("memory://some/root")
    assert [*store.scan(), *store.scan()] == []
    assert len(asked) == 1


def test_no_credentials_at_all_are_none():
    [error] = FsspecStore("s3://bucket/x", {"endpoint_url": "http://127.0.0.1:1"}).get_many(["a"])
    assert error.kind == "unauthenticated"
    assert "NoCredentialsError" in str(error)


def test_options_that_the_driver_refuses_are_an_error_of_each_object():
    store = FsspecStore("s3://bucket/x", {"key": "k", "secret": SECRET, "max_concurrency": 0, "endpoint_url": "x"})
    got = store.get_many(["a", "b"])
    assert [type(error) for error in got] == [StoreError] * 2
    assert "the file system could not be opened" in str(got[0])
    assert got[1].name == "b"
    store = FsspecStore("gs://bucket/x", {"token": "/no/such/file.json", "project": "p"})
    assert isinstance(store.get_many(["a"])[0], StoreError)  # and not None: the missing file is not the object's


def test_folders_are_made_where_a_file_system_has_them(tmp_path):
    class Folders(LocalFileSystem):
        protocol = "folders"

        @classmethod
        def _strip_protocol(cls, path):
            return path.removeprefix("folders://").rstrip("/")

    store = FsspecStore(str(tmp_path / "root"), filesystem=Folders())
    assert store.put_many({"a/b": b"1", "a/c/d": b"2"}) == {}
    assert sorted(store.names()) == ["a/b", "a/c/d"]
    assert (tmp_path / "root/a/c/d").read_bytes() == b"2"


def test_an_absent_object_is_deleted_whatever_its_driver_calls_that(blocking, monkeypatch):
    store = FsspecStore("blocking://root")
    store.put("name", b"content")

    def refuse(system, path):
        raise RuntimeError("550 no such file, or not allowed")

    monkeypatch.setattr(blocking, "rm_file", refuse)
    assert store.delete(["name", "absent"]).keys() == {"name"}


@pytest.mark.parametrize("name", ["fake_gcs", "azurite"])
def test_every_store_says_when_an_object_was_put(started, name):
    server = started(name)
    store = FsspecStore(server.url(new_bucket(server), "root"), server.storage_options)
    store.put("ab/name", b"content")
    [found] = store.scan()
    assert found.n_bytes == 7
    assert abs(found.modified - time.time()) < 60


def test_folders_that_lie_as_objects_are_not_listed(weed):
    bucket = new_bucket(weed)
    for name in ("root/", "root/ab/", "root/ab/name"):
        weed.write(bucket, name, b"")
    for opened in (open_plain, open_fast):
        store = opened(weed.url(bucket, "root"), weed.storage_options)
        # obstore leaves the slash out, and so does not tell it from an empty object; its own root's, it does.
        assert list(store.names()) == (["ab/name"] if opened is open_plain else ["ab", "ab/name"])
        assert list(store.names("ab/")) == ["ab/name"]
        assert list(store.child("ab").names()) == ["name"]

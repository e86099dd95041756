"""Far stores, through fsspec and through obstore, before real servers of each protocol."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import http.client
import itertools
import json
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import fsspec
import pytest
import servers
from children import start_child
from fault_proxy import Fault, FaultProxy
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from store_contract import StoreContract

from hf_audio_cache.errors import InvalidRootError, StoreError
from hf_audio_cache.stores.remote import fsspec_store, obstore_store, urls
from hf_audio_cache.stores.remote import open as opening
from hf_audio_cache.stores.remote.errors import Redactor, is_missing, kind_of, store_error
from hf_audio_cache.stores.remote.fsspec_store import FsspecStore
from hf_audio_cache.stores.remote.obstore_options import NoEquivalentError, translate
from hf_audio_cache.stores.remote.obstore_store import ObstoreStore
from hf_audio_cache.stores.remote.open import open_remote

# What aiohttp says of each upload of more than a megabyte that gcsfs and adlfs make.
pytestmark = [
    pytest.mark.servers,
    pytest.mark.filterwarnings("ignore:Sending a large body directly with raw bytes:ResourceWarning"),
]

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR")):
            monkeypatch.delenv(name)
    # Else botocore looks for a machine's own role, where a test has no credentials.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def started(tmp_path_factory):
    """``started(name)``: that server, started when first asked for."""
    running = {}
    with contextlib.ExitStack() as stack:

        def start(name):
            if name not in running:
                running[name] = stack.enter_context(getattr(servers, name)(tmp_path_factory.mktemp(name)))
            return running[name]

        yield start


def new_bucket(server):
    bucket = f"bucket-{next(_numbers)}"
    server.make_bucket(bucket)
    return bucket


@pytest.fixture
def weed(started):
    return started("seaweedfs")


def open_plain(url, options, **times):
    return FsspecStore(url, options, **times)


def open_fast(url, options, **times):
    store = open_remote(url, options, **times)
    assert type(store) is ObstoreStore
    return store


BOTH = pytest.mark.parametrize("opened", [open_plain, open_fast], ids=["fsspec", "obstore"])


# The contract ---------------------------------------------------------------------------------------------------------


class RemoteContract(StoreContract):
    """Each test has a folder of its own in one bucket, and all share one client."""

    max_examples = 2
    server_name: str
    opened = staticmethod(open_plain)
    base = None

    @pytest.fixture
    def store(self, started):
        own = type(self)
        if own.base is None:
            own.server = started(self.server_name)
            own.base = self.open(own.server.url(new_bucket(own.server)))
        return own.base.child(f"folder-{next(_numbers)}")

    def open(self, url):
        return self.opened(url, self.server.storage_options)

    def open_again(self, store):
        return self.open(store.location())

    def place(self, store):
        bucket, _, folder = store.location().partition("://")[2].partition("/")
        return bucket, f"{folder}/"

    def write_raw(self, store, name, content):
        bucket, folder = self.place(store)
        self.server.write(bucket, folder + name, content)

    def read_raw(self, store):
        bucket, folder = self.place(store)
        names = [name for name in self.server.names(bucket) if name.startswith(folder)]
        return {name.removeprefix(folder): self.server.read(bucket, name) for name in names}


class TestS3ByFsspec(RemoteContract):
    server_name = "seaweedfs"


class TestS3ByObstore(RemoteContract):
    server_name = "seaweedfs"
    opened = staticmethod(open_fast)


class TestGcsByFsspec(RemoteContract):
    server_name = "fake_gcs"


class TestAzureByFsspec(RemoteContract):
    server_name = "azurite"


class TestAzureByObstore(RemoteContract):
    server_name = "azurite"
    opened = staticmethod(open_fast)


class XmlUploads(BaseHTTPRequestHandler):
    """Before fake-gcs-server, which takes the XML API's uploads if they look signed, and then gives no ETag."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = f"{self.path}?X-Goog-Algorithm=GOOG4-RSA-SHA256" if self.command == "PUT" else self.path
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        connection = http.client.HTTPConnection(servers.HOST, self.server.target_port)
        connection.request(self.command, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        own = {"connection", "transfer-encoding", "content-length"}
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in own}
        headers |= {"ETag": '"1"'} if self.command == "PUT" else {}
        headers["Content-Length"] = (answer.getheader("Content-Length") if self.command == "HEAD" else None) or str(
            len(content)
        )
        self.send_response_only(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_DELETE = pass_on  # noqa: N815 - the names that http.server looks for


@pytest.fixture(scope="session")
def xml_api(started):
    with ThreadingHTTPServer((servers.HOST, 0), XmlUploads) as server:
        server.target_port = started("fake_gcs").port
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


class TestGcsByObstore(RemoteContract):
    server_name = "fake_gcs"

    @pytest.fixture(autouse=True)
    def _port(self, xml_api):
        type(self).port = xml_api

    def open(self, url):
        options = self.server.storage_options_at(self.port)
        return ObstoreStore(open_plain(url, options), translate(url, options))


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


# Roots ----------------------------------------------------------------------------------------------------------------


def test_opening_imports_no_driver_and_asks_nobody():
    code = """
        import socket, sys
        def refuse(*arguments): raise AssertionError(arguments)
        socket.socket.connect = socket.getaddrinfo = refuse
        from hf_audio_cache.stores.remote.open import open_remote
        before = set(sys.modules)
        store = open_remote("s3://bucket/x", {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:1"}).child("y")
        for url, options in [("gs://b/x", {"token": "anon"}), ("az://b", {"account_name": "a"}), ("hf://x/y", None)]:
            open_remote(url, options)
        store.location("name"), repr(store)
        assert not {"s3fs", "gcsfs", "adlfs", "obstore", "botocore", "aiohttp"} & set(sys.modules) - before
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)


@pytest.mark.parametrize(
    ("url", "module", "said"),
    [
        ("s3://bucket", "s3fs", r'needs s3fs, which is not installed: `pip install "hf_audio_cache\[s3\]"`'),
        ("gs://bucket", "gcsfs", r'`pip install "hf_audio_cache\[gcs\]"`'),
        ("abfs://bucket", "adlfs", r'`pip install "hf_audio_cache\[azure\]"`'),
        ("hf://datasets/a/b", "huggingface_hub", "needs huggingface_hub, which is not installed"),
    ],
)
def test_a_driver_that_is_not_installed_is_named(monkeypatch, url, module, said):
    found = urls.importlib.util.find_spec
    monkeypatch.setattr(urls.importlib.util, "find_spec", lambda name: None if name == module else found(name))
    monkeypatch.setattr(urls, "registry", {})
    with pytest.raises(InvalidRootError, match=said) as caught:
        open_remote(url)
    assert caught.value.root == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nothing://bucket", "fsspec has no file system"),
        ("s3://", "names no place"),
        ("s3:///", "names no place"),
        ("bucket/x", "names no place"),
        ("simplecache::s3://bucket/x", "through a copy"),
        ("filecache://x", "through a copy"),
        ("file:///tmp/x", "pass its path"),
        ("https://host/x?sig=c2VjcmV0", "has a query"),
        ("smb://host/x", "cannot be used"),
    ],
)
def test_a_url_that_no_store_can_serve_is_refused(url, said):
    with pytest.raises(InvalidRootError, match=said) as caught:
        open_remote(url)
    assert "nothing was opened" in str(caught.value)
    assert "c2VjcmV0" not in f"{caught.value} {vars(caught.value)}"


@pytest.mark.parametrize(
    ("system", "options", "said"),
    [
        (lambda: LocalFileSystem(), None, "pass a path alone"),
        (lambda: object(), None, "is not an fsspec file system"),
        (lambda: fsspec.filesystem("simplecache", target_protocol="memory"), None, "the file system behind it"),
        (lambda: MemoryFileSystem(), {"key": "x"}, "pass either a file system or"),
        (lambda: fsspec.filesystem("http", asynchronous=True), None, "asynchronous=True"),
    ],
)
def test_a_file_system_that_no_store_can_use_is_refused(system, options, said):
    with pytest.raises(InvalidRootError, match=said):
        open_remote("bucket/x", options, filesystem=system())


def test_a_location_is_a_url_without_a_password():
    store = FsspecStore("ftp://someone:c2VjcmV0@host/folder/")
    assert store.location() == "ftp://host/folder"
    assert store.child("a").location("b/c") == "ftp://host/folder/a/b/c"
    assert FsspecStore("abfs://container@account.dfs.core.windows.net/x").location().count("@") == 1
    assert FsspecStore("bucket/x", filesystem=MemoryFileSystem()).location("y") == "memory:///bucket/x/y"


def test_options_may_be_given_by_protocol(weed):
    store = open_fast(weed.url(new_bucket(weed)), {"s3": weed.storage_options})
    store.put("name", b"content")
    assert open_plain(store.location(), {"s3": weed.storage_options}).get("name") == b"content"


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


# Secrets --------------------------------------------------------------------------------------------------------------

SECRET = "c2VjcmV0/+that+nobody+may+see=="


@BOTH
def test_a_store_shows_nothing_of_its_options(opened):
    store = opened("s3://bucket/x", {"key": "k" * 20, "secret": SECRET, "endpoint_url": "http://127.0.0.1:1"})
    for each in (store, store.child("y")):
        assert repr(each) == f"{type(store).__name__}({each.location()!r})"
        assert str(each) == repr(each)
        with pytest.raises(TypeError, match="a store is not pickled") as caught:
            pickle.dumps(each)
        assert SECRET not in str(caught.value)


@BOTH
@pytest.mark.parametrize(
    "changed", [{"secret": SECRET}, {"key": SECRET}, {"token": SECRET}], ids=["secret", "key", "token"]
)
def test_wrong_credentials_are_denied_and_not_told(weed, caplog, opened, changed):
    caplog.set_level(logging.DEBUG, "hf_audio_cache")
    store = opened(weed.url(new_bucket(weed)), {**weed.storage_options, **changed})
    errors = [store.get_many(["a"])[0], store.put_many({"a": b"content"})["a"]]
    with pytest.raises(StoreError) as caught:
        list(store.scan())
    for error in (*errors, caught.value):
        assert error.kind == "denied"
        assert error.__cause__ is not None
        told = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)
        assert SECRET not in told
        assert weed.credentials["secret"] not in told
    assert store.exists_many(["a"]) == [False]
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"could not sign with {SECRET}", "could not sign with …"),
        ("GET https://host/b/x?X-Amz-Signature=abc&y=1 failed", "GET https://host/b/x?… failed"),
        ("ftp://someone:word@host/x", "ftp://host/x"),
        ("header Bearer ya29.abc here", "header … here"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=AKIA/2026, Signature=abc", "Authorization: … …"),
        ("sv=2021&sig=abc%3D&se=1", "sv=2021&…&se=1"),
        ("key aGVsbG8gd29ybGQ= of the connection string", "key … of the connection string"),
        ("http://127.0.0.1:1 in us-east-1 does not answer", "http://127.0.0.1:1 in us-east-1 does not answer"),
        ("the token of the environment: from-the-environment", "the token of the environment: …"),
    ],
)
def test_what_is_secret_is_cut_out(monkeypatch, text, clean):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "from-the-environment")
    redact = Redactor(
        {
            "secret": SECRET,
            "client_kwargs": {"endpoint_url": "http://127.0.0.1:1", "region_name": "us-east-1"},
            "connection_string": "AccountName=account;AccountKey=aGVsbG8gd29ybGQ=;BlobEndpoint=http://127.0.0.1:1",
        }
    )
    assert redact(text) == clean


def test_an_error_that_quotes_a_secret_is_not_kept_as_the_cause():
    inner = ValueError(f"no {SECRET}")
    outer = RuntimeError("failed")
    outer.__cause__ = inner
    error = store_error("read", "s3://b/x", "x", outer, Redactor({"secret": SECRET}))
    assert SECRET not in "".join(traceback.format_exception(error))
    assert str(error) == "could not read s3://b/x: RuntimeError: failed"
    assert store_error("read", "s3://b/x", "x", outer, Redactor({})).__cause__ is outer


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["seaweedfs", "rclone_s3", "fake_gcs", "azurite"])
def test_no_bucket_is_told_from_no_object(started, name):
    server = started(name)
    store = FsspecStore(server.url("nobucket", "root"), server.storage_options)
    assert not store.exists("a")
    assert store.delete(["a"]) == {}
    [found] = store.get_many(["a"])
    # Of gcsfs' error only its class is left.
    assert getattr(found, "kind", None) == (None if name == "fake_gcs" else "no bucket")
    if name != "seaweedfs":  # which makes the bucket
        assert store.put_many({"a": b"content"})["a"].kind == "no bucket"


@pytest.mark.parametrize("name", ["seaweedfs", "rclone_s3", "azurite"])
def test_no_bucket_is_told_from_no_object_by_obstore(started, name):
    server = started(name)
    store = open_fast(server.url("no-bucket", "root"), server.storage_options)
    assert not store.exists("a")
    assert store.delete(["a"]) == {}
    [found] = store.get_many(["a"])
    assert found.kind == "no bucket"
    if name != "seaweedfs":
        assert store.put_many({"a": b"content"})["a"].kind == "no bucket"
        with contextlib.suppress(StoreError):
            assert list(store.scan()) == []


NAMES = [f"{i:02x}/name" for i in range(64)]
CONTENTS = [bytes([i]) * 20_000 for i in range(64)]


@contextlib.contextmanager
def before(server, opened, **times):
    """Give a store through a proxy, and the proxy."""
    bucket = new_bucket(server)
    for name, content in zip(NAMES, CONTENTS, strict=True):
        server.write(bucket, f"root/{name}", content)
    with FaultProxy(server.port) as proxy:
        store = opened(server.url(bucket, "root"), server.storage_options_at(proxy.port), **times)
        assert store.get("00/name") == CONTENTS[0]
        yield store, proxy


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
            assert store.exists_many(["00/name"]) == [False]
            with pytest.raises(StoreError, match="could not list") as caught:
                list(store.scan())
            assert caught.value.kind == "denied"
        assert store.get("00/name") == CONTENTS[0]


# Not GCS by obstore: fake-gcs-server takes its uploads in the contract alone, through `XmlUploads`.
WAYS = pytest.mark.parametrize(
    ("name", "opened"),
    [
        pytest.param(name, opened, id=f"{name}-{'fsspec' if opened is open_plain else 'obstore'}")
        for name, opened in itertools.product(("seaweedfs", "fake_gcs", "azurite"), (open_plain, open_fast))
        if (name, opened) != ("fake_gcs", open_fast)
    ],
)


@WAYS
def test_a_short_answer_does_not_pass_for_an_object(started, opened, name):
    with before(started(name), opened, read_timeout=2.0) as (store, proxy):
        with proxy.inflicting(Fault("truncate", 0.5)):
            got = store.get_many(NAMES[:8])
        assert proxy.inflicted["truncate"] > 0
        for i, found in enumerate(got):
            assert found == CONTENTS[i] or found.kind == "unreachable"


@BOTH
def test_one_object_that_fails_does_not_fail_the_others(weed, opened):
    with before(weed, opened, read_timeout=2.0) as (store, proxy):
        for kind in ("reset", "hang"):
            with proxy.inflicting(Fault(kind, methods=("GET", "PUT"), containing="07/name")):
                got = store.get_many(NAMES)
                failed = store.put_many(dict.fromkeys(NAMES[:20], b"new")) if kind == "reset" else {}
            assert [i for i, found in enumerate(got) if isinstance(found, StoreError)] == [7]
            assert got[7].kind == "unreachable"
            assert [error.kind for error in failed.values()] == ["unreachable"] * (kind == "reset")


# Seconds, of which a busy machine may need many; to wait for each of 64 objects, or for a driver's own time-outs, takes
# longer.
SOON = 20


def timed(function, *arguments):
    started = time.monotonic()
    result = function(*arguments)
    return result, time.monotonic() - started


def assert_unreachable(errors):
    assert len(errors) == len(NAMES)
    for error in errors:
        assert isinstance(error, StoreError)
        assert error.kind == "unreachable"


@WAYS
def test_a_server_that_hangs_costs_one_time_out(started, opened, name, monkeypatch):
    monkeypatch.setattr(fsspec_store, "_LISTING_TAKES", 2)
    with before(started(name), opened, read_timeout=1.0) as (store, proxy):
        with proxy.inflicting(Fault("hang")):
            got, took = timed(store.get_many, NAMES)
            assert_unreachable(got)
            assert 0.9 < took < SOON
            if name == "seaweedfs":
                for ask in (lambda names: store.put_many(dict.fromkeys(names, b"new")), store.delete):
                    failed, took = timed(ask, NAMES)
                    assert_unreachable(list(failed.values()))
                    assert took < SOON
                found, took = timed(store.exists_many, NAMES)
                assert found == [False] * 64
                assert took < SOON
                with pytest.raises(StoreError, match="could not list") as caught:
                    list(store.scan())
                assert caught.value.kind == "unreachable"
        assert store.get_many(NAMES[:8]) == CONTENTS[:8]  # it answers again


@WAYS
def test_a_server_that_is_gone_is_soon_known(started, opened, name):
    with before(started(name), opened, read_timeout=1.0) as (store, proxy):
        proxy.refuse()
        got, took = timed(store.get_many, NAMES)
        assert_unreachable(got)
        assert took < SOON
        failed = store.put_many(dict.fromkeys(NAMES, b"new")) if name == "seaweedfs" else {}
        assert {error.kind for error in failed.values()} <= {"unreachable"}
        proxy.listen()
        assert store.get("01/name") == CONTENTS[1]


def test_a_host_without_an_address_is_unreachable():
    options = {"key": "k", "secret": "s", "endpoint_url": "http://no-such-host.invalid"}
    for opened in (open_plain, open_fast):
        [error] = opened("s3://bucket/x", options, read_timeout=2.0).get_many(["a"])
        assert error.kind == "unreachable"


def test_no_credentials_at_all_are_denied():
    [error] = FsspecStore("s3://bucket/x", {"endpoint_url": "http://127.0.0.1:1"}).get_many(["a"])
    assert error.kind == "denied"
    assert "NoCredentialsError" in str(error)


def test_options_that_the_driver_refuses_are_an_error_of_each_object():
    store = FsspecStore("s3://bucket/x", {"key": "k", "secret": SECRET, "max_concurrency": 0, "endpoint_url": "x"})
    got = store.get_many(["a", "b"])
    assert [type(error) for error in got] == [StoreError] * 2
    assert "the file system could not be opened" in str(got[0])
    assert got[1].name == "b"
    store = FsspecStore("gs://bucket/x", {"token": "/no/such/file.json", "project": "p"})
    assert isinstance(store.get_many(["a"])[0], StoreError)  # and not None: the missing file is not the object's


QUIET = """
    import json, sys, time
    arguments = json.loads(sys.argv[1])
    sys.path[:0] = arguments["path"]
    import servers  # what it sets for gcsfs
    from hf_audio_cache.stores.remote.fsspec_store import FsspecStore
    names = [f"{i}/name" for i in range(50)]
    for url, options in arguments["stores"]:
        store = FsspecStore(url, options, read_timeout=0.4)
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


def made(name, bases=(Exception,), module="x", **fields):
    error = type(name, bases, {"__module__": module})("said")
    for field, value in fields.items():
        setattr(error, field, value)
    return error


def aws(code, status):
    return made("ClientError", response={"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aws("NoSuchBucket", 404), "no bucket"),
        (aws("SlowDown", 503), "throttled"),
        (aws("503", 503), "unreachable"),  # the answer to a HEAD: nothing says that it is for asking too much
        (aws("403", 403), "denied"),
        (aws("ExpiredToken", 400), "denied"),
        (aws("NoSuchKey", 404), None),
        (made("HttpError", code=429), "throttled"),
        (made("HttpError", code=503), "unreachable"),
        (made("HttpError", code="401"), "denied"),
        (made("HttpResponseError", status_code=404, error_code="ContainerNotFound"), "no bucket"),
        (made("HttpResponseError", status_code=503, error_code="ServerBusy"), "throttled"),
        (made("ClientResponseError", status=500), "unreachable"),
        (made("HfHubHTTPError", response=SimpleNamespace(status_code=429)), "throttled"),
        (
            made(
                "RepositoryNotFoundError",
                module="huggingface_hub.errors",
                response=SimpleNamespace(status_code=401),
            ),
            "no bucket",
        ),
        (OSError("Forbidden: b/x\nsaid"), "denied"),  # gcsfs
        (ConnectionResetError(), "unreachable"),
        (TimeoutError(), "unreachable"),
        (asyncio.TimeoutError(), "unreachable"),
        (concurrent.futures.TimeoutError(), "unreachable" if sys.version_info >= (3, 11) else ""),
        (PermissionError(), "denied"),
        (FileNotFoundError("x"), None),
        (ValueError("x"), ""),
        (OSError(28, "No space left"), ""),
        (NotImplementedError(), ""),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}" if isinstance(value, Exception) else str(value),
)
def test_what_drivers_raise_has_a_kind(error, kind):
    assert kind_of(error) == (kind or "")
    assert is_missing(error) is (kind is None)
    wrapped = OSError("said")
    wrapped.__cause__ = error
    assert kind_of(wrapped) == (kind or "")


def test_the_classes_that_are_known_by_name_are_there():
    import importlib

    from hf_audio_cache.stores.remote import errors

    absent = []
    for path in errors._CLASSES:
        module, _, name = path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            absent.append(path)
        else:
            assert issubclass(found, BaseException)
            assert f"{found.__module__}.{found.__qualname__}" in (path, "builtins.TimeoutError")
    assert set(absent) <= {"httpx.TransportError", "huggingface_hub.errors.BucketNotFoundError"}  # of the latest Hub


# Batches --------------------------------------------------------------------------------------------------------------


class CountingFileSystem(AsyncFileSystem):
    """One that says how many are asked for at once, and hangs or breaks where it is told to."""

    protocol = "counting"
    cachable = False

    def __init__(self, **options):
        super().__init__(**options)
        self.running = self.most = self.asked = 0
        self.answer = "content"
        self.seconds = 0.02

    async def _cat_file(self, path, **_):
        self.asked += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.answer == "hang":
                await asyncio.sleep(60)
            if self.answer == "refuse":
                raise ConnectionRefusedError("refused")
            await asyncio.sleep(self.seconds)
            return path.encode()
        finally:
            self.running -= 1


def test_objects_are_read_at_once_up_to_a_bound():
    system = CountingFileSystem()
    store = FsspecStore("root", filesystem=system, concurrency=8)
    names = [f"{i}" for i in range(64)]
    assert store.get_many(names) == [f"root/{name}".encode() for name in names]
    assert system.most == 8


def test_a_hanging_batch_is_given_up_after_its_first_objects():
    system = CountingFileSystem()
    system.answer = "hang"
    store = FsspecStore("root", filesystem=system, concurrency=8, read_timeout=0.3, connect_timeout=0.2)
    got, took = timed(store.get_many, NAMES)
    assert_unreachable(got)
    assert took < SOON
    assert system.asked == 8
    assert system.running == 0
    assert "no answer in 0.3 s" in str(got[0])
    assert "not asked, since" in str(got[-1])


def test_a_refusing_batch_is_given_up_after_as_many_as_run_at_once():
    system = CountingFileSystem()
    system.answer = "refuse"
    store = FsspecStore("root", filesystem=system, concurrency=8)
    got = store.get_many(NAMES)
    assert_unreachable(got)
    assert 8 <= system.asked < 32


@pytest.fixture
def interruptible():
    """What is begun in the background of a shell takes no interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_a_batch():
    system = CountingFileSystem()
    system.answer = "hang"
    store = FsspecStore("root", filesystem=system)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        store.get_many(NAMES)
    until = time.monotonic() + 5
    while system.running and time.monotonic() < until:
        time.sleep(0.01)
    assert system.running == 0


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


class BlockingFileSystem(MemoryFileSystem):
    """One without a loop that hangs where it is told to, and says how many threads are in it."""

    protocol = "blocking"
    cachable = False
    hangs = threading.Event()
    lock = threading.Lock()
    running = most = 0
    made = 0

    def __init__(self, **options):
        super().__init__(**options)
        type(self).made += 1

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("blocking://").strip("/")

    def cat_file(self, path, **options):
        with self.lock:
            type(self).running += 1
            type(self).most = max(self.most, self.running)
        try:
            while self.hangs.is_set():
                time.sleep(0.01)
            time.sleep(0.001)
            return super().cat_file(path, **options)
        finally:
            with self.lock:
                type(self).running -= 1


@pytest.fixture
def blocking():
    fsspec.register_implementation("blocking", BlockingFileSystem, clobber=True)
    yield BlockingFileSystem
    BlockingFileSystem.hangs.clear()
    while BlockingFileSystem.running:  # a thread that was left behind
        time.sleep(0.01)
    MemoryFileSystem.store.clear()


def test_a_file_system_that_blocks_is_left_and_made_again(blocking):
    store = FsspecStore("blocking://root", read_timeout=0.3, connect_timeout=0.2)
    store.put_many(dict.fromkeys(NAMES, b"content"))
    made_before = blocking.made
    blocking.hangs.set()
    assert_unreachable(store.get_many(NAMES))
    blocking.hangs.clear()
    assert store.get_many(NAMES) == [b"content"] * 64
    assert blocking.made == made_before + 1


def test_a_file_system_without_a_loop_is_used_by_one_thread_at_a_time(blocking):
    store = FsspecStore("blocking://root")
    store.put_many(dict.fromkeys(NAMES, b"content"))
    blocking.most = 0
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        for got in threads.map(store.get_many, [NAMES[:16]] * 4):
            assert got == [b"content"] * 16
    assert blocking.most == 1


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


# Listings -------------------------------------------------------------------------------------------------------------


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
        assert proxy.requests["GET"] <= 5
        assert list(store.names("02/")) == ["02/y"]
        assert store.delete([*objects][20:]) == {}
    assert weed.names(bucket) == sorted(f"root/{name}" for name in ("00", *[*objects][:20]))


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


# Forks ----------------------------------------------------------------------------------------------------------------


def in_fork(function, *arguments, seconds=20):
    """Return what `function` returns in a forked child, in time."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = start_child(lambda: sender.send(function(*arguments)))
    try:
        assert receiver.poll(seconds), "the child hangs"
        result = receiver.recv()
        process.join(seconds)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
    return result


def use(store):
    got = store.get_many(NAMES[:16])
    failed = store.put_many({f"child/{os.getpid()}": b"content"})
    return got, failed, store.exists_many(NAMES[:2]), sorted(store.names("0")), store.delete([NAMES[16]])


@BOTH
@pytest.mark.parametrize("used_before", [True, False])
def test_a_forked_child_reads_and_writes_as_its_parent_did(weed, opened, used_before):
    bucket = new_bucket(weed)
    store = opened(weed.url(bucket, "root"), weed.storage_options)
    for name, content in zip(NAMES[:17], CONTENTS, strict=False):
        weed.write(bucket, f"root/{name}", content)
    if used_before:
        assert store.get_many(NAMES[:17]) == CONTENTS[:17]
    for _ in range(2):
        assert in_fork(use, store) == (CONTENTS[:16], {}, [True, True], NAMES[:16], {})
    assert store.get_many(NAMES[:17]) == [*CONTENTS[:16], None]


def test_a_forked_child_does_not_use_what_its_parent_used(weed):
    store = open_fast(weed.url(new_bucket(weed)), weed.storage_options)
    store.put("name", b"content")
    assert not obstore_store._is_forked
    assert in_fork(lambda: (store.get("name"), obstore_store._is_forked)) == (b"content", True)


def test_a_file_system_of_a_user_is_made_again_in_a_forked_child(weed):
    system = fsspec.filesystem("s3", **weed.storage_options)
    store = FsspecStore(weed.url(new_bucket(weed)), filesystem=system)
    store.put("name", b"content")
    assert store._files.open().system is system

    def look():
        return store.get("name"), store._files.open().system is system

    assert in_fork(look) == (b"content", False)


# obstore's words ------------------------------------------------------------------------------------------------------

KEY = {"key": "k", "secret": "s"}
HERE = {"endpoint_url": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("root", "options", "environment", "kind", "config", "client"),
    [
        ("s3://b/x/y", {**KEY, **HERE}, {}, "S3Store", {"access_key_id": "k", "endpoint": HERE["endpoint_url"]}, True),
        ("s3://b", {**KEY, "client_kwargs": {**HERE, "region_name": "r"}}, {}, "S3Store", {"region": "r"}, True),
        ("s3a://b", {**KEY, "token": "t"}, {"AWS_DEFAULT_REGION": "r"}, "S3Store", {"session_token": "t"}, False),
        ("s3://b", {"anon": True, **HERE}, {}, "S3Store", {"skip_signature": True, "region": "us-east-1"}, True),
        ("s3://b", {"anon": False}, {"AWS_REGION": "r"}, "S3Store", {"region": "r"}, False),
        ("s3://b", None, {"AWS_ENDPOINT_URL": "https://h"}, "S3Store", {"endpoint": "https://h"}, False),
        (
            "s3://b",
            {**KEY, **HERE, "use_ssl": False, "config_kwargs": {"s3": {"addressing_style": "path"}}},
            {"AWS_CA_BUNDLE": "/x"},
            "S3Store",
            {"virtual_hosted_style_request": False},
            True,
        ),
        ("gs://b/x", {"token": "anon", "project": "p", **HERE}, {}, "GCSStore", {"skip_signature": True}, True),
        ("gcs://b", {"token": {"type": "service_account", "private_key": "p"}}, {}, "GCSStore", {}, False),
        ("az://b", {"account_name": "a", "account_key": "k"}, {}, "AzureStore", {"account_key": "k"}, False),
        ("abfs://b", {"account_name": "a", "sas_token": "?sig=s"}, {}, "AzureStore", {"sas_key": "sig=s"}, False),
        ("az://b", {"account_name": "a", "anon": True}, {}, "AzureStore", {"skip_signature": True}, False),
        (
            "abfss://b@a.dfs.core.windows.net/x",
            {"account_key": "k"},
            {},
            "AzureStore",
            {"account_name": "a"},
            False,
        ),
        (
            "az://b",
            None,
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=k==;EndpointSuffix=core.x.cn"},
            "AzureStore",
            {"account_name": "a", "account_key": "k==", "endpoint": "https://a.blob.core.x.cn"},
            False,
        ),
    ],
)
def test_options_in_the_words_of_obstore(tmp_path, root, options, environment, kind, config, client):
    target = translate(root, options, {"HOME": str(tmp_path), **environment})
    assert (target.kind, target.bucket, target.prefix) == (
        kind,
        "b",
        root.partition("://")[2].partition("/")[2],
    )
    assert config.items() <= target.config.items()
    assert target.client_options == ({"allow_http": True} if client else {})
    assert "secret_access_key" not in repr(target)


@pytest.mark.parametrize(
    ("root", "options", "environment", "said"),
    [
        ("hf://datasets/a/b", {}, {}, "not used for hf://"),
        ("s3://b", {**KEY, **HERE, "profile": "p"}, {}, "option profile"),
        ("s3://b", {**KEY, **HERE, "requester_pays": True, "zzz": 1}, {}, "option requester_pays, zzz"),
        ("s3://b", {**KEY, "client_kwargs": {**HERE, "verify": False}}, {}, "client option verify"),
        ("s3://b", {**KEY, **HERE, "config_kwargs": {"proxies": {}}}, {}, "proxies in config_kwargs"),
        ("s3://b", {**HERE, "key": "k"}, {}, "only part of a key"),
        ("s3://b", {**HERE, "token": "t"}, {}, "only part of a key"),
        ("s3://b", KEY, {}, "neither an endpoint nor a region"),
        ("s3://b", HERE, {"AWS_PROFILE": "p"}, "AWS_PROFILE"),
        ("s3://b", {**KEY, **HERE}, {"AWS_SESSION_TOKEN": "t"}, "session token of the environment"),
        ("s3://b", {**KEY, **HERE}, {"AWS_ENDPOINT": "h"}, "AWS_ENDPOINT"),
        ("s3://b", {**KEY}, {"AWS_CA_BUNDLE": "/x", "AWS_REGION": "r"}, "AWS_CA_BUNDLE"),
        ("s3://b", None, {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"),
        ("s3://b/a b", {**KEY, **HERE}, {}, "characters besides letters"),
        ("s3://u@b/x", {**KEY, **HERE}, {}, "has a user"),
        ("gs://b", {}, {}, "no token is given"),
        ("gs://b", {"token": "google_default"}, {}, "no token is given"),
        ("gs://b", {"token": {"type": "authorized_user"}}, {}, "not one of a service account"),
        ("gs://b", {"token": "anon"}, {"STORAGE_EMULATOR_HOST": "http://x"}, "STORAGE_EMULATOR_HOST"),
        ("az://b", {"account_name": "a"}, {}, "neither a key nor a signature"),
        ("az://b", {}, {}, "no account"),
        ("az://b", {"account_name": "a", "account_key": "k", "client_id": "c"}, {}, "option client_id"),
        ("az://b", {"connection_string": "AccountName=a;AccountKey=k;QueueEndpoint=q"}, {}, "QueueEndpoint"),
    ],
)
def test_options_without_an_equal_are_named(tmp_path, root, options, environment, said):
    with pytest.raises(NoEquivalentError, match=said):
        translate(root, options, {"HOME": str(tmp_path), **environment})


@pytest.mark.parametrize("name", ["config", "credentials"])
def test_files_of_the_aws_tools_are_left_to_s3fs(tmp_path, name):
    environment = {"HOME": str(tmp_path), "AWS_REGION": "r"}
    translate("s3://b", None, environment)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / name).write_text("")
    with pytest.raises(NoEquivalentError, match="no files of the AWS tools"):
        translate("s3://b", None, environment)
    translate("s3://b", {**KEY, **HERE}, environment)


def test_why_obstore_is_not_used_is_said_once_and_without_values(caplog):
    caplog.set_level(logging.INFO, opening.__name__)
    opening._say_once.cache_clear()
    for _ in range(3):
        store = open_remote("s3://bucket/x", {"key": "k", "secret": SECRET, "profile": "someone", **HERE})
    assert type(store) is FsspecStore
    assert caplog.messages == [
        "s3://bucket/x is reached through fsspec: obstore has no equivalent for the option profile",
    ]


def test_without_obstore_fsspec_is_used(monkeypatch, caplog):
    caplog.set_level(logging.INFO, opening.__name__)
    opening._say_once.cache_clear()
    find_spec = opening.importlib.util.find_spec
    monkeypatch.setattr(
        opening.importlib.util, "find_spec", lambda name: None if name == "obstore" else find_spec(name)
    )
    assert type(open_remote("s3://bucket/x", {**KEY, **HERE})) is FsspecStore
    assert "is not installed" in caplog.text


def test_an_obstore_that_cannot_be_set_up_is_not_used(weed, caplog):
    caplog.set_level(logging.INFO, obstore_store.__name__)
    bucket = new_bucket(weed)
    plain = FsspecStore(weed.url(bucket), weed.storage_options)
    target = translate(weed.url(bucket), weed.storage_options)
    store = ObstoreStore(plain, type(target)(target.kind, bucket, "", {"no_such_setting": SECRET}, {}))
    store.put("name", b"content")
    assert store.get("name") == b"content"
    assert "cannot be set up" in caplog.text
    assert SECRET not in caplog.text

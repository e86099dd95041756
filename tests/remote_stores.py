"""What the tests of remote stores share: how one is opened, its contract, and file systems that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import threading
import time

import pytest
from children import start_child
from fault_proxy import FaultProxy
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from store_contract import StoreContract

from hf_audio_cache.errors import StoreError
from hf_audio_cache.stores.remote.fsspec_store import FsspecStore
from hf_audio_cache.stores.remote.obstore_store import ObstoreStore
from hf_audio_cache.stores.remote.open import open_remote

_numbers = itertools.count()


def new_bucket(server):
    bucket = f"bucket-{next(_numbers)}"
    server.make_bucket(bucket)
    return bucket


def open_plain(url, options, **times):
    return FsspecStore(url, options, **times)


def open_fast(url, options, **times):
    store = open_remote(url, options, **times)
    assert type(store) is ObstoreStore
    return store


BOTH = pytest.mark.parametrize("opened", [open_plain, open_fast], ids=["fsspec", "obstore"])


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
        # Long times: a busy machine keeps a server from answering.
        return self.opened(url, self.server.storage_options, timeouts=(30.0, 60.0))

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


SECRET = "c2VjcmV0/+that+nobody+may+see=="


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


KEY = {"key": "k", "secret": "s"}


HERE = {"endpoint_url": "http://127.0.0.1:1"}

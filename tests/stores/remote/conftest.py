"""Servers for the tests of remote stores, and an environment that names none."""

from __future__ import annotations

import contextlib
import functools
import os
import time

import fsspec
import pytest
import servers
from fsspec.implementations.memory import MemoryFileSystem
from remote_stores import BlockingFileSystem

SHARED = {"seaweedfs": "s3_server", "fake_gcs": "gcs_server"}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR")):
            monkeypatch.delenv(name)
    # Else botocore looks for a machine's own role, where a test has no credentials.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def started(request, tmp_path_factory):
    """``started(name)``: that server, started when first asked for."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(name):
            if name in SHARED:
                return request.getfixturevalue(SHARED[name])
            return stack.enter_context(getattr(servers, name)(tmp_path_factory.mktemp(name)))

        yield start


@pytest.fixture
def weed(s3_server):
    return s3_server


@pytest.fixture
def blocking():
    fsspec.register_implementation("blocking", BlockingFileSystem, clobber=True)
    yield BlockingFileSystem
    BlockingFileSystem.hangs.clear()
    while BlockingFileSystem.running:  # a thread that was left behind
        time.sleep(0.01)
    MemoryFileSystem.store.clear()

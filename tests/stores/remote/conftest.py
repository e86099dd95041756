"""Servers for the tests of remote stores, and an environment that names none."""

from __future__ import annotations

import contextlib
import os
import time

import fsspec
import pytest
import servers
from fsspec.implementations.memory import MemoryFileSystem
from remote_stores import BlockingFileSystem


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


@pytest.fixture
def weed(started):
    return started("seaweedfs")


@pytest.fixture
def blocking():
    fsspec.register_implementation("blocking", BlockingFileSystem, clobber=True)
    yield BlockingFileSystem
    BlockingFileSystem.hangs.clear()
    while BlockingFileSystem.running:  # a thread that was left behind
        time.sleep(0.01)
    MemoryFileSystem.store.clear()

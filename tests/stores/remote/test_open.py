"""Which client a far root gets."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap

import pytest
from remote_stores import HERE, KEY, SECRET

from hf_audio_cache.stores.remote import open as opening
from hf_audio_cache.stores.remote.fsspec_store import FsspecStore
from hf_audio_cache.stores.remote.open import open_remote

pytestmark = pytest.mark.servers


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


def test_why_obstore_is_not_used_is_said_once_and_without_values(caplog):
    caplog.set_level(logging.INFO, opening.__name__)
    opening._say_once.cache_clear()
    for _ in range(3):
        store = open_remote("s3://bucket/x", {"key": "k", "secret": SECRET, "profile": "someone", **HERE})
    assert type(store) is FsspecStore
    assert caplog.messages == [
        "s3://bucket/x is reached through fsspec: obstore has no equivalent for the option profile"
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

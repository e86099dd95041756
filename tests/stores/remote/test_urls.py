"""Which URLs, options and file systems can be a far root."""

from __future__ import annotations

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from remote_stores import new_bucket, open_fast, open_plain

from hf_audio_cache.errors import InvalidRootError
from hf_audio_cache.stores.remote import urls
from hf_audio_cache.stores.remote.fsspec_store import FsspecStore
from hf_audio_cache.stores.remote.open import open_remote

pytestmark = pytest.mark.servers


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

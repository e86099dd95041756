"""`CacheRoot`: an immutable description of a root, which travels without its secrets and opens nothing by itself."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
import socket
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import fsspec
import numpy as np
import pytest
from datasets.fingerprint import Hasher
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from hf_audio_cache import AudioCache, AudioCacheKey, CachedFeatures, CacheRoot, WaveformCache, prune, usage, verify
from hf_audio_cache.cache.open_root import OpenRoot
from hf_audio_cache.errors import InvalidRootError

SECRET = "hunter2hunter2hunter2"
KEY = AudioCacheKey("ab" * 32, "7d865e95" * 8, 16_000, 0)
FEATURES = np.arange(12, dtype=np.float32).reshape(3, 4)


def energy(waveform, sampling_rate):
    return waveform[:100] ** 2


def secret_root(**settings: Any) -> CacheRoot:
    return CacheRoot("s3://bucket/cache", storage_options={"secret": SECRET}, signing_key=SECRET, **settings)


def test_making_one_touches_neither_the_disk_nor_the_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_AUDIO_CACHE_NEAR", str(tmp_path / "near"))

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    roots = [CacheRoot(tmp_path / "root"), CacheRoot("memory://cache", near=tmp_path / "elsewhere")]
    if find_spec("s3fs"):  # else there can be no such root
        roots += [secret_root(), CacheRoot("gs://bucket/cache", near=tmp_path / "elsewhere")]
    for root in roots:
        AudioCache(root)
        OpenRoot(root)
    assert list(tmp_path.iterdir()) == []


def test_it_cannot_be_changed():
    root = CacheRoot("memory://cache")
    with pytest.raises(dataclasses.FrozenInstanceError):
        root.url = "memory://other"


def test_equal_settings_are_equal_and_hash_alike(tmp_path):
    for make in (lambda: CacheRoot(tmp_path), secret_root, lambda: CacheRoot(tmp_path, near=tmp_path / "near")):
        assert make() == make()
        assert hash(make()) == hash(make())
    others = [
        secret_root(),
        secret_root(near=None),
        secret_root(write="near"),
        secret_root(strict=True),
        secret_root(compression=None),
        CacheRoot("s3://bucket/cache", storage_options={"secret": "another"}, signing_key=SECRET),
        CacheRoot("s3://bucket/cache", storage_options={"secret": SECRET}, signing_key=SECRET[::-1]),
        CacheRoot("s3://bucket/cache"),
    ]
    assert len(set(others)) == len(others)


def test_relative_paths_and_home_are_made_absolute(session_home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert CacheRoot("cache", near="near").url == str(tmp_path / "cache")
    assert CacheRoot("cache", near="near").near == str(tmp_path / "near")
    assert CacheRoot("~/cache").url == str(session_home / "cache")


def test_the_default_is_that_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_AUDIO_CACHE", str(tmp_path / "default"))
    assert CacheRoot().url == str(tmp_path / "default")
    assert CachedFeatures(energy, identity="energy", sampling_rate=8000).root == tmp_path / "default"


def test_no_secret_is_shown_pickled_or_hashed():
    root = secret_root(near=None, strict=True)
    for shown in (repr(root), str(root), f"{root!r}"):
        assert SECRET not in shown
    assert "s3://bucket/cache" in repr(root)
    assert "strict=True" in repr(root)
    assert SECRET.encode() not in pickle.dumps(root)
    assert pickle.dumps(root) == pickle.dumps(secret_root(near=None, strict=True))


def test_a_pickle_finds_its_secrets_in_this_process():
    again = pickle.loads(pickle.dumps(secret_root()))
    assert again == secret_root()
    assert again.secret[1].storage_options == {"secret": SECRET}
    assert again.signing_keys.accept(b"content", secret_root().signing_keys.sign(b"content"))


def test_a_pickle_has_no_secret_in_another_process(tmp_path):
    (tmp_path / "root").write_bytes(pickle.dumps(secret_root()))
    program = (
        "import pickle, sys; root = pickle.loads(open(sys.argv[1], 'rb').read()); print(root.url, root.secret[1]);"
        "root.signing_keys.sign(b'')"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "root"], capture_output=True, text=True)
    assert done.stdout.split() == ["s3://bucket/cache", "None"]
    assert "SigningKeyError" in done.stderr


def _options_of(root: CacheRoot, answers: Any) -> None:
    answers.put(root.secret[1].storage_options)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_has_the_secrets(method):
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(target=_options_of, args=(secret_root(), answers))
    child.start()
    assert answers.get(timeout=120) == {"secret": SECRET}
    child.join()


def test_datasets_sees_one_transform_whatever_the_root(tmp_path):
    roots = [
        tmp_path / "one",
        CacheRoot(tmp_path / "two", strict=True, compression=None),
        CacheRoot("memory://three", storage_options={"secret": SECRET}, signing_key=SECRET),
    ]
    made = [CachedFeatures(energy, root, identity="energy", sampling_rate=8000) for root in roots]
    assert len({Hasher.hash(one) for one in made}) == 1


def test_two_filesystems_of_one_type_are_two_roots(tmp_path):
    class Files(MemoryFileSystem):
        cachable = False

        def __init__(self) -> None:
            super().__init__()
            self.store: dict[str, Any] = {}

    first, second = (CacheRoot("folder", filesystem=Files()) for _ in range(2))
    AudioCache(first).put(KEY, FEATURES)
    assert AudioCache(second).get(KEY) is None
    assert np.array_equal(AudioCache(first).get(KEY), FEATURES)


WRONG = {
    "write": ["everywhere"],
    "near_max_bytes": [0, "100GB"],
    "timeouts": [5, (5,), (0, 5)],
    "storage_options": ["key"],
    "compression": ["zip", "", True, 5, ["blosc"]],
    "read_only": ["false", 1],  # as a file of settings gives them
    "strict": ["false", None],
}


def test_a_setting_that_is_invalid_is_refused():
    for name, values in WRONG.items():
        for value in values:
            with pytest.raises(ValueError, match=name):
                CacheRoot("memory://cache", **{name: value})


@pytest.mark.parametrize("near", ["", 3, True, "memory://near", "s3://bucket/near"])
@pytest.mark.parametrize("given", [{}, {"filesystem": fsspec.filesystem("memory")}], ids=["URL", "filesystem"])
def test_a_near_tier_that_is_no_folder_is_refused(near, given):
    with pytest.raises(InvalidRootError, match=rf"^near must be a folder or .* not {near!r}; nothing was opened"):
        CacheRoot("memory://cache", near=near, **given)


def test_a_root_that_is_none_is_refused_without_its_password():
    for url in ("", 3, b"/tmp", "nosuch://bucket/cache", "s3://me:password@bucket/cache"):
        for use in (CacheRoot, AudioCache, WaveformCache, verify, prune):
            with pytest.raises(InvalidRootError, match="nothing was opened") as caught:
                use(url)
            assert "password@" not in str(caught.value)
    for use in (AudioCache, WaveformCache, verify, prune):
        with pytest.raises(InvalidRootError, match="nothing was opened"):
            use(None)


def test_a_path_opens_what_a_plain_cache_root_opens(tmp_path):
    for cache_type in (AudioCache, WaveformCache):
        assert cache_type(CacheRoot(tmp_path)).root == cache_type(tmp_path).root == tmp_path
    AudioCache(tmp_path / "raw").put(KEY, FEATURES)
    AudioCache(CacheRoot(tmp_path / "same", compression=None)).put(KEY, FEATURES)
    AudioCache(CacheRoot(tmp_path / "small")).put(KEY, FEATURES)
    raw, same, small = (AudioCache(tmp_path / name).path_for(KEY).read_bytes() for name in ("raw", "same", "small"))
    assert raw == same != small


def test_settings_of_a_root_hold_for_all_that_opens_it(tmp_path):
    root = CacheRoot(tmp_path, read_only=True)
    cached_features = CachedFeatures(energy, root, identity="energy", sampling_rate=8000)
    cached_features({"audio": {"array": np.zeros(800, np.float32), "sampling_rate": 8000}})
    assert list(tmp_path.iterdir()) == []
    assert (cached_features.stats.computed, cached_features.stats.write_errors) == (1, 0)


def test_maintenance_looks_at_the_root_itself(tmp_path, monkeypatch):
    """What this machine's near tier has, and the root has not, is in no listing."""
    root = CacheRoot(tmp_path / "root", near=tmp_path / "near", write="both")
    open_root = OpenRoot(root)
    open_root.audio_cache.put(KEY, FEATURES)
    (entry,) = (tmp_path / "root").rglob("*.npz")
    assert usage(root).n_entries == verify(root).n_entries == 1
    entry.unlink()
    assert open_root.audio_cache.get(KEY) is not None
    assert usage(root).n_entries == verify(root).n_entries == prune(root, max_bytes=0).n_deleted == 0
    assert OpenRoot.for_maintenance(root).audio_cache.get(KEY) is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3:/bucket/x", "did you mean 's3://bucket/x'"),
        ("s3:bucket/x", "did you mean 's3://bucket/x'"),
        ("GS:/bucket/x", "did you mean 'gs://bucket/x'"),
        ("file:/data/x", "did you mean '/data/x'"),
        ("s4://bucket/x", r"no file system \(did you mean s3://\?\)"),
        ("S3://bucket/x", "did you mean s3"),
        ("qqqqqq://bucket/x", "'qqqqqq', for which fsspec has no file system;"),
        ("s3://", "names no place"),
        ("simplecache::s3://bucket/x", "through a copy"),
        ("{}/file", "must be a folder, and .*/file is a file"),
        ("{}/file/below/it", "lies under .*/file, which is a file"),
        ("{}/link", "must be a folder, and .*/link is a file"),
    ],
)
def test_a_root_that_can_never_work_is_an_error_at_once(url, said, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for make in (CacheRoot, lambda url: CachedFeatures(energy, url, identity="energy", sampling_rate=8000)):
        with pytest.raises(InvalidRootError, match=f"(?i){said}.*nothing was opened"):
            make(url.format(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}


def test_a_near_that_is_a_file_is_an_error_at_once(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InvalidRootError, match=r"near must be a folder, and .* lies under"):
        CacheRoot("s3://bucket/x", near=tmp_path / "file" / "near")


def test_a_root_that_may_work_later_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "not mounted yet")
    for url in ("dangling", "dangling/cache", "no/such/folder", "a:b/c", "data//x", "./s3:/x", "s3/bucket", "~/x"):
        assert CacheRoot(url).url.startswith("/")


def folder_in(path, system):
    return fsspec.filesystem("dir", path=str(path), fs=system)


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_filesystem_of_a_local_folder_is_that_folder(tmp_path, is_nested):
    system = folder_in(tmp_path, LocalFileSystem())
    system = folder_in("inner", system) if is_nested else system
    where = tmp_path / "inner" / "cache" if is_nested else tmp_path / "cache"
    for url in ("cache", "/cache/", "x/../cache"):
        assert CacheRoot(url, filesystem=system).url == str(where)
    cached_features = CachedFeatures(
        energy, CacheRoot("cache", filesystem=system), identity="energy", sampling_rate=8000
    )
    waveform = np.linspace(-1, 1, 8000, dtype=np.float32)
    found = cached_features({"audio": {"array": waveform, "sampling_rate": 8000}})["input_features"]
    assert cached_features.root == where
    assert len(list(where.glob("features/*/*.npz"))) == 1
    again = CachedFeatures(energy, where, identity="energy", sampling_rate=8000)
    assert np.array_equal(again({"audio": {"array": waveform, "sampling_rate": 8000}})["input_features"], found)
    assert again.stats.hits == 1
    with pytest.raises(InvalidRootError, match="leads out of"):
        CacheRoot("x/../../cache", filesystem=system)


def use(root, n_hits):
    cached_features = CachedFeatures(energy, root, identity="energy", sampling_rate=8000)
    cells = [{"array": np.full(8000, number / 10, np.float32), "sampling_rate": 8000} for number in range(4)]
    cached_features({"audio": cells})
    stats = cached_features.stats
    return stats.hits == n_hits and stats.read_errors == stats.write_errors == 0


def test_a_filesystem_of_a_folder_that_is_not_local_works(monkeypatch):
    memory = MemoryFileSystem()
    root = CacheRoot("cache", filesystem=folder_in("/of-a-dir", memory))
    assert use(root, 0)
    assert use(root, 4)
    assert len(memory.glob("/of-a-dir/cache/features/*/*.npz")) == 4

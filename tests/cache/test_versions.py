"""What a later release wrote is a miss for this one, and stays."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import entry_tools
import numpy as np
import pytest
import xxhash

from hf_audio_cache import (
    AudioCache,
    AudioCacheKey,
    CachedFeatures,
    CacheRoot,
    WaveformCache,
    WaveformCacheKey,
    prune,
    verify,
)
from hf_audio_cache.cache.entry import open_entry
from hf_audio_cache.cache.open_root import OpenRoot
from hf_audio_cache.cache.processor_manifest import Manifest, read_manifest
from hf_audio_cache.errors import StoreError, UnknownVersionError
from hf_audio_cache.maintenance.transfer import copy_entries
from hf_audio_cache.stores import LocalStore

SIGNING_KEY = "a-key-of-sixteen-bytes-or-more"
BLOB, PROCESSOR = "ab" * 32, "7d865e95" * 8
WAVEFORM = np.linspace(-1, 1, 99, dtype=np.float32)
AUDIO = {"audio": {"array": np.linspace(-0.5, 0.5, 800, dtype=np.float32), "sampling_rate": 8000}}

KINDS = {
    "features": (AudioCache, AudioCacheKey(BLOB, PROCESSOR, 8000, 0)),
    "waveforms": (WaveformCache, WaveformCacheKey(BLOB, 8000, 0)),
}


def energy(waveform, sampling_rate):
    return waveform**2


def from_the_future(content: bytes, name: str, root: CacheRoot) -> bytes:
    """Return an entry of this version as one of version 2, whose manifest says other things, too."""
    body = entry_tools.split(content)[0]
    text = json.dumps({"version": 2, "later": [1, 2, 3]}, separators=(",", ":")).encode()
    if root.signing_keys is None:
        return entry_tools.seal(body, text)
    body = body[:-2] + (16 + len(text) + 64).to_bytes(2, "little")
    signed = body + xxhash.xxh3_64_hexdigest(body + text).encode() + text
    return signed + root.signing_keys.sign(name.encode() + b"\0" + signed)


@dataclass
class Case:
    """A root with one entry of a later version."""

    root: CacheRoot
    cache: Any
    key: Any
    path: Path
    content: bytes

    def read(self) -> Any:
        return self.cache.get(self.key)

    def is_as_it_was(self) -> bool:
        return self.path.read_bytes() == self.content


@pytest.fixture(params=[(kind, key) for kind in KINDS for key in (None, SIGNING_KEY)], ids=str)
def case(request, tmp_path):
    kind, signing_key = request.param
    root = CacheRoot(tmp_path, signing_key=signing_key)
    cache, key = OpenRoot(root).caches[kind], KINDS[kind][1]
    path = cache.put(key, WAVEFORM)
    content = from_the_future(path.read_bytes(), key.name(), root)
    path.write_bytes(content)
    return Case(root, cache, key, path, content)


def test_it_is_a_miss_counted_apart_and_stays(case, caplog):
    assert case.read() is None
    stats = case.cache.stats
    assert (stats.unknown_versions, stats.bad_entries, stats.unsigned_entries) == (1, 0, 0)
    assert case.is_as_it_was()
    assert "a later release wrote it, in version 2 of the format" in caplog.text
    assert len(caplog.records) == 1


def test_the_error_has_a_class_of_its_own(case):
    with pytest.raises(UnknownVersionError, match="version 2"):
        open_entry(case.content, case.key)


def test_no_put_replaces_it(case):
    new = type(case.cache)(case.root, store=case.cache._store)  # has not seen it before
    new.put(case.key, WAVEFORM)
    assert case.is_as_it_was()
    assert not new.put_many({case.key: {"waveform": WAVEFORM}})
    assert case.is_as_it_was()
    assert new.stats.write_errors == 0
    case.read()
    [error] = case.cache.store_many({case.key: {"waveform": WAVEFORM}})
    assert error.kind == "later version"
    assert case.is_as_it_was()


def test_others_are_stored_beside_it(case):
    other = type(case.key)(**{**vars(case.key), "max_length_ms": 5})
    assert not case.cache.put_many({case.key: {"waveform": WAVEFORM}, other: {"waveform": WAVEFORM}})
    assert np.array_equal(case.cache.get(other), WAVEFORM)
    assert case.is_as_it_was()


def test_verify_reports_it_apart_and_a_repair_leaves_it(case):
    report = verify(case.root, repair=True)
    name = str(case.path.relative_to(case.root.url))
    assert report.unknown_versions == [name]
    assert report.is_clean
    assert (report.n_entries, report.n_deleted) == (1, 0)
    assert case.is_as_it_was()


def test_who_asks_for_it_may_delete_it(case):
    assert prune(case.root, max_bytes=0).n_deleted == 1
    assert not case.path.exists()


def test_it_is_not_copied_unchecked(case, tmp_path):
    report = copy_entries(case.root, tmp_path / "other", waveforms=True)
    assert (report.n_entries, report.n_refused) == (0, 1)


def test_a_damaged_one_is_damaged(case):
    case.path.write_bytes(case.content[:40] + b"?" + case.content[41:])
    assert case.read() is None
    assert case.cache.stats.unknown_versions == 0


def test_a_stranger_cannot_keep_a_signed_root_from_storing(tmp_path):
    root = CacheRoot(tmp_path, signing_key=SIGNING_KEY)
    cache, key = OpenRoot(root).audio_cache, KINDS["features"][1]
    path = cache.put(key, WAVEFORM)
    path.write_bytes(from_the_future(path.read_bytes(), key.name(), CacheRoot(tmp_path)))
    assert cache.get(key) is None
    assert (cache.stats.unsigned_entries, cache.stats.unknown_versions) == (1, 0)
    cache.put(key, WAVEFORM)
    assert np.array_equal(cache.get(key), WAVEFORM)


@pytest.mark.parametrize("signing_key", [None, SIGNING_KEY])
def test_a_run_over_them_computes_and_leaves_them(signing_key, tmp_path):
    root = CacheRoot(tmp_path, signing_key=signing_key)

    def make():
        return CachedFeatures(
            energy, root, identity="energy", sampling_rate=8000, features="always", waveforms="always"
        )

    expected = make()(AUDIO)["input_features"]
    futures = {}
    for path in tmp_path.rglob("*.npz"):
        name = "/".join(path.parts[-2:])
        futures[path] = from_the_future(path.read_bytes(), name, root)
        path.write_bytes(futures[path])
    assert len(futures) == 2
    for _ in range(2):
        cached_features = make()
        assert np.array_equal(cached_features(AUDIO)["input_features"], expected)
        stats = cached_features.stats
        assert (stats.hits, stats.misses, stats.computed) == (0, 1, 1)
        assert stats.unknown_versions >= 2
        assert (stats.bad_entries, stats.unsigned_entries, stats.write_errors) == (0, 0, 0)
        assert all(path.read_bytes() == content for path, content in futures.items())
        assert cached_features.explain(AUDIO).status == "unknown version"


@pytest.mark.parametrize("signing_key", [None, SIGNING_KEY])
@pytest.mark.parametrize("kept", [False, True])
def test_a_map_to_references_takes_none_for_present(kept, signing_key, tmp_path):
    root = CacheRoot(tmp_path / "root", signing_key=signing_key)

    def make():
        return CachedFeatures(energy, root, identity="energy", sampling_rate=8000, on_error="null")

    lines = tmp_path / "rows.jsonl"
    rows = [{"array": [0.25 * row] * 800, "sampling_rate": 8000} for row in (1, 2)]
    lines.write_text("\n".join(json.dumps({"audio": row}) for row in rows))
    dataset = datasets.load_dataset("json", data_files=str(lines), split="train", cache_dir=str(tmp_path / "cache"))
    first = make()
    references = first.map(dataset)
    assert (len(references), first.stats.computed) == (2, 2)
    future, *others = sorted(tmp_path.glob("root/features/*/*.npz"))
    content = from_the_future(future.read_bytes(), "/".join(future.parts[-2:]), root)
    future.write_bytes(content)
    before = [path.read_bytes() for path in others]
    cached_features = make()
    with pytest.raises(
        StoreError, match=r"Upgrade hf_audio_cache to read it, .*a later release wrote the entry"
    ) as error:
        cached_features.map(dataset, **({} if kept else {"load_from_cache_file": False}))
    assert error.value.kind == "later version"
    stats = cached_features.stats
    assert (stats.hits, stats.misses, stats.computed) == (1, 1, 1)
    assert stats.unknown_versions >= 1
    assert (stats.bad_entries, stats.unsigned_entries, stats.write_errors) == (0, 0, 0)
    assert future.read_bytes() == content
    assert [path.read_bytes() for path in others] == before
    # Where nothing need be stored the run goes on.
    assert [len(row["input_features"]) > 0 for row in make().attach(dataset)] == [True, True]
    assert future.read_bytes() == content


@pytest.mark.parametrize("signing_key", [None, SIGNING_KEY])
def test_a_manifest_of_a_processor_stays(signing_key, tmp_path):
    root = CacheRoot(tmp_path, signing_key=signing_key)

    def make():
        return CachedFeatures(energy, root, identity="energy", sampling_rate=8000, features="always")

    make()(AUDIO)
    (path,) = (tmp_path / "processors").iterdir()
    manifest = json.loads(path.read_text())
    manifest = {"version": 2, "processor_sha": manifest["processor_sha"], "said": "otherwise"}
    if signing_key is not None:
        text = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
        manifest["signature"] = root.signing_keys.sign(text).decode()
    content = (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
    path.write_bytes(content)
    with pytest.raises(UnknownVersionError):
        Manifest.from_bytes(content, root.signing_keys)
    assert read_manifest(LocalStore(tmp_path), manifest["processor_sha"], root.signing_keys) is None
    for entry in (tmp_path / "features").rglob("*.npz"):
        entry.unlink()
    cached_features = make()
    cached_features(AUDIO)
    assert cached_features.stats.computed == 1
    assert path.read_bytes() == content
    report = verify(root, repair=True)
    assert report.unknown_versions == [f"processors/{path.name}"]
    assert report.is_clean
    assert path.read_bytes() == content

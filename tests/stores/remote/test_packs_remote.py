"""Packs on a real object store, by both clients: range reads, two machines, a packer beside readers."""

from __future__ import annotations

import audio_datasets as data
import numpy as np
import pytest
from command_line import run_json
from pack_tools import entry_name, open_packed, pack_all
from remote_stores import BOTH, new_bucket
from store_contract import files_under

from hf_audio_cache import CachedFeatures, CacheRoot, pack, prune, usage, verify
from hf_audio_cache.maintenance.prune import clear
from hf_audio_cache.stores import LocalStore
from hf_audio_cache.stores.packs import packer
from hf_audio_cache.stores.resilient import ResilientStore
from hf_audio_cache.stores.tiered import TieredStore

pytestmark = pytest.mark.servers

OBJECTS = {entry_name(number): f"content {number}".encode() * (1 + number % 9) for number in range(40)}


@BOTH
def test_packed_objects_are_read_by_ranges(weed, opened, tmp_path):
    bucket = new_bucket(weed)

    def store(near=None):
        far = ResilientStore(opened(weed.url(bucket, "root"), weed.storage_options))
        return open_packed(far, near)

    first = store()
    assert first.put_many(OBJECTS) == {}
    before = store()
    assert before.get_many(list(OBJECTS)[:2]) == list(OBJECTS.values())[:2]
    pack_all(first, 20_000)
    assert not [one for one in first.single.names() if not one.startswith("packs/")]
    for one in (before, store(), TieredStore(LocalStore(tmp_path / "near"), store(tmp_path / "near"))):
        assert one.get_many([*OBJECTS, entry_name(-1)]) == [*OBJECTS.values(), None]
        assert one.exists_many([*OBJECTS, entry_name(-1)]) == [True] * len(OBJECTS) + [False]
        assert set(one.names()) == OBJECTS.keys()
        assert one.ends_many(list(OBJECTS)[:3], 4) == [content[-4:] for content in list(OBJECTS.values())[:3]]
    first.delete(list(OBJECTS)[:20])
    store().tidy()
    again = store(tmp_path / "near")
    assert again.get_many(list(OBJECTS)) == [None] * 20 + list(OBJECTS.values())[20:]
    assert {name for name in files_under(tmp_path / "near") if name.startswith("packs/")} <= set(
        again.single.names("packs/")
    )


def energies(waveform, sampling_rate):
    """Return something of a clip that is cheap to compute and differs from clip to clip."""
    return np.square(waveform[: len(waveform) // 80 * 80].reshape(-1, 80)).sum(axis=1)


def test_two_machines_read_a_packed_root(weed, tmp_path, prompts, monkeypatch):
    monkeypatch.setattr(packer, "_LOOKS", 0.0)
    clips = data.shortest(prompts, 12)
    url, options = weed.url(new_bucket(weed), "cache"), weed.storage_options

    def open_on(machine, **settings):
        root = CacheRoot(url, storage_options=options, near=tmp_path / machine, **settings)
        return CachedFeatures(energies, root, identity="energies", sampling_rate=8000, waveforms="always")

    one = open_on("one", signing_key="a key of at least sixteen bytes")
    rows = one.map(data.in_memory(clips))
    expected = rows.with_format("numpy")["input_features"]
    one.pipeline.access_log.finish()
    root = CacheRoot(url, storage_options=options, near=tmp_path / "one")
    report = pack(root)
    assert (report.n_packed, report.n_bad) == (24, 0)
    other = open_on("other", signing_key="a key of at least sixteen bytes")
    found = other({"audio": data.columns(clips)["audio"]})["input_features"]
    for row, array in zip(expected, found, strict=True):
        data.assert_same_bits(array, row)
    assert (other.stats.hits, other.stats.computed) == (12, 0)
    assert (
        open_on("third", read_only=True, signing_key="a key of at least sixteen bytes")
        .map(data.in_memory(clips))
        .with_format("numpy")["input_features"][3]
        .tobytes()
        == np.asarray(expected[3]).tobytes()
    )
    assert (usage(root).n_entries, usage(root).n_packs) == (24, 2)
    assert verify(root).is_clean
    storage = [f"--storage-option={name}={value}" for name, value in options.items() if isinstance(value, str)]
    if len(storage) == len(options):
        assert run_json("pack", url, *storage)["n_packed"] == 0
    assert prune(root, cache="waveforms").n_deleted == 12
    assert clear(root).n_deleted == 12
    assert usage(root).n_packs == 0

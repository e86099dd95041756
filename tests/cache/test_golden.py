"""The caches that each version of the format wrote stay readable."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hf_audio_cache import AudioCache, WaveformCache
from hf_audio_cache.cache.entry import encode_entry, open_entry

GOLDEN = Path(__file__).resolve().parents[1] / "golden"

spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)

CACHES = {"features": (AudioCache, golden.features()), "waveforms": (WaveformCache, golden.waveforms())}

every_cache = pytest.mark.parametrize(
    ("compression", "kind"), [(compression, kind) for compression in ("blosc", "raw") for kind in CACHES]
)

NAMES = {
    "features": [
        "01/{blob}.fedcba987654.16000.0.npz",
        "01/{blob}.fedcba987654.16000.0.rs.npz",
        "01/{blob}.fedcba987654.16000.30000.npz",
        "fe/{reversed}.0123456789ab.48000.10000.rs.npz",
    ],
    "waveforms": ["01/{blob}.16000.0.wav.npz", "01/{blob}.16000.30000.rs.wav.npz", "fe/{reversed}.8000.0.wav.npz"],
}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype.str == value.dtype.str
            assert found[name].shape == value.shape
            assert found[name].tobytes() == value.tobytes()
        else:
            assert found[name] == value


@every_cache
def test_the_files_of_version_1_are_those(compression, kind):
    blob = "0123456789abcdef" * 4
    root = GOLDEN / "v1" / compression / kind
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert names == sorted(name.format(blob=blob, reversed=blob[::-1]) for name in NAMES[kind])


@every_cache
def test_version_1_is_read(compression, kind):
    cache_type, entries = CACHES[kind]
    cache = cache_type(GOLDEN / "v1" / compression / kind)
    for key, outputs in entries.items():
        entry = open_entry(cache.path_for(key).read_bytes(), key)
        assert_same(entry.read_all(), outputs)
        assert entry.compute_seconds == (2.0 / 4 if kind == "features" else 1.5 / 3)
        main = cache.get(key)
        assert main.tobytes() == outputs[entry.main].tobytes()
    assert cache.stats.bad_entries == 0


@every_cache
def test_numpy_reads_version_1(compression, kind):
    cache_type, entries = CACHES[kind]
    cache = cache_type(GOLDEN / "v1" / compression / kind)
    for key, outputs in entries.items():
        with np.load(cache.path_for(key), allow_pickle=False) as npz:
            arrays = {name: npz[name] for name in npz.files if "." not in name}
            assert [name.partition(".")[0] for name in npz.files] == list(outputs)
        assert_same(arrays, {name: outputs[name] for name in arrays})
        if compression == "raw":
            assert set(arrays) == {name for name, value in outputs.items() if isinstance(value, np.ndarray)}


def test_version_1_has_every_codec_and_a_tail():
    members = []
    for path in (GOLDEN / "v1").rglob("*.npz"):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            members += json.loads(archive.comment[16:])["members"]
    assert {member["codec"] for member in members} == {"raw", "blosc", "pcm16", "json"}
    assert [70, "0000c0bf"] in [member.get("tail") for member in members]


@every_cache
def test_what_is_written_today_holds_the_same(compression, kind):
    cache_type, entries = CACHES[kind]
    cache = cache_type(GOLDEN / "v1" / compression / kind)
    for key, outputs in entries.items():
        stored = cache.path_for(key).read_bytes()
        seconds = open_entry(stored, key).compute_seconds
        setting = "blosc" if compression == "blosc" else None
        today = encode_entry(key, outputs, compression=setting, compute_seconds=seconds)
        assert_same(open_entry(today, key).read_all(), outputs)
        if compression == "raw":  # frames may differ with the version of Blosc
            assert today == stored


def test_the_golden_files_are_small():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*.npz")) < 20_000

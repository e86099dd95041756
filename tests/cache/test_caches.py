from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from assertions import is_same

from hf_audio_cache import AudioCache, AudioCacheKey, CacheRoot, WaveformCache
from hf_audio_cache.audio.length import ClipLength, Shortfall
from hf_audio_cache.cache.entry import encode_entry
from hf_audio_cache.cache.stats import Counters
from hf_audio_cache.errors import UnstorableOutputError

BLOB = "c0535e4b" * 8
PROCESSOR = "7d865e95" * 8
KEY = AudioCacheKey(BLOB, PROCESSOR, 16000, 0)
WAVEFORM_KEY = KEY.waveform_key()
FEATURES = np.linspace(-1, 1, 2400, dtype=np.float32).reshape(80, 30)
WAVEFORM = (np.arange(-800, 800) / 32768).astype(np.float32)

CACHES = {"features": (AudioCache, KEY, FEATURES), "waveforms": (WaveformCache, WAVEFORM_KEY, WAVEFORM)}

both_caches = pytest.mark.parametrize("kind", CACHES)
both_compressions = pytest.mark.parametrize("compression", [None, "blosc"])


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())


# Using a cache --------------------------------------------------------------------------------------------------------


@both_caches
def test_opening_a_cache_and_looking_creates_nothing(tmp_path, kind):
    cache_type, key, _ = CACHES[kind]
    cache = cache_type(tmp_path / "root")
    assert cache.get(key) is None
    assert not cache.exists(key)
    assert cache.clear() == 0
    assert cache.root == tmp_path / "root"
    assert cache.path_for(key) == tmp_path / "root" / "c0" / key.as_filename()
    assert isinstance(cache.path_for(key), Path)
    assert isinstance(cache.root, Path)
    assert list(tmp_path.iterdir()) == []


@both_caches
@both_compressions
def test_what_is_put_is_got_bit_for_bit(tmp_path, kind, compression):
    cache_type, key, array = CACHES[kind]
    cache = cache_type(CacheRoot(tmp_path, compression=compression))
    assert cache.put(key, array) == cache.path_for(key)
    assert cache.exists(key)
    assert is_same(cache.get(key), array)
    assert listing(tmp_path) == [f"c0/{key.as_filename()}"]
    assert cache.path_for(key).read_bytes() == encode_entry(
        key, {"input_features" if kind == "features" else "waveform": array}, compression=compression
    )


@both_caches
def test_what_is_got_is_the_callers_own(tmp_path, kind):
    cache_type, key, array = CACHES[kind]
    cache = cache_type(tmp_path)
    cache.put(key, array)
    first = cache.get(key)
    first[...] = 7
    assert is_same(cache.get(key), array)


@both_caches
def test_either_compression_reads_the_other(tmp_path, kind):
    cache_type, key, array = CACHES[kind]
    cache_type(CacheRoot(tmp_path, compression="blosc")).put(key, array)
    assert is_same(cache_type(CacheRoot(tmp_path, compression=None)).get(key), array)
    cache_type(CacheRoot(tmp_path, compression=None)).put(key, array)
    assert is_same(cache_type(CacheRoot(tmp_path, compression="blosc")).get(key), array)


@both_caches
def test_a_put_replaces(tmp_path, kind):
    cache_type, key, array = CACHES[kind]
    cache = cache_type(tmp_path)
    cache.put(key, array)
    cache.put(key, array[::-1].copy())
    assert is_same(cache.get(key), array[::-1])
    assert len(listing(tmp_path)) == 1


def test_several_outputs_are_stored_together(tmp_path):
    cache = AudioCache(tmp_path)
    outputs = {"attention_mask": np.ones(30, np.int32), "input_features": FEATURES, "chunks": [[0, 1], None]}
    cache.put(KEY, outputs)
    assert list(cache.get_all(KEY)) == list(outputs)
    assert is_same(cache.get(KEY), FEATURES)
    assert is_same(cache.get(KEY, "input_features"), FEATURES)
    assert is_same(cache.get(KEY, "attention_mask"), outputs["attention_mask"])
    assert cache.get(KEY, "chunks") == [[0, 1], None]
    assert cache.get(KEY, "input_values") is None
    assert cache.get_all(replace(KEY, sample_rate=8000)) is None
    assert cache.exists(KEY)
    assert cache.stats.bad_entries == 0


def test_many_are_put_and_got_in_order(tmp_path):
    cache = AudioCache(tmp_path)
    keys = [AudioCacheKey(f"{i:064x}", PROCESSOR, 16000, 0) for i in range(5)]
    assert cache.put_many({key: {"x": np.full(3, i)} for i, key in enumerate(keys[:4])})
    found = cache.get_all_many([keys[3], keys[4], keys[0]])
    assert [entry and int(entry["x"][0]) for entry in found] == [3, None, 0]
    assert cache.exists_many(keys) == [True] * 4 + [False]
    assert cache.put_many({})
    assert cache.get_all_many([]) == []


@both_caches
def test_a_key_of_the_other_cache_is_an_error(tmp_path, kind):
    cache_type, _, array = CACHES[kind]
    cache = cache_type(tmp_path)
    for wrong in (WAVEFORM_KEY if kind == "features" else KEY, "c0/name", None, BLOB):
        for call in (cache.get, cache.exists, cache.path_for, lambda key: cache.put(key, array)):
            with pytest.raises(TypeError, match=f"takes a {cache_type._key_type.__name__}, not .*nothing was done"):
                call(wrong)
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    "waveform",
    [
        WAVEFORM.astype(np.float64),
        WAVEFORM.astype(">f4"),
        WAVEFORM.astype(np.int16),
        WAVEFORM.reshape(2, -1),
        np.float32(1),
        np.array(1, np.float32),
        WAVEFORM.tolist(),
        None,
        {"waveform": WAVEFORM},
    ],
    ids=lambda value: f"{getattr(value, 'dtype', type(value).__name__)}{getattr(value, 'shape', '')}",
)
def test_what_is_no_waveform_is_not_stored(tmp_path, waveform):
    with pytest.raises(UnstorableOutputError, match=r"must be a float32 array of shape .*nothing was stored"):
        WaveformCache(tmp_path).put(WAVEFORM_KEY, waveform)
    assert listing(tmp_path) == []


def test_a_waveform_entry_that_holds_something_else_is_a_miss(tmp_path):
    cache = WaveformCache(tmp_path)
    for outputs in ({"waveform": WAVEFORM.reshape(2, -1)}, {"waveform": [1.0]}, {"input_features": WAVEFORM}):
        cache.path_for(WAVEFORM_KEY).parent.mkdir(exist_ok=True)
        cache.path_for(WAVEFORM_KEY).write_bytes(encode_entry(WAVEFORM_KEY, outputs))
        assert cache.get(WAVEFORM_KEY) is None
        assert not cache.exists(WAVEFORM_KEY)
    assert cache.stats.bad_entries == 3


def test_an_output_that_no_entry_can_hold_is_an_error(tmp_path):
    with pytest.raises(UnstorableOutputError, match="'input_features'"):
        AudioCache(tmp_path).put(KEY, np.array([None]))
    with pytest.raises(UnstorableOutputError):
        AudioCache(tmp_path).put(KEY, {})
    assert listing(tmp_path) == []


# Files of other programs, and bad entries -----------------------------------------------------------------------------


def pickled_npz():
    buffer = io.BytesIO()
    np.savez(buffer, input_features=np.array([{"a": 1}], dtype=object), waveform=np.array([None]))
    return buffer.getvalue()


def flipped(entry):
    return entry[:200] + bytes([entry[200] ^ 16]) + entry[201:]


DAMAGE = [lambda entry: b"", lambda entry: entry[:-1], flipped, lambda entry: pickled_npz()]


@both_caches
def test_a_bad_entry_is_a_miss_counted_deleted_and_replaced(tmp_path, kind, warnings_logged):
    cache_type, key, array = CACHES[kind]
    for damage in DAMAGE:
        cache = cache_type(tmp_path)
        path = cache.put(key, array)
        path.write_bytes(damage(path.read_bytes()))
        assert cache.exists(key)
        assert cache.get(key) is None
        assert listing(tmp_path) == []
        assert cache.stats.bad_entries == 1
        [message] = warnings_logged()
        assert message.startswith(f"the entry {path} is damaged and counts as a miss: ")
        cache.put(key, array)
        assert is_same(cache.get(key), array)
        assert cache.stats.bad_entries == 1


def test_bad_entries_do_not_spoil_a_batch_and_only_the_first_is_warned_of(tmp_path, warnings_logged, caplog):
    cache = AudioCache(tmp_path)
    keys = [AudioCacheKey(f"{i:064x}", PROCESSOR, 16000, 0) for i in range(5)]
    cache.put_many({key: {"x": np.full(3, i)} for i, key in enumerate(keys)})
    for key in keys[1:4]:
        cache.path_for(key).write_bytes(b"bad")
    found = cache.get_all_many(keys)
    assert [entry and int(entry["x"][0]) for entry in found] == [0, None, None, None, 4]
    assert len(caplog.records) == 3
    assert len(warnings_logged()) == 1
    assert cache.stats.bad_entries == 3


@both_caches
def test_a_folder_in_the_place_of_an_entry_is_a_miss_and_stays(tmp_path, kind, warnings_logged):
    cache_type, key, array = CACHES[kind]
    cache = cache_type(tmp_path)
    (cache.path_for(key) / "kept").mkdir(parents=True)
    assert cache.get(key) is None
    cache.put(key, array)
    assert cache.get(key) is None
    assert (cache.path_for(key) / "kept").is_dir()
    assert (cache.stats.read_errors, cache.stats.write_errors, cache.stats.bad_entries) == (2, 1, 0)
    assert len(warnings_logged()) == 1


# Disks that do not write ----------------------------------------------------------------------------------------------


def test_nothing_is_encoded_for_a_root_that_takes_nothing(tmp_path):
    outputs = {"input_features": object()}  # which no entry can hold
    assert AudioCache(CacheRoot(tmp_path, read_only=True)).put_many({KEY: outputs}) is False
    with pytest.raises(UnstorableOutputError):
        AudioCache(tmp_path).put_many({KEY: outputs})


def test_arrays_of_as_many_axes_as_numpy_has_are_read_in_a_batch(tmp_path):
    """Two of them in one array would have one axis more."""
    cache = AudioCache(tmp_path)
    array = np.full((1,) * (64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32), 3.0, np.float32)
    keys = [AudioCacheKey(f"{number:064x}", PROCESSOR, 16000, 0) for number in range(2)]
    for key in keys:
        cache.put(key, {"x": array})
    assert [found["x"].tobytes() for found in cache.get_all_many(keys)] == [array.tobytes()] * 2


# Clearing -------------------------------------------------------------------------------------------------------------


def test_clear_takes_what_the_cache_wrote_and_nothing_else(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    cache = AudioCache(root)
    keys = [AudioCacheKey(f"{i:064x}", PROCESSOR, 16000, i, bool(i % 2)) for i in range(4)]
    own = [cache.put(key, FEATURES) for key in keys]
    outside.mkdir()
    (outside / KEY.as_filename()).write_bytes(b"outside")
    left_over = own[0].parent / f".{keys[0].as_filename()}.4711-0a1b2c3d.tmp"
    left_over.write_bytes(b"half an en")
    strangers = [
        root / "notes.txt",
        root / "CACHEDIR.TAG",
        root / "00" / "notes.txt",
        root / "00" / "data.npz",
        root / "00" / ".notes.txt.1-0.tmp",
        root / KEY.as_filename(),  # not in a shard
        root / "ff" / KEY.as_filename(),  # in the wrong one
        root / "c0" / "deeper" / KEY.as_filename(),
        root / "c0" / f"{KEY.as_filename()}.bak",
        root / "c0" / KEY.as_filename().upper(),
        root / "c0" / WAVEFORM_KEY.as_filename(),  # the other cache's
        root / "c0" / f".{WAVEFORM_KEY.as_filename()}.4711-0a1b2c3d.tmp",
        root / "features" / "c0" / KEY.as_filename(),
        root / "processors" / f"{PROCESSOR}.json",
    ]
    for path in strangers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a stranger's")
    (root / "c0" / KEY.as_filename()).symlink_to(outside / KEY.as_filename())
    (root / "c1").symlink_to(outside)
    (outside / f"c1{KEY.as_filename()[2:]}").write_bytes(b"outside")

    assert cache.clear() == len(own) + 1
    assert not any(path.exists() for path in [*own, left_over])
    assert all(path.read_bytes() == b"a stranger's" for path in strangers)
    assert {path.read_bytes() for path in outside.iterdir()} == {b"outside"}
    assert len(list(outside.iterdir())) == 2
    assert (root / "c0" / KEY.as_filename()).is_symlink()
    assert cache.clear() == 0


def test_each_cache_clears_its_own_of_a_shared_root(tmp_path):
    features, waveforms = AudioCache(tmp_path), WaveformCache(tmp_path)
    features.put(KEY, FEATURES)
    waveforms.put(WAVEFORM_KEY, WAVEFORM)
    assert features.clear() == 1
    assert is_same(waveforms.get(WAVEFORM_KEY), WAVEFORM)
    features.put(KEY, FEATURES)
    assert waveforms.clear() == 1
    assert is_same(features.get(KEY), FEATURES)


# Counting -------------------------------------------------------------------------------------------------------------


@both_caches
def test_hits_and_misses_are_counted(tmp_path, kind):
    cache_type, key, array = CACHES[kind]
    cache = cache_type(tmp_path)
    prefix = "" if kind == "features" else "waveform_"
    cache.get(key)
    path = cache.put(key, array)
    cache.get(key)
    cache.get(key)
    assert (getattr(cache.stats, f"{prefix}hits"), getattr(cache.stats, f"{prefix}misses")) == (2, 1)
    path.write_bytes(b"bad")
    cache.get(key)
    stats = cache.stats
    assert (getattr(stats, f"{prefix}hits"), getattr(stats, f"{prefix}misses"), stats.bad_entries) == (2, 2, 1)


def test_the_seconds_that_a_hit_saves_are_counted(tmp_path):
    cache = AudioCache(tmp_path)
    keys = [AudioCacheKey(f"{i:064x}", PROCESSOR, 16000, 0) for i in range(4)]
    cache.put_many({key: {"x": np.arange(3)} for key in keys}, compute_seconds=400.0)
    cache.get(keys[0])
    assert 90 < cache.stats.seconds_saved < 100
    cache.get_all_many(keys[:2])
    assert 280 < cache.stats.seconds_saved < 300


@both_caches
def test_bytes_are_counted(tmp_path, kind):
    cache_type, key, array = CACHES[kind]
    cache = cache_type(tmp_path)
    size = cache.put(key, array).stat().st_size
    cache.get(key)
    cache.get(key)
    stats = cache.stats
    assert (stats.bytes_written, stats.bytes_read) == (size, 2 * size)
    assert (stats.read_errors, stats.write_errors, stats.bad_entries) == (0, 0, 0)


def test_caches_can_share_counters(tmp_path):
    counters = Counters()
    features, waveforms = (kind(tmp_path, counters=counters) for kind in (AudioCache, WaveformCache))
    size = features.put(KEY, FEATURES).stat().st_size + waveforms.put(WAVEFORM_KEY, WAVEFORM).stat().st_size
    assert features.stats == waveforms.stats == counters.total()
    assert counters.total().bytes_written == size


@pytest.mark.parametrize("n_outputs", [1, 100])
def test_an_entry_says_at_its_end_that_its_clip_is_not_whole(n_outputs, tmp_path):
    """Also if its manifest is longer than what is read first."""
    cache = AudioCache(tmp_path)
    outputs = {f"{'x' * 40}_{number}": np.zeros(3) for number in range(n_outputs)}
    short = ClipLength(3, short=Shortfall(1.0, 2.0, 3, "cut"))
    for key, length in ((KEY, short), (replace(KEY, max_length_ms=1), ClipLength(3))):
        assert cache.store_many({key: outputs}, length=length) == []
    assert cache.say_short_many([KEY, replace(KEY, max_length_ms=1)]) == [True, False]

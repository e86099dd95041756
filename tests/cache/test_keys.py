from __future__ import annotations

import dataclasses
import math
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_audio_cache import AudioCacheKey, WaveformCacheKey
from hf_audio_cache.cache.keys import max_length_ms
from hf_audio_cache.errors import InvalidKeyError

BLOB = "c0535e4be2b79ffd93291305436bf889314e4a3faec05ecffcbb7df31ad9e51a"
PROCESSOR = "7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730"

KINDS = {"features": {"blob_sha": BLOB, "processor_sha": PROCESSOR}, "waveforms": {"blob_sha": BLOB}}
SETTINGS = {"sample_rate": 16000, "max_length_ms": 0, "auto_resample": False}
TYPES = {"features": AudioCacheKey, "waveforms": WaveformCacheKey}


def make_key(kind, **changes):
    return TYPES[kind](**{**KINDS[kind], **SETTINGS, **changes})


# Names: the stored format, byte for byte ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "file_name"),
    [
        ("features", (16000, 0), f"{BLOB}.7d865e959b24.16000.0.npz"),
        ("features", (16000, 0, True), f"{BLOB}.7d865e959b24.16000.0.rs.npz"),
        ("features", (48000, 10000), f"{BLOB}.7d865e959b24.48000.10000.npz"),
        ("features", (8000, 1, True), f"{BLOB}.7d865e959b24.8000.1.rs.npz"),
        ("features", (16000, 0, False, "mean"), f"{BLOB}.7d865e959b24.16000.0.npz"),
        ("features", (16000, 0, True, 0), f"{BLOB}.7d865e959b24.16000.0.rs.ch0.npz"),
        ("features", (16000, 0, False, "all"), f"{BLOB}.7d865e959b24.16000.0.chall.npz"),
        ("waveforms", (16000, 0, False, 1), f"{BLOB}.16000.0.ch1.wav.npz"),
        ("waveforms", (16000, 0), f"{BLOB}.16000.0.wav.npz"),
        ("waveforms", (16000, 0, True), f"{BLOB}.16000.0.rs.wav.npz"),
        ("waveforms", (48000, 10000), f"{BLOB}.48000.10000.wav.npz"),
        ("waveforms", (8000, 1, True), f"{BLOB}.8000.1.rs.wav.npz"),
    ],
)
def test_file_names_are_the_documented_ones(kind, settings, file_name):
    key = TYPES[kind](*KINDS[kind].values(), *settings)
    assert key.as_filename() == file_name
    assert key.shard() == "c0"
    assert key.name() == f"c0/{file_name}"


@pytest.mark.parametrize("kind", TYPES)
def test_resampling_is_not_asked_for_by_default(kind):
    assert TYPES[kind](*KINDS[kind].values(), 16000, 0) == make_key(kind) != make_key(kind, auto_resample=True)


def test_the_waveform_of_features_has_the_same_settings():
    key = AudioCacheKey(BLOB, PROCESSOR, 16000, 1500, True, 1)
    assert key.waveform_key() == WaveformCacheKey(BLOB, 16000, 1500, True, 1)


def test_a_name_has_twelve_digits_of_the_processor_and_the_key_all():
    same_start = PROCESSOR[:12] + "0" * 52
    a, b = make_key("features"), make_key("features", processor_sha=same_start)
    assert a.name() == b.name()
    assert a != b


shas = st.text("0123456789abcdef", min_size=64, max_size=64)
settings = st.tuples(st.integers(1, 10**7), st.integers(0, 10**9), st.booleans())
# Few different values, so that two keys often differ in one field alone.
near_shas = st.sampled_from([BLOB, PROCESSOR, "0" * 64, BLOB[:63] + "b"])
near_settings = st.tuples(st.sampled_from([1, 11, 16000]), st.sampled_from([0, 1, 11]), st.booleans())
keys = st.one_of(
    st.builds(lambda blob, processor, rest: AudioCacheKey(blob, processor, *rest), shas, shas, settings),
    st.builds(lambda blob, processor, rest: AudioCacheKey(blob, processor, *rest), near_shas, near_shas, near_settings),
    st.builds(lambda blob, rest: WaveformCacheKey(blob, *rest), shas, settings),
    st.builds(lambda blob, rest: WaveformCacheKey(blob, *rest), near_shas, near_settings),
)


def in_the_name(key):
    """Return what a file name keeps of a key."""
    fields = dataclasses.asdict(key)
    return type(key), tuple({**fields, "processor_sha": fields.get("processor_sha", "")[:12]}.items())


@given(keys, keys)
def test_different_keys_have_different_names(a, b):
    assert (a.name() == b.name()) == (in_the_name(a) == in_the_name(b))


@given(keys)
def test_a_name_says_its_key(key):
    name = re.fullmatch(
        r"([0-9a-f]{2})/(?P<blob>\1[0-9a-f]{62})(\.(?P<processor>[0-9a-f]{12}))?"
        r"\.(?P<rate>[1-9][0-9]*)\.(?P<cap>0|[1-9][0-9]*)(?P<rs>\.rs)?(?P<wav>\.wav)?\.npz",
        key.name(),
    )
    assert name is not None
    assert name["blob"] == key.blob_sha
    assert (int(name["rate"]), int(name["cap"]), bool(name["rs"])) == (
        key.sample_rate,
        key.max_length_ms,
        key.auto_resample,
    )
    assert bool(name["wav"]) == isinstance(key, WaveformCacheKey)
    assert name["processor"] == (key.processor_sha[:12] if isinstance(key, AudioCacheKey) else None)


# Fields ---------------------------------------------------------------------------------------------------------------

NOT_SHAS = ["", BLOB[:63], BLOB + "0", BLOB.upper(), "g" * 64, f"{BLOB}\n", f" {BLOB[1:]}", "٣" * 64]
NOT_SHAS += [BLOB.encode(), None]
NOT_RATES = [0, -16000, True, False, 16000.0, "16000", None, math.nan, np.float32(16000), np.True_, [16000], int]
NOT_RATES += [np.array([16000, 8000]), np.array([16000.0])]
NOT_CAPS = [-1, True, False, 0.0, "0", None, math.inf, np.float64(1), np.False_, np.array([1, 2])]
NOT_FLAGS = [0, 1, None, "rs", np.True_, []]


WRONG = {
    "blob_sha": NOT_SHAS,
    "processor_sha": [*NOT_SHAS, PROCESSOR[:12]],
    "sample_rate": NOT_RATES,
    "max_length_ms": NOT_CAPS,
    "auto_resample": NOT_FLAGS,
}


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind in TYPES for field in {**KINDS[kind], **SETTINGS}])
def test_a_bad_field_is_named(kind, field):
    for value in WRONG[field]:
        with pytest.raises(InvalidKeyError, match=f"^{field} must be .* no key was made") as caught:
            make_key(kind, **{field: value})
        assert caught.value.field == field
        assert caught.value.actual is value


@pytest.mark.parametrize("kind", TYPES)
def test_numpy_integers_become_plain_ones(kind):
    for integer in (np.int64, np.int32, np.uint16):
        key = make_key(kind, sample_rate=integer(16000), max_length_ms=integer(5000))
        assert (type(key.sample_rate), type(key.max_length_ms)) == (int, int)
        assert key == make_key(kind, sample_rate=16000, max_length_ms=5000)
        assert ".16000.5000." in key.name()


@pytest.mark.parametrize("kind", TYPES)
def test_keys_are_frozen_values(kind):
    key = make_key(kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        key.sample_rate = 8000
    assert {key: 1}[make_key(kind)] == 1
    assert pickle.loads(pickle.dumps(key)) == key
    assert len({key, make_key(kind), make_key(kind, auto_resample=True)}) == 2


def test_keys_of_the_two_caches_are_never_equal():
    assert make_key("features") != make_key("waveforms")


# Caps -----------------------------------------------------------------------------------------------------------------


CAPS = [(None, 0), (30, 30000), (30.0, 30000), (0.0005, 1), (0.001, 1), (0.0014, 1), (0.0016, 2), (1.1, 1100)]
CAPS += [(0.29, 290), (86400.0, 86400000)]  # 0.29 * 1000 is 289.99999999999994
CAPS += [(np.float64(2.5), 2500), (np.float32(2.5), 2500), (np.int64(3), 3000)]
NO_CAPS = [0, 0.0, 0.0004, 0.00049999, 5e-324, -0.0, -1, -30.0, -0.001, math.nan, math.inf, -math.inf, 1e306, 10**400]
NO_CAPS += [True, False, "30", [], {}, 1j, b"1", np.True_, np.float32("nan")]


def test_a_cap_in_seconds_becomes_whole_milliseconds():
    for seconds, milliseconds in CAPS:
        assert max_length_ms(seconds) == milliseconds
        assert type(max_length_ms(seconds)) is int


def test_a_cap_that_is_none_or_rounds_to_none_is_an_error():
    for seconds in NO_CAPS:
        with pytest.raises(InvalidKeyError, match=r"^max_length_seconds must be at least 0\.0005") as caught:
            max_length_ms(seconds)
        assert caught.value.field == "max_length_seconds"
        assert caught.value.actual is seconds


@given(st.floats(0.0005, 1e6))
def test_a_cap_is_the_nearest_millisecond(seconds):
    assert abs(max_length_ms(seconds) - seconds * 1000) <= 0.5 + 1e-6
    assert max_length_ms(seconds) >= 1

from __future__ import annotations

import io
import json
import pickle
import random
import subprocess
import sys
import tracemalloc
import zipfile

import configs
import numpy as np
import pytest
import soundfile
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hf_audio_cache import AudioCacheKey, WaveformCacheKey
from hf_audio_cache.cache.entry import encode_entry, open_entry
from hf_audio_cache.errors import CorruptEntryError, UnstorableOutputError

KEY = AudioCacheKey("c0535e4b" * 8, "7d865e95" * 8, 16000, 30000, True)
WAVEFORM_KEY = WaveformCacheKey("c0535e4b" * 8, 16000, 0)
COMPRESSIONS = [None, "blosc"]

both_compressions = pytest.mark.parametrize("compression", COMPRESSIONS)


def read(data, key=KEY):
    return open_entry(data, key).read_all()


def is_same(a, b):
    """Whether two arrays have the same dtype (byte order too), shape and bits."""
    return a.dtype.str == b.dtype.str and a.shape == b.shape and a.tobytes() == b.tobytes()


def is_refused(data, key=KEY):
    """Whether an entry is found to be corrupt when it is opened or read; nothing else may be raised."""
    try:
        read(data, key)
    except CorruptEntryError:
        return True
    return False


def split(data):
    """Return the bytes before the comment, and the manifest."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        comment = archive.comment
    assert data.endswith(comment)
    return data[: -len(comment)], json.loads(comment[16:])


def sign(body, manifest):
    """Put a manifest (an object, or its text as bytes) after the body of an entry, with the checksum that it needs."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest, separators=(",", ":")).encode()
    body = body[:-2] + (16 + len(text)).to_bytes(2, "little")
    return body + xxhash.xxh3_64_hexdigest(body + text).encode() + text


def savez(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def codecs(data):
    return [member["codec"] for member in split(data)[1]["members"]]


# What comes back is what was put in -----------------------------------------------------------------------------------

DTYPES = ["|b1", "|i1", "|u1"] + [f"{order}{kind}" for order in "<>" for kind in ("i2", "i4", "i8", "u2", "u4", "u8")]
DTYPES += [f"{order}{kind}" for order in "<>" for kind in ("f2", "f4", "f8", "c8", "c16")]

LAYOUTS = {
    "C": lambda array: array,
    "Fortran": np.asfortranarray,
    "transposed": lambda array: array.T,
    "strided": lambda array: array[..., ::2] if array.ndim else array,
    "reversed": lambda array: array[::-1] if array.ndim else array,
    "broadcast": lambda array: np.broadcast_to(array, (3, *array.shape)),
}


def random_array(dtype, shape, seed=0):
    """Return random bits (NaN payloads, infinities, subnormal and negative zeros among them)."""
    bits = np.random.default_rng(seed).bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    array = np.frombuffer(bits, np.uint8) & 1 if np.dtype(dtype) == bool else np.frombuffer(bits, np.uint8)
    return array.view(dtype).reshape(shape)


@both_compressions
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_bit_for_bit(dtype, layout, compression):
    array = LAYOUTS[layout](random_array(dtype, (5, 4, 30)))
    entry = open_entry(encode_entry(KEY, {"input_features": array}, compression=compression), KEY)
    again = entry.read("input_features")
    assert is_same(again, array)
    assert again.flags.c_contiguous
    assert again.flags.writeable
    again[...] = 0
    assert is_same(entry.read("input_features"), array)


@both_compressions
@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 80), (80, 0), (1, 1, 1, 1), (16,), (17,), (2, 17), (1,) * 32])
@pytest.mark.parametrize("dtype", ["|b1", "<f4", ">f8", "<c16"])
def test_every_shape_comes_back(dtype, shape, compression):
    array = random_array(dtype, shape)
    assert is_same(read(encode_entry(KEY, {"x": array}, compression=compression))["x"], array)


SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, 1e-45, 65504.0], "<f4")
NAN_WITH_PAYLOAD = np.array([0x7FC00001, 0xFFC00002, 0x7F800003, 0xFF812345], "<u4").view("<f4")


@both_compressions
@pytest.mark.parametrize("special", [SPECIAL, NAN_WITH_PAYLOAD], ids=["special", "nan"])
def test_special_numbers_come_back_bit_for_bit(special, compression):
    for value in special:
        array = np.append(special, np.full(100, value, "<f4"))
        for name in ("input_features", "waveform"):
            assert is_same(read(encode_entry(KEY, {name: array}, compression=compression))[name], array)


arrays = st.one_of(
    hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=24)),
    st.builds(random_array, st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, max_side=40)),
)


@st.composite
def arrays_with_tail(draw):
    """Arrays whose last columns are one value, of which a few may differ in one bit."""
    array = draw(arrays.filter(lambda array: array.ndim and array.size)).copy()
    length = draw(st.integers(0, 200))
    padding = np.broadcast_to(array.reshape(-1)[-1], (*array.shape[:-1], length))
    padded = np.concatenate([array, padding], axis=-1, dtype=array.dtype)
    if draw(st.booleans()) and padded.dtype != bool:
        at = draw(st.integers(0, padded.nbytes - 1))
        padded.view(np.uint8).reshape(-1)[at] ^= 1 << draw(st.integers(0, 7))
    return padded


@settings(max_examples=150, deadline=None)
@given(st.one_of(arrays, arrays_with_tail()), st.sampled_from(list(LAYOUTS)), st.sampled_from(COMPRESSIONS))
def test_any_array_comes_back_bit_for_bit(array, layout, compression):
    array = LAYOUTS[layout](array)
    assert is_same(read(encode_entry(KEY, {"x": array}, compression=compression))["x"], array)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=12,
)


@settings(max_examples=30, deadline=None)
@given(json_values, st.sampled_from(COMPRESSIONS))
def test_any_json_value_comes_back(value, compression):
    again = read(encode_entry(KEY, {"audio_chunk_index": value}, compression=compression))["audio_chunk_index"]
    assert json.dumps(again) == json.dumps(value)


@both_compressions
def test_several_outputs_keep_their_order(compression):
    outputs = {
        "attention_mask": np.ones(3000, np.int32),
        "input_features": random_array("<f4", (80, 300)),
        "audio_embed_sizes": [188, 7],
        "zeros": np.zeros((3, 100), np.float64),
    }
    entry = open_entry(encode_entry(KEY, outputs, compression=compression), KEY)
    assert entry.names == tuple(outputs)
    for name, value in entry.read_all().items():
        if isinstance(value, np.ndarray):
            assert is_same(value, outputs[name])
        else:
            assert value == outputs[name]


@pytest.mark.parametrize(
    ("names", "main"),
    [
        (["attention_mask", "input_values", "input_features"], "input_features"),
        (["attention_mask", "input_values"], "input_values"),
        (["b", "a"], "b"),
        (["only"], "only"),
    ],
)
def test_the_main_output_is_what_a_model_takes(names, main):
    outputs = {name: np.arange(3) for name in names}
    assert open_entry(encode_entry(KEY, outputs), KEY).main == main
    assert open_entry(savez(**outputs), KEY).main == main


def test_the_seconds_it_took_are_kept():
    assert open_entry(encode_entry(KEY, {"x": np.zeros(3)}, compute_seconds=1.25), KEY).compute_seconds == 1.25
    assert open_entry(savez(x=np.zeros(3)), KEY).compute_seconds == 0.0


@both_compressions
def test_what_is_encoded_is_left_alone(compression):
    array = np.arange(60, dtype="<f4").reshape(3, 20)
    array.flags.writeable = False
    before = array.copy()
    encode_entry(KEY, {"x": array}, compression=compression)
    assert is_same(array, before)


# The format, byte for byte --------------------------------------------------------------------------------------------

OUTPUTS = {
    "input_features": np.linspace(-1, 1, 240, dtype="<f4").reshape(8, 30),
    "attention_mask": np.ones(40, "<i4"),
    "count": np.array(3),
    "nothing": np.zeros((0, 4), "<f2"),
    "chunks": [[0, 1], {"a": None}],
}
MEMBERS = {
    None: ["input_features.npy", "attention_mask.npy", "count.npy", "nothing.npy", "chunks.json.npy"],
    "blosc": [
        "input_features.blosc.npy",
        "attention_mask.blosc.npy",
        "count.npy",  # 0-d and empty arrays are stored raw
        "nothing.npy",
        "chunks.json.npy",
    ],
}


@both_compressions
def test_numpy_opens_an_entry_and_finds_the_documented_members(tmp_path, compression):
    (tmp_path / "entry.npz").write_bytes(encode_entry(KEY, OUTPUTS, compression=compression))
    with np.load(tmp_path / "entry.npz", allow_pickle=False) as npz:
        assert [f"{name}.npy" for name in npz.files] == MEMBERS[compression]
        for member in npz.files:
            value = OUTPUTS[member.partition(".")[0]]
            if "." in member:
                assert npz[member].dtype == np.uint8
                assert npz[member].ndim == 1
            else:
                assert is_same(npz[member], value)
        assert json.loads(npz["chunks.json"].tobytes()) == OUTPUTS["chunks"]


def test_raw_members_are_what_savez_holds():
    arrays = {name: value for name, value in OUTPUTS.items() if isinstance(value, np.ndarray)}
    with (
        zipfile.ZipFile(io.BytesIO(encode_entry(KEY, arrays))) as ours,
        zipfile.ZipFile(io.BytesIO(savez(**arrays))) as theirs,
    ):
        assert ours.namelist() == theirs.namelist()
        for name in theirs.namelist():
            assert ours.read(name) == theirs.read(name)


@both_compressions
def test_members_are_stored_and_pass_zips_own_checks(compression):
    with zipfile.ZipFile(io.BytesIO(encode_entry(KEY, OUTPUTS, compression=compression))) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


@both_compressions
def test_the_comment_is_a_checksum_and_a_compact_manifest(compression):
    data = encode_entry(KEY, OUTPUTS, compression=compression, compute_seconds=0.5)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        comment = archive.comment
    assert comment[:16] == xxhash.xxh3_64_hexdigest(data[: -len(comment)] + comment[16:]).encode()
    manifest = json.loads(comment[16:])
    assert comment[16:] == json.dumps(manifest, separators=(",", ":")).encode("ascii")
    members = manifest.pop("members")
    assert manifest == {
        "version": 1,
        "key": {
            "blob_sha": "c0535e4b" * 8,
            "processor_sha": "7d865e95" * 8,
            "sample_rate": 16000,
            "max_length_ms": 30000,
            "auto_resample": True,
        },
        "compute_seconds": 0.5,
    }
    assert [member["name"] for member in members] == list(OUTPUTS)
    for member, (_, value) in zip(members, OUTPUTS.items(), strict=True):
        if isinstance(value, np.ndarray):
            assert (member["dtype"], tuple(member["shape"])) == (value.dtype.str, value.shape)
    tails = {member["name"]: member["tail"] for member in members if "tail" in member}
    assert tails == ({"attention_mask": [39, "01000000"]} if compression else {})


@both_compressions
def test_an_offset_is_where_the_npy_starts(compression):
    data = encode_entry(KEY, OUTPUTS, compression=compression)
    with np.load(io.BytesIO(data), allow_pickle=False) as npz:
        for member, name in zip(split(data)[1]["members"], npz.files, strict=True):
            stream = io.BytesIO(data)
            stream.seek(member["offset"])
            assert is_same(np.lib.format.read_array(stream, allow_pickle=False), npz[name])


@both_compressions
def test_a_waveform_key_is_in_the_manifest_whole(compression):
    data = encode_entry(WAVEFORM_KEY, {"waveform": np.zeros(3, np.float32)}, compression=compression)
    assert split(data)[1]["key"] == {
        "blob_sha": "c0535e4b" * 8,
        "sample_rate": 16000,
        "max_length_ms": 0,
        "auto_resample": False,
    }


@both_compressions
def test_the_same_outputs_give_the_same_bytes(compression):
    first = encode_entry(KEY, OUTPUTS, compression=compression)
    copies = {name: np.asfortranarray(value) if name == "input_features" else value for name, value in OUTPUTS.items()}
    assert encode_entry(KEY, copies, compression=compression) == first


# Codecs ---------------------------------------------------------------------------------------------------------------


def test_16_bit_speech_is_kept_as_such(prompts, sentences):
    for path in [*prompts[::40], *sentences]:
        waveform, _ = soundfile.read(path, dtype="float32")
        data = encode_entry(WAVEFORM_KEY, {"waveform": waveform}, compression="blosc")
        assert codecs(data) == ["pcm16"]
        assert is_same(read(data, WAVEFORM_KEY)["waveform"], waveform)
        with np.load(io.BytesIO(data), allow_pickle=False) as npz:
            assert npz.files == ["waveform.pcm16.blosc"]


PCM = np.arange(-32768, 32768, dtype=np.int64).astype(np.float32) / np.float32(32768)


@pytest.mark.parametrize(
    ("waveform", "codec"),
    [
        (PCM, "pcm16"),
        (PCM * np.float32(0.5), "blosc"),  # 17 bits
        (np.append(PCM, np.float32(1.0)), "blosc"),
        (np.append(PCM, np.float32(-32769 / 32768)), "blosc"),
        (np.append(PCM, np.float32(-0.0)), "blosc"),
        (np.append(PCM, np.float32(np.nan)), "blosc"),
        (np.append(PCM, np.float32(np.inf)), "blosc"),
        (np.append(PCM, np.float32(1e-45)), "blosc"),
        (np.nextafter(PCM, np.float32(2)), "blosc"),
        (PCM.astype(">f4"), "blosc"),
        (PCM.astype(np.float64), "blosc"),
        (PCM[:0], "raw"),
    ],
)
def test_pcm16_is_used_only_where_it_gives_back_every_bit(waveform, codec):
    data = encode_entry(WAVEFORM_KEY, {"waveform": waveform}, compression="blosc")
    assert codecs(data) == [codec]
    assert is_same(read(data, WAVEFORM_KEY)["waveform"], waveform)


def test_pcm16_is_for_waveforms_only():
    assert codecs(encode_entry(KEY, {"input_values": PCM}, compression="blosc")) == ["blosc"]
    assert codecs(encode_entry(WAVEFORM_KEY, {"waveform": PCM})) == ["raw"]


@pytest.mark.parametrize("value", [0.0, -0.0, np.nan, -1.5])
@pytest.mark.parametrize("shape", [(80, 1000), (1000,), (2, 3, 100)])
def test_a_constant_tail_is_left_out_and_comes_back(shape, value):
    array = random_array("<f4", shape).copy()
    array[..., 60:] = value
    data = encode_entry(KEY, {"input_features": array}, compression="blosc")
    [member] = split(data)[1]["members"]
    assert member["tail"] == [shape[-1] - 60, np.float32(value).tobytes().hex()]
    assert is_same(read(data)["input_features"], array)


def test_an_array_of_one_value_keeps_one_column():
    data = encode_entry(KEY, {"attention_mask": np.ones((2, 500), np.int64)}, compression="blosc")
    assert split(data)[1]["members"][0]["tail"] == [499, "0100000000000000"]
    assert is_same(read(data)["attention_mask"], np.ones((2, 500), np.int64))


def test_a_tail_of_other_zeros_is_no_tail():
    array = np.zeros((2, 100), np.float32)
    array[1, 50:] = -0.0
    data = encode_entry(KEY, {"x": array}, compression="blosc")
    assert "tail" not in split(data)[1]["members"][0]
    assert is_same(read(data)["x"], array)


# What cannot be stored ------------------------------------------------------------------------------------------------


@both_compressions
@pytest.mark.parametrize(
    "value",
    [
        np.array([None, 1]),
        np.array(["a", "bc"]),
        np.array([b"a"]),
        np.array(["2026-01-01"], "M8[D]"),
        np.array([1], "m8[s]"),
        np.zeros(3, [("a", "f4")]),
        np.zeros(3, "V4"),
        object(),
        {1, 2},
        b"bytes",
        float("nan"),
        [1.0, float("inf")],
        np.float32(1),
        [np.zeros(3)],
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, np.ndarray) else value.dtype.str,
)
def test_an_output_that_no_entry_can_hold_is_named(value, compression):
    with pytest.raises(UnstorableOutputError, match=r"'input_features'.*nothing was stored") as caught:
        encode_entry(KEY, {"input_features": value}, compression=compression)
    assert caught.value.name == "input_features"


def test_json_that_is_nested_too_deeply_cannot_be_stored():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(UnstorableOutputError, match=r"'chunks'.*nothing was stored"):
        encode_entry(KEY, {"chunks": nested})


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a.b", "a b", "1a", "ä", "a\n", "x" * 201, 5, None])
def test_a_name_that_is_no_identifier_cannot_be_stored(name):
    with pytest.raises(UnstorableOutputError, match=r"must be an identifier.*nothing was stored"):
        encode_entry(KEY, {name: np.zeros(3)})


def test_an_entry_of_nothing_cannot_be_stored():
    with pytest.raises(UnstorableOutputError, match="at least one output"):
        encode_entry(KEY, {})


def test_a_manifest_over_60_kb_cannot_be_stored():
    def outputs(n):
        return {f"output_{i:03}_{'x' * 180}": np.zeros(1) for i in range(n)}

    fits = next(n for n in range(150, 300) if len(json.dumps(split(encode_entry(KEY, outputs(n)))[1])) > 59_500)
    data = encode_entry(KEY, outputs(fits))
    assert len(read(data)) == fits
    with np.load(io.BytesIO(data), allow_pickle=False) as npz:
        assert len(npz.files) == fits
    with pytest.raises(UnstorableOutputError, match="60000 bytes"):
        encode_entry(KEY, outputs(fits + 20))


# Damage ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_outputs(sentences):
    """Features of a read sentence, by two extractors: one output padded to 30 s, and two of the clip's length."""
    waveform, rate = soundfile.read(sentences[0], dtype="float32")
    outputs = {}
    for name in ("whisper_tiny", "seamless_m4t"):
        features = configs.make_processor(name)([waveform], sampling_rate=rate, return_tensors="np")
        outputs[name] = {output: np.asarray(value[0], order="C") for output, value in features.items()}
    return outputs


@pytest.fixture(scope="module", params=["whisper_tiny", "seamless_m4t"])
def outputs(request, real_outputs):
    return real_outputs[request.param]


@both_compressions
def test_real_features_come_back_bit_for_bit(outputs, compression):
    again = read(encode_entry(KEY, outputs, compression=compression))
    assert list(again) == list(outputs)
    assert all(is_same(again[name], outputs[name]) for name in outputs)


@both_compressions
def test_400_truncations_are_refused(outputs, compression):
    data = encode_entry(KEY, outputs, compression=compression)
    rng = random.Random(1)
    lengths = [0, 1, 21, 22, 23, len(data) - 1, len(data) - 2, *(rng.randrange(len(data)) for _ in range(400))]
    assert [length for length in lengths if not is_refused(data[:length])] == []


@both_compressions
def test_400_bit_flips_are_refused(outputs, compression):
    data = bytearray(encode_entry(KEY, outputs, compression=compression))
    rng = random.Random(2)
    missed = []
    for _ in range(400):
        at, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        data[at] ^= bit
        if not is_refused(bytes(data)):
            missed.append((at, bit))
        data[at] ^= bit
    assert missed == []


@both_compressions
def test_a_flip_of_each_bit_behind_the_members_is_refused(outputs, compression):
    data = bytearray(encode_entry(KEY, outputs, compression=compression))
    directory = bytes(data).index(b"PK\x01\x02")  # the directory, zip's last record, the checksum and the manifest
    assert len(data) - directory > 400
    missed = []
    for at in range(directory, len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            if not is_refused(bytes(data)):
                missed.append((at - directory, bit))
            data[at] ^= 1 << bit
    assert missed == []


@both_compressions
def test_a_flip_of_each_bit_of_a_small_entry_is_refused(compression):
    data = bytearray(encode_entry(KEY, {"x": np.arange(20)}, compression=compression))
    missed = []
    for at in range(len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            if not is_refused(bytes(data)):
                missed.append((at, bit))
            data[at] ^= 1 << bit
    assert missed == []


@both_compressions
@pytest.mark.parametrize("appended", [b"\0", b"\n", b"PK\x05\x06", b"PK\x05\x06" + bytes(18), b"x" * 70_000])
def test_appended_bytes_are_refused(compression, appended):
    data = encode_entry(KEY, OUTPUTS, compression=compression)
    assert is_refused(data + appended)
    assert is_refused(data + data[-22:] + appended)


@both_compressions
def test_bytes_put_in_front_are_refused(compression):
    data = encode_entry(KEY, OUTPUTS, compression=compression)
    assert is_refused(b"\0" + data)
    assert is_refused(data + data)


def test_an_entry_of_another_key_is_refused():
    data = encode_entry(KEY, OUTPUTS)
    others = [
        AudioCacheKey("d" * 64, KEY.processor_sha, 16000, 30000, True),
        AudioCacheKey(KEY.blob_sha, KEY.processor_sha[:12] + "0" * 52, 16000, 30000, True),  # the same file name
        AudioCacheKey(KEY.blob_sha, KEY.processor_sha, 8000, 30000, True),
        AudioCacheKey(KEY.blob_sha, KEY.processor_sha, 16000, 0, True),
        AudioCacheKey(KEY.blob_sha, KEY.processor_sha, 16000, 30000, False),
        KEY.waveform_key(),
    ]
    for other in others:
        with pytest.raises(CorruptEntryError, match="another key"):
            open_entry(data, other)
    with pytest.raises(CorruptEntryError, match="another key"):
        open_entry(encode_entry(KEY.waveform_key(), {"waveform": PCM}), KEY)


NO_ZIPS = {
    "empty": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "html": b"<html>503 Service Unavailable</html>" * 100,
    "zeros": bytes(4096),
    "a npy": savez(x=np.arange(3))[39:],
    "end of directory": b"PK\x05\x06",
    "empty zip": b"PK\x05\x06" + bytes(18),
    "directory far away": b"PK\x05\x06" + bytes(4) + b"\xff" * 12 + bytes(2),
    "wav": b"RIFF\x24\0\0\0WAVEfmt ",
    "pickle": pickle.dumps({"input_features": [1, 2]}),
}


@pytest.mark.parametrize("content", NO_ZIPS.values(), ids=NO_ZIPS)
def test_what_is_no_entry_is_refused(content):
    with pytest.raises(CorruptEntryError):
        open_entry(content, KEY)


# Manifests that lie, under a checksum that is right -------------------------------------------------------------------

RAW = encode_entry(KEY, {"x": np.arange(12, dtype="<f4").reshape(3, 4), "y": np.arange(12, dtype="<f4")})
FRAME = encode_entry(KEY, {"x": random_array("<f4", (30, 40))}, compression="blosc")
TAIL = encode_entry(KEY, {"x": np.eye(30, 90, dtype="<f4")}, compression="blosc")
PCM16 = encode_entry(KEY, {"waveform": PCM[::7]}, compression="blosc")
JSON = encode_entry(KEY, {"x": 1234})
BASES = {"raw": RAW, "frame": FRAME, "tail": TAIL, "pcm16": PCM16, "json": JSON}


def test_the_bases_of_the_lies_are_good():
    assert {name: codecs(data)[0] for name, data in BASES.items()} == {
        "raw": "raw",
        "frame": "blosc",
        "tail": "blosc",
        "pcm16": "pcm16",
        "json": "json",
    }
    assert split(TAIL)[1]["members"][0]["tail"][0] == 60
    for data in BASES.values():
        assert sign(*split(data)) == data
        assert not is_refused(data)


def check_refused(data, limit=1 << 24):
    """Check that an entry is refused when it is opened or read, without ever taking more than `limit` bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(CorruptEntryError):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def with_member(data, **changes):
    body, manifest = split(data)
    manifest["members"][0].update(changes)
    return sign(body, manifest)


BROKEN_NUMBERS = [-1, 1.0, True, "1", None, [1], {}]


@pytest.mark.parametrize("offset", [*BROKEN_NUMBERS, 0, 36, 38, 1 << 20, 1 << 31, 1 << 63, 1 << 200], ids=str)
@pytest.mark.parametrize("base", BASES)
def test_a_lying_offset_is_refused(base, offset):
    check_refused(with_member(BASES[base], offset=offset))


def test_the_offset_of_another_member_is_refused():
    other = split(RAW)[1]["members"][1]["offset"]
    check_refused(with_member(RAW, offset=other))


LYING_SHAPES = [[1 << 62], [1 << 31, 1 << 31], [1 << 36], [1 << 200], [-1], [-3, -4], [0], [0, 1 << 62], [1] * 100]
LYING_SHAPES += [[], [3.0, 4], ["3", 4], [True, 12], "12", 12, None, [None], [[3, 4]], {"3": 4}, [13], [3, 5], [3, 3]]


@pytest.mark.parametrize("shape", LYING_SHAPES, ids=lambda shape: str(shape)[:20])
@pytest.mark.parametrize("base", BASES)
def test_a_lying_shape_is_refused(base, shape):
    check_refused(with_member(BASES[base], shape=shape))


def test_a_shape_of_as_many_bytes_is_refused_where_the_npy_says_another():
    check_refused(with_member(RAW, shape=[4, 3]))
    check_refused(with_member(RAW, shape=[12]))


LYING_DTYPES = [
    "<f8",
    "|O",
    "O",
    "<U1",
    "|S4",
    "|V4",
    "<i3",
    "<f3",
    "|b4",
    "<M8[s]",
    "f4",
    "float32",
    "",
    None,
    4,
    ["<f4"],
]


@pytest.mark.parametrize("dtype", [*LYING_DTYPES, "<f2", "|u2", "<c8"], ids=str)
@pytest.mark.parametrize("base", BASES)
def test_a_lying_dtype_is_refused(base, dtype):
    check_refused(with_member(BASES[base], dtype=dtype))


@pytest.mark.parametrize("dtype", [">f4", "<i4", "<u4"])
def test_a_dtype_of_as_many_bytes_is_refused_where_the_npy_says_another(dtype):
    check_refused(with_member(RAW, dtype=dtype))


@pytest.mark.parametrize(
    ("base", "codec"),
    [(base, codec) for base in BASES for codec in ("zstd", "", None, 1, ["raw"])]
    + [
        (base, codec)
        for base in BASES
        for codec in ("raw", "blosc", "pcm16", "json")
        if codec not in codecs(BASES[base])[0]
        and (base, codec) != ("json", "raw")  # JSON's bytes are an honest .npy of uint8
    ],
)
def test_a_lying_codec_is_refused(base, codec):
    check_refused(with_member(BASES[base], codec=codec))


@pytest.mark.parametrize(
    "tail",
    [
        [0, "00000000"],
        [61, "00000000"],
        [59, "00000000"],
        [90, "00000000"],
        [1 << 40, "00000000"],
        [-60, "00000000"],
        [60, ""],
        [60, "0000"],
        [60, "0000000000"],
        [60, "zz"],
        [60, 0],
        [60, None],
        [60],
        [60, "00000000", 1],
        [],
        "",
        0,
        60,
        "60",
        {},
        {"60": ""},
        ["60", "00000000"],
        [60.0, "00000000"],
        True,
        [True, "00000000"],
        False,
    ],
    ids=str,
)
def test_a_lying_tail_is_refused(tail):
    check_refused(with_member(TAIL, tail=tail))


@pytest.mark.parametrize("base", ["raw", "frame", "pcm16", "json"])
def test_a_tail_where_there_is_none_is_refused(base):
    check_refused(with_member(BASES[base], tail=[16, "00000000"]))


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x.npy", "x\n", None, 5, ["x"], "x" * 201], ids=str)
def test_a_lying_name_is_refused(name):
    check_refused(with_member(RAW, name=name))


def test_two_outputs_of_one_name_are_refused():
    check_refused(with_member(RAW, name="y"))


def test_many_outputs_cannot_add_up_to_a_bomb():
    body, manifest = split(encode_entry(KEY, {"x": np.zeros((1, 1 << 22), "<f4")}, compression="blosc"))
    [member] = manifest["members"]
    manifest["members"] = [{**member, "name": f"x{i}"} for i in range(400)]  # 6.7 GB of one frame of a few bytes
    with pytest.raises(CorruptEntryError):
        open_entry(sign(body, manifest), KEY)


@pytest.mark.parametrize("field", ["name", "codec", "dtype", "shape", "offset"])
def test_a_member_without_a_field_is_refused(field):
    body, manifest = split(RAW)
    del manifest["members"][0][field]
    check_refused(sign(body, manifest))


MANIFEST_LIES = {
    "version 2.0": {"version": 2.0},
    "version 12345": {"version": 12345},
    "version 0": {"version": 0},
    "version text": {"version": "1"},
    "version null": {"version": None},
    "no members": {"members": []},
    "members null": {"members": None},
    "members dict": {"members": {"x": 1}},
    "members text": {"members": "x"},
    "member null": {"members": [None]},
    "member list": {"members": [["x", "raw", "<f4", [3, 4], 35]]},
    "member unknown field": {"members": [{**split(RAW)[1]["members"][0], "pickle": "x"}]},
    "key null": {"key": None},
    "key empty": {"key": {}},
    "key more": {"key": {**split(RAW)[1]["key"], "later": 1}},
    "seconds text": {"compute_seconds": "long"},
    "seconds null": {"compute_seconds": None},
}


@pytest.mark.parametrize("lie", MANIFEST_LIES.values(), ids=MANIFEST_LIES)
def test_a_lying_manifest_is_refused(lie):
    body, manifest = split(RAW)
    check_refused(sign(body, {**manifest, **lie}))


@pytest.mark.parametrize("field", ["version", "key", "members", "compute_seconds"])
def test_a_manifest_without_a_field_is_refused(field):
    body, manifest = split(RAW)
    del manifest[field]
    check_refused(sign(body, manifest))


BROKEN_TEXTS = {
    "empty": b"",
    "no json": b"manifest",
    "half": b'{"version":1,',
    "list": b"[]",
    "number": b"1",
    "null": b"null",
    "text": b'"version"',
    "nested lists": b"[" * 50_000,
    "nested and closed": b"[" * 30_000 + b"]" * 30_000,
    "nested dicts": b'{"a":' * 10_000,
    "long number": b'{"version":' + b"1" * 10_000 + b"}",
    "not utf-8": b'{"version":"\xff\xfe"}',
    "utf-16": '{"version":1}'.encode("utf-16"),
    "nul": b"\0" * 100,
}


@pytest.mark.parametrize("text", BROKEN_TEXTS.values(), ids=BROKEN_TEXTS)
def test_a_broken_manifest_is_refused(text):
    check_refused(sign(split(RAW)[0], text))


def test_a_comment_shorter_than_its_checksum_is_refused():
    body, _ = split(RAW)
    for length in range(1, 16):
        check_refused(body[:-2] + length.to_bytes(2, "little") + b"0" * length)


def test_an_output_of_json_nested_too_deeply_is_refused():
    nested = b"[" * 100_000 + b"]" * 100_000
    body, manifest = split(encode_entry(KEY, {"x": "y" * (len(nested) - 2)}))
    start = body.index(b'"yyy')
    check_refused(sign(body[:start] + nested + body[start + len(nested) :], manifest))


# Frames that lie ------------------------------------------------------------------------------------------------------


def frame_start(data):
    """Return where the frame of the only member starts, behind the .npy header."""
    offset = split(data)[1]["members"][0]["offset"]
    return offset + 10 + int.from_bytes(data[offset + 8 : offset + 10], "little")


def with_frame_bytes(data, at, content):
    body, manifest = split(data)
    start = frame_start(data) + at
    return sign(body[:start] + content + body[start + len(content) :], manifest)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 4799, 4801, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("at", [4, 12], ids=["nbytes", "cbytes"])
@pytest.mark.parametrize("base", ["frame", "tail", "pcm16"])
def test_a_frame_that_lies_about_its_size_is_refused(base, at, size):
    check_refused(with_frame_bytes(BASES[base], at, size.to_bytes(4, "little")))


@pytest.mark.parametrize("n_bytes", [1 << 28, 1 << 30, (1 << 31) - 4])
def test_a_small_frame_cannot_claim_gigabytes(n_bytes):
    lie = with_frame_bytes(with_member(FRAME, shape=[n_bytes // 4]), 4, n_bytes.to_bytes(4, "little"))
    check_refused(lie)


READ_EACH = """
import pickle, sys
from hf_audio_cache.cache.entry import open_entry
from hf_audio_cache.errors import CorruptEntryError
key, entries = pickle.load(sys.stdin.buffer)
results = []
for data in entries:
    try:
        [array] = open_entry(data, key).read_all().values()
        results.append((array.dtype.str, array.shape, array.tobytes()))
    except CorruptEntryError:
        results.append(None)
sys.stdout.buffer.write(pickle.dumps(results))
"""


def read_in_a_child(entries):
    """Return dtype, shape and bytes of the only output of each entry, or None: Blosc is C, and could crash."""
    child = subprocess.run(
        [sys.executable, "-c", READ_EACH], input=pickle.dumps((KEY, entries)), capture_output=True, check=False
    )
    assert child.returncode == 0, child.stderr.decode()
    return pickle.loads(child.stdout)


def test_a_flip_of_each_bit_of_a_frames_sizes_is_refused():
    lies, expected = [], []
    for data in (FRAME, TAIL):
        [array] = read(data).values()
        start = frame_start(data)
        for at in (*range(4, 8), *range(12, 16)):
            for bit in range(8):
                lies.append(with_frame_bytes(data, at, bytes([data[start + at] ^ 1 << bit])))
                expected.append(array)
    for result, array in zip(read_in_a_child(lies), expected, strict=True):
        assert result is None or result == (array.dtype.str, array.shape, array.tobytes())


def test_damaged_frames_never_crash_nor_change_dtype_or_shape():
    rng = random.Random(3)
    lies = []
    for data in (FRAME, TAIL):
        length = int.from_bytes(data[frame_start(data) + 12 :][:4], "little")
        for _ in range(400):
            at = rng.choice([rng.randrange(16), rng.randrange(16, 64), rng.randrange(length)])
            lies.append(with_frame_bytes(data, at, rng.randbytes(rng.choice([1, 1, 2, 4]))))
    arrays = [read(FRAME)["x"]] * 400 + [read(TAIL)["x"]] * 400
    results = read_in_a_child(lies)
    assert any(result is None for result in results)
    for result, array in zip(results, arrays, strict=True):
        assert result is None or result[:2] == (array.dtype.str, array.shape)


# Files of other programs ----------------------------------------------------------------------------------------------


def test_a_file_of_savez_is_an_entry():
    arrays = {
        "input_features": random_array("<f4", (80, 300)),
        "mask": np.ones(300, bool),
        "fortran": np.asfortranarray(random_array(">f8", (3, 4))),
        "scalar": np.array(5),
        "nothing": np.zeros((0, 3)),
    }
    entry = open_entry(savez(**arrays), KEY)
    assert entry.names == tuple(arrays)
    again = entry.read_all()
    assert all(is_same(again[name], arrays[name]) and again[name].flags.c_contiguous for name in arrays)


def test_a_file_of_savez_compressed_is_an_entry():
    buffer = io.BytesIO()
    features = random_array("<f4", (80, 300))
    np.savez_compressed(buffer, input_features=features)
    assert is_same(read(buffer.getvalue())["input_features"], features)


def test_positional_arrays_of_savez_are_an_entry():
    buffer = io.BytesIO()
    np.savez(buffer, np.arange(3), np.arange(4))
    assert list(read(buffer.getvalue())) == ["arr_0", "arr_1"]


def zip_of(*members, compression=zipfile.ZIP_STORED, comment=b""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
        archive.comment = comment
    return buffer.getvalue()


def npy(array, **settings):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **settings)
    return buffer.getvalue()


def patched(data, *, local=None, central=None, offset, width):
    """Overwrite one number in the first local header and in the directory of a zip."""
    data = bytearray(data)
    for signature, value, start in ((b"PK\x03\x04", local, offset), (b"PK\x01\x02", central, offset + 2)):
        if value is not None:
            at = bytes(data).index(signature) + start
            data[at : at + width] = value.to_bytes(width, "little")
    return bytes(data)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


PLAIN = zip_of(("x.npy", npy(np.arange(12))))
HUGE_HEADER = (
    b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }".ljust(119) + b"\n"
)
STRANGE_ZIPS = {
    "no members": zip_of(),
    "a text": zip_of(("notes.txt", b"hello")),
    "a text among arrays": zip_of(("x.npy", npy(np.arange(3))), ("notes.txt", b"hello")),
    "no npy": zip_of(("x.npy", b"hello")),
    "half a npy": zip_of(("x.npy", npy(np.arange(12))[:-1])),
    "more than a npy": zip_of(("x.npy", npy(np.arange(12)) + b"\0")),
    "an empty member": zip_of(("x.npy", b"")),
    "a header alone": zip_of(("x.npy", npy(np.arange(12))[:128])),
    "nested": zip_of(("folder/x.npy", npy(np.arange(3)))),
    "leaves the folder": zip_of(("../../x.npy", npy(np.arange(3)))),
    "absolute": zip_of(("/etc/x.npy", npy(np.arange(3)))),
    "a member of ours": zip_of(("x.blosc.npy", npy(np.arange(3, dtype=np.uint8)))),
    "objects": zip_of(("x.npy", npy(np.array([Bomb()], dtype=object)))),
    "a pickle": zip_of(("x.npy", pickle.dumps(Bomb()))),
    "text array": zip_of(("x.npy", npy(np.array(["a"])))),
    "records": zip_of(("x.npy", npy(np.zeros(3, [("a", "f4")])))),
    "times": zip_of(("x.npy", npy(np.zeros(3, "M8[s]")))),
    "a shape of terabytes": zip_of(("x.npy", HUGE_HEADER % (1 << 40))),
    "a shape beyond all": zip_of(("x.npy", HUGE_HEADER % (1 << 62))),
    "a shape of 512 MB": zip_of(("x.npy", HUGE_HEADER % (1 << 27))),
    "a comment": zip_of(("x.npy", npy(np.arange(3))), comment=b"made by another program"),
    "a comment like ours": zip_of(("x.npy", npy(np.arange(3))), comment=b"0" * 16 + b'{"version":1}'),
    "encrypted": patched(PLAIN, local=1, central=1, offset=6, width=2),
    "unknown compression": patched(PLAIN, local=99, central=99, offset=8, width=2),
    "wrong checksum": patched(PLAIN, local=1, central=1, offset=14, width=4),
    "size too large": patched(PLAIN, local=1 << 30, central=1 << 30, offset=22, width=4),
    "bomb": patched(zip_of(("x.npy", npy(np.arange(12))), compression=8), central=(1 << 32) - 2, offset=22, width=4),
}


@pytest.mark.parametrize("data", STRANGE_ZIPS.values(), ids=STRANGE_ZIPS)
def test_a_strange_zip_is_refused(data):
    check_refused(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_a_zip_whose_sizes_lie_does_not_unpack_to_more(method):
    content = npy(np.arange(12)) + bytes(1 << 26)
    data = zip_of(("x.npy", content), compression=method)
    size = len(npy(np.arange(12)))
    check_refused(patched(data, local=size, central=size, offset=22, width=4))


def test_a_flip_of_each_bit_of_a_small_file_of_savez_gives_the_same_array_or_none():
    array = np.arange(12, dtype="<f4").reshape(3, 4)
    data = bytearray(savez(x=array))
    wrong = []
    for at in range(len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            if not is_refused(bytes(data)) and not is_same(next(iter(read(bytes(data)).values())), array):
                wrong.append((at, bit))
            data[at] ^= 1 << bit
    assert wrong == []


def test_a_flip_of_each_bit_of_the_headers_of_savez_gives_the_same_array_or_none():
    array = random_array("<f4", (80, 3000))
    data = bytearray(savez(input_features=array))
    headers = bytes(data).index(b"\n") + 1
    wrong = []
    for at in [*range(headers), *range(bytes(data).rindex(b"PK\x01\x02"), len(data))]:
        for bit in range(8):
            data[at] ^= 1 << bit
            try:
                outputs = read(bytes(data))
            except CorruptEntryError:
                outputs = {"input_features": array}
            data[at] ^= 1 << bit
            if list(outputs) != ["input_features"] or not is_same(outputs["input_features"], array):
                wrong.append((at, bit))
    assert wrong == []


def test_truncated_and_flipped_files_of_savez_give_the_same_array_or_none():
    array = random_array("<f4", (80, 300))
    data = savez(input_features=array)
    rng = random.Random(4)
    assert all(is_refused(data[: rng.randrange(len(data))]) for _ in range(400))
    for _ in range(400):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        assert is_refused(bytes(flipped)) or is_same(read(bytes(flipped))["input_features"], array)

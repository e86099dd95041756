from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import soundfile
import xxhash
from assertions import all_same, is_same
from children import in_child
from crafted_entries import FAMILIES, HONEST, agrees
from entry_tools import KEY, base, manifest_of, payload_start, savez, with_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hf_audio_cache import AudioCacheKey, WaveformCacheKey
from hf_audio_cache.cache.entry import encode_entry, open_entry
from hf_audio_cache.errors import CorruptEntryError, UnstorableOutputError

WAVEFORM_KEY = WaveformCacheKey("c0535e4b" * 8, 16000, 0)
COMPRESSIONS = [None, "blosc"]

both_compressions = pytest.mark.parametrize("compression", COMPRESSIONS)


def read(data, key=KEY):
    return open_entry(data, key).read_all()


def is_refused(data, key=KEY):
    """Whether an entry is found to be corrupt when it is opened or read; nothing else may be raised."""
    try:
        read(data, key)
    except CorruptEntryError:
        return True
    return False


def codecs(data):
    return [member["codec"] for member in manifest_of(data)["members"]]


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
def test_every_dtype_comes_back_bit_for_bit(layout, compression):
    for dtype in DTYPES:
        array = LAYOUTS[layout](random_array(dtype, (5, 4, 30)))
        entry = open_entry(encode_entry(KEY, {"input_features": array}, compression=compression), KEY)
        again = entry.read("input_features")
        assert is_same(again, array)
        assert again.flags.c_contiguous
        assert again.flags.writeable
        again[...] = 0
        assert is_same(entry.read("input_features"), array)


SHAPES = [(), (0,), (1,), (0, 80), (80, 0), (1, 1, 1, 1), (16,), (17,), (2, 17), (1,) * 32]


@both_compressions
@pytest.mark.parametrize("dtype", ["|b1", "<f4", ">f8", "<c16"])
def test_every_shape_comes_back(dtype, compression):
    for shape in SHAPES:
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
        for member, name in zip(manifest_of(data)["members"], npz.files, strict=True):
            stream = io.BytesIO(data)
            stream.seek(member["offset"])
            assert is_same(np.lib.format.read_array(stream, allow_pickle=False), npz[name])


@both_compressions
def test_a_waveform_key_is_in_the_manifest_whole(compression):
    data = encode_entry(WAVEFORM_KEY, {"waveform": np.zeros(3, np.float32)}, compression=compression)
    assert manifest_of(data)["key"] == {
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


@pytest.mark.parametrize(("shape", "value"), [((80, 1000), 0.0), ((1000,), -0.0), ((2, 3, 100), np.nan), ((99,), -1.5)])
def test_a_constant_tail_is_left_out_and_comes_back(shape, value):
    array = random_array("<f4", shape).copy()
    array[..., 60:] = value
    data = encode_entry(KEY, {"input_features": array}, compression="blosc")
    [member] = manifest_of(data)["members"]
    assert member["tail"] == [shape[-1] - 60, np.float32(value).tobytes().hex()]
    assert is_same(read(data)["input_features"], array)


def test_an_array_of_one_value_keeps_one_column():
    data = encode_entry(KEY, {"attention_mask": np.ones((2, 500), np.int64)}, compression="blosc")
    assert manifest_of(data)["members"][0]["tail"] == [499, "0100000000000000"]
    assert is_same(read(data)["attention_mask"], np.ones((2, 500), np.int64))


def test_a_tail_of_other_zeros_is_no_tail():
    array = np.zeros((2, 100), np.float32)
    array[1, 50:] = -0.0
    data = encode_entry(KEY, {"x": array}, compression="blosc")
    assert "tail" not in manifest_of(data)["members"][0]
    assert is_same(read(data)["x"], array)


# What cannot be stored ------------------------------------------------------------------------------------------------


UNSTORABLE = [np.array([None, 1]), np.array(["a", "bc"]), np.array([b"a"]), np.zeros(3, [("a", "f4")])]
UNSTORABLE += [np.zeros(3, "V4"), np.array(["2026-01-01"], "M8[D]"), np.array([1], "m8[s]"), np.float32(1)]
UNSTORABLE += [[np.zeros(3)], object(), {1, 2}, b"bytes", float("nan"), [1.0, float("inf")]]


@both_compressions
def test_an_output_that_no_entry_can_hold_is_named(compression):
    for value in UNSTORABLE:
        with pytest.raises(UnstorableOutputError, match=r"'input_features'.*nothing was stored") as caught:
            encode_entry(KEY, {"input_features": value}, compression=compression)
        assert caught.value.name == "input_features"


def test_json_that_is_nested_too_deeply_cannot_be_stored():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(UnstorableOutputError, match=r"'chunks'.*nothing was stored"):
        encode_entry(KEY, {"chunks": nested})


def test_a_name_that_is_no_identifier_cannot_be_stored():
    for name in ("", "a/b", "../x", "a.b", "a b", "1a", "ä", "a\n", "x" * 201, 5, None):
        with pytest.raises(UnstorableOutputError, match=r"must be an identifier.*nothing was stored"):
            encode_entry(KEY, {name: np.zeros(3)})


def test_an_entry_of_nothing_cannot_be_stored():
    with pytest.raises(UnstorableOutputError, match="at least one output"):
        encode_entry(KEY, {})


def test_a_manifest_over_60_kb_cannot_be_stored():
    def outputs(n):
        return {f"output_{i:03}_{'x' * 180}": np.zeros(1) for i in range(n)}

    fits = next(n for n in range(150, 300) if len(json.dumps(manifest_of(encode_entry(KEY, outputs(n))))) > 59_500)
    data = encode_entry(KEY, outputs(fits))
    assert len(read(data)) == fits
    with np.load(io.BytesIO(data), allow_pickle=False) as npz:
        assert len(npz.files) == fits
    with pytest.raises(UnstorableOutputError, match="60000 bytes"):
        encode_entry(KEY, outputs(fits + 20))


# Damage ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raw", "json", "tail", "pcm16"])
def test_every_truncation_and_every_flipped_bit_of_a_small_entry_is_refused(kind):
    data = bytearray(base(kind))
    assert [length for length in range(len(data)) if not is_refused(bytes(data[:length]))] == []
    missed = []
    for at in range(len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            if not is_refused(bytes(data)):
                missed.append((at, bit))
            data[at] ^= 1 << bit
    assert missed == []


@both_compressions
def test_bytes_more_are_refused(compression):
    data = encode_entry(KEY, OUTPUTS, compression=compression)
    assert is_refused(data + data)
    for more in (b"\0", b"\n", b"PK\x05\x06", b"PK\x05\x06" + bytes(18), b"x" * 70_000):
        assert is_refused(data + more)
        assert is_refused(data + data[-22:] + more)
        assert is_refused(more + data)


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


# Manifests, frames, headers and zips that lie, under right checksums --------------------------------------------------


def read_all_of(family):
    """Read each entry of a family; return those that are neither refused nor right."""
    wrong = []
    for label, content in FAMILIES[family].make().items():
        try:
            outputs = read(content)
        except CorruptEntryError:
            continue
        is_honest = any(all_same(outputs, honest) for honest in HONEST)
        if not (is_honest or (FAMILIES[family].may_differ and agrees(content, outputs))):
            wrong.append(label)
    return wrong


# What takes much memory or time is read in the fault suite, with limits.
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("amplifications", "zip bombs")])
def test_a_crafted_entry_is_refused(family):
    is_for_blosc = family == "lying frames"  # which is C, and could crash
    assert (in_child(read_all_of, family) if is_for_blosc else read_all_of(family)) == []


@pytest.mark.parametrize("kind", ["noise", "tail", "pcm16"])
def test_a_frame_that_lies_about_its_size_is_refused_before_it_is_decoded(kind):
    frame = payload_start(base(kind))
    for at in (4, 12):  # of what it decodes to, and its own
        for size in (0, 1, 15, 16, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1):
            assert is_refused(with_bytes(base(kind), frame + at, size.to_bytes(4, "little"))), (at, size)
    assert is_refused(with_bytes(base(kind), frame + 3, b"\x07"))  # of items of 7 bytes


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


def test_compressed_and_positional_arrays_of_savez_are_entries():
    buffer = io.BytesIO()
    features = random_array("<f4", (80, 300))
    np.savez_compressed(buffer, input_features=features)
    assert is_same(read(buffer.getvalue())["input_features"], features)
    buffer = io.BytesIO()
    np.savez(buffer, np.arange(3), np.arange(4))
    assert list(read(buffer.getvalue())) == ["arr_0", "arr_1"]


def test_a_flip_of_each_bit_of_a_small_file_of_savez_gives_the_same_arrays_or_none():
    """Zip's checksums cover the arrays, and not the directory that lists them."""
    outputs = {"x": np.arange(12, dtype="<f4").reshape(3, 4), "y": np.ones(3, bool)}
    data = bytearray(savez(**outputs))
    wrong = []
    for at in range(len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            if not is_refused(bytes(data)) and not all_same(read(bytes(data)), outputs):
                wrong.append((at, bit))
            data[at] ^= 1 << bit
    assert wrong == []

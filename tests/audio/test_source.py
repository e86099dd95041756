from __future__ import annotations

import array
import hashlib
import http.server
import io
import json
import os
import re
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_audio_cache.audio.source import is_audio_cell, read_source
from hf_audio_cache.errors import AudioSourceError

ENCODED = b"RIFF\x24\0\0\0WAVEfmt made up, and with zeros at its end\0\0\0"
SHA = hashlib.sha256(ENCODED).hexdigest()
ARRAY = np.array([0.5, -0.25, 0.125], np.float32)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip one.wav"
    path.write_bytes(ENCODED)
    return path


# Encoded bytes --------------------------------------------------------------------------------------------------------

BYTES = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "strided memoryview": lambda encoded: memoryview(b"".join(bytes([byte, 0]) for byte in encoded))[::2],
    "NumPy uint8": lambda encoded: np.frombuffer(encoded, np.uint8),
    "array": lambda encoded: array.array("B", encoded),
}


@pytest.mark.parametrize("form", BYTES.values(), ids=BYTES)
def test_every_form_of_bytes_in_a_dict_is_the_same_clip(form):
    source = read_source({"bytes": form(ENCODED), "path": "a.wav"})
    assert (source.content, source.blob_sha, source.clip, source.source_rate) == (ENCODED, SHA, "a.wav", None)
    assert type(source.content) is bytes


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_bare_bytes_are_named_by_their_sha(form):
    source = read_source(form(ENCODED))
    assert (source.content, source.blob_sha) == (ENCODED, SHA)
    assert source.clip == f"the clip with sha256 {SHA[:12]}"


@pytest.mark.parametrize("cell", [{"bytes": ENCODED}, {"bytes": ENCODED, "path": None}])
def test_bytes_without_a_path_are_named_by_their_sha(cell):
    assert read_source(cell).clip == f"the clip with sha256 {SHA[:12]}"


def test_bytes_win_over_the_path():
    assert read_source({"bytes": ENCODED, "path": "/no/such/file.wav"}).blob_sha == SHA


def test_a_path_beside_bytes_is_a_text_in_messages(tmp_path):
    source = read_source({"bytes": ENCODED, "path": tmp_path / "a.wav"})
    assert source.clip == str(tmp_path / "a.wav")


def test_no_bytes_are_bytes_too():
    assert read_source(b"").blob_sha == hashlib.sha256(b"").hexdigest()
    assert read_source({"bytes": b"", "path": None}).content == b""


@pytest.mark.parametrize("wrap", [lambda encoded: encoded, lambda encoded: {"bytes": encoded, "path": "a.wav"}])
def test_numpy_strings_are_refused(wrap):
    lossy = np.array([ENCODED])[0]
    assert len(lossy) == len(ENCODED) - 3  # what makes them useless
    with pytest.raises(AudioSourceError, match="are a NumPy string, which has lost any zeros"):
        read_source(wrap(lossy))


# Paths and URLs -------------------------------------------------------------------------------------------------------

PATHS = {
    "text": str,
    "Path": Path,
    "NumPy text": lambda path: np.array([str(path)])[0],
    "dict": lambda path: {"bytes": None, "path": str(path)},
    "dict of a Path": lambda path: {"path": path},
    "entry of a folder of bytes": lambda path: _entry_of(path),
    "dict of such an entry": lambda path: {"path": _entry_of(path)},
    "file URL": lambda path: f"file://{path}",
    "dict of a file URL": lambda path: {"bytes": None, "path": f"file://{path}"},
}


def _entry_of(path):
    with os.scandir(os.fsencode(path.parent)) as entries:
        return next(entry for entry in entries if os.fsdecode(entry) == str(path))


@pytest.mark.parametrize("form", PATHS.values(), ids=PATHS)
def test_a_path_is_the_file(clip, form):
    source = read_source(form(clip))
    assert (source.content, source.blob_sha) == (ENCODED, hashlib.sha256(clip.read_bytes()).hexdigest())
    assert source.clip.endswith(str(clip))
    assert type(source.content) is bytes


def test_a_member_of_a_zip_is_read_by_its_url(tmp_path):
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.writestr("folder/a.wav", ENCODED)
    url = f"zip://folder/a.wav::{tmp_path}/clips.zip"
    source = read_source({"path": url, "bytes": None})
    assert (source.content, source.blob_sha, source.clip) == (ENCODED, SHA, url)
    with pytest.raises(AudioSourceError, match=r"missing\.wav") as caught:
        read_source(f"zip://missing.wav::{tmp_path}/clips.zip")
    assert caught.value.clip == f"zip://missing.wav::{tmp_path}/clips.zip"


@pytest.fixture
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path == "/a.wav"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(ENCODED) if found else 0))
            self.end_headers()
            self.wfile.write(ENCODED if found else b"")

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_url_is_read(server):
    source = read_source({"path": f"{server}/a.wav", "bytes": None})
    assert (source.content, source.blob_sha, source.clip) == (ENCODED, SHA, f"{server}/a.wav")
    with pytest.raises(AudioSourceError, match=r"/missing.wav could not be read \(FileNotFoundError"):
        read_source(f"{server}/missing.wav")


@pytest.mark.parametrize("form", [str, lambda path: {"path": str(path)}, lambda path: f"file://{path}"])
def test_a_missing_file_is_named(tmp_path, form):
    cell = form(tmp_path / "missing.wav")
    with pytest.raises(AudioSourceError, match=r"missing.wav could not be read \(FileNotFoundError") as caught:
        read_source(cell)
    assert caught.value.clip == (cell["path"] if isinstance(cell, dict) else cell)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert "bare file name" not in str(caught.value)


def test_a_bare_file_name_says_that_its_bytes_were_not_kept():
    with pytest.raises(
        AudioSourceError, match=r"It is a bare file name: the dataset was stored without the bytes"
    ) as caught:
        read_source({"bytes": None, "path": "clip.wav"})
    assert caught.value.clip == "clip.wav"


@pytest.mark.parametrize("path", ["", "nosuchprotocol://x/a.wav", "/", "a\0b.wav", "http://127.0.0.1:1/a.wav"])
def test_what_cannot_be_opened_is_an_error_of_the_clip(path):
    with pytest.raises(
        AudioSourceError, match=f"^The audio file {re.escape(path) or repr(path)} could not be read"
    ) as caught:
        read_source(path)
    assert caught.value.clip == path


# Decoders of datasets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_bytes", [True, False])
def test_a_decoder_is_taken_by_what_it_was_made_of(clip, as_bytes):
    encoded = {"bytes": ENCODED, "path": "a.wav"} if as_bytes else {"bytes": None, "path": str(clip)}
    source = read_source(SimpleNamespace(_hf_encoded=encoded))
    assert (source.content, source.blob_sha) == (ENCODED, SHA)
    assert source.clip == encoded["path"]


# Decoded arrays -------------------------------------------------------------------------------------------------------


def sha_of_array(samples, rate):
    header = json.dumps([samples.dtype.str, samples.shape, rate]).encode()
    return hashlib.sha256(b"\0hf_audio_cache: decoded array\0" + header + samples.tobytes()).hexdigest()


def test_a_decoded_array_is_hashed_with_its_form_in_a_domain_of_its_own():
    source = read_source({"array": ARRAY, "sampling_rate": 16000, "path": "a.wav"})
    assert source.blob_sha == sha_of_array(ARRAY, 16000)
    assert source.content is ARRAY or np.array_equal(source.content, ARRAY)
    assert (source.source_rate, source.clip) == (16000, "a.wav")
    assert source.blob_sha != hashlib.sha256(ARRAY.tobytes()).hexdigest()


def test_whatever_decides_a_decoded_clip_decides_its_key():
    cells = [
        (ARRAY, 16000),
        (ARRAY, 8000),
        (ARRAY.astype(np.float64), 16000),
        (ARRAY.astype(">f4"), 16000),
        (ARRAY.reshape(1, 3), 16000),
        (ARRAY.reshape(3, 1), 16000),
        (ARRAY[:2], 16000),
        (ARRAY.view(np.int32), 16000),
        (np.append(ARRAY, np.float32(0)), 16000),
        (ARRAY * -1, 16000),
        (np.array([0.0], np.float32), 16000),
        (np.array([-0.0], np.float32), 16000),
        (np.array([], np.float32), 16000),
    ]
    keys = [read_source({"array": samples, "sampling_rate": rate}).blob_sha for samples, rate in cells]
    assert len(set(keys)) == len(cells)


LAYOUTS = {
    "strided": lambda samples: np.repeat(samples, 2)[::2],
    "reversed": lambda samples: samples[::-1].copy()[::-1],
    "read-only": lambda samples: np.frombuffer(samples.tobytes(), samples.dtype),
    "list": lambda samples: samples.tolist(),
    "tuple": lambda samples: tuple(samples.tolist()),
}


@pytest.mark.parametrize("rate", [np.int64(16000), 16000.0, np.float32(16000)], ids=repr)
def test_a_rate_has_the_same_key_in_every_form(rate):  # pandas makes floats of integers beside a missing one
    source = read_source({"array": ARRAY, "sampling_rate": rate})
    assert source.blob_sha == read_source({"array": ARRAY, "sampling_rate": 16000}).blob_sha
    assert type(source.source_rate) is int


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_same_samples_have_the_same_key_in_every_form(layout):
    expected = read_source({"array": ARRAY, "sampling_rate": 16000})
    source = read_source({"array": layout(ARRAY), "sampling_rate": np.int64(16000)})
    assert source.blob_sha == expected.blob_sha
    assert source.content.dtype == np.float32
    assert np.array_equal(source.content, ARRAY)
    assert source.content.flags.c_contiguous


@settings(max_examples=50)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=10))
def test_a_list_that_arrow_made_of_float32_has_the_key_of_the_array(samples):
    from_list = read_source({"array": samples, "sampling_rate": 16000})
    from_array = read_source({"array": np.array(samples, np.float32), "sampling_rate": 16000})
    assert from_list.blob_sha == from_array.blob_sha


def test_a_list_of_float64_keeps_its_precision():
    assert read_source({"array": [0.1, 0.2], "sampling_rate": 16000}).content.dtype == np.float64
    assert read_source({"array": [1e300], "sampling_rate": 16000}).content.tolist() == [1e300]


@pytest.mark.parametrize(
    "rate", [None, 0, -16000, 16000.5, "16000", True, np.array([16000, 8000]), float("nan"), float("inf")], ids=repr
)
def test_a_decoded_array_without_a_rate_is_refused(rate):
    with pytest.raises(AudioSourceError, match="Pass its rate in Hz") as caught:
        read_source({"array": ARRAY, "sampling_rate": rate, "path": "a.wav"})
    assert caught.value.clip == "a.wav"
    with pytest.raises(AudioSourceError, match="the sampling_rate None"):
        read_source({"array": ARRAY})


def test_masked_samples_are_an_error_of_the_clip():
    samples = np.ma.masked_array(np.ones(4, np.float32), [False, True, False, False])
    with pytest.raises(AudioSourceError, match=r"masked samples.*array\.filled\(0\)") as caught:
        read_source({"array": samples, "sampling_rate": 16000, "path": "x.wav"})
    assert caught.value.clip == "x.wav"
    samples.mask = False  # then it is an array like others
    plain = read_source({"array": np.ones(4, np.float32), "sampling_rate": 16000})
    assert read_source({"array": samples, "sampling_rate": 16000}).blob_sha == plain.blob_sha


def test_a_mask_of_another_library_is_its_own_matter():
    class Samples:
        _mask = None

        def __array__(self, dtype=None, copy=None):
            return ARRAY

    source = read_source({"array": Samples(), "sampling_rate": 16000})
    assert source.blob_sha == read_source({"array": ARRAY, "sampling_rate": 16000}).blob_sha


class Tensor:
    """One that its library does not convert, as torch's that are in bfloat16, or have a gradient."""

    def __init__(self, error):
        self.error = error

    def __str__(self):
        return f"a tensor: {self.error}"

    def __array__(self, dtype=None, copy=None):
        raise self.error


@pytest.mark.parametrize(
    "samples",
    [[[1.0], [1.0, 2.0]], [1.0, [2.0]], Tensor(TypeError("BFloat16")), Tensor(RuntimeError("requires grad"))],
    ids=str,
)
def test_what_is_no_array_is_an_error_of_the_clip(samples):
    for path in ("a.wav", None):
        with pytest.raises(AudioSourceError, match="Pass samples as one array") as caught:
            read_source({"array": samples, "sampling_rate": 16000, "path": path})
        assert caught.value.clip == (path or f"an array of type {type(samples).__name__}")


def test_bytes_beside_an_array_do_not_matter():
    source = read_source({"array": ARRAY, "sampling_rate": 16000, "bytes": ENCODED})
    assert source.blob_sha == sha_of_array(ARRAY, 16000)
    assert read_source({"array": None, "sampling_rate": None, "bytes": ENCODED}).blob_sha == SHA


# What is no audio -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        (None, "None"),
        (5, "an object of type int"),
        (0.5, "an object of type float"),
        (ARRAY, r"a bare array of shape \(3,\) \(its rate is unknown\)"),
        ([0.5, 0.25], "a list of 2 values"),
        ({}, "an empty dict"),
        ({"bytes": None, "path": None}, "a dict of bytes: NoneType, path: NoneType"),
        ({"file": "a.wav"}, "a dict of file: str"),
        (io.BytesIO(ENCODED), "an object of type BytesIO"),
        (object(), "an object of type object"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_audio_is_described(cell, found):
    with pytest.raises(AudioSourceError, match=f"found {found}. It cannot be used"):
        read_source(cell)


@pytest.mark.parametrize(
    "content",
    ["text", 5, [1, 2], {"a": 1}, object(), pa.scalar(None, pa.binary())],
    ids=lambda value: type(value).__name__,
)
def test_bytes_that_are_none_are_refused(content):
    with pytest.raises(AudioSourceError, match="The encoded bytes of a clip are") as caught:
        read_source({"bytes": content, "path": "a.wav"})
    assert caught.value.clip == "a.wav"


@pytest.mark.parametrize("path", [5, ["a.wav"], {"a": 1}], ids=lambda value: type(value).__name__)
def test_a_path_that_is_none_is_refused(path):
    with pytest.raises(AudioSourceError):
        read_source({"bytes": None, "path": path})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"bytes": ENCODED, "path": None}, True),
        ({"path": "a.wav"}, True),
        ({"array": [0.0], "sampling_rate": 16000}, True),
        ({"array": [0.0], "sampling_rate": 16000, "path": "a.wav", "bytes": None}, True),
        ({"sampling_rate": 16000}, False),
        ({"audio": {"bytes": ENCODED}}, False),
        ({"bytes": ENCODED, "text": "hello"}, False),
        ({}, False),
        (None, False),
        ("a.wav", False),
        (["bytes"], False),
    ],
)
def test_a_cell_is_told_from_an_example(value, expected):
    assert is_audio_cell(value) is expected


def test_a_relative_path_in_a_working_directory_that_is_gone_is_an_error_of_the_clip(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(AudioSourceError, match="not the working directory, which is gone: pass that folder"):
        read_source("clips/one.wav")

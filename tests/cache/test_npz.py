from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from hf_audio_cache.cache import npz
from hf_audio_cache.cache.npz import NpzWriter

ARRAYS = {
    "one": {"input_features.blosc": np.arange(7, dtype=np.uint8)},
    "no axis, no items, other byte order": {
        "a": np.zeros((), ">c16"),
        "b": np.zeros((0, 80), bool),
        "c": np.arange(240, dtype=">f4").reshape(3, 80),
    },
    "32 axes": {"a": np.zeros((1,) * 32, np.float16)},
    "a long first axis": {"a": np.zeros(123_456, bool), "b": np.zeros((1, 123_456), bool)},
    "none": {},
}

each = pytest.mark.parametrize("arrays", ARRAYS.values(), ids=ARRAYS)


def written(arrays, comment=b"the comment"):
    writer = NpzWriter()
    offsets = [writer.add(f"{name}.npy", array) for name, array in arrays.items()]
    writer.end(len(comment))
    data = b"".join((*writer.parts, comment))
    assert all(data[offset : offset + 6] == b"\x93NUMPY" for offset in offsets)
    return data


@each
def test_the_bytes_are_those_of_zipfile_and_numpy(arrays):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.comment = b"the comment"
    assert written(arrays) == file.getvalue()


@each
@pytest.mark.parametrize("limit", [10, 300, 1500])
def test_what_needs_numbers_of_64_bits_is_read_by_zipfile_and_numpy(arrays, limit, monkeypatch):
    monkeypatch.setattr(npz, "_LIMIT", limit)
    data = written(arrays)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.comment == b"the comment"
        for info in archive.infolist():
            assert (info.extract_version == 45) == (info.file_size > limit or info.header_offset > limit)
    with np.load(io.BytesIO(data)) as archive:
        assert archive.files == list(arrays)
        for name, array in arrays.items():
            assert archive[name].tobytes() == array.tobytes()
            assert (archive[name].dtype, archive[name].shape) == (array.dtype, array.shape)

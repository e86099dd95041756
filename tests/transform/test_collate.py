"""The arrays of a batch as one array, without a copy where they are its rows."""

from __future__ import annotations

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets.arrow_writer import TypedSequence

from hf_audio_cache import CachedFeatures
from hf_audio_cache.transform.batch_formats import with_columns
from hf_audio_cache.transform.collate import collate

BASE = np.arange(5 * 3 * 4, dtype=np.float32).reshape(5, 3, 4).copy()

COPIED = {
    "another order": [BASE[1], BASE[0]],
    "one left out": [BASE[0], BASE[2]],
    "twice": [BASE[1], BASE[1]],
    "of two arrays": [BASE[0], BASE.copy()[1]],
    "columns of a Fortran array": list(np.asfortranarray(BASE[0]).T),
    "rows of a Fortran array": list(np.asfortranarray(BASE[0])),
    "parts of rows": [BASE[0][:, :2], BASE[1][:, :2]],
    "as other numbers": [BASE[0].view(np.int32), BASE[1].view(np.int32)],
    "backwards": list(BASE[::-1]),
    "between two rows": [BASE.reshape(-1)[6:18].reshape(3, 4), BASE.reshape(-1)[18:30].reshape(3, 4)],
    "of their own": [np.ones(3), np.zeros(3)],
    "empty": [np.empty((0, 3)), np.empty((0, 3))],
}


@pytest.mark.parametrize("rows", [slice(None), slice(1, 4), slice(4, 5)])
def test_rows_are_not_copied(rows):
    found = collate(list(BASE[rows]))
    assert np.shares_memory(found, BASE)
    assert np.array_equal(found, BASE[rows])


@pytest.mark.parametrize("arrays", COPIED.values(), ids=COPIED)
def test_other_arrays_are_stacked(arrays):
    found = collate(arrays)
    assert not any(np.shares_memory(found, array) for array in arrays)
    assert np.array_equal(found, np.stack(arrays))
    assert found.dtype == arrays[0].dtype


def test_arrays_of_two_shapes_are_no_batch():
    with pytest.raises(ValueError, match="same shape"):
        collate([np.ones(3), np.ones(4)])


_LIST = datasets.List(datasets.List(datasets.Value("float32")))


@pytest.mark.parametrize(
    ("values", "kind", "is_shared"),
    [
        (list(BASE), datasets.Array2D((3, 4), "float32"), True),
        (list(BASE[1:3]), datasets.Array2D((None, 4), "float32"), True),
        (list(BASE), _LIST, True),
        (list(np.ones((3, 4), np.float32)), datasets.List(datasets.Value("float32")), True),
        (list(BASE), datasets.List(datasets.List(datasets.Value("float64"))), False),
        ([BASE[0], BASE[2]], _LIST, False),
        ([BASE[0], None], _LIST, False),
    ],
)
def test_rows_become_a_column_of_arrow_without_a_copy(values, kind, is_shared):
    column = with_columns(pa.table({}), {"x": values}, lambda _: kind)["x"].chunk(0)
    column.validate(full=True)
    assert column.equals(pa.array(TypedSequence(values, type=kind)))
    buffers = [buffer.address for buffer in column.buffers() if buffer is not None]
    assert (values[0].__array_interface__["data"][0] in buffers) is is_shared


def test_what_is_attached_is_read_into_one_array(make_processor, prompts, tmp_path):
    import audio_datasets as data

    clips = data.shortest(prompts, 6)
    dataset = data.in_memory(clips)
    cached_features = CachedFeatures(make_processor("whisper_tiny"), tmp_path, auto_resample=True, features="always")
    computed = cached_features.attach(dataset)[:]["input_features"]
    references = cached_features.map(dataset)
    for rows in (cached_features.attach(dataset), cached_features.attach(references)):
        batch = rows[:]["input_features"]
        whole = cached_features.collate(batch)
        assert whole.shape == (6, *computed[0].shape)
        assert all(np.shares_memory(whole, row) for row in batch)
        assert np.array_equal(whole, np.stack(computed))
        batch[0][:] = 0  # rows do not lie over each other
        assert np.array_equal(batch[1], computed[1])
    stream = cached_features.attach(dataset.to_iterable_dataset())
    for row, expected in zip(stream, computed, strict=True):
        base = row["input_features"].base
        assert base is None or base.nbytes == row["input_features"].nbytes
        assert np.array_equal(row["input_features"], expected)

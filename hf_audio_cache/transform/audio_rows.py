"""The audio of a dataset, row by row, without decoding any."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..audio.source import AudioSource, read_source
from ..errors import AudioError
from .batch_formats import check_column

__all__ = ["audio_rows", "clip_shas", "encoded_sizes", "read_rows"]

_BATCH_ROWS = 64


def audio_rows(dataset: Any, audio_column: str) -> datasets.Dataset:
    """Return the audio column of a dataset, or of all datasets in a dict of them, as encoded bytes and paths.

    Raises
    ------
    AudioColumnError
        If there is no such column.
    TypeError
        If it is no dataset whose rows are counted.
    """
    if isinstance(dataset, datasets.DatasetDict):
        return datasets.concatenate_datasets([audio_rows(part, audio_column) for part in dataset.values()])
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(
            f"expected a Dataset or a DatasetDict, and got {type(dataset).__name__}; nothing was read. The rows of a "
            "stream are not counted: make a dataset of some of them."
        )
    check_column(audio_column, dataset.column_names)
    rows = dataset.with_format(None).select_columns([audio_column])
    if isinstance(rows.features[audio_column], datasets.Audio):
        rows = rows.cast_column(audio_column, datasets.Audio(decode=False))
    return rows


def read_rows(rows: datasets.Dataset, audio_column: str) -> Iterator[list[AudioSource | AudioError]]:
    """Yield the content of each row, or why it cannot be had; a batch at a time."""
    for start in range(0, len(rows), _BATCH_ROWS):
        yield [_read(cell) for cell in rows[start : start + _BATCH_ROWS][audio_column]]


def _read(cell: Any) -> AudioSource | AudioError:
    try:
        return read_source(cell)
    except AudioError as exc:
        return exc


def clip_shas(dataset: Any, audio_column: str) -> set[str]:
    """Return the ``blob_sha`` of each clip of a dataset that can be read."""
    rows = audio_rows(dataset, audio_column)
    return {
        source.blob_sha
        for batch in read_rows(rows, audio_column)
        for source in batch
        if isinstance(source, AudioSource)
    }


def encoded_sizes(rows: datasets.Dataset, audio_column: str) -> npt.NDArray[np.float64]:
    """Return the size in bytes of each row's encoded audio, which is not read for it; 1 where that is not known."""
    sizes: list[npt.NDArray[np.float64]] = []
    for table in rows.with_format("arrow").iter(batch_size=1000):
        column = table[audio_column]
        for chunk in column.chunks:
            sizes.append(_sizes(chunk))
    return np.concatenate(sizes) if sizes else np.zeros(0)


def _sizes(cells: pa.Array) -> npt.NDArray[np.float64]:
    names = [field.name for field in cells.type] if pa.types.is_struct(cells.type) else []
    lengths = np.zeros(len(cells))
    if "bytes" in names:
        lengths = pc.fill_null(pc.binary_length(pc.struct_field(cells, "bytes")), 0).to_numpy(zero_copy_only=False)
    paths = [None] * len(cells)
    if "path" in names:
        paths = pc.struct_field(cells, "path").to_pylist()
    elif pa.types.is_string(cells.type):
        paths = cells.to_pylist()
    return np.array(
        [float(length) or _file_size(path) for length, path in zip(lengths, paths, strict=True)], dtype=np.float64
    )


def _file_size(path: str | None) -> float:
    try:
        return float(os.path.getsize(path)) if path else 1.0
    except OSError:
        return 1.0

"""Read the audio column of a dataset as it is stored, without decoding: Arrow rows to audio cells."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ..audio.source import check_column, flat_columns, local_path, located
from ..errors import AudioError
from ..pipeline.audio_reader import AudioReader
from .clip_lists import is_list_feature

_BATCH_ROWS = 64

DatasetT = TypeVar("DatasetT")


def of_each_split(dataset: DatasetT, call: Callable[[Any], Any]) -> DatasetT:
    """Return the result of a call for a dataset, or for each in a dict of datasets or streams."""
    if isinstance(dataset, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        return cast(DatasetT, type(dataset)({split: call(part) for split, part in dataset.items()}))
    return cast(DatasetT, call(dataset))


def audio_rows(dataset: Any, audio_column: str) -> datasets.Dataset:
    """Return the audio column of a dataset, or of all datasets in a dict, as encoded bytes and paths.

    Each clip of a list is a row of its own. Raises AudioColumnError if there is no such column; TypeError if it is no
    dataset, such as a stream.
    """
    if isinstance(dataset, datasets.DatasetDict):
        return datasets.concatenate_datasets([audio_rows(part, audio_column) for part in dataset.values()])
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(
            f"a Dataset or a DatasetDict is needed, not {type(dataset).__name__}. Of a stream, which does not know its "
            "number of rows, make a dataset of some rows. Nothing was read."
        )
    check_column(audio_column, dataset.column_names)
    flat = flat_columns(audio_column, dataset.column_names)
    if flat:
        return _in_one_column(dataset, audio_column, flat)
    rows = with_encoded_audio(dataset.with_format(None).select_columns([audio_column]), audio_column)
    return _without_lists(rows, audio_column) if is_list_feature(rows.features[audio_column]) else rows


def _without_lists(rows: datasets.Dataset, audio_column: str) -> datasets.Dataset:
    """Return the clips of all lists as rows; only those of a dataset that was shuffled or selected from are copied."""
    table = rows.data.table if rows._indices is None else rows.with_format("arrow")[:]
    chunks = [chunk.flatten() for chunk in table.column(audio_column).chunks]
    column = pa.chunked_array(chunks, table.schema.field(audio_column).type.value_type)
    features = datasets.Features({audio_column: rows.features[audio_column].feature})
    return datasets.Dataset(datasets.table.InMemoryTable(pa.table({audio_column: column}, features.arrow_schema)))


def _in_one_column(dataset: datasets.Dataset, audio_column: str, flat: Mapping[str, str]) -> datasets.Dataset:
    """Return the dataset with one column of audio in the place of flat ones; nothing is copied."""
    table = dataset.data.table.select(list(flat.values()))
    chunks = [pa.StructArray.from_arrays(batch.columns, list(flat)) for batch in table.to_batches()]
    column = pa.chunked_array(
        chunks, pa.struct([(field, table.schema.field(name).type) for field, name in flat.items()])
    )
    return datasets.Dataset(
        datasets.table.InMemoryTable(pa.table({audio_column: column})), indices_table=dataset._indices
    )


def with_encoded_audio(dataset: Any, audio_column: str) -> Any:
    """Return the dataset with its audio column as encoded bytes and paths."""
    if isinstance(dataset.features.get(audio_column), datasets.Audio):
        return dataset.cast_column(audio_column, datasets.Audio(decode=False))
    feature = dataset.features.get(audio_column)
    if is_list_feature(feature) and isinstance(feature.feature, datasets.Audio):
        return dataset.cast_column(audio_column, type(feature)(datasets.Audio(decode=False)))
    return dataset


def row_shas(rows: datasets.Dataset, audio_column: str, reader: AudioReader) -> Iterator[str | None]:
    """Yield the ``blob_sha`` of each row; None where the audio cannot be read."""
    for start in range(0, len(rows), _BATCH_ROWS):
        for source in reader.identify(rows[start : start + _BATCH_ROWS][audio_column]):
            yield None if isinstance(source, AudioError) else source.blob_sha


def clip_shas(dataset: Any, audio_column: str, reader: AudioReader | None = None) -> set[str]:
    """Return the ``blob_sha`` of each clip that can be read."""
    shas = row_shas(audio_rows(dataset, audio_column), audio_column, reader or AudioReader())
    return {sha for sha in shas if sha is not None}


def encoded_sizes(rows: datasets.Dataset, audio_column: str, data_dir: str | None = None) -> npt.NDArray[np.float64]:
    """Return the size in bytes of each row's encoded audio without reading it; 1 if it is unknown."""
    tables = rows.with_format("arrow").iter(batch_size=1000)
    sizes = [_sizes(chunk, data_dir) for table in tables for chunk in table[audio_column].chunks]
    return np.concatenate(sizes) if sizes else np.zeros(0)


def loose_files(dataset: datasets.Dataset, audio_column: str) -> list[str]:
    """Return the paths of local files that the rows are read from: of those that hold no bytes themselves."""
    rows = audio_rows(dataset, audio_column)
    chunks = rows.data.column(audio_column).chunks
    if all(_bytes_and_paths(chunk)[0].null_count == 0 for chunk in chunks):  # without a copy of the bytes
        return []
    found: list[str] = []
    for table in rows.with_format("arrow").iter(batch_size=1000):
        for chunk in table[audio_column].chunks:
            encoded, paths = _bytes_and_paths(chunk)
            loose = paths.filter(encoded.is_null()).drop_null().to_pylist()
            found += [path for path in loose if local_path(path) is not None]
    return found


def _bytes_and_paths(cells: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the encoded bytes and the paths of audio cells, which are structs of both, or one of them alone."""
    none, kind = pa.nulls(len(cells), pa.binary()), cells.type
    if pa.types.is_struct(kind):
        typed = {field.name for field in kind if not pa.types.is_null(field.type)}
        parts = [pc.struct_field(cells, name) if name in typed else none for name in ("bytes", "path")]
        return parts[0], parts[1]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return cells, none
    return none, cells if pa.types.is_string(kind) or pa.types.is_large_string(kind) else none


def _sizes(cells: pa.Array, data_dir: str | None) -> npt.NDArray[np.float64]:
    encoded, paths = _bytes_and_paths(cells)
    lengths = pc.fill_null(pc.binary_length(encoded), 0).to_pylist()
    rows = zip(lengths, paths.to_pylist(), strict=True)
    return np.array([float(length) or _file_size(located(path, data_dir)) for length, path in rows], np.float64)


def _file_size(path: str | None) -> float:
    try:
        return float(os.path.getsize(path)) if path else 1.0
    except OSError:
        return 1.0

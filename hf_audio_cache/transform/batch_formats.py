"""What `datasets` and Ray Data pass to a function, told by its type, and what they take back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.arrow_dataset import Column
from datasets.formatting.formatting import LazyBatch, LazyDict
from datasets.iterable_dataset import IterableColumn

from ..audio.source import check_column, flat_columns, is_audio_cell
from ..errors import AudioSourceError, CannotSkipError
from ..processors.output_specs import OutputSpec
from .audio_rows import with_encoded_audio
from .collate import array_of_rows
from .ray_batches import is_for_ray, rows_of, tensor, with_tensors

_WHOLE = (
    *(datasets.Dataset, datasets.DatasetDict, datasets.IterableDataset, datasets.IterableDatasetDict),
    IterableColumn,
)


_MOST_VALUES = (1 << 31) - 1  # offsets of a list in Arrow have 32 bits


@dataclass(frozen=True)
class AudioBatch:
    """The audio cells of one call, and the form in which they were passed."""

    cells: Sequence[Any]  # one for each row
    is_single: bool = False  # one example or one cell, not a batch
    table: pa.Table | None = None  # if one was passed
    lazy: LazyBatch | None = None  # if `Dataset.map` passed one
    for_ray: bool = False
    whole: Mapping[str, Any] | None = None  # all columns of the batch, if Ray Data passed a dict

    def without(self, dropped: Collection[int]) -> AudioBatch:
        """Return the batch without these rows. All of its columns are then given back, as `Dataset.map` requires.

        Raises CannotSkipError if `datasets` needs all rows back in this form.
        """
        kept = [row for row in range(len(self.cells)) if row not in dropped]
        cells = [self.cells[row] for row in kept]
        if self.table is not None and self.table.column_names:
            return replace(self, cells=cells, table=self.table.take(pa.array(kept, pa.int64())))
        if self.whole is not None and not self.is_single:
            return replace(self, cells=cells, whole=rows_of(self.whole, kept))
        if self.lazy is None:
            raise CannotSkipError(
                'on_error="skip" cannot leave rows out here. Use cached_features.map(ds) or '
                'cached_features.attach(stream), which skip; or on_error="null", and ds.filter afterwards. Fewer '
                "rows are taken back only by ds.map(cached_features, batched=True) without input_columns, and by Ray "
                "Data's map_batches: a map of single examples, a stream's map and a transform must return each row. "
                "Nothing was computed."
            )
        for column in list(self.lazy) if dropped else ():
            # Columns that were not formatted yet are taken as stored, so that audio is not decoded.
            is_stored = column in self.lazy.keys_to_format
            values = self.lazy.pa_table[column].to_pylist() if is_stored else self.lazy[column]
            self.lazy[column] = [values[row] for row in kept]
        return AudioBatch(cells, lazy=self.lazy)

    def give_back(
        self,
        rows: Sequence[Mapping[str, Any]],
        names: Sequence[str],
        feature: Callable[[str], Any],
        spec: Callable[[str], OutputSpec | None],
    ) -> Any:
        """Return the outputs of each row in the form in which the cells were passed.

        Outputs that are missing become None. `feature` gives the type of a column for Arrow tables, or None where Arrow
        must find it; `spec` the form of an output for Ray Data, or None for the column of reasons.
        """
        columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in names}
        if self.for_ray:
            columns = {name: tensor(column, functools.partial(spec, name)) for name, column in columns.items()}
            if self.table is not None:
                return with_tensors(self.table, columns)
        if self.is_single:
            return {**(self.whole or {}), **{name: column[0] for name, column in columns.items()}}
        if self.whole is not None:
            return {**self.whole, **columns}
        if self.table is not None:
            return with_columns(self.table, columns, feature)
        if self.lazy is None or len(self.lazy.pa_table) == len(rows):
            return columns
        self.lazy.update(columns)
        return self.lazy


def with_columns(table: pa.Table, columns: Mapping[str, Sequence[Any]], feature: Callable[[str], Any]) -> pa.Table:
    """Return an Arrow table with columns added or replaced, typed by `feature`; by Arrow where that gives None."""
    table = table.drop_columns([name for name in columns if name in table.column_names])
    features = datasets.Features.from_arrow_schema(table.schema)
    arrays = dict(zip(table.column_names, table.columns, strict=True))
    for name, values in columns.items():
        kind = feature(name)
        arrays[name] = _without_copy(values, kind)
        if arrays[name] is None:
            arrays[name] = pa.array(datasets.arrow_writer.TypedSequence(values, type=kind))
        features[name] = (
            datasets.features.features.generate_from_arrow_type(arrays[name].type) if kind is None else kind
        )
    return pa.table(arrays).replace_schema_metadata(features.arrow_schema.metadata)


def _without_copy(values: Sequence[Any], kind: Any) -> pa.Array | None:
    """Return the rows of one array as a column of this type that shares their memory; None if they are not that."""
    whole = None if kind is None else array_of_rows(values)
    if whole is None or whole.size > _MOST_VALUES or whole.dtype.kind not in "biuf":
        return None
    storage = pa.array(whole.reshape(-1))
    for axis in range(whole.ndim - 1, 0, -1):
        starts = np.arange(0, whole.size + 1, math.prod(whole.shape[axis:]), dtype=np.int32)
        storage = pa.ListArray.from_arrays(starts // math.prod(whole.shape[axis + 1 :]), storage)
    wanted = datasets.features.features.get_nested_type(kind)
    if isinstance(wanted, pa.ExtensionType):
        return pa.ExtensionArray.from_storage(wanted, storage) if storage.type == wanted.storage_type else None
    return storage if storage.type == wanted else None


def features_of(examples: Any) -> Mapping[str, Any]:
    """Return the features of a lazy batch, a lazy example or an Arrow table; none if it says none."""
    if isinstance(examples, LazyDict):
        return examples.formatter.features or {}
    if isinstance(examples, pa.Table) and b"huggingface" in (examples.schema.metadata or {}):
        return dict(datasets.Features.from_arrow_schema(examples.schema))
    return {}


def read_batch(examples: Any, audio_column: str) -> AudioBatch:
    """Find the audio cells in the argument of a mapped function.

    From a lazy batch the encoded bytes are taken from its Arrow table, without a copy. So nothing is decoded, and an
    ``Audio(decode=True)`` column needs no torchcodec. Raises AudioColumnError if there is no such column;
    AudioSourceError if `examples` has none of these forms.
    """
    _refuse_datasets(examples)
    if isinstance(examples, (pa.Table, Mapping)) and not _is_cell(examples):
        names = examples.column_names if isinstance(examples, pa.Table) else list(examples)
        check_column(audio_column, names)
        if flat := flat_columns(audio_column, names):
            return _of_flat_columns(examples, flat)
    if isinstance(examples, pa.Table):
        return AudioBatch(_cells(examples[audio_column]), table=examples, for_ray=is_for_ray())
    lazy = examples if isinstance(examples, LazyBatch) else None
    whole = None
    if isinstance(examples, LazyDict) and audio_column in examples.keys_to_format:
        # Not yet formatted, and not replaced by the caller.
        return AudioBatch(_cells(examples.pa_table[audio_column]), is_single=lazy is None, lazy=lazy)
    if isinstance(examples, Mapping) and audio_column in examples:
        whole = examples if is_for_ray() else None
        examples = examples[audio_column]
    if isinstance(examples, Column):
        return AudioBatch(_column_cells(examples))
    if isinstance(examples, (pa.Array, pa.ChunkedArray)):
        # One row looks like a batch of one here. A table without other columns serves both.
        return AudioBatch(_cells(examples), table=pa.table({}))
    for_ray: dict[str, Any] = {"for_ray": whole is not None, "whole": whole}
    if isinstance(examples, (list, tuple)):
        return AudioBatch(examples, lazy=lazy, **for_ray)
    if isinstance(examples, np.ndarray) and examples.dtype.kind in "OUS" and examples.ndim == 1:
        return AudioBatch(list(examples), **for_ray)
    if hasattr(examples, "iloc") or hasattr(examples, "to_arrow"):  # columns of pandas or polars
        remedy = (
            'batch_format="numpy" or "pyarrow"'
            if is_for_ray()
            else 'ds.with_format(None) or ds.with_format("arrow") before map'
        )
        raise AudioSourceError(
            f"a {type(examples).__name__} is neither an example nor a batch or an Arrow table. Use {remedy}. Nothing "
            "was computed.",
            clip=type(examples).__name__,
        )
    return AudioBatch([examples], is_single=True, **for_ray)


def _refuse_datasets(examples: Any) -> None:
    """Raise TypeError for a dataset or a stream, or a dict of these."""
    if isinstance(examples, _WHOLE):
        name = type(examples).__name__
        is_stream = isinstance(examples, (datasets.IterableDataset, datasets.IterableDatasetDict, IterableColumn))
        forms = "cached_features.attach(ds)" if is_stream else "cached_features.map(ds), cached_features.attach(ds)"
        raise TypeError(
            f"a whole {name} was given to cached_features, which is called with an example or a batch. Use {forms} or "
            "ds.map(cached_features). Nothing was computed."
        )


def _is_cell(examples: Any) -> bool:
    """Return whether a mapping is one audio cell. The keys of an example or a batch are column names instead."""
    is_example = isinstance(examples, LazyDict)
    return not is_example and is_audio_cell(examples) and not _is_column(examples.get("sampling_rate"))


def _of_flat_columns(examples: Any, flat: Mapping[str, str]) -> AudioBatch:
    """Return the cells whose fields are in columns of their own."""
    lazy = examples if isinstance(examples, LazyBatch) else None
    columns = {field: _values(examples, name) for field, name in flat.items()}
    is_single = not isinstance(examples, (pa.Table, LazyDict)) and not all(map(_is_column, columns.values()))
    rows = [tuple(columns.values())] if is_single else zip(*columns.values(), strict=True)
    cells = [dict(zip(columns, row, strict=True)) for row in rows]
    table = examples if isinstance(examples, pa.Table) else None
    is_single = is_single or (isinstance(examples, LazyDict) and lazy is None)
    whole = examples if table is None and is_for_ray() else None
    return AudioBatch(cells, is_single, table, lazy, is_for_ray(), whole)


def _values(examples: Any, name: str) -> Any:
    if isinstance(examples, pa.Table):
        return _cells(examples[name])
    if isinstance(examples, LazyDict):
        if name in examples.keys_to_format:
            return _cells(examples.pa_table[name])
        return examples[name] if isinstance(examples, LazyBatch) else [examples[name]]
    values = examples[name]
    return _column_cells(values) if isinstance(values, Column) else values


def _is_column(values: Any) -> bool:
    """Return whether these are values of a batch; an array of samples may be one, too, but its rate is none."""
    return isinstance(values, (list, tuple)) or (isinstance(values, np.ndarray) and values.ndim > 0)


def _column_cells(column: Column) -> list[Any]:
    """Return the cells of a dataset's column; audio is not decoded."""
    source, name = column.source, column.column_name
    if not isinstance(source, datasets.Dataset) or source.format["type"] == "custom":
        return list(column)
    return _cells(with_encoded_audio(source.select_columns([name]), name).with_format("arrow")[:][name])


def _cells(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return the cells of an Arrow column; encoded bytes are not copied."""
    if isinstance(column, pa.ChunkedArray):
        return [cell for chunk in column.chunks for cell in _cells(chunk)]
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return [scalar.as_buffer() for scalar in column]
    if not pa.types.is_struct(column.type) or "bytes" not in {field.name for field in column.type}:
        return list(column.to_pylist())
    names = [field.name for field in column.type]
    cells = zip(*map(_cells, column.flatten()), column.is_valid().to_pylist(), strict=True)
    return [dict(zip(names, values, strict=True)) if is_valid else None for *values, is_valid in cells]

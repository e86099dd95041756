"""What `datasets` hands to a mapped function, in all its forms, and results given back in the same form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.formatting.formatting import LazyBatch, LazyDict

from .errors import AudioColumnError, AudioSourceError, CannotSkipError
from .source import is_audio_cell

__all__ = ["AudioBatch", "check_column", "read_batch", "with_columns"]


@dataclass(frozen=True)
class AudioBatch:
    """The audio cells of one call, and the form in which they came.

    Attributes
    ----------
    cells
        One for each row.
    is_single
        Whether it was one example (or one cell), and not a batch.
    table
        The Arrow table, where it was one.
    lazy
        The batch of `Dataset.map`, where it was one.
    """

    cells: Sequence[Any]
    is_single: bool = False
    table: pa.Table | None = None
    lazy: LazyBatch | None = None

    def without(self, dropped: Collection[int]) -> AudioBatch:
        """Return the batch without these rows; all of its columns are given back then, as `Dataset.map` needs it.

        Raises
        ------
        CannotSkipError
            If it came in a form in which `datasets` takes no fewer rows back than it gave.
        """
        kept = [row for row in range(len(self.cells)) if row not in dropped]
        cells = [self.cells[row] for row in kept]
        if self.table is not None and self.table.column_names:
            return AudioBatch(cells, table=self.table.take(pa.array(kept, pa.int64())))
        if self.lazy is None:
            raise CannotSkipError(
                'on_error="skip" leaves rows out, which datasets allows in ds.map(cached_features, batched=True) only, '
                "without input_columns; nothing was computed. A map of single examples, a stream's map and a transform "
                "must give back each row. Use cached_features.map(ds), or cached_features.attach(stream), which skip; "
                'or on_error="null", and ds.filter afterwards.'
            )
        for column in list(self.lazy) if dropped else ():
            # What was not formatted yet is taken as it is stored: audio as its encoded bytes, and not decoded.
            is_stored = column in self.lazy.keys_to_format
            values = self.lazy.pa_table[column].to_pylist() if is_stored else self.lazy[column]
            self.lazy[column] = [values[row] for row in kept]
        return AudioBatch(cells, lazy=self.lazy)

    def give_back(self, rows: Sequence[Mapping[str, Any]], names: Sequence[str], feature: Callable[[str], Any]) -> Any:
        """Return the outputs of each row in the form in which the cells came.

        Parameters
        ----------
        rows
            The outputs of each row by name; a row that has none gets None.
        names
            The columns to return.
        feature
            Gives the `datasets` feature of a column; used for tables only, since they are typed.
        """
        if self.is_single:
            return {name: rows[0].get(name) for name in names}
        columns = {name: [row.get(name) for row in rows] for name in names}
        if self.table is not None:
            return with_columns(self.table, columns, feature)
        if self.lazy is None or len(self.lazy.pa_table) == len(rows):
            return columns
        self.lazy.update(columns)
        return self.lazy


def with_columns(table: pa.Table, columns: Mapping[str, Sequence[Any]], feature: Callable[[str], Any]) -> pa.Table:
    """Return an Arrow table with columns added or replaced, each of the `datasets` feature that `feature` gives it."""
    table = table.drop_columns([name for name in columns if name in table.column_names])
    features = datasets.Features.from_arrow_schema(table.schema)
    arrays = dict(zip(table.column_names, table.columns, strict=True))
    for name, values in columns.items():
        features[name] = feature(name)
        arrays[name] = pa.array(datasets.arrow_writer.TypedSequence(values, type=features[name]))
    return pa.table(arrays).replace_schema_metadata(features.arrow_schema.metadata)


def read_batch(examples: Any, audio_column: str) -> AudioBatch:
    """Find the audio cells in the argument of a mapped function.

    The encoded bytes are taken from the Arrow table below a lazy batch where there is one: nothing is decoded, and
    an ``Audio(decode=True)`` column needs no torchcodec.

    Raises
    ------
    AudioColumnError
        If there is no such column.
    AudioSourceError
        If `examples` is nothing that `datasets` hands to a function.
    """
    if isinstance(examples, pa.Table):
        check_column(audio_column, examples.column_names)
        return AudioBatch(examples[audio_column].to_pylist(), table=examples)
    lazy = examples if isinstance(examples, LazyBatch) else None
    if isinstance(examples, LazyDict):
        check_column(audio_column, list(examples))
        if audio_column in examples.keys_to_format:  # not yet formatted, and not replaced by the caller
            cells = examples.pa_table[audio_column].to_pylist()
            return AudioBatch(cells, is_single=lazy is None, lazy=lazy)
    if isinstance(examples, Mapping) and (audio_column in examples or not is_audio_cell(examples)):
        check_column(audio_column, list(examples))
        examples = examples[audio_column]
    if isinstance(examples, (pa.Array, pa.ChunkedArray)):
        # One row or a batch of one looks the same here; in a table without other columns it is both.
        return AudioBatch(examples.to_pylist(), table=pa.table({}))
    if isinstance(examples, (list, tuple)):
        return AudioBatch(examples, lazy=lazy)
    if isinstance(examples, np.ndarray) and examples.dtype.kind in "OUS" and examples.ndim == 1:
        return AudioBatch(list(examples))
    if hasattr(examples, "iloc"):
        raise AudioSourceError(
            f"expected an example, a batch or an Arrow table, and found a {type(examples).__name__}; nothing was "
            'computed. Use ds.with_format(None) or ds.with_format("arrow") before map.',
            clip=type(examples).__name__,
        )
    return AudioBatch([examples], is_single=True)


def check_column(audio_column: str, columns: Sequence[str]) -> None:
    """Raise `AudioColumnError` if `audio_column` is none of `columns`."""
    if audio_column not in columns:
        found = ", ".join(map(repr, columns)) or "(none)"
        raise AudioColumnError(
            f"expected an audio column {audio_column!r}, and found the columns {found}; nothing was computed. "
            "Name the right one (CachedFeatures(…, audio_column=…)). Under transformers' Trainer, pass "
            "remove_unused_columns=False in its TrainingArguments: it drops the columns that the model's forward() "
            "does not take, audio among them, before a transform can see it.",
            column=audio_column,
            columns=tuple(columns),
        )

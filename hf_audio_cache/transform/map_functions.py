"""The functions that are given to `datasets`: pickled for its workers, and hashed to find results that it kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa

from ..errors import AudioError, MissingEntryError
from .batch_formats import read_batch, with_columns
from .cached_array import CachedArray, read_references
from .column_checks import check_not_replaced
from .feature_columns import FeatureColumns

__all__ = ["Attached", "FeatureReader", "HasFeatures", "ReferenceMaker"]


@dataclass(frozen=True)
class ReferenceMaker:
    """The mapped function of `CachedFeatures.map`: audio cells in, the ``blob_sha`` of each row out."""

    columns: FeatureColumns
    types: dict[str, CachedArray]  # has the root, so that `datasets` does not take kept results of another root

    def __call__(self, examples: Any) -> dict[str, list[Any]]:
        """Return the columns of references for a batch, and that of reasons if it was asked for."""
        batch = read_batch(examples, self.columns.settings.audio_column)
        processor_sha = next(iter(self.types.values())).processor_sha
        keys = self.columns.pipeline.ensure(batch.cells, processor_sha)
        shas: list[bytes | None] = []
        reasons = []
        for key in keys:
            if not isinstance(key, AudioError):
                shas.append(bytes.fromhex(key.blob_sha))
                reasons.append("")
            elif self.columns.settings.on_error == "raise":
                raise key
            else:
                shas.append(None)
                reasons.append(str(key))
        columns: dict[str, list[Any]] = dict.fromkeys(self.types, shas)
        if self.columns.settings.reason_column is not None:
            columns[self.columns.settings.reason_column] = reasons
        return columns


@dataclass(frozen=True)
class FeatureReader:
    """The mapped function of `attach` and `materialize`: a batch in, its features out.

    Columns in `references` are read from the cache. With `computes`, this processor's features are made from the audio.
    Those in `dropped` are left out by the caller.
    """

    columns: FeatureColumns
    references: dict[str, CachedArray]
    computes: bool
    dropped: tuple[str, ...] = ()

    def __call__(self, examples: Any) -> Any:
        """Return the columns of features for a batch; for an Arrow table the table with them."""
        if not self.references:
            return self._computed(examples)
        is_table = isinstance(examples, pa.Table)
        columns = {name: examples[name].to_pylist() if is_table else examples[name] for name in self.references}
        try:
            arrays = read_references(columns, self.references, self.columns.pipeline.audio_cache)
        except MissingEntryError as exc:
            arrays = self._compute(examples, exc)
        if not is_table:
            return {**arrays, **self._computed(examples)} if self.computes else arrays
        if self.computes:
            examples = self._computed(examples)
        features = self.columns.types_with(datasets.Features.from_arrow_schema(examples.schema))
        return with_columns(examples, arrays, features.__getitem__)

    def _computed(self, examples: Any) -> Any:
        """Return the columns of computed features; for an Arrow table the table with them.

        The columns of some streams are known only now, and so whether one would be replaced.
        """
        is_table = isinstance(examples, pa.Table)
        computed = self.columns.of(examples)
        present = set(examples.column_names if is_table else examples)
        outputs = {column: output for output, column in self.columns.settings.output_names.items()}
        names = self.columns.names() if is_table else computed
        new = set(names) - {self.columns.settings.reason_column, *self.dropped}
        check_not_replaced({name: outputs.get(name, name) for name in sorted(new & present)})
        return computed

    def _compute(self, examples: Any, missing: MissingEntryError) -> dict[str, list[Any]]:
        """Compute features whose entries are missing, if this processor made them and the rows have their audio."""
        pipeline = self.columns.pipeline
        own = pipeline.key(bytes(32).hex(), pipeline.identity())
        are_own = all(reference.key(bytes(32)) == own for reference in self.references.values())
        present = examples.column_names if isinstance(examples, pa.Table) else examples
        if not are_own or self.columns.settings.audio_column not in present:
            raise missing
        cells = read_batch(examples, self.columns.settings.audio_column).cells
        computed = self.columns.of({self.columns.settings.audio_column: list(cells)})
        names = self.columns.settings.output_names
        return {
            column: computed[names.get(reference.name, reference.name)] for column, reference in self.references.items()
        }


@dataclass(frozen=True)
class Attached:
    """The transform of `CachedFeatures.attach`: a batch in, the same batch with its features out."""

    read: FeatureReader

    def __call__(self, examples: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch with arrays added, or in the place of references."""
        kept = {name: column for name, column in examples.items() if name not in self.read.dropped}
        return {**kept, **self.read(examples)}


@dataclass(frozen=True)
class HasFeatures:
    """The filter that leaves bad clips out of a stream."""

    columns: FeatureColumns

    def __call__(self, example: Mapping[str, Any]) -> bool:
        """Return whether a row of a stream has features."""
        cells = [example[name] for name in self.columns.names()]
        # In a stream of Arrow tables each cell is a column of one row.
        return any(cell.null_count == 0 if isinstance(cell, pa.ChunkedArray) else cell is not None for cell in cells)

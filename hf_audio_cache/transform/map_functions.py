"""The functions that `CachedFeatures` gives to `datasets`, and what they need to know of a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa

from ..errors import AudioError, MissingEntryError
from .batch_formats import read_batch, with_columns
from .cached_array import CachedArray, read_references

if TYPE_CHECKING:
    from .cached_features import CachedFeatures

__all__ = [
    "Attached",
    "FeatureReader",
    "HasFeatures",
    "ReferenceMaker",
    "format_with",
    "map_rows",
    "reference_columns",
    "side_by_side",
    "undecoded",
]


@dataclass(frozen=True)
class ReferenceMaker:
    """The mapped function of `CachedFeatures.map`: audio cells in, the ``blob_sha`` of each row out."""

    cached_features: CachedFeatures
    types: dict[str, CachedArray]  # names the root, so that datasets' own cache is not found for another one

    def __call__(self, examples: Any) -> dict[str, list[Any]]:
        """Return the columns of references for a batch, and that of reasons where one was asked for."""
        batch = read_batch(examples, self.cached_features.audio_column)
        processor_sha = next(iter(self.types.values())).processor_sha
        keys = self.cached_features._router.ensure(batch.cells, processor_sha)
        shas: list[bytes | None] = []
        reasons = []
        for key in keys:
            if not isinstance(key, AudioError):
                shas.append(bytes.fromhex(key.blob_sha))
                reasons.append("")
            elif self.cached_features.on_error == "raise":
                raise key
            else:
                shas.append(None)
                reasons.append(str(key))
        columns: dict[str, list[Any]] = dict.fromkeys(self.types, shas)
        if self.cached_features.reason_column is not None:
            columns[self.cached_features.reason_column] = reasons
        return columns


@dataclass(frozen=True)
class FeatureReader:
    """The mapped function behind `attach` and `materialize`: a batch in, its features out.

    They are read where `references` says, and come from the audio where `computes` says so.
    """

    cached_features: CachedFeatures
    references: dict[str, CachedArray]
    computes: bool

    def __call__(self, examples: Any) -> Any:
        """Return the columns of features for a batch; for an Arrow table the table with them."""
        if not self.references:
            return self.cached_features._features_of(examples)
        is_table = isinstance(examples, pa.Table)
        columns = {name: examples[name].to_pylist() if is_table else examples[name] for name in self.references}
        try:
            arrays = read_references(columns, self.references, self.cached_features.audio_cache)
        except MissingEntryError as exc:
            arrays = self._compute(examples, exc)
        if not is_table:
            return {**arrays, **self.cached_features._features_of(examples)} if self.computes else arrays
        if self.computes:
            examples = self.cached_features._features_of(examples)
        features = self.cached_features.features(datasets.Features.from_arrow_schema(examples.schema))
        return with_columns(examples, arrays, features.__getitem__)

    def _compute(self, examples: Any, missing: MissingEntryError) -> dict[str, list[Any]]:
        """Compute what references stand for from the audio of the same rows, where this processor made them of it."""
        router = self.cached_features._router
        own = router.key(bytes(32).hex(), router.identity())
        are_own = all(reference.key(bytes(32)) == own for reference in self.references.values())
        present = examples.column_names if isinstance(examples, pa.Table) else examples
        if not are_own or self.cached_features.audio_column not in present:
            raise missing
        cells = read_batch(examples, self.cached_features.audio_column).cells
        computed = self.cached_features._features_of({self.cached_features.audio_column: list(cells)})
        names = self.cached_features.output_names
        return {
            column: computed[names.get(reference.name, reference.name)] for column, reference in self.references.items()
        }


@dataclass(frozen=True)
class Attached:
    """The transform of `CachedFeatures.attach`: a batch in, the whole batch with its features out."""

    read: FeatureReader
    dropped: tuple[str, ...] = ()

    def __call__(self, examples: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch, its arrays added or put in the place of references."""
        kept = {name: column for name, column in examples.items() if name not in self.dropped}
        return {**kept, **self.read(examples)}


@dataclass(frozen=True)
class HasFeatures:
    """Tells rows with features from those of bad clips."""

    cached_features: CachedFeatures

    def __call__(self, example: Mapping[str, Any]) -> bool:
        """Return whether a row of a stream has features."""
        cells = [example[name] for name in self.cached_features._output_columns()]
        # A stream of Arrow tables has columns of one row each.
        return any(cell.null_count == 0 if isinstance(cell, pa.ChunkedArray) else cell is not None for cell in cells)


def reference_columns(features: Mapping[str, Any]) -> dict[str, CachedArray]:
    """Return the columns that are references."""
    return {name: feature for name, feature in features.items() if isinstance(feature, CachedArray)}


def undecoded(dataset: Any, references: Mapping[str, CachedArray]) -> Any:
    """Return the dataset with its references as they are stored."""
    for name, feature in references.items():
        dataset = dataset.cast_column(name, dataclasses.replace(feature, decode=False))
    return dataset


def format_with(dataset: datasets.Dataset, removed: Sequence[str], added: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of `with_format` that keep a dataset's format, and show added columns in it."""
    form = dict(dataset.format)
    if form["type"] == "custom":
        return {"type": None}
    shown = [name for name in form["columns"] if name not in (*removed, *added)]
    return {**form, "columns": [*shown, *added]}


def map_rows(dataset: datasets.Dataset, function: Any, features: datasets.Features, **map_kwargs: Any) -> Any:
    """Map a batched function over a dataset whose resulting features are known."""
    if len(dataset) == 0:  # which `datasets` gives back as it is, without the new columns
        return _empty(features, dataset)
    return dataset.with_format(None).map(function, batched=True, features=features, **map_kwargs)


def side_by_side(kept: datasets.Dataset, added: datasets.Dataset) -> datasets.Dataset:
    """Return the columns of two datasets of the same rows as one dataset; neither is written again."""
    if len(kept) == 0:  # of which `datasets` takes the first alone
        return _empty(datasets.Features({**kept.features, **added.features}), kept)
    return datasets.concatenate_datasets([kept.with_format(None), added], axis=1)


def _empty(features: datasets.Features, like: datasets.Dataset) -> datasets.Dataset:
    return datasets.Dataset(features.arrow_schema.empty_table(), split=like.split)

"""The functions that `CachedFeatures` gives to `datasets`, and what they need to know of a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import datasets

from .batches import read_batch
from .errors import AudioError
from .reference import CachedArray, read_references

if TYPE_CHECKING:
    from .transform import CachedFeatures

__all__ = ["Attached", "ReferenceMaker", "format_with", "reference_columns", "undecoded"]


@dataclass(frozen=True)
class ReferenceMaker:
    """The mapped function of `CachedFeatures.map`: audio cells in, the ``blob_sha`` of each row out."""

    cached_features: CachedFeatures
    types: dict[str, CachedArray]  # names the root, so that datasets' own cache is not found for another one

    def __call__(self, examples: Any) -> dict[str, list[bytes | None]]:
        """Return the columns of references for a batch."""
        batch = read_batch(examples, self.cached_features.audio_column)
        processor_sha = next(iter(self.types.values())).processor_sha
        keys = self.cached_features._router.ensure(batch.cells, processor_sha)
        shas: list[bytes | None] = []
        for key in keys:
            if isinstance(key, AudioError):
                if self.cached_features.on_error == "raise":
                    raise key
                shas.append(None)
            else:
                shas.append(bytes.fromhex(key.blob_sha))
        return dict.fromkeys(self.types, shas)


@dataclass(frozen=True)
class Attached:
    """The transform of `CachedFeatures.attach`: a batch in, the batch with its features out."""

    cached_features: CachedFeatures
    references: dict[str, CachedArray]
    dropped: tuple[str, ...] = ()

    def __call__(self, examples: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch, its arrays added or put in the place of references."""
        if self.references:
            columns = {name: examples[name] for name in self.references if name in examples}
            types = {name: self.references[name] for name in columns}
            features = read_references(columns, types, self.cached_features.audio_cache)
        else:
            features = self.cached_features(examples)
        return {**{name: column for name, column in examples.items() if name not in self.dropped}, **features}


def reference_columns(features: Mapping[str, Any]) -> dict[str, CachedArray]:
    """Return the columns that are references."""
    return {name: feature for name, feature in features.items() if isinstance(feature, CachedArray)}


def undecoded(dataset: Any, references: Mapping[str, CachedArray]) -> Any:
    """Return the dataset with its references as they are stored."""
    for name, feature in references.items():
        dataset = dataset.cast_column(name, dataclasses.replace(feature, decode=False))
    return dataset


def format_with(dataset: datasets.Dataset, new_columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `with_format` that keep a dataset's format, and show new columns in it."""
    form = dict(dataset.format)
    if form["type"] == "custom":
        return {"type": None}
    kept = list(form["columns"])
    every = set(kept) == set(dataset.column_names)
    return {
        "type": form["type"],
        "columns": None if every else [*kept, *new_columns],
        "output_all_columns": form["output_all_columns"],
        **form["format_kwargs"],
    }

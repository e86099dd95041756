"""`Attached`: the transform of a `Dataset` that `CachedFeatures.attach` returns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import datasets

from ..audio.source import has_audio
from ..errors import AudioColumnError, ProcessorError
from .feature_reader import FeatureReader
from .late_columns import LateColumns


@dataclass(frozen=True)
class Attached:
    """A batch in, the same batch with its features out, which are read or computed when somebody looks at them."""

    readers: tuple[FeatureReader, ...] = ()  # of each `attach`, in their order
    dropped: tuple[str, ...] = ()
    # The transform that the dataset had, and that comes first. Features are made of the audio that it returns.
    before: Callable[[Any], Any] | None = None
    before_columns: tuple[str, ...] | None = None  # the columns that it gets; None for all
    keeps_others: bool = False  # whether those that it does not get are kept

    @classmethod
    def of(cls, dataset: datasets.Dataset) -> Attached:
        """Return what a dataset has attached already, after a transform that it has."""
        form = dataset.format
        if form["type"] != "custom":
            return cls()
        transform = form["format_kwargs"]["transform"]
        columns = None if set(form["columns"]) == set(dataset.column_names) else tuple(form["columns"])
        if isinstance(transform, cls) and columns is None:
            return transform
        return cls(before=transform, before_columns=columns, keeps_others=form["output_all_columns"])

    def references(self) -> set[str]:
        """Return the columns of references that are read."""
        return {name for reader in self.readers for name in reader.references}

    def and_then(self, reader: FeatureReader) -> Attached:
        """Return this with one reader more."""
        return replace(self, readers=(*self.readers, reader), dropped=(*self.dropped, *reader.dropped))

    def __call__(self, examples: Mapping[str, Any]) -> LateColumns:
        """Return the batch with arrays added, or in the place of references."""
        references, chosen = self.references(), self.before_columns
        plain = {name: column for name, column in examples.items() if name not in references}
        if self.before is None:
            kept = source = plain
        else:
            asked = plain if chosen is None else {name: plain[name] for name in plain if name in chosen}
            given = references if chosen is None else references & {*chosen}
            batch = LateColumns(asked, functools.partial(self._read, examples, given))
            untouched = {name: column for name, column in plain.items() if name not in asked}
            kept = self._transformed(batch, untouched, self.before)
            source = {**untouched, **kept}
            references -= given
        late = functools.partial(self._features, examples, source, references)
        left_out: set[str | None] = {*self.dropped}
        for reader in self.readers:
            if reader.computes:
                left_out |= {reader.columns.settings.reason_column, *reader.columns.replaced_audio}
        return LateColumns({name: column for name, column in kept.items() if name not in left_out}, late)

    def _transformed(
        self, batch: LateColumns, untouched: Mapping[str, Any], transform: Callable[[Any], Any]
    ) -> dict[str, Any]:
        """Return what the dataset's own transform makes of a batch, with the columns that it does not get."""
        result = transform(batch)
        if not isinstance(result, Mapping):
            raise ProcessorError(
                f"the transform that the dataset had before attach returned a {type(result).__name__}, and features "
                "can be added to a dict of columns alone. Have it return a dict, or attach first. Nothing was read."
            )
        n_rows = {len(column) for column in [*untouched.values(), *(result.values() if untouched else ())]}
        if len(n_rows) > 1:
            raise ProcessorError(
                "the transform that the dataset had before attach returned another number of rows than it got, so that "
                "nobody knows which features are whose. Let it have all columns: with_transform(transform) without "
                "columns=. Nothing was read."
            )
        return {**result, **(untouched if self.keeps_others else {})}

    def _read(self, examples: Mapping[str, Any], names: Set[str]) -> dict[str, list[Any]]:
        """Return the arrays in the place of the references of these names."""
        arrays: dict[str, list[Any]] = {}
        for reader in self.readers:
            wanted = {name: reference for name, reference in reader.references.items() if name in names}
            arrays.update(replace(reader, references=wanted).read(examples) if wanted else {})
        return arrays

    def _features(self, examples: Mapping[str, Any], source: Mapping[str, Any], references: Set[str]) -> dict[str, Any]:
        """Return all features; computed are those whose audio column was asked for."""
        features: dict[str, Any] = self._read(examples, references)
        for reader in self.readers:
            audio_column = reader.columns.settings.audio_column
            if not reader.computes or not has_audio(audio_column, examples):
                continue
            if not has_audio(audio_column, source):
                raise AudioColumnError(
                    f"the transform that the dataset had before attach does not return the audio column "
                    f"{audio_column!r}, of which features are made, but {', '.join(map(repr, source)) or 'nothing'}. "
                    "Have the transform return it too. Or give the transform only the columns that it needs, by "
                    "with_transform(…, columns=…, output_all_columns=True). Or use cached_features.map(ds) first. "
                    "Nothing was computed.",
                    column=audio_column,
                    columns=tuple(source),
                )
            # Of the audio, though waveforms may take its place.
            features |= reader.compute({**features, **source}, stored=examples.keys())
        return features

"""`FeatureColumns`: rows, columns and types of what a call or `.map` adds; rows of bad clips, too."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import datasets
import numpy as np

from ..cache.open_root import OpenRoot
from ..cache.root import CacheRoot
from ..errors import AudioError, ProcessorError
from ..pipeline.clip_features import ClipFeatures
from ..pipeline.clip_pipeline import ClipPipeline
from ..pipeline.settings import ResultSettings
from ..pipeline.waveform_pipeline import WaveformPipeline, waveform_spec
from ..processors.output_specs import OutputSpec
from .batch_formats import AudioBatch, features_of, read_batch
from .cached_array import CachedArray, CachedArrayList, reference_columns
from .clip_lists import ListLayout, in_one, is_list_feature, raise_first_error
from .column_checks import check_references, check_stream
from .hash_hook import hash_by
from .reference_reader import register_reader

# Raised when the same call would return something else than in an earlier version of this package: `datasets` then
# ignores the results that it kept.
_VERSION = 1


class FeatureColumns:
    """Turns the results of a pipeline into columns.

    Every function that `datasets` is given holds one. It is pickled with all that a worker needs to compute features,
    and hashed by what decides them. Waveforms are features of one output here.
    """

    def __init__(self, pipeline: ClipPipeline[Any, Any]) -> None:
        self.pipeline = pipeline
        self._specs_there: dict[tuple[str, str], dict[str, OutputSpec]] = {}  # by root and processor, of references
        root = pipeline.root
        if root.signing_keys is not None or not root.store.is_local:
            # `datasets` decodes references by the name of their root alone, which says neither keys nor credentials.
            for cache in root.uncounted(records_use=True):
                register_reader(cache)

    @property
    def settings(self) -> ResultSettings:
        """The settings of the pipeline."""
        return self.pipeline.settings

    @property
    def replaced_audio(self) -> set[str]:
        """The audio column, if waveforms take its place."""
        is_replaced = isinstance(self.pipeline, WaveformPipeline) and self.settings.audio_column in self.names()
        return {self.settings.audio_column} if is_replaced else set()

    # Rows -------------------------------------------------------------------------------------------------------------

    def of(self, examples: Any) -> Any:
        """Return the features of an example or a batch in the form it came in; rows of bad clips have None."""
        batch, layout = self._batch(examples)
        return self.give_back(batch, self.pipeline.features(layout.flat(batch.cells)), layout)

    def of_good_clips(self, examples: Any) -> Any:
        """Return the features of a batch without the rows of bad clips."""
        batch, layout = self._batch(examples)
        batch.without(())  # raises at the first batch, and not at the first bad clip
        rows = layout.grouped(self.pipeline.features(layout.flat(batch.cells)))
        bad = {row for row, result in enumerate(rows) if _has_error(result)}
        good = [result for row, result in enumerate(rows) if row not in bad]
        layout = replace(layout, sizes=tuple(size for row, size in enumerate(layout.sizes) if row not in bad))
        return self.give_back(batch.without(bad), layout.flat(good), layout)

    def _batch(self, examples: Any) -> tuple[AudioBatch, ListLayout]:
        """Return the audio cells, and how many clips each row has."""
        features = features_of(examples)
        check_stream(self.settings.audio_column, features)
        if references := reference_columns(features):
            check_references(references, self.references())  # `datasets` would replace them by these
        batch = read_batch(examples, self.settings.audio_column)
        is_list = is_list_feature(features.get(self.settings.audio_column))
        return batch, ListLayout.of_column(batch.cells, has_lists=True) if is_list else ListLayout.of(batch.cells)

    def give_back(self, batch: AudioBatch, results: Sequence[ClipFeatures | AudioError], layout: ListLayout) -> Any:
        """Return the results of a batch in the form in which the batch came; as lists for rows that have lists."""
        for outputs in {tuple(result.outputs) for result in results if isinstance(result, ClipFeatures)}:
            self._check_names(outputs)
        if self.settings.on_error == "raise":
            raise_first_error(results, layout)
        rows = [self._row(result) for result in results]
        names = list(dict.fromkeys(name for row in rows for name in row))
        are_needed = rows or batch.lazy is not None or not (batch.for_ray or batch.table is not None)
        if all(isinstance(result, AudioError) for result in results) and are_needed:
            names = self.all_names()  # the columns are there even if every clip is bad, or there is none
        if not layout.has_lists:
            return batch.give_back(rows, names, self._type_in_table, self._spec)
        names = names or self.all_names()  # and if every list is empty
        listed = []
        for row, result in zip(layout.grouped(rows), layout.grouped(results), strict=True):
            if self.settings.on_error == "skip" and _has_error(result):
                row = {}  # it is left out with any of its clips
            listed.append(self._listed(row, names) if isinstance(row, list) else row)
        return batch.give_back(listed, names, lambda name: self._in_lists(name, self._type_in_table(name)), self._spec)

    def _listed(self, rows: list[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
        """Return the columns of a row with a list of clips."""
        lists: dict[str, Any] = {name: [row.get(name) for row in rows] for name in names}
        if self.settings.reason_column is not None:
            lists[self.settings.reason_column] = in_one([row[self.settings.reason_column] for row in rows])
        return lists

    def _in_lists(self, column: str, feature: Any) -> Any:
        """Return the type of a column whose rows are lists of what has another type; there is one reason for a row."""
        return feature if feature is None or column == self.settings.reason_column else datasets.List(feature)

    def _row(self, result: ClipFeatures | AudioError) -> dict[str, Any]:
        reason = str(result) if isinstance(result, AudioError) else ""
        reasons = {} if self.settings.reason_column is None else {self.settings.reason_column: reason}
        if isinstance(result, AudioError):
            return reasons
        outputs = {
            self.name_of(output): value[()] if isinstance(value, np.ndarray) and not value.ndim else value
            for output, value in result.outputs.items()
        }
        lengths = {}
        if self.settings.length_column is not None and result.length is not None:
            lengths[self.settings.length_column] = result.length.n_samples
        return outputs | lengths | reasons

    # Columns ----------------------------------------------------------------------------------------------------------

    def name_of(self, output: str) -> str:
        """Return the name of an output's column."""
        return self.settings.output_names.get(output, output)

    def names(self) -> list[str]:
        """Return the names of the columns of outputs."""
        return [self.name_of(output) for output in self._specs()]

    def all_names(self) -> list[str]:
        """Return the names of the columns of outputs, and of those of lengths and reasons."""
        return [*self.names(), *self._further_names]

    @property
    def _further_names(self) -> list[str]:
        """The names of the columns of lengths and reasons, as far as these are asked for."""
        return [name for name in (self.settings.length_column, self.settings.reason_column) if name is not None]

    def further_types(self, *, lists: bool) -> dict[str, Any]:
        """Return the types of the columns of lengths and reasons; `lists` if rows have lists of clips."""
        types = {name: self.type_of(name) for name in self._further_names}
        return {name: self._in_lists(name, kind) if lists else kind for name, kind in types.items()}

    def _check_names(self, outputs: Collection[str]) -> None:
        """Raise if two columns would have one name, or an output to rename does not exist."""
        found = ", ".join(map(repr, outputs))
        named = [*(self.name_of(output) for output in outputs), *self._further_names]
        if len(set(named)) != len(named):
            raise ProcessorError(
                f"two columns would have one name: {named}. Correct output_names, length_column or reason_column. The "
                f"processor gives {found}; nothing was returned."
            )
        unknown = self.settings.output_names.keys() - set(outputs)
        if unknown:
            raise ProcessorError(
                f"output_names renames {', '.join(map(repr, sorted(unknown)))}, which the processor does not give. "
                f"Correct output_names. It gives {found}; nothing was returned."
            )

    # Types ------------------------------------------------------------------------------------------------------------

    def _specs(self) -> dict[str, OutputSpec]:
        """Return the form of each output by its own name."""
        specs = self.pipeline.output_specs()
        self._check_names(specs)
        if not specs:
            raise ProcessorError(
                f"{self.pipeline.name} failed on made-up clips of 1 s and 41 s, which would show the "
                f"form of its outputs. {self.pipeline.why_no_specs()}. No column was made."
            )
        return specs

    def _spec(self, column: str) -> OutputSpec | None:
        """Return the form of a column's output; None for the column of reasons."""
        if column == self.settings.reason_column:
            return None
        if column == self.settings.length_column:
            return OutputSpec("int64")
        return {self.name_of(output): spec for output, spec in self._specs().items()}[column]

    def type_of(self, column: str) -> Any:
        """Return the `datasets` feature of a column."""
        spec = self._spec(column)
        return datasets.Value("string") if spec is None else spec.feature(nullable=self.settings.on_error == "null")

    def _type_in_table(self, column: str) -> Any:
        spec = self._spec(column)
        return None if spec is not None and spec.unstorable is not None else self.type_of(column)

    def types_with(self, features: datasets.Features) -> datasets.Features:
        """Return the features of a dataset after `map`; see `CachedFeatures.features`."""
        result = datasets.Features(features)
        references = reference_columns(features)
        for column, reference in references.items():
            spec = self._spec_of_reference(reference)
            kind = spec.feature(nullable=self.settings.on_error == "null")
            result[column] = self._in_lists(column, kind) if isinstance(reference, CachedArrayList) else kind
        if not references:
            lists = is_list_feature(features.get(self.settings.audio_column))
            types = {name: self.type_of(name) for name in self.all_names()}
            result.update({name: self._in_lists(name, kind) if lists else kind for name, kind in types.items()})
        return result

    def _spec_of_reference(self, reference: CachedArray) -> OutputSpec:
        """Return the form of an array behind a reference, as the manifest under the reference's root says."""
        if reference.processor_sha is None:
            return waveform_spec(reference.name, reference.channels)
        specs = self._specs_there.get((reference.root, reference.processor_sha), {})
        if not specs:
            root, own = os.path.dirname(reference.root), self.pipeline.root
            there = (
                own if root == str(own.store.location()) else OpenRoot(CacheRoot(root, signing_key=own.signing_keys))
            )
            manifest = there.read_manifest(reference.processor_sha)
            specs = {} if manifest is None else dict(manifest.outputs)
            self._specs_there[reference.root, reference.processor_sha] = specs
        return specs[reference.name] if reference.name in specs else self._specs()[reference.name]

    def references(self, *, lists: bool = False) -> dict[str, CachedArray]:
        """Return the type of each column of references to this processor's features; `lists` if rows have lists."""
        kind = CachedArrayList if lists else CachedArray
        outputs, identity = self._specs(), self.pipeline.identity()
        return {
            self.name_of(output): kind(
                root=str(self.pipeline.cache.root),
                processor_sha=identity and identity.sha,
                **self.settings.waveform.arguments(),
                name=output,
                audio_column=self.settings.audio_column,
            )
            for output in outputs
        }

    # Being hashed and sent to other processes -------------------------------------------------------------------------

    def hashed_state(self) -> list[Any]:
        """Return what `datasets` hashes in the place of this object: all that decides what a call returns."""
        identity = self.pipeline.identity()
        return [_VERSION, identity and identity.sha, sorted(self.settings.form_of_results().items())]

    def __getstate__(self) -> dict[str, Any]:
        state = self.pipeline.__getstate__()
        if not HAS_HASH_HOOK:
            # `datasets` hashes this state then, which must not change from run to run: the counts of worker processes
            # are lost, and each of them is a run of its own.
            state |= {"counters": None, "run": None}
        return {"kind": type(self.pipeline), **state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        kind = state.pop("kind")
        self.__init__(kind(**state))  # type: ignore[misc]


def _has_error(result: Any) -> bool:
    """Return whether a row, or a clip of its list, has no features."""
    return any(isinstance(each, AudioError) for each in (result if isinstance(result, list) else [result]))


HAS_HASH_HOOK = hash_by(FeatureColumns, FeatureColumns.hashed_state)


def note_dataset(columns: FeatureColumns, dataset: Any) -> None:
    """Note in the record of the run which dataset it is given, if that has a name, and how many rows it has."""
    info = getattr(dataset, "info", None)
    name = getattr(info, "dataset_name", None) or getattr(info, "builder_name", None)
    if name:
        split = getattr(dataset, "split", None)
        n_rows = len(dataset) if isinstance(dataset, datasets.Dataset) else 0
        columns.pipeline.access_log.run.datasets[f"{name} {split}" if split else str(name)] = n_rows

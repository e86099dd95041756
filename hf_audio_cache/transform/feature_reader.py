"""The function of `attach` and `materialize`: a batch in, its features out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa

from ..audio.source import AudioSource, has_audio, local_path, located
from ..errors import AudioError, MissingEntryError
from .batch_formats import read_batch, with_columns
from .cached_array import CachedArray, CachedArrayList, missing_at, read_lengths, read_references
from .clip_lists import ListLayout, raise_first_error
from .collate import copies_of_rows
from .column_checks import check_not_replaced, check_not_written
from .feature_columns import FeatureColumns
from .reference_reader import pick_output

_ANY = bytes(32)  # a clip's sha, where any will do


@dataclass(frozen=True)
class FeatureReader:
    """Gives the features of a batch of rows: references are read, and others computed from the audio.

    Where rows have their audio beside references to this processor's features, the audio says what is right: of a file
    that has changed, a missing entry and a row without features they are computed.
    """

    columns: FeatureColumns
    references: dict[str, CachedArray]  # columns that are read from the cache
    computes: bool  # whether features are computed from the audio, beside them
    dropped: tuple[str, ...] = ()  # columns that the caller leaves out
    # What tells the states of the dataset's files, for `datasets` to find only results of the same ones.
    files: str = ""
    # Whether arrays own their memory: who shuffles a stream keeps few rows of each of many batches.
    copies: bool = False

    def __call__(self, examples: Any) -> Any:
        """Return the columns of features for a batch; for an Arrow table the table with them."""
        arrays = self.read(examples)
        if not isinstance(examples, pa.Table):
            columns = {**arrays, **self.compute(examples)}
            return copies_of_rows(columns) if self.copies else columns
        if self.computes:
            examples = self.compute(examples)
        if not arrays:
            return examples
        features = self.columns.types_with(datasets.Features.from_arrow_schema(examples.schema))
        lists = any(isinstance(reference, CachedArrayList) for reference in self.references.values())
        length = datasets.Value("int64")
        features.setdefault(str(self.columns.settings.length_column), datasets.List(length) if lists else length)
        return with_columns(examples, arrays, features.__getitem__)

    def compute(self, examples: Any, stored: Collection[str] = ()) -> Any:
        """Return the columns of computed features; for an Arrow table the table with them.

        The columns of some streams are known only now, and so whether one would be replaced. `stored` are those of a
        dataset, which were looked at when it was attached.
        """
        if not self.computes:
            return {}
        computed = self.columns.of(examples)
        outputs = {column: output for output, column in self.columns.settings.output_names.items()}
        new = set(self.columns.names() if isinstance(examples, pa.Table) else computed)
        new -= {self.columns.settings.reason_column, *self.dropped, *self.columns.replaced_audio}
        check_not_written(new & {*stored})
        check_not_replaced({name: outputs.get(name, name) for name in sorted(new & _names(examples))})
        return computed

    def read(self, examples: Any) -> dict[str, list[Any]]:
        """Return the arrays of the references that a batch has."""
        present = {name: reference for name, reference in self.references.items() if name in _names(examples)}
        is_table = isinstance(examples, pa.Table)
        shas = {name: examples[name].to_pylist() if is_table else examples[name] for name in present}
        present = {name: reference for name, reference in present.items() if not _is_read(shas[name])}
        arrays: dict[str, list[Any]] = {}
        length_column = str(self.columns.settings.length_column)
        for audio_column, group in self._by_audio_column(present).items():
            has_cells = audio_column not in self.references and has_audio(audio_column, _names(examples))
            cells = list(read_batch(examples, audio_column).cells) if has_cells else None
            found = self._read_lists({name: shas[name] for name in group}, group, cells)
            if audio_column != self.columns.settings.audio_column or length_column in {
                *_names(examples),
                *self.dropped,
            }:
                found.pop(length_column, None)
            arrays.update(found)
        return arrays

    def _read_lists(
        self, shas: Mapping[str, Sequence[Any]], references: dict[str, CachedArray], cells: Sequence[Any] | None
    ) -> dict[str, list[Any]]:
        """Return the arrays of `_read_group`, as lists for rows that have lists of clips."""
        first = next(iter(references))
        layout = ListLayout.of(shas[first] if cells is None else cells)
        shas = {name: layout.flat(column) for name, column in shas.items()}
        if cells is not None:
            cells = [located(cell, self.columns.settings.data_dir) for cell in layout.flat(cells)]
        try:
            arrays = self._read_group(shas, references, cells, layout)
        except MissingEntryError as exc:
            keys = [None if sha is None else references[first].key(sha) for sha in shas[first]]
            if not layout.has_lists or exc.key not in keys:
                raise
            raise missing_at(layout.place(keys.index(exc.key)), exc) from exc
        return {name: layout.grouped(column) for name, column in arrays.items()}

    def _by_audio_column(self, references: Mapping[str, CachedArray]) -> dict[str, dict[str, CachedArray]]:
        groups: dict[str, dict[str, CachedArray]] = {}
        for name, reference in references.items():
            column = reference.audio_column or self.columns.settings.audio_column
            groups.setdefault(column, {})[name] = reference
        return groups

    def _read_group(
        self,
        shas: Mapping[str, Sequence[bytes | None]],
        references: dict[str, CachedArray],
        cells: Sequence[Any] | None,
        layout: ListLayout,
    ) -> dict[str, list[Any]]:
        """Return the arrays of references that were made from one audio column, and the column of lengths if wanted."""
        cache = self.columns.pipeline.cache
        own = {
            name: reference for name, reference in references.items() if cells is not None and self._is_own(reference)
        }
        here = {name: reference for name, reference in own.items() if reference.root == str(cache.root)}
        elsewhere = {name: each for name, each in references.items() if name not in here}
        arrays = self._of_audio(here, shas, cells or (), layout) if here else {}
        try:
            files = self._hashed_files(cells or ()) if elsewhere else {}
            for name, reference in elsewhere.items():
                _check_files(files, shas[name], reference)
            arrays |= read_references(shas, elsewhere, cache)
        except MissingEntryError:
            if not elsewhere.keys() <= own.keys():
                raise
            arrays |= self._of_audio(elsewhere, shas, cells or (), layout)
        length_column = self.columns.settings.length_column
        if length_column is not None and length_column not in arrays:
            arrays[length_column] = read_lengths(shas, references, cache)
        return arrays

    def _hashed_files(self, cells: Sequence[Any]) -> dict[int, tuple[str, str]]:
        """Return path and ``blob_sha`` of each cell's file by its row; not of files that are gone."""
        paths = {row: path for row, cell in enumerate(cells) if (path := local_path(cell)) is not None}
        sources = self.columns.pipeline.audio_reader.identify(list(paths.values()))
        rows = zip(paths.items(), sources, strict=True)
        return {row: (path, source.blob_sha) for (row, path), source in rows if isinstance(source, AudioSource)}

    def _is_own(self, reference: CachedArray) -> bool:
        """Return whether this processor makes what a reference refers to."""
        pipeline = self.columns.pipeline
        is_own_column = reference.audio_column in (None, self.columns.settings.audio_column)
        is_own = is_own_column and reference.key(_ANY) == pipeline.key(_ANY.hex(), pipeline.identity())
        return is_own and reference.name in pipeline.output_specs()

    def _of_audio(
        self,
        references: Mapping[str, CachedArray],
        shas: Mapping[str, Sequence[bytes | None]],
        cells: Sequence[Any],
        layout: ListLayout,
    ) -> dict[str, list[Any]]:
        """Return the features of audio cells by column, read or computed; bytes are not hashed again."""
        known = shas[next(iter(references))]
        results = self.columns.pipeline.features(cells, [None if sha is None else sha.hex() for sha in known])
        if self.columns.settings.on_error == "raise":
            raise_first_error(results, layout)
        good = [None if isinstance(result, AudioError) else result for result in results]
        arrays: dict[str, list[Any]] = {}
        for name, reference in references.items():
            where = reference.key(_ANY), reference.name, reference.root
            arrays[name] = [each and pick_output(each.outputs, *where) for each in good]
        if self.columns.settings.length_column is not None:
            lengths = [each and each.length and each.length.n_samples for each in good]
            arrays[self.columns.settings.length_column] = lengths
        return arrays


def _is_read(column: Sequence[Any]) -> bool:
    """Return whether a column has arrays, and no references: in a stream whose rows a filter has looked at."""
    cells = [each for cell in column for each in (cell if isinstance(cell, list) else [cell])]
    return any(each is not None and not isinstance(each, bytes) for each in cells)


def _names(examples: Any) -> set[str]:
    return set(examples.column_names if isinstance(examples, pa.Table) else examples)


def _check_files(files: Mapping[int, tuple[str, str]], shas: Sequence[bytes | None], reference: CachedArray) -> None:
    """Raise `MissingEntryError` if a file is not the one any more that a reference was made from."""
    for row, (path, found) in files.items():
        sha = shas[row]
        if sha is not None and found != reference.key(sha).blob_sha:
            raise MissingEntryError(
                f"the audio file {path} has changed since the reference was made, and the features of its content now "
                "are not known here. Call map(ds) again, with the cached_features that made the references. The row "
                "was not read.",
                key=reference.key(sha),
                root=reference.root,
            )

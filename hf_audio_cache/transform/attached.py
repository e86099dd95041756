"""What `CachedFeatures.attach` makes of a `Dataset`: its transform, the batches that this returns, and the dataset."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import datasets

from ..audio.source import has_audio
from ..errors import AudioColumnError, ProcessorError
from .feature_reader import FeatureReader


class LateColumns(dict[str, Any]):
    """A batch with lazy columns. They are computed together, at the first access to one of them or to all columns.

    `datasets` asks an attached dataset for a whole batch where one column is wanted (``ds["label"][:]``, a batched
    filter or map). Columns that are there already cost nothing then. `late` makes the others by name, and is called
    once.
    """

    def __init__(self, present: Mapping[str, Any], late: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__(present)
        self._late: Callable[[], Mapping[str, Any]] | None = late

    def _complete(self) -> None:
        if self._late is not None:
            super().update(self._late())
            self._late = None  # not before: what failed once fails again

    def __getitem__(self, name: str) -> Any:
        if not super().__contains__(name):
            self._complete()
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        if not super().__contains__(name):
            self._complete()
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a column."""
        if not super().__contains__(name):
            self._complete()
        return super().get(name, default)

    # An own __iter__ keeps dict(batch) and {**batch} from copying only what is there.
    def __iter__(self) -> Iterator[str]:
        self._complete()
        return super().__iter__()

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self.items()),)


def _complete_first(name: str) -> Any:
    of_dict = getattr(dict, name)

    def method(self: LateColumns, *arguments: Any, **settings: Any) -> Any:
        self._complete()
        return of_dict(self, *arguments, **settings)

    method.__name__ = name
    return method


for _name in (
    *("__delitem__", "__eq__", "__ior__", "__len__", "__ne__", "__or__", "__repr__", "__reversed__", "__ror__"),
    *("__setitem__", "clear", "copy", "items", "keys", "pop", "popitem", "setdefault", "update", "values"),
):
    setattr(LateColumns, _name, _complete_first(_name))


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


class AttachedDataset(datasets.Dataset):  # type: ignore[misc]  # datasets has no types
    """A dataset whose rows have columns that it does not have itself. What is made of it is an ordinary dataset."""

    @classmethod
    def of(cls, dataset: datasets.Dataset) -> datasets.Dataset:
        """Return a dataset of an attached transform, as one that explains itself."""
        dataset.__class__ = cls
        return dataset

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str) and key not in self.column_names and key in self._late_names():
            raise AudioColumnError(
                f"the column {key!r} is made when a row is read, and the dataset has no such column. Take it from "
                f"rows, as in attached[0][{key!r}] or attached[:8][{key!r}]; or use cached_features.map(ds), which "
                "makes a column. Nothing was computed.",
                column=key,
                columns=tuple(self.column_names),
            )
        if isinstance(key, str) and self._is_plain(key):
            return self.with_format(None)[key]  # `datasets` would read whole rows: a sampler wants lengths alone
        return super().__getitem__(key)

    def to_iterable_dataset(self, *args: Any, **kwargs: Any) -> Any:
        self._check_is_in_tables("Make the stream first: cached_features.attach(ds.to_iterable_dataset()).")
        return super().to_iterable_dataset(*args, **kwargs)

    def save_to_disk(self, *args: Any, **kwargs: Any) -> None:
        self._check_is_in_tables("Save the dataset before attach; or cached_features.map(ds), which makes columns.")
        super().save_to_disk(*args, **kwargs)

    def _attached(self) -> Attached | None:
        """Return what is attached; None, if the dataset has another format by now."""
        transform = self.format["format_kwargs"].get("transform")
        return transform if isinstance(transform, Attached) else None

    def _check_is_in_tables(self, remedy: str) -> None:
        """Raise `ProcessorError` if rows have columns that are in no table."""
        if self._attached() is not None:
            raise ProcessorError(
                f"rows of an attached dataset are made when they are read, and are in no table. {remedy} Nothing was "
                "read or written."
            )

    def _is_plain(self, name: str) -> bool:
        """Return whether rows have a column as it is stored."""
        transform = self._attached()
        if transform is None or transform.before is not None or name not in self.column_names:
            return False
        made = transform.references().union(*(reader.columns.replaced_audio for reader in transform.readers))
        return name not in made and name not in transform.dropped

    def _late_names(self) -> set[str]:
        """Return the names of the columns that rows get when they are read."""
        transform = self._attached()
        readers = () if transform is None else transform.readers
        return {name for reader in readers if reader.computes for name in reader.columns.all_names()}

"""The dataset that `CachedFeatures.attach` returns: it says why it cannot be asked for a column of features."""

from __future__ import annotations

from typing import Any

import datasets

from ..errors import AudioColumnError, ProcessorError
from .attached import Attached


class AttachedDataset(datasets.Dataset):  # type: ignore[misc]  # datasets has no types
    """A dataset whose rows have columns that it does not have itself. What is made of it is an ordinary dataset."""

    @classmethod
    def of(cls, dataset: datasets.Dataset) -> datasets.Dataset:
        """Return a dataset of an attached transform, as one that explains itself."""
        dataset.__class__ = cls
        return dataset

    def __getitem__(self, key: Any) -> Any:
        """Return rows or a column, as any dataset does."""
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
        """Make a stream, of what is attached no more; `datasets` makes none of rows that are made when they are read.

        Raises
        ------
        ProcessorError
            If it is attached.
        """
        self._check_is_in_tables("Make the stream first: cached_features.attach(ds.to_iterable_dataset()).")
        return super().to_iterable_dataset(*args, **kwargs)

    def save_to_disk(self, *args: Any, **kwargs: Any) -> None:
        """Save what is attached no more; raise `ProcessorError` if it is attached."""
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

"""The functions that are given to `datasets`: pickled for its workers, and hashed to find results that it kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..errors import AudioError
from .batch_formats import read_batch
from .cached_array import CachedArray, CachedArrayList
from .clip_lists import ListLayout, in_one, raise_first_error
from .feature_columns import FeatureColumns


@dataclass(frozen=True)
class ReferenceMaker:
    """The mapped function of `CachedFeatures.map`: audio cells in, the ``blob_sha`` of each row out."""

    columns: FeatureColumns
    types: dict[str, CachedArray]  # has the root, so that `datasets` does not take kept results of another root
    files: str = ""  # tells the states of the dataset's files, for the same reason

    def __call__(self, examples: Any, numbers: Sequence[int] | None = None) -> dict[str, list[Any]]:
        """Return the columns of references for a batch, and those of lengths and reasons if they were asked for.

        `numbers` are those of its rows in the dataset.
        """
        settings = self.columns.settings
        batch = read_batch(examples, settings.audio_column)
        processor_sha = next(iter(self.types.values())).processor_sha
        lists = any(isinstance(reference, CachedArrayList) for reference in self.types.values())
        layout = ListLayout.of_column(batch.cells, has_lists=lists)
        clips = self.columns.pipeline.ensure(layout.flat(batch.cells), processor_sha)
        if settings.on_error == "raise":
            raise_first_error(clips, layout, numbers)
        good = [None if isinstance(clip, AudioError) else clip for clip in clips]
        shas = layout.grouped([clip and bytes.fromhex(clip.key.blob_sha) for clip in good])
        lengths = layout.grouped([clip and clip.length and clip.length.n_samples for clip in good])
        reasons = layout.grouped([str(clip) if isinstance(clip, AudioError) else "" for clip in clips])
        if lists and settings.on_error == "skip":  # a row goes with any of its clips
            shas = [None if row is None or None in row else row for row in shas]
        reasons = [reason if isinstance(reason, str) else in_one(reason) for reason in reasons]
        columns: dict[str, list[Any]] = dict.fromkeys(self.types, shas)
        if settings.length_column is not None:
            columns[settings.length_column] = lengths
        if settings.reason_column is not None:
            columns[settings.reason_column] = reasons
        return columns


@dataclass(frozen=True)
class HasFeatures:
    """The filter that leaves bad clips out of a stream."""

    columns: FeatureColumns

    def __call__(self, example: Mapping[str, Any]) -> bool:
        """Return whether a row of a stream has features."""
        cells = [example[name] for name in self.columns.names()]
        # In a stream of Arrow tables each cell is a column of one row.
        return any(cell.null_count == 0 if isinstance(cell, pa.ChunkedArray) else cell is not None for cell in cells)

"""Audio columns whose cells are lists of clips: the clips of a batch one after another, and back into lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from ..errors import AudioError

_OF_CLIPS = ("string", "large_string", "binary", "large_binary")  # paths, and encoded bytes


def is_list_feature(feature: Any) -> bool:
    """Return whether the cells of a column are lists of clips, and not arrays of samples."""
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        feature = feature.feature
        return not (isinstance(feature, datasets.Value) and feature.dtype not in _OF_CLIPS)
    return False


def is_list_of_clips(cell: Any) -> bool:
    """Return whether a cell is a list of clips, and not an array of samples."""
    if isinstance(cell, np.ndarray):
        return cell.dtype.kind in "OUS" and cell.ndim == 1
    return isinstance(cell, (list, tuple)) and not (cell and isinstance(cell[0], (int, float, np.number)))


@dataclass(frozen=True)
class ListLayout:
    """How many clips each row of a batch has."""

    sizes: tuple[int | None, ...]  # of each row's list; None for a row without a list
    has_lists: bool  # whether rows have lists; else each has one clip

    @classmethod
    def of(cls, cells: Sequence[Any]) -> ListLayout:
        """Return the layout of a batch of cells. A cell is a clip or a list of clips."""
        sizes = tuple(len(cell) if is_list_of_clips(cell) else None for cell in cells)
        return cls(sizes, any(size is not None for size in sizes))

    @classmethod
    def of_column(cls, cells: Sequence[Any], *, has_lists: bool) -> ListLayout:
        """Return the layout of a column, whose cells are lists or None if it `has_lists`."""
        return cls(tuple(len(cell) if has_lists and cell is not None else None for cell in cells), has_lists)

    def flat(self, cells: Sequence[Any]) -> list[Any]:
        """Return the clips of all rows, one after another. A row without a list is one of them."""
        clips: list[Any] = []
        for cell, size in zip(cells, self.sizes, strict=True):
            if size is None:
                clips.append(cell)
            else:  # what is known of a list may be of another one
                clips += list(cell) if cell is not None and len(cell) == size else [None] * size
        return clips

    def grouped(self, values: Sequence[Any]) -> list[Any]:
        """Return what belongs to each row: a list for one with a list, else the value."""
        ahead = iter(values)
        return [next(ahead) if size is None else [next(ahead) for _ in range(size)] for size in self.sizes]

    def place(self, number: int, numbers: Sequence[int] | None = None) -> str:
        """Say in which row of the batch a clip is, or of the dataset by its rows' numbers; and where in its list."""
        for row, size in enumerate(self.sizes):
            if number < (1 if size is None else size):
                where = f"row {row} of the batch" if numbers is None else f"row {numbers[row]} of the dataset"
                return where if size is None else f"item {number} of {where}"
            number -= 1 if size is None else size
        raise IndexError(number)


def raise_first_error(results: Sequence[Any], layout: ListLayout, numbers: Sequence[int] | None = None) -> None:
    """Raise the first error among the results of a batch's clips, with the place of its clip; `numbers` as above."""
    is_one = len(results) == 1 and not layout.has_lists and numbers is None
    for number, result in enumerate(results):
        if isinstance(result, AudioError):
            place = "" if is_one else f"It is {layout.place(number, numbers)}. "
            raise result.adding(f'{place}To go on without such clips, pass on_error="null" or "skip".')


def in_one(reasons: Sequence[str]) -> str:
    """Return why clips of a list have no features, as one text."""
    return "; ".join(f"item {item}: {reason}" for item, reason in enumerate(reasons) if reason)

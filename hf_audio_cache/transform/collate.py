"""The arrays of a batch as one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def collate(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return arrays of one dtype and shape as one array; without a copy if they are the rows of one, in this order."""
    whole = array_of_rows(arrays)
    return np.stack(arrays) if whole is None else whole


def array_of_rows(values: Sequence[Any]) -> npt.NDArray[Any] | None:
    """Return the part of an array that these values are the rows of, in this order; None if they are anything else."""
    base = getattr(values[0], "base", None) if len(values) else None
    start = None if base is None else _first_row(values, base)
    return None if base is None or start is None else base[start : start + len(values)]


def _first_row(arrays: Sequence[npt.NDArray[Any]], base: Any) -> int | None:
    """Return which row of `base` the first array is, if the others are the next ones; else None."""
    form = (arrays[0].dtype, arrays[0].shape)
    if not isinstance(base, np.ndarray) or not arrays[0].nbytes:
        return None
    if not base.flags.c_contiguous or (base.dtype, base.shape[1:]) != form:
        return None
    place, size = _address(arrays[0]), arrays[0].nbytes
    for number, array in enumerate(arrays):
        is_of_form = (
            getattr(array, "base", None) is base and (array.dtype, array.shape) == form and array.flags.c_contiguous
        )
        if not is_of_form or _address(array) != place + number * size:
            return None
    start, rest = divmod(place - _address(base), size)
    return None if rest else start


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _is_part(value: Any) -> bool:
    base = getattr(value, "base", None)
    return isinstance(base, np.ndarray) and base.nbytes > value.nbytes


def copies_of_rows(columns: dict[str, Any]) -> dict[str, Any]:
    """Return columns whose arrays own their memory, so that a row that is kept does not keep its batch."""
    return {name: [value.copy() if _is_part(value) else value for value in column] for name, column in columns.items()}

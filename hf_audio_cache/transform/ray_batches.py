"""The batches of Ray Data, which differ from those of `datasets`: a mapped function returns all columns.

`datasets` merges the columns that a function returns with those that it was given; Ray Data keeps those that are
returned. And where `datasets` has lists and nulls, Ray Data has tensor columns, which have no nulls.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..processors.output_specs import OutputSpec
from .collate import collate


def is_for_ray() -> bool:
    """Return whether Ray Data is calling, and not `datasets`."""
    data = sys.modules.get("ray.data")
    if data is None:
        return False
    if getattr(data, "_map_actor_context", None) is not None:  # an actor of Ray Data runs nothing else
        return True
    # Ray itself says only that some task runs. In a task of Ray Train `datasets` may be calling.
    with contextlib.suppress(ImportError):
        from ray.data._internal.execution.interfaces.task_context import TaskContext

        return TaskContext.get_current() is not None
    return False


def rows_of(columns: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Return some rows of a batch of Ray Data, which is a dict of arrays."""
    return {name: np.asarray(column)[list(rows)] for name, column in columns.items()}


def tensor(values: Sequence[Any], spec: Callable[[], OutputSpec | None]) -> npt.NDArray[Any] | list[Any]:
    """Return a column as Ray Data takes it for a tensor: one array, or an array of arrays.

    Scalars and JSON values stay as they are. None becomes an empty array if the others are arrays; if all are None,
    `spec` gives their form.
    """
    found = next((value for value in values if value is not None), None)
    if found is None:
        known = spec()
        if known is None or known.dtype is None or known.shape == ():
            return list(values)
        # One axis if even the number of axes varies.
        empty = np.empty((0,) * len(known.shape or (None,)), known.dtype)
    elif isinstance(found, np.ndarray) and found.ndim:
        empty = np.empty((0,) * found.ndim, found.dtype)
    else:
        return list(values)
    arrays = [empty if value is None else value for value in values]
    if len({array.shape for array in arrays}) == 1:
        return collate(arrays)
    column = np.empty(len(arrays), dtype=object)  # Ray Data would try to stack a list of arrays, and warn
    column[:] = arrays
    return column


def with_tensors(table: pa.Table, columns: Mapping[str, npt.NDArray[Any] | list[Any]]) -> pa.Table:
    """Return an Arrow table with columns added or replaced; arrays that `tensor` made become tensor columns."""
    from ray.data.extensions import ArrowTensorArray

    table = table.drop_columns([name for name in columns if name in table.column_names])
    for name, column in columns.items():
        array = ArrowTensorArray.from_numpy(column) if isinstance(column, np.ndarray) else pa.array(_nested(column))
        table = table.append_column(name, array)
    return table


def _nested(value: Any) -> Any:
    """Return lists of arrays as lists of their rows, which is what Arrow takes."""
    is_nested = isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim > 1)
    return [_nested(part) for part in value] if is_nested else value

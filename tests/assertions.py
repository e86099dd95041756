"""What tests compare: outputs bit for bit, and the rows of a batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def is_same(found: Any, expected: Any) -> bool:
    """Return whether two outputs are the same: arrays of one dtype (byte order too), shape and bits, or equal JSON."""
    if isinstance(expected, (np.ndarray, np.generic)):
        return isinstance(found, (np.ndarray, np.generic)) and _bits(found) == _bits(expected)
    return type(found) is type(expected) and json.dumps(found) == json.dumps(expected)


def _bits(array: np.ndarray | np.generic) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, array.tobytes()


def all_same(found: Mapping[str, Any] | None, expected: Mapping[str, Any]) -> bool:
    """Return whether these are the expected outputs, in their order."""
    if found is None or list(found) != list(expected):
        return False
    return all(is_same(found[name], expected[name]) for name in expected)


def rows_of(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the rows of a batch, which is given as columns."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def n_wrong(columns: Mapping[str, Sequence[Any]], expected: Sequence[Mapping[str, Any]]) -> int:
    """Return how many rows of a batch have not the expected outputs."""
    return sum(not all_same(row, outputs) for row, outputs in zip(rows_of(columns), expected, strict=True))

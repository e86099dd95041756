"""Cases of several axes: each value once in `make test`, every combination in `make test-all`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest


def crossed(*axes: Sequence[Any]) -> list[Any]:
    """Return all combinations for ``pytest.mark.parametrize``, with the marker `long` but on one for each value.

    The first case has the first value of each axis, the second the second; a shorter axis begins again.
    """
    tables = [[pytest.param(value) if not isinstance(value, _Case) else value for value in axis] for axis in axes]
    kept = {tuple(number % len(axis) for axis in axes) for number in range(max(map(len, axes)))}
    return [
        pytest.param(
            *(table[index].values[0] for table, index in zip(tables, indices, strict=True)),
            marks=[
                *(mark for table, index in zip(tables, indices, strict=True) for mark in table[index].marks),
                *([] if indices in kept else [pytest.mark.long]),
            ],
        )
        for indices in itertools.product(*(range(len(axis)) for axis in axes))
    ]


_Case = type(pytest.param())

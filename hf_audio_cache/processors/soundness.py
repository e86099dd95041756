"""Check outputs: all numbers are finite, and there is at least one frame."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Nonfinite = Literal["error", "keep"]


@dataclass(frozen=True)
class UnsoundOutput:
    """An output that no model should be trained on: its name, how many of its values are wrong, and a description."""

    name: str
    count: int
    description: str
    remedy: str = ""


def unsound_output(outputs: Mapping[str, Any], nonfinite: Nonfinite) -> UnsoundOutput | None:
    """Return the first output that is not finite or has no frames; None if all are sound.

    An empty array of integers may be right beside others (no special positions, for one): it counts as having no frames
    only where nothing else has any.
    """
    for name, value in outputs.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fc" and value.size == 0:
            return UnsoundOutput(name, 0, f"has no frames: its shape is {value.shape}")
        wrong, total = (0, 0) if nonfinite == "keep" else _count_nonfinite(value)
        if wrong:
            remedy = ' If the processor means them, pass nonfinite="keep".'
            return UnsoundOutput(name, wrong, f"has {wrong} of {total} values that are not finite", remedy)
    if not any(map(_has_values, outputs.values())):
        return UnsoundOutput(next(iter(outputs), ""), 0, "has no frames: there are no values in any output")
    return None


def _count_nonfinite(value: Any) -> tuple[int, int]:
    """Return how many numbers in an array or a JSON value are NaN or infinite, and how many numbers there are."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fc":
            return 0, 0
        return value.size - int(np.count_nonzero(np.isfinite(value))), value.size
    finite = [math.isfinite(number) for number in _floats(value)]
    return len(finite) - sum(finite), len(finite)


def _floats(value: Any) -> Iterator[float]:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, float):
            yield one
        elif isinstance(one, Mapping):
            left.extend(one.values())
        elif isinstance(one, (list, tuple)):
            left.extend(one)


def _has_values(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.size > 0
    return not isinstance(value, (list, dict)) or len(value) > 0

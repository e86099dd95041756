"""Passes that the tests of the benchmarks have contenders do, in processes that import little for them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from benchmarks.harness import Pass


def constant(value: float) -> Pass:
    return Pass(2, lambda: [np.full(3, value), [np.full(3, value)]])


def process_and_turn() -> Pass:
    """Give the process, and how often it was asked."""
    turns: list[int] = []

    def read() -> Iterator[np.ndarray]:
        turns.append(1)
        yield np.array([os.getpid(), len(turns)])

    return Pass(1, read)


def failing() -> Pass:
    raise ValueError("no clips here")

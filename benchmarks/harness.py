"""Contenders that do the same work in turns, each in a process of its own, and what that took.

A contender is a function that gets ready and returns a `Pass`: something that gives a user's rows, one after the
other. A round is one pass of each contender (A B C, A B C, …), so that what slows the machine down for a while slows
all of them, and what is compared is the ratio within a round. Times are taken inside the contender's process.
"""

from __future__ import annotations

import collections
import gc
import hashlib
import importlib.util
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


class BenchmarkError(RuntimeError):
    """A contender that failed; its message has what it raised."""


def nothing() -> None:
    """Do nothing: what most passes need before they start."""


@dataclass(frozen=True)
class Pass:
    """What a contender does in a round.

    Parameters
    ----------
    rows
        How many rows it gives.
    read
        Gives them: arrays, tensors, or lists or batches of either, in the order of the rows.
    before
        Is called before each pass, and not timed.
    """

    rows: int
    read: Callable[[], Iterable[Any]]
    before: Callable[[], None] = nothing


@dataclass(frozen=True)
class Contender:
    """One way to get the rows.

    Parameters
    ----------
    name
        What the table calls it.
    build
        Returns its `Pass`; called with `arguments` in the contender's process, so both can be pickled.
    is_checked
        Whether its rows must be those of the other contenders that are checked.
    tolerance
        The largest difference that is allowed to its rows: 0.0 is for the same bits.
    needs
        Modules without which it is left out.
    """

    name: str
    build: Callable[..., Pass]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    is_checked: bool = True
    tolerance: float = 0.0
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        """Why it is left out; empty if it is not."""
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"{', '.join(absent)} is not installed" if absent else ""


@dataclass(frozen=True)
class Rows:
    """What tells the rows of one pass from those of another: their digest and the first of them."""

    digest: str
    first: np.ndarray


# In a contender's process -------------------------------------------------------------------------------------------

_PASSES: dict[str, Pass] = {}  # of this process, by the contender's name


def _build(contender: Contender) -> None:
    _PASSES[contender.name] = contender.build(**contender.arguments)


def _time_pass(name: str) -> tuple[float, int]:
    """Return the seconds that a row took, and the resident bytes of the process afterwards."""
    one = _PASSES[name]
    one.before()
    gc.collect()
    started = time.perf_counter()
    collections.deque(one.read(), maxlen=0)  # each value is dropped before the next is asked for
    return (time.perf_counter() - started) / one.rows, resident_bytes()


def _look_at(name: str) -> Rows:
    """Do a pass that is not timed, and return what it gave. It warms what there is to warm."""
    one = _PASSES[name]
    one.before()
    state = hashlib.sha256()
    first = None
    for array in _arrays(one.read()):
        if first is None:
            first = np.array(array)
            state.update(array.dtype.str.encode())
        state.update(np.ascontiguousarray(array).data)
    return Rows(state.hexdigest(), np.empty(0) if first is None else first)


def _arrays(values: Iterable[Any]) -> Iterable[np.ndarray]:
    """Give the rows of a pass one by one; a batch has one axis more than its rows, and is told by its type."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _arrays(value)
        elif isinstance(value, np.ndarray):
            yield value
        else:
            yield from np.asarray(value)  # a batch as a collator makes it: a tensor


def resident_bytes() -> int:
    """Return the bytes of memory that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Reaching it --------------------------------------------------------------------------------------------------------


class Worker:
    """A process that calls functions on request; `in_process=False` is for a quick look, and calls them here."""

    def __init__(self, *, in_process: bool = True) -> None:
        self._process = None
        if in_process:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            # No daemon: those may not have children, and a DataLoader has.
            self._process = context.Process(target=_serve, args=(theirs,))
            self._process.start()
            theirs.close()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what the function returns there."""
        if self._process is None:
            return function(*arguments)
        self._pipe.send((function, arguments))
        try:
            answer, error = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise BenchmarkError(f"the process ended with {self._process.exitcode}") from None
        if error:
            raise BenchmarkError(error)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._pipe.close()
            self._process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _serve(pipe: Any) -> None:
    multiprocessing.process._parent_process = None  # it stands for a user's own process, and is no worker of one
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = (function(*arguments), "")
        except BaseException:  # noqa: BLE001 - whatever it is, the parent says it
            answer = (None, traceback.format_exc())
        pipe.send(answer)


# Comparing ----------------------------------------------------------------------------------------------------------


@dataclass
class Comparison:
    """What a number of rounds took.

    Attributes
    ----------
    seconds
        Of a row, for each contender and round.
    resident
        Bytes of memory of its process after each round.
    skipped
        Contenders that were left out, and why.
    wrong
        What is wrong with the rows of some of them; empty, if all is as it should be.
    errors
        Largest difference of the first row from the exact one, of contenders that may differ.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    resident: dict[str, list[int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)

    def ratios(self, slower: str, faster: str, *, net_of: str | None = None) -> list[float]:
        """Return, for each round, how many times as long the one took as the other, net of what a third one took."""
        base = self.seconds[net_of] if net_of else [0.0] * len(self.seconds[slower])
        rounds = zip(self.seconds[slower], self.seconds[faster], base, strict=True)
        # Below a thousandth of what it is net of, a net time is not known.
        return [(long - free) / max(short - free, free / 1000) for long, short, free in rounds]


def compare(
    contenders: Sequence[Contender], rounds: int, *, in_processes: bool = True, is_fresh: bool = False
) -> Comparison:
    """Let contenders take turns.

    Parameters
    ----------
    contenders
        The first that is checked says what the rows are.
    rounds
        How many passes of each are timed.
    in_processes
        Whether each has a process of its own; otherwise all of them run here, for a quick look.
    is_fresh
        Whether each round has a new process, of which the first pass is timed; otherwise one process does all rounds,
        after a pass that is not timed.
    """
    result = Comparison(skipped={each.name: each.missing for each in contenders if each.missing})
    present = [each for each in contenders if not each.missing]
    kept: dict[str, Worker] = {}
    try:
        _check(present, result, kept, in_processes)
        if is_fresh:
            _end(kept)
        for _ in range(rounds):
            for each in present:
                if is_fresh:
                    with Worker(in_process=in_processes) as worker:
                        worker.call(_build, each)
                        took, resident = worker.call(_time_pass, each.name)
                else:
                    took, resident = kept[each.name].call(_time_pass, each.name)
                result.seconds.setdefault(each.name, []).append(took)
                result.resident.setdefault(each.name, []).append(resident)
    finally:
        _end(kept)
    return result


def _end(workers: dict[str, Worker]) -> None:
    for worker in workers.values():
        worker.close()
    workers.clear()
    _PASSES.clear()


def _check(present: Sequence[Contender], result: Comparison, kept: dict[str, Worker], in_processes: bool) -> None:
    expected: Rows | None = None
    for each in present:
        worker = kept[each.name] = Worker(in_process=in_processes)
        worker.call(_build, each)
        rows = worker.call(_look_at, each.name)
        if not each.is_checked:
            continue
        expected = expected or rows
        if not each.tolerance:
            if rows.digest != expected.digest:
                result.wrong.append(f"{each.name}: its rows are not those of the others")
            continue
        error = result.errors[each.name] = float(np.abs(rows.first - expected.first).max())
        if not error <= each.tolerance:
            result.wrong.append(f"{each.name}: its first row differs by {error:.3g}")

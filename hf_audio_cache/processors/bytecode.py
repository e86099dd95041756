"""The instructions of a function, the same for every way to break its lines."""

from __future__ import annotations

import bisect
import dis
import types
from typing import Any

_IDLE = ("NOP", "EXTENDED_ARG", "RESUME", "CACHE")
# What Python 3.13 and later store in a class of its lines, and of its methods' attributes in the order of a set.
_OF_LINES = ("__firstlineno__", "__static_attributes__")
# Pairs that Python 3.13 and later join where both stand in one line.
_JOINED = {
    f"{first}_{second}": (first, second)
    for first, second in (("LOAD_FAST", "LOAD_FAST"), ("STORE_FAST", "LOAD_FAST"), ("STORE_FAST", "STORE_FAST"))
}


def steps_of(code: types.CodeType) -> list[dis.Instruction]:
    """Return the instructions that do something."""
    steps = [part for step in dis.get_instructions(code) if step.opname not in _IDLE for part in _parts(step)]
    of_lines = {n for n, step in enumerate(steps) if step.opname == "STORE_NAME" and step.argval in _OF_LINES}
    return [step for number, step in enumerate(steps) if of_lines.isdisjoint((number, number + 1))]


def _parts(step: dis.Instruction) -> list[dis.Instruction]:
    names = _JOINED.get(step.opname, ())
    pairs = zip(names, step.argval, strict=True) if names else ()
    return [step._replace(opname=name, opcode=dis.opmap[name], argval=said) for name, said in pairs] or [step]


def handlers(code: types.CodeType, steps: list[dis.Instruction]) -> list[Any]:
    """Return for each instruction the number of that which handles its exceptions. Line breaks move both in bytes."""
    table = dis._parse_exception_table(code)  # type: ignore[attr-defined]  # no public function tells
    offsets = [step.offset for step in steps]
    found: list[Any] = [None] * len(steps)
    for entry in table:
        handler = bisect.bisect_left(offsets, entry.target), entry.depth, entry.lasti
        for number in range(bisect.bisect_left(offsets, entry.start), bisect.bisect_left(offsets, entry.end)):
            found[number] = handler
    return found

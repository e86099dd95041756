"""Checks of arguments, which name the argument and what it may be."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable


def check_number(name: str, value: object, outcome: str, *, is_positive: bool = False, most: float = math.inf) -> None:
    """Raise ValueError if the argument `name` is no number of at least 0, and at most `most`, or no positive one."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and 0 <= value <= most and not (is_positive and value == 0):  # type: ignore[operator]  # as was seen
        return
    wanted = "number of at least 0" if most == math.inf else f"number between 0 and {most:g}"
    wanted = "positive number" if is_positive else wanted
    raise ValueError(f"{name} must be a {wanted}, not {value!r}; {outcome}.")


def check_choice(name: str, value: object, choices: Iterable[str | None], outcome: str) -> None:
    """Raise ValueError if the value of the argument `name` is not one of the choices."""
    known = list(choices)  # in which a value that has no hash can be looked for
    if value not in known:
        *first, last = [f'"{one}"' for one in known if one is not None] + ["None"] * (None in known)
        raise ValueError(f"{name} must be {', '.join(first)} or {last}, not {value!r}; {outcome}.")

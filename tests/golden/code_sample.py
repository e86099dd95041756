"""Functions in every syntax of Python 3.10, of which tests/test_code.py has the digests.

Never reformat this file: the digests are of what it means, and its odd spelling is what shows that.
"""

# ruff: noqa
# fmt: off
from __future__ import annotations

import contextlib
import functools
import json as encoder
import math

try:
    import tomllib
except ImportError:
    tomllib = None

BIG = 123456789012345678901234567890
FLOOR = 1e-10
counter = 0


def twice(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs), function(*args, **kwargs)

    return wrapper


def with_arguments(times, *, name="x"):
    def decorate(function):
        return function

    return decorate


def constants():
    """Numbers and strings of all kinds."""
    numbers = [0, -1, 1_000, 0xFF, 123456789012345678901234567890, 1.0, 1e-10, 1e300, 0.1, -0.0, 1e400, 3j, 1.5 + 2j]
    texts = ["", "plain", 'single', "it's", r"\raw", "tab\t", "ünïcödé", "\N{GREEK SMALL LETTER MU}", "\u2028", "\x00"]
    more = ["😀", "\U0001fae8", "\ud800", u"old", "two " "parts", """three
lines"""]
    raw = [b"", b"bytes", b"\x00\xff", rb"\x00", B'x' b'y']
    return numbers, texts, more, raw, True, False, None, ..., Ellipsis, ()


def f_strings(value, width=10, precision=3):
    name = {"key": "value"}
    return (
        f"",
        f"plain",
        f"{value}",
        f"{value!r} and {value!s} and {value!a}",
        f"{value:>10}",
        f"{value:{width}.{precision}f}",
        f"{value!r:^{width}}",
        f"{value:{'>'}{width}}",
        f"{value=}",
        f"{ value = !r:>10}",
        f"{value = :.3f}",
        f"{{braces}} {value} }}{{",
        f"{name['key']} {f'{value} {width}'}",
        f"{value:%Y-%m-%d}",
        f"{value:}",
        f"a" "b" f"{value}" "c" f"d",
        f"{value}" f"{width}",
        "" f"{value}" "",
        rf"\d{value}\n",
        f"\n{value}\t\N{EM DASH}ü",
        f"{(lambda x: x + 1)(value)}",
        f"{ {'a': 1}['a'] }",
        f"""{
            value
        } over
        lines""",
        f"{value if width else precision}",
        f"{value, width}",
        f"{*name, value}",
        f"{(yield_ := value)}",
    )


def operators(a, b, c):
    a += 1; a -= 2; a *= 3; a /= 4; a //= 5; a %= 6; a **= 7; a @= b; a &= 8; a |= 9; a ^= 10; a <<= 11; a >>= 12
    chained = 0 <= a < b != c == 3 > -1 >= -2
    member = a in b, a not in b, a is None, a is not None
    boolean = a and b and c or not a or (b and not c)
    arithmetic = -a ** 2 + +b - ~c * (a - (b - c)) / 2 // 3 % 4 @ a << 1 >> 2 & 3 | 4 ^ 5
    conditional = a if b else c if a else b
    return chained, member, boolean, arithmetic, conditional


def slices(x, i):
    return x[0], x[-1], x[1:], x[:1], x[::2], x[1:2:3], x[:], x[..., None], x[:, i], x[1:2, ::-1], x[i][i], x[(1, 2)], x[1, 2], x[()]


def containers(a, b):
    return [], (), {}, set(), [a], (a,), {a: b}, {a}, [*a, *b], (*a, b), {**a, "b": b, **b}, {*a, b}


def comprehensions(rows):
    squares = [x * x for x in rows if x if x > 1]
    pairs = {(x, y): x + y for x in rows for y in rows if x != y}
    unique = {x for row in rows for x in row}
    lazy = (x for x in rows)
    nested = [[y for y in x] for x in rows]
    named = [last := x for x in rows]
    return squares, pairs, unique, list(lazy), nested, named, last


def assignments(value):
    a = b = value
    c, *d = value
    (e, [f, *g]), h = value
    i: int = 1
    j: list[int]
    value.attribute, value[0], *rest = value
    value.typed: float = 2.0
    (k): int = 3
    if (n := len(value)) > 10 and (m := n) is not None:
        return n, m
    del a, value[0], value.attribute
    return b, c, d, e, f, g, h, i, k, rest


def arguments(a, b=1, /, c=2, *args, d, e=None, f=FLOOR, **kwargs):
    return arguments(a, *args, c=c, d=d, **kwargs, **{"e": e}), f, (lambda: 0)(), (lambda x, /, y=1, *z, w, **v: (x, y, z, w, v))


def annotated(a: int, *b: float, c: list[str] | None = None, **d: dict[str, int]) -> tuple[int, ...]:
    result: tuple[int, ...] = (a,)
    return result


def flow(rows):
    total = 0
    for x in rows:
        if x < 0:
            continue
        elif x > 100:
            break
        else:
            pass
        total += x
    else:
        total = -total
    while total > 10:
        total //= 2
    else:
        total += 1
    for i, (a, b) in enumerate(rows): total += a; total -= b
    assert total, "message"
    return total


def exceptions(function):
    try:
        function()
    except ValueError:
        raise
    except (TypeError, KeyError) as exc:
        raise RuntimeError("no") from exc
    except:
        return None
    else:
        return 1
    finally:
        function()
    try:
        raise StopIteration
    finally:
        pass


def contexts(a, b):
    with a:
        pass
    with a as x, b as (y, z):
        pass
    with (a as x, b):
        return x, y, z
    with contextlib.suppress(OSError), open("/dev/null") as file:
        return file


def matching(command):
    match command:
        case 0 | 1 | -1 | 1.5 | -2j | "text" | b"bytes":
            return 1
        case True | False | None:
            return 2
        case [a, b, *rest] if a > b:
            return rest
        case (x, _) | [x, _, *_]:
            return x
        case {"key": value, "other": {"deep": [first, *_]}, **remaining}:
            return value, first, remaining
        case str() | int(real=0) | complex(real=0, imag=0):
            return 3
        case encoder.JSONDecoder as decoder:
            return decoder
        case [] | {}:
            return 4
        case name:
            return name
    match command, command:
        case 1, 2:
            pass
        case _:
            pass


def scopes():
    global counter
    counter += 1
    value = 0

    def inner():
        nonlocal value
        value += 1
        return value

    class Local(dict, metaclass=type):
        """A class in a function."""

        attribute: int = 1

        def method(self):
            return __class__, super().__init__()

    return inner(), Local


@twice
@with_arguments(3, name="y")
@functools.lru_cache(maxsize=None)
def decorated(value):
    return value


def generators(rows):
    received = yield
    yield received
    yield from rows
    value = yield (yield 1)
    return (yield value)


async def asynchronous(source):
    async with source as opened, source:
        async for row in opened:
            await row
        else:
            pass
    first = [row async for row in source if await row]
    second = {await row: row for row in first}
    async def inner():
        yield 1
    return first, second, await inner()


def imports():
    import os.path
    import os.path as path, sys
    from math import (
        floor,
        ceil as up,
    )
    from . import sibling
    from ..package.module import name as other
    return os, path, sys, floor, up, sibling, other


async def documented():
    """A docstring.

    >>> 1
    """
    "another bare string"
    ...
    # a comment
    return math.pi, BIG, tomllib


class Methods:
    """A class."""

    floor: float = 1e-10

    @property
    def value(self):
        return self.floor

    @value.setter
    def value(self, value):
        self.floor = value

    @staticmethod
    def static(x, *, y=(1, 2)): return x, y

    @classmethod
    def make(cls, /): return cls()

    def __call__(self, x): return self.value + x

# ruff: noqa: E501 - a line is a case
"""Ways to write the same code, and code that differs only in what handles an exception."""

from __future__ import annotations

import textwrap

import pytest

from hf_audio_cache.processors.code import read_code

HEAD = "def f(a, b):\n"
SAME = {
    "a try on one line": ("try: c = a / b\nexcept ValueError: c = b\nreturn c", "try:\n    c = a / b\nexcept ValueError:\n    c = b\nreturn c"),
    "a finally on one line": ("try: return a\nfinally: b = 3", "try:\n    return a\nfinally:\n    b = 3"),
    "a with that does nothing": ("with a: pass\nreturn b", "with a:\n    pass\nreturn b"),
    "a continue": ("for c in a:\n    try: b = c()\n    except ValueError: continue\nreturn b", "for c in a:\n    try:\n        b = c()\n    except ValueError:\n        continue\nreturn b"),
    "a comprehension": ("return [c * b for c in a if c]", "return [\n    c\n    * b\n    for c in a\n    if c\n]"),
    "two variables": ("return a + b", "return (\n    a\n    + b\n)"),
    "a comment above a class": ("class C:\n    d = 1\nreturn C", "# another line\nclass C:\n    d = 1\nreturn C"),
}  # fmt: skip


def digest(body, head=""):
    code = compile(head + HEAD + textwrap.indent(body, "    "), "<code>", "exec", dont_inherit=True)
    return next(read_code(inner).digest for inner in code.co_consts if hasattr(inner, "co_code"))


@pytest.mark.parametrize("name", SAME)
def test_line_breaks_and_comments_do_not_count(name):
    one, other = SAME[name]
    assert digest(one) == digest(other)


def test_postponed_annotations_do_not_count():
    assert digest("return a") == digest("return a", "from __future__ import annotations\n")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("try:\n    a()\n    b()\nexcept ValueError: pass", "try: a()\nexcept ValueError: pass\nb()"),
        ("with a: b()", "with a: pass\nb()"),
        ("try: a()\nfinally: b()", "a()\nb()"),
    ],
)
def test_what_handles_an_exception_counts(one, other):
    assert digest(one) != digest(other)

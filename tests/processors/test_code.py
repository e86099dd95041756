"""The canonical form of code of transformers', and the names that bytecode uses."""

from __future__ import annotations

import ast
import hashlib
import json
import textwrap
from pathlib import Path

import pytest

from hf_audio_cache.processors.code import canonical as canonical_form
from hf_audio_cache.processors.code import read_code, source_digest

TESTS = Path(__file__).resolve().parents[1]

# The canonical form is the same on every Python -----------------------------------------------------------------------

GOLDEN = json.loads((TESTS / "golden" / "code_sample.json").read_text(encoding="utf-8"))


def golden_digests():
    tree = ast.parse((TESTS / "golden" / "code_sample.py").read_text(encoding="utf-8"))
    bodies = [("", tree.body), *((f"{node.name}.", node.body) for node in tree.body if isinstance(node, ast.ClassDef))]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = {}
    for prefix, body in bodies:
        for node in body:
            if isinstance(node, functions):
                name = prefix + node.name + (".setter" if prefix + node.name in found else "")
                found[name] = hashlib.sha256(canonical_form(node).encode()).hexdigest()
    return found


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_digests_are_the_same_on_every_python():
    assert golden_digests() == GOLDEN


def canonical(source):
    return canonical_form(ast.parse(textwrap.dedent(source)).body[0])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{None: a}", "{**a}"),
        ("def f(*, a, b=None): pass", "def f(*, a=None, b): pass"),
        ("def f(a, /, b): pass", "def f(a, b, /): pass"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 'a'", "x = b'a'"),
        ("x = ''", "x = None"),
        ("x = 0.0", "x = -0.0"),
        ("f'{x}'", "f'{x!r}'"),
        ("f'{x}'", "f'{x:}a'"),
        ("f'{x}{y}'", "f'{x} {y}'"),
        ("f'{x}'", "'{x}'"),
        ("x = (1, 2)", "x = [1, 2]"),
        ("x = a < b < c", "x = (a < b) < c"),
        ("x = a - b - c", "x = a - (b - c)"),
        ("x[1:2]", "x[1, 2]"),
        ("x[1:]", "x[:1]"),
        ("lambda x: x", "lambda *x: x"),
        ("import a", "import a as b"),
        ("from . import a", "from .. import a"),
        ("for x in y: pass\nelse: z", "for x in y: z"),
        ("def f():\n  global x\n  x = 1", "def f():\n  x = 1"),
        ("async def f(): pass", "def f(): pass"),
        ("def f():\n  yield x", "def f():\n  yield from x"),
        ("def f():\n  return", "def f():\n  pass"),
        ("try: x\nfinally: y", "try: x\nexcept: y"),
        ("x = [y for y in z]", "x = (y for y in z)"),
        ("match x:\n  case None: pass", "match x:\n  case True: pass"),
        ("match x:\n  case [a, *_]: pass", "match x:\n  case [a, *b]: pass"),
        ("match x:\n  case y: pass", "match x:\n  case _: pass"),
    ],
)
def test_two_meanings_have_two_forms(one, other):
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 'a' 'b'", "x = 'ab'"),
        ("x = u'a'", "x = 'a'"),
        ("x: int = 1", "x = 1"),
        ("x = f'{y:>{z}}'", "x = f'{y:>{z}}' f''"),
        ("x = 'a' f'{y}'", "x = f'a{y}'"),
        ("x = 1_000", "x = 0x3E8"),
        ("x = 1, 2", "x = (1, 2)"),
        ("def f(x: int) -> int:\n  'doc'\n  y: int\n  return x", "def f(x): return x"),
    ],
)
def test_two_ways_to_write_one_thing_have_one_form(one, other):
    assert canonical(one) == canonical(other)


# What bytecode uses ---------------------------------------------------------------------------------------------------


def code_of(source):
    namespace = {}
    exec(textwrap.dedent(source), namespace)
    return read_code(namespace["f"].__code__)


def test_functions_of_equal_code_in_two_files_are_told_apart(tmp_path):
    found = []
    for gain in (1, 2):
        path = tmp_path / f"with_gain_{gain}.py"
        path.write_text(f"def f(x, gain={gain}): return x * gain", encoding="utf-8")
        named = {}
        exec(compile(path.read_text("utf-8"), str(path), "exec", dont_inherit=True), named)
        found.append(named["f"].__code__)
    assert found[0] == found[1]
    assert len({source_digest(code, code.co_filename) for code in found}) == 2


def test_globals_are_no_attributes_and_no_locals():
    code = code_of("def f(x): y = x.attribute; return LOADED(y, [OTHER for z in x])")
    assert code.loads == {"LOADED", "OTHER"}
    assert code.names == {"attribute"}


def test_imports_are_those_of_the_statements():
    code = code_of("def f():\n import a.b as c\n from ..d import e, g\n from . import h\n return c, e, g, h")
    assert code.imports == {("a.b", 0, ()), ("d", 2, ("e", "g")), ("", 1, ("h",))}


def test_a_module_that_is_imported_by_its_literal_name():
    code = code_of("def f():\n import importlib\n return importlib.import_module('pkg.helpers')")
    assert ("pkg.helpers", 0, ()) in code.imports


# Whether an attribute is looked up that is not spelt out, and whether of something else than the object itself.
LOOK_UPS = {
    "getattr(x, 'name')": (False, False),
    "getattr(x, 'name', None)": (False, False),
    "getattr(x, 'name', y)": (False, False),
    "getattr(x.y, 'name', 0)": (False, False),
    "getattr(x, y)": (True, True),
    "getattr(x, y, 'name')": (True, True),
    "getattr(x, f('name'))": (True, True),
    "getattr(f(x, 'name'), y)": (True, True),
    "getattr(x.m('name'), y)": (True, True),
    "getattr(x, 'na' + y)": (True, True),
    "getattr(self, y)": (True, False),
    "getattr(self, 'na' + y)": (True, False),
    "getattr(self, f'na{y}')": (True, False),
    "getattr(self, f(y))": (True, True),
    "getattr(self[0], y)": (True, True),
    "getattr(self + y, y)": (True, True),
    "getattr(self[0], 'name')": (False, False),
    "getattr(self.x, y)": (True, True),
    "getattr(cls, y, 'name')": (True, False),
    "[getattr(self, z) for z in y]": (True, False),
    "vars(x)['name']": (True, True),
    "vars(self)['name']": (True, False),
    "vars(self).update(x)": (True, False),
    "x.__dict__['name']": (True, True),
    "self.__dict__.update(x)": (True, False),
    "self.x.__dict__['name']": (True, True),
    "object.__getattribute__(self, x)": (True, False),
    "operator.attrgetter(y)(x)": (True, True),
    "attrgetter(y)(x)": (True, True),
    "globals()['name']": (True, True),
    "eval('name')": (True, True),
    "builtins.eval('name')": (True, True),
    "sys.modules['name']": (True, True),
    "x.name": (False, False),
    "x.eval().name": (False, False),
    "[m.name for m in self.modules()]": (False, False),
    "x.dir.name": (False, False),
}


@pytest.mark.parametrize("expression", LOOK_UPS)
def test_an_attribute_that_is_spelt_out_is_not_looked_up(expression):
    code = code_of(f"def f(self, cls, x, y): return {expression}")
    assert (code.looks_up, code.looks_around) == LOOK_UPS[expression]
    if not code.looks_up:
        assert "name" in code.names
    reads = ("globals()['name']", "eval('name')", "builtins.eval('name')", "sys.modules['name']")
    assert code.reads_namespace == (expression in reads)


SAME_CODE = {
    "a docstring": ("def f(x): return x, None", "def f(x):\n 'words'\n return x, None"),
    "another docstring": ("def f(x):\n 'a'\n return x", "def f(x):\n 'b'\n return x"),
    "annotations": ("def f(x): return x", "def f(x: int) -> int: return x"),
    "an annotated variable": ("def f(x): y = x; return y", "def f(x): y: int = x; return y"),
    "a bare annotation": ("def f(x): return x", "def f(x):\n y: int\n return x"),
    "lines": ("def f(x): return x + 1", "\n\ndef f(x):\n return (x\n + 1)"),
    "a set that is looked into": ("def f(x): return x in {'a', 'b', 'c'}", "def f(x): return x in {'c', 'b', 'a'}"),
}


@pytest.mark.parametrize("case", SAME_CODE)
def test_two_ways_to_write_a_function_are_one(case):
    one, other = map(code_of, SAME_CODE[case])
    assert one.digest == other.digest


OTHER_CODE = {
    "0 and 0.0": ("def f(x): return 0", "def f(x): return 0.0"),
    "1 and its digit": ("def f(x): return 1", "def f(x): return '1'"),
    "zeros of two signs": ("def f(x): return x * 0.0", "def f(x): return x * -0.0"),
    "a number in an inner function": ("def f(x): return lambda: 1", "def f(x): return lambda: 2"),
    "a default of an inner function": ("def f(x): return lambda y=1: y", "def f(x): return lambda y=2: y"),
    "the order of arguments": ("def f(x, y): return x - y", "def f(y, x): return x - y"),
    "names of arguments": ("def f(x): return x", "def f(y): return y"),
    "only by name": ("def f(x): return x", "def f(*, x): return x"),
    "what is caught": (
        "def f(x):\n try:\n  x()\n except ValueError: pass",
        "def f(x):\n try:\n  x()\n except KeyError: pass",
    ),
    "what is tried": (
        "def f(x):\n try:\n  x()\n  x.y()\n except ValueError: pass",
        "def f(x):\n try:\n  x()\n except ValueError: pass\n x.y()",
    ),
    "a comparison": ("def f(x): return x < 1", "def f(x): return x <= 1"),
    "a generator": ("def f(x): return x", "def f(x): yield x"),
    "a pattern": ("def f(x):\n match x:\n  case [1, *_]: return 1", "def f(x):\n match x:\n  case [2, *_]: return 1"),
    "an attribute in a pattern": (
        "def f(x, P):\n match x:\n  case P(a=1): return 1",
        "def f(x, P):\n match x:\n  case P(b=1): return 1",
    ),
    "how a string is formatted": ("def f(x): return f'{x}'", "def f(x): return f'{x!r}'"),
}


@pytest.mark.parametrize("case", OTHER_CODE)
def test_two_functions_are_two(case):
    one, other = map(code_of, OTHER_CODE[case])
    assert one.digest != other.digest

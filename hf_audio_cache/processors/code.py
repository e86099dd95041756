"""The code of one function as text to be hashed, and the names that it uses; `description/functions` asks for both.

Of one's own functions the bytecode counts: it is what runs, whatever became of the source. Of transformers' the
source counts, in a form that is the same on every Python and for every way to write it (`ast.dump` and `ast.unparse`
give other texts on other Pythons).
"""

from __future__ import annotations
import __future__

import ast
import dis
import functools
import hashlib
import importlib.metadata
import inspect
import itertools
import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .bytecode import handlers, steps_of

_LOADS_OF_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
# Functions by which code looks into its own module, and by which it takes an attribute whose name is made as it runs.
_OF_NAMESPACES = {"globals", "locals", "eval", "exec"}
_OF_FRAMES = {"__globals__", "_getframe", "currentframe", "f_globals", "getmodule"}
OF_IMPORTS = {"import_module", "__import__", "resolve_name", "find_spec", "run_module", "locate"}
_OF_ALL = {"vars", "globals", "__dict__"}
_OF_ONE = {"get", "update", "pop", "setdefault"}  # methods of a dict for which its order does not matter
ORDER = "__dict__.items"  # stands among the names for code that may go over all attributes, in their order
_SPLITS = {"split", "rsplit", "partition", "rpartition"}
_LOOK_UPS = {"getattr", "vars", "dir"}
_OF_LOOK_UPS = {"attrgetter", "methodcaller", "getmembers", "getattr_static", "__dict__", "__getattribute__"}
_OWN = ("self", "cls")
# Python sets a bit where the first constant is a docstring from 3.14 on; before, it is the first one or None.
_CO_HAS_DOCSTRING = 0x4000000
_NO_FLAGS = _CO_HAS_DOCSTRING | __future__.annotations.compiler_flag


@dataclass(frozen=True)
class Code:
    """What the bytecode of a function says, with that of the functions in it."""

    digest: str  # of what it does; line numbers, docstrings and annotations don't count
    loads: frozenset[str]  # globals that it loads
    names: frozenset[str]  # attributes that it uses, so far as they are spelt out
    reads: frozenset[str]  # those of them that it does not just set
    # Modules that it imports, each with the level and the names of the statement.
    imports: frozenset[tuple[str, int, tuple[str, ...]]]
    imports_by_text: bool  # whether it may import a module by a name that it does not spell out
    reads_namespace: bool  # whether it may use any global of its module
    looks_up: bool  # whether it may use any attribute, of itself or of anything else
    looks_around: bool  # whether it may use any attribute of anything else


def read_code(code: types.CodeType) -> Code:
    """Return what a code object says."""
    # Code objects are compared by what they do; in Python 3.11 without the table of exceptions.
    return _read_code(code, getattr(code, "co_exceptiontable", b""))


@functools.lru_cache(maxsize=8192)
def _read_code(code: types.CodeType, exceptions: bytes) -> Code:
    steps = steps_of(code)
    place = {step.offset: number for number, step in reversed([*enumerate(steps)])}
    parts: list[Any] = [code.co_name, code.co_flags & ~_NO_FLAGS, code.co_argcount, code.co_posonlyargcount]
    parts += [code.co_kwonlyargcount, code.co_varnames, code.co_cellvars, code.co_freevars]
    parts += [handlers(code, steps)] if exceptions else []
    jumps = {*dis.hasjrel, *dis.hasjabs}
    loads, names, imports, inner = set(), set(), set(), []
    stores: set[str] = set()
    looks = {False: False, True: False}  # whether it looks up attributes of itself, and of anything else
    is_over_all = False  # whether it may go over all attributes of an object
    for number, step in enumerate(steps):
        said = step.argval
        if isinstance(said, types.CodeType):
            inner.append(read_code(said))
            said = inner[-1].digest
        elif step.opcode in jumps:
            said = next((place[offset] for offset in range(said, said + 200, 2) if offset in place), -1)
        elif step.opcode in dis.hasconst:
            said = constant_form(said)
        parts.append((step.opname, str(said)))
        is_over_all |= step.argval in _OF_ALL and not _takes_one(steps[number:])
        if step.opname in _LOADS_OF_GLOBALS:
            loads.add(step.argval)
            if step.argval in _LOOK_UPS:
                literal, is_own = _look_up(steps[number + 1 :])
                names |= set() if literal is None else {literal}
                looks[not is_own] |= literal is None
        elif step.opname == "IMPORT_NAME":
            imports.add((step.argval, steps[number - 2].argval, tuple(steps[number - 1].argval or ())))
        elif step.opcode in dis.hasname:
            (stores if step.opname == "STORE_ATTR" else names).add(step.argval)
            if step.argval in _OF_LOOK_UPS:
                looks[step.argval != "__getattribute__" and steps[number - 1].argval not in _OWN] = True
    said = loads | names
    strings = [text for text in code.co_consts if isinstance(text, str)]
    is_importing = not OF_IMPORTS.isdisjoint(said)
    for text in strings:  # a module may be imported by its name, alone or with that of one of its members
        found = imports_of(text) if is_importing or "." in text or ":" in text else set()
        imports |= {(name, level, each) for name, level, each in found if is_importing or not (level or each == ("*",))}
    if not _SPLITS.isdisjoint(said):  # then a dot alone stands between names
        imports.discard(("", 1, ("*",)))
    looks[True] |= not _OF_LOOK_UPS.isdisjoint(loads)
    names |= {ORDER} if is_over_all else set()
    reads_namespace = not _OF_NAMESPACES.isdisjoint(said if "builtins" in loads else loads)
    reads_namespace |= not _OF_FRAMES.isdisjoint(said) or "modules" in (said if "sys" in said else loads)
    names |= {name for text in strings for name in (_words(text) if reads_namespace else names_in(text))}
    return Code(
        hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
        frozenset(loads).union(*(part.loads for part in inner)),
        frozenset(names | stores).union(*(part.names for part in inner)),
        frozenset(names).union(*(part.reads for part in inner)),
        frozenset(imports).union(*(part.imports for part in inner)),
        is_importing or any(part.imports_by_text for part in inner),
        reads_namespace or any(part.reads_namespace for part in inner),
        any(looks.values()) or reads_namespace or any(part.looks_up for part in inner),
        looks[True] or reads_namespace or any(part.looks_around for part in inner),
    )


def imports_of(text: str) -> set[tuple[str, int, tuple[str, ...]]]:
    """Return what a string such as ``"package.module:name"`` may name, in the form of `Code.imports`.

    ``"package."``, to which code adds a name, may name any module of the package: ``"*"``.
    """
    level = len(text) - len(text.lstrip("."))
    parts = text[level:].replace(":", ".").split(".")
    *packages, last = known = [*itertools.takewhile(str.isidentifier, parts)] or [""]
    name = ".".join(known)
    if len(known) < len(parts) or not last:
        return {(name, level, ("*",))} if name or level else set()
    return {(name, level, ()), *([(".".join(packages), level, (last,))] if packages or level else [])}


def _look_up(steps: list[dis.Instruction]) -> tuple[str | None, bool]:
    """Say of ``getattr(object, name)``, by the steps after its load, which literal name it is, and if of ``self``."""
    name, is_own, depth = None, False, 0  # `depth` is how much there is on the stack
    for step in steps:
        if step.opname.startswith(("CALL", "PRECALL")):
            return (name, is_own) if step.arg == depth else (None, False)  # else another call comes first
        before = depth
        depth += dis.stack_effect(step.opcode, step.arg, jump=False)
        values = step.argval if type(step.argval) is tuple else (step.argval,)
        if before == 0 and depth:
            is_own = step.opname.startswith("LOAD_") and values[0] in _OWN
        elif depth <= 1:
            is_own = False
        if depth <= 2:
            is_literal = before == 1 and step.opcode in dis.hasconst and isinstance(step.argval, str)
            name = step.argval if is_literal else None
    return None, False


def names_in(text: str) -> set[str]:
    """Return the attributes that a string such as ``"{0.name}"`` may take by `str.format`."""
    return set(_words(text)) if "{" in text and "." in text else set()


def _takes_one(steps: list[dis.Instruction]) -> bool:
    """Return whether code takes or sets items by their names, in a dict that ``__dict__`` or ``vars(x)`` gave it."""
    after = [step for step in steps[1:7] if step.opname not in ("PRECALL", "PUSH_NULL")]
    if steps[0].argval != "__dict__":  # after the call
        calls = [n for n, step in enumerate(after[:2]) if step.opname.startswith("CALL") and step.arg == n]
        after = after[calls[0] + 1 :] if calls else []
    is_item = len(after) > 1 and after[1].opname.endswith("_SUBSCR")
    return is_item or (bool(after) and (after[0].argval in _OF_ONE or after[0].opname == "CONTAINS_OP"))


def _words(text: str) -> Iterator[str]:
    return (word for word in "".join(c if c.isidentifier() or c.isdigit() else " " for c in text).split())


def constant_form(constant: Any) -> str:
    """Return a text of a constant in code that tells 0 from 0.0 and has the order of no process."""
    if isinstance(constant, types.CodeType):
        return read_code(constant).digest
    if isinstance(constant, frozenset):
        return f"frozenset({sorted(map(constant_form, constant))})"
    if isinstance(constant, tuple):
        return f"({','.join(map(constant_form, constant))})"
    return f"{type(constant).__name__}:{constant!r}"


@functools.lru_cache(maxsize=4096)
def source_digest(code: types.CodeType, filename: str) -> str:
    """Return a digest of the canonical source of a function of transformers; without that, the release.

    The code of functions in two files may be equal, and their source not: defaults and decorators are outside of it.
    """
    tree = _tree_of(code, filename)
    if tree is not None:
        return hashlib.sha256(canonical(tree).encode()).hexdigest()
    try:
        return f"version:transformers=={importlib.metadata.version('transformers')}"
    except importlib.metadata.PackageNotFoundError:
        return f"bytecode:{read_code(code).digest}"


def _tree_of(code: types.CodeType, filename: str) -> ast.AST | None:
    """Return the syntax tree of a function; None if there is no source that gives this very bytecode."""
    try:
        lines, _ = inspect.findsource(code)
        trees, codes = _functions_of("".join(lines), filename)
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    where = (code.co_name, code.co_firstlineno)
    found = trees.get(where, [])
    return found[0] if len(found) == 1 and code in codes.get(where, ()) else None


_Found = dict[tuple[str, int], list[Any]]


@functools.lru_cache(maxsize=64)
def _functions_of(source: str, filename: str) -> tuple[_Found, _Found]:
    """Return the trees and the code objects of the functions in a file, by name and first line."""
    trees: _Found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first_line = min(part.lineno for part in (node, *node.decorator_list))
            trees.setdefault((node.name, first_line), []).append(node)
        elif isinstance(node, ast.Lambda):
            trees.setdefault(("<lambda>", node.lineno), []).append(node)
    codes: _Found = {}
    for code in _codes_in(compile(source, filename, "exec", dont_inherit=True)):
        codes.setdefault((code.co_name, code.co_firstlineno), []).append(code)
    return trees, codes


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _codes_in(constant)


# Fields that say how code is written, or what it expects, and not what it does.
_NOT_MEANT = {"annotation", "returns", "type_comment", "kind", "ctx", "type_params", "type_ignores", "simple"}


def canonical(node: Any) -> str:
    """Return a text of a syntax tree that is the same on every Python, and for every way to write the same code."""
    if isinstance(node, list):
        # A missing item (of a dict: ``**other``; of keyword-only defaults: none) is not the constant None.
        items = ["missing" if item is None else canonical(item) for item in node if not _is_idle(item)]
        return "[" + ",".join(items) + "]"
    if isinstance(node, ast.JoinedStr):  # Python 3.12 has an empty string here and there, where others have none
        values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
        return f"JoinedStr({canonical(values)})"
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        node = ast.Assign(targets=[node.target], value=node.value)
    if isinstance(node, ast.Constant):
        return _constant_text(node.value)
    if isinstance(node, ast.AST):
        fields = sorted(
            (name, canonical(value))
            for name, value in ast.iter_fields(node)
            if name not in _NOT_MEANT and value is not None and value != []
        )
        return type(node).__name__ + "(" + ",".join(f"{name}={text}" for name, text in fields) + ")"
    return _constant_text(node)


def _is_idle(statement: Any) -> bool:
    """Return whether a statement does nothing: a docstring or another bare constant, or a bare annotation."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.AnnAssign) and statement.value is None


def _constant_text(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value)  # repr() leaves out what this Python's Unicode tables call printable
    return f"{type(value).__name__}:{value!r}"

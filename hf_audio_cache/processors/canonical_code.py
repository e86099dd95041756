"""The canonical form of a function's code: the same for every way to write it down, and on every Python.

Comments, docstrings, annotations and formatting don't count. The form is our own: `ast.dump` and `ast.unparse` give
other texts on other Pythons.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import sys
import types
from collections.abc import Iterator
from typing import Any

__all__ = [
    "attributes_of",
    "canonical",
    "function_digest",
    "is_library",
    "is_routine",
    "is_standard",
    "module_of",
    "own_module_of",
    "package_of",
    "qualified_name",
    "tree_of",
    "version_of",
    "walk_meant",
]


def is_routine(value: Any) -> bool:
    """Return whether `value` is a function or a method with a name (any object with ``__get__`` passes for one)."""
    return inspect.isroutine(value) and hasattr(value, "__qualname__")


def attributes_of(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object, those in slots too."""
    attributes = dict(getattr(owner, "__dict__", {}))
    for part in type(owner).__mro__:
        slots = vars(part).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if hasattr(owner, name) and name not in ("__dict__", "__weakref__"):
                attributes[name] = getattr(owner, name)
    return attributes


def module_of(value: Any) -> str:
    """Return the name of the module of a function or class; a spawned process has ``__main__`` under another name."""
    return _module_name(getattr(value, "__module__", None))


def own_module_of(function: types.FunctionType) -> str:
    """Return the name of the module that a function was written in, whatever it says itself."""
    return _module_name(function.__globals__.get("__name__"))


def _module_name(name: Any) -> str:
    return "__main__" if name == "__mp_main__" else name if isinstance(name, str) else ""


def is_standard(package: str) -> bool:
    """Return whether a package is Python's own."""
    return package != "__main__" and (package == "" or package in sys.stdlib_module_names)


@functools.lru_cache(maxsize=4096)
def is_library(module: str) -> bool:
    """Return whether a module is Python's or an installed library's, and not somebody's own file beside others."""
    package = module.partition(".")[0]
    if is_standard(package):
        return True
    if package == "__main__":
        return False
    path = getattr(sys.modules.get(package), "__file__", None) or getattr(sys.modules.get(module), "__file__", None)
    if path is None and package not in sys.modules:
        spec = importlib.util.find_spec(package)
        path = None if spec is None else spec.origin
    return path is None or "site-packages" in path or "dist-packages" in path


def package_of(value: Any) -> str:
    """Return the top-level package of a function or class."""
    return module_of(value).partition(".")[0]


def qualified_name(value: Any) -> str:
    """Return module and qualified name of a function or class."""
    return f"{module_of(value)}.{value.__qualname__}"


def function_digest(function: types.FunctionType) -> str:
    """Return a digest of a function's canonical source, or what stands for it."""
    tree = tree_of(function)
    return _without_source(function) if tree is None else hashlib.sha256(canonical(tree).encode()).hexdigest()


def _without_source(function: types.FunctionType) -> str:
    """Return what stands for a function whose source is not to be had."""
    try:
        inspect.findsource(function)
    except (OSError, TypeError):
        version = version_of(package_of(function))
        if version is not None:
            return version
    # There is source, but of something else; or no version to go by.
    return f"bytecode:{sys.version_info[0]}.{sys.version_info[1]}:{_bytecode_digest(function.__code__)}"


@functools.lru_cache(maxsize=64)
def version_of(package: str) -> str | None:
    """Return what stands for code of a package that is not to be had as source; None for no installed package."""
    try:
        return f"version:{package}=={importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return None


def _bytecode_digest(code: types.CodeType) -> str:
    constants = [_constant_of_code(constant) for constant in code.co_consts]
    parts = [code.co_code.hex(), constants, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _constant_of_code(constant: Any) -> str:
    if isinstance(constant, types.CodeType):
        return _bytecode_digest(constant)
    if isinstance(constant, frozenset):  # its order is another in each process
        return f"frozenset({sorted(map(_constant_of_code, constant))})"
    if isinstance(constant, tuple):
        return f"({','.join(map(_constant_of_code, constant))})"
    return repr(constant)


def tree_of(function: types.FunctionType) -> ast.AST | None:
    """Return the syntax tree of a function; None where its source cannot be had, or is not what runs.

    A file that was edited after its import has another source than what runs: to go by it would put the features of
    the old code under the identity of the new. So the source is compiled, and must give this very bytecode.
    """
    code = function.__code__
    try:
        lines, _ = inspect.findsource(function)
        trees, codes = _functions_of("".join(lines), code.co_filename)
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    where = (code.co_name, code.co_firstlineno)
    found = trees.get(where, [])
    if len(found) != 1 or _bytecode_digest(code) not in codes.get(where, ()):
        return None
    return found[0]


@functools.lru_cache(maxsize=64)
def _functions_of(
    source: str, filename: str
) -> tuple[dict[tuple[str, int], list[ast.AST]], dict[tuple[str, int], list[str]]]:
    """Return the trees and the bytecode digests of the functions in a file, by name and first line."""
    trees: dict[tuple[str, int], list[ast.AST]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first_line = min(part.lineno for part in (node, *node.decorator_list))
            trees.setdefault((node.name, first_line), []).append(node)
        elif isinstance(node, ast.Lambda):
            trees.setdefault(("<lambda>", node.lineno), []).append(node)
    codes: dict[tuple[str, int], list[str]] = {}
    for code in _codes_in(compile(source, filename, "exec", dont_inherit=True)):
        codes.setdefault((code.co_name, code.co_firstlineno), []).append(_bytecode_digest(code))
    return trees, codes


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _codes_in(constant)


# Fields that say how code is written, or what it expects, and not what it does.
_NOT_MEANT = {"annotation", "returns", "type_comment", "kind", "ctx", "type_params", "type_ignores", "simple"}


def walk_meant(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, as `ast.walk` does, but for annotations."""
    yield node
    for name, value in ast.iter_fields(node):
        if name not in _NOT_MEANT:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk_meant(child)


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

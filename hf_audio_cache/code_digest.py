"""What the code is that calling an object runs: every function it reaches, by a digest of its canonical source.

From ``__call__`` it goes through the methods and the functions of the same package (of the packages of the object's
class and its parents), and the constants that these use. Comments, docstrings, annotations and formatting don't count,
and the form is our own: `ast.dump` and `ast.unparse` give other texts on other Pythons. Code of other libraries
(NumPy, torch) is not followed. Loading, saving and the Hub are not reached, as no call runs them.
"""

from __future__ import annotations

import ast
import enum
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CodeDescription", "describe_code"]

# Parts of transformers that a call passes through without their changing what it returns.
_PASSED_BY = re.compile(
    r"transformers\.(utils\.(import_utils|logging|hub|doc|deprecation|auto_docstring|versions)|dynamic_module_utils)\b"
)
# Questions for optional libraries. Those that an extractor's own module asks decide by which one it computes; those of
# the shared modules decide how a tensor is told from an array.
_AVAILABILITY = re.compile(r"_?is_\w+_available")
_SHARED = re.compile(r"transformers\.(feature_extraction_\w+|audio_utils|processing_utils|utils\b.*)")


@dataclass(frozen=True)
class CodeDescription:
    """The code that a call reaches.

    Attributes
    ----------
    functions
        Digest of each function, by its qualified name. ``bytecode:`` marks one whose source is not to be had (it then
        depends on the Python), ``version:`` one that is not written in Python.
    constants
        The module and class constants that they use.
    backends
        The answers of the availability checks that choose between libraries.
    """

    functions: dict[str, str]
    constants: dict[str, Any]
    backends: dict[str, bool]
    watched: list[tuple[Callable[[], Any], Any]] = field(repr=False, compare=False)

    def is_current(self) -> bool:
        """Return whether every name still stands for what it did; a patched function or constant makes it false."""
        return all(look_up() is found for look_up, found in self.watched)

    @property
    def has_source(self) -> bool:
        """Whether all of it could be read as source."""
        return not any(":" in digest for digest in self.functions.values())

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON values."""
        return {"functions": self.functions, "constants": self.constants, "backends": self.backends}


def describe_code(called: Any, describe_constant: Callable[[Any, str], Any]) -> CodeDescription:
    """Return the code that calling `called` reaches.

    Parameters
    ----------
    called
        A function, or an object whose class has ``__call__``.
    describe_constant
        Gives the canonical form of a constant, or raises TypeError where it has none.
    """
    reader = _CodeReader(called, describe_constant)
    reader.follow_all()
    return CodeDescription(
        dict(sorted(reader.functions.items())),
        dict(sorted(reader.constants.items())),
        dict(sorted(reader.backends.items())),
        reader.watched,
    )


@dataclass(frozen=True)
class _Reached:
    """A function to read, with what its ``self`` is: a class, and the instance where one is known."""

    function: types.FunctionType
    owner: type | None = None
    instance: Any = field(default=None, compare=False)


class _CodeReader:
    def __init__(self, called: Any, describe_constant: Callable[[Any, str], Any]) -> None:
        self.functions: dict[str, str] = {}
        self.constants: dict[str, Any] = {}
        self.backends: dict[str, bool] = {}
        self.watched: list[tuple[Callable[[], Any], Any]] = []
        self._describe_constant = describe_constant
        self._seen: set[tuple[int, type | None]] = set()
        self._pending: list[_Reached] = []
        classes = type(called).__mro__ if not inspect.isroutine(called) else (called,)
        packages = {_package(part) for part in classes}
        self._packages = {package for package in packages if package == "__main__" or not _is_standard(package)}
        self._reach_object(called)

    def follow_all(self) -> None:
        while self._pending:
            self._read(self._pending.pop())

    # What a name stands for ---------------------------------------------------------------------------------------

    def _reach_object(self, called: Any) -> None:
        if inspect.isroutine(called):
            self._reach(called, None, None)
        else:
            self._reach_attribute("__call__", type(called), called)

    def _reach(self, value: Any, owner: type | None, instance: Any) -> None:
        """Note that a call may run `value`."""
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if isinstance(value, property):
            value = value.fget
        if isinstance(value, types.MethodType):
            value, owner = value.__func__, type(value.__self__)
        value = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, types.FunctionType):
            is_followed = _package(value) in self._packages and not _PASSED_BY.match(value.__module__)
            if is_followed and (id(value), owner) not in self._seen:
                self._seen.add((id(value), owner))
                self._pending.append(_Reached(value, owner, instance))
        elif isinstance(value, type):
            self._reach_class(value)
        elif inspect.isroutine(value) and _package(value) in self._packages:
            self._note_function(_name(value), _version_of(_package(value)) or "version:unknown")

    def _reach_class(self, value: type) -> None:
        """Note that a call may make an instance of a class."""
        if _package(value) not in self._packages or _PASSED_BY.match(value.__module__):
            return
        if issubclass(value, enum.Enum):
            self.constants[_name(value)] = {member.name: repr(member.value) for member in value}
            return
        for name in ("__new__", "__init__", "__post_init__", "__call__"):
            self._reach_attribute(name, value, None)

    def _reach_attribute(self, name: str, owner: type, instance: Any, after: type | None = None) -> bool:
        """Note that ``self.name`` is used; return whether the class has it."""
        classes = owner.__mro__
        if after is not None:
            classes = classes[classes.index(after) + 1 :] if after in classes else ()
        for part in classes:
            if name in vars(part):
                value = vars(part)[name]
                self._watch(functools.partial(vars(part).get, name), value)
                if isinstance(value, (staticmethod, classmethod, property)) or callable(value):
                    self._reach(value, owner, instance)
                elif _package(part) in self._packages and not isinstance(value, types.MemberDescriptorType):
                    self._note_constant(f"{_name(part)}.{name}", value)
                return True
        return False

    def _note_function(self, name: str, digest: str) -> None:
        """Add a digest; functions of one name, as lambdas are, have all of theirs."""
        digests = {digest, *filter(None, self.functions.get(name, "").split(" "))}
        self.functions[name] = " ".join(sorted(digests))

    def _note_constant(self, name: str, value: Any) -> None:
        try:
            self.constants[name] = self._describe_constant(value, name)
        except TypeError:  # a logger, a lock, a table of functions: not what an output is made of
            self.constants[name] = {"class": _name(type(value))}

    def _watch(self, look_up: Callable[[], Any], found: Any) -> None:
        self.watched.append((look_up, found))

    # What a function uses -----------------------------------------------------------------------------------------

    def _read(self, reached: _Reached) -> None:
        function = reached.function
        name = _name(function)
        tree = _tree_of(function)
        if tree is None:
            self._note_function(name, _without_source(function))
            self._note_constant(f"{name}(defaults)", [function.__defaults__, function.__kwdefaults__])
            self._read_names_of_code(function.__code__, reached)
            return
        self._note_function(name, hashlib.sha256(_canonical(tree).encode()).hexdigest())
        self_name = function.__code__.co_varnames[0] if function.__code__.co_argcount and reached.owner else None
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                self._read_name(node.id, reached)
            elif isinstance(node, ast.Attribute):
                self._read_attribute(node, self_name, reached)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                self._read_import(node, function)

    def _read_names_of_code(self, code: types.CodeType, reached: _Reached) -> None:
        """Follow the names of a function without source: which of them are attributes is not known."""
        for name in code.co_names:
            self._read_name(name, reached)
            if reached.owner is not None:
                self._reach_member(name, reached)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._read_names_of_code(constant, reached)

    def _read_name(self, name: str, reached: _Reached) -> None:
        function = reached.function
        code = function.__code__
        if name in code.co_freevars and name != "__class__":
            cell = (function.__closure__ or ())[code.co_freevars.index(name)]
            try:
                value = cell.cell_contents
            except ValueError:  # not yet filled: a name that the enclosing function gives later
                return
            look_up: Callable[[], Any] = functools.partial(getattr, cell, "cell_contents", None)
            qualified = f"{_name(function)}.{name}"
        elif name in function.__globals__:
            value = function.__globals__[name]
            look_up = functools.partial(function.__globals__.get, name)
            qualified = f"{function.__module__}.{name}"
        else:
            return
        self._watch(look_up, value)
        self._use_value(qualified, name, value, reached)

    def _use_value(self, qualified: str, name: str, value: Any, reached: _Reached) -> None:
        if _AVAILABILITY.fullmatch(name):
            if not _SHARED.match(reached.function.__module__):
                self.backends[name.lstrip("_")] = bool(value() if callable(value) else value)
        elif isinstance(value, types.ModuleType) or name.startswith("__"):
            return
        elif callable(value) and hasattr(value, "__qualname__"):
            package = _package(value)
            if package in self._packages:
                self._reach(value, None, None)
            elif not _is_standard(package):
                self.constants[qualified] = {"imported": f"{package}: {value.__qualname__}"}
        elif not _PASSED_BY.match(type(value).__module__) and type(value).__module__ != "logging":
            self._note_constant(qualified, value)

    def _read_attribute(self, node: ast.Attribute, self_name: str | None, reached: _Reached) -> None:
        value = node.value
        if isinstance(value, ast.Name) and value.id == self_name:
            self._reach_member(node.attr, reached)
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super":
            if reached.owner is not None:
                after = _defining_class(reached.function, reached.owner)
                self._reach_attribute(node.attr, reached.owner, reached.instance, after=after)
        elif isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id == self_name:
            held = vars(reached.instance).get(value.attr) if hasattr(reached.instance, "__dict__") else None
            if held is not None and _package(type(held)) in self._packages:  # self.part.method(...)
                self._reach_attribute(node.attr, type(held), held)
        else:
            self._read_dotted_name(node, reached)

    def _reach_member(self, name: str, reached: _Reached) -> None:
        """Note the use of ``self.name``: of the class, or an object that the instance holds and may call."""
        if reached.owner is None or self._reach_attribute(name, reached.owner, reached.instance):
            return
        held = vars(reached.instance).get(name) if hasattr(reached.instance, "__dict__") else None
        if callable(held) and not inspect.isroutine(held) and _package(type(held)) in self._packages:
            self._reach_object(held)

    def _read_dotted_name(self, node: ast.Attribute, reached: _Reached) -> None:
        """Follow ``module.function`` and ``Class.method``."""
        names = [node.attr]
        value: ast.expr = node.value
        while isinstance(value, ast.Attribute):
            names.append(value.attr)
            value = value.value
        if not isinstance(value, ast.Name) or value.id not in reached.function.__globals__:
            return
        found = reached.function.__globals__[value.id]
        for name in reversed(names):
            if isinstance(found, type) and _package(found) in self._packages:
                self._reach_attribute(name, found, None)
                return
            if not isinstance(found, types.ModuleType) or _package(found) not in self._packages:
                return
            module, found = found, getattr(found, name, None)
            self._watch(functools.partial(getattr, module, name, None), found)
        self._use_value(f"{module.__name__}.{names[0]}", names[0], found, reached)

    def _read_import(self, node: ast.Import | ast.ImportFrom, function: types.FunctionType) -> None:
        """Follow an import inside a function, where it is of the same package."""
        if isinstance(node, ast.Import):
            return  # what it imports is used as module.function, and a package's own modules are imported by `from`
        package = function.__globals__.get("__package__") or ""
        name = (
            importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
        )
        if name is None or name.partition(".")[0] not in self._packages or _PASSED_BY.match(name):
            return
        try:
            module = importlib.import_module(name)
        except ImportError:
            return
        for alias in node.names:
            value = getattr(module, alias.name, None)
            self._watch(functools.partial(getattr, module, alias.name, None), value)
            self._use_value(f"{name}.{alias.name}", alias.name, value, _Reached(function))


def _package(value: Any) -> str:
    name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return (name or "").partition(".")[0]


def _is_standard(package: str) -> bool:
    return package == "" or package in sys.stdlib_module_names or package in sys.builtin_module_names


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _defining_class(function: types.FunctionType, owner: type) -> type:
    """Return the class of `owner`'s parents in whose body `function` stands."""
    for part in owner.__mro__:
        found = vars(part).get(function.__name__)
        found = getattr(found, "__func__", getattr(found, "fget", found))
        if callable(found) and inspect.unwrap(found) is function:
            return part
    return owner


# Source ---------------------------------------------------------------------------------------------------------------


def _without_source(function: types.FunctionType) -> str:
    """Return what stands for a function whose source is not to be had."""
    try:
        inspect.findsource(function)
    except (OSError, TypeError):
        version = _version_of(_package(function))
        if version is not None:
            return version
    # There is source, but of something else; or no version to go by.
    return f"bytecode:{sys.version_info[0]}.{sys.version_info[1]}:{_bytecode_digest(function.__code__)}"


@functools.lru_cache(maxsize=64)
def _version_of(package: str) -> str | None:
    try:
        return f"version:{package}=={importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return None


def _bytecode_digest(code: types.CodeType) -> str:
    constants = [_bytecode_digest(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    parts = [code.co_code.hex(), constants, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _tree_of(function: types.FunctionType) -> ast.AST | None:
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


def _canonical(node: Any) -> str:
    """Return a text of a syntax tree that is the same on every Python, and for every way to write the same code."""
    if isinstance(node, list):
        statements = [item for item in node if not _is_idle(item)]
        return "[" + ",".join(map(_canonical, statements)) + "]"
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        node = ast.Assign(targets=[node.target], value=node.value)
    if isinstance(node, ast.Constant):
        return _constant_text(node.value)
    if isinstance(node, ast.AST):
        fields = sorted(
            (name, _canonical(value))
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

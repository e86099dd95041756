"""What the code is that calling an object runs: every function it reaches, by a digest of its canonical source.

From ``__call__`` it goes through the methods and the functions of the same package (of the packages of the object's
class and its parents), and the constants that these use. What runs by syntax counts wherever it might, as no name says
where it does. Comments, docstrings, annotations and formatting don't count, and the form is our own: `ast.dump` and
`ast.unparse` give other texts on other Pythons. Code of other libraries (NumPy, torch) is not followed. Loading, saving
and the Hub are not reached, as no call runs them.
"""

from __future__ import annotations

import ast
import enum
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import random
import re
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from .canonical_code import (
    attributes_of,
    function_digest,
    is_library,
    is_routine,
    is_standard,
    module_of,
    own_module_of,
    package_of,
    qualified_name,
    tree_of,
    version_of,
    walk_meant,
)

__all__ = ["CodeDescription", "describe_code", "held_code"]

# Parts of transformers that a call passes through without their changing what it returns.
_PASSED_BY = re.compile(
    r"transformers\.(utils\.(import_utils|logging|hub|doc|deprecation|auto_docstring|versions)|dynamic_module_utils)\b"
)
# Questions for optional libraries. Those that an extractor's own module asks decide by which one it computes; those of
# the shared modules decide how a tensor is told from an array.
_AVAILABILITY = re.compile(r"_?is_\w+_available")
_SHARED = re.compile(
    r"transformers\.(feature_extraction_\w+|image_processing_base|audio_utils|processing_utils|utils\b.*)"
)

_PLAIN = (types.NoneType, bool, int, float, str, bytes)
_BUILTIN = (list, tuple, set, frozenset, dict, np.ndarray)

# What stands in a class for a method.
_DESCRIPTORS = (staticmethod, classmethod, property, functools.cached_property, functools.singledispatchmethod)

# What runs when an instance is made and called.
_MAKING = ("__new__", "__init__", "__post_init__", "__call__", "__getattr__", "__getitem__", "__get__")
# Of the methods that run by syntax and not by their name, those that show, keep or make a class or its instances.
_NO_OPERATION = re.compile(
    r"__(repr|dir|sizeof|del|reduce|reduce_ex|getstate|setstate|getnewargs|getnewargs_ex|annotate|annotate_func"
    r"|init_subclass|class_getitem|set_name)__"
)

_ABSENT = object()


@dataclass(frozen=True)
class CodeDescription:
    """The code that a call reaches.

    Attributes
    ----------
    functions
        Digest of each function, by its qualified name. ``bytecode:`` marks one whose source is not to be had (it then
        depends on the Python), ``version:`` one that is not written in Python.
    constants
        The module and class constants, and the default values, that they use.
    backends
        The answers of the availability checks that choose between libraries.
    """

    functions: dict[str, str]
    constants: dict[str, Any]
    backends: dict[str, bool]
    _watched: list[tuple[Callable[[], Any], Any]] = field(repr=False, compare=False)
    _mutable: list[tuple[Any, str, Any]] = field(repr=False, compare=False)
    _describe_constant: Callable[[Any, str], Any] = field(repr=False, compare=False)

    def is_current(self) -> bool:
        """Return whether every name still stands for what it did; a patched function or constant makes it false."""
        return all(look_up() is found for look_up, found in self._watched) and all(
            self._describe_constant(value, name) == described for value, name, described in self._mutable
        )

    def to_json(self, carried: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the description as JSON values; what is in ``__main__`` as `carried` has it, if that is given."""
        own = {"functions": self.functions, "constants": self.constants, "backends": self.backends}
        if carried is None:
            return own
        merged = {}
        for part, named in own.items():
            there = {name: value for name, value in carried[part].items() if name.startswith("__main__.")}
            merged[part] = {**{name: value for name, value in named.items() if name not in there}, **there}
            merged[part] = {
                name: value for name, value in merged[part].items() if name in there or not name.startswith("__main__.")
            }
        return merged


def describe_code(called: Any, describe_constant: Callable[[Any, str], Any]) -> CodeDescription:
    """Return the code that calling `called` reaches.

    Parameters
    ----------
    called
        A function, or an object whose class has ``__call__``.
    describe_constant
        Gives the canonical form of a constant, or raises TypeError where it has none.

    Raises
    ------
    TypeError
        If a constant that the code uses has no canonical form.
    """
    reader = _CodeReader(called, describe_constant)
    reader.follow_all()
    return CodeDescription(
        dict(sorted(reader.functions.items())),
        dict(sorted(reader.constants.items())),
        dict(sorted(reader.backends.items())),
        [(look_up, value) for _, look_up, value in reader.watched.values()],
        reader.mutable,
        describe_constant,
    )


def held_code(called: Any) -> list[Any]:
    """Return the class of an object, and the functions and classes that its attributes bring with them.

    While these are the same objects, a description of its code holds (see `CodeDescription.is_current`).
    """
    held: list[Any] = [type(called)]
    _collect_held(list(attributes_of(called).values()), held, set())
    return held


def _collect_held(values: Iterable[Any], held: list[Any], seen: set[int]) -> None:
    for value in values:
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (type, types.ModuleType)) or is_routine(value):
            held.append(value)
            continue
        if not is_library(module_of(type(value))) or package_of(type(value)) == "transformers":
            held.append(type(value))
        _collect_held(_parts_of(value), held, seen)


def _parts_of(value: Any) -> list[Any]:
    """Return what an object holds, whosever class it is of: there may be functions in it."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, property):
        return [value.fget]
    if type(value) in _PLAIN:
        return []
    parts = [] if type(value) in _BUILTIN else list(attributes_of(value).values())
    if isinstance(value, Mapping):
        parts += [getattr(value, "default_factory", None), *value, *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset, deque)) or _holds_objects(value):
        parts.extend(value)
    return parts


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
        # By whose name, and the name; with the owner, so that no other object gets its id.
        self.watched: dict[tuple[int, str], tuple[Any, Callable[[], Any], Any]] = {}
        self.mutable: list[tuple[Any, str, Any]] = []
        self._describe_constant = describe_constant
        self._seen: set[tuple[int, type | None]] = set()
        self._classes: set[type] = set()
        self._modules: set[int] = set()
        self._pending: list[_Reached] = []
        classes = (called,) if is_routine(called) else type(called).__mro__
        self._packages = {package_of(part) for part in classes if not is_standard(package_of(part))}
        # Whatever function is given the object may call its methods, by whatever name it has it.
        self._root = None if is_routine(called) else called
        # Of these, what a call uses is reached by its name: the rest is how an instance was made, loaded and saved.
        self._own_classes = () if is_routine(called) else type(called).__mro__
        if is_routine(called):
            self._reach(called, None, None)
        else:
            self._reach_attribute("__call__", type(called), called)
            self._reach_own_operations(called)
            for value in attributes_of(called).values():
                self._reach_held(value, {id(called)})

    def follow_all(self) -> None:
        while self._pending:
            self._read(self._pending.pop())

    def _is_followed(self, value: Any) -> bool:
        """Return whether the code of a function or class counts: it is of the packages in question, or no library's."""
        # `functools.wraps` gives a function the module of what it wraps.
        modules = {module_of(value)} | ({own_module_of(value)} if isinstance(value, types.FunctionType) else set())
        return any(map(self._is_followed_module_name, modules))

    # What a name stands for ---------------------------------------------------------------------------------------

    def _reach(self, value: Any, owner: type | None, instance: Any) -> None:
        """Note that a call may run `value`."""
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if isinstance(value, property):
            value = value.fget
        if isinstance(value, functools.cached_property):
            value = value.func
        if isinstance(value, functools.singledispatchmethod):
            value = value.dispatcher
        if isinstance(value, types.MethodType):
            value, owner, instance = value.__func__, type(value.__self__), value.__self__
            if not self._is_followed(owner):
                self._reach_held(instance, set())
        registry = getattr(value, "registry", None)
        if isinstance(registry, types.MappingProxyType):  # of `functools.singledispatch`; it grows in place
            self._note_constant(f"{qualified_name(value)}.registry", registry)
            for chosen in registry.values():
                self._reach(chosen, owner, instance)
        while hasattr(value, "__wrapped__"):  # of a decorated function, what the decorator made runs too
            self._reach_function(value, owner, instance)
            value = value.__wrapped__
        if isinstance(value, types.FunctionType):
            self._reach_function(value, owner, instance)
        elif isinstance(value, type):
            self._reach_class(value, None)
        elif is_routine(value):
            if package_of(value) in self._packages:
                self._note_function(qualified_name(value), version_of(package_of(value)) or "version:unknown")
        elif value is not None:
            self._reach_held(value, set())

    def _reach_function(self, value: Any, owner: type | None, instance: Any) -> None:
        if isinstance(value, types.FunctionType) and self._is_followed(value) and (id(value), owner) not in self._seen:
            self._seen.add((id(value), owner))
            self._pending.append(_Reached(value, owner, instance))

    def _reach_class(self, value: type, instance: Any) -> None:
        """Note that a call may make or use an instance of a class: any of its functions may run.

        Of the parents that all of transformers shares, with their loading and saving, just what makes an instance.
        """
        if not self._is_followed(value) or value in self._classes or value in self._own_classes:
            return
        self._classes.add(value)
        if issubclass(value, enum.Enum):
            for member in value:
                name = f"{qualified_name(value)}.{member.name}.value"
                try:
                    self._note_constant(name, member.value)
                except TypeError:  # a mere token, which is told by its name
                    self.constants[name] = {"class": qualified_name(type(member.value))}
            for name, code in list(vars(value).items()):
                if self._is_code(code):
                    self._reach(self._watch(value, name), value, instance)
            return
        for part in value.__mro__:
            if self._is_followed(part):
                is_shared = _SHARED.match(module_of(part)) is not None
                for name in list(vars(part)):
                    is_meant = _is_operation(name, part) if name.startswith("__") else not name.startswith("_abc_")
                    if name in _MAKING or (is_meant and not is_shared):
                        self._reach_attribute(name, value, instance)
        self._reach_class(type(value), None)

    def _reach_own_operations(self, called: Any) -> None:
        """Note what a call may run of the object's own methods without naming them, as in ``self[0]``."""
        for part in type(called).__mro__:
            if self._is_followed(part) and not _SHARED.match(module_of(part)):
                for name in list(vars(part)):
                    if _is_operation(name, part) and name not in ("__new__", "__init__", "__post_init__"):
                        self._reach_attribute(name, type(called), called)
        self._reach_class(type(type(called)), None)

    def _reach_held(self, value: Any, seen: set[int]) -> None:
        """Note the functions that an object may bring with it, itself or in a container."""
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, types.ModuleType):
            self._reach_module(value)
            return
        if self._is_code(value):
            if not isinstance(value, types.MethodType) or value.__self__ is not self._root:
                self._reach(value, None, None)
            else:
                self._reach(value, type(self._root), self._root)
            return
        if self._is_followed(type(value)):
            self._reach_class(type(value), value)
        for part in _parts_of(value):
            self._reach_held(part, seen)

    def _is_code(self, value: Any) -> bool:
        """Return whether a value is a function or a class, and no object of one's own that is used like one."""
        return isinstance(value, (type, *_DESCRIPTORS)) or (is_routine(value) and not self._is_followed(type(value)))

    def _reach_attribute(self, name: str, owner: type, instance: Any, after: type | None = None) -> bool:
        """Note that ``self.name`` is used; return whether the class has it."""
        classes = owner.__mro__
        if after is not None:
            classes = classes[classes.index(after) + 1 :] if after in classes else ()
        for part in classes:
            value = self._watch(part, name)
            if value is _ABSENT:
                continue
            if _PASSED_BY.match(module_of(part)) or part is object:
                return True
            if self._is_code(value):
                self._reach(value, owner, instance)
            elif _is_slot(value):
                self._reach_held(value, set())
            elif self._is_followed(part):
                self._note_constant(f"{qualified_name(part)}.{name}", value)
            return True
        return False

    def _watch(self, owner: Any, name: str) -> Any:
        """Return what a name of `owner` stands for; the description holds as long as it is that."""
        look_up = _look_up_of(owner, name)
        value = look_up()
        self.watched.setdefault((id(owner), name), (owner, look_up, value))
        return value

    def _note_function(self, name: str, digest: str) -> None:
        """Add a digest; functions of one name, as lambdas are, have all of theirs."""
        digests = {digest, *filter(None, self.functions.get(name, "").split(" "))}
        self.functions[name] = " ".join(sorted(digests))

    def _note_constant(self, name: str, value: Any) -> None:
        described = self._describe_constant(value, name)
        first, n = name, 1
        while name in self.constants and self.constants[name] != described:  # cells of two closures have one name
            n += 1
            name = f"{first}#{n}"
        if name not in self.constants:
            self.constants[name] = described
            if not _is_immutable(value):
                self.mutable.append((value, name, described))
            self._reach_held(value, set())

    # What a function uses -----------------------------------------------------------------------------------------

    def _read(self, reached: _Reached) -> None:
        function = reached.function
        name = qualified_name(function)
        tree = tree_of(function)
        self._note_function(name, function_digest(function))
        self._watch(function, "__code__")  # which IPython's autoreload replaces where the function stays the same
        for part in ("__defaults__", "__kwdefaults__"):
            value = self._watch(function, part)
            if value:
                self._note_constant(f"{name}{part}", value)
        if tree is None:
            self._read_names_of_code(function.__code__, reached)
            return
        nodes = list(walk_meant(tree))
        bases = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        bases |= {id(node.args[0]) for node in nodes if _is_getattr(node) and isinstance(node.args[1], ast.Constant)}
        for node in nodes:
            if isinstance(node, ast.Name):
                self._read_name(node.id, reached, is_base=id(node) in bases)
            elif isinstance(node, ast.Attribute):
                self._read_attribute(node, reached, is_base=id(node) in bases)
            elif isinstance(node, ast.ImportFrom):
                self._read_import_from(node, function)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    self._read_import(alias.name)
            elif _is_getattr(node):
                self._read_getattr(node, reached)

    def _read_names_of_code(self, code: types.CodeType, reached: _Reached) -> None:
        """Follow the names of a function without source: which of them are attributes is not known."""
        for name in (*code.co_names, *code.co_freevars):
            self._read_name(name, reached, is_base=True)
            self._reach_member(name, reached)
            for attribute in code.co_names:
                node = ast.Attribute(ast.Name(name, ast.Load()), attribute, ast.Load())
                self._read_dotted_name(node, reached, is_base=True)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._read_names_of_code(constant, reached)

    def _read_name(self, name: str, reached: _Reached, *, is_base: bool) -> None:
        """Follow a name; `is_base` tells ``name.attribute`` from the use of what has the name itself."""
        function = reached.function
        code = function.__code__
        if name.startswith("__"):
            return
        if name in code.co_freevars:
            cell = (function.__closure__ or ())[code.co_freevars.index(name)]
            value = self._watch(cell, name)
            qualified = f"{qualified_name(function)}.{name}"
        else:
            value = self._watch(function.__globals__, name)
            qualified = f"{module_of(function)}.{name}"
        if isinstance(value, types.ModuleType) and (is_base or not self._is_followed_module(value)):
            if name != value.__name__ and value is not np:  # which of two libraries, such as that of an array
                self.constants[qualified] = {"module": value.__name__}
        elif value is not _ABSENT:
            self._use_value(qualified, name, value, module_of(function))

    def _use_value(self, qualified: str, name: str, value: Any, user: str) -> None:
        """Note that code of the module `user` uses a value."""
        if _AVAILABILITY.fullmatch(name):
            if not _SHARED.match(user):
                self.backends[name.lstrip("_")] = bool(value() if callable(value) else value)
        elif isinstance(value, types.ModuleType):
            self._reach_module(value)
        elif isinstance(getattr(value, "__self__", value), (logging.Logger, logging.LoggerAdapter)):
            return
        elif self._is_code(value) and not _is_bound(value):
            # What Python has is known by its own name.
            is_known = is_standard(package_of(value)) and name == getattr(value, "__name__", None)
            if isinstance(value, _DESCRIPTORS) or self._is_followed(value):
                self._reach(value, None, None)
            elif not is_known and not _PASSED_BY.match(module_of(value)):
                self.constants[qualified] = {"imported": f"{package_of(value)}: {value.__qualname__}"}
        elif not _PASSED_BY.match(module_of(type(value))):
            self._note_constant(qualified, value)

    def _read_attribute(self, node: ast.Attribute, reached: _Reached, *, is_base: bool) -> None:
        value = node.value
        is_super = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super"
        if is_super and reached.owner is not None:
            after = _defining_class(reached.function, reached.owner)
            self._reach_attribute(node.attr, reached.owner, reached.instance, after=after)
            return
        # The object may have any name here: `self`, `type(self)`, an argument, or a part taken from it before.
        self._reach_member(node.attr, reached)
        self._read_dotted_name(node, reached, is_base=is_base)

    def _reach_member(self, name: str, reached: _Reached) -> None:
        """Note the use of an attribute of this name: of ``self``, or of the object that was called."""
        for owner, instance in ((reached.owner, reached.instance), (self._root and type(self._root), self._root)):
            if owner is None:
                continue
            names = [name]
            if name.startswith("__") and not name.endswith("__"):
                names = [f"_{part.__name__.lstrip('_')}{name}" for part in owner.__mro__]
            for each in names:
                if any(each in vars(part) for part in owner.__mro__ if self._is_followed(part)):
                    self._reach_attribute(each, owner, instance)
                else:  # it may come to be
                    self._watch(owner, each)

    def _read_getattr(self, node: ast.Call, reached: _Reached) -> None:
        """Follow ``getattr(self, name)``: a name that is only known at run time may be any."""
        if isinstance(node.args[1], ast.Constant):
            named = ast.Attribute(node.args[0], str(node.args[1].value), ast.Load())
            self._read_attribute(named, reached, is_base=False)
        elif reached.owner is not None and not _SHARED.match(module_of(reached.function)):
            for part in reached.owner.__mro__:
                if self._is_followed(part) and not _SHARED.match(module_of(part)):
                    for name in list(vars(part)):
                        if not name.startswith("__") and name.startswith(_literal_prefix(node.args[1])):
                            self._reach_attribute(name, reached.owner, reached.instance)

    def _read_dotted_name(self, node: ast.Attribute, reached: _Reached, *, is_base: bool) -> None:
        """Follow ``module.function``, ``Class.method`` and ``function.attribute``."""
        names = [node.attr]
        value: ast.expr = node.value
        while isinstance(value, ast.Attribute):
            names.append(value.attr)
            value = value.value
        if not isinstance(value, ast.Name) or value.id not in reached.function.__globals__:
            return
        found = reached.function.__globals__[value.id]
        module = found
        for name in reversed(names):
            if isinstance(found, type):
                if self._is_followed(found):
                    self._reach_attribute(name, found, None)
                return
            if isinstance(found, types.FunctionType):  # which can have attributes
                if self._is_followed(found) and self._watch(found, name) is not None:
                    attribute = f"{qualified_name(found)}.{name}"
                    self._use_value(attribute, name, getattr(found, name), module_of(reached.function))
                return
            if not isinstance(found, types.ModuleType) or not self._is_followed_module(found):
                return
            module, found = found, self._watch(found, name)
        if not (is_base and isinstance(found, types.ModuleType)):
            self._use_value(f"{module.__name__}.{names[0]}", names[0], found, module_of(reached.function))

    def _is_followed_module(self, module: types.ModuleType) -> bool:
        return self._is_followed_module_name(module.__name__)

    def _is_followed_module_name(self, name: str) -> bool:
        return not _PASSED_BY.match(name) and (name.partition(".")[0] in self._packages or not is_library(name))

    def _read_import_from(self, node: ast.ImportFrom, function: types.FunctionType) -> None:
        """Follow ``from module import name`` inside a function."""
        package = function.__globals__.get("__package__") or ""
        name = node.module or ""
        if node.level:
            name = importlib.util.resolve_name("." * node.level + name, package)
        module = self._imported(name)
        for alias in node.names if module is not None else ():
            value = self._watch(module, alias.name)
            if value is not None:
                self._use_value(f"{name}.{alias.name}", alias.name, value, module_of(function))

    def _read_import(self, name: str) -> None:
        """Follow ``import module`` inside a function, which may give it another name there."""
        module = self._imported(name)
        if module is not None:
            self._reach_module(module)

    def _reach_module(self, module: types.ModuleType) -> None:
        """Note that all of a module may be used, by a name that is not seen here."""
        # A lazy module, as transformers' are, would import all that it has.
        if type(module) is not types.ModuleType or not self._is_followed_module(module) or id(module) in self._modules:
            return
        self._modules.add(id(module))
        for member in list(vars(module)):
            if not member.startswith("__"):
                value = self._watch(module, member)
                if not isinstance(value, types.ModuleType):
                    self._use_value(f"{module.__name__}.{member}", member, value, module.__name__)

    def _imported(self, name: str) -> types.ModuleType | None:
        """Return a module whose code counts."""
        package = name.partition(".")[0]
        if _PASSED_BY.match(name) or (package not in self._packages and is_library(name)):
            return None
        try:
            return importlib.import_module(name)
        except ImportError:
            return None


def _is_immutable(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_immutable, value))
    return isinstance(value, _PLAIN)


def _is_operation(name: str, owner: type) -> bool:
    """Return whether a class has a method here that runs by syntax, such as ``__enter__``, and not by its name."""
    if not (name.startswith("__") and name.endswith("__")) or _NO_OPERATION.fullmatch(name):
        return False
    function = _function_in(vars(owner)[name])
    if not isinstance(function, types.FunctionType):
        return False
    # What `dataclasses` writes follows from the fields, and is another text on each Python.
    return not ("__dataclass_fields__" in vars(owner) and function.__code__.co_filename == "<string>")


def _function_in(member: Any) -> Any:
    """Return the function behind what stands in a class for a method."""
    return getattr(member, "__func__", getattr(member, "fget", getattr(member, "func", member)))


def _is_bound(value: Any) -> bool:
    """Return whether a function is the method of an object, which decides what it returns.

    That of a random generator is none (``from numpy.random import randn``): whether it is used shows when it runs.
    """
    owner = getattr(value, "__self__", None)
    others = (type, types.ModuleType, random.Random, np.random.RandomState, np.random.Generator)
    return is_routine(value) and owner is not None and not isinstance(owner, others)


def _is_slot(value: Any) -> bool:
    """Return whether a value in a class gives that of an instance, and has none of its own."""
    get = getattr(type(value), "__get__", None)
    return get is not None and not isinstance(get, types.FunctionType)


def _holds_objects(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.hasobject


def _is_getattr(node: ast.AST) -> TypeGuard[ast.Call]:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "getattr"
        and len(node.args) > 1
    )


def _literal_prefix(node: ast.expr) -> str:
    """Return how a name begins that is put together at run time, as far as the source says it."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        node = node.left
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _look_up_of(owner: Any, name: str) -> Callable[[], Any]:
    """Return what looks a name up: in a class itself, in a module's globals, in a cell, or as an attribute."""
    if isinstance(owner, types.CellType):
        return functools.partial(_cell_contents, owner)
    if isinstance(owner, (type, dict)):
        names = vars(owner) if isinstance(owner, type) else owner
        return functools.partial(names.get, name, _ABSENT)
    return functools.partial(getattr, owner, name, None)


def _cell_contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return _ABSENT


def _defining_class(function: types.FunctionType, owner: type) -> type:
    """Return the class of `owner`'s parents in whose body `function` stands."""
    for part in owner.__mro__:
        found = _function_in(vars(part).get(function.__name__))
        if callable(found) and inspect.unwrap(found) is function:
            return part
    return owner

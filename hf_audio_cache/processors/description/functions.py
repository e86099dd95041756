"""Functions in an identity: their code (by `processors/code`), what they hold, and the globals that they load."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.util
import inspect
import itertools
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..code import OF_IMPORTS, Code, imports_of, read_code, source_digest
from ..ownership import Owner, file_digest, label_of, modules_in
from ..watch import MISSING, cell_contents, dict_of, of_function
from .describer import OF_WRAPPERS, PASSED_BY, SHARED, At, Describer, form, module_of
from .graph import Node
from .modules import OF_MODULES, namespace

# What takes any attribute or global; of code that loads it by its own name, the bytecode says more.
_LOOK_UPS = (getattr, vars, dir, globals, locals, eval, exec)
# Attributes and functions by which code reads docstrings and annotations.
_OF_WRITING = {"__doc__", "getdoc", "__annotations__", "get_annotations", "get_type_hints", "signature", "annotation"}
_OF_WRITING |= {"getfullargspec"}
# What `functools` sets on the functions that it makes.
_OF_FUNCTOOLS = {"registry", "dispatch", "register", "_clear_cache", "cache_parameters", "__wrapped__", *OF_WRAPPERS}
# Questions for optional libraries. Those that an extractor's own module asks decide by which one it computes; those of
# the shared modules decide how a tensor is told from an array.
_AVAILABILITY = re.compile(r"_?is_\w+_available")


@form(types.BuiltinFunctionType, types.MethodWrapperType)
def _builtin(describer: Describer, value: Any, at: At) -> Any:
    if value is __import__:
        _note_imports(describer)
    if value in _LOOK_UPS:
        describer.uses.looks_up.add(Owner.OWN)
        describer.uses.whole.add(0)
    owner = value.__self__
    if owner is None or isinstance(owner, types.ModuleType) or _is_shared_method(describer, value):
        return {"library": f"{module_of(value)}.{value.__qualname__}"}
    return {"method": value.__name__, "of": describer.value(owner, at)}


@form(types.MethodType)
def _method(describer: Describer, value: types.MethodType, at: At) -> Any:
    if _is_shared_method(describer, value):
        return {"library": f"{module_of(value.__self__)}.{value.__name__}"}
    return {"method": describer.value(value.__func__, at), "of": describer.value(value.__self__, at)}


@form(types.CodeType)
def _code_object(describer: Describer, value: types.CodeType, at: At) -> Any:
    return {"code": read_code(value).digest}


@form(np.ufunc, derived=True)
def _ufunc(describer: Describer, value: np.ufunc, at: At) -> Any:
    if set("".join(value.types)) <= set("O->"):  # made of a Python function, which only it can tell
        return {"ufunc": describer.items(gc.get_referents(value), at.path)}
    return {"library": f"numpy.{value.__name__}"}


@form(types.FunctionType)
def _function(describer: Describer, function: types.FunctionType, at: At) -> Any:
    owner = describer.owner(function)
    if describer.is_named(function):
        if function.__name__ in OF_IMPORTS:
            _note_imports(describer)
        return {"library": label_of(function, owner)}
    if "registry" in vars(function) and function.__globals__ is vars(functools):  # of `functools.singledispatch`
        return {"by type": describer.value(vars(function)["registry"], at), **_added(describer, function, at)}
    if owner is Owner.LIBRARY:  # made there, perhaps around a function of one's own
        label = f"{function.__globals__.get('__name__')}.{function.__code__.co_name}"
        return describer.node(function, label, at.path, _describe_held)
    return describer.node(function, label_of(function, owner), at.path, _describe_function)


def _describe_held(describer: Describer, node: Node) -> dict[str, Any]:
    """Describe what a function holds beside its code."""
    function, code = node.value, node.value.__code__
    describer.watch.see(function, of_function)
    arguments = code.co_varnames[: code.co_argcount]
    cells = dict(zip(code.co_freevars, map(cell_contents, function.__closure__ or ()), strict=True))
    held = {
        "defaults": dict(zip(reversed(arguments), reversed(function.__defaults__ or ()), strict=False)),
        "keyword defaults": function.__kwdefaults__ or {},
        "closure": {name: value for name, value in cells.items() if value is not MISSING},
        "attributes": {name: value for name, value in vars(function).items() if name not in OF_WRAPPERS},
    }
    found: dict[str, Any] = {part: describer.fields(named, node.label) for part, named in held.items()}
    if describer.owner(function) is Owner.LIBRARY:
        return {**found, "library": node.label}
    return {**found, **written(describer, node)}


def written(describer: Describer, node: Node) -> dict[str, Any]:
    """Describe another name of a function or class, and its docstring and annotations where code reads them."""
    name = node.value.__name__
    found = {} if name == node.value.__qualname__.rpartition(".")[2] else {"name": name}
    if describer.uses.reads.isdisjoint(_OF_WRITING) or describer.owner(node.value) is not Owner.OWN:
        return found
    return {
        **found,
        "doc": node.value.__doc__,
        "annotations": describer.fields(inspect.get_annotations(node.value), node.label),
    }


def _describe_function(describer: Describer, node: Node) -> dict[str, Any]:
    function, owner, content = node.value, describer.owner(node.value), _describe_held(describer, node)
    code, module = read_code(function.__code__), module_of(function)
    is_shared = owner is Owner.FOLLOWED and SHARED.match(module) is not None
    if owner is Owner.OWN and code.imports_by_text:
        _note_imports(describer)
    describer.uses.add(code, owner, function.__globals__, is_shared=is_shared)
    if owner is Owner.OWN:
        content["code"] = code.digest
        if code.reads_namespace:
            content["module"] = namespace(describer, function.__globals__, str(function.__globals__.get("__name__")))
    else:
        content["code"] = source_digest(function.__code__, function.__code__.co_filename)
    describer.uses_torch |= not is_shared and any(name.partition(".")[0] == "torch" for name, *_ in code.imports)
    content["globals"] = found = {}
    for name, value in _named_by(describer, function, code, owner):
        module = module_of(value)
        describer.uses_torch |= not is_shared and module.partition(".")[0] == "torch"
        if _AVAILABILITY.fullmatch(name) and (owner is Owner.FOLLOWED or module.startswith("transformers.")):
            if not is_shared:
                describer.backends[name.lstrip("_")] = bool(value() if callable(value) else value)
        elif owner is Owner.OWN or not describer.is_named(value):
            found[name] = describer.value(value, At(f"{node.label}.{name}"))
        elif not PASSED_BY.match(module):
            said = getattr(value, "__qualname__", module)
            is_told = isinstance(value, types.ModuleType) or module in sys.stdlib_module_names
            if not is_told or name.rpartition(".")[2] != said:  # else the source says it
                found[name] = {"library": f"{module.partition('.')[0]}: {said}"}
    return content


def _named_by(
    describer: Describer, function: types.FunctionType, code: Code, owner: Owner
) -> Iterator[tuple[str, Any]]:
    """Yield the globals that a function loads, and what it imports."""
    named = function.__globals__
    untyped: Any = function  # mypy knows of its builtins in some runs, and in others not
    for name in sorted(code.loads):
        value = describer.watch.look_up(named, name)
        if value is MISSING:
            value = describer.watch.look_up(untyped.__builtins__, name)
            value = MISSING if describer.is_named(value) else value
        if value is not MISSING and not OF_MODULES.fullmatch(name):
            yield name, value
    package = named.get("__package__") or str(named.get("__name__")).rpartition(".")[0]
    for name, level, names in sorted(code.imports):
        try:
            full = importlib.util.resolve_name("." * level + name, package) if level else name
        except ImportError:
            continue
        if owner is Owner.FOLLOWED and full.startswith("transformers.") and not PASSED_BY.match(full):
            with contextlib.suppress(Exception):  # where a library that it needs is missing, no call runs it either
                importlib.import_module(full)
        yield from _imported(describer, full, names, owner)


def _imported(describer: Describer, full: str, names: tuple[str, ...], owner: Owner) -> Iterator[tuple[str, Any]]:
    """Yield what an import gives: a module that is not there yet as files, and none of a library."""
    if names == ("*",):  # any module of a package, by a name that is made as the code runs
        for each in modules_in(full, describer.own_package):
            yield from _imported(describer, each, (), owner)
        return
    module = describer.watch.look_up(sys.modules, full)
    if module is MISSING:
        if owner is Owner.OWN and (digests := file_digest(full, names, describer.own_package)):
            yield full, digests
        return
    if describer.is_library(full):
        return
    if not names:  # of `import a.b`, what has the name is `a`
        parents = itertools.accumulate(full.split("."), "{}.{}".format)
        yield from ((each, sys.modules[each]) for each in parents if each in sys.modules)
    for each in names:
        value = describer.watch.look_up(dict_of(module), each)
        value = describer.watch.look_up(sys.modules, f"{full}.{each}") if value is MISSING else value
        if value is not MISSING:
            yield f"{full}.{each}", value
            continue
        yield f"{full}.{each}", file_digest(f"{full}.{each}", (), describer.own_package)
        yield full, module  # its `__getattr__` may give it


def _note_imports(describer: Describer) -> None:
    """Let the modules count that held strings name, since code may import by a name that it does not spell."""
    describer.uses.imports_by_text = True
    describer.node(describer.uses.texts, "imports by name", "imports", _describe_imports)


def _describe_imports(describer: Describer, node: Node) -> dict[str, Any]:
    found = {}
    for text in sorted(node.value):
        for full, level, names in imports_of(text):
            for name, value in () if level else _imported(describer, full, names, Owner.OWN):
                found[name] = describer.value(value, At(name))
    return found


@form(type(functools.lru_cache(len)))
def _cached(describer: Describer, cached: Any, at: At) -> Any:
    """Describe a function with `functools.lru_cache`, without what it keeps."""
    function = vars(cached)["__wrapped__"]
    if describer.clear_caches and isinstance(function, types.FunctionType) and describer.owner(function) is Owner.OWN:
        cached.cache_clear()  # what it kept may be of other globals or attributes than there are now
    return {"cached": describer.value(function, at), **_added(describer, cached, at)}


def _added(describer: Describer, function: Any, at: At) -> dict[str, Any]:
    """Describe the attributes that were set on a function of functools."""
    describer.watch.see_object(function)
    added = {name: value for name, value in vars(function).items() if name not in _OF_FUNCTOOLS}
    return {"attributes": describer.fields(added, at.path)} if added else {}


def _is_shared_method(describer: Describer, method: Any) -> bool:
    """Return whether a method is of an object that a library shares, as `random.gauss` and `numpy.random.randn` are."""
    name = module_of(method.__self__)
    is_shared = name in sys.modules and describer.owner_of_module(name) is Owner.LIBRARY
    return is_shared and vars(sys.modules[name]).get(method.__name__) is method

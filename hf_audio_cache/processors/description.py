"""One canonical description of live objects: values, and the code that they bring with them.

They are a graph: an object is its class and what its pickling hooks say of it, a function its code, defaults,
closure, attributes and the globals that its bytecode loads. Nodes that say the same are one: which of them are shared,
or came by pickle, makes no difference. All that was seen is noted in a `Watch`.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import gc
import importlib
import importlib.util
import inspect
import io
import itertools
import json
import logging
import math
import random
import re
import struct
import sys
import threading
import types
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from enum import Enum
from typing import Any

import numpy as np

from ..errors import UnfingerprintableProcessorError
from .code import Code, read_code, source_digest
from .extractor import real_extractor
from .graph import Node, Ref, Unordered, names_of, printed
from .ownership import Owner, file_digest, is_found, is_made_in_c, label_of, owner_of, owner_of_module
from .watch import (
    MISSING,
    Outline,
    Watch,
    array_content,
    attributes_of,
    bytes_content,
    cell_contents,
    dict_of,
    dtype_name,
    is_tensor,
    is_torch_module,
    of_array,
    of_class,
    of_factory,
    of_function,
    of_mapping,
    of_reference,
    tensor_content,
)

__all__ = ["Describer"]

_INLINE_LEVELS = 8  # a container that lies deeper is a node of its own, so that nothing recurses without end
_CONTAINERS = (list, tuple, dict, OrderedDict, defaultdict, set, frozenset, types.MappingProxyType)
_PLAIN = (types.NoneType, bool, int, float, complex, str, bytes)
_BY_TYPE = (
    *(logging.Logger, logging.LoggerAdapter, io.IOBase, Executor, threading.Thread, threading.Event),
    *(type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Semaphore),
)
_IN_MEMORY = (io.BytesIO, io.StringIO)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator)
_SLOTS = (
    *(types.MemberDescriptorType, types.GetSetDescriptorType, types.MethodDescriptorType),
    *(types.WrapperDescriptorType, types.ClassMethodDescriptorType),
)
_METHOD_KINDS = (staticmethod, classmethod, property)
_BUILTIN = (types.BuiltinFunctionType, types.MethodWrapperType)
_LRU_CACHE = type(functools.lru_cache(len))
_NEW = object().__reduce_ex__(4)[0]  # what pickling makes most objects with
# What takes any attribute or global; of code that loads it by its own name, the bytecode says more.
_LOOK_UPS = (getattr, vars, dir, globals, locals, eval, exec)
# Members of a class that say how it was written, or that Python, abc and pydantic keep there for themselves.
_NOT_MEANT = re.compile(
    r"__(dict|weakref|doc|module|qualname|annotations|annotate|annotate_func|annotations_cache|conditional_annotations"
    r"|firstlineno|static_attributes|slotnames|abstractmethods|orig_bases|parameters|type_params|signature"
    r"|pydantic_(?!fields__).*)__|_abc_impl"
)
# Attributes and functions by which code reads docstrings and annotations.
_OF_WRITING = {"__doc__", "getdoc", "__annotations__", "get_annotations", "get_type_hints", "signature", "annotation"}
# What `functools.update_wrapper` and others leave on an object, that says where it is from.
_OF_WRAPPERS = ("__doc__", "__module__", "__annotations__")
# What `enum` keeps for itself in a class and its members.
_OF_ENUMS = re.compile(r"_(?!value_$)[a-z]\w*_|__objclass__")
_OF_MODULES = re.compile(r"__(name|file|path|spec|loader|package|doc|cached|builtins|annotations)__")

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
# What loading leaves on an extractor of transformers, and no output depends on.
_BOOKKEEPING = frozenset({"feature_extractor_type", "processor_class", "name_or_path", "_name_or_path", "_auto_class"})
# Libraries of which a front end's own class may be, and that count by name all the same.
_NOT_FOLLOWED = ("torch", "numpy")
# What runs when an object is made; and methods by syntax that only show, keep or derive one.
_MAKING = ("__new__", "__init__", "__post_init__")
_NO_OPERATION = re.compile(
    r"__(repr|dir|sizeof|del|reduce|reduce_ex|getstate|setstate|getnewargs|getnewargs_ex|init_subclass|class_getitem"
    r"|set_name)__"
)


class Describer:
    """Describes a processor, the arguments of its call, and all that they bring with them.

    Parameters
    ----------
    clear_caches
        Whether functions with `functools.lru_cache` forget what they made for numbers and the like.
    """

    def __init__(self, *, clear_caches: bool = False) -> None:
        self._clear_caches = clear_caches
        self.watch = Watch()
        self.uses_torch = False
        self.backends: dict[str, bool] = {}  # answers of the availability checks that choose between libraries
        self._followed = ""  # a library whose code is followed as transformers' is: that of the processor's class
        self._owners: dict[int, tuple[Any, Owner]] = {}
        self._nodes: dict[int, Node] = {}
        self._pending: list[Node] = []
        self._names: set[str] = {"__getattr__"}  # attributes that code uses
        self._reads: set[str] = set()  # attributes that one's own code does not just set
        self._looks_up: set[Owner] = set()  # whose code may use any attribute
        self._whole: set[int] = set()  # modules of which code may use any global; 0 for all of one's own
        self._items: dict[Any, tuple[Any, ...]] = {}  # what stands for the elements of sets
        self._marks: dict[int, set[str]] = {}  # by which names `object()`s are known
        self._parents: tuple[type, ...] = ()
        self._is_certain = True

    def describe(self, processor: Any, processor_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the description, of JSON values only; without a processor, that of the arguments.

        Raises
        ------
        UnfingerprintableProcessorError
            If the state of a part of it cannot be seen.
        """
        if processor is not None:
            self._parents = type(processor).__mro__
            package = _module_of(type(processor)).partition(".")[0]
            if owner_of(type(processor)) is Owner.LIBRARY and package not in (*_NOT_FOLLOWED, *sys.stdlib_module_names):
                self._followed = package
            self._node(processor, f"{type(processor).__qualname__} object", "processor", self._describe_object)
        self.watch.see(processor_kwargs, of_mapping)
        call = self._fields(processor_kwargs, "processor_kwargs")
        known = None
        while known != (known := self._known()):  # what the code uses decides what counts of classes and modules
            self._pending = list(self._nodes.values())
            while self._pending:
                node = self._pending.pop()
                self._is_certain = node.is_certain
                content = node.describe(node)
                node.content = {part: said for part, said in content.items() if said not in (None, {}, [])}
        for key, names in self._marks.items():
            self._nodes[key].content["known as"] = sorted(names)
        return self._printed(id(processor), call)

    def _known(self) -> tuple[int, ...]:
        """Return how much is known of what the code may use."""
        return len(self._names), len(self._reads), len(self._looks_up), len(self._whole)

    def _node(self, value: Any, label: str, path: str, describe: Callable[[Node], dict[str, Any]]) -> Ref:
        node = self._nodes.get(id(value))
        if node is None or (self._is_certain and not node.is_certain):
            self._nodes[id(value)] = node = Node(value, label, path, describe, self._is_certain)
            self._pending.append(node)
        return Ref(id(value))

    def _printed(self, root: int, call: Mapping[str, Any]) -> dict[str, Any]:
        """Return the description, with nodes by names that are the same in each process."""
        names = names_of(self._nodes)
        code = {names[key]: printed(node.content, names) for key, node in self._nodes.items() if node.content}
        if root not in names:
            return {"call": printed(call, names), "code": code}
        own = code.pop(names[root])
        kind, backends = own.pop("class"), {"backends": self.backends} if self.backends else {}
        return {**own, "class": next(iter(kind.values())), "call": printed(call, names), **backends, "code": code}

    # Values -----------------------------------------------------------------------------------------------------------

    def value(self, value: Any, path: str, *, lenient: bool = False, level: int = 0) -> Any:
        """Return the form of a value; `lenient` where JSON may have made a list of a tuple, or 0.0 of 0."""
        value = real_extractor(value)
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if abs(value) < 1 << 64 else {"int": f"{value:x}"}
        if kind is float:
            if not math.isfinite(value):
                return {"float": repr(value)}
            return int(value) if lenient and value.is_integer() and repr(value) != "-0.0" else value
        if kind is complex:
            return {"complex": repr(value)}
        if kind in (bytes, bytearray):
            return self.watch.content(value, bytes_content)
        if kind in _CONTAINERS:
            if level < _INLINE_LEVELS:
                return self._container(value, path, lenient, level)
            return self._node(
                value, kind.__name__, path, lambda node: {"items": self._container(value, path, lenient, 0)}
            )
        if kind in (np.ndarray, np.memmap):
            if not value.dtype.hasobject:
                return self.watch.content(value, array_content)
            self.watch.see(value, of_array)
            items = [self.value(item, f"{path}[{number}]") for number, item in enumerate(value.flat)]
            return {"objects": items, "dtype": str(value.dtype), "shape": list(value.shape)}
        if issubclass(kind, np.generic):
            item = value.item()
            return {"scalar": value.dtype.str, "value": item if type(item) in (bool, int, str) else str(value)}
        if issubclass(kind, np.dtype):
            return {"dtype": dtype_name(value)}
        if is_tensor(value):
            self.uses_torch = True
            try:
                return self.watch.content(value, tensor_content)
            except (RuntimeError, TypeError) as exc:
                return self._refuse(value, path, f"it has no plain bytes ({exc})")
        return self._code(value, path)

    def _refuse(self, value: Any, path: str, reason: str) -> dict[str, Any]:
        """Refuse what a call reaches and does not show its state; of what it may reach, return the type."""
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if not self._is_certain:
            return {"type": kind}
        raise UnfingerprintableProcessorError(
            f"A change of {path} could not be noticed, so nothing was cached: it is a {kind}, and {reason}. Pass "
            'identity="my-front-end-v1" to CachedFeatures, and another name whenever the front end computes something '
            f"else; or make {path} when it is called.",
            path=path,
        )

    def _fields(self, named: Mapping[str, Any], path: str) -> dict[str, Any]:
        return {str(name): self.value(value, f"{path}.{name}") for name, value in named.items()}

    def _container(self, value: Any, path: str, lenient: bool, level: int) -> Any:
        def inner(item: Any, name: Any) -> Any:
            return self.value(item, f"{path}{name}", lenient=lenient, level=level + 1)

        kind = type(value)
        if kind not in (tuple, frozenset):
            self.watch.see(value, tuple if kind in (list, set) else of_mapping)
        if kind in (list, tuple):
            items = [inner(item, f"[{number}]") for number, item in enumerate(value)]
            return items if lenient or kind is list else {"tuple": items}
        if kind in (set, frozenset):
            return {"set" if lenient else kind.__name__: self._unordered(value, path)}
        pairs = [
            [inner(name, " key"), inner(item, f".{name}" if type(name) is str else "")] for name, item in value.items()
        ]
        factory = {}
        if kind is defaultdict:
            self.watch.see(value, of_factory)
            factory = {"default_factory": inner(value.default_factory, ".default_factory")}
        return {kind.__name__: pairs, **factory}

    def _unordered(self, values: Iterable[Any], path: str) -> Any:
        values = list(values)
        if all(type(value) in _PLAIN for value in values):
            return sorted((self.value(value, path) for value in values), key=json.dumps)
        items = [self._items.setdefault(id(value), (value,)) for value in values]
        return Unordered(tuple(self._node(item, "item", f"{path}{{}}", self._describe_item).node for item in items))

    def _describe_item(self, node: Node) -> dict[str, Any]:
        return {"item": self.value(node.value[0], node.path)}

    # Objects ----------------------------------------------------------------------------------------------------------

    def _describe_object(self, node: Node) -> dict[str, Any]:
        value, kind = node.value, type(node.value)
        content: dict[str, Any] = {"class": self.value(kind, node.path)}
        if _is_default(kind):  # all that there is are its attributes
            self.watch.see_object(value)
            return {**content, "state": self._state(node, attributes_of(value))}
        try:
            reduced = self.watch.content(value, Outline).reduced
        except Exception as exc:  # noqa: BLE001 - whatever the pickling hooks raise
            return {**content, "unseen": self._refuse(value, node.path, f"its state cannot be seen ({exc})")}
        if isinstance(reduced, str):
            self.watch.see_object(value)
            own = attributes_of(value) if self._owner(kind) is Owner.OWN else {}
            return {**content, "named": reduced, "state": self._state(node, own)}
        function, arguments, state, items, pairs = reduced
        if issubclass(kind, (set, frozenset)):
            content["items"], arguments = self._unordered(value, node.path), (kind,)
        elif issubclass(kind, np.ndarray):
            self.watch.see_object(value)
            content["attributes"] = self._fields(attributes_of(value), node.path)
        if function is _NEW and arguments[0] is kind:
            arguments = arguments[1:]
        else:
            content["by"] = self.value(function, node.path)
        content["arguments"] = [self.value(item, f"{node.path}[{n}]") for n, item in enumerate(arguments)]
        content["items"] = content.get("items") or [
            self.value(item, f"{node.path}[{n}]") for n, item in enumerate(items)
        ]
        content["pairs"] = [[self.value(part, node.path) for part in pair] for pair in pairs]
        if type(state) is tuple and len(state) == 2 and {*map(type, state)} <= {dict, types.NoneType}:
            state = {**(state[0] or {}), **(state[1] or {})}  # attributes, and those in slots
        if isinstance(state, dict) and all(type(name) is str for name in state):
            return {**content, "state": self._state(node, state)}
        return {**content, "kept": self.value(state, node.path)}

    def _state(self, node: Node, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Describe attributes; those of transformers' classes as they are after being saved and loaded."""
        kind, reads = type(node.value), self._reads
        is_followed = self._owner(kind) is Owner.FOLLOWED
        is_saved = any(self._owner(parent) is Owner.FOLLOWED for parent in kind.__mro__)
        kept = {n for p in kind.__mro__ for n, m in vars(p).items() if isinstance(m, functools.cached_property)}
        found = {}
        for name, value in attributes.items():
            is_own = not is_saved or (not is_followed and (name in reads or Owner.OWN in self._looks_up))
            if is_torch_module(kind) and "_hooks" in name:  # by numbers that all modules of a process share
                self.watch.see(value, of_mapping)
                value = list(value.values())
            is_bookkeeping = is_saved and name in _BOOKKEEPING and name not in reads
            if not (is_bookkeeping or name in _OF_WRAPPERS or (is_followed and name in kept)):
                found[str(name)] = self.value(value, f"{node.path}.{name}", lenient=not is_own)
        return found

    # Code as a value --------------------------------------------------------------------------------------------------

    def _code(self, value: Any, path: str) -> Any:
        kind = type(value)
        if issubclass(kind, types.ModuleType):
            return self._module(value)
        if kind is types.FunctionType:
            return self._function(value, path)
        if issubclass(kind, type):
            return self._class(value, path)
        if kind in _BUILTIN and value in _LOOK_UPS:
            self._looks_up.add(Owner.OWN)
            self._whole.add(0)
        if kind in (types.MethodType, *_BUILTIN) and _is_shared_method(value):
            return {"library": f"{_module_of(value.__self__)}.{value.__name__}"}
        if kind is types.MethodType:
            return {"method": self.value(value.__func__, path), "of": self.value(value.__self__, path)}
        if kind in _BUILTIN:
            owner = value.__self__
            if owner is None or isinstance(owner, types.ModuleType):
                return {"library": f"{value.__module__}.{value.__qualname__}"}
            return {"method": value.__name__, "of": self.value(owner, path)}
        if kind in _SLOTS:
            return {"slot": f"{value.__objclass__.__qualname__}.{value.__name__}"}
        if issubclass(kind, _METHOD_KINDS):
            parts = [getattr(value, name, None) for name in ("__func__", "fget", "fset", "fdel")]
            own = self._fields({"class": kind, **dict_of(value)} if kind not in _METHOD_KINDS else {}, path)
            return {kind.__name__: [self.value(part, path) for part in parts if part is not None], **own}
        if kind is _LRU_CACHE:
            return self._node(value, value.__qualname__, path, self._describe_cached)
        if issubclass(kind, np.ufunc):
            if set("".join(value.types)) <= set("O->"):  # made of a Python function, which only it can tell
                return {"ufunc": [self.value(part, path) for part in gc.get_referents(value)]}
            return {"library": f"numpy.{value.__name__}"}
        if issubclass(kind, Enum):
            return {"member": self.value(kind, path), "name": value.name or str(value.value)}
        if issubclass(kind, weakref.ref):
            self.watch.see(value, of_reference)
            return {"weakref": self.value(value(), path)}
        is_by_type = issubclass(kind, _BY_TYPE) and not issubclass(kind, _IN_MEMORY)
        if is_by_type or (not self._is_certain and issubclass(kind, _GENERATORS)):  # to draw cannot be cached anyway
            return {"type": f"{kind.__module__}.{kind.__qualname__}"}
        if kind is types.CodeType:
            return {"code": read_code(value).digest}
        if kind is struct.Struct:
            return {"struct": value.format}
        is_function = all(any(name in vars(part) for part in kind.__mro__) for name in ("__module__", "__qualname__"))
        if is_function and self._owner(kind) is Owner.LIBRARY and is_found(value):  # one that Cython made
            return {"library": label_of(value, Owner.LIBRARY)}
        return self._node(value, f"{kind.__qualname__} object", path, self._describe_object)

    def _owner(self, value: Any) -> Owner:
        if id(value) not in self._owners:
            owner, module = owner_of(value), _module_of(value)
            if owner is Owner.LIBRARY and self._followed and module.partition(".")[0] == self._followed:
                owner = Owner.FOLLOWED
            elif owner is Owner.FOLLOWED and _PASSED_BY.match(module):
                owner = Owner.LIBRARY
            self._owners[id(value)] = value, owner
        return self._owners[id(value)][1]

    def _is_named(self, value: Any) -> bool:
        """Return whether a value is a module, a function or a class of a library, which its name says all of."""
        kind = type(value)
        if issubclass(kind, types.ModuleType):
            return _is_library(_module_of(value))
        if issubclass(kind, type):
            return self._owner(value) is Owner.LIBRARY
        if kind is types.FunctionType:
            return self._owner(value) is Owner.LIBRARY and is_found(value) and _is_library(_module_of(value))
        return kind is np.ufunc or (kind in _BUILTIN and type(value.__self__) in (types.NoneType, types.ModuleType))

    # Functions --------------------------------------------------------------------------------------------------------

    def _function(self, function: types.FunctionType, path: str) -> Any:
        owner = self._owner(function)
        if self._is_named(function):
            return {"library": label_of(function, owner)}
        if "registry" in vars(function) and function.__globals__ is vars(functools):  # of `functools.singledispatch`
            return {"by type": self.value(vars(function)["registry"], path)}
        if owner is Owner.LIBRARY:  # made there, perhaps around a function of one's own
            label = f"{function.__globals__.get('__name__')}.{function.__code__.co_name}"
            return self._node(function, label, path, self._describe_held)
        return self._node(function, label_of(function, owner), path, self._describe_function)

    def _describe_held(self, node: Node) -> dict[str, Any]:
        """Describe what a function holds beside its code."""
        function, code = node.value, node.value.__code__
        self.watch.see(function, of_function)
        arguments = code.co_varnames[: code.co_argcount]
        cells = dict(zip(code.co_freevars, map(cell_contents, function.__closure__ or ()), strict=True))
        held = {
            "defaults": dict(zip(reversed(arguments), reversed(function.__defaults__ or ()), strict=False)),
            "keyword defaults": function.__kwdefaults__ or {},
            "closure": {name: value for name, value in cells.items() if value is not MISSING},
            "attributes": {name: value for name, value in vars(function).items() if name not in _OF_WRAPPERS},
        }
        found: dict[str, Any] = {part: self._fields(named, node.label) for part, named in held.items()}
        if self._owner(function) is Owner.LIBRARY:
            return {**found, "library": node.label}
        return {**found, **self._written(node)}

    def _written(self, node: Node) -> dict[str, Any]:
        """Describe the docstring and the annotations of a function or class of one's own, where code reads them."""
        if self._reads.isdisjoint(_OF_WRITING) or self._owner(node.value) is not Owner.OWN:
            return {}
        return {
            "doc": node.value.__doc__,
            "annotations": self._fields(inspect.get_annotations(node.value), node.label),
        }

    def _describe_function(self, node: Node) -> dict[str, Any]:
        function, owner, content = node.value, self._owner(node.value), self._describe_held(node)
        code, module = read_code(function.__code__), _module_of(function)
        is_shared = owner is Owner.FOLLOWED and _SHARED.match(module) is not None
        self._names |= code.names
        if code.looks_up and not is_shared:
            self._looks_up.add(owner)
        if owner is Owner.OWN:
            self._reads |= code.reads
            self._whole |= {0} if code.looks_around else set()
            content["code"] = code.digest
            if code.reads_namespace:
                self._whole.add(id(function.__globals__))
                content["module"] = self._namespace(function.__globals__, str(function.__globals__.get("__name__")))
        else:
            content["code"] = source_digest(function.__code__, module.partition(".")[0])
        self.uses_torch |= not is_shared and any(name.partition(".")[0] == "torch" for name, *_ in code.imports)
        content["globals"] = found = {}
        for name, value in self._named_by(function, code, owner):
            module = _module_of(value)
            self.uses_torch |= not is_shared and module.partition(".")[0] == "torch"
            if _AVAILABILITY.fullmatch(name) and (owner is Owner.FOLLOWED or module.startswith("transformers.")):
                if not is_shared:
                    self.backends[name.lstrip("_")] = bool(value() if callable(value) else value)
            elif owner is Owner.OWN or not self._is_named(value):
                found[name] = self.value(value, f"{node.label}.{name}")
                if type(value) is object:  # a mark, which is compared by what it is
                    self._marks.setdefault(id(value), set()).add(f"{node.label}.{name}")
            elif not _PASSED_BY.match(module):
                said = getattr(value, "__qualname__", module)
                is_told = isinstance(value, types.ModuleType) or module in sys.stdlib_module_names
                if not is_told or name.rpartition(".")[2] != said:  # else the source says it
                    found[name] = {"library": f"{module.partition('.')[0]}: {said}"}
        return content

    def _named_by(self, function: types.FunctionType, code: Code, owner: Owner) -> Iterator[tuple[str, Any]]:
        """Yield the globals that a function loads, and what it imports: modules that are not there yet as files."""
        named = function.__globals__
        for name in sorted(code.loads):
            value = self.watch.look_up(named, name)
            if value is MISSING:
                value = self.watch.look_up(vars(builtins), name)
                value = MISSING if self._is_named(value) else value
            if value is not MISSING and not _OF_MODULES.fullmatch(name):
                yield name, value
        package = named.get("__package__") or str(named.get("__name__")).rpartition(".")[0]
        for name, level, names in sorted(code.imports):
            try:
                full = importlib.util.resolve_name("." * level + name, package) if level else name
            except ImportError:
                continue
            if owner is Owner.FOLLOWED and full.startswith("transformers.") and not _PASSED_BY.match(full):
                importlib.import_module(full)
            module = self.watch.look_up(sys.modules, full)
            if module is MISSING:
                if owner is Owner.OWN and (digests := file_digest(full, names)):
                    yield full, digests
            elif not names and not _is_library(full):
                parts = full.split(".")  # of `import a.b`, what has the name is `a`
                parents = itertools.accumulate(parts, "{}.{}".format)
                yield from ((each, sys.modules[each]) for each in parents if each in sys.modules)
            for each in names if module is not MISSING and not _is_library(full) else ():
                value = self.watch.look_up(dict_of(module), each)
                value = self.watch.look_up(sys.modules, f"{full}.{each}") if value is MISSING else value
                yield f"{full}.{each}", file_digest(f"{full}.{each}", ()) if value is MISSING else value

    def _describe_cached(self, node: Node) -> dict[str, Any]:
        """Describe a function with `functools.lru_cache`, and the values that it keeps of objects."""
        cached = node.value
        function = vars(cached)["__wrapped__"]
        content = {"cached": self.value(function, node.path)}
        if not isinstance(function, types.FunctionType) or self._owner(function) is not Owner.OWN:
            return content
        entries = _entries(cached)
        if all(_is_of_objects(key) for key, _ in entries):
            entries = [entry for entry in entries if all(id(part) in self._nodes for part in entry[0])]
            kept = [self._items.setdefault((id(cached), id(entry[0])), entry) for entry in entries]
            return {**content, "values": self._unordered(kept, node.path)}
        if self._clear_caches:  # they may be of other globals than these; and there is no end of them
            cached.cache_clear()
        return content

    # Modules and classes ----------------------------------------------------------------------------------------------

    def _module(self, module: types.ModuleType) -> Any:
        name, kind = _module_of(module), type(module)
        if _is_library(name):
            return {"module": name}
        namespace = self._namespace(dict_of(module), name)
        return namespace if kind is types.ModuleType else {"module": namespace, "class": self.value(kind, name)}

    def _namespace(self, named: dict[str, Any], name: str) -> Ref:
        label = "module" if owner_of_module(name) is Owner.OWN else name
        return self._node(named, label, label, self._describe_module)

    def _describe_module(self, node: Node) -> dict[str, Any]:
        """Describe a module of one's own: all its code, and what may be used; of transformers', what is named."""
        named, is_own = node.value, node.label == "module"
        if is_own:
            self.watch.see(named, tuple)
        is_whole = is_own and not self._whole.isdisjoint({0, id(named)})
        members, code = {}, {}
        for name, value in list(named.items()):
            is_code = is_own and issubclass(type(value), (type, types.FunctionType)) and self._owner(value) is Owner.OWN
            is_other = isinstance(value, types.ModuleType) or self._is_named(value)
            is_named = name in self._names and (is_own or not is_other)
            may_be = is_whole and not name.startswith("__") and (is_code or self._is_data(value))
            if (is_named or may_be) and not _OF_MODULES.fullmatch(name):
                self._is_certain = node.is_certain and is_named
                members[name] = self.value(self.watch.look_up(named, name), f"{node.label}.{name}")
            elif is_code:
                code[name] = self._code_alone(self.watch.look_up(named, name))
        return {"members": members, "code": code}

    def _is_data(self, value: Any) -> bool:
        """Return whether a value is a constant, an array, or a module or object of one's own; no open connection."""
        if isinstance(value, types.ModuleType):
            return not _is_library(_module_of(value))
        return type(value) in (*_PLAIN, *_CONTAINERS, np.ndarray) or self._owner(type(value)) is Owner.OWN

    def _code_alone(self, value: Any) -> Any:
        if isinstance(value, types.FunctionType):
            self.watch.see(value, of_function)
            return read_code(value.__code__).digest
        self.watch.see(value, of_class)
        members = {name: getattr(member, "__func__", member) for name, member in vars(value).items()}
        return {n: self._code_alone(member) for n, member in members.items() if isinstance(member, types.FunctionType)}

    def _class(self, value: type, path: str) -> Any:
        owner = self._owner(value)
        if owner is Owner.LIBRARY:
            self.uses_torch |= _module_of(value).partition(".")[0] == "torch"
            return {"library": label_of(value, owner)}
        return self._node(value, label_of(value, owner), path, self._describe_class)

    def _describe_class(self, node: Node) -> dict[str, Any]:
        """Describe a class: of one's own all its members, of transformers' those that a call may reach."""
        kind, owner = node.value, self._owner(node.value)
        self.watch.see(kind, of_class)
        content: dict[str, Any] = {"parents": [self.value(each, node.label) for each in kind.__bases__]}
        members = dict(vars(kind))
        if issubclass(kind, Enum):
            content["values"] = self._enum_members(kind)
            members = {n: m for n, m in members.items() if n not in kind._member_map_ and not _OF_ENUMS.fullmatch(n)}
            members = {n: m for n, m in members.items() if not self._is_named(getattr(m, "__func__", m))}
        if owner is Owner.FOLLOWED:
            members = {name: member for name, member in members.items() if self._is_reached(kind, name, member)}
            return {**content, "members": self._fields(members, node.label)}
        content["metaclass"] = None if type(kind) is type else self.value(type(kind), node.label)
        content |= self._written(node)
        is_called_by_others = any(self._is_framework(parent) for parent in kind.__mro__)
        found = {}
        for name, member in members.items():
            if not _NOT_MEANT.fullmatch(name):
                is_used = name in self._names or name.startswith("__") or Owner.OWN in self._looks_up
                self._is_certain = node.is_certain and (is_used or is_called_by_others)
                found[name] = self.value(member, f"{node.label}.{name}")
        return {**content, "members": found}

    def _is_framework(self, parent: type) -> bool:
        """Return whether a library may call the methods of classes that are derived from this one."""
        package = _module_of(parent).partition(".")[0]
        return self._owner(parent) is not Owner.OWN and package not in ("builtins", "abc", "typing", "enum")

    def _is_reached(self, kind: type, name: str, member: Any) -> bool:
        """Return whether a call may reach a member of a class of transformers: it is named, or runs by syntax."""
        if not (name.startswith("__") and name.endswith("__")):
            is_shared = _SHARED.match(kind.__module__) is not None
            return name in self._names or (bool(self._looks_up) and not is_shared and not name.startswith("_abc_"))
        code = getattr(getattr(member, "__func__", member), "__code__", None)
        if code is None or code.co_filename == "<string>" or _NO_OPERATION.fullmatch(name):
            return False  # what `dataclasses` writes follows from the fields, and is another text on each Python
        return name not in _MAKING or kind not in self._parents

    def _enum_members(self, kind: type[Enum]) -> list[Any]:
        found = []
        for name, member in kind._member_map_.items():
            self.watch.see_object(member)
            state = {n: value for n, value in attributes_of(member).items() if not _OF_ENUMS.fullmatch(n)}
            found.append([name, self._fields(state, f"{kind.__qualname__}.{name}")])
        return found


def _module_of(value: Any) -> str:
    """Return the module that a value is, is of, or has its class from."""
    kind = type(value)
    if issubclass(kind, types.ModuleType):
        return str(dict_of(value).get("__name__"))
    is_code = issubclass(kind, (type, types.FunctionType, types.BuiltinFunctionType, _LRU_CACHE))
    module = (value if is_code else kind).__module__
    return module if isinstance(module, str) else ""  # classes that Cython makes have a descriptor there


def _is_library(module: str) -> bool:
    return _PASSED_BY.match(module) is not None or owner_of_module(module) is Owner.LIBRARY


def _is_shared_method(method: Any) -> bool:
    """Return whether a method is of an object that a library shares, as `random.gauss` and `numpy.random.randn` are."""
    name = _module_of(method.__self__)
    is_library = name in sys.modules and owner_of_module(name) is Owner.LIBRARY
    return is_library and vars(sys.modules[name]).get(method.__name__) is method


def _is_default(kind: type) -> bool:
    """Return whether an object of this class has nothing but attributes, and pickling keeps all of them."""
    if is_torch_module(kind):  # some, as those with weight normalization, refuse to be pickled
        return True
    hooks = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")
    parents = [parent for parent in kind.__mro__ if parent is not object]
    is_plain = kind not in copyreg.dispatch_table and not any(map(is_made_in_c, parents))
    return is_plain and not any(hook in vars(parent) for parent in parents for hook in hooks)


def _entries(cached: Any) -> list[tuple[Any, Any]]:
    """Return the keys and values that `functools.lru_cache` keeps, which only the garbage collector can tell."""
    found = gc.get_referents(cached)
    kept = next((part for part in found if type(part) is dict and part is not vars(cached)), {})
    if vars(cached)["cache_parameters"]()["maxsize"] is None:
        return list(kept.items())
    places = {id(part): number for number, part in reversed(list(enumerate(found)))}
    return [(key, found[places[id(key)] + 1]) for key in kept]


def _is_of_objects(key: Any) -> bool:
    """Return whether an entry is for objects as such, or for no argument, and not for numbers and the like."""
    by_identity: Any = object.__hash__
    return type(key) is tuple and all(type(part).__hash__ is by_identity for part in key)

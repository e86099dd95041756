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
import io
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
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor
from enum import Enum
from typing import Any

import numpy as np

from ..errors import UnfingerprintableProcessorError
from .code import Code, read_code, source_digest
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
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator)
_WITHOUT_FORM = (threading.local, types.FrameType)
_SLOTS = (
    *(types.MemberDescriptorType, types.GetSetDescriptorType, types.MethodDescriptorType),
    *(types.WrapperDescriptorType, types.ClassMethodDescriptorType),
)
_BUILTIN = (types.BuiltinFunctionType, types.MethodWrapperType)
_NEW = object().__reduce_ex__(4)[0]  # what pickling makes most objects with
_LRU_CACHE = type(functools.lru_cache(len))
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
_OF_MEMBERS = ("_name_", "__objclass__", "_sort_order_")
_OF_ENUMS = re.compile(r"_[a-z]\w*_")
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
# What runs when an object of a class is made or called; and methods by syntax that only show, keep or derive one.
_MAKING = ("__new__", "__init__", "__post_init__", "__call__", "__getattr__", "__getitem__", "__get__")
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
        self._nodes: dict[int, Node] = {}
        self._pending: list[Node] = []
        self._open: dict[int, Node] = {}  # nodes of which the names decide what counts
        self._names: dict[Owner, set[str]] = {owner: set() for owner in Owner}  # attributes that whose code uses
        self._reads: set[str] = set()  # attributes that one's own code does not just set
        self._looks_up: set[Owner] = set()  # whose code may use any attribute
        self._looks_around = False  # whether one's own may use any of a module
        self._items: dict[Any, tuple[Any, ...]] = {}  # what stands for the elements of sets
        self._marks: dict[int, set[str]] = {}  # by which names `object()`s are known
        self._whole: set[int] = set()  # the globals of functions that may use any of them
        self._parents: tuple[type, ...] = ()
        self._is_certain = True
        self._with_writing = False  # whether docstrings and annotations count, as for grammars and tables

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
        self.watch.see_mapping(processor_kwargs)
        call = {name: self.value(value, f"processor_kwargs.{name}") for name, value in processor_kwargs.items()}
        self._follow()
        return self._printed(id(processor), call)

    def _follow(self) -> None:
        """Describe what was met, until there is nothing new, and no name that might count more of it."""
        known = None
        while known != (known := self._known()):
            self._pending += self._open.values()
            while self._pending:
                node = self._pending.pop()
                self._is_certain = node.is_certain
                content = node.describe(node)
                node.content = {part: said for part, said in content.items() if not _is_empty(said)}
        for key, node in self._nodes.items():
            node.content |= {"known as": sorted(self._marks[key])} if key in self._marks else {}
        if not self._reads.isdisjoint(_OF_WRITING) and not self._with_writing:
            self._with_writing = True
            self._pending += [node for node in self._nodes.values() if type(node.value) is types.FunctionType]
            self._pending += [node for node in self._nodes.values() if issubclass(type(node.value), type)]
            self._follow()

    def _known(self) -> tuple[int, ...]:
        """Return how much is known of what the code may use; the more, the more of open nodes counts."""
        found: list[Collection[Any]] = [*self._names.values(), self._reads, self._looks_up, self._whole]
        return (*map(len, found), self._looks_around)

    def _node(self, value: Any, label: str, path: str, describe: Callable[[Node], dict[str, Any]]) -> Ref:
        node = self._nodes.get(id(value))
        if node is None or (self._is_certain and not node.is_certain):
            self._nodes[id(value)] = node = Node(value, label, path, describe, self._is_certain)
            self._pending.append(node)
        return Ref(id(value))

    # Values -----------------------------------------------------------------------------------------------------------

    def value(self, value: Any, path: str, *, lenient: bool = False, level: int = 0) -> Any:
        """Return the form of a value; `lenient` where JSON may have made a list of a tuple, or 0.0 of 0."""
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
            self.watch.see(value, lambda array: tuple(array.flat))
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
            f"expected to tell when {path} changes, and it is a {kind}: {reason}. Without an identity nothing can be "
            'cached, and nothing was. Pass identity="my-front-end-v1" to CachedFeatures, another name whenever it '
            "computes something else; or remove it, or make it when it is called.",
            path=path,
        )

    def _container(self, value: Any, path: str, lenient: bool, level: int) -> Any:
        def inner(item: Any, name: Any) -> Any:
            return self.value(item, f"{path}{name}", lenient=lenient, level=level + 1)

        kind = type(value)
        if kind in (list, set):
            self.watch.see(value, tuple)
        elif kind not in (tuple, frozenset):
            self.watch.see_mapping(value)
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
            self.watch.see(value, lambda owner: (owner.default_factory,))
            factory = {"default_factory": inner(value.default_factory, ".default_factory")}
        return {kind.__name__: pairs, **factory}

    def _unordered(self, values: Iterable[Any], path: str) -> Any:
        values = list(values)
        if all(type(value) in _PLAIN for value in values):
            return sorted((self.value(value, path) for value in values), key=json.dumps)
        items = [self._items.setdefault(id(value), (value,)) for value in values]
        return Unordered(tuple(self._node(item, "item", f"{path}{{}}", self._item).node for item in items))

    def _item(self, node: Node) -> dict[str, Any]:
        return {"item": self.value(node.value[0], node.path)}

    # Code as a value --------------------------------------------------------------------------------------------------

    def _code(self, value: Any, path: str) -> Any:
        kind = type(value)
        if issubclass(kind, types.ModuleType):
            return self._module(value)
        if kind is types.FunctionType:
            return self._function(value, path)
        if issubclass(kind, type):
            return self._class(value, path)
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
        if issubclass(kind, (staticmethod, classmethod, property)):
            parts = [getattr(value, name, None) for name in ("__func__", "fget", "fset", "fdel")]
            own = (
                {}
                if kind in (staticmethod, classmethod, property)
                else {"class": self.value(kind, path), **self._fields(dict_of(value), path)}
            )
            return {kind.__name__: [self.value(part, path) for part in parts if part is not None], **own}
        if kind is _LRU_CACHE:
            return self._node(value, value.__qualname__, path, self._describe_cached)
        if issubclass(kind, np.ufunc):
            if set("".join(value.types)) <= set("O->"):  # made of a Python function, which only it can tell
                return {"ufunc": [self.value(part, path) for part in gc.get_referents(value)]}
            return {"library": f"numpy.{value.__name__}"}
        if issubclass(kind, Enum):
            return {"member": self.value(kind, path), "name": value.name or str(value.value)}
        if issubclass(kind, functools.singledispatchmethod):
            return {"singledispatchmethod": self.value(value.dispatcher, path)}
        if issubclass(kind, weakref.ref):
            self.watch.see(value, lambda ref: (ref(),))
            return {"weakref": self.value(value(), path)}
        if issubclass(kind, _BY_TYPE) and not issubclass(kind, (io.BytesIO, io.StringIO)):
            return {"type": f"{kind.__module__}.{kind.__qualname__}"}
        if not self._is_certain and issubclass(kind, _GENERATORS):  # to draw from one cannot be cached anyway
            return {"type": f"{kind.__module__}.{kind.__qualname__}"}
        if kind is types.CodeType:
            return {"code": read_code(value).digest}
        if kind is struct.Struct:
            return {"struct": value.format}
        if value is Ellipsis or value is NotImplemented:
            return {"constant": repr(value)}
        is_function = all(any(name in vars(part) for part in kind.__mro__) for name in ("__module__", "__qualname__"))
        if is_function and self._owner(kind) is Owner.LIBRARY and is_found(value):  # one that Cython made
            return {"library": label_of(value, Owner.LIBRARY)}
        if issubclass(kind, _WITHOUT_FORM):
            return self._refuse(value, path, "it does not show its state")
        return self._node(value, f"{kind.__qualname__} object", path, self._describe_object)

    def _owner(self, value: Any) -> Owner:
        owner = owner_of(value)
        if owner is Owner.LIBRARY and self._followed and _module_of(value).partition(".")[0] == self._followed:
            return Owner.FOLLOWED
        return Owner.LIBRARY if owner is Owner.FOLLOWED and _PASSED_BY.match(_module_of(value)) else owner

    def _function(self, function: types.FunctionType, path: str) -> Any:
        owner = self._owner(function)
        if owner is Owner.LIBRARY and is_found(function) and self._is_library(_module_of(function)):
            return {"library": label_of(function, owner)}
        if "registry" in vars(function) and function.__globals__ is vars(functools):  # of `functools.singledispatch`
            return self._node(function, label_of(function, Owner.OWN), path, self._describe_dispatch)
        if owner is Owner.LIBRARY:  # made there, perhaps around a function of one's own
            label = f"{function.__globals__.get('__name__')}.{function.__code__.co_name}"
            return self._node(function, label, path, self._describe_held)
        return self._node(function, label_of(function, owner), path, self._describe_function)

    def _is_library(self, module: str) -> bool:
        return _PASSED_BY.match(module) is not None or owner_of_module(module) is Owner.LIBRARY

    def _describe_dispatch(self, node: Node) -> dict[str, Any]:
        registry = vars(node.value)["registry"]  # which grows in place
        self.watch.see_mapping(registry)
        return {"by type": [[self.value(part, node.path) for part in pair] for pair in registry.items()]}

    def _describe_held(self, node: Node) -> dict[str, Any]:
        """Describe what a function holds beside its code."""
        function, path, owner = node.value, node.label, self._owner(node.value)
        self.watch.see_function(function)
        arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
        cells = dict(zip(function.__code__.co_freevars, map(cell_contents, function.__closure__ or ()), strict=True))
        held = {
            "defaults": dict(zip(reversed(arguments), reversed(function.__defaults__ or ()), strict=False)),
            "keyword defaults": function.__kwdefaults__ or {},
            "closure": {name: value for name, value in cells.items() if value is not MISSING},
            "attributes": {name: value for name, value in vars(function).items() if name not in _OF_WRAPPERS},
        }
        found: dict[str, Any] = {part: self._fields(named, path) for part, named in held.items()}
        return found | self._written(node) | ({"library": node.label} if owner is Owner.LIBRARY else {})

    def _written(self, node: Node) -> dict[str, Any]:
        """Describe the docstring and the annotations of a function or class of one's own, where code reads them."""
        if not self._with_writing or self._owner(node.value) is not Owner.OWN:
            return {}
        written = vars(node.value) if issubclass(type(node.value), type) else {}
        doc = written.get("__doc__") if written else node.value.__doc__
        annotations = written.get("__annotations__", {}) if written else node.value.__annotations__
        return {"doc": self.value(doc, node.label), "annotations": self._fields(annotations, node.label)}

    def _describe_function(self, node: Node) -> dict[str, Any]:
        function, owner = node.value, self._owner(node.value)
        code = read_code(function.__code__)
        is_shared = owner is Owner.FOLLOWED and _SHARED.match(_module_of(function)) is not None
        self._names[owner] |= code.names
        self._reads |= code.reads if owner is Owner.OWN else set()
        if code.looks_up and not is_shared:
            self._looks_up.add(owner)
            self._looks_around |= code.looks_around and owner is Owner.OWN
        package = _module_of(function).partition(".")[0]
        content = self._describe_held(node)
        content["code"] = code.digest if owner is Owner.OWN else source_digest(function.__code__, package)
        content["globals"] = self._loaded(function, code, node.label, owner, is_shared)
        imported = {
            f"{'.' * level}{name}: {', '.join(names)}".removesuffix(": "): self._imported(
                function, (name, level, names), owner, is_shared
            )
            for name, level, names in sorted(code.imports)
        }
        content["imports"] = {name: said for name, said in imported.items() if said is not None}
        if owner is Owner.OWN and code.reads_namespace:
            self._whole.add(id(function.__globals__))
            content["module"] = self._namespace(function.__globals__, str(function.__globals__.get("__name__")))
        return content

    def _loaded(
        self, function: types.FunctionType, code: Code, label: str, owner: Owner, is_shared: bool
    ) -> dict[str, Any]:
        """Describe the globals that a function's bytecode loads."""
        found = {}
        for name in sorted(code.loads):
            value = self.watch.look_up(function.__globals__, name)
            if value is MISSING:
                value = self.watch.look_up(vars(builtins), name)
                if value is MISSING or self._is_named(value):
                    continue
            module = _module_of(value)
            self.uses_torch |= module.partition(".")[0] == "torch" and not is_shared
            if _OF_MODULES.fullmatch(name):
                continue
            if _AVAILABILITY.fullmatch(name) and (owner is Owner.FOLLOWED or module.startswith("transformers.")):
                if not is_shared:
                    self.backends[name.lstrip("_")] = bool(value() if callable(value) else value)
            elif owner is Owner.OWN or not self._is_named(value):
                if owner is Owner.OWN or not (issubclass(type(value), _BY_TYPE) or _PASSED_BY.match(module)):
                    found[name] = self.value(value, f"{label}.{name}")
                    if type(value) is object:  # a mark, which is compared by what it is
                        self._marks.setdefault(id(value), set()).add(f"{label}.{name}")
            elif not _PASSED_BY.match(module) and value is not np:
                said = getattr(value, "__qualname__", module)
                if name != said or (
                    not issubclass(type(value), types.ModuleType) and module not in sys.stdlib_module_names
                ):
                    found[name] = {"library": f"{module.partition('.')[0]}: {said}"}
        return found

    def _is_named(self, value: Any) -> bool:
        """Return whether a value is a module, a function or a class of a library, which its name says all of."""
        kind = type(value)
        if issubclass(kind, types.ModuleType):
            return self._is_library(_module_of(value))
        if issubclass(kind, type):
            return self._owner(value) is Owner.LIBRARY
        if kind is types.FunctionType:
            return self._owner(value) is Owner.LIBRARY and is_found(value) and self._is_library(_module_of(value))
        return kind is np.ufunc or (kind in _BUILTIN and type(value.__self__) in (types.NoneType, types.ModuleType))

    def _imported(
        self,
        function: types.FunctionType,
        imported: tuple[str, int, tuple[str, ...]],
        owner: Owner,
        is_shared: bool,
    ) -> Any:
        """Describe what an import inside a function brings; a module that is not there yet, as a file."""
        (name, level, names), own = imported, function.__globals__
        package = own.get("__package__") or str(own.get("__name__")).rpartition(".")[0]
        try:
            full = importlib.util.resolve_name("." * level + name, package) if level else name
        except ImportError:
            return None
        if owner is Owner.FOLLOWED and full.startswith("transformers.") and not _PASSED_BY.match(full):
            importlib.import_module(full)
        self.uses_torch |= full.partition(".")[0] == "torch" and not is_shared
        module = self.watch.look_up(sys.modules, full)
        if module is MISSING:
            return file_digest(full, names) if owner is Owner.OWN else None
        if self._is_library(full):
            return {"module": full} if owner is Owner.OWN else None
        if not names:
            parts = full.split(".")  # of `import a.b`, what has the name is `a`
            modules = [sys.modules.get(".".join(parts[:end])) for end in range(1, len(parts) + 1)]
            return [self._module(each) for each in modules if each is not None]
        found = {}
        for each in names:
            value = self.watch.look_up(dict_of(module), each)
            value = self.watch.look_up(sys.modules, f"{full}.{each}") if value is MISSING else value
            if value is MISSING:
                found[each] = file_digest(f"{full}.{each}", ())
            elif not (owner is Owner.FOLLOWED and self._is_named(value)):
                found[each] = self.value(value, f"{full}.{each}")
        return found

    # Modules and classes ----------------------------------------------------------------------------------------------

    def _module(self, module: types.ModuleType) -> Any:
        name, kind = _module_of(module), type(module)
        if self._is_library(name):
            return {"module": name}
        namespace = self._namespace(dict_of(module), name)
        return namespace if kind is types.ModuleType else {"module": namespace, "class": self.value(kind, name)}

    def _namespace(self, named: dict[str, Any], name: str) -> Ref:
        is_own = owner_of_module(name) is Owner.OWN
        label = "module" if is_own else name
        return self._node(named, label, label, self._describe_namespace if is_own else self._describe_followed_module)

    def _describe_followed_module(self, node: Node) -> dict[str, Any]:
        self._open[id(node.value)] = node
        names = set().union(*self._names.values()) & node.value.keys()
        values = {name: self.watch.look_up(node.value, name) for name in sorted(names)}
        return {
            "members": {
                name: self.value(value, f"{node.label}.{name}")
                for name, value in values.items()
                if not issubclass(type(value), types.ModuleType) and not self._is_named(value)
            }
        }

    def _describe_namespace(self, node: Node) -> dict[str, Any]:
        """Describe a module of one's own: all its code, and of its values those that may be used."""
        self._open[id(node.value)] = node
        named = node.value
        self.watch.see(named, tuple)
        is_whole = id(named) in self._whole or self._looks_around
        names = set().union(*self._names.values(), {"__getattr__"})
        members, unnamed = {}, {}
        for name, value in list(named.items()):
            is_code = issubclass(type(value), (type, types.FunctionType)) and self._owner(value) is Owner.OWN
            is_used = name in names or (is_whole and not name.startswith("__") and (is_code or self._is_data(value)))
            if is_used and not _OF_MODULES.fullmatch(name):
                self._is_certain = node.is_certain and name in names
                members[name] = self.value(self.watch.look_up(named, name), f"{node.label}.{name}")
            elif is_code:
                self.watch.look_up(named, name)
                unnamed[name] = self._code_alone(value)
        return {"members": members, "code": unnamed}

    def _is_data(self, value: Any) -> bool:
        """Return whether a value is a constant, an array or an object of one's own, and no model or open connection."""
        return type(value) in (*_PLAIN, *_CONTAINERS, np.ndarray) or self._owner(type(value)) is Owner.OWN

    def _code_alone(self, value: Any) -> Any:
        if isinstance(value, types.FunctionType):
            self.watch.see_function(value)
            return read_code(value.__code__).digest
        self.watch.see_class(value)
        members = {name: getattr(member, "__func__", member) for name, member in vars(value).items()}
        return {n: self._code_alone(member) for n, member in members.items() if isinstance(member, types.FunctionType)}

    def _class(self, value: type, path: str) -> Any:
        owner = self._owner(value)
        if owner is Owner.LIBRARY:
            self.uses_torch |= _module_of(value).partition(".")[0] == "torch"
            return {"library": label_of(value, owner)}
        describe = self._describe_class if owner is Owner.OWN else self._describe_followed_class
        return self._node(value, label_of(value, owner), path, describe)

    def _describe_class(self, node: Node) -> dict[str, Any]:
        """Describe a class of one's own: all its members, and its parents."""
        self.watch.see_class(node.value)
        members = {name: value for name, value in vars(node.value).items() if not _NOT_MEANT.fullmatch(name)}
        content = {
            "parents": [self.value(parent, node.label) for parent in node.value.__bases__ if parent is not object],
            "metaclass": self.value(type(node.value), node.label) if type(node.value) is not type else [],
        }
        if issubclass(node.value, Enum):
            content["values"], members = self._enum_members(node.value), self._code_of_enum(node.value)
        names = set().union(*self._names.values())
        is_called_by_others = any(self._is_framework(parent) for parent in node.value.__mro__)
        if not is_called_by_others and Owner.OWN not in self._looks_up:
            self._open[id(node.value)] = node
        found = {}
        for name, member in members.items():
            is_used = name in names or name.startswith("__") or is_called_by_others or Owner.OWN in self._looks_up
            self._is_certain = node.is_certain and is_used
            found[name] = self.value(member, f"{node.label}.{name}")
        return {**content, **self._written(node), "members": found}

    def _is_framework(self, parent: type) -> bool:
        """Return whether a library may call the methods of classes that are derived from this one."""
        package = _module_of(parent).partition(".")[0]
        return self._owner(parent) is not Owner.OWN and package not in ("builtins", "abc", "typing", "enum")

    def _describe_followed_class(self, node: Node) -> dict[str, Any]:
        """Describe what a call may reach of a class of transformers: what is named, and what runs by syntax."""
        self._open[id(node.value)] = node
        self.watch.see_class(node.value)
        for parent in node.value.__bases__:
            self.value(parent, node.label)
        members = dict(vars(node.value))
        if issubclass(node.value, Enum):
            members = self._code_of_enum(node.value)
            return {"values": self._enum_members(node.value), "members": self._fields(members, node.label)}
        names = set().union(*self._names.values())
        is_shared = _SHARED.match(node.value.__module__) is not None
        is_parent = node.value in self._parents

        def counts(name: str, member: Any) -> bool:
            if not (name.startswith("__") and name.endswith("__")):
                return name in names or (bool(self._looks_up) and not is_shared and not name.startswith("_abc_"))
            if not isinstance(getattr(member, "__func__", member), types.FunctionType) or _is_generated(member):
                return False
            if name in _MAKING:
                return name == "__call__" or not is_parent
            return not is_shared and not _NO_OPERATION.fullmatch(name)

        return {"members": self._fields({n: m for n, m in members.items() if counts(n, m)}, node.label)}

    def _fields(self, named: Mapping[str, Any], path: str) -> dict[str, Any]:
        return {str(name): self.value(value, f"{path}.{name}") for name, value in named.items()}

    def _enum_members(self, kind: type[Enum]) -> list[Any]:
        members = vars(kind)["_member_map_"]
        for member in members.values():
            self.watch.see_object(member)
        kept = {name: attributes_of(member) for name, member in members.items()}
        return [
            [name, {n: self.value(v, f"{kind.__qualname__}.{name}") for n, v in state.items() if n not in _OF_MEMBERS}]
            for name, state in kept.items()
        ]

    def _code_of_enum(self, kind: type[Enum]) -> dict[str, Any]:
        """Return what an enum's class has beside its members, without what `enum` keeps there for itself."""
        members = {
            n: m for n, m in vars(kind).items() if n not in vars(kind)["_member_map_"] and not _OF_ENUMS.match(n)
        }
        return {
            name: member
            for name, member in members.items()
            if not _NOT_MEANT.fullmatch(name) and not self._is_named(getattr(member, "__func__", member))
        }

    # Objects ----------------------------------------------------------------------------------------------------------

    def _describe_object(self, node: Node) -> dict[str, Any]:
        value, kind = node.value, type(node.value)
        content: dict[str, Any] = {"class": self.value(kind, node.path)}
        if _is_default(kind):  # all that there is are its attributes
            self.watch.see_object(value)
            return {**content, "state": self._state(node, attributes_of(value))}
        try:
            outline = self.watch.content(value, Outline)
        except Exception as exc:  # noqa: BLE001 - whatever the pickling hooks raise
            return {**content, "unseen": self._refuse(value, node.path, f"its state cannot be seen ({exc})")}
        if isinstance(outline.reduced, str):
            self.watch.see_object(value)
            own = attributes_of(value) if self._owner(kind) is Owner.OWN else {}
            return {**content, "named": outline.reduced, "state": self._state(node, own)}
        function, arguments, state, items, pairs = outline.reduced
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
        if (
            isinstance(state, tuple)
            and len(state) == 2
            and all(isinstance(part, (dict, types.NoneType)) for part in state)
        ):
            state = {**(state[0] or {}), **(state[1] or {})}
        if isinstance(state, dict) and all(type(name) is str for name in state):
            return {**content, "state": self._state(node, state)}
        return {**content, "kept": self.value(state, node.path)}

    def _state(self, node: Node, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Describe attributes; those of transformers' classes as they are after being saved and loaded."""
        kind = type(node.value)
        is_followed = self._owner(kind) is Owner.FOLLOWED
        is_saved = any(self._owner(parent) is Owner.FOLLOWED for parent in kind.__mro__)
        if is_saved and not is_followed:
            self._open[id(node.value)] = node
        own = self._reads
        kept = {n for p in kind.__mro__ for n, m in vars(p).items() if isinstance(m, functools.cached_property)}
        found = {}
        for name, value in attributes.items():
            is_own = not is_saved or (not is_followed and (name in own or Owner.OWN in self._looks_up))
            is_bookkeeping = is_saved and name in _BOOKKEEPING and name not in own
            if is_bookkeeping or name in _OF_WRAPPERS or (is_followed and name in kept):
                continue
            found[str(name)] = self.value(value, f"{node.path}.{name}", lenient=not is_own)
        return found

    def _describe_cached(self, node: Node) -> dict[str, Any]:
        """Describe a function with `functools.lru_cache`, and the values that it keeps of objects."""
        cached = node.value
        function = vars(cached)["__wrapped__"]
        content = {"cached": self.value(function, node.path)}
        if not isinstance(function, types.FunctionType) or self._owner(function) is not Owner.OWN:
            return content
        entries = _entries(cached)
        if all(_is_of_objects(key) for key, _ in entries):
            self._open[id(cached)] = node
            entries = [entry for entry in entries if all(id(part) in self._nodes for part in entry[0])]
            kept = [self._items.setdefault((id(cached), id(entry[0])), entry) for entry in entries]
            return {**content, "values": self._unordered(kept, node.path)}
        if self._clear_caches:  # they may be of other globals than these; and there is no end of them
            cached.cache_clear()
        return content

    # The whole --------------------------------------------------------------------------------------------------------

    def _printed(self, root: int, call: Mapping[str, Any]) -> dict[str, Any]:
        """Return the description, with nodes by names that are the same in each process."""
        names = names_of(self._nodes)
        code = {names[key]: printed(node.content, names) for key, node in self._nodes.items() if node.content}
        if root not in names:
            return {"call": printed(call, names), "code": code}
        own = code.pop(names[root])
        kind, backends = own.pop("class"), {"backends": self.backends} if self.backends else {}
        return {**own, "class": next(iter(kind.values())), "call": printed(call, names), **backends, "code": code}


def _is_empty(said: Any) -> bool:
    return said is None or said == {} or said == []


def _module_of(value: Any) -> str:
    """Return the module that a value is, is of, or has its class from."""
    kind = type(value)
    if issubclass(kind, types.ModuleType):
        return str(dict_of(value).get("__name__"))
    is_code = issubclass(kind, (type, types.FunctionType, types.BuiltinFunctionType, _LRU_CACHE))
    module = (value if is_code else kind).__module__
    return module if isinstance(module, str) else ""  # classes that Cython makes have a descriptor there


def _is_shared_method(method: Any) -> bool:
    """Return whether a method is of an object that a library shares, as `random.gauss` and `numpy.random.randn` are."""
    name = _module_of(method.__self__)
    is_library = name in sys.modules and owner_of_module(name) is Owner.LIBRARY
    return is_library and vars(sys.modules[name]).get(method.__name__) is method


def _is_generated(member: Any) -> bool:
    """Return whether `dataclasses` wrote a method: it follows from the fields, and is another text on each Python."""
    code = getattr(getattr(member, "__func__", member), "__code__", None)
    return code is not None and code.co_filename == "<string>"


def _is_default(kind: type) -> bool:
    """Return whether an object of this class has nothing but attributes, and pickling keeps all of them."""
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

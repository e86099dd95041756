"""Walk over live objects as a graph, each described by the form of its type."""

from __future__ import annotations

import functools
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from ...errors import UnfingerprintableProcessorError
from ..code import ORDER, Code
from ..extractor import real_extractor
from ..ownership import Owner, is_found, owner_of, owner_of_module, package_of
from ..watch import Watch, dict_of, is_tensor, of_mapping
from .graph import Node, Ref, names_of, printed

# What `functools.update_wrapper`, torch.compile and torch.fx leave on an object, that says where it is from.
OF_WRAPPERS = {"__doc__", "__module__", "__annotations__", "_torchdynamo_wrapper_id", "_co_fields"}
OF_WRAPPERS |= {"_torchdynamo_orig_callable", "get_compiler_config", "_is_torch_compile"}
# Libraries that count by name, even where the class of the front end is theirs.
_BY_NAME = ("torch", "numpy")
# Parts of transformers that a call passes through without their changing what it returns.
PASSED_BY = re.compile(
    r"transformers\.(utils\.(import_utils|logging|hub|doc|deprecation|auto_docstring|versions)|dynamic_module_utils)\b"
)
# What its extractors have in common.
SHARED = re.compile(
    r"transformers\.(feature_extraction_\w+|image_processing_base|audio_utils|processing_utils|utils\b.*)"
)


@dataclass(frozen=True)
class At:
    """Where a value stands."""

    path: str
    is_saved: bool = False  # whether JSON may have made a list of a tuple there, or 0 of 0.0
    level: int = 0  # in how many containers

    def inner(self, name: str) -> At:
        return At(self.path + name, self.is_saved, self.level + 1)


@dataclass
class Uses:
    """What all of the code that was met uses, which decides what counts of classes and modules."""

    # Attributes by their names. torch calls a module's `forward`.
    names: set[str] = field(default_factory=lambda: {"__getattr__", "forward"})
    reads: set[str] = field(default_factory=set)  # those that one's own code does not just set
    looks_up: set[Owner] = field(default_factory=set)  # whose code may use any attribute
    whole: set[int] = field(default_factory=set)  # modules of which code may use any global; 0 for all of one's own
    texts: set[str] = field(default_factory=set)  # strings that are held, by which a module may be imported
    imports_by_text: bool = False

    def size(self) -> tuple[int, ...]:
        texts = len(self.texts) if self.imports_by_text else 0
        return len(self.names), len(self.reads), len(self.looks_up), len(self.whole), texts

    def add(self, code: Code, owner: Owner, module: dict[str, Any], *, is_shared: bool) -> None:
        """Note what a function's code uses. `is_shared`: the extractors of transformers have it in common."""
        self.names |= code.names
        if code.looks_up and not is_shared:
            self.looks_up.add(owner)
        if owner is Owner.OWN:
            self.reads |= code.reads
            self.whole |= {0} if code.looks_around else set()
            self.whole |= {id(module)} if code.reads_namespace else set()


class Describer:
    """Describes a processor, the arguments of its call, and all that they bring with them."""

    def __init__(self, *, clear_caches: bool = False, counts_left_out: bool = True) -> None:
        # Whether functions of one's own with `functools.lru_cache` forget what they made, which may no longer fit.
        self.clear_caches = clear_caches
        self.counts_left_out = counts_left_out  # whether attributes count that pickling hooks of one's own leave out
        self.watch = Watch()
        self.uses_torch = False
        self.backends: dict[str, bool] = {}  # answers of the availability checks that choose between libraries
        self.own_package = ""  # one that is installed, and counts as one's own: that of the processor's class
        self._owners: dict[int, tuple[Any, Owner]] = {}
        self._nodes: dict[int, Node] = {}
        self._pending: list[Node] = []
        self.uses = Uses()
        self.set_items: dict[int, tuple[Any]] = {}  # what stands for the elements of sets
        self.marks: dict[int, set[str]] = {}  # by which names `object()`s are known
        self.parents: tuple[type, ...] = ()
        self.is_certain = True

    def describe(self, processor: Any, processor_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the description, of JSON values only; without a processor, that of the arguments.

        Raises UnfingerprintableProcessorError if the state of a part of it cannot be seen.
        """
        if processor is not None:
            self.parents = type(processor).__mro__
            kind, top = type(processor), module_of(type(processor)).partition(".")[0]
            if owner_of(kind) is Owner.LIBRARY and top not in (*_BY_NAME, *sys.stdlib_module_names):
                self.own_package = package_of(kind)
            _DERIVED[object](self, processor, At("processor"))
        self.watch.see(processor_kwargs, of_mapping)
        call = self.fields(processor_kwargs, "processor_kwargs")
        known = None
        while known != (known := self.uses.size()):
            self._pending = list(self._nodes.values())
            while self._pending:
                node = self._pending.pop()
                self.is_certain = node.is_certain
                content = node.describe(self, node)
                node.content = {part: said for part, said in content.items() if said not in (None, {}, [])}
        for key, names in self.marks.items():
            self._nodes[key].content["known as"] = sorted(names)
        return self._printed(id(processor), call)

    def node(self, value: Any, label: str, path: str, describe: Callable[[Describer, Node], dict[str, Any]]) -> Ref:
        node = self._nodes.get(id(value))
        if node is None or (self.is_certain and not node.is_certain):
            self._nodes[id(value)] = node = Node(value, label, path, describe, self.is_certain)
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

    def refuse(self, value: Any, path: str, reason: str) -> dict[str, Any]:
        """Refuse what a call reaches and does not show its state; of what it may reach, return the type."""
        if not self.is_certain:
            return {"type": type_name(value)}
        raise UnfingerprintableProcessorError(
            f"A change of {path} could not be noticed, so nothing was cached: it is a {type_name(value)}, and "
            f'{reason}. Pass identity="my-front-end-v1" to CachedFeatures, and another name whenever the front end '
            f"computes something else; or make {path} when it is called.",
            path=path,
        )

    def value(self, value: Any, at: At) -> Any:
        """Return the description of a value, by the form of its type."""
        value = real_extractor(value)
        kind = Tensor if is_tensor(value) else type(value)
        derived = (_DERIVED[parent] for parent in kind.__mro__ if parent in _DERIVED)
        return (_EXACT.get(kind) or next(derived))(self, value, at)

    def fields(self, named: Mapping[str, Any], path: str) -> dict[str, Any]:
        return {str(name): self.value(value, At(f"{path}.{name}")) for name, value in named.items()}

    def order(self, named: Iterable[str]) -> dict[str, list[str]]:
        """Return the order of names, where code of one's own may go over them."""
        return {"order": [*map(str, named)]} if ORDER in self.uses.reads else {}

    def items(self, values: Iterable[Any], path: str) -> list[Any]:
        return [self.value(value, At(f"{path}[{number}]")) for number, value in enumerate(values)]

    def owner(self, value: Any) -> Owner:
        if id(value) not in self._owners:
            owner = owner_of(value, self.own_package)
            if owner is Owner.FOLLOWED and PASSED_BY.match(module_of(value)):
                owner = Owner.LIBRARY
            self._owners[id(value)] = value, owner
        return self._owners[id(value)][1]

    def owner_of_module(self, name: str) -> Owner:
        """Return whose a module is that has been imported."""
        return owner_of_module(name, self.own_package)

    def is_library(self, module: str) -> bool:
        """Return whether a module counts by its name."""
        return PASSED_BY.match(module) is not None or self.owner_of_module(module) is Owner.LIBRARY

    def is_named(self, value: Any) -> bool:
        """Return whether a value is a module, a function or a class of a library, which its name says all of."""
        kind = type(value)
        if issubclass(kind, types.ModuleType):
            return self.is_library(module_of(value))
        if issubclass(kind, type):
            return self.owner(value) is Owner.LIBRARY
        if kind is types.FunctionType:
            return self.owner(value) is Owner.LIBRARY and is_found(value) and self.is_library(module_of(value))
        is_builtin = kind in (types.BuiltinFunctionType, types.MethodWrapperType)
        return kind is np.ufunc or (is_builtin and type(value.__self__) in (types.NoneType, types.ModuleType))


_Form = Callable[[Describer, Any, At], Any]
_Described = TypeVar("_Described", bound=_Form)
_EXACT: dict[type, _Form] = {}
_DERIVED: dict[type, _Form] = {}


class Tensor:
    """Stands for torch's class, which need not be there."""


def form(*kinds: type, derived: bool = False) -> Callable[[_Described], _Described]:
    """Let a function describe values of a type: of this very one, or also of those `derived` from it."""

    def register(function: _Described) -> _Described:
        (_DERIVED if derived else _EXACT).update(dict.fromkeys(kinds, function))
        return function

    return register


def type_name(value: Any) -> str:
    """Return the full name of the type of a value."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def module_of(value: Any) -> str:
    """Return the module that a value is, is of, or has its class from."""
    kind = type(value)
    if issubclass(kind, types.ModuleType):
        return str(dict_of(value).get("__name__"))
    is_code = issubclass(kind, (type, types.FunctionType, types.BuiltinFunctionType, type(functools.lru_cache(len))))
    module = (value if is_code else kind).__module__
    return module if isinstance(module, str) else ""  # classes that Cython makes have a descriptor there

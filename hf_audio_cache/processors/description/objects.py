"""Objects: their class, and what pickling or their type says of them."""

from __future__ import annotations

import contextlib
import copyreg
import functools
import io
import logging
import operator
import os
import random
import struct
import threading
import types
import weakref
from collections.abc import Mapping
from concurrent.futures import Executor
from enum import Enum
from typing import Any

import numpy as np

from ..ownership import Owner, is_made_in_c
from ..watch import Outline, attributes_of, is_tensor, is_torch_module, of_mapping, of_reference, tensor_content
from .describer import OF_WRAPPERS, At, Describer, Tensor, form, type_name
from .graph import Node
from .values import unordered

_NEW = object().__reduce_ex__(4)[0]  # what pickling makes most objects with
# What loading leaves on an extractor of transformers, and no output depends on.
_BOOKKEEPING = frozenset({"feature_extractor_type", "processor_class", "name_or_path", "_name_or_path", "_auto_class"})
_COMPUTING = (types.FunctionType, types.MethodType, functools.partial, np.ndarray)
_CONTEXT = ("func", "args", "kwds")  # as a decorator, it is made anew of these for each call
# What an object is made of that pickling does not tell.
_PARTS: dict[type, tuple[str, ...]] = {
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset", "fdel"),
    struct.Struct: ("format",),
    type(contextlib.contextmanager(iter)(())): _CONTEXT,
    **dict.fromkeys(
        (
            *(types.MemberDescriptorType, types.GetSetDescriptorType, types.MethodDescriptorType),
            *(types.WrapperDescriptorType, types.ClassMethodDescriptorType),
        ),
        ("__objclass__", "__name__"),
    ),
}
# What functions of libraries are made of. Numba's pickling hooks give each a number of its own, another one in each
# process; joblib's the folder where it keeps results, and the line where the function stands.
_MADE_OF = {
    ("numba.core.dispatcher", "Dispatcher"): ("py_func", "targetoptions", "locals"),
    ("joblib.memory", "MemorizedFunc"): ("func", "ignore"),
}


@form(object, io.BytesIO, io.StringIO, derived=True)
def _object(describer: Describer, value: Any, at: At) -> Any:
    if type(value) is object:  # a mark, which is compared by what it is
        describer.marks.setdefault(id(value), set()).add(at.path)
    describe = _describe_parts if _made_of(type(value)) else _describe_object
    return describer.node(value, f"{type(value).__qualname__} object", at.path, describe)


def _made_of(kind: type) -> tuple[str, ...]:
    kinds = ((parent.__module__, parent.__name__) for parent in kind.__mro__)
    return next((_MADE_OF[each] for each in kinds if each in _MADE_OF), ())


def _describe_object(describer: Describer, node: Node) -> dict[str, Any]:
    value, kind = node.value, type(node.value)
    content: dict[str, Any] = {"class": describer.value(kind, At(node.path))}
    if _is_default(kind):  # all that there is are its attributes
        describer.watch.see_object(value)
        return {**content, **_state(describer, node, attributes_of(value))}
    try:
        reduced = describer.watch.content(value, Outline).reduced
    except Exception as exc:  # noqa: BLE001 - whatever the pickling hooks raise
        return {**content, "unseen": describer.refuse(value, node.path, f"its state cannot be seen ({exc})")}
    if isinstance(reduced, str):
        describer.watch.see_object(value)
        own = attributes_of(value) if describer.owner(kind) is Owner.OWN else {}
        return {**content, "named": reduced, **_state(describer, node, own)}
    function, arguments, state, items, pairs = reduced
    if kind in (operator.attrgetter, operator.methodcaller):
        describer.uses.names |= {name for text in arguments if type(text) is str for name in text.split(".")}
    if issubclass(kind, (set, frozenset)):
        content["items"], arguments = unordered(describer, value, node.path), (kind,)
    elif issubclass(kind, np.ndarray):
        describer.watch.see_object(value)
        content["attributes"] = describer.fields(attributes_of(value), node.path)
    if function is _NEW and arguments[0] is kind:
        arguments = arguments[1:]
    else:
        content["by"] = describer.value(function, At(node.path))
    content["arguments"] = describer.items(arguments, node.path)
    content["items"] = content.get("items") or describer.items(items, node.path)
    content["pairs"] = [describer.items(pair, node.path) for pair in pairs]
    if type(state) is tuple and len(state) == 2 and {*map(type, state)} <= {dict, types.NoneType}:
        state = {**(state[0] or {}), **(state[1] or {})}  # attributes, and those in slots
    if isinstance(state, dict) and all(type(name) is str for name in state):
        content |= _state(describer, node, state)
    else:
        content["kept"] = describer.value(state, At(node.path))
    return {**content, "left out": _left_out(describer, node, state)}


def _describe_parts(describer: Describer, node: Node) -> dict[str, Any]:
    value = node.value
    describer.watch.see_object(value)
    signatures = [] if getattr(value, "_can_compile", True) else [*map(str, value.overloads)]
    parts = {name: getattr(value, name) for name in _made_of(type(value))}
    return {
        "class": describer.value(type(value), At(node.path)),
        "types": signatures,
        **describer.fields(parts, node.path),
    }


def _left_out(describer: Describer, node: Node, kept: Any) -> dict[str, Any]:
    """Describe functions and arrays that code reads and that pickling hooks of one's own leave out."""
    if not describer.counts_left_out or describer.owner(type(node.value)) is not Owner.OWN:
        return {}
    describer.watch.see_object(node.value)
    describer.is_certain = False
    is_any, names = Owner.OWN in describer.uses.looks_up, kept if isinstance(kept, dict) else ()
    left_out = {name: held for name, held in attributes_of(node.value).items() if name not in names}
    # What else is left out belongs to a process, as a rule: its number, a folder, a time.
    found = {name: held for name, held in left_out.items() if isinstance(held, _COMPUTING) or is_tensor(held)}
    return describer.fields({n: held for n, held in found.items() if is_any or n in describer.uses.reads}, node.path)


def _state(describer: Describer, node: Node, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Describe attributes; those of transformers' classes as they are after being saved and loaded."""
    kind, uses = type(node.value), describer.uses
    is_saved = any(describer.owner(parent) is Owner.FOLLOWED for parent in kind.__mro__)
    is_own = describer.owner(kind) is not Owner.FOLLOWED
    found = {}
    for name, value in attributes.items():
        if name not in uses.reads and (name in OF_WRAPPERS or (is_saved and name in _BOOKKEEPING)):
            continue
        # Hooks stand under numbers that all modules of a process share.
        if is_torch_module(kind) and "_hooks" in name and isinstance(value, dict):
            describer.watch.see(value, of_mapping)
            value = list(value.values())
        is_read = is_own and (name in uses.reads or Owner.OWN in uses.looks_up)
        found[str(name)] = describer.value(value, At(f"{node.path}.{name}", is_saved and not is_read))
    return {"state": found, **({} if is_saved else describer.order(found))}


@form(Tensor)
def _tensor(describer: Describer, value: Any, at: At) -> Any:
    describer.uses_torch = True
    try:
        content = describer.watch.content(value, tensor_content)
    except (RuntimeError, TypeError) as exc:
        return describer.refuse(value, at.path, f"it has no plain bytes ({exc})")
    return {**content, **_own(describer, value, at)}


@form(*_PARTS, derived=True)
def _parts(describer: Describer, value: Any, at: At) -> Any:
    """Describe what `_PARTS` tells the parts of, since pickling does not."""
    base = next(parent for parent in type(value).__mro__ if parent in _PARTS)
    parts = [describer.value(getattr(value, name), at) for name in _PARTS[base]]
    return {base.__name__: parts, **(_own(describer, value, at) if type(value) is not base else {})}


@form(weakref.ref, derived=True)
def _reference(describer: Describer, value: Any, at: At) -> Any:
    describer.watch.see(value, of_reference)
    return {"weakref": describer.value(value(), at), **_own(describer, value, at)}


@form(Enum, derived=True)
def _member(describer: Describer, value: Enum, at: At) -> Any:
    return {"member": describer.value(type(value), at), "name": value.name or str(value.value)}


@form(
    *(logging.Logger, logging.LoggerAdapter, io.IOBase, io.IOBase.__mro__[1], Executor, type(os.environ)),
    *(threading.Thread, threading.Event, threading.Condition, threading.Semaphore),
    *(type(threading.Lock()), type(threading.RLock())),
    derived=True,
)
def _service(describer: Describer, value: Any, at: At) -> Any:
    """Describe what only serves the program: by its type, with what a class of one's own adds to that."""
    is_library = describer.owner(type(value)) is Owner.LIBRARY
    return {"type": type_name(value)} if is_library else _own(describer, value, at)


@form(random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, derived=True)
def _generator(describer: Describer, value: Any, at: At) -> Any:
    # What a call draws from it is random, and refused as such.
    return _object(describer, value, at) if describer.is_certain else {"type": type_name(value)}


def _own(describer: Describer, value: Any, at: At) -> dict[str, Any]:
    """Describe what an object has beside its content: a class of one's own, and attributes that code uses."""
    describer.watch.see_object(value)
    if describer.owner(type(value)) is Owner.LIBRARY and not _used(describer, value):
        return {}
    return {"own": describer.node(value, f"{type(value).__qualname__} object", at.path, _describe_own)}


def _describe_own(describer: Describer, node: Node) -> dict[str, Any]:
    kind = describer.value(type(node.value), At(node.path))
    return {"class": kind, "attributes": describer.fields(_used(describer, node.value), node.path)}


def _used(describer: Describer, value: Any) -> dict[str, Any]:
    is_any = Owner.OWN in describer.uses.looks_up
    return {name: held for name, held in attributes_of(value).items() if is_any or name in describer.uses.names}


def _is_default(kind: type) -> bool:
    """Return whether an object of this class has nothing but attributes, and pickling keeps all of them."""
    if is_torch_module(kind):  # some, as those with weight normalization, refuse to be pickled
        return True
    hooks = ("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")
    parents = [parent for parent in kind.__mro__ if parent is not object]
    is_plain = kind not in copyreg.dispatch_table and not any(map(is_made_in_c, parents))
    return is_plain and not any(hook in vars(parent) for parent in parents for hook in hooks)

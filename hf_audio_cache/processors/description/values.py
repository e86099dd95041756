"""Numbers, texts, containers and arrays."""

from __future__ import annotations

import json
import math
import struct
import sys
import types
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..code import names_in
from ..watch import array_content, bytes_content, dict_of, dtype_name, memory_order, of_array, of_mapping
from .describer import At, Describer, form
from .graph import Node, Unordered

_INLINE_LEVELS = 8  # a container that lies deeper is a node of its own, so that nothing recurses without end
_PLAIN = (types.NoneType, bool, int, float, complex, str, bytes)


@form(types.NoneType, bool)
def _plain(describer: Describer, value: Any, at: At) -> Any:
    return value


@form(str)
def _text(describer: Describer, value: str, at: At) -> str:
    describer.uses.texts.add(value)
    describer.uses.names |= names_in(value)
    return value


@form(int)
def _whole_number(describer: Describer, value: int, at: At) -> Any:
    return value if abs(value) < 1 << 64 else {"int": f"{value:x}"}


@form(float)
def _real_number(describer: Describer, value: float, at: At) -> Any:
    if math.isnan(value) and not at.is_saved:
        return {"float": struct.pack(">d", value).hex()}  # its sign and the bits beside may be used
    if not math.isfinite(value):
        return {"float": repr(value)}
    return int(value) if at.is_saved and value.is_integer() and repr(value) != "-0.0" else value


@form(complex)
def _complex_number(describer: Describer, value: complex, at: At) -> Any:
    return {"complex": [describer.value(part, At(at.path)) for part in (value.real, value.imag)]}


@form(bytes, bytearray)
def _binary(describer: Describer, value: bytes | bytearray, at: At) -> Any:
    return describer.watch.content(value, bytes_content)


@form(list, tuple, dict, set, frozenset, types.MappingProxyType)
def _container(describer: Describer, value: Any, at: At) -> Any:
    kind = type(value)
    if (module := _module_of(value)) is not None:
        describer.uses.whole.add(id(value))  # who holds its globals may use any of them
        return {"globals": describer.value(module, At(at.path))}
    if at.level >= _INLINE_LEVELS:
        top = At(at.path, at.is_saved)
        return describer.node(value, kind.__name__, at.path, lambda *_: {"items": _container(describer, value, top)})
    if kind not in (tuple, frozenset):
        describer.watch.see(value, tuple if kind in (list, set) else of_mapping)
    if kind in (list, tuple):
        items = [describer.value(item, at.inner(f"[{number}]")) for number, item in enumerate(value)]
        return items if at.is_saved or kind is list else {"tuple": items}
    if kind in (set, frozenset):
        return {"set" if at.is_saved else kind.__name__: unordered(describer, value, at.path)}
    pairs = []
    for name, item in value.items():
        inner = at.inner(f".{name}" if type(name) is str else "")
        pairs.append([describer.value(name, at.inner(" key")), describer.value(item, inner)])
    return {kind.__name__: pairs}


def _module_of(value: Any) -> Any:
    """Return the module whose globals these are, if they are any's."""
    name = value.get("__name__") if type(value) is dict else None
    module = sys.modules.get(name) if type(name) is str else None
    return module if isinstance(module, types.ModuleType) and dict_of(module) is value else None


def unordered(describer: Describer, values: Iterable[Any], path: str) -> Any:
    """Describe the elements of a set."""
    values = list(values)
    if all(type(value) in _PLAIN for value in values):
        return sorted((describer.value(value, At(path)) for value in values), key=json.dumps)
    items = [describer.set_items.setdefault(id(value), (value,)) for value in values]
    return Unordered(tuple(describer.node(item, "item", f"{path}{{}}", _describe_item).node for item in items))


def _describe_item(describer: Describer, node: Node) -> dict[str, Any]:
    return {"item": describer.value(node.value[0], At(node.path))}


@form(np.ndarray, np.memmap)
def _array(describer: Describer, value: Any, at: At) -> Any:
    if not value.dtype.hasobject:
        return describer.watch.content(value, array_content)
    describer.watch.see(value, of_array)
    objects = describer.items(value.flat, at.path)
    return {"objects": objects, "dtype": str(value.dtype), "shape": list(value.shape), **memory_order(value)}


@form(np.generic, derived=True)
def _scalar(describer: Describer, value: np.generic, at: At) -> Any:
    item = value.item()
    said = item if type(item) in (bool, int, str) else str(value)
    bits = {"bits": value.tobytes().hex()} if "nan" in str(said) else {}  # which the text does not show
    return {"scalar": dtype_name(value.dtype), "value": said, **bits}


@form(np.dtype, derived=True)
def _dtype(describer: Describer, value: np.dtype[Any], at: At) -> Any:
    metadata = {"metadata": describer.value(dict(value.metadata), at)} if value.metadata else {}
    return {"dtype": dtype_name(value), **metadata}

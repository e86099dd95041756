"""Noticing changes of what was described: of names by what they stand for, of arrays by their bytes."""

from __future__ import annotations

import copyreg
import functools
import itertools
import operator
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xxhash

__all__ = ["MISSING", "Outline", "Watch", "array_content", "attributes_of", "bytes_content", "cell_contents"]
__all__ += ["dict_of", "dtype_name", "is_tensor", "tensor_content"]

MISSING = object()
_PLAIN = (types.NoneType, bool, int, float, complex, str, bytes)
_MEANT_BITS = 10  # bytes of x86's long double; the other six are whatever was there


class Watch:
    """All that a description was made of; tells whether it is still that."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[Mapping[str, Any], dict[str, Any]]] = {}
        self._functions: dict[int, tuple[types.FunctionType, types.CodeType, Any, Any, int]] = {}
        self._mappings: dict[int, tuple[Mapping[Any, Any], tuple[Any, ...], tuple[Any, ...]]] = {}
        self._parts: dict[int, tuple[Callable[[Any], tuple[Any, ...]], Any, tuple[Any, ...]]] = {}
        self._contents: dict[int, tuple[Callable[[Any], Any], Any, Any]] = {}

    def look_up(self, named: Mapping[str, Any], name: str) -> Any:
        """Return what a name stands for, or `MISSING`, and note it."""
        return self._names.setdefault(id(named), (named, {}))[1].setdefault(name, named.get(name, MISSING))

    def see_function(self, function: types.FunctionType) -> None:
        """Note what a function is made of."""
        defaults, named = function.__defaults__, function.__kwdefaults__
        self._functions[id(function)] = (function, function.__code__, defaults, named, len(vars(function)))
        for cell in function.__closure__ or ():
            self.see(cell, _of_cell)
        for mapping in (vars(function), named):
            if mapping:
                self.see_mapping(mapping)

    def see_class(self, kind: type) -> None:
        """Note what a class is made of."""
        self.see(kind, _of_class)
        self.see_mapping(vars(kind), key=id(kind))

    def see_object(self, owner: Any) -> None:
        """Note the class and the attributes of an object."""
        self.see(owner, functools.partial(_of_object, tuple(_slots_of(type(owner)).values())))
        self.see_mapping(dict_of(owner))

    def see_mapping(self, owner: Mapping[Any, Any], key: int | None = None) -> None:
        """Note the names and the values of a mapping."""
        self._mappings[id(owner) if key is None else key] = (owner, tuple(owner), tuple(owner.values()))

    def see(self, owner: Any, parts: Callable[[Any], tuple[Any, ...]]) -> None:
        """Note which objects another mutable one is made of."""
        self._parts[id(owner)] = (parts, owner, parts(owner))

    def content(self, owner: Any, content: Callable[[Any], Any]) -> Any:
        """Return what an object contains that is no object, and note it."""
        found = content(owner)
        self._contents[id(owner)] = (content, owner, found)
        return found

    def is_current(self) -> bool:
        """Return whether each name stands for what it did, and no container or array has changed."""
        same, missing = operator.is_, itertools.repeat(MISSING)
        try:
            for named, values in self._names.values():
                if not all(map(same, map(named.get, values, missing), values.values())):
                    return False
            for function, code, defaults, named_defaults, size in self._functions.values():
                if function.__code__ is not code or function.__defaults__ is not defaults:
                    return False
                if function.__kwdefaults__ is not named_defaults or len(function.__dict__) != size:
                    return False
            for mapping, keys, values_before in self._mappings.values():
                if len(mapping) != len(keys) or not all(map(same, mapping, keys)):
                    return False
                if not all(map(same, mapping.values(), values_before)):
                    return False
            for parts_of, owner, before in self._parts.values():
                now = parts_of(owner)
                if len(now) != len(before) or not all(map(same, now, before)):
                    return False
            return all(content(owner) == before for content, owner, before in self._contents.values())
        except Exception:  # noqa: BLE001 - of a dict that another thread changes, or whatever pickling hooks raise
            return False


# What mutable objects are made of -------------------------------------------------------------------------------------


def dict_of(owner: Any) -> dict[str, Any]:
    """Return the dict of an object or a module, without running any code of its class."""
    try:
        found = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}


def attributes_of(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object, those in slots too, without running any code of its class."""
    found = dict(dict_of(owner))
    slots = _slots_of(type(owner))
    return found | {
        name: value
        for name, value in zip(slots, _of_object((*slots.values(),), owner)[1:], strict=True)
        if value is not MISSING
    }


def _slots_of(kind: type) -> dict[str, Any]:
    parents = reversed(kind.__mro__)
    return {n: m for parent in parents for n, m in vars(parent).items() if type(m) is types.MemberDescriptorType}


def _of_class(owner: type) -> tuple[Any, ...]:
    return (owner.__bases__,)


def _of_object(slots: tuple[Any, ...], owner: Any) -> tuple[Any, ...]:
    return (type(owner), *(_of_slot(slot, owner) for slot in slots))


def _of_slot(slot: Any, owner: Any) -> Any:
    try:
        return slot.__get__(owner)
    except AttributeError:  # it is not set
        return MISSING


def _of_cell(cell: types.CellType) -> tuple[Any]:
    return (cell_contents(cell),)


def cell_contents(cell: types.CellType) -> Any:
    """Return what a cell holds; `MISSING` where it is not filled yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


# What others contain --------------------------------------------------------------------------------------------------


def reduced(owner: Any) -> tuple[Any, ...] | str:
    """Return what pickling keeps of an object, with its items as lists."""
    kind: Any = type(owner)
    hook = copyreg.dispatch_table.get(kind)
    found: Any = kind.__reduce_ex__(owner, 4) if hook is None else hook(owner)
    if isinstance(found, str):
        return found
    function, arguments, state, items, pairs = [*found, None, None, None][:5]
    return function, arguments, state, [*(items or ())], [*(pairs or ())]


class Outline:
    """What pickling keeps of an object: plain data spelt out, other objects by which they are."""

    def __init__(self, owner: Any) -> None:
        self.reduced = reduced(owner)  # kept, so that no other object gets their ids
        self._text = _outline(self.reduced, 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outline) and self._text == other._text

    __hash__ = None  # type: ignore[assignment]


def _outline(value: Any, level: int) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return kind, repr(value)
    if kind in (list, tuple, dict, set, frozenset) and level < 20:
        parts = (part for pair in value.items() for part in pair) if kind is dict else value
        return kind, [_outline(part, level + 1) for part in parts]
    if kind is np.ndarray and not value.dtype.hasobject:
        return kind, array_content(value)
    return id(value)


def bytes_content(value: bytes | bytearray) -> dict[str, Any]:
    """Return the type and a digest of bytes."""
    return {type(value).__name__: xxhash.xxh3_128_hexdigest(value), "size": len(value)}


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return a dtype in words, with its byte order where it is not this machine's."""
    is_plain = dtype.isnative and dtype.fields is None
    return dtype.name if is_plain else str(np.lib.format.dtype_to_descr(dtype))


def array_content(array: Any) -> dict[str, Any]:
    """Return the type, the shape, the order in memory and a digest of an array, over its own memory."""
    is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    flat = np.ascontiguousarray(array.T if is_fortran else array).reshape(-1)
    memory: Any = flat.view(np.uint8)
    if array.dtype.kind in "fc" and np.finfo(array.dtype).nmant == 63:
        memory = np.ascontiguousarray(memory.reshape(-1, 16)[:, :_MEANT_BITS])
    content = {
        "array": dtype_name(array.dtype),
        "shape": list(array.shape),
        "xxh3_128": xxhash.xxh3_128_hexdigest(memory),
    }
    return {**content, "order": "F"} if is_fortran else content


def is_tensor(value: Any) -> bool:
    """Return whether a value is a tensor of torch's."""
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(type(value), torch.Tensor)


def tensor_content(tensor: Any) -> dict[str, Any]:
    """Return the type, the shape, the strides and a digest of a tensor, over its own memory.

    torch's own count of changes says nothing of one through ``.data`` or ``.numpy()``.
    """
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    strides = {} if plain.is_contiguous() else {"strides": list(plain.stride())}
    memory = plain.contiguous().reshape(-1).view(sys.modules["torch"].uint8).numpy()
    digest = xxhash.xxh3_128_hexdigest(memory)
    return {
        "tensor": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        **strides,
        "xxh3_128": digest,
    }

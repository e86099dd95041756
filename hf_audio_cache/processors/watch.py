"""Notice changes made to a processor since its identity was computed, without describing it anew for each batch."""

from __future__ import annotations

import abc
import copyreg
import itertools
import operator
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ..support.torch_module import loaded_torch

MISSING = object()
_END = object()
_PLAIN = (types.NoneType, bool, int, float, complex, str, bytes)
_OWN_DICT = (types.GetSetDescriptorType, types.MemberDescriptorType)
_MEANT_BITS = 10  # bytes of x86's long double; the other six are whatever was there

Parts = Callable[[Any], Iterable[Any]]


class Watch:
    """All that a description was made of; tells whether it is still that."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[Mapping[str, Any], dict[str, Any]]] = {}
        self._parts: dict[tuple[int, str], tuple[Parts, Any, tuple[Any, ...]]] = {}
        self._contents: dict[int, tuple[Callable[[Any], Any], Any, Any]] = {}

    def look_up(self, named: Mapping[str, Any], name: str) -> Any:
        """Return what a name stands for, or `MISSING`, and note it."""
        return self._names.setdefault(id(named), (named, {}))[1].setdefault(name, named.get(name, MISSING))

    def see(self, owner: Any, parts: Parts) -> None:
        """Note which objects a mutable one is made of."""
        self._parts[id(owner), parts.__name__] = (parts, owner, (*parts(owner), _END))

    def see_object(self, owner: Any) -> None:
        """Note the class and the attributes of an object."""
        own_dict, slots = _slots_of(type(owner))
        values = tuple(slots.values())

        def of_object(owner: Any) -> Iterable[Any]:
            kept = () if own_dict is None else of_mapping(own_dict.__get__(owner))
            return itertools.chain((type(owner),), (_of_slot(slot, owner) for slot in values), kept)

        self.see(owner, of_object)

    def content(self, owner: Any, content: Callable[[Any], Any]) -> Any:
        """Return what an object contains that is no object, and note it."""
        if id(owner) not in self._contents:
            self._contents[id(owner)] = (content, owner, content(owner))
        return self._contents[id(owner)][2]

    def is_current(self) -> bool:
        """Return whether each name stands for what it did, and no container or array has changed."""
        same, missing, end = operator.is_, itertools.repeat(MISSING), (_END,)
        try:
            for named, values in self._names.values():
                if not all(map(same, map(named.get, values, missing), values.values())):
                    return False
            for parts, owner, before in self._parts.values():
                if not all(map(same, itertools.chain(parts(owner), end), before)):
                    return False
            return all(content(owner) == before for content, owner, before in self._contents.values())
        except Exception:  # noqa: BLE001 - of a dict that another thread changes, or whatever pickling hooks raise
            return False


# What mutable objects are made of -------------------------------------------------------------------------------------


def of_mapping(owner: Mapping[Any, Any]) -> Iterable[Any]:
    """Return the names and the values of a mapping."""
    return itertools.chain(owner, owner.values())


def of_function(owner: types.FunctionType) -> Iterable[Any]:
    """Return what a function is made of."""
    parts = (owner.__code__, owner.__defaults__)
    if not (owner.__kwdefaults__ or owner.__dict__ or owner.__closure__):
        return parts
    cells = map(cell_contents, owner.__closure__ or ())
    return itertools.chain(parts, of_mapping(owner.__kwdefaults__ or {}), of_mapping(owner.__dict__), cells)


def of_class(owner: type) -> Iterable[Any]:
    """Return what a class is made of."""
    return itertools.chain((owner.__bases__,), of_mapping(vars(owner)))


def of_registered(owner: abc.ABCMeta) -> list[type]:
    """Return the classes that were registered with an abstract one."""
    registered, *_ = abc._get_dump(owner)  # type: ignore[attr-defined]  # no public function tells
    return sorted(filter(None, (reference() for reference in registered)), key=id)


def of_array(owner: npt.NDArray[np.object_]) -> tuple[Any, ...]:
    """Return the objects in an array."""
    return tuple(owner.flat)


def of_reference(owner: weakref.ref[Any]) -> tuple[Any]:
    """Return what a weak reference refers to."""
    return (owner(),)


def dict_of(owner: Any) -> dict[str, Any]:
    """Return the dict of an object or a module, without running any code of its class."""
    own_dict, _ = _slots_of(type(owner))
    found = None if own_dict is None else own_dict.__get__(owner)
    return found if type(found) is dict else {}


def attributes_of(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object, those in slots too, without running any code of its class."""
    _, slots = _slots_of(type(owner))
    found = {name: _of_slot(slot, owner) for name, slot in slots.items()}
    return {**dict_of(owner), **{name: value for name, value in found.items() if value is not MISSING}}


def _slots_of(kind: type) -> tuple[Any, dict[str, Any]]:
    """Return the descriptors of the dict and of the slots of a class's objects."""
    own_dict: Any = None
    slots: dict[str, Any] = {}
    for parent in reversed(kind.__mro__):
        members = vars(parent)
        own_dict = members["__dict__"] if isinstance(members.get("__dict__"), _OWN_DICT) else own_dict
        if "__slots__" in members:
            slots |= {name: slot for name, slot in members.items() if type(slot) is types.MemberDescriptorType}
    return own_dict, slots


def _of_slot(slot: Any, owner: Any) -> Any:
    try:
        return slot.__get__(owner)
    except AttributeError:  # it is not set
        return MISSING


def cell_contents(cell: types.CellType) -> Any:
    """Return what a cell holds; `MISSING` where it is not filled yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


# What others contain --------------------------------------------------------------------------------------------------


class Outline:
    """What pickling keeps of an object: plain data spelt out, other objects by which they are."""

    def __init__(self, owner: Any) -> None:
        kind: Any = type(owner)
        hook = copyreg.dispatch_table.get(kind)
        found: Any = kind.__reduce_ex__(owner, 4) if hook is None else hook(owner)
        if not isinstance(found, str):
            function, arguments, state, items, pairs = [*found, None, None, None][:5]
            found = function, arguments, state, [*(items or ())], [*(pairs or ())]
        # The hooks' result, with iterators as lists, or a global name. It is kept alive: `_outline` compares by `id`.
        self.reduced = found
        self._text = _outline(found, 0)

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
    """Return a dtype in words, with its byte order where it is not this machine's, and with its parts."""
    return dtype.name if dtype.isnative and dtype.fields is None and dtype.subdtype is None else str(dtype)


def memory_order(array: npt.NDArray[Any]) -> dict[str, str]:
    """Return the order of an array in memory, where it is not C's."""
    return {"order": "F"} if array.flags.f_contiguous and not array.flags.c_contiguous else {}


def array_content(array: Any) -> dict[str, Any]:
    """Return the type, the shape, the order in memory and a digest of an array, over its own memory."""
    order = memory_order(array)
    flat = np.ascontiguousarray(array.T if order else array).reshape(-1)
    memory: Any = flat.view(np.uint8)
    if array.dtype.kind in "fc" and np.finfo(array.dtype).nmant == 63:
        memory = np.ascontiguousarray(memory.reshape(-1, 16)[:, :_MEANT_BITS])
    digest = xxhash.xxh3_128_hexdigest(memory)
    return {"array": dtype_name(array.dtype), "shape": list(array.shape), "xxh3_128": digest, **order}


def is_tensor(value: Any) -> bool:
    """Return whether a value is a tensor of torch's."""
    torch = loaded_torch()
    return torch is not None and issubclass(type(value), torch.Tensor)


def is_torch_module(kind: type) -> bool:
    """Return whether a class is of torch's modules."""
    torch = loaded_torch()
    return issubclass(kind, getattr(getattr(torch, "nn", None), "Module", ()))


def tensor_content(tensor: Any) -> dict[str, Any]:
    """Return the type, the shape, the strides and a digest of a tensor, over its own memory.

    torch's own count of changes says nothing of one through ``.data`` or ``.numpy()``.
    """
    if tensor.is_quantized:
        raise TypeError("it is quantized")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    strides = {} if plain.is_contiguous() else {"strides": list(plain.stride())}
    digest = xxhash.xxh3_128_hexdigest(plain.contiguous().reshape(-1).view(sys.modules["torch"].uint8).numpy())
    kind, place = str(tensor.dtype).removeprefix("torch."), tensor.device.type
    device = {} if place == "cpu" else {"device": place}  # it computes other bits
    return {"tensor": kind, "shape": list(tensor.shape), **strides, **device, "xxh3_128": digest}

"""The canonical form of a value: JSON values that are the same for what computes the same, and for nothing else."""

from __future__ import annotations

import ctypes
import datetime
import decimal
import enum
import functools
import hashlib
import inspect
import io
import json
import math
import os
import random
import re
import sys
import types
from collections import deque
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import xxhash

from ..errors import UnfingerprintableProcessorError
from .canonical_code import attributes_of, function_digest, is_library, is_routine, module_of, qualified_name

__all__ = ["Describer", "state_of"]

# What loading leaves on an extractor, and no output depends on.
_BOOKKEEPING = frozenset({"feature_extractor_type", "processor_class", "name_or_path", "_name_or_path", "_auto_class"})


# Objects whose state is not in their attributes.
_WITHOUT_FORM = (
    *(np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random, io.IOBase),
    *(ctypes._SimpleCData, ctypes.Structure, ctypes.Union, ctypes.Array),
)

# Objects that their `repr` says all of.
_SHOWN_WHOLE = (complex, range, slice, decimal.Decimal, datetime.timedelta, datetime.date, datetime.time)

# Classes of these derive from builtin containers, and keep nothing beside their items.
_CONTAINER_MODULES = ("builtins", "collections", "types", "_collections_abc")


def state_of(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object that can change what it computes, without what properties keep there."""
    kept = {name for part in type(owner).__mro__ for name, value in vars(part).items() if _keeps_its_value(value)}
    return {name: value for name, value in attributes_of(owner).items() if name not in _BOOKKEEPING | kept}


def _keeps_its_value(value: Any) -> bool:
    return isinstance(value, functools.cached_property)


class Describer:
    """Turns values into a canonical form of JSON values."""

    def __init__(self, root: Any = None) -> None:
        # Objects that are being described: one that is met again is a cycle. The root's own methods are no cycle.
        self._root = root
        self._open: list[int] = [id(root)]

    def value(self, value: Any, path: str) -> Any:
        if value is None or type(value) in (bool, str):
            return value
        if type(value) in (int, float):
            return _number(value)
        if isinstance(value, np.generic):
            # Its type counts: float32 times float64 is float64, and float32 times a Python float is not.
            return {"scalar": value.dtype.str, "value": self.value(value.item(), path)}
        if isinstance(value, np.ma.MaskedArray):
            parts = (value.data, np.ma.getmaskarray(value), value.fill_value)
            return {"masked": [self.value(part, path) for part in parts]}
        if isinstance(value, np.ndarray) and value.dtype != object:
            return _array(value, path)
        if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach") and hasattr(value, "dtype"):
            return _tensor(value, path)
        if id(value) in self._open:
            raise _unfingerprintable(value, path, "it refers to itself")
        self._open.append(id(value))
        try:
            return self._compound(value, path)
        finally:
            self._open.pop()

    def fields(self, named: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Describe values that have names."""
        return {name: self.value(value, f"{path}.{name}") for name, value in named.items()}

    def _compound(self, value: Any, path: str) -> Any:
        if isinstance(value, enum.Enum):
            return {"enum": qualified_name(type(value)), "name": value.name}
        if isinstance(value, (bool, int, float, str)):  # of a class of its own: what it adds counts too
            plain = next(kind for kind in (bool, int, float, str) if isinstance(value, kind))(value)
            return self._with_state(self.value(plain, path), value, path)
        if isinstance(value, Mapping):
            # In its order, which can decide what is computed.
            items = [
                [self.value(name, f"{path} key"), self.value(item, f"{path}.{name}" if type(name) is str else path)]
                for name, item in value.items()
            ]
            return self._with_state({"dict": items}, value, path)
        if isinstance(value, (list, tuple)):  # one thing: JSON gives lists back where there were tuples
            return self._with_state(
                [self.value(item, f"{path}[{index}]") for index, item in enumerate(value)], value, path
            )
        if isinstance(value, Set):
            items = [self.value(item, f"{path}{{}}") for item in value]
            return self._with_state({"set": sorted(items, key=_sorting)}, value, path)
        if type(value) is np.ndarray:
            return {"objects": self.value(value.tolist(), path)}
        return self._object(value, path)

    def _with_state(self, described: Any, value: Any, path: str) -> Any:
        """Add what a derived class of a builtin one has beside its items."""
        state = state_of(value) if type(value).__module__ not in _CONTAINER_MODULES else {}
        if not state:
            return described
        return {"class": qualified_name(type(value)), "items": described, "state": self.fields(state, path)}

    def _object(self, value: Any, path: str) -> Any:
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": hashlib.sha256(value).hexdigest()}
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, functools.partial):
            return {"partial": [self.value(part, path) for part in (value.func, value.args, value.keywords)]}
        if isinstance(value, np.dtype) or qualified_name(type(value)) in ("torch.dtype", "torch.device"):
            return {"dtype": str(value)}
        if isinstance(value, np.ufunc) and set("".join(value.types)) <= set("O->"):
            raise _unfingerprintable(value, path, "it was made of a Python function that it does not show")
        if isinstance(value, (type, np.ufunc)):
            return {"name": f"{getattr(value, '__module__', 'numpy')}.{value.__name__}"}
        if isinstance(value, _SHOWN_WHOLE):
            return self._with_state({"repr": repr(value)}, value, path)
        if isinstance(value, re.Pattern):
            return {"pattern": self.value(value.pattern, path), "flags": value.flags}
        if type(value) is deque:
            return {"deque": self.value(list(value), path), "maxlen": value.maxlen}
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        if is_routine(value) and is_library(module_of(type(value))):
            return self._routine(value, path)
        state = state_of(value)
        if isinstance(value, _WITHOUT_FORM) or not (state or hasattr(value, "__dict__")):
            raise _unfingerprintable(value, path, "it has no attributes that say what it is")
        return {"class": qualified_name(type(value)), "state": self.fields(state, path)}

    def _routine(self, value: Any, path: str) -> Any:
        """Describe a function that an attribute holds; what it reaches is part of the processor's code."""
        owner = getattr(value, "__self__", None)
        function = inspect.unwrap(getattr(value, "__func__", value))
        described = {"function": f"{qualified_name(value)}"}
        if inspect.isfunction(function):
            described["digest"] = function_digest(function)
            cells = function.__closure__ or ()
            for name, cell in zip(function.__code__.co_freevars, cells, strict=False):
                if name != "__class__" and id(function) != id(cell.cell_contents):
                    described[f"closure {name}"] = self.value(cell.cell_contents, f"{path}.{name}")
        elif owner is not None and not isinstance(owner, type) and type(owner).__module__ != "builtins":
            raise _unfingerprintable(value, path, "it is a method of an object that is not Python's")
        if owner is not None and owner is not self._root and not inspect.ismodule(owner):
            described["of"] = self.value(owner, path)
        return described


def _sorting(described: Any) -> str:
    return json.dumps(described, sort_keys=True)


def _tensor(tensor: Any, path: str) -> Any:
    try:
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        content = plain.reshape(-1).view(sys.modules["torch"].uint8).numpy()
    except RuntimeError as exc:
        raise _unfingerprintable(tensor, path, f"it has no plain bytes ({exc})") from exc
    return {
        "array": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "xxh3_128": xxhash.xxh3_128_hexdigest(content),
    }


def _number(number: int | float) -> Any:
    """Return a number so that ints and floats of one value are one; 0.0 and -0.0 are two, as their bits are."""
    if isinstance(number, int):
        return int(number)
    if not math.isfinite(number) or repr(number) == "-0.0":
        return {"float": repr(number)}
    return int(number) if number.is_integer() else float(number)


def _array(array: np.ndarray[Any, np.dtype[Any]], path: str) -> Any:
    if type(array) not in (np.ndarray, np.memmap) or array.dtype.hasobject:
        raise _unfingerprintable(array, path, "it is an array with more to it than its numbers")
    is_plain = array.dtype.isnative and array.dtype.fields is None
    return {
        "array": array.dtype.name if is_plain else str(np.lib.format.dtype_to_descr(array.dtype)),
        "shape": list(array.shape),
        "xxh3_128": xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).tobytes()),
    }


def _unfingerprintable(value: Any, path: str, reason: str) -> UnfingerprintableProcessorError:
    return UnfingerprintableProcessorError(
        f"expected every attribute of the processor to have a canonical form, and {path} is a "
        f"{qualified_name(type(value))}: {reason}. Without an identity nothing can be cached, and nothing was. Remove "
        "the attribute, or replace it by numbers, strings, arrays, or a function of a module.",
        path=path,
    )

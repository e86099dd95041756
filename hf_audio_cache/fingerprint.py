"""The identity of a processor: everything that can change what it makes of a waveform.

An attribute that nobody knows costs a needless miss at worst, never a stale hit: all of them count, arrays and tensors
by their content, and what has no canonical form is refused. Nothing is kept on the processor or between calls, so a
change of the processor gives another identity at once.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import io
import json
import math
import operator
import os
import random
import sys
import weakref
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from .code_digest import CodeDescription, describe_code, function_digest, held_code, is_routine
from .errors import UnfingerprintableProcessorError
from .extractor import NamedFunction, audio_part

__all__ = ["Fingerprinter", "ProcessorIdentity", "processor_sha256"]

# What loading leaves on an extractor, and no output depends on.
_BOOKKEEPING = frozenset({"feature_extractor_type", "processor_class", "name_or_path", "_name_or_path", "_auto_class"})


# Objects whose state is not in their attributes.
_WITHOUT_FORM = (np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random, io.IOBase)

# Classes of these derive from builtin containers, and keep nothing beside their items.
_CONTAINER_MODULES = ("builtins", "collections", "types", "_collections_abc")


@dataclass(frozen=True)
class ProcessorIdentity:
    """What a processor is, and the digest of that.

    Attributes
    ----------
    sha
        sha256 of `description`, as 64 hexadecimal digits.
    description
        The readable form, of JSON values only: class, state, call arguments, code.
    """

    sha: str
    description: dict[str, Any]

    @classmethod
    def of(cls, description: dict[str, Any]) -> ProcessorIdentity:
        """Return the identity of what `description` says."""
        text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return cls(hashlib.sha256(text.encode()).hexdigest(), description)


def processor_sha256(processor: Any, *, processor_kwargs: Mapping[str, Any] | None = None) -> str:
    """Return the identity of a processor as 64 hexadecimal digits.

    A processor, its feature extractor, a copy of it, and the same one loaded from a directory have one identity.

    Parameters
    ----------
    processor
        A feature extractor, or a processor that has one. Tokenizers don't count.
    processor_kwargs
        The arguments that it is called with.

    Raises
    ------
    UnfingerprintableProcessorError
        If part of its state has no canonical form; the message names the attribute.
    ProcessorError
        If it has no audio part.
    """
    return Fingerprinter(processor, processor_kwargs or {}).identity().sha


class Fingerprinter:
    """Gives a processor its identity, as often as it is asked; see `processor_sha256`.

    The state is described anew each time. The code is read once (some tenths of a second for the first processor of a
    process), and again where one of the names in it stands for something else than before.

    Parameters
    ----------
    processor
        A feature extractor, or a processor that has one. It may change between two calls.
    processor_kwargs
        The arguments that it is called with.
    carried_code
        What `code_to_carry` gave in another process. It is gone by where the class came by pickle, as one that a
        notebook defined does: there is no source of it here.
    """

    def __init__(
        self, processor: Any, processor_kwargs: Mapping[str, Any], carried_code: Mapping[str, Any] | None = None
    ) -> None:
        self._processor = processor
        self._processor_kwargs = processor_kwargs
        self._carried_code = carried_code

    def identity(self) -> ProcessorIdentity:
        """Return the identity of the processor as it is now."""
        extractor = audio_part(self._processor)
        call = _Describer().fields(self._processor_kwargs, "processor_kwargs")
        if isinstance(extractor, NamedFunction):
            return ProcessorIdentity.of({"identity": extractor.identity, "call": call})
        return ProcessorIdentity.of(
            {
                "class": _qualified_name(type(extractor)),
                "state": _Describer(extractor).fields(_state_of(extractor), "processor"),
                "call": call,
                "code": self._describe_code(extractor),
            }
        )

    def code_to_carry(self) -> dict[str, Any] | None:
        """Return the code's description for a process that may not have its source; None where there is no need."""
        extractor = audio_part(self._processor)
        return None if isinstance(extractor, NamedFunction) else self._describe_code(extractor)

    def _describe_code(self, extractor: Any) -> dict[str, Any]:
        known = _known_code(extractor)
        carried = self._carried_code
        # What a class of __main__ is made of travels with its pickle; a library's code is what this process has.
        if carried is not None and _qualified_name(type(extractor)).startswith("__main__.") and known.is_first:
            return known.code.to_json(carried)
        return known.code.to_json()


@dataclass
class _KnownCode:
    """The code of an extractor as it was read, and what it was read of."""

    code: CodeDescription
    held: list[Any]
    is_first: bool


# Reading code takes some tenths of a second for the first processor of a process, and a hundredth for another; this
# keeps it, for each class, as long as every name in it stands for what it did.
_KNOWN_CODE: weakref.WeakKeyDictionary[type, _KnownCode] = weakref.WeakKeyDictionary()


def _known_code(extractor: Any) -> _KnownCode:
    held = held_code(extractor)
    known = _KNOWN_CODE.get(type(extractor))
    if known is not None and _are_same(known.held, held) and known.code.is_current():
        return known
    code = describe_code(extractor, _describe_constant)
    _KNOWN_CODE[type(extractor)] = _KnownCode(code, held, is_first=known is None)
    return _KNOWN_CODE[type(extractor)]


def _are_same(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and all(map(operator.is_, before, now))


def _describe_constant(value: Any, name: str) -> Any:
    return _Describer().value(value, name)


def _qualified_name(cls: Any) -> str:
    module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
    return f"{module}.{cls.__qualname__}"


def _state_of(owner: Any) -> dict[str, Any]:
    """Return the attributes of an object, in slots too, without what properties keep there."""
    state = dict(getattr(owner, "__dict__", {}))
    for part in type(owner).__mro__:
        slots = vars(part).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if hasattr(owner, name) and name not in ("__dict__", "__weakref__"):
                state[name] = getattr(owner, name)
        state = {
            name: value
            for name, value in state.items()
            if name not in _BOOKKEEPING and not isinstance(vars(part).get(name), functools.cached_property)
        }
    return state


class _Describer:
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
            return {"enum": _qualified_name(type(value)), "name": value.name}
        if isinstance(value, (bool, int, float, str)):  # of a class of its own: what it adds counts too
            plain = next(kind for kind in (bool, int, float, str) if isinstance(value, kind))(value)
            return self._with_state(self.value(plain, path), value, path)
        if isinstance(value, Mapping):
            if all(type(name) is str for name in value):
                return self._with_state({"dict": self.fields(value, path)}, value, path)
            items = [[self.value(name, f"{path} key"), self.value(item, f"{path}[…]")] for name, item in value.items()]
            return self._with_state({"items": sorted(items, key=_sorting)}, value, path)
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
        state = _state_of(value) if type(value).__module__ not in _CONTAINER_MODULES else {}
        if not state:
            return described
        return {"class": _qualified_name(type(value)), "items": described, "state": self.fields(state, path)}

    def _object(self, value: Any, path: str) -> Any:
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": hashlib.sha256(value).hexdigest()}
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, functools.partial):
            return {"partial": [self.value(part, path) for part in (value.func, value.args, value.keywords)]}
        if isinstance(value, np.dtype) or _qualified_name(type(value)) in ("torch.dtype", "torch.device"):
            return {"dtype": str(value)}
        if isinstance(value, (type, np.ufunc)):
            return {"name": f"{getattr(value, '__module__', 'numpy')}.{value.__name__}"}
        if is_routine(value):
            return self._routine(value, path)
        state = _state_of(value)
        if isinstance(value, _WITHOUT_FORM) or not (state or hasattr(value, "__dict__")):
            raise _unfingerprintable(value, path, "it has no attributes that say what it is")
        return {"class": _qualified_name(type(value)), "state": self.fields(state, path)}

    def _routine(self, value: Any, path: str) -> Any:
        """Describe a function that an attribute holds; what it reaches is part of the processor's code."""
        owner = getattr(value, "__self__", None)
        function = inspect.unwrap(getattr(value, "__func__", value))
        described = {"function": f"{_qualified_name(value)}"}
        if inspect.isfunction(function):
            described["digest"] = function_digest(function)
            cells = function.__closure__ or ()
            for name, cell in zip(function.__code__.co_freevars, cells, strict=False):
                if name != "__class__" and id(function) != id(cell.cell_contents):
                    described[f"closure {name}"] = self.value(cell.cell_contents, f"{path}.{name}")
        elif owner is not None and not inspect.ismodule(owner) and not isinstance(owner, type):
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
        f"{_qualified_name(type(value))}: {reason}. Without an identity nothing can be cached, and nothing was. Remove "
        "the attribute, or replace it by numbers, strings, arrays, or a function of a module.",
        path=path,
    )

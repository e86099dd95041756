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
import json
import math
import os
import sys
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from .code_digest import CodeDescription, describe_code
from .errors import UnfingerprintableProcessorError
from .extractor import NamedFunction, audio_part

__all__ = ["Fingerprinter", "ProcessorIdentity", "processor_sha256"]

# What loading leaves on an extractor, and no output depends on.
_BOOKKEEPING = frozenset({"feature_extractor_type", "processor_class", "name_or_path", "_name_or_path", "_auto_class"})


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
        self._code: CodeDescription | None = None
        self._code_is_of: list[Any] = []

    def identity(self) -> ProcessorIdentity:
        """Return the identity of the processor as it is now."""
        extractor = audio_part(self._processor)
        if isinstance(extractor, NamedFunction):
            return ProcessorIdentity.of(
                {
                    "identity": extractor.identity,
                    "call": _Describer().value(self._processor_kwargs, "processor_kwargs"),
                }
            )
        return ProcessorIdentity.of(
            {
                "class": _qualified_name(type(extractor)),
                "state": _Describer().value(_state_of(extractor), "processor"),
                "call": _Describer().value(self._processor_kwargs, "processor_kwargs"),
                "code": self._describe_code(extractor),
            }
        )

    def code_to_carry(self) -> dict[str, Any] | None:
        """Return the code's description for a process that may not have its source; None where there is no need."""
        extractor = audio_part(self._processor)
        if isinstance(extractor, NamedFunction):
            return None
        return {"class": _qualified_name(type(extractor)), "code": self._describe_code(extractor)}

    def _describe_code(self, extractor: Any) -> dict[str, Any]:
        # What a call reaches depends on the class, and on the classes of the parts that the extractor holds.
        is_of = [type(extractor), *(type(part) for part in vars(extractor).values())]
        if self._code is None or self._code_is_of != is_of or not self._code.is_current():
            if self._code is not None:
                self._carried_code = None  # it speaks of what has changed since
            self._code = describe_code(extractor, _describe_constant)
            self._code_is_of = is_of
        carried = self._carried_code
        if carried is not None and not self._code.has_source and carried["class"] == _qualified_name(type(extractor)):
            return dict(carried["code"])
        return self._code.to_json()


def _describe_constant(value: Any, name: str) -> Any:
    return _Describer().value(value, name)


def _qualified_name(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _state_of(owner: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(owner).items() if name not in _BOOKKEEPING}


class _Describer:
    """Turns values into a canonical form of JSON values."""

    def __init__(self) -> None:
        self._open: list[int] = []  # objects that are being described: one that is met again is a cycle

    def value(self, value: Any, path: str) -> Any:
        if value is None or (isinstance(value, (bool, str)) and not isinstance(value, enum.Enum)):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, enum.Enum):
            return _number(value)
        if isinstance(value, np.ndarray) and value.dtype != object:
            return _array(value)
        if type(value).__module__.startswith("torch") and hasattr(value, "detach"):
            return self._tensor(value)
        if id(value) in self._open:
            raise _unfingerprintable(value, path, "it refers to itself")
        self._open.append(id(value))
        try:
            return self._container(value, path)
        finally:
            self._open.pop()

    def _container(self, value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            if not all(isinstance(name, (str, int, float)) or name is None for name in value):
                raise _unfingerprintable(value, path, "it has keys that are neither names nor numbers")
            # Sorted when the whole is written; a number as a key is told from its digits as a name.
            named = {name if isinstance(name, str) else f"#{name!r}": item for name, item in value.items()}
            return {name: self.value(item, f"{path}.{name}") for name, item in named.items()}
        if isinstance(value, (list, tuple)):  # one thing: JSON gives lists back where there were tuples
            return [self.value(item, f"{path}[{index}]") for index, item in enumerate(value)]
        if isinstance(value, Set):
            items = [self.value(item, f"{path}{{}}") for item in value]
            return {"set": sorted(items, key=lambda item: json.dumps(item, sort_keys=True))}
        if isinstance(value, np.ndarray):
            return self.value(value.tolist(), path)
        return self._object(value, path)

    def _object(self, value: Any, path: str) -> Any:
        if isinstance(value, np.generic):
            return self.value(value.item(), path)
        if isinstance(value, enum.Enum):
            return {"enum": _qualified_name(type(value)), "name": value.name}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": hashlib.sha256(value).hexdigest()}
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, functools.partial):
            return {"partial": self.value([value.func, value.args, value.keywords], path)}
        if isinstance(value, np.dtype) or _qualified_name(type(value)) in ("torch.dtype", "torch.device"):
            return {"dtype": str(value)}
        if isinstance(value, (type, np.ufunc)):
            return {"name": f"{getattr(value, '__module__', 'numpy')}.{value.__name__}"}
        if inspect.isroutine(value):
            return self._routine(value, path)
        if isinstance(value, (np.random.Generator, np.random.RandomState)) or not hasattr(value, "__dict__"):
            raise _unfingerprintable(value, path, "it has no attributes that say what it is")
        return {"class": _qualified_name(type(value)), "state": self.value(_state_of(value), path)}

    def _routine(self, value: Any, path: str) -> Any:
        """Describe a function that an attribute holds: by its name and its code, or by its name in a library."""
        owner = getattr(value, "__self__", None)
        if inspect.isfunction(inspect.unwrap(value)) or inspect.ismethod(value):
            code = describe_code(value, _describe_constant).to_json()
            held = {} if owner is None or inspect.isclass(owner) or id(owner) in self._open else self.value(owner, path)
            return {"function": value.__qualname__, "code": code, "of": held}
        if owner is None or inspect.ismodule(owner):
            return {"name": f"{value.__module__}.{value.__qualname__}"}
        raise _unfingerprintable(value, path, "it is a method of an object that is not Python's")

    def _tensor(self, tensor: Any) -> Any:
        content = tensor.detach().cpu().contiguous().reshape(-1).view(sys.modules["torch"].uint8).numpy()
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


def _array(array: np.ndarray[Any, np.dtype[Any]]) -> Any:
    content = np.ascontiguousarray(array).tobytes()
    return {"array": array.dtype.name, "shape": list(array.shape), "xxh3_128": xxhash.xxh3_128_hexdigest(content)}


def _unfingerprintable(value: Any, path: str, reason: str) -> UnfingerprintableProcessorError:
    return UnfingerprintableProcessorError(
        f"expected every attribute of the processor to have a canonical form, and {path} is a "
        f"{_qualified_name(type(value))}: {reason}. Without an identity nothing can be cached, and nothing was. Remove "
        "the attribute, or replace it by numbers, strings, arrays, or a function of a module.",
        path=path,
    )

"""The identity of a processor: everything that can change what it makes of a waveform.

An attribute that nobody knows costs a needless miss at worst, never a stale hit: all of them count, arrays and tensors
by their content, and what has no canonical form is refused. Nothing is kept on the processor or between calls, so a
change of the processor gives another identity at once.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import math
import os
import sys
from collections.abc import Hashable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import UnfingerprintableProcessorError
from .extractor import audio_part

__all__ = ["ProcessorIdentity", "processor_identity", "processor_sha256"]

# What loading leaves on an extractor, and no output depends on.
_BOOKKEEPING = frozenset({"feature_extractor_type", "processor_class", "name_or_path", "_name_or_path", "_auto_class"})

# Optional libraries that compute other bits where they are installed.
_BACKENDS = ("torch", "torchaudio")


@dataclass(frozen=True)
class ProcessorIdentity:
    """What a processor is, and the digest of that.

    Attributes
    ----------
    sha
        sha256 of `description`, as 64 hexadecimal digits.
    description
        The readable form, of JSON values only: class, state, call arguments, code, backend.
    """

    sha: str
    description: dict[str, Any]


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
    return processor_identity(processor, processor_kwargs or {}).sha


def processor_identity(processor: Any, processor_kwargs: Mapping[str, Any]) -> ProcessorIdentity:
    """Return the identity of a processor with its description; see `processor_sha256`."""
    extractor = audio_part(processor)
    described = _Describer()
    description = {
        "class": _qualified_name(type(extractor)),
        "state": described.value(_state_of(extractor), "processor"),
        "call": described.value(processor_kwargs, "processor_kwargs"),
        "code": _code_of(type(extractor)),
        "backend": {name: importlib.util.find_spec(name) is not None for name in _BACKENDS},
    }
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return ProcessorIdentity(hashlib.sha256(text.encode()).hexdigest(), description)


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
        if isinstance(value, np.dtype) or (
            type(value).__module__ == "torch" and hasattr(sys.modules["torch"], str(value)[6:])
        ):
            return {"dtype": str(value)}
        if inspect.isroutine(value) or isinstance(value, type):
            return self._code(value, path)
        if isinstance(value, np.random.Generator | np.random.RandomState) or not hasattr(value, "__dict__"):
            raise _unfingerprintable(value, path, "it has no attributes that say what it is")
        return {
            "class": _qualified_name(type(value)),
            "state": self.value(_state_of(value), path),
            "code": _code_of(type(value)),
        }

    def _code(self, value: Any, path: str) -> Any:
        name = _qualified_name(value) if hasattr(value, "__qualname__") and value.__module__ else ""
        owner = getattr(value, "__self__", None)
        if name and "<" not in name and (owner is None or inspect.ismodule(owner)):
            return {"code": name}
        if inspect.isfunction(value) and value.__closure__ is None:
            try:
                source = inspect.getsource(value)
            except (OSError, TypeError):
                source = ""
            if source:
                return {"code": name, "source": hashlib.sha256(source.encode()).hexdigest()}
        raise _unfingerprintable(value, path, "it is code that cannot be named")

    def _tensor(self, tensor: Any) -> Any:
        content = tensor.detach().cpu().contiguous().reshape(-1).view(sys.modules["torch"].uint8).numpy()
        digest = hashlib.sha256(content).hexdigest()
        return {"array": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "sha256": digest}


def _number(number: int | float) -> Any:
    """Return a number so that ints and floats of one value are one; 0.0 and -0.0 are two, as their bits are."""
    if isinstance(number, int):
        return int(number)
    if not math.isfinite(number) or repr(number) == "-0.0":
        return {"float": repr(number)}
    return int(number) if number.is_integer() else float(number)


def _array(array: np.ndarray[Any, np.dtype[Any]]) -> Any:
    content = np.ascontiguousarray(array).tobytes()
    return {"array": array.dtype.name, "shape": list(array.shape), "sha256": hashlib.sha256(content).hexdigest()}


def _unfingerprintable(value: Any, path: str, reason: str) -> UnfingerprintableProcessorError:
    return UnfingerprintableProcessorError(
        f"expected every attribute of the processor to have a canonical form, and {path} is a "
        f"{_qualified_name(type(value))}: {reason}. Without an identity nothing can be cached, and nothing was. Remove "
        "the attribute, or replace it by numbers, strings, arrays, or a function of a module.",
        path=path,
    )


@functools.lru_cache(maxsize=256)
def _code_of(cls: Hashable) -> dict[str, str]:
    """Return what stands for the code of a class: its distribution's version, or its source where it has none."""
    code = {}
    for part in getattr(cls, "__mro__", ()):
        package = part.__module__.partition(".")[0]
        if package in sys.stdlib_module_names and package != "__main__":
            continue
        try:
            code[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            try:
                code[_qualified_name(part)] = hashlib.sha256(inspect.getsource(part).encode()).hexdigest()
            except (OSError, TypeError):
                code[_qualified_name(part)] = "no source"
    return code

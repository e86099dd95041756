"""The identity of a processor: everything that can change what it makes of a waveform.

An attribute that nobody knows costs a needless miss at worst, never a stale hit: all of them count, arrays and tensors
by their content, and what has no canonical form is refused. Nothing is kept on the processor, and of its code only what
is checked each time, so a change of the processor gives another identity at once.
"""

from __future__ import annotations

import hashlib
import json
import operator
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .canonical_code import qualified_name
from .canonical_value import Describer, state_of
from .extractor import NamedFunction, audio_part
from .reachable_code import CodeDescription, describe_code, held_code

__all__ = ["Fingerprinter", "ProcessorIdentity", "processor_sha256"]


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
        return cls(hashlib.sha256(_canonical(description)).hexdigest(), description)


def _canonical(description: dict[str, Any]) -> bytes:
    return json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def processor_sha256(
    processor: Any, *, processor_kwargs: Mapping[str, Any] | None = None, dtype: str | None = None
) -> str:
    """Return the identity of a processor as 64 hexadecimal digits.

    A processor, its feature extractor, a copy of it, and the same one loaded from a directory have one identity.

    Parameters
    ----------
    processor
        A feature extractor, or a processor that has one. Tokenizers don't count.
    processor_kwargs
        The arguments that it is called with.
    dtype
        What its outputs are rounded to, as in `CachedFeatures`.

    Raises
    ------
    UnfingerprintableProcessorError
        If part of its state has no canonical form; the message names the attribute.
    ProcessorError
        If it has no audio part.
    """
    return Fingerprinter(processor, processor_kwargs or {}, dtype=dtype).identity().sha


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
    dtype
        What its outputs are rounded to.
    """

    def __init__(
        self,
        processor: Any,
        processor_kwargs: Mapping[str, Any],
        carried_code: Mapping[str, Any] | None = None,
        *,
        dtype: str | None = None,
    ) -> None:
        self._processor = processor
        self._processor_kwargs = processor_kwargs
        self._dtype = {} if dtype is None else {"dtype": dtype}  # None is as if there were no such setting
        self._carried_code = carried_code
        self._last: tuple[CodeDescription, bytes, ProcessorIdentity] | None = None

    def identity(self) -> ProcessorIdentity:
        """Return the identity of the processor as it is now."""
        extractor = audio_part(self._processor)
        call = Describer().fields(self._processor_kwargs, "processor_kwargs")
        if isinstance(extractor, NamedFunction):
            return ProcessorIdentity.of({"identity": extractor.identity, "call": call, **self._dtype})
        described = {
            "class": qualified_name(type(extractor)),
            "state": Describer(extractor).fields(state_of(extractor), "processor"),
            "call": call,
            **self._dtype,
        }
        known, rest, last = _known_code(extractor), _canonical(described), self._last
        if last is not None and last[0] is known.code and last[1] == rest:
            # The code is much the longest part, and hardly ever another than a moment ago.
            return last[2]
        identity = ProcessorIdentity.of({**described, "code": self._describe_code(known, extractor)})
        self._last = known.code, rest, identity
        return identity

    def code_to_carry(self) -> dict[str, Any] | None:
        """Return the code's description for a process that may not have its source; None where there is no need."""
        extractor = audio_part(self._processor)
        return None if isinstance(extractor, NamedFunction) else self._describe_code(_known_code(extractor), extractor)

    def _describe_code(self, known: _KnownCode, extractor: Any) -> dict[str, Any]:
        carried = self._carried_code
        # What a class of __main__ is made of travels with its pickle; a library's code is what this process has.
        if carried is not None and qualified_name(type(extractor)).startswith("__main__.") and known.is_first:
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
    return Describer().value(value, name)

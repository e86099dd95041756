"""Codecs: how one output lies in an entry. A codec is one module of this folder and its line in `COMPRESSIONS`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import CorruptEntryError, UnstorableOutputError
from .blosc import MAX_TAIL_BYTES, BloscCodec, Pcm16Codec
from .codec import DTYPE, MAX_DECODED_BYTES, OUTPUT_NAME, Codec, Encoded, Form, Member
from .json_values import JsonCodec, load_json
from .npy import NpyCodec, parse_header

__all__ = [
    "COMPRESSIONS",
    "MAX_TAIL_BYTES",
    "OUTPUT_NAME",
    "Form",
    "Member",
    "decode",
    "encode",
    "least_stored_bytes",
    "load_json",
    "member_from_json",
    "parse_header",
]

_JSON, _NPY = JsonCodec(), NpyCodec()

# The codecs of each compression, by its name; the first one that can hold an array does.
COMPRESSIONS: dict[str | None, tuple[Codec, ...]] = {None: (), "blosc": (Pcm16Codec(), BloscCodec())}
_BY_NAME = {codec.name: codec for codecs in COMPRESSIONS.values() for codec in (_JSON, _NPY, *codecs)}


def encode(name: str, value: Any, compression: str | None) -> tuple[Codec, Encoded]:
    """Return an output as the first codec writes it that can, and that codec; UnstorableOutputError if none can."""
    if (encoded := _JSON.encode(name, value)) is not None:
        return _JSON, encoded
    if not DTYPE.fullmatch(value.dtype.str) or isinstance(value, np.ma.MaskedArray):
        raise UnstorableOutputError(
            f"the output {name!r} must be an array of booleans or numbers, and is a {type(value).__name__} of dtype "
            f"{value.dtype}; nothing was stored.",
            name=name,
        )
    array = np.asarray(value, order="C")  # unlike ascontiguousarray, it leaves a 0-d array 0-d
    for codec in COMPRESSIONS[compression]:
        if (encoded := codec.encode(name, array)) is not None:
            return codec, encoded
    return _NPY, _NPY.encode(name, array)


def decode(block: memoryview, member: Member, place: npt.NDArray[Any] | None = None) -> Any:
    """Return the output that `member` describes, decoded from the file's bytes into `place` or an array of its own."""
    start = member.offset + 10 + int.from_bytes(block[member.offset + 8 : member.offset + 10], "little")
    return _BY_NAME[member.codec].decode(member, bytes(block[member.offset : start]), block[start:], place)


def member_from_json(line: Mapping[str, Any]) -> Member:
    """Return what a line of the manifest says; nothing of it is believed.

    Raises CorruptEntryError if it cannot be true. (Other exceptions mean the same.)
    """
    shape, tail = line["shape"], line.get("tail")
    if not (isinstance(shape, list) and (tail is None or (isinstance(tail, list) and len(tail) == 2))):
        raise CorruptEntryError(f"the manifest gives {line['name']!r} a broken shape or tail")
    member = Member(**{**line, "shape": tuple(shape), "tail": tail and tuple(tail)})
    integers = (*member.shape, member.offset, *(member.tail[:1] if member.tail else ()))
    if set(map(type, integers)) != {int} or min(integers) < 0:
        raise CorruptEntryError(f"the manifest gives {member.name!r} a negative or broken number")
    codec = _BY_NAME.get(member.codec)
    if not (OUTPUT_NAME.fullmatch(member.name) and codec is not None and codec.dtypes.fullmatch(member.dtype)):
        raise CorruptEntryError(
            f"the manifest has an output {member.name!r} of codec {member.codec!r} and dtype {member.dtype!r}"
        )
    if member.n_bytes > MAX_DECODED_BYTES or (member.tail and not codec.has_tail):
        raise CorruptEntryError(f"the manifest gives {member.name!r} the shape {member.shape} or a tail it cannot have")
    return member


def least_stored_bytes(members: Iterable[Member]) -> int:
    """Return the fewest bytes that can hold these outputs: an entry of fewer lies, before memory is asked for.

    Raises CorruptEntryError if no number of bytes can.
    """
    by_codec: dict[str, int] = {}
    with_tails = 0
    for member in members:
        by_codec[member.codec] = by_codec.get(member.codec, 0) + member.n_bytes
        with_tails += member.n_bytes if member.tail else 0
    used = {_BY_NAME[name]: n_bytes for name, n_bytes in by_codec.items()}
    for codec, n_bytes in used.items():
        if n_bytes > codec.max_bytes:
            raise CorruptEntryError(f"its manifest has more than {codec.max_bytes} bytes of the codec {codec.name}")
    if with_tails > MAX_TAIL_BYTES:
        raise CorruptEntryError(f"its tails would unpack to more than {MAX_TAIL_BYTES} bytes")
    as_they_are = sum(n_bytes for codec, n_bytes in used.items() if codec.max_ratio == 1)
    best = max((codec.max_ratio for codec in used), default=1)
    return max(as_they_are, -(-(sum(used.values()) - MAX_TAIL_BYTES) // best))

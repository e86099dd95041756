"""The codec of arrays as ``numpy.savez`` would hold them, and the header of a ``.npy``."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import CorruptEntryError
from .codec import DTYPE, Codec, Encoded, Member

_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>[^']{3,5})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:[0-9]{1,19}(?:, ?|(?=\))))*)\), \} *\n"
)


class NpyCodec(Codec):
    """The array as it is."""

    name, suffix = "raw", ""

    def encode(self, name: str, value: Any) -> Encoded:
        return Encoded(value, value.dtype, value.shape)

    def decode(self, member: Member, header: bytes, payload: memoryview, place: npt.NDArray[Any] | None = None) -> Any:
        check_header(member, header)
        stored = np.frombuffer(payload[: member.n_bytes], member.dtype).reshape(member.shape)
        if place is None:
            return stored.copy()
        place[...] = stored
        return place


def check_header(member: Member, header: bytes) -> None:
    """Raise CorruptEntryError if the header of a ``.npy`` is not that of the manifest's array."""
    dtype = np.dtype(member.dtype)
    if parse_header(header) != (dtype, member.shape, False):
        raise CorruptEntryError(f"the .npy of {member.name!r} is not the {dtype} {member.shape} of the manifest")


@functools.lru_cache(maxsize=256)
def parse_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Return dtype, shape and whether the order is Fortran's, of a header as NumPy writes it.

    NumPy reads it as Python, whose parser nests as deep as the header says: in a thread's small stack that is a crash.
    """
    start = {1: 10, 2: 12}[header[6]]
    found = _HEADER.fullmatch(header, start)
    if not header.startswith(b"\x93NUMPY") or found is None or not DTYPE.fullmatch(found["dtype"].decode("ascii")):
        raise CorruptEntryError(f"a .npy member begins with {header[: start + 60]!r}")
    shape = tuple(int(number) for number in found["shape"].decode().replace(" ", "").split(",") if number)
    return np.dtype(found["dtype"].decode()), shape, found["fortran"] == b"True"

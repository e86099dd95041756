"""What every codec promises, and how an entry describes the output that a codec wrote."""

from __future__ import annotations

import functools
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Form = tuple[str, tuple[int, ...]]  # dtype and shape of an array

MAX_DECODED_BYTES = 1 << 36  # what no honest entry reaches: a shape beyond it is a lie
OUTPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
DTYPE = re.compile(r"[<>|][biufc][0-9]{1,2}")


@dataclass(frozen=True)
class Member:
    """One line of the manifest: how the output `name` lies in the file."""

    name: str
    codec: str
    dtype: str  # of the decoded array
    shape: tuple[int, ...]  # of the decoded array
    offset: int  # where the ``.npy`` starts in the file
    # Length of a constant tail that was left out, and its value as the hex of its bytes.
    tail: tuple[int, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the line as JSON values."""
        line = {"name": self.name, "codec": self.codec, "dtype": self.dtype, "shape": self.shape, "offset": self.offset}
        return line if self.tail is None else {**line, "tail": self.tail}

    @property
    def form(self) -> Form:
        """Dtype and shape of the decoded array."""
        return self.dtype, self.shape

    @property
    def is_array(self) -> bool:
        """Whether the output is an array, and no JSON value."""
        return self.codec != "json"

    @functools.cached_property
    def n_bytes(self) -> int:
        """Bytes of the decoded array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @functools.cached_property
    def tail_value(self) -> npt.NDArray[Any]:
        """The value of the tail, an array without axes; ValueError if it is not one value."""
        return np.frombuffer(bytes.fromhex(self.tail[1] if self.tail else ""), self.dtype).reshape(())


@dataclass(frozen=True)
class Encoded:
    """An output as a codec wrote it: the array that the member holds, dtype and shape to decode it to, and its tail."""

    payload: npt.NDArray[Any]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    tail: tuple[int, str] | None = None


class Codec(ABC):
    """A way to hold an output in a member of the zip, which is always a ``.npy``."""

    name: ClassVar[str]  # what the manifest calls it
    suffix: ClassVar[str]  # what stands before ``.npy`` in the member's name
    dtypes: ClassVar[re.Pattern[str]] = DTYPE  # that it decodes to
    # The most bytes that it decodes one stored byte to: a manifest that claims more is a lie.
    max_ratio: ClassVar[int] = 1
    max_bytes: ClassVar[int] = MAX_DECODED_BYTES  # that all its outputs in one entry decode to
    has_tail: ClassVar[bool] = False  # whether it may leave out a constant tail

    @abstractmethod
    def encode(self, name: str, value: Any) -> Encoded | None:
        """Return the output `name` as this codec writes it; None if it cannot; UnstorableOutputError if none can."""

    @abstractmethod
    def decode(self, member: Member, header: bytes, payload: memoryview, place: npt.NDArray[Any] | None = None) -> Any:
        """Return the output, decoded into `place` or into an array of its own.

        `header` is that of its ``.npy``; `payload` are the bytes of the file from behind it on. `place` is a
        C-contiguous array of its dtype and shape. Raises CorruptEntryError if the bytes are not what the manifest says.
        (Other exceptions mean the same.)
        """

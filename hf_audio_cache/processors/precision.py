"""Features rounded to float16 or bfloat16, for those who ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import ProcessorError

FloatType = Literal["float16", "bfloat16"]


def rounded(outputs: Mapping[str, Any], dtype: FloatType | None) -> dict[str, Any]:
    """Return outputs with their arrays of floating point rounded: to nearest, ties to even. Others stay as they are.

    NumPy has no type bfloat16, so these stay float32. The lower half of their bits is zero, which compression takes
    away. Raises ProcessorError if a number is too large for the type.
    """
    return {name: value if dtype is None else _rounded(name, value, dtype) for name, value in outputs.items()}


def _rounded(name: str, value: Any, dtype: FloatType) -> Any:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return value
    with np.errstate(over="ignore"):  # it is looked for below
        single = _as_single(value)
        result = single.astype(np.float16) if dtype == "float16" else _as_bfloat16(single)
    if np.isinf(result).any() and not np.array_equal(np.isinf(result), np.isinf(value)):
        remedy = "Leave dtype out." if dtype == "bfloat16" else 'Use dtype="bfloat16", or leave it out.'
        raise ProcessorError(
            f"the output {name!r} has values of up to {np.nanmax(np.abs(value)):g}, which dtype={dtype!r} cannot hold; "
            f"nothing was stored. {remedy}"
        )
    return result


def _as_single(value: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return float32 whose rounding gives what the wider numbers would: cut off, the last bit set if anything was."""
    # To round to nearest twice would move numbers that come to lie in the middle ("round to odd" does not).
    single = value.astype(np.float32)
    if value.dtype.itemsize <= 4:
        return single
    is_exact = (single == value) | np.isnan(value)
    single = np.where(np.abs(single) > np.abs(value), np.nextafter(single, np.float32(0)), single)
    bits = np.asarray(single).view(np.uint32)
    return np.asarray(np.where(is_exact, bits, bits | 1), np.uint32).view(np.float32)


def _as_bfloat16(value: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Round to the upper half of the bits; a NaN keeps its sign and no more."""
    bits = value.view(np.uint32)
    upper = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) & np.uint32(0xFFFF0000)
    nan = (bits & np.uint32(0x80000000)) | np.uint32(0x7FC00000)
    return np.where(np.isnan(value), nan, upper).astype(np.uint32, copy=False).view(np.float32)

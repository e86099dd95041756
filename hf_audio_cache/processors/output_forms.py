"""Turn outputs (tensors, lists, NumPy) into what an entry holds: NumPy arrays of numbers, and JSON values.

Each output is brought into the form that has the same values exactly. One that has none stays what it is.
"""

from __future__ import annotations

import array
import contextlib
import copy
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_NUMBERS = "biufc"
_MAX_JSON_BYTES = 1 << 20  # an entry holds no more (`cache.codecs.json_values`)


def without_batch_axis(value: Any) -> Any:
    """Return an output for a batch of one clip without the axis of the batch, as a copy of its own."""
    is_batch = not isinstance(value, (list, tuple, bytes, bytearray, memoryview, array.array))
    if isinstance(value, (list, tuple)):
        is_batch = len(value) != 1
        value = value if is_batch else value[0]
    found = _as_array(value)
    if found is None:
        return _as_json(value)
    if is_batch and found.ndim and len(found) == 1:
        found = found[0]
    if not isinstance(found, (np.ndarray, np.generic)):  # what an array of objects held
        return _as_json(found)
    return copied(found) if found.dtype.hasobject or _is_masked(found) else np.array(found, order="C")


def copied(value: Any) -> Any:
    """Return a copy of an output that can be changed independently; the same object if it cannot be copied."""
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - whatever an object of the user's raises
        return value


def has_form(value: Any) -> bool:
    """Return whether an output is an array of numbers or a JSON value, as an entry can hold it."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in _NUMBERS and not _is_masked(value)
    try:
        return len(json.dumps(value, allow_nan=False)) <= _MAX_JSON_BYTES and has_text_keys(value)
    except (TypeError, ValueError, RecursionError):
        return False


def has_text_keys(value: Any) -> bool:
    """Return whether all keys of a JSON value are strings, as JSON makes of others without a word."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and has_text_keys(part) for key, part in value.items())
    return not isinstance(value, (list, tuple)) or all(map(has_text_keys, value))


def is_same_output(one: Any, other: Any) -> bool:
    """Return whether two outputs have the same dtype, shape and bits, or are the same JSON value.

    Values in no form that an entry holds are not compared: nothing is kept of them.
    """
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if one.dtype.kind not in _NUMBERS or other.dtype.kind not in _NUMBERS:
            return True
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    try:
        return type(one) is type(other) and json.dumps(one) == json.dumps(other)
    except (TypeError, ValueError, RecursionError):
        return True


def _as_array(value: Any) -> npt.NDArray[Any] | None:
    """Return an output as an array, if it is one, or has the same values as one."""
    if isinstance(value, np.ma.MaskedArray):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return _as_known_type(np.asarray(value))
    if isinstance(value, (bytes, bytearray)):
        return np.frombuffer(value, np.uint8)
    if isinstance(value, (memoryview, array.array)):
        return np.asarray(value)
    if isinstance(value, complex) or (isinstance(value, float) and not np.isfinite(value)):  # JSON has neither
        return np.array(value)
    if hasattr(value, "detach"):  # a torch tensor
        return _of_tensor(value)
    if hasattr(value, "__dlpack__") and hasattr(value, "__array__"):  # an array of jax, for one
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            return _as_known_type(np.asarray(value))
    if isinstance(value, (list, tuple)) and value and not isinstance(value[0], (np.generic, complex, float)):
        return _stacked(value)
    return None


def _stacked(values: list[Any] | tuple[Any, ...]) -> npt.NDArray[Any] | None:
    """Return a list of arrays of one dtype and shape as one array."""
    if not all(isinstance(value, np.ndarray) or hasattr(value, "__array__") for value in values):
        return None
    arrays = [_as_array(value) for value in values]
    known = [found for found in arrays if found is not None and found.dtype.kind in _NUMBERS]
    if len(known) < len(values) or len({(found.dtype, found.shape) for found in known}) != 1:
        return None
    return np.stack(known)


def _of_tensor(tensor: Any) -> npt.NDArray[Any] | None:
    """Return a tensor of torch as an array. Types that NumPy does not have are widened, which is exact."""
    try:
        dense = tensor.detach().cpu().to_dense().resolve_conj().resolve_neg()
        with contextlib.suppress(TypeError):
            return np.asarray(dense.numpy())
        if dense.is_floating_point():  # bfloat16 and the types of 8 bits
            return np.asarray(dense.float().numpy())
        return np.asarray(dense.cfloat().numpy()) if dense.is_complex() else None
    except (TypeError, ValueError, RuntimeError, AttributeError):  # nested and quantized tensors, those without data
        return None


def _as_known_type(found: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array; of a float type that NumPy has by an extension (bfloat16, float8) as float32, which is exact."""
    is_extension = found.dtype.kind == "V" and found.dtype.names is None and "float" in found.dtype.name
    return found.astype(np.float32) if is_extension else found


def _is_masked(value: Any) -> bool:
    return isinstance(value, np.ma.MaskedArray)


def _as_json(value: Any) -> Any:
    try:
        text = json.dumps(value, default=_number)
        return json.loads(text) if has_text_keys(value) else copied(value)
    except (TypeError, ValueError, RecursionError):
        return copied(value)


def _number(value: Any) -> Any:
    found = _as_array(value)
    if found is None:
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return found.tolist()

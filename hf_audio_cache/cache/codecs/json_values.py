"""The codec of outputs that are no arrays, and JSON that a stranger may have written."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import CorruptEntryError, UnstorableOutputError
from ...processors.output_forms import has_text_keys
from .codec import Codec, Encoded, Member
from .npy import check_header

MAX_JSON_BYTES = 1 << 20  # of all JSON outputs together: as Python objects they take up to a hundred times as much
_MAX_LEVELS = 200  # more could overflow the stack of a thread
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


class JsonCodec(Codec):
    """JSON, as an array of bytes."""

    name, suffix, dtypes = "json", ".json", re.compile(r"\|u1")
    max_bytes = MAX_JSON_BYTES

    def encode(self, name: str, value: Any) -> Encoded | None:
        if isinstance(value, np.ndarray):
            return None
        try:
            text = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
            if not has_text_keys(value):
                raise TypeError("not all keys are strings")
        except (TypeError, ValueError, RecursionError) as exc:
            raise UnstorableOutputError(
                f"the output {name!r} must be a NumPy array or a JSON value, and is of type "
                f"{type(value).__module__}.{type(value).__qualname__} ({exc}); nothing was stored.",
                name=name,
            ) from exc
        if len(text) > MAX_JSON_BYTES or _is_deep(text):
            raise UnstorableOutputError(
                f"the output {name!r} must have at most {MAX_JSON_BYTES} bytes and {_MAX_LEVELS} levels as JSON, "
                f"and has {len(text)} bytes or more levels; nothing was stored. Make it a NumPy array.",
                name=name,
            )
        payload = np.frombuffer(text, np.uint8)
        return Encoded(payload, payload.dtype, payload.shape)

    def decode(self, member: Member, header: bytes, payload: memoryview, place: npt.NDArray[Any] | None = None) -> Any:
        check_header(member, header)
        return load_json(bytes(payload[: member.n_bytes]))


def load_json(text: bytes) -> Any:
    """Return the value of JSON, unless its levels could overflow the stack."""
    if _is_deep(text):
        raise CorruptEntryError(f"it has JSON of more than {_MAX_LEVELS} levels")
    return json.loads(text)


def _is_deep(text: bytes) -> bool:
    if text.count(b"[") + text.count(b"{") <= _MAX_LEVELS:
        return False
    brackets = re.findall(rb"[\[\]{}]", _STRING.sub(b"", text))
    depths = itertools.accumulate(1 if bracket in b"[{" else -1 for bracket in brackets)
    return max(depths, default=0) > _MAX_LEVELS

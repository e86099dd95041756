"""Describe outputs: names, shapes, dtypes, and the `datasets` feature for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import ProcessorError
from .output_forms import has_form


@dataclass(frozen=True)
class OutputSpec:
    """Form of one output."""

    dtype: str | None  # name of the array's dtype; None for an output that is a JSON value
    # Its shape, with None for an axis that follows the length of the clip; None where even the number of axes does.
    shape: tuple[int | None, ...] | None = ()
    example: Any = None  # a JSON value as it may be, for an output that is no array
    unstorable: str | None = None  # what it is, if no entry can hold it; else None

    @classmethod
    def of(cls, value: Any) -> OutputSpec:
        """Return the form of one output."""
        if not has_form(value):
            kind = type(value)
            is_array = isinstance(value, np.ndarray)
            what = f"an array of {value.dtype}" if is_array else f"{kind.__module__}.{kind.__qualname__}"
            return cls(None, None, unstorable=what)
        if isinstance(value, np.ndarray):
            return cls(value.dtype.name, value.shape)
        return cls(None, (), value)

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> OutputSpec:
        """Return the form that `to_json` described."""
        shape = spec["shape"]
        shape = shape if shape is None else tuple(shape)
        return cls(spec["dtype"], shape, spec["example"], spec.get("unstorable"))

    def to_json(self) -> dict[str, Any]:
        """Return this form as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "unstorable" or value is not None}

    def stand_in(self) -> Any:
        """Return an output of this form, without values if it is an array."""
        return self.example if self.dtype is None else np.zeros([0 for _ in self.shape or ()], self.dtype)

    def feature(self, *, nullable: bool = False) -> Any:
        """Return the `datasets` feature that is fastest to write and to read for such an output.

        Arrays of two to five dimensions whose shape is known become ``Array2D`` to ``Array5D``. Where rows may be null
        they become lists, since an ``Array2D`` gives a null row back as NaN. Raises ProcessorError if no one type can
        hold the output for clips of every length.
        """
        if self.unstorable is not None:
            raise ProcessorError(
                f"an output is {self.unstorable}, which no column type can be given for. Use cached_features.attach."
            )
        if self.shape is None:
            raise ProcessorError(
                "An output has more axes for a long clip than for a short one, so there is no column type for it. "
                "Use cached_features.map (references) or cached_features.attach."
            )
        if self.dtype is None:
            schema = pa.table({"output": pa.array([self.example])}).schema
            return datasets.Features.from_arrow_schema(schema)["output"]
        if 2 <= len(self.shape) <= 5 and None not in self.shape[1:] and not nullable:
            array_feature = getattr(datasets, f"Array{len(self.shape)}D")
            return array_feature(shape=self.shape, dtype=self.dtype)
        feature: Any = datasets.Value(self.dtype)
        for _ in self.shape:
            feature = datasets.List(feature)
        return feature

    def merge(self, other: OutputSpec) -> OutputSpec:
        """Return the form that covers both: an axis on which they differ follows the clip."""
        if self.unstorable is not None or other.unstorable is not None:  # too long as JSON, for one
            return other if self.unstorable is not None else self
        if self.shape is None or other.shape is None or len(self.shape) != len(other.shape):
            return OutputSpec(self.dtype, None)
        shape = tuple(a if a == b else None for a, b in zip(self.shape, other.shape, strict=True))
        return OutputSpec(self.dtype, shape, self.example)


def made_up_sound(duration: float, sampling_rate: int, channels: str | int = "mean") -> npt.NDArray[np.float32]:
    """Return a hum of so many seconds; in two channels where all are wanted."""
    seconds = np.arange(int(duration * sampling_rate)) / sampling_rate
    hum: npt.NDArray[np.float64] = 0.1 * np.sin(2 * np.pi * 220 * seconds) * (1 + np.sin(2 * np.pi * 3 * seconds))
    mono = hum.astype(np.float32)
    return np.stack([mono, mono / 2]) if channels == "all" else mono

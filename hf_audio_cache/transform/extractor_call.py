"""A call of a feature extractor, as far as the features of single clips can answer it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..processors import batch_rules
from .collate import collate

# What is known to decide features, or the form in which they are returned.
_ARGUMENTS = ("padding", "truncation", "max_length", "pad_to_multiple_of", "return_attention_mask", "do_normalize")
_PLAIN = (type(None), bool, int, str)


class UncacheableCallError(Exception):
    """Why a call must go to the extractor itself."""


@dataclass(frozen=True)
class ResultForm:
    """The type of a result, and what its outputs are kept in: an array, a tensor, or a list."""

    kind: Callable[[dict[str, Any]], Any]
    containers: Mapping[str, str]

    @classmethod
    def of(cls, result: Any) -> ResultForm:
        """Return the form of a result; raises `UncacheableCallError` where it is not known."""
        if not hasattr(result, "items"):
            raise UncacheableCallError(f"it returns a {type(result).__name__}")
        return cls(type(result), {name: _container(value) for name, value in result.items()})


@dataclass(frozen=True)
class ExtractorCall:
    """A call that single clips may answer."""

    extractor: Any
    clips: list[npt.NDArray[np.float32]]  # each of shape (n_samples,)
    # How they were passed: ``"bare"``, or the type of the batch; the types of the clips; the names of arguments.
    passed_as: str
    arguments: dict[str, Any]  # those that decide features
    return_tensors: str | None  # ``"np"``, ``"pt"``, or None for the extractor's default

    @classmethod
    def of(cls, extractor: Any, positional: Sequence[Any], named: Mapping[str, Any]) -> ExtractorCall:
        """Return a call; UncacheableCallError if the features of single clips do not answer it."""
        if len(positional) != 1:
            raise UncacheableCallError("its arguments were not passed by name, apart from the audio")
        arguments = dict(named)
        return_tensors, rate = arguments.pop("return_tensors", None), arguments.pop("sampling_rate", None)
        own_rate = getattr(extractor, "sampling_rate", None)
        if not (rate is None or (isinstance(rate, (int, float, np.integer)) and rate == own_rate)):
            raise UncacheableCallError(f"sampling_rate is {rate!r}, and not {own_rate}")
        if return_tensors not in (None, "np", "pt") or type(return_tensors) not in _PLAIN:
            raise UncacheableCallError(f"return_tensors is {return_tensors!r}")
        for name, value in arguments.items():
            is_known = name in _ARGUMENTS or (name == "device" and value in ("cpu", None))
            if not is_known or type(value) not in _PLAIN:
                raise UncacheableCallError(f"it has the argument {name}={value!r}")
        clips, passed_as = _clips(extractor, positional[0])
        if len(clips) > 1 and not batch_rules.clips_stand_alone(extractor, arguments):
            raise UncacheableCallError(
                f"the features of a batch depend on its other clips with {arguments or 'its defaults'}"
            )
        passed_as = f"{passed_as} with {', '.join(sorted(named))}"
        return cls(extractor, clips, passed_as, arguments, return_tensors)

    @property
    def form(self) -> str:
        """What calls have in common whose results are made of those of single clips in the same way."""
        is_ragged = len({clip.size for clip in self.clips}) > 1
        size = len(self.clips).bit_length()  # what multiplies matrices may do so in another way for more of them
        return repr((sorted(self.arguments.items()), self.return_tensors, self.passed_as, size, is_ragged))

    def result(self, entries: Sequence[Mapping[str, Any]], like: ResultForm | None = None) -> Any:
        """Return what the extractor returns for these clips.

        `like` is the form of what the extractor returns. It is needed without `return_tensors`; by default it is a
        `BatchFeature`. Raises UncacheableCallError if the outputs of single clips do not make up those of a batch.
        """
        names = list(entries[0])
        if any(list(entry) != names for entry in entries):
            raise UncacheableCallError("its clips do not have the same outputs")
        columns = {name: self._column([entry[name] for entry in entries]) for name in names}
        if self.return_tensors is None:
            containers = {} if like is None else like.containers
            columns = {name: _contained(column, containers.get(name, "")) for name, column in columns.items()}
        elif self.return_tensors == "np":
            columns = {name: _stacked(column) for name, column in columns.items()}
        else:
            columns = {name: _tensor(_stacked(column)) for name, column in columns.items()}
        if like is not None:
            return like.kind(columns)
        from transformers import BatchFeature

        return BatchFeature(columns)

    def _column(self, values: list[Any]) -> list[Any]:
        """Return the values of an output, padded as they are in a batch."""
        if not all(isinstance(value, np.ndarray) for value in values):
            return values
        if len({value.shape for value in values}) == 1 or batch_rules.is_unpadded(self.extractor, self.arguments):
            return values
        if not batch_rules.is_padded_to_longest(self.extractor, self.arguments):
            raise UncacheableCallError("the outputs of its clips have several lengths")
        longest = max(len(value) for value in values)
        filler = self.extractor.padding_value if values[0].dtype.kind == "f" else 0  # else a mask
        padded = []
        for value in values:
            row = np.full((longest, *value.shape[1:]), filler, value.dtype)
            row[: len(value)] = value
            padded.append(row)
        return padded


def _clips(extractor: Any, audio: Any) -> tuple[list[npt.NDArray[np.float32]], str]:
    """Return the clips of the first argument of a call, and how they were passed."""
    takes_more = batch_rules.casts_to_float32(extractor)
    if _is_clip(audio, takes_more=takes_more):
        return [np.asarray(audio, np.float32)], f"bare {_kind(audio)}"
    if type(audio) is np.ndarray and audio.ndim == 2 and takes_more:
        audio, kind = list(audio), "array"
    else:
        kind = type(audio).__name__
    if kind not in ("list", "tuple", "array") or not len(audio):
        raise UncacheableCallError(f"its audio is a {kind}")
    if not all(_is_clip(clip, takes_more=takes_more) for clip in audio):
        raise UncacheableCallError("its clips are no arrays of float32 with one axis")
    kinds = sorted({_kind(clip) for clip in audio})
    return [np.asarray(clip, np.float32) for clip in audio], f"{kind} of {', '.join(kinds)}"


def _is_clip(value: Any, *, takes_more: bool) -> bool:
    if type(value) is np.ndarray:
        known = (np.dtype(np.float32), np.dtype(np.float64)) if takes_more else (np.dtype(np.float32),)
        return value.ndim == 1 and value.size > 0 and value.dtype in known and value.flags.c_contiguous
    return takes_more and type(value) is list and len(value) > 0 and all(type(sample) is float for sample in value)


def _kind(clip: Any) -> str:
    return str(clip.dtype) if isinstance(clip, np.ndarray) else "list"


def _stacked(column: list[Any]) -> Any:
    if not all(isinstance(value, np.ndarray) for value in column):
        return np.asarray(column)
    if len({(value.dtype, value.shape) for value in column}) != 1:
        raise UncacheableCallError("the outputs of its clips have several lengths")
    return collate(column)


def _tensor(array: Any) -> Any:
    import torch

    return torch.from_numpy(array)


def _container(value: Any) -> str:
    if isinstance(value, np.ndarray) or hasattr(value, "detach"):
        return "array" if isinstance(value, np.ndarray) else "tensor"
    if type(value) is not list or not value:
        raise UncacheableCallError(f"it returns a {type(value).__name__}")
    if hasattr(value[0], "detach"):
        return "list of tensors"
    return "list" if isinstance(value[0], np.ndarray) else "list of values"


def _contained(column: list[Any], container: str) -> Any:
    if container == "list":
        return column
    if container == "list of values":
        return [value.tolist() if isinstance(value, np.ndarray) else value for value in column]
    if container == "list of tensors":
        return [_tensor(value) for value in column]
    return _stacked(column) if container == "array" else _tensor(_stacked(column))


def is_same_result(one: Any, other: Any) -> bool:
    """Return whether two results have the same types, names in the same order, shapes and bits."""
    if type(one) is not type(other):
        return False
    if hasattr(one, "keys"):
        return list(one.keys()) == list(other.keys()) and all(is_same_result(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same_result, one, other))
    if hasattr(one, "detach"):
        return bool(one.dtype == other.dtype) and is_same_result(one.numpy(), other.numpy())
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return bool(one == other)

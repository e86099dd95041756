"""Every audio feature extractor of the installed transformers, found by its module, and real speech at its rate.

An extractor is taken from its own module, since without torch, torchaudio or librosa transformers' namespace has
dummies in the place of some that work. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import speech

# Without this, UnivNet's output has noise in it.
PROCESSOR_KWARGS: dict[str, dict[str, Any]] = {"UnivNet": {"return_noise": False}}

_CLASS = re.compile(r"^class ((\w+)FeatureExtractor)\(", re.MULTILINE)


@functools.cache
def _modules() -> dict[str, tuple[str, str]]:
    """Return the module and the class of each audio extractor, by its name without ``FeatureExtractor``."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    found = {}
    for path in sorted(Path(spec.origin).parent.glob("models/*/feature_extraction_*.py")):
        text = path.read_text(encoding="utf-8")
        for class_name, name in _CLASS.findall(text):
            if "sampling_rate" in text:  # MarkupLM's has the form of a feature extractor, and reads HTML
                found[name] = (f"transformers.models.{path.parent.name}.{path.stem}", class_name)
    return found


def names() -> list[str]:
    """Return the names of all audio extractors, such as ``Whisper``."""
    return sorted(_modules(), key=str.lower)


def usable() -> list[str]:
    """Return the names of those that can run here, found by trying."""
    return [name for name in names() if problem(name) is None]


def unusable() -> list[str]:
    """Return the names of those that cannot run here, most of them for want of a library."""
    return [name for name in names() if problem(name) is not None]


def parameters(*bounded: str) -> list[Any]:
    """Return all names for ``pytest.mark.parametrize``, with the marker `long` where one is not among the bounded."""
    return [pytest.param(name, marks=[] if name in bounded else [pytest.mark.long]) for name in names()]


def extractor_class(name: str) -> type:
    """Return a class; raises what its module raises."""
    module, class_name = _modules()[name]
    found: type = getattr(importlib.import_module(module), class_name)
    return found


def make(name: str, **arguments: Any) -> Any:
    """Return a new extractor with its default arguments, but for `arguments`."""
    return extractor_class(name)(**arguments)


def make_or_skip(name: str, **arguments: Any) -> Any:
    """Return a new extractor; skip the test if a library that it needs is not installed."""
    found = problem(name)
    if found is not None and found.startswith(("ImportError: ", "ModuleNotFoundError: ", "NameError: ")):
        pytest.skip(f"{name}: {found}")
    return make(name, **arguments)


def constructible(chosen: list[str] | None = None) -> dict[str, Any]:
    """Return a new extractor of each class that can be made here, whether it can be called or not."""
    made = {}
    for name in names() if chosen is None else chosen:
        try:
            made[name] = make(name)
        except (ImportError, NameError, AttributeError):
            continue
    return made


@functools.cache
def problem(name: str) -> str | None:
    """Return why an extractor cannot run here, in the words of what it raises; None where it can."""
    try:
        extractor = make(name)
        call(extractor, clip(1.0, extractor.sampling_rate))
    except Exception as exc:  # noqa: BLE001 - a test says which errors they may be
        return f"{type(exc).__name__}: {' '.join(str(exc).split())}"
    return None


def call(extractor: Any, waveform: np.ndarray, **kwargs: Any) -> dict[str, Any]:
    """Call an extractor with a batch of one, as its own documentation says, and return what it gives as it is."""
    name = type(extractor).__name__.removesuffix("FeatureExtractor")
    arguments = {"sampling_rate": extractor.sampling_rate, "return_tensors": "np"}
    arguments |= PROCESSOR_KWARGS.get(name, {}) | kwargs
    parameters = inspect.signature(type(extractor).__call__).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        arguments = {argument: value for argument, value in arguments.items() if argument in parameters}
    try:
        return dict(extractor([waveform], **arguments))
    except ValueError as exc:
        if "return_tensors" not in str(exc):
            raise
    return dict(extractor([waveform], **{**arguments, "return_tensors": "pt"}))  # it knows only tensors of torch


def rows_of_one_clip(outputs: dict[str, Any]) -> dict[str, Any]:
    """Return what `call` gave without the axis of the batch, as arrays and lists."""
    rows: dict[str, Any] = {}
    for name, value in outputs.items():
        array = value.numpy() if hasattr(value, "numpy") else value
        if isinstance(array, np.ndarray):
            rows[name] = array[0] if len(array) == 1 else array
        else:
            [first] = array
            rows[name] = list(first) if isinstance(first, tuple) else first
    return rows


@functools.cache
def _speech_16khz() -> np.ndarray:
    """Return about 35 s of read speech at 16 kHz, the longest sentence first."""
    sentences = sorted(speech.clips("sentences"), key=lambda path: (-path.stat().st_size, path.name))
    parts = [soundfile.read(path, dtype="float32")[0] for path in sentences]
    return np.concatenate([*parts, *parts])[: 36 * 16000]


def clip(seconds: float, sampling_rate: int) -> np.ndarray:
    """Return that much real speech, float32 mono at any rate; it starts within a word."""
    return _clip(seconds, sampling_rate).copy()  # torch warns of arrays that cannot be written to


@functools.cache
def _clip(seconds: float, sampling_rate: int) -> np.ndarray:
    start = 16000 // 2
    part = _speech_16khz()[start : start + int(seconds * 16000)]
    waveform = part if sampling_rate == 16000 else soxr.resample(part, 16000, sampling_rate)
    return np.ascontiguousarray(waveform, dtype=np.float32)


def hard_clips(extractor: Any) -> dict[str, np.ndarray]:
    """Return what recordings have now and then: silence, full scale, and clips of a frame, of less, of one sample."""
    rate = extractor.sampling_rate
    frame = next((size for size in map(vars(extractor).get, ("n_fft", "win_length", "frame_length")) if size), 400)
    full_scale = np.sign(np.sin(2 * np.pi * 441 / rate * np.arange(rate)))
    return {
        "silence": np.zeros(rate, np.float32),
        "full scale": full_scale.astype(np.float32),
        "one frame": clip(1.0, rate)[:frame],
        "400 samples": clip(1.0, rate)[:400],
        "399 samples": clip(1.0, rate)[:399],
        "100 samples": clip(1.0, rate)[:100],
        "one sample": np.array([0.5], np.float32),
    }


@functools.cache
def wav(seconds: float, sampling_rate: int) -> bytes:
    """Return `clip` as the bytes of a WAV file."""
    return encoded(clip(seconds, sampling_rate), sampling_rate)


def encoded(waveform: np.ndarray, sampling_rate: int) -> bytes:
    """Return a waveform as the bytes of a WAV file of 32-bit floats, which keeps every bit.

    They are the same within a second alone: libsndfile writes the time into such a file.
    """
    file = io.BytesIO()
    soundfile.write(file, waveform, sampling_rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def cell(seconds: float, sampling_rate: int) -> dict[str, Any]:
    """Return `clip` as an audio cell of a dataset."""
    return {"bytes": wav(seconds, sampling_rate), "path": f"speech-{seconds:g}s-{sampling_rate}.wav"}


def constructor_arguments(extractor: Any) -> list[str]:
    """Return the names of the arguments with which the class of an extractor is made."""
    parameters_ = inspect.signature(type(extractor).__init__).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter.name for parameter in parameters_ if parameter.kind in kinds and parameter.name != "self"]

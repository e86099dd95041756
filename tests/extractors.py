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
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import speech

# MarkupLM's has the form of a feature extractor, and reads HTML.
_NO_AUDIO = frozenset({"MarkupLM"})
# These compute, or pad, with torch alone, or cannot even be imported without it.
NEEDS_TORCH = frozenset(
    {
        "AST",
        "CohereAsr",
        "Dots3Note",
        "Inkling",
        "Lasr",
        "NemotronAsrStreaming",
        "Parakeet",
        "Phi4Multimodal",
        "PocketTTS",
        "Qwen3ASR",
        "VibeVoiceAcousticTokenizer",
        "VoxtralRealtime",
    }
)
# What each needs that transformers does not bring.
NEEDS = {
    "FunAsrNano": ("torch", "torchaudio"),
    "GraniteSpeech": ("torch", "torchaudio"),
    "GraniteSpeech5": ("torch", "torchaudio"),
    "MusicgenMelody": ("torch", "torchaudio"),
    "NeuCodec": ("torch", "torchaudio"),
    "Pop2Piano": ("torch", "essentia", "librosa", "scipy"),
    "Xcodec2": ("torch", "torchaudio"),
    **dict.fromkeys(NEEDS_TORCH, ("torch",)),
}
# Those that know only tensors of torch.
_TENSORS_ALONE = frozenset({"PocketTTS", "VibeVoiceAcousticTokenizer"})
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
        for class_name, name in _CLASS.findall(path.read_text(encoding="utf-8")):
            if name not in _NO_AUDIO:
                found[name] = (f"transformers.models.{path.parent.name}.{path.stem}", class_name)
    return found


def names() -> list[str]:
    """Return the names of all audio extractors, such as ``Whisper``."""
    return sorted(_modules(), key=str.lower)


def _is_there(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def usable() -> list[str]:
    """Return the names of those whose libraries are installed, torch aside."""
    return [
        name for name in names() if all(_is_there(library) for library in NEEDS.get(name, ()) if library != "torch")
    ]


def unusable() -> list[str]:
    """Return the names of those that cannot run here, torch aside."""
    return sorted(set(names()) - set(usable()))


def parameters(chosen: list[str] | None = None) -> list[Any]:
    """Return the usable ones for ``pytest.mark.parametrize``, with the marker `torch` where one needs it."""
    return [
        pytest.param(name, marks=[pytest.mark.torch] if "torch" in NEEDS.get(name, ()) else [])
        for name in (usable() if chosen is None else chosen)
    ]


def extractor_class(name: str) -> type:
    """Return a class; raises what its module raises."""
    module, class_name = _modules()[name]
    found: type = getattr(importlib.import_module(module), class_name)
    return found


def make(name: str, **arguments: Any) -> Any:
    """Return a new extractor with its default arguments, but for `arguments`."""
    return extractor_class(name)(**arguments)


def constructible(chosen: list[str] | None = None) -> dict[str, Any]:
    """Return a new extractor of each class that can be made here, whether it can be called or not."""
    made = {}
    for name in names() if chosen is None else chosen:
        try:
            made[name] = make(name)
        except (ImportError, NameError, AttributeError):
            continue
    return made


def problem(name: str) -> str | None:
    """Return why an extractor cannot run here, in the words of what it raises; None where it can."""
    try:
        extractor = make(name)
        call(extractor, clip(1.0, extractor.sampling_rate))
    except (ImportError, NameError, AttributeError) as exc:
        return f"{type(exc).__name__}: {' '.join(str(exc).split())}"
    return None


def call(extractor: Any, waveform: np.ndarray, **kwargs: Any) -> dict[str, Any]:
    """Call an extractor with a batch of one, as its own documentation says, and return what it gives as it is."""
    name = type(extractor).__name__.removesuffix("FeatureExtractor")
    arguments: dict[str, Any] = {"sampling_rate": extractor.sampling_rate, "return_tensors": "np"}
    if name in _TENSORS_ALONE:
        arguments["return_tensors"] = "pt"
    if name == "GraniteSpeech":
        arguments = {}
    return dict(extractor([waveform], **{**arguments, **PROCESSOR_KWARGS.get(name, {}), **kwargs}))


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


@functools.cache
def wav(seconds: float, sampling_rate: int) -> bytes:
    """Return `clip` as the bytes of a WAV file of 32-bit floats, which keeps every bit.

    They are the same within a process alone: libsndfile writes the time into such a file.
    """
    file = io.BytesIO()
    soundfile.write(file, clip(seconds, sampling_rate), sampling_rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def cell(seconds: float, sampling_rate: int) -> dict[str, Any]:
    """Return `clip` as an audio cell of a dataset."""
    return {"bytes": wav(seconds, sampling_rate), "path": f"speech-{seconds:g}s-{sampling_rate}.wav"}


def constructor_arguments(extractor: Any) -> list[str]:
    """Return the names of the arguments with which the class of an extractor is made."""
    parameters_ = inspect.signature(type(extractor).__init__).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [parameter.name for parameter in parameters_ if parameter.kind in kinds and parameter.name != "self"]


def has_torch() -> bool:
    """Return whether torch can be imported here."""
    return "torch" in sys.modules or _is_there("torch")

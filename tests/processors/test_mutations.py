"""Every change of an extractor that changes what it makes of real speech changes its identity.

Each attribute of each extractor, and each argument that it is made with, is changed in several ways, one at a time. A
change at which the extractor fails says nothing and is not counted.
"""

from __future__ import annotations

import copy
import inspect
import math
import random
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import extractors
import numpy as np
import pytest

from hf_audio_cache import processor_sha256
from hf_audio_cache.processors.extractor import extract
from hf_audio_cache.processors.identity import Fingerprinter

SECONDS = 1.0
# Strings that extractors of transformers take somewhere. Where one is not taken, the call fails or nothing changes.
WORDS = ("left", "max_length", "repeat", "pad", "fusion", "hamming", "hamming_window", "htk")
# A call of these takes long. Of their changes that the identity shows anyway, each fourth is put to the test.
SLOW = frozenset(
    {
        "AST",
        "Clap",
        "Clvp",
        "CohereAsr",
        "Dots3Note",
        "Gemma3nAudio",
        "Gemma4Audio",
        "MossTranscribeDiarize",
        "Qwen3ASR",
        "SeamlessM4T",
        "Speech2Text",
        "UnivNet",
        "Whisper",
    }
)


@dataclass(frozen=True)
class Mutation:
    """One change: what was changed, in words, and whether it showed in the output and in the identity."""

    what: str
    in_output: bool
    in_identity: bool


@dataclass
class Trial:
    """What was tried of one extractor."""

    name: str
    mutations: list[Mutation] = field(default_factory=list)
    failed: int = 0
    untried: int = 0

    def count(self, *, in_output: bool, in_identity: bool) -> int:
        return sum((it.in_output, it.in_identity) == (in_output, in_identity) for it in self.mutations)


def changes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield changed values, each with words for it."""
    yield from CHANGES.get(type(value), _changes_of_arrays)(value)
    if value is not None:
        yield "None", None


def _changes_of_flags(value: bool) -> Iterator[tuple[str, Any]]:
    yield "flipped", not value


def _changes_of_numbers(value: float) -> Iterator[tuple[str, Any]]:
    if value:
        yield "0", type(value)(0)
        yield "* 2", value * 2
    yield "+ 1", value + 1
    yield "- 1", value - 1
    if isinstance(value, float):
        yield "+ eps", math.nextafter(value, math.inf)
        yield "+ 1e-6", value + 1e-6
    # Its value is the same, and float32 times a float64 of NumPy is float64.
    yield "as np.float64", np.float64(value)


def _changes_of_strings(value: str) -> Iterator[tuple[str, Any]]:
    yield from ((repr(word), word) for word in WORDS if word != value)


def _changes_of_nothing(value: None) -> Iterator[tuple[str, Any]]:
    yield from ((repr(other), other) for other in (True, 1, 0.5, 2000, "max_length"))


def _changes_of_sequences(value: Any) -> Iterator[tuple[str, Any]]:
    if len(value) > 1:
        yield "reversed", type(value)(reversed(value))
        yield "one less", value[:-1]
    if value and isinstance(value[0], (int, float)):
        yield "one element + 1", type(value)([value[0] + 1, *value[1:]])


def _changes_of_arrays(value: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return
    largest = int(abs(value).argmax())
    for name, position in (("the largest element", largest), ("the last element", -1)):
        other = copy.deepcopy(value)
        other.reshape(-1)[position] += 0.25
        yield f"{name} + 0.25", other
    yield "* 1.001", value * 1.001
    if isinstance(value, np.ndarray) and value.ndim > 1:
        yield "in the other memory order", np.array(value, order="C" if value.flags.f_contiguous else "F")
        yield "as the other float type", value.astype("float64" if value.dtype == "float32" else "float32")


CHANGES: dict[type, Callable[[Any], Iterator[tuple[str, Any]]]] = {
    bool: _changes_of_flags,
    int: _changes_of_numbers,
    float: _changes_of_numbers,
    str: _changes_of_strings,
    type(None): _changes_of_nothing,
    list: _changes_of_sequences,
    tuple: _changes_of_sequences,
}


def outputs_of(name: str, extractor: Any) -> dict[str, Any]:
    """Return what an extractor makes of the clip, with the generators where they always are."""
    random.seed(0)
    np.random.seed(0)
    rate = extractor.sampling_rate
    return extract(extractor, extractors.clip(SECONDS, rate), rate, extractors.PROCESSOR_KWARGS.get(name, {}))


def form(outputs: dict[str, Any]) -> dict[str, Any]:
    """Return outputs so that two of them are equal if and only if no bit, name or shape differs."""
    return {
        name: (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else repr(value)
        for name, value in outputs.items()
    }


# One of each kind: mel filters of NumPy, of torch, of a constructor's arguments, Kaldi's, and none.
BOUNDED = frozenset({"Encodec", "Parakeet", "Phi4Multimodal", "SeamlessM4T", "Wav2Vec2", "Whisper"})


class Mutator:
    """Tries the mutations of one extractor."""

    def __init__(self, name: str) -> None:
        self.trial = Trial(name)
        self.extractor = extractors.make(name)
        self.processor_kwargs = extractors.PROCESSOR_KWARGS.get(name, {})
        self.rate = self.extractor.sampling_rate
        self.outputs = form(outputs_of(name, self.extractor))
        self.fingerprinter = Fingerprinter(self.extractor, self.processor_kwargs)
        self.sha = self.fingerprinter.identity().sha

    def run(self) -> Trial:
        for attribute, value in list(vars(self.extractor).items()):
            for change, other in changes(value):
                setattr(self.extractor, attribute, other)
                self.try_out(f"{attribute} {change}", self.extractor, self.fingerprinter.identity().sha)
                setattr(self.extractor, attribute, value)
        assert self.fingerprinter.identity().sha == self.sha, "the mutations are not undone"
        assert form(outputs_of(self.trial.name, self.extractor)) == self.outputs, "the mutations are not undone"
        for argument, value in self.arguments():
            for change, other in changes(value):
                try:
                    made = extractors.make(self.trial.name, **{argument: other})
                except Exception:  # noqa: BLE001 - whatever it raises for a value that it does not take
                    self.trial.failed += 1
                    continue
                self.try_out(f"({argument}={change})", made, self.sha_of(made))
        return self.trial

    def sha_of(self, made: Any) -> str:
        """Return the identity of an extractor, by giving its state to the one whose code is known already."""
        state = dict(vars(self.extractor))
        vars(self.extractor).clear()
        vars(self.extractor).update(vars(made))
        sha = self.fingerprinter.identity().sha
        vars(self.extractor).clear()
        vars(self.extractor).update(state)
        return sha

    def arguments(self) -> Iterator[tuple[str, Any]]:
        parameters = inspect.signature(type(self.extractor).__init__).parameters
        for name in extractors.constructor_arguments(self.extractor):
            if parameters[name].default is not inspect.Parameter.empty:
                yield name, parameters[name].default

    def try_out(self, what: str, extractor: Any, sha: str) -> None:
        if sha != self.sha and self.trial.name in SLOW and zlib.crc32(what.encode()) % 4:
            self.trial.untried += 1
            return
        try:
            outputs = form(outputs_of(self.trial.name, extractor))
        except Exception:  # noqa: BLE001 - whatever it raises for a value that it does not take
            self.trial.failed += 1
            return
        self.trial.mutations.append(Mutation(what, outputs != self.outputs, sha != self.sha))


@pytest.fixture(scope="module")
def trials(request: pytest.FixtureRequest) -> dict[str, Trial]:
    """The trial of each extractor that runs here; of a few, if there is little time."""
    is_long = request.config.getoption("--long")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of divisions by zero and empty filters, as the values are made up
        return {name: Mutator(name).run() for name in extractors.usable() if is_long or name in BOUNDED}


@pytest.mark.torch  # without it fewer extractors can run than the count is meant for
def test_every_change_of_the_output_changes_the_identity(trials, capsys, record_property):
    tried = sum(len(trial.mutations) for trial in trials.values())
    failed = sum(trial.failed for trial in trials.values())
    untried = sum(trial.untried for trial in trials.values())
    caught = sum(trial.count(in_output=True, in_identity=True) for trial in trials.values())
    missed = [f"{trial.name}: {it.what}" for trial in trials.values() for it in trial.mutations if _is_missed(it)]
    needless = sum(trial.count(in_output=False, in_identity=True) for trial in trials.values())
    figures = {
        "extractors": len(trials),
        "mutations": tried + failed + untried,
        "that changed the identity of a slow one, not tried": untried,
        "at which the extractor failed": failed,
        "that changed the output": caught + len(missed),
        "caught": caught,
        "that changed the identity alone": needless,
    }
    for name, figure in figures.items():
        record_property(name, figure)
    with capsys.disabled():
        print(f"\n{', '.join(f'{figure} {name}' for name, figure in figures.items())}")  # noqa: T201
    assert missed == []
    assert caught >= 10 * len(trials)


def _is_missed(mutation: Mutation) -> bool:
    return mutation.in_output and not mutation.in_identity


def test_each_extractor_has_changes_that_show(trials):
    assert {name for name, trial in trials.items() if not any(it.in_output for it in trial.mutations)} == set()


@pytest.mark.torch
@pytest.mark.parametrize("argument", ["mel_min_frequency", "mel_max_frequency"])
def test_arguments_that_leave_no_attribute_are_caught(trials, argument):
    extractor = extractors.make("Phi4Multimodal")
    assert not hasattr(extractor, argument)
    mutations = [it for it in trials["Phi4Multimodal"].mutations if it.what.startswith(f"({argument}=")]
    assert any(it.in_output for it in mutations)
    assert not any(_is_missed(it) for it in mutations)
    changed = extractors.make("Phi4Multimodal", mel_max_frequency=7600)
    assert changed.to_json_string() == extractor.to_json_string()
    assert processor_sha256(changed) != processor_sha256(extractor)


def test_patched_mel_filters_are_caught():
    extractor = extractors.make("Whisper")
    json, sha = extractor.to_json_string(), processor_sha256(extractor)
    outputs = form(outputs_of("Whisper", extractor))
    extractor.mel_filters = extractor.mel_filters * np.float32(1.5)
    assert form(outputs_of("Whisper", extractor)) != outputs
    assert extractor.to_json_string() == json
    assert processor_sha256(extractor) != sha
    filters = extractor.mel_filters.copy()
    sha = processor_sha256(extractor)
    extractor.mel_filters[100, 40] += 1e-6
    assert processor_sha256(extractor) != sha
    extractor.mel_filters = filters
    assert processor_sha256(extractor) == sha

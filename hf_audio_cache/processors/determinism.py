"""Refuse a processor whose output is random: call it twice for some clips, and watch the generators."""

from __future__ import annotations

import inspect
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import RandomOutputError
from ..support.torch_module import loaded_torch
from .extractor import NamedFunction, name_of
from .output_forms import is_same_output

# Of tqdm, which `datasets` shows its progress with, of fsspec, and our own.
_HARMLESS_THREADS = ("tqdm_monitor", "fsspecIO", "hf-audio-cache", "hf_audio_cache")


@dataclass(frozen=True)
class _RandomState:
    """State of the generators that a process shares: Python's, NumPy's, and torch's where it is imported."""

    python: Any
    numpy: Any
    torch: Any

    @classmethod
    def now(cls) -> _RandomState:
        torch = loaded_torch()
        return cls(random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state() if torch else None)

    def moved_since(self, before: _RandomState) -> str | None:
        """Return the name of a generator that has been drawn from since."""
        if self.python != before.python:
            return "Python's random"
        if not _is_same_state(self.numpy, before.numpy):
            return "numpy.random"
        if before.torch is not None and not sys.modules["torch"].equal(self.torch, before.torch):
            return "torch's generator"
        return None

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        if self.torch is not None:
            sys.modules["torch"].set_rng_state(self.torch)


def _is_same_state(one: Any, other: Any) -> bool:
    """Return whether two states of a generator are the same: numbers and arrays in dicts."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same_state(one[name], other[name]) for name in one)
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def _is_alone() -> bool:
    """Return whether no other thread can draw random numbers now; some that libraries keep running never do."""
    others = (thread for thread in threading.enumerate() if thread is not threading.current_thread())
    return all(thread.name.startswith(_HARMLESS_THREADS) for thread in others)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the random generators back to where they were, where no other thread can have drawn from them."""
    before = _RandomState.now()
    is_alone = _is_alone()
    try:
        yield
    finally:
        if is_alone:
            before.restore()


class GeneratorWatch:
    """Tells whether any thread drew from the random generators since this was made."""

    def __init__(self) -> None:
        self._before, self._is_alone = _RandomState.now(), _is_alone()

    def has_moved(self) -> bool:
        """Return whether a generator was drawn from."""
        return _RandomState.now().moved_since(self._before) is not None

    def put_back(self) -> None:
        """Put the generators back, where no thread of somebody else can have drawn from them."""
        if self._is_alone and _is_alone():
            self._before.restore()


Call = Callable[[], dict[str, Any]]


def extract_beside_others(call: Call, extractor: Any, *, clip: str, twice: bool) -> dict[str, Any]:
    """Do as `extract_repeatable` while other threads extract, too: only a `GeneratorWatch` tells whether one drew.

    A difference between two calls may also mean that the extractor is not safe in threads.
    """
    outputs = call()
    if twice and (different := difference(outputs, call())) is not None:
        raise _random_output(extractor, clip, f"a second call gave another {different!r}")
    return outputs


def extract_repeatable(call: Call, extractor: Any, *, clip: str, twice: bool) -> dict[str, Any]:
    """Return what a call of an extractor returns, if it is the same each time.

    `twice`: it is computed a second time and compared, since a generator of the extractor's own shows in no other way.
    Raises RandomOutputError if a random generator was drawn from (its state is put back), or the two outputs differ.
    """
    before = _RandomState.now()
    outputs, moved = _extract_watched(call, extractor, clip, before)
    # With other threads about, the draw may have been one of theirs: then further calls must tell.
    for _ in range(3 if moved else int(twice)):
        different = difference(outputs, _extract_watched(call, extractor, clip, _RandomState.now())[0])
        if different is not None:
            if moved:
                before.restore()
            drew = f"it drew from {moved}, and " if moved else ""
            raise _random_output(extractor, clip, f"{drew}a second call gave another {different!r}")
    return outputs


def _extract_watched(call: Call, extractor: Any, clip: str, before: _RandomState) -> tuple[dict[str, Any], str | None]:
    """Return the outputs, and the generator drawn from since `before`; the clip is refused if no other thread did."""
    is_alone = _is_alone()
    try:
        outputs = call()
    finally:
        moved = _RandomState.now().moved_since(before)
        if moved is not None and is_alone:
            before.restore()
    if moved is not None and is_alone:
        raise _random_output(extractor, clip, f"it drew from {moved}")
    return outputs, moved


def difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """Return the name of an output in which two results differ by a bit."""
    for name in first.keys() | second.keys():
        if name not in first or name not in second or not is_same_output(first[name], second[name]):
            return name
    return None


def _random_output(extractor: Any, clip: str, observed: str) -> RandomOutputError:
    return RandomOutputError(
        f"{name_of(extractor)} is random: for {clip}, {observed}. Every epoch would read the same draw from a cache. "
        f"{_remedy(extractor)} Nothing was stored for this clip.",
        clip=clip,
    )


def _remedy(extractor: Any) -> str:
    """Say what makes an extractor's output random, where that is known, and how to do without."""
    if getattr(extractor, "dither", 0):
        return f"It adds noise (dither={extractor.dither}): set its dither to 0.0."
    if getattr(extractor, "truncation", None) in ("rand_trunc", "fusion"):
        seconds = getattr(extractor, "max_length_s", None) or getattr(extractor, "chunk_length_s", 10)
        return (
            f"It takes random crops of longer clips (truncation={extractor.truncation!r}): pass "
            f"max_length_seconds={seconds}."
        )
    if not isinstance(extractor, NamedFunction) and "return_noise" in inspect.signature(extractor).parameters:
        return 'It returns noise for a vocoder: pass processor_kwargs={"return_noise": False}, and draw it in training.'
    return "Augment after the features are read, or leave it out of the processor."

"""Speech for the tests of audio."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile


@pytest.fixture(scope="session")
def sentence(sentences: list[Path]) -> npt.NDArray[np.int16]:
    """Some 7 s of a read sentence at 16 kHz."""
    longest = max(sentences, key=lambda path: path.stat().st_size)
    samples, rate = soundfile.read(longest, dtype="int16")
    assert rate == 16000
    assert len(samples) > 80_000
    return np.asarray(samples)


@pytest.fixture(scope="session")
def stereo(sentence: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    return np.stack([sentence, sentence[::-1] // 3], axis=1)


@pytest.fixture
def no_torchcodec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)

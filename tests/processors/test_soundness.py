"""Which outputs are features, and which no model should be trained on."""

import numpy as np
import pytest

from hf_audio_cache.processors.soundness import unsound_output

SOUND = {
    "floats": {"x": np.zeros((2, 3), np.float32)},
    "integers": {"codes": np.arange(4)},
    "no special positions": {"x": np.ones(3), "positions": np.zeros(0, np.int64), "cuts": []},
    "values": {"x": 1.5, "text": "", "nothing": None},
    "lists": {"x": [[0.5], [1.0]]},
}
UNSOUND = {
    "NaN": ({"ok": np.ones(2), "x": np.array([1, np.nan, np.inf], np.float16)}, ("x", 2)),
    "complex": ({"x": np.array([1j, complex(0, np.inf)])}, ("x", 1)),
    "no axes": ({"x": np.array(np.nan)}, ("x", 1)),
    "value": ({"x": float("-inf")}, ("x", 1)),
    "values": ({"x": {"a": [1.0, [float("nan"), 2.0, float("inf")]]}}, ("x", 2)),
    "no frames": ({"mask": np.zeros(0, bool), "x": np.zeros((0, 160), np.float32)}, ("x", 0)),
    "no frames last": ({"x": np.zeros((160, 0), np.float64)}, ("x", 0)),
    "no codes": ({"codes": np.zeros((8, 0), np.int64), "mask": np.zeros(0, bool)}, ("codes", 0)),
    "an empty list": ({"x": []}, ("x", 0)),
}


@pytest.mark.parametrize("kind", SOUND)
def test_features(kind):
    assert unsound_output(SOUND[kind], "error") is None
    assert unsound_output(SOUND[kind], "keep") is None


@pytest.mark.parametrize("kind", UNSOUND)
def test_no_features(kind):
    outputs, (name, count) = UNSOUND[kind]
    found = unsound_output(outputs, "error")
    assert (found.name, found.count) == (name, count)
    assert (unsound_output(outputs, "keep") is None) == (count > 0)

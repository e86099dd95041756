"""Identities of transformers' extractors are the same on every Python; another code or another scheme changes them.

`python tests/processors/test_golden_identities.py` writes those of the transformers that is installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

import extractors
import pytest

from hf_audio_cache.processors.identity import Fingerprinter, ProcessorIdentity

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "identities.json"
NAMES = (
    *("Clap", "Dac", "Encodec", "Gemma3nAudio", "SeamlessM4T", "Speech2Text", "SpeechT5", "UnivNet", "Wav2Vec2"),
    "Whisper",
)
RELEASE = importlib.metadata.version("transformers")
KIND = "with torch" if importlib.util.find_spec("torch") else "without torch"


def identity(name: str) -> str:
    """Return an identity but for the arrays, of which releases of NumPy may make other bits."""
    description = Fingerprinter(extractors.make(name), {}).identity().description
    state = {name: value for name, value in description["state"].items() if "array" not in json.dumps(value)}
    return ProcessorIdentity.of({**description, "state": state}).sha


@pytest.mark.parametrize("name", NAMES)
def test_the_identity_is_that_of_every_python(name):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    if golden["transformers"] != RELEASE:
        pytest.skip(f"the golden identities are of transformers {golden['transformers']}")
    assert identity(name) == golden[KIND][name]


def test_torch_makes_no_difference_but_for_those_that_compute_with_it():
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    different = {name for name in NAMES if golden["with torch"][name] != golden["without torch"][name]}
    assert different == {"SeamlessM4T", "Whisper"}


if __name__ == "__main__":
    found = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    found |= {"transformers": RELEASE, KIND: {name: identity(name) for name in NAMES}}
    GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    sys.stdout.write(f"{GOLDEN}\n")

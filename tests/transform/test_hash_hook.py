"""What `datasets` takes for the identity of a class that is derived from `CachedFeatures`."""

from __future__ import annotations

import importlib
import sys

import extractors
import pytest
from datasets.fingerprint import Hasher

DERIVED = """
import functools
import numpy as np
from hf_audio_cache import CachedFeatures

def scaled(features):
    return features * 2

class Louder(CachedFeatures):
    gain = 1

    def __call__(self, examples):
        return {name: scaled(np.asarray(value)) * self.gain for name, value in super().__call__(examples).items()}
"""


@pytest.fixture
def hash_of(tmp_path, monkeypatch):
    """``hash_of(source)``: that of an object of the class which this source defines, imported anew."""
    folders = iter(range(100))

    def hash_of(source):
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        (folder / "own_transform.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "own_transform", raising=False)
        importlib.invalidate_caches()
        louder = importlib.import_module("own_transform").Louder
        return Hasher.hash(louder(extractors.make("Wav2Vec2"), tmp_path / "root"))

    return hash_of


EDITS = {
    "the call": ("* self.gain", "+ self.gain"),
    "a function that it uses": ("features * 2", "features * 3"),
    "an attribute of the class": ("gain = 1", "gain = 2"),
    "a new method": ("    gain = 1", "    gain = 1\n\n    def __iter__(self): yield 1"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_class_is_noticed(edit, hash_of):
    before, after = EDITS[edit]
    assert before in DERIVED
    assert hash_of(DERIVED.replace(before, after)) != hash_of(DERIVED)


def test_the_same_class_is_the_same(hash_of):
    moved = DERIVED.replace("import functools", "# a comment\n\nimport functools")
    assert hash_of(DERIVED) == hash_of(moved)


def test_a_class_that_cannot_be_described_can_be_hashed(hash_of):
    """Its results are computed again in each run."""
    source = DERIVED.replace("    gain = 1", "    gain = 1\n    steps = (number for number in range(3))")
    assert hash_of(source) != hash_of(source)

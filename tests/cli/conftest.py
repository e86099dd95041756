"""Roots that are full, to be looked after; recordings and processors, to fill others with."""

from __future__ import annotations

import audio_datasets as data
import configs
import pytest
from full_roots import clips, copy_of, full_roots, root  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def folder(clips, tmp_path_factory):  # noqa: F811
    """A folder of six clips in two folders, with a text file and a bad clip among them."""
    folder = tmp_path_factory.mktemp("recordings")
    data.copies(clips[:3], folder / "a")
    data.copies(clips[3:], folder / "b")
    (folder / "notes.txt").write_text("not audio")
    (folder / "b" / "bad.wav").write_bytes(b"no audio at all")
    return folder


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """Directory of a processor that takes no time."""
    return configs.write_config("wav2vec2", tmp_path_factory.mktemp("processors") / "wav2vec2")


@pytest.fixture(scope="module")
def mel_processor(tmp_path_factory):
    return configs.write_config("seamless_m4t", tmp_path_factory.mktemp("processors") / "seamless_m4t")


@pytest.fixture
def recordings(clips, tmp_path):  # noqa: F811
    data.copies(clips, tmp_path / "recordings")
    return tmp_path / "recordings"

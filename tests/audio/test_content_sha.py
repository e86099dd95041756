"""The SHA-256 of content, remembered by its XXH3."""

import hashlib

import audio_datasets as data
import numpy as np
import pyarrow as pa
import pytest

from hf_audio_cache.audio import content_sha as module
from hf_audio_cache.audio.content_sha import content_sha256
from hf_audio_cache.audio.source import read_source


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(module, "_last", {})
    monkeypatch.setattr(module, "_before", {})


@pytest.fixture
def hashed(monkeypatch):
    """Lengths of what SHA-256 was computed for."""
    lengths = []
    original = module._sha256

    def noted(parts):
        lengths.append(sum(map(len, parts)))
        return original(parts)

    monkeypatch.setattr(module, "_sha256", noted)
    return lengths


@pytest.fixture
def contents(prompts):
    return [clip.read_bytes() for clip in data.shortest(prompts, 5)]


def test_it_is_sha256(contents):
    for content in [*contents, b"", b"x", bytes(module._FEWEST_BYTES)]:
        for _ in range(2):
            assert content_sha256(content) == hashlib.sha256(content).hexdigest()
            assert content_sha256(content[:7], memoryview(content)[7:]) == hashlib.sha256(content).hexdigest()


def test_content_that_comes_again_is_not_hashed_again(contents, hashed):
    for content in contents:
        cells = [content, {"bytes": content, "path": "x.wav"}, pa.py_buffer(content), bytearray(content)]
        assert {read_source(cell).blob_sha for cell in cells} == {hashlib.sha256(content).hexdigest()}
    assert hashed == list(map(len, contents))


def test_arrays_are_known_again_and_by_their_rate(hashed):
    samples = np.arange(8000, dtype=np.float32)
    shas = [read_source({"array": samples.copy(), "sampling_rate": rate}).blob_sha for rate in (8000, 8000, 16000)]
    assert shas[0] == shas[1] != shas[2]
    assert len(hashed) == 2


def test_any_changed_byte_is_other_content(contents):
    content = bytearray(min(contents, key=len))
    shas = {content_sha256(bytes(content))}
    places = range(0, len(content), 37)
    for place in places:
        content[place] ^= 1
        shas.add(content_sha256(bytes(content)))
    assert len(shas) == 1 + len(places)


def test_an_array_that_changes_meanwhile_is_not_remembered(monkeypatch):
    samples = np.zeros(8000, np.uint8)
    original = module._sha256

    def while_somebody_writes(parts):
        samples[0] = 1
        return original(parts)

    with monkeypatch.context() as patched:
        patched.setattr(module, "_sha256", while_somebody_writes)
        assert content_sha256(samples.data) == hashlib.sha256(samples).hexdigest()
    assert content_sha256(bytes(8000)) == hashlib.sha256(bytes(8000)).hexdigest()


def test_old_content_makes_room(hashed, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 3)
    many = [number.to_bytes(2, "big") * module._FEWEST_BYTES for number in range(20)]
    for content in many:
        content_sha256(content)
        content_sha256(many[0])  # what is used often stays
        assert len(module._last) + len(module._before) <= 6
    assert len(hashed) == 20
    content_sha256(many[1])
    assert len(hashed) == 21

"""The SHA-256 of content, remembered by its XXH3."""

import hashlib
import random

import audio_datasets as data
import numpy as np
import pyarrow as pa
import pytest
import xxhash

from hf_audio_cache.audio import content_sha as module
from hf_audio_cache.audio.content_sha import content_sha256
from hf_audio_cache.audio.source import read_source


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    """Begin with empty tables: those of the process remember what other tests hashed."""
    monkeypatch.setattr(module, "_last", {})
    monkeypatch.setattr(module, "_before", {})


@pytest.fixture
def hashed(monkeypatch):
    """Lengths of what SHA-256 was computed for."""
    lengths = []
    original = module._both

    def noted(parts):
        lengths.append(sum(map(len, parts)))
        return original(parts)

    monkeypatch.setattr(module, "_both", noted)
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


@pytest.mark.parametrize("stays", [True, False])
def test_an_array_that_changes_meanwhile_is_not_mixed_up(stays, monkeypatch):
    samples = np.zeros(8000, np.uint8)
    original = module._both

    def while_somebody_writes(parts):
        samples[0] = 1
        written = original(parts)
        samples[0] = stays
        return written

    with monkeypatch.context() as patched:
        patched.setattr(module, "_both", while_somebody_writes)  # a thread would write at another time in each run
        assert content_sha256(samples.data) == hashlib.sha256(b"\1" + bytes(7999)).hexdigest()
    for content in (bytes(8000), b"\1" + bytes(7999)):
        assert content_sha256(content) == hashlib.sha256(content).hexdigest()


def test_an_array_that_changes_while_both_are_computed(monkeypatch):
    samples = np.zeros(3 * module._AT_ONCE, np.uint8)
    original = module._xxh3

    def while_somebody_writes(parts):
        for number, part in enumerate(parts):
            samples[:] = number + 1
            yield part

    with monkeypatch.context() as patched:
        # Between two blocks, where no thread could be made to write.
        patched.setattr(module, "_xxh3", lambda parts: original(while_somebody_writes(parts)))
        known_by, sha = module._both([samples.data])
    read = bytes(module._AT_ONCE) + b"\1" * module._AT_ONCE + b"\2" * module._AT_ONCE
    assert (known_by, sha) == (original([read]), hashlib.sha256(read).digest())


def made_to_be_mixed_up(content):
    """Return two variants of some content, of two 64-bit words, that often have the same XXH3.

    XXH3 adds the products of the halves of each word, after XOR with a constant of its place plus the seed. Two words
    of a block are made so that their lower halves after the XOR are equal for 1.6 % of all seeds. Then flips of the
    uppermost bits of both words change the sums by as much up as down.
    """
    words = np.frombuffer(content[: len(content) // 8 * 8], np.uint64).copy()
    one, other = 128, 128 + 12 * 8  # the first of 8 words in stripes 0 and 12 of the second block of 1 KiB
    top, half = np.uint64(1 << 63), np.uint64((1 << 32) - 1)
    words[one] &= ~top
    words[other] = ((words[one] & half) ^ np.uint64(168428560)) | (words[other] & ~half & ~top)
    variant = words.copy()
    variant[[one, other]] ^= top
    return words.tobytes(), variant.tobytes()


def test_content_that_was_made_to_be_mixed_up_is_not(contents, monkeypatch):
    one, other = made_to_be_mixed_up(max(contents, key=len))
    seeds = [random.Random(number).getrandbits(64) for number in range(2000)]
    assert any(xxhash.xxh3_128_digest(one, seed) == xxhash.xxh3_128_digest(other, seed) for seed in seeds)
    for _ in seeds:
        monkeypatch.setattr(module, "_BEGUN", module._begin())  # as in another process
        assert module._xxh3([one]) != module._xxh3([other])


def test_old_content_makes_room(hashed, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 3)  # the real one takes 65,536 clips to fill
    many = [number.to_bytes(2, "big") * module._FEWEST_BYTES for number in range(20)]
    for content in many:
        content_sha256(content)
        content_sha256(many[0])  # what is used often stays
        assert len(module._last) + len(module._before) <= 6
    assert len(hashed) == 20
    content_sha256(many[1])
    assert len(hashed) == 21

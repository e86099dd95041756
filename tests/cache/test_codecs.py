"""The registry of codecs: names and suffixes are part of the format, and a new codec is one line."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from hf_audio_cache import AudioCache, AudioCacheKey, CacheRoot
from hf_audio_cache.cache import codecs
from hf_audio_cache.cache.codecs.codec import Codec, Encoded
from hf_audio_cache.errors import UnstorableOutputError

KEY = AudioCacheKey("ab" * 32, "7d865e95" * 8, 16_000, 0)
GOLDEN = {"raw": "", "json": ".json", "blosc": ".blosc", "pcm16": ".pcm16.blosc"}


class Deflated(Codec):
    """A codec of a contributor's."""

    name, suffix, max_ratio = "zlib", ".zlib", 1032

    def encode(self, name, value):
        payload = np.frombuffer(zlib.compress(value.tobytes()), np.uint8)
        return Encoded(payload, value.dtype, value.shape)

    def decode(self, member, header, payload, place=None):
        content = zlib.decompressobj().decompress(payload, member.n_bytes)
        return np.frombuffer(content, member.dtype).reshape(member.shape).copy()


def test_names_and_suffixes_are_those_of_the_format():
    assert {name: codec.suffix for name, codec in codecs._BY_NAME.items()} == GOLDEN
    assert all(name == codec.name for name, codec in codecs._BY_NAME.items())
    assert list(codecs.COMPRESSIONS) == [None, "blosc"]


def test_a_codec_is_its_class_and_a_line_in_the_registry(tmp_path, monkeypatch):
    deflated = Deflated()
    monkeypatch.setitem(codecs.COMPRESSIONS, "zlib", (deflated,))
    monkeypatch.setitem(codecs._BY_NAME, deflated.name, deflated)
    cache = AudioCache(CacheRoot(tmp_path, compression="zlib"))
    outputs = {"zeros": np.zeros((30, 400), np.float32), "mask": np.eye(5, dtype=bool), "text": {"a": [1, None]}}
    path = cache.put(KEY, outputs)
    found = cache.get_all(KEY)
    assert found["text"] == outputs["text"]
    for name in ("zeros", "mask"):
        assert (found[name].dtype, found[name].tobytes()) == (outputs[name].dtype, outputs[name].tobytes())
    assert path.stat().st_size < 2000
    with np.load(path, allow_pickle=False) as npz:
        assert sorted(npz.files) == ["mask.zlib", "text.json", "zeros.zlib"]


def test_what_no_codec_holds_is_refused():
    for compression in codecs.COMPRESSIONS:
        with pytest.raises(UnstorableOutputError, match="booleans or numbers"):
            codecs.encode("x", np.array(["text"]), compression)
        with pytest.raises(UnstorableOutputError, match="JSON value"):
            codecs.encode("x", object(), compression)

"""What most tests of the transform start from: eight clips, Wav2Vec2's extractor, and what it makes of them."""

from __future__ import annotations

import audio_datasets as data
import pytest

from hf_audio_cache import CachedFeatures
from hf_audio_cache.transform.stand_in import ExtractorCache


@pytest.fixture
def wav2vec2(make_processor):
    return make_processor("wav2vec2")


@pytest.fixture
def expected(wav2vec2, clips):
    return [data.expected_features(wav2vec2, clip, auto_resample=True) for clip in clips]


@pytest.fixture
def cached_features(wav2vec2, tmp_path):
    return CachedFeatures(wav2vec2, tmp_path / "root", auto_resample=True)


@pytest.fixture
def calls(monkeypatch):
    """The calls that stand-ins have handed to their extractors."""
    calls, answer = [], ExtractorCache.call

    def counted(cache, call, positional, named):
        def real(*args, **kwargs):
            calls.append(args)
            return call(*args, **kwargs)

        return answer(cache, real, positional, named)

    monkeypatch.setattr(ExtractorCache, "call", counted)
    return calls

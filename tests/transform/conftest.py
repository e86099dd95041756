"""What most tests of the transform start from: eight clips, an extractor, and what it makes of them.

The extractor is Wav2Vec2's; tests of references take SeamlessM4T's, which has two outputs, on a warm root.
"""

from __future__ import annotations

import shutil

import audio_datasets as data
import configs
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
def seamless(make_processor):
    return make_processor("seamless_m4t")


@pytest.fixture(scope="module")
def wanted(clips):
    """What `seamless` makes of the clips."""
    extractor = configs.make_processor("seamless_m4t")
    return [data.expected_features(extractor, clip, auto_resample=True) for clip in clips]


@pytest.fixture(scope="module")
def warm_root(clips, tmp_path_factory):
    """A root that has the features of the clips by `seamless`; not to be changed."""
    root = tmp_path_factory.mktemp("warm")
    warm = CachedFeatures(configs.make_processor("seamless_m4t"), root, auto_resample=True)
    warm({"audio": data.columns(clips)["audio"]})
    return root


@pytest.fixture
def own_root(warm_root, tmp_path):
    """A copy of the warm root, to be changed."""
    return shutil.copytree(warm_root, tmp_path / "own")


@pytest.fixture
def warm(seamless, warm_root):
    return CachedFeatures(seamless, warm_root, auto_resample=True)


@pytest.fixture
def references(warm, clips):
    return warm.map(data.in_memory(clips))


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

"""What most tests of the transform start from: eight clips, an extractor, and what it makes of them.

The extractor is Wav2Vec2's; tests of references take SeamlessM4T's, which has two outputs, on a warm root.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import Any

import audio_datasets as data
import clusters
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


@pytest.fixture(scope="session")
def count_file(tmp_path_factory):
    return tmp_path_factory.mktemp("counted") / "clips"


_RUNNING: list[Any] = []
_AT_THE_END = contextlib.ExitStack()


@pytest.fixture
def cluster(count_file):
    """A Ray cluster, at first of one node, for all tests of Ray here: its workers take long to import everything."""
    if not _RUNNING:
        _RUNNING.append(_AT_THE_END.enter_context(clusters.cluster(has_torch=False, COUNTED=str(count_file))))
    return _RUNNING[0]


@pytest.fixture
def nodes(cluster):
    """The same with two nodes, for a test that may leave it with more."""
    while len(cluster.list_all_nodes()) < 2:
        clusters.add_node(cluster)
    return cluster


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """End the cluster after the last test of Ray here, not with the session: Ray takes over signals."""
    if nextitem is None or nextitem.path.parent != item.path.parent or not nextitem.get_closest_marker("ray"):
        _RUNNING.clear()
        _AT_THE_END.close()


@pytest.fixture
def counted(count_file):
    """``counted()``: what `counting.CountingExtractor` has processed on the workers, in this test."""
    import counting  # which imports transformers

    count_file.write_text("")
    return lambda: counting.counted(count_file)

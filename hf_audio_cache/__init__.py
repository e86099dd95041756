"""A plugin for Hugging Face `datasets` that makes audio preprocessing a one-time cost.

``ds.map(cached_features)`` fingerprints the audio processor and routes each example's audio through two
content-addressed caches, of decoded waveforms and of the processor's features, so that nothing is ever decoded or
extracted twice.
"""

from __future__ import annotations

__version__ = "0.2.0"

import importlib
import os
import sys
import typing

if typing.TYPE_CHECKING:
    from .cache.caches import AudioCache, WaveformCache
    from .cache.keys import AudioCacheKey, WaveformCacheKey
    from .cache.root import CacheRoot
    from .cache.stats import BadClip, Stats
    from .maintenance.delete import PruneReport
    from .maintenance.explain import Explanation
    from .maintenance.pack import PackReport, pack
    from .maintenance.prune import prune
    from .maintenance.usage import Usage, usage
    from .maintenance.verify import VerifyReport, verify
    from .processors.identity import processor_sha256
    from .transform.cached_array import CachedArray
    from .transform.cached_features import CachedFeatures
    from .transform.cached_waveforms import CachedWaveforms
    from .transform.coverage import Coverage
    from .transform.estimate import Estimate

_HOMES = {
    **dict.fromkeys(("AudioCache", "WaveformCache"), "cache.caches"),
    **dict.fromkeys(("AudioCacheKey", "WaveformCacheKey"), "cache.keys"),
    "CacheRoot": "cache.root",
    **dict.fromkeys(("BadClip", "Stats"), "cache.stats"),
    "Explanation": "maintenance.explain",
    **dict.fromkeys(("PackReport", "pack"), "maintenance.pack"),
    "PruneReport": "maintenance.delete",
    "prune": "maintenance.prune",
    **dict.fromkeys(("Usage", "usage"), "maintenance.usage"),
    **dict.fromkeys(("VerifyReport", "verify"), "maintenance.verify"),
    "processor_sha256": "processors.identity",
    "CachedArray": "transform.cached_array",
    "CachedFeatures": "transform.cached_features",
    "CachedWaveforms": "transform.cached_waveforms",
    "Coverage": "transform.coverage",
    "Estimate": "transform.estimate",
}


def __getattr__(name: str) -> typing.Any:
    """Import what is asked for by its name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = found
    return found


__all__ = [
    "AudioCache",
    "AudioCacheKey",
    "BadClip",
    "CacheRoot",
    "CachedArray",
    "CachedFeatures",
    "CachedWaveforms",
    "Coverage",
    "Estimate",
    "Explanation",
    "PackReport",
    "PruneReport",
    "Stats",
    "Usage",
    "VerifyReport",
    "WaveformCache",
    "WaveformCacheKey",
    "__version__",
    "pack",
    "processor_sha256",
    "prune",
    "usage",
    "verify",
]

# All of it at once, since `datasets` must know the type of references when it reads a dataset with them. The command
# imports what it needs: its --help would wait for `datasets`.
if os.path.basename(sys.argv[0] if sys.argv else "").partition(".")[0] != "hf-audio-cache":
    for _name in _HOMES:
        __getattr__(_name)

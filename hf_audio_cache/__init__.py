"""A plugin for Hugging Face `datasets` that makes audio preprocessing a one-time cost.

``ds.map(cached_features)`` fingerprints the audio processor and routes each example's audio through two
content-addressed caches, of decoded waveforms and of the processor's features, so that nothing is ever decoded or
extracted twice.
"""

from __future__ import annotations

__version__ = "0.2.0"

from .cache.caches import AudioCache, WaveformCache
from .cache.keys import AudioCacheKey, WaveformCacheKey
from .cache.root import CacheRoot
from .cache.stats import BadClip, Stats
from .maintenance.explain import Explanation
from .maintenance.prune import PruneReport, prune
from .maintenance.usage import Usage, usage
from .maintenance.verify import VerifyReport, verify
from .processors.identity import processor_sha256
from .transform.cached_array import CachedArray
from .transform.cached_features import CachedFeatures
from .transform.cached_waveforms import CachedWaveforms
from .transform.coverage import Coverage
from .transform.estimate import Estimate

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
    "PruneReport",
    "Stats",
    "Usage",
    "VerifyReport",
    "WaveformCache",
    "WaveformCacheKey",
    "__version__",
    "processor_sha256",
    "prune",
    "usage",
    "verify",
]

"""A plugin for Hugging Face `datasets` that makes audio preprocessing a one-time cost.

``ds.map(cached_features)`` fingerprints the audio processor and routes each example's audio through two
content-addressed caches, of decoded waveforms and of the processor's features, so that nothing is ever decoded or
extracted twice.
"""

from __future__ import annotations

__version__ = "0.1.0"

from .caches import AudioCache, WaveformCache
from .coverage import Coverage
from .estimate import Estimate
from .explain import Explanation
from .fingerprint import processor_sha256
from .keys import AudioCacheKey, WaveformCacheKey
from .maintenance import VerifyReport, verify
from .pruning import PruneReport, prune
from .reference import CachedArray
from .stats import BadClip, Stats
from .transform import CachedFeatures
from .usage import Usage, usage

__all__ = [
    "AudioCache",
    "AudioCacheKey",
    "BadClip",
    "CachedArray",
    "CachedFeatures",
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

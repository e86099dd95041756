"""A batch of clips on its way to features.

`FeaturePipeline` takes audio cells and returns the outputs of the processor. It hands a batch through steps, each a
module of its own: `look_up` identifies the clips and asks the cache, `waveforms` reads or decodes what is missing,
`compute` calls the processor, `store` writes in the background. `storage_policy` decides whether features are stored,
and `settings` holds all settings as frozen values. `WaveformPipeline` is the part of it before the processor;
`ClipPipeline` what both share.
"""

from .feature_pipeline import FeaturePipeline
from .settings import FeatureSettings, ResultSettings, WaveformSettings
from .storage_policy import Policy
from .waveform_pipeline import WaveformPipeline

__all__ = [
    "FeaturePipeline",
    "FeatureSettings",
    "Policy",
    "ResultSettings",
    "WaveformPipeline",
    "WaveformSettings",
]

"""The settings of a cached processor, each defined once: for the constructor, pickles, hashes, keys and the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..cache.keys import AudioCacheKey, WaveformCacheKey
from ..processors.precision import FloatType, check_dtype
from ..processors.soundness import Nonfinite, check_nonfinite
from .storage_policy import Policy, check_policy

__all__ = ["FeatureSettings", "WaveformSettings"]


@dataclass(frozen=True)
class WaveformSettings:
    """How a clip becomes a waveform; part of the keys of both caches.

    Attributes
    ----------
    sampling_rate
        Rate of the waveform in Hz.
    max_length_ms
        Cap on its length in milliseconds; 0 for no cap.
    auto_resample
        Whether clips at another rate are resampled; otherwise they are errors.
    """

    sampling_rate: int
    max_length_ms: int = 0
    auto_resample: bool = False

    def waveform_key(self, blob_sha: str) -> WaveformCacheKey:
        """Return the key of a clip's waveform."""
        return WaveformCacheKey(blob_sha, self.sampling_rate, self.max_length_ms, self.auto_resample)

    def features_key(self, blob_sha: str, processor_sha: str) -> AudioCacheKey:
        """Return the key of a clip's features."""
        return AudioCacheKey(blob_sha, processor_sha, self.sampling_rate, self.max_length_ms, self.auto_resample)

    def arguments(self) -> dict[str, Any]:
        """Return the settings by name, as the decoder takes them."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True)
class FeatureSettings:
    """How examples become features, apart from the processor and the cache.

    Attributes
    ----------
    waveform
        How clips become waveforms.
    audio_column, output_names, on_error, reason_column
        As in `CachedFeatures`: where the audio is found, and the form of what is returned.
    processor_kwargs, dtype, nonfinite
        As in `CachedFeatures`; part of the processor's identity.
    features, waveforms
        As in `CachedFeatures`: what is stored.

    Raises
    ------
    ValueError
        Naming the setting that is invalid.
    """

    waveform: WaveformSettings
    audio_column: str = "audio"
    output_names: Mapping[str, str] = field(default_factory=dict)
    on_error: str = "raise"
    reason_column: str | None = None
    processor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    dtype: FloatType | None = None
    nonfinite: Nonfinite = "error"
    features: Policy = "auto"
    waveforms: Policy = "auto"

    def __post_init__(self) -> None:
        # Copies: the caller may change what it passed.
        object.__setattr__(self, "output_names", dict(self.output_names))
        object.__setattr__(self, "processor_kwargs", dict(self.processor_kwargs))
        if self.on_error not in ("raise", "null", "skip"):
            raise ValueError(f'on_error must be "raise", "null" or "skip", not {self.on_error!r}; nothing was opened.')
        if self.reason_column is not None and self.on_error != "null":
            raise ValueError(
                f'reason_column needs on_error="null", and on_error is {self.on_error!r}: then every row that is '
                "returned has features. For the reasons see cached_features.bad_clips. Nothing was opened."
            )
        if self.reason_column in ("", self.audio_column):
            raise ValueError(
                f"reason_column must be a name of its own, not {self.reason_column!r}; nothing was opened."
            )
        check_dtype(self.dtype)
        check_nonfinite(self.nonfinite)
        check_policy(features=self.features, waveforms=self.waveforms)

    def form_of_results(self) -> dict[str, Any]:
        """Return the settings that decide what a call returns, apart from those in the processor's identity."""
        return {
            "audio_column": self.audio_column,
            "output_names": self.output_names,
            "on_error": self.on_error,
            "reason_column": self.reason_column,
            **self.waveform.arguments(),
        }

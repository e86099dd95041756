"""The settings of a cached processor, each defined once: for the constructor, pickles, hashes, keys and the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from ..audio.channels import Channels
from ..audio.length import ClipLength, Longer, Truncated
from ..cache.keys import AudioCacheKey, WaveformCacheKey, check_channels, check_sampling_rate
from ..processors.precision import FloatType
from ..processors.soundness import Nonfinite
from ..support.checks import check_choice
from ..support.secrets import Secret
from .storage_policy import Policy

_OUTCOME = "nothing was opened"


@dataclass(frozen=True)
class WaveformSettings:
    """How a clip becomes a waveform."""

    sampling_rate: int  # of the waveform, in Hz
    max_length_ms: int = 0  # 0 for no cap
    auto_resample: bool = False  # whether clips at another rate are resampled; otherwise they are errors
    channels: Channels = "mean"  # up to here the settings are part of the keys of both caches
    longer: Longer = "cut"  # whether clips longer than the cap are cut, or errors
    truncated: Truncated = "error"  # whether files that lack some of their audio are errors, or accepted

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampling_rate", check_sampling_rate(self.sampling_rate))
        object.__setattr__(self, "channels", check_channels(self.channels))
        check_choice("longer", self.longer, get_args(Longer), _OUTCOME)
        check_choice("truncated", self.truncated, get_args(Truncated), _OUTCOME)
        if self.longer == "error" and not self.max_length_ms:
            raise ValueError('longer="error" needs max_length_seconds=, which says how long a clip may be.')

    def waveform_key(self, blob_sha: str) -> WaveformCacheKey:
        """Return the key of a clip's waveform."""
        return WaveformCacheKey(blob_sha, *self.arguments().values())

    def features_key(self, blob_sha: str, processor_sha: str) -> AudioCacheKey:
        """Return the key of a clip's features."""
        return AudioCacheKey(blob_sha, processor_sha, *self.arguments().values())

    def arguments(self) -> dict[str, Any]:
        """Return the settings by name, as a `Request` takes them, in the order in which keys have them."""
        return {
            "sampling_rate": self.sampling_rate,
            "max_length_ms": self.max_length_ms,
            "auto_resample": self.auto_resample,
            "channels": self.channels,
        }

    def check(self, length: ClipLength, clip: str) -> None:
        """Raise the error of a clip that is too long or not whole, if such clips are not wanted."""
        length.check(clip, truncated=self.truncated, longer=self.longer, max_length_ms=self.max_length_ms)


def _copied(name: str, given: object) -> dict[str, Any]:
    """Return a copy of a dict, which the caller may change."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{name} must be a dict, not {given!r}; nothing was opened.")
    return dict(given)


@dataclass(frozen=True)
class ResultSettings:
    """How examples become results, be these waveforms or features."""

    waveform: WaveformSettings  # how clips become waveforms
    audio_column: str = "audio"
    data_dir: str | None = None
    audio_storage_options: Secret[Mapping[str, Any]] | None = None
    output_names: Mapping[str, str] = field(default_factory=dict)
    on_error: str = "raise"
    reason_column: str | None = None
    length_column: str | None = None
    waveforms: Policy = "auto"  # whether waveforms are stored

    def __post_init__(self) -> None:
        object.__setattr__(self, "output_names", _copied("output_names", self.output_names))
        column: object = self.audio_column
        if not isinstance(column, str) or not column:
            raise ValueError(f"audio_column must be the name of a column, not {column!r}; nothing was opened.")
        check_choice("on_error", self.on_error, ("raise", "null", "skip"), _OUTCOME)
        if self.reason_column is not None and self.on_error != "null":
            raise ValueError(
                f'reason_column needs on_error="null", and on_error is {self.on_error!r}: then no row that is returned '
                "lacks its result. For the reasons see bad_clips. Nothing was opened."
            )
        for name in ("reason_column", "length_column"):
            if getattr(self, name) in ("", self.audio_column):
                raise ValueError(f"{name} must be a name of its own, not {getattr(self, name)!r}; nothing was opened.")
        check_choice("waveforms", self.waveforms, get_args(Policy), _OUTCOME)

    def form_of_results(self) -> dict[str, Any]:
        """Return the settings that decide what a call returns, apart from those in the processor's identity."""
        return {
            "audio_column": self.audio_column,
            "data_dir": self.data_dir,
            "output_names": self.output_names,
            "on_error": self.on_error,
            "reason_column": self.reason_column,
            "length_column": self.length_column,
            **vars(self.waveform),
        }

    @property
    def needs_length(self) -> bool:
        """Whether an entry without the length of its clip is of no use."""
        return self.length_column is not None or self.waveform.longer == "error"


@dataclass(frozen=True)
class FeatureSettings(ResultSettings):
    """How examples become features, apart from the processor and the cache."""

    # The first three are part of the processor's identity.
    processor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    dtype: FloatType | None = None
    nonfinite: Nonfinite = "error"
    features: Policy = "auto"  # whether features are stored

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "processor_kwargs", _copied("processor_kwargs", self.processor_kwargs))
        check_choice("dtype", self.dtype, (*get_args(FloatType), None), _OUTCOME)
        check_choice("nonfinite", self.nonfinite, get_args(Nonfinite), _OUTCOME)
        check_choice("features", self.features, get_args(Policy), _OUTCOME)

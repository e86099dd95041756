"""`CachedWaveforms`: decoded audio for `datasets`, for crops, noise, and processors of text and audio together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..audio.channels import Channels
from ..audio.length import Longer, Truncated
from ..cache.keys import max_length_ms
from ..cache.root import CacheRoot, as_cache_root
from ..pipeline.settings import ResultSettings, WaveformSettings
from ..pipeline.waveform_pipeline import AUDIO, WAVEFORM, WaveformPipeline
from ..support.secrets import secret_options
from .cached_transform import CachedTransform


class CachedWaveforms(CachedTransform):
    """Decoded waveforms for `datasets`, each decoded once and then read from a cache.

    It has the three forms of `CachedFeatures`. The audio column becomes what `datasets` decodes it to, a dict of
    ``array`` and ``sampling_rate``, without torch or torchcodec. The cache is the one that features are made from:
    what either has decoded, the other finds.

    Parameters
    ----------
    root, audio_column, data_dir, audio_storage_options, max_length_seconds, longer, auto_resample, channels, truncated
        As in `CachedFeatures`.
    sampling_rate
        Rate in Hz of the waveforms.
    array_column
        Name of a column for the arrays alone: float32 of shape (n_samples,), or (n_channels, n_samples) for
        ``channels="all"``. The audio column then stays as it is.
    on_error, reason_column, length_column
        As in `CachedFeatures`, for clips that cannot be read or decoded.

    Raises
    ------
    InvalidKeyError
        If the rate, the cap or the channels are invalid.
    ValueError
        If another setting is invalid.

    Notes
    -----
    `map` stores each waveform. A call and `attach` leave out those that are decoded as fast as an entry is read: 16-bit
    WAVs at this rate, and arrays.

    Pass the types: ``ds.map(cached_waveforms, features=cached_waveforms.features(ds.features))``. Otherwise `datasets`
    takes the new audio column for one of its own type, and encodes each clip again, with 16 bits a sample, for which it
    needs torchcodec. With `array_column` it does neither.

    Examples
    --------
    >>> cached_waveforms = CachedWaveforms(sampling_rate=16_000, auto_resample=True)  # doctest: +SKIP
    >>> ds = cached_waveforms.attach(ds)  # ds[0]["audio"]["array"]                   # doctest: +SKIP
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | CacheRoot | None = None,
        *,
        sampling_rate: int,
        array_column: str | None = None,
        audio_column: str = "audio",
        data_dir: str | os.PathLike[str] | None = None,
        audio_storage_options: Mapping[str, Any] | None = None,
        max_length_seconds: float | None = None,
        longer: Longer = "cut",
        auto_resample: bool = False,
        channels: Channels = "mean",
        truncated: Truncated = "error",
        on_error: str = "raise",
        reason_column: str | None = None,
        length_column: str | None = None,
    ) -> None:
        if array_column in ("", audio_column):
            raise ValueError(f"array_column must be a name of its own, not {array_column!r}; nothing was opened.")
        settings = ResultSettings(
            WaveformSettings(
                sampling_rate, max_length_ms(max_length_seconds), auto_resample, channels, longer, truncated
            ),
            audio_column=audio_column,
            data_dir=None if data_dir is None else os.path.abspath(data_dir),
            audio_storage_options=secret_options(audio_storage_options),
            output_names={AUDIO: audio_column} if array_column is None else {WAVEFORM: array_column},
            on_error=on_error,
            reason_column=reason_column,
            length_column=length_column,
        )
        pipeline = WaveformPipeline(CacheRoot() if root is None else as_cache_root(root), settings)
        pipeline.key("0" * 64, None)  # raises now if a setting cannot be used
        super().__init__(pipeline)

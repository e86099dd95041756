"""`CachedFeatures`: the callable for ``ds.map``, and its two companions that keep arrays out of Arrow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

from ..audio.channels import Channels
from ..audio.length import Longer, Truncated
from ..cache.caches import AudioCache
from ..cache.keys import max_length_ms
from ..cache.root import CacheRoot, as_cache_root
from ..pipeline.feature_pipeline import FeaturePipeline
from ..pipeline.settings import FeatureSettings, WaveformSettings
from ..pipeline.storage_policy import Policy
from ..processors.extractor import (
    NamedFunction,
    audio_part,
    check_arguments,
    check_takes_channels,
    name_of,
    processor_sampling_rate,
)
from ..processors.precision import FloatType
from ..processors.soundness import Nonfinite
from ..support.secrets import secret_options
from .cached_transform import CachedTransform
from .coverage import Coverage, coverage
from .estimate import Estimate, estimate
from .stand_in import ExtractorCache, stand_in


class CachedFeatures(CachedTransform):
    """A processor's audio features for `datasets`, each computed once and then read from a cache.

    Call it through ``ds.map(cached_features)``, batched or not, on datasets and streams, or from a function of your
    own: it returns the processor's outputs as NumPy arrays without a batch axis. Each clip is computed on its own;
    padding to the longest of a batch is the collator's work.

    Parameters
    ----------
    processor
        A feature extractor of transformers, or a processor that has one.
    root
        Where the cache is: a directory, a URL, or a `CacheRoot`, which also says how it is reached. By default
        ``$HF_AUDIO_CACHE``, else ``$HF_HOME/audio_cache``, else ``~/.cache/huggingface/audio_cache``. The first entry
        that is stored creates it.
    audio_column
        Name of the column that holds the audio. If there is none, its parts are taken from ``audio.bytes`` and the
        like, as `datasets.Dataset.flatten` names them, or from columns ``array`` and ``sampling_rate``.
    data_dir
        Folder from which relative paths of audio files start, such as that of a JSONL manifest; by default the working
        directory.
    audio_storage_options
        Options of the file system of audio at URLs (``s3://…``), such as its credentials; by default it looks for them
        as it does for `datasets`. They stay in this process and its children, as those of a `CacheRoot`.
    sampling_rate
        Rate in Hz of the waveforms that the processor takes. Needed only if the processor does not say it.
    max_length_seconds
        Cap on the length of a clip. None for no cap.
    longer
        What becomes of a longer clip: ``"cut"`` takes its beginning, ``"error"`` makes it an `AudioTooLongError`, which
        `on_error` may leave out.
    auto_resample
        Whether clips at another rate are resampled; otherwise they are errors.
    channels
        What becomes of a clip with several channels: their ``"mean"``, the channel of a number from 0 on, or ``"all"``,
        an array of shape (n_channels, n_samples), for processors that take it. It is part of the key.
    truncated
        A file that lacks 100 ms or more of what its header promises is an ``"error"`` of its clip. ``"accept"`` takes
        what is there.
    processor_kwargs
        Further arguments of the feature extractor's call, which a processor around it takes as ``audio_kwargs``. They
        are part of the key.
    output_names
        New names for outputs, such as ``{"attention_mask": "feature_attention_mask"}``.
    dtype
        ``"float16"`` or ``"bfloat16"``: the type to which floating-point arrays are rounded. It is part of the key.
        NumPy has no bfloat16: such features stay float32 arrays, of which the lower 16 bits are zero.
    nonfinite
        Outputs with NaN or infinite values are errors of their clips, as are those without frames. ``"keep"`` takes the
        values, for a front end that means them. It is part of the key.
    features
        Whether features are stored. ``"auto"`` measures, on the first clips that a process computes, whether reading
        them is faster than making them from the waveform, and logs it if it is not. `map` stores them always.
    waveforms
        Whether decoded waveforms are stored, for the next processor. ``"auto"`` leaves out clips that are decoded as
        fast as an entry is read: 16-bit WAVs at the processor's rate, and arrays.
    on_error
        ``"raise"`` ends the run at a clip that cannot be read, decoded or extracted. ``"null"`` gives its row None.
        ``"skip"`` leaves its row out, in ``ds.map(cached_features, batched=True)``, `map`, and `attach` of a stream.
        `bad_clips` lists such clips. (With ``"null"``, `datasets` takes the column's type from the first rows. If they
        may be None, pass ``features=`` to its ``map``, as under `features`.)
    reason_column
        With ``on_error="null"``: name of a further column that says why a row has no features, and "" if it has.
    length_column
        Name of a further column that says how long each clip is: samples, at the processor's rate, of the waveform that
        its features were made from. Nothing is decoded to find it.
    identity
        Makes a function of your own a processor: ``CachedFeatures(function, identity="my-mel-v1",
        sampling_rate=16_000)``. ``function(waveform, sampling_rate, **processor_kwargs)`` returns an array or arrays by
        name. It also names a feature extractor whose state cannot be described. The key knows either by this name
        alone: give it a new one whenever it computes something else.

    Raises
    ------
    ProcessorError, UnfingerprintableProcessorError
        If the processor cannot be called for audio, or its state has no canonical description.
    InvalidKeyError
        If the rate, the cap or the channels are invalid.
    ValueError
        If another setting is invalid.

    Examples
    --------
    >>> cached_features = CachedFeatures(processor)                     # doctest: +SKIP
    >>> ds = ds.map(cached_features)           # arrays into Arrow      # doctest: +SKIP
    >>> ds = cached_features.map(ds)           # references into Arrow  # doctest: +SKIP
    >>> ds = cached_features.attach(ds)        # nothing into Arrow     # doctest: +SKIP
    """

    def __init__(
        self,
        processor: Any,
        root: str | os.PathLike[str] | CacheRoot | None = None,
        *,
        audio_column: str = "audio",
        data_dir: str | os.PathLike[str] | None = None,
        audio_storage_options: Mapping[str, Any] | None = None,
        sampling_rate: int | None = None,
        max_length_seconds: float | None = None,
        longer: Longer = "cut",
        auto_resample: bool = False,
        channels: Channels = "mean",
        truncated: Truncated = "error",
        processor_kwargs: Mapping[str, Any] | None = None,
        output_names: Mapping[str, str] | None = None,
        dtype: FloatType | None = None,
        nonfinite: Nonfinite = "error",
        features: Policy = "auto",
        waveforms: Policy = "auto",
        on_error: str = "raise",
        reason_column: str | None = None,
        length_column: str | None = None,
        identity: str | None = None,
    ) -> None:
        if identity is not None:
            processor = NamedFunction(processor, identity)
        rate = processor_sampling_rate(processor, sampling_rate)
        check_takes_channels(processor, channels)
        check_arguments(processor, processor_kwargs or {})
        settings = FeatureSettings(
            WaveformSettings(rate, max_length_ms(max_length_seconds), auto_resample, channels, longer, truncated),
            audio_column=audio_column,
            data_dir=None if data_dir is None else os.path.abspath(data_dir),
            audio_storage_options=secret_options(audio_storage_options),
            output_names=output_names or {},
            on_error=on_error,
            reason_column=reason_column,
            length_column=length_column,
            processor_kwargs=processor_kwargs or {},
            dtype=dtype,
            nonfinite=nonfinite,
            features=features,
            waveforms=waveforms,
        )
        pipeline = FeaturePipeline(processor, CacheRoot() if root is None else as_cache_root(root), settings)
        pipeline.key("0" * 64, pipeline.identity())  # raises now if the processor or a setting cannot be used
        super().__init__(pipeline)

    @property
    def pipeline(self) -> FeaturePipeline:
        """What looks up, computes and stores features. For the package itself and its tests: it may change."""
        return cast(FeaturePipeline, self.columns.pipeline)

    @property
    def audio_cache(self) -> AudioCache:
        """The cache of features."""
        return self.pipeline.audio_cache

    @property
    def processor(self) -> Any:
        """The processor; its state may be changed between two calls, and counts from the next one on."""
        return self.pipeline.processor

    @property
    def processor_sha(self) -> str:
        """Identity of the processor as it is now, 64 hexadecimal digits."""
        return self.pipeline.identity().sha

    def _processor_in_words(self) -> str:
        return f"{name_of(self.processor)} {self.processor_sha[:12]}, "

    def coverage(self, dataset: Any) -> Coverage:
        """Say how many rows of a dataset are cached, and estimate the rest from a sample.

        Nothing is stored. The root is asked, and not what this machine's near tier has of it.

        Parameters
        ----------
        dataset
            A dataset, or a dict of them, with the audio column.

        Returns
        -------
        Coverage
            Rows and distinct clips that are there, and what the others will take.

        Raises
        ------
        AudioColumnError
            If there is no such column.
        """
        return coverage(self.pipeline, dataset)

    def estimate(self, dataset: Any, *, sample: int = 64) -> Estimate:
        """Say what caching a dataset will take, and whether it pays, from some of its rows; nothing is stored.

        Parameters
        ----------
        dataset
            A dataset, or a dict of them, with the audio column.
        sample
            How many rows to try.

        Returns
        -------
        Estimate
            Bytes and seconds with and without the cache, and a verdict.

        Raises
        ------
        AudioColumnError
            If there is no such column.
        ValueError
            If `sample` is less than 1.
        """
        return estimate(self.pipeline, dataset, sample=sample)

    def feature_extractor(self) -> Any:
        """Return a stand-in for the processor's feature extractor, which answers from the cache where it can.

        A processor takes it in the place of its own: ``processor.feature_extractor =
        cached_features.feature_extractor()``. So the scripts and collators of multimodal models work as they are. It
        is an object of the extractor's class, shares its attributes, is saved and pickled as it is, and returns the
        same bits.

        It is called with arrays, at the extractor's rate. They are known by their content. The arguments of the call
        decide, and of the settings of this object the root, `features` and `waveforms` alone.

        A call for several clips is answered from the cache where each clip has the features that it has alone: padded
        to a fixed length, or padded after it was normalised. The first results are compared with the extractor's. All
        other calls go to the extractor itself, which is logged once.

        Returns
        -------
        object
            Of the class of the extractor.

        Raises
        ------
        ProcessorError
            If there is no feature extractor, but a function.
        """
        pipeline, settings = self.pipeline, self.pipeline.settings
        policies = {"features": settings.features, "waveforms": settings.waveforms}
        extractor, run = audio_part(self.processor), pipeline.access_log.run
        return stand_in(ExtractorCache(extractor, pipeline.root.root, policies, pipeline.counters, run))

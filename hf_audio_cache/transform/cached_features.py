"""`CachedFeatures`: the callable for ``ds.map``, and its two companions that keep arrays out of Arrow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy.typing as npt

from ..audio.channels import Channels
from ..audio.length import Longer, Truncated
from ..audio.source import located, read_source
from ..cache.caches import AudioCache, WaveformCache
from ..cache.keys import max_length_ms
from ..cache.root import CacheRoot, as_cache_root
from ..cache.stats import BadClip, Stats
from ..maintenance.explain import Explanation, explain_key
from ..pipeline.feature_pipeline import FeaturePipeline
from ..pipeline.settings import FeatureSettings, WaveformSettings
from ..pipeline.storage_policy import Policy
from ..processors.extractor import NamedFunction, check_takes_channels, name_of, processor_sampling_rate
from ..processors.precision import FloatType
from ..processors.soundness import Nonfinite
from .attach import attach
from .audio_rows import of_each_split
from .batch_formats import read_batch
from .collate import collate
from .coverage import Coverage, coverage
from .estimate import Estimate, estimate
from .feature_columns import FeatureColumns
from .hash_hook import hash_by
from .references import make_references, materialize

__all__ = ["CachedFeatures"]

DatasetT = TypeVar("DatasetT", datasets.Dataset, datasets.DatasetDict)
AnyDatasetT = TypeVar(
    "AnyDatasetT", datasets.Dataset, datasets.DatasetDict, datasets.IterableDataset, datasets.IterableDatasetDict
)


class CachedFeatures:
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
        Further arguments of the processor's call. They are part of the key.
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
        settings = FeatureSettings(
            WaveformSettings(rate, max_length_ms(max_length_seconds), auto_resample, channels, longer, truncated),
            audio_column=audio_column,
            data_dir=None if data_dir is None else os.path.abspath(data_dir),
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
        self.columns = FeatureColumns(pipeline)

    def __init_subclass__(cls) -> None:
        hash_by(cls, cls._hashed_state)  # the hook below is for one class, and not for those derived from it

    @property
    def pipeline(self) -> FeaturePipeline:
        """What looks up, computes and stores features. For the package itself and its tests: it may change."""
        return self.columns.pipeline

    @property
    def settings(self) -> FeatureSettings:
        """The settings, apart from the processor and the root."""
        return self.pipeline.settings

    @property
    def root(self) -> Path | str:
        """Where the cache is: a path on a local disk, else the full URL."""
        return self.pipeline.store.location()

    @property
    def audio_cache(self) -> AudioCache:
        """The cache of features."""
        return self.pipeline.audio_cache

    @property
    def waveform_cache(self) -> WaveformCache:
        """The cache of decoded waveforms."""
        return self.pipeline.waveform_cache

    @property
    def processor(self) -> Any:
        """The processor; its state may be changed between two calls, and counts from the next one on."""
        return self.pipeline.processor

    @property
    def processor_sha(self) -> str:
        """Identity of the processor as it is now, 64 hexadecimal digits."""
        return self.pipeline.identity().sha

    @property
    def stats(self) -> Stats:
        """Hits, misses, computed clips, bytes and times so far, in all processes that used this object."""
        return self.pipeline.counters.total()

    @property
    def bad_clips(self) -> list[BadClip]:
        """Clips without features so far, each once with the reason; in all processes, as `stats`."""
        return self.pipeline.counters.bad_clips()

    def __repr__(self) -> str:
        waveform = self.settings.waveform
        cap = f", max_length_seconds={waveform.max_length_ms / 1000}" if waveform.max_length_ms else ""
        channels = "" if waveform.channels == "mean" else f", channels={waveform.channels!r}"
        return (
            f"CachedFeatures({name_of(self.processor)} {self.processor_sha[:12]}, root={str(self.root)!r}, "
            f"sampling_rate={waveform.sampling_rate}{cap}, auto_resample={waveform.auto_resample}{channels})"
        )

    def explain(self, example: Any) -> Explanation:
        """Say why an example or an audio cell hits or misses: new audio, another processor, rate or cap."""
        [cell] = read_batch(example, self.settings.audio_column).cells
        source = read_source(located(cell, self.settings.data_dir))
        pipeline, identity = self.pipeline, self.pipeline.identity()
        key = pipeline.key(source.blob_sha, identity)
        return explain_key(pipeline.store, key, identity, source.clip, pipeline.root.signing_keys)

    def coverage(self, dataset: Any) -> Coverage:
        """Say how many rows of a dataset (or a dict of them) are cached, and estimate the rest from a sample."""
        return coverage(self.pipeline, dataset)

    def estimate(self, dataset: Any, *, sample: int = 64) -> Estimate:
        """Say what caching a dataset (or a dict of them) will take, from `sample` of its rows; nothing is stored."""
        return estimate(self.pipeline, dataset, sample=sample)

    def features(self, features: datasets.Features) -> datasets.Features:
        """Return the features of a dataset after ``map``, with the types that are fastest to write and to read.

        Pass them on: ``ds.map(cached_features, features=cached_features.features(ds.features))``. References get the
        type of the arrays they stand for (see `materialize`).
        """
        return self.columns.types_with(features)

    def __call__(self, examples: Any) -> Any:
        """Return the features of an example or a batch, in whatever form `datasets` passes it.

        Parameters
        ----------
        examples
            An example, a batch or an Arrow table with the audio column; or (with ``input_columns=``) audio cells.

        Returns
        -------
        dict or pyarrow.Table
            The processor's outputs by name, for a batch as lists; a table comes back with columns added.

        Raises
        ------
        AudioColumnError
            If there is no such column.
        AudioError
            If a clip cannot be read, decoded or extracted, with ``on_error="raise"``.
        CannotSkipError
            If rows cannot be left out in this form, with ``on_error="skip"``.
        """
        return self.columns.of_good_clips(examples) if self.settings.on_error == "skip" else self.columns.of(examples)

    def map(
        self, dataset: DatasetT, *, remove_columns: str | Sequence[str] | None = None, **map_kwargs: Any
    ) -> DatasetT:
        """Add columns that refer to the cache, computing what is not in it yet.

        Arrow gets 32 bytes for each row and output; the arrays are read from the cache when the row is read. The other
        columns are written again only if the dataset was shuffled or selected from.

        Parameters
        ----------
        dataset
            A dataset, or a dict of them, with the audio column.
        remove_columns
            Columns to leave out of the result, such as the audio.
        **map_kwargs
            Arguments of `datasets.Dataset.map`: ``num_proc``, ``desc``, ``batch_size``, ``load_from_cache_file`` …

        Raises
        ------
        StoreError, UnstorableOutputError
            If features cannot be stored, or no entry can hold them: references need entries.
        AudioError
            If a clip cannot be read, decoded or extracted, with ``on_error="raise"``.
        """
        return of_each_split(dataset, lambda part: make_references(self.columns, part, remove_columns, map_kwargs))

    def materialize(self, dataset: DatasetT, **map_kwargs: Any) -> DatasetT:
        """Replace references by their arrays, such as before publishing a dataset.

        `map_kwargs` are arguments of `datasets.Dataset.map`.
        """
        return of_each_split(dataset, lambda part: materialize(self.columns, part, map_kwargs))

    def attach(self, dataset: AnyDatasetT, *, remove_columns: str | Sequence[str] | None = None) -> AnyDatasetT:
        """Return the dataset with the features of each row, computed or read when the row is read.

        It takes the place of another format (numpy, torch): features come as NumPy arrays, other columns as Python
        values. A transform that the dataset has (``with_transform``), or another `attach`, is applied first. Attach
        last: a later ``with_format`` or ``with_transform`` takes the features away, and so does ``select_columns``
        without the audio.

        A batch of rows (``ds[[…]]``, a DataLoader's) is looked up at once, when one of its features is looked at: other
        columns of a batch cost nothing. Reading row by row computes or reads the features of each. Where rows have
        references and their audio, a file that has changed and an entry that is gone are computed again. If the root is
        remote, a thread reads the rows of a stream ahead, up to two batches of 64.

        The rows of a batch share one array (see `collate`): a row that you keep keeps the memory of its batch; copy
        it to keep few. Rows of a stream are copies.

        Parameters
        ----------
        dataset
            A dataset, a stream, or a dict of either, with the audio column or with columns of `CachedArray`.
        remove_columns
            Columns to leave out of what is read, such as the audio, which a DataLoader would send between processes.
        """
        return of_each_split(dataset, lambda part: attach(self.columns, part, remove_columns))

    @staticmethod
    def collate(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Return the arrays of a batch as one array of shape ``(n_rows, …)``, for the ``collate_fn`` of a DataLoader.

        Arrays that were read in one batch are rows of one array already, which is returned without a copy.
        ``torch.from_numpy(cached_features.collate([row["input_features"] for row in rows]))`` makes it a tensor.

        Parameters
        ----------
        arrays
            Arrays of one dtype and shape.
        """
        return collate(arrays)

    def _hashed_state(self) -> list[Any]:
        """Return what `datasets` hashes in the place of this object: all that decides what a call returns."""
        additions = {name: value for name, value in vars(self).items() if name != "columns"}  # of a derived class
        return [*self.columns.hashed_state(), additions]


hash_by(CachedFeatures, CachedFeatures._hashed_state)

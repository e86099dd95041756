"""What `CachedFeatures` and `CachedWaveforms` share: the forms in which `datasets` takes and keeps their results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy.typing as npt

from ..cache.caches import WaveformCache
from ..cache.stats import BadClip, Stats
from ..errors import AudioError
from ..maintenance.explain import Explanation, explain_key
from ..pipeline.clip_pipeline import ClipPipeline
from ..pipeline.settings import ResultSettings
from .attach import attach
from .audio_rows import of_each_split
from .batch_formats import read_batch
from .clip_lists import ListLayout
from .collate import collate
from .column_checks import check_positions
from .feature_columns import FeatureColumns
from .hash_hook import hash_by
from .references import make_references, materialize

DatasetT = TypeVar("DatasetT", datasets.Dataset, datasets.DatasetDict)
AnyDatasetT = TypeVar(
    "AnyDatasetT", datasets.Dataset, datasets.DatasetDict, datasets.IterableDataset, datasets.IterableDatasetDict
)


class CachedTransform:
    """A function of audio for `datasets` whose results are computed once and then read from a cache."""

    def __init__(self, pipeline: ClipPipeline[Any, Any]) -> None:
        self.columns = FeatureColumns(pipeline)

    def __init_subclass__(cls) -> None:
        hash_by(cls, cls._hashed_state)  # the hook is for one class, and not for those derived from it

    @property
    def pipeline(self) -> ClipPipeline[Any, Any]:
        """What looks up, computes and stores. For the package itself and its tests: it may change."""
        return self.columns.pipeline

    @property
    def settings(self) -> ResultSettings:
        """The settings, apart from the processor and the root."""
        return self.pipeline.settings

    @property
    def root(self) -> Path | str:
        """Where the cache is: a path on a local disk, else the full URL."""
        return self.pipeline.store.location()

    @property
    def waveform_cache(self) -> WaveformCache:
        """The cache of decoded waveforms."""
        return self.pipeline.waveform_cache

    @property
    def stats(self) -> Stats:
        """Hits, misses, computed clips, bytes and times so far, in all processes that used this object."""
        return self.pipeline.counters.total()

    @property
    def bad_clips(self) -> list[BadClip]:
        """Clips without a result so far, each once with the reason; in all processes, as `stats`."""
        return self.pipeline.counters.bad_clips()

    def __repr__(self) -> str:
        waveform = self.settings.waveform
        cap = f", max_length_seconds={waveform.max_length_ms / 1000}" if waveform.max_length_ms else ""
        channels = "" if waveform.channels == "mean" else f", channels={waveform.channels!r}"
        return (
            f"{type(self).__name__}({self._processor_in_words()}root={str(self.root)!r}, "
            f"sampling_rate={waveform.sampling_rate}{cap}, auto_resample={waveform.auto_resample}{channels})"
        )

    def _processor_in_words(self) -> str:
        return ""

    def explain(self, example: Any) -> Explanation | list[Explanation]:
        """Say why an example or an audio cell hits or misses: new audio, another processor, rate or cap.

        Nothing is computed, counted or changed.

        Parameters
        ----------
        example
            A row, a batch of rows, or an audio cell: a path, a URL, bytes, or what a row holds.

        Returns
        -------
        Explanation or list of Explanation
            Of a batch, or a list of clips, one for each clip.

        Raises
        ------
        AudioError
            If a clip cannot be read.
        AudioColumnError
            If the row has no such column.
        """
        cells = read_batch(example, self.settings.audio_column).cells
        layout = ListLayout.of(cells)
        pipeline, identity = self.pipeline, self.pipeline.identity()
        explanations = []
        for source in pipeline.audio_reader.identify(layout.flat(cells)):
            if isinstance(source, AudioError):
                raise source
            key = pipeline.key(source.blob_sha, identity)
            keys = pipeline.root.signing_keys
            explanations.append(explain_key(pipeline.store, key, identity, source.clip, keys))
        return explanations[0] if len(cells) == 1 and not layout.has_lists else explanations

    def features(self, features: datasets.Features) -> datasets.Features:
        """Return the features of a dataset after ``map``, with the types that are fastest to write and to read.

        Pass them on: ``ds.map(cached_features, features=cached_features.features(ds.features))``. References get the
        type of the arrays they stand for (see `materialize`).

        Parameters
        ----------
        features
            Those of the dataset, ``ds.features``.

        Returns
        -------
        datasets.Features
            These, and a column for each output.
        """
        return self.columns.types_with(features)

    def __call__(self, examples: Any, *positions: Any) -> Any:
        """Return the results for an example or a batch. All forms in which `datasets` passes them are accepted.

        Parameters
        ----------
        examples
            An example, a batch or an Arrow table with the audio column; or (with ``input_columns=``) audio cells.
        *positions
            What `datasets` passes beside them, with ``with_indices`` or ``with_rank``; nothing depends on it.

        Returns
        -------
        dict or pyarrow.Table
            The results by name, for a batch as lists; a table comes back with columns added.

        Raises
        ------
        AudioColumnError
            If there is no such column, or others are passed beside it (by ``input_columns``).
        AudioError
            If a clip cannot be read, decoded or extracted, with ``on_error="raise"``.
        CannotSkipError
            If rows cannot be left out in this form, with ``on_error="skip"``.
        ProcessorError, UnfingerprintableProcessorError
            If the processor returns something else than outputs by name, or each call changes it.
        """
        check_positions(positions, self.settings.audio_column)
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

        Returns
        -------
        datasets.Dataset or datasets.DatasetDict
            The dataset with a column of `CachedArray` for each output; with ``on_error="skip"`` without bad rows.

        Raises
        ------
        AudioColumnError, ProcessorError
            If there is no such column, or a new column would replace another one.
        StoreError, UnstorableOutputError
            If features cannot be stored, or no entry can hold them: references need entries.
        TypeError
            If `dataset` is a stream or no dataset, or `datasets.Dataset.map` does not know an argument.
        AudioError
            If a clip cannot be read, decoded or extracted, with ``on_error="raise"``.
        """
        return of_each_split(dataset, lambda part: make_references(self.columns, part, remove_columns, map_kwargs))

    def materialize(self, dataset: DatasetT, **map_kwargs: Any) -> DatasetT:
        """Replace references by their arrays, such as before publishing a dataset.

        Parameters
        ----------
        dataset
            A dataset, or a dict of them, with columns of `CachedArray`.
        **map_kwargs
            Arguments of `datasets.Dataset.map`: ``remove_columns``, ``num_proc`` …

        Returns
        -------
        datasets.Dataset or datasets.DatasetDict
            The same rows, with arrays. Where rows have their audio, entries that are gone are computed again.

        Raises
        ------
        MissingEntryError
            If an entry is gone, and its row has no audio.
        AudioColumnError
            If the references were made from another audio column.
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

        Returns
        -------
        datasets.Dataset or datasets.IterableDataset, or a dict of either
            The same rows, with an array for each output when they are read.

        Raises
        ------
        AudioColumnError, ProcessorError
            If there is no such column, or features would take the place of another column.
        CannotSkipError
            If `dataset` is no stream, with ``on_error="skip"``.
        TypeError
            If `dataset` is none of these.
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

        Returns
        -------
        numpy.ndarray
            Of their dtype.

        Raises
        ------
        ValueError
            If there are none, or their shapes differ.
        """
        return collate(arrays)

    def _hashed_state(self) -> list[Any]:
        """Return what `datasets` hashes in the place of this object: all that decides what a call returns."""
        additions = {name: value for name, value in vars(self).items() if name != "columns"}  # of a derived class
        return [*self.columns.hashed_state(), additions]

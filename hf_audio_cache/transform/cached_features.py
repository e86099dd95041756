"""`CachedFeatures`: the callable for ``ds.map``, and its two companions that keep arrays out of Arrow."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np

from ..audio.source import read_source
from ..cache.access_log import Run
from ..cache.caches import AudioCache, WaveformCache
from ..cache.keys import max_length_ms
from ..cache.open_root import OpenRoot
from ..cache.root import CacheRoot, as_cache_root
from ..cache.stats import BadClip, Counters, Stats
from ..errors import AudioError, CannotSkipError, ProcessorError
from ..maintenance.explain import Explanation, explain_key
from ..pipeline.feature_pipeline import Router
from ..pipeline.storage_policy import Policy, check_policy
from ..processors.extractor import NamedFunction, name_of, processor_sampling_rate
from ..processors.output_specs import OutputSpec
from ..processors.precision import FloatType, check_dtype
from .batch_formats import AudioBatch, check_column, read_batch
from .cached_array import CachedArray, read_references_by
from .coverage import Coverage, coverage
from .estimate import Estimate, estimate
from .hash_hook import hash_by
from .map_functions import (
    Attached,
    FeatureReader,
    HasFeatures,
    ReferenceMaker,
    format_with,
    map_rows,
    reference_columns,
    side_by_side,
    undecoded,
)
from .prefetch import read_ahead

__all__ = ["CachedFeatures"]

logger = logging.getLogger(__name__)

DatasetT = TypeVar("DatasetT", datasets.Dataset, datasets.DatasetDict)
AnyDatasetT = TypeVar(
    "AnyDatasetT", datasets.Dataset, datasets.DatasetDict, datasets.IterableDataset, datasets.IterableDatasetDict
)

# Raised when the same call would return something else than it did in an earlier version of this package: `datasets`
# then looks no longer for what it kept of it.
TRANSFORM_VERSION = 1

_SETTINGS_OF_REFERENCES = ("processor_sha", "sample_rate", "max_length_ms", "auto_resample")

_BATCH_ROWS = 64  # of our own maps: a round trip's worth of entries, and the most that is in memory at once


class CachedFeatures:
    """A processor's audio features for `datasets`, each computed once and then read from a cache.

    Call it through ``ds.map(cached_features)``, batched or not, on datasets and streams, or from a mapped function of
    your own: it returns the processor's outputs (NumPy arrays, without a batch axis) for the audio it is given. Each
    clip is computed on its own; padding to the longest of a batch is the collator's work.

    Parameters
    ----------
    processor
        A feature extractor of transformers, or a processor that has one.
    root
        Where the cache is: a directory, a URL, or a `CacheRoot`, which also says how it is reached. By default
        ``$HF_AUDIO_CACHE``, else ``$HF_HOME/audio_cache``, else ``~/.cache/huggingface/audio_cache``. Nothing is
        created before the first clip is stored.
    audio_column
        Name of the column that holds the audio.
    sampling_rate
        Rate in Hz at which the processor takes its waveforms; only needed where it does not say.
    max_length_seconds
        Cap on the length of a clip: what comes later is left out. None for no cap.
    auto_resample
        Whether a clip at another rate is resampled; otherwise it is an error.
    processor_kwargs
        Further arguments of the processor's call. They are part of the key.
    output_names
        New names for outputs, such as ``{"attention_mask": "feature_attention_mask"}``.
    dtype
        ``"float16"`` or ``"bfloat16"``: what arrays of floating point are rounded to. It is part of the key. NumPy has
        no bfloat16: such features stay float32 arrays, of which the lower 16 bits are zero.
    features
        Whether features are stored: ``"auto"`` measures, on the first clips that a process computes, whether reading
        them is faster than making them from the waveform, and says so where it is not. `map` stores them always.
    waveforms
        Whether decoded waveforms are stored, for the next processor: ``"auto"`` leaves out clips that are decoded as
        fast as an entry is read, which are 16-bit WAVs at the processor's rate and arrays.
    on_error
        ``"raise"`` ends the run at a clip that cannot be read, decoded or extracted; ``"null"`` gives its row None;
        ``"skip"`` leaves its row out, in ``ds.map(cached_features, batched=True)``, `map`, and `attach` of a stream.
        (With ``"null"``, `datasets` takes the column's type from the first rows: where they may be None, pass
        ``features=`` to its ``map``, as under `features`.) `bad_clips` lists them.
    reason_column
        With ``on_error="null"``: name of a further column, the reason why a row has no features; "" where it has.
    identity
        Makes a front end of your own a processor: ``CachedFeatures(function, identity="my-mel-v1",
        sampling_rate=16_000)``, with ``function(waveform, sampling_rate, **processor_kwargs)`` returning an array or
        arrays by name. The name is all that its key knows of it: give it another whenever it computes something else.

    Raises
    ------
    ProcessorError, UnfingerprintableProcessorError
        If the processor cannot be called for audio, or be given an identity.
    InvalidKeyError
        If the rate or the cap is none.

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
        sampling_rate: int | None = None,
        max_length_seconds: float | None = None,
        auto_resample: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        output_names: Mapping[str, str] | None = None,
        dtype: FloatType | None = None,
        features: Policy = "auto",
        waveforms: Policy = "auto",
        on_error: str = "raise",
        reason_column: str | None = None,
        identity: str | None = None,
    ) -> None:
        if on_error not in ("raise", "null", "skip"):
            raise ValueError(f'on_error must be "raise", "null" or "skip", not {on_error!r}; nothing was opened.')
        if reason_column is not None and on_error != "null":
            raise ValueError(
                f'reason_column needs on_error="null": with {on_error!r} no row without features is left to give a '
                "reason for; nothing was opened. See cached_features.bad_clips."
            )
        if reason_column in ("", audio_column):
            raise ValueError(
                f"reason_column must be the name of a column of its own, not {reason_column!r}; nothing was opened."
            )
        self.audio_column = audio_column
        self.output_names = dict(output_names or {})
        self.on_error = on_error
        self.reason_column = reason_column
        self._root = CacheRoot() if root is None else as_cache_root(root)
        check_dtype(dtype)
        check_policy(features=features, waveforms=waveforms)
        if identity is not None:
            processor = NamedFunction(processor, identity)
        self._open(
            processor=processor,
            sampling_rate=processor_sampling_rate(processor, sampling_rate),
            max_length_ms=max_length_ms(max_length_seconds),
            auto_resample=auto_resample,
            processor_kwargs=dict(processor_kwargs or {}),
            dtype=dtype,
            features_policy=features,
            waveforms_policy=waveforms,
        )
        self._router.key("0" * 64, self._router.identity())  # says now what is wrong with the processor or a setting

    def _open(self, *, counters: Counters | None = None, run: Run | None = None, **settings: Any) -> None:
        root = OpenRoot(self._root, counters=counters, run=run)
        self._router = Router(root=root, **settings)
        if root.signing_keys is not None or not root.store.is_local:
            read_references_by(root.uncounted(records_use=True)[0])

    def __init_subclass__(cls) -> None:
        hash_by(cls, cls._hashed_state)  # the hook below is for one class, and not for those derived from it

    # What it is -------------------------------------------------------------------------------------------------------

    @property
    def root(self) -> Path | str:
        """Where the cache is: a path on a local disk, else the full URL."""
        return self._router.store.location()

    @property
    def audio_cache(self) -> AudioCache:
        """The cache of features."""
        return self._router.audio_cache

    @property
    def waveform_cache(self) -> WaveformCache:
        """The cache of decoded waveforms."""
        return self._router.waveform_cache

    @property
    def processor(self) -> Any:
        """The processor; its state may be changed between two calls, and counts from the next one on."""
        return self._router.processor

    @property
    def processor_sha(self) -> str:
        """Identity of the processor as it is now, 64 hexadecimal digits."""
        return self._router.identity().sha

    @property
    def stats(self) -> Stats:
        """What was hit, missed, computed, read and written so far, in all processes that used this object."""
        return self._router.counters.total()

    @property
    def bad_clips(self) -> list[BadClip]:
        """Clips that gave no features so far, and why, each once; in all processes, as `stats`."""
        return self._router.counters.bad_clips()

    def explain(self, example: Any) -> Explanation:
        """Say why an example's audio hits or misses: never seen, another processor (and what differs), rate or cap.

        Parameters
        ----------
        example
            An example that has the audio column, or an audio cell.
        """
        [cell] = read_batch(example, self.audio_column).cells
        source = read_source(cell)
        identity = self._router.identity()
        key = self._router.key(source.blob_sha, identity)
        return explain_key(self._router.store, key, identity, source.clip, self._router.root.signing_keys)

    def coverage(self, dataset: Any) -> Coverage:
        """Say how many rows of a dataset are cached, and what the rest will cost.

        All its audio is read, to know its content, and none is decoded but for a sample of what is missing. Nothing is
        stored.

        Parameters
        ----------
        dataset
            A dataset, or a dict of them, with the audio column.
        """
        return coverage(self, dataset)

    def estimate(self, dataset: Any, *, sample: int = 64) -> Estimate:
        """Say what caching a dataset will take, and whether it pays; nothing is stored.

        A sample of its rows, spread over the sizes of all, goes through all steps, with entries among the system's
        temporary files.

        Parameters
        ----------
        dataset
            A dataset, or a dict of them, with the audio column.
        sample
            How many rows to try.
        """
        return estimate(self, dataset, sample=sample)

    def __repr__(self) -> str:
        router = self._router
        cap = f", max_length_seconds={router.max_length_ms / 1000}" if router.max_length_ms else ""
        return (
            f"CachedFeatures({name_of(router.processor)} {self.processor_sha[:12]}, root={str(self.root)!r}, "
            f"sampling_rate={router.sampling_rate}{cap}, auto_resample={router.auto_resample})"
        )

    # Arrays into Arrow ------------------------------------------------------------------------------------------------

    def __call__(self, examples: Any) -> Any:
        """Return the features of an example or a batch, in whatever form `datasets` hands it over.

        Parameters
        ----------
        examples
            An example or a batch that has the audio column; an Arrow table; or (with ``input_columns=``) an audio
            cell or a list of them.

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
        batch = read_batch(examples, self.audio_column)
        if self.on_error != "skip":
            return self._give_back(batch, self._router.features(batch.cells))
        batch.without(())  # says so at the first batch if rows cannot be left out, and not at the first bad clip
        results = self._router.features(batch.cells)
        bad = {row for row, result in enumerate(results) if isinstance(result, AudioError)}
        return self._give_back(batch.without(bad), [result for row, result in enumerate(results) if row not in bad])

    def _features_of(self, examples: Any) -> Any:
        """Return what a call returns, with None for what it would skip."""
        batch = read_batch(examples, self.audio_column)
        return self._give_back(batch, self._router.features(batch.cells))

    def _give_back(self, batch: AudioBatch, results: Sequence[dict[str, Any] | AudioError]) -> Any:
        rows = [self._row(result) for result in results]
        names = list(dict.fromkeys(name for row in rows for name in row))
        if all(isinstance(result, AudioError) for result in results) and (rows or batch.lazy is not None):
            names = self._output_columns() + names  # every clip is bad: the columns are there all the same
        return batch.give_back(rows, names, self._feature, self._spec)

    def _row(self, result: dict[str, Any] | AudioError) -> dict[str, Any]:
        reason = "" if not isinstance(result, AudioError) else str(result)
        reasons = {} if self.reason_column is None else {self.reason_column: reason}
        if isinstance(result, AudioError):
            if self.on_error == "raise":
                raise result
            return reasons
        self._check_names(result)
        outputs = {
            self.output_names.get(name, name): value[()] if isinstance(value, np.ndarray) and not value.ndim else value
            for name, value in result.items()
        }
        return outputs | reasons

    def _check_names(self, outputs: Mapping[str, Any]) -> None:
        unknown = self.output_names.keys() - outputs.keys()
        named = [self.output_names.get(name, name) for name in outputs]
        named += [] if self.reason_column is None else [self.reason_column]
        if len(set(named)) != len(named):
            raise ProcessorError(
                f"expected each output to have a name of its own, and output_names makes {named} of "
                f"{', '.join(map(repr, outputs))}; nothing was returned. Correct output_names or reason_column."
            )
        if unknown:
            raise ProcessorError(
                f"expected an output {', '.join(map(repr, sorted(unknown)))} to rename, and the processor gives "
                f"{', '.join(map(repr, outputs))}; nothing was returned. Correct output_names."
            )

    def _specs(self) -> dict[str, OutputSpec]:
        specs = self._router.output_specs()
        self._check_names(specs)
        if not specs:
            raise ProcessorError(
                f"expected {name_of(self.processor)} to say what its outputs are by processing a clip, and it "
                "failed on clips of 1 and of 41 s; no column was made. See processor_kwargs; the log has its errors."
            )
        return specs

    def _output_columns(self) -> list[str]:
        return [self.output_names.get(name, name) for name in self._specs()]

    def _spec(self, column: str) -> OutputSpec | None:
        """Return the form of an output by its column's name; None for the column of reasons."""
        if column == self.reason_column:
            return None
        return {self.output_names.get(name, name): spec for name, spec in self._specs().items()}[column]

    def _feature(self, column: str) -> Any:
        spec = self._spec(column)
        return datasets.Value("string") if spec is None else spec.feature(nullable=self.on_error == "null")

    def features(self, features: datasets.Features) -> datasets.Features:
        """Return the features of a dataset after ``map``, with the types that are fastest to write and to read.

        Pass them on: ``ds.map(cached_features, features=cached_features.features(ds.features))``. References are
        given the type of the arrays they stand for (see `materialize`).
        """
        result = datasets.Features(features)
        references = reference_columns(features)
        for name, reference in references.items():
            result[name] = self._reference_spec(reference).feature(nullable=self.on_error == "null")
        if not references:
            names = self._output_columns() + ([] if self.reason_column is None else [self.reason_column])
            result.update({name: self._feature(name) for name in names})
        return result

    def _reference_spec(self, reference: CachedArray) -> OutputSpec:
        root, own = os.path.dirname(reference.root), self._router.root
        opened = own if root == str(own.store.location()) else OpenRoot(CacheRoot(root, signing_key=own.signing_keys))
        manifest = opened.read_manifest(reference.processor_sha)
        specs = manifest.outputs if manifest is not None else {}
        return specs[reference.name] if reference.name in specs else self._specs()[reference.name]

    # References into Arrow --------------------------------------------------------------------------------------------

    def map(
        self, dataset: DatasetT, *, remove_columns: str | Sequence[str] | None = None, **map_kwargs: Any
    ) -> DatasetT:
        """Add columns that refer to the cache, computing what is not in it yet.

        Arrow gets 32 bytes a row and output; a row is read from the cache when it is read from the dataset. The
        other columns are not written again, unless the dataset was shuffled or selected from: then `datasets` has to
        put them in order.

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
        StoreError
            If features cannot be stored: a reference needs an entry.
        AudioError
            If a clip cannot be read, decoded or extracted, with ``on_error="raise"``.
        """
        if isinstance(dataset, datasets.DatasetDict):
            return datasets.DatasetDict(
                {split: self.map(part, remove_columns=remove_columns, **map_kwargs) for split, part in dataset.items()}
            )
        if not isinstance(dataset, datasets.Dataset):
            raise TypeError(
                f"expected a Dataset or a DatasetDict, and got {type(dataset).__name__}; nothing was computed. "
                "A stream keeps no columns to refer from: use cached_features.attach(dataset)."
            )
        check_column(self.audio_column, dataset.column_names)
        types = self._reference_types()
        arguments = {"batch_size": _BATCH_ROWS, "desc": "Caching features", **map_kwargs}
        known = set(self.bad_clips)
        cells = dataset.select_columns([self.audio_column])
        maker, features = ReferenceMaker(self, types), datasets.Features(types)
        if self.reason_column is not None:
            features[self.reason_column] = datasets.Value("string")
        references = map_rows(cells, maker, features, remove_columns=[self.audio_column], **arguments)
        if not self._are_there(references, types):  # datasets kept the references, and the cache was cleared or pruned
            arguments["load_from_cache_file"] = False
            references = map_rows(cells, maker, features, remove_columns=[self.audio_column], **arguments)
        self._router.uses.finish()
        dropped = _names(remove_columns)
        dropped += [name for name in features if name in dataset.column_names]
        kept = dataset.remove_columns(dropped)
        if not datasets.config.TORCHCODEC_AVAILABLE:  # rows with a column that datasets cannot decode cannot be read
            kept = self._with_plain_audio(kept)
        if not kept.column_names:
            return self._without_bad_rows(references, types, known)
        joined = self._without_bad_rows(side_by_side(kept, references), types, known)
        return joined.with_format(**format_with(dataset, dropped, list(features)))

    def _without_bad_rows(
        self, dataset: datasets.Dataset, types: Mapping[str, CachedArray], known: Collection[BadClip]
    ) -> datasets.Dataset:
        """Return a dataset of references as `on_error` wants it, and say in the log how many clips are bad."""
        shas = dataset.with_format("arrow").select_columns([next(iter(types))])[:].column(0)
        if shas.null_count == 0:
            return dataset
        new = [clip.reason for clip in self.bad_clips if clip not in known]
        logger.warning(
            "%d of %d rows have no features and %s%s (cached_features.bad_clips lists them)",
            shas.null_count,
            len(dataset),
            "were left out" if self.on_error == "skip" else "have None in their place",
            f"; the first: {new[0]}" if new else ", as in an earlier run",
        )
        if self.on_error == "null":
            return dataset
        return dataset.select([row for row, sha in enumerate(shas.is_valid().to_pylist()) if sha])

    def _are_there(self, references: datasets.Dataset, types: Mapping[str, CachedArray]) -> bool:
        name, feature = next(iter(types.items()))
        shas = set(references.with_format("arrow")[:][name].to_pylist()) - {None} if len(references) else set()
        keys = [feature.key(sha) for sha in shas]
        self.audio_cache.note_use([key.name() for key in keys])  # workers may be killed before they say so
        return all(self.audio_cache.exists_many(keys))

    def _computes_beside(self, references: Mapping[str, CachedArray], columns: Sequence[str]) -> bool:
        """Return whether a dataset has the audio for features that its references are not about.

        Raises
        ------
        ProcessorError
            If it has references of these features' names, to what another processor or other settings made.
        """
        if self.audio_column not in columns:
            return False
        own = self._reference_types()
        for column in references.keys() & own.keys():
            theirs, ours = dataclasses.asdict(references[column]), dataclasses.asdict(own[column])
            differing = [name for name in _SETTINGS_OF_REFERENCES if theirs[name] != ours[name]]
            if differing:
                raise ProcessorError(
                    f"expected the references in column {column!r} to be this processor's, and they have "
                    f"{', '.join(f'{name}={theirs[name]!r}, not {ours[name]!r}' for name in differing)}; nothing was "
                    "attached. Attach with the processor and the settings that made them, or remove the column to have "
                    "the features of this one."
                )
        return not references.keys() & own.keys()

    def _with_plain_audio(self, dataset: Any) -> Any:
        """Return the dataset with its audio column as encoded bytes and paths."""
        if isinstance(dataset.features.get(self.audio_column), datasets.Audio):
            return dataset.cast_column(self.audio_column, datasets.Audio(decode=False))
        return dataset

    def _reference_types(self) -> dict[str, CachedArray]:
        router = self._router
        return {
            self.output_names.get(name, name): CachedArray(
                root=str(self.audio_cache.root),
                processor_sha=self.processor_sha,
                sample_rate=router.sampling_rate,
                max_length_ms=router.max_length_ms,
                auto_resample=router.auto_resample,
                name=name,
            )
            for name in self._specs()
        }

    def materialize(self, dataset: DatasetT, **map_kwargs: Any) -> DatasetT:
        """Replace references by the arrays they stand for, such as before publishing a dataset.

        Parameters
        ----------
        dataset
            A dataset with columns of `CachedArray`, or a dict of them.
        **map_kwargs
            Arguments of `datasets.Dataset.map`.
        """
        if isinstance(dataset, datasets.DatasetDict):
            return datasets.DatasetDict(
                {split: self.materialize(part, **map_kwargs) for split, part in dataset.items()}
            )
        references = reference_columns(dataset.features)
        if not references:
            return dataset
        arrays = map_rows(
            undecoded(dataset, references),
            FeatureReader(self, references, computes=False),
            self.features(dataset.features),
            **{"batch_size": 16, "writer_batch_size": 16, "desc": "Reading features", **map_kwargs},
        )
        self._router.uses.finish()
        return arrays.with_format(**format_with(dataset, [], list(references)))

    # Nothing into Arrow -----------------------------------------------------------------------------------------------

    def attach(self, dataset: AnyDatasetT, *, remove_columns: str | Sequence[str] | None = None) -> AnyDatasetT:
        """Return the dataset with the features of each row, computed or read when the row is read.

        A batch of rows (``ds[[…]]``, a DataLoader's) is looked up at once. It takes the place of another format (numpy,
        torch): features come as NumPy arrays, other columns as Python values. On a dataset with references it reads the
        entries of a batch at once, where `datasets` alone reads them one by one. The rows of a stream whose root is far
        are read in a thread, up to two batches of 64 before they are asked for.

        Parameters
        ----------
        dataset
            A dataset, a stream, or a dict of either, with the audio column or with columns of `CachedArray`.
        remove_columns
            Columns to leave out of what is read, such as the audio, which a DataLoader would hand between processes.
        """
        if isinstance(dataset, (datasets.DatasetDict, datasets.IterableDatasetDict)):
            return type(dataset)(
                {split: self.attach(part, remove_columns=remove_columns) for split, part in dataset.items()}
            )
        references = reference_columns(dataset.features or {})
        computes = not references or self._computes_beside(references, list(dataset.features))
        dropped = _names(remove_columns)
        plain = undecoded(dataset, references)
        if computes and dataset.features is not None:
            # Else datasets decodes the column, which needs torchcodec, before a transform sees it.
            check_column(self.audio_column, list(dataset.features))
            plain = self._with_plain_audio(plain)
        reader = FeatureReader(self, references, computes)
        if isinstance(plain, datasets.IterableDataset):
            mapped = plain.map(reader, batched=True, batch_size=_BATCH_ROWS, remove_columns=dropped or None)
            if computes and self.on_error == "skip":
                mapped = mapped.filter(HasFeatures(self))
            return mapped if self._router.store.is_local else read_ahead(mapped, _BATCH_ROWS)
        if computes and self.on_error == "skip":
            raise CannotSkipError(
                'on_error="skip" leaves rows out, and the rows of a Dataset are counted before any is read; nothing '
                'was attached. Use cached_features.map(ds), which skips, and attach that; or on_error="null".'
            )
        return plain.with_transform(Attached(reader, tuple(dropped)))

    # Being hashed and sent to other processes -------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        """Return what else than the processor decides what a call returns."""
        router = self._router
        return {
            "audio_column": self.audio_column,
            "output_names": self.output_names,
            "on_error": self.on_error,
            "reason_column": self.reason_column,
            "sampling_rate": router.sampling_rate,
            "max_length_ms": router.max_length_ms,
            "auto_resample": router.auto_resample,
        }

    def _hashed_state(self) -> list[Any]:
        """Return what `datasets` hashes in the place of this object: all that decides what a call returns."""
        return [TRANSFORM_VERSION, self.processor_sha, sorted(self._settings().items()), self._additions()]

    def _additions(self) -> dict[str, Any]:
        """Return the attributes that a derived class has beside ours."""
        own = {"audio_column", "output_names", "on_error", "reason_column", "_root", "_router"}
        return {name: value for name, value in vars(self).items() if name not in own}

    def __getstate__(self) -> dict[str, Any]:
        router = self._router
        return {
            **self._settings(),
            "root": self._root,
            "processor": router.processor,
            "processor_kwargs": router.processor_kwargs,
            "dtype": router.dtype,
            "features_policy": router.features_policy,
            "waveforms_policy": router.waveforms_policy,
            # Without the hook below this state is what `datasets` hashes, and it must not change from run to run:
            # the counts of worker processes are lost then, and each of them is a run of its own.
            "counters": router.counters if HAS_HASH_HOOK else None,
            "run": router.uses.run if HAS_HASH_HOOK else None,
            "additions": self._additions(),
            "code": router.fingerprinter.code_to_carry(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["additions"])
        self.audio_column = state["audio_column"]
        self.output_names = state["output_names"]
        self.on_error = state["on_error"]
        self.reason_column = state["reason_column"]
        self._root = state["root"]
        names = ["processor", "sampling_rate", "max_length_ms", "auto_resample", "processor_kwargs"]
        names += ["dtype", "features_policy", "waveforms_policy"]
        self._open(
            **{name: state[name] for name in names},
            counters=state["counters"],
            run=state["run"],
            carried_code=state["code"],
        )


def _names(columns: str | Sequence[str] | None) -> list[str]:
    """Return one column, several or none, as `datasets` takes them, as a list."""
    return [columns] if isinstance(columns, str) else list(columns or [])


HAS_HASH_HOOK = hash_by(CachedFeatures, CachedFeatures._hashed_state)

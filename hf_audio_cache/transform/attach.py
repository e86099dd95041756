"""`CachedFeatures.attach`, for a `Dataset` or a stream: features that are computed or read when a row is read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from ..audio.source import check_column, has_audio
from ..errors import CannotSkipError
from .attached import Attached, AttachedDataset
from .audio_rows import with_encoded_audio
from .cached_array import CachedArray, reference_columns, undecoded
from .column_checks import check_audio, check_new_columns, check_references, check_stream, removed_columns
from .feature_columns import FeatureColumns, note_dataset
from .feature_reader import FeatureReader
from .map_functions import HasFeatures
from .prefetch import read_ahead

logger = logging.getLogger(__name__)

_BATCH_ROWS = 64  # of a stream


def attach(columns: FeatureColumns, dataset: Any, remove_columns: str | Sequence[str] | None) -> Any:
    """Return a dataset or a stream that has features when it is read; see `CachedFeatures.attach`."""
    if not isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
        kind = type(dataset).__name__
        raise TypeError(f"attach needs a Dataset, a stream, or a dict of either, not {kind}. Nothing was attached.")
    settings, features = columns.settings, dataset.features or {}
    note_dataset(columns, dataset)
    is_stream = isinstance(dataset, datasets.IterableDataset)
    attached = Attached() if is_stream else Attached.of(dataset)
    references = reference_columns(features)
    is_known = dataset.features is not None and attached.before is None  # a transform makes any columns
    dropped = removed_columns(remove_columns, features if is_known else None)
    if dataset.features is not None and not references:
        check_column(settings.audio_column, list(features))
    check_stream(settings.audio_column, features)
    if settings.audio_column in references and settings.audio_column not in columns.references():
        check_audio(settings.audio_column, features)
    computes = dataset.features is None or _computes_beside(columns, references, features, dropped)
    skips = computes and settings.on_error == "skip"
    plain = undecoded(dataset, references)
    if settings.audio_column in features and (attached.before is None or not datasets.config.TORCHCODEC_AVAILABLE):
        # Otherwise datasets decodes the column before a transform sees it, which needs torchcodec.
        plain = with_encoded_audio(plain, settings.audio_column)
    if is_stream:
        reader = FeatureReader(columns, references, computes, tuple(dropped), copies=True)
        mapped = plain.map(reader, batched=True, batch_size=_BATCH_ROWS, remove_columns=dropped or None)
        if skips:
            mapped = mapped.filter(HasFeatures(columns))
        return mapped if columns.pipeline.store.is_local else read_ahead(mapped, _BATCH_ROWS)
    if skips:
        raise CannotSkipError(
            'on_error="skip" cannot leave rows out of a Dataset that is attached: they are counted before any is read. '
            'Use cached_features.map(ds), which skips, and attach that; or on_error="null". Nothing was attached.'
        )
    there = [reader for reader in attached.readers if reader.computes]
    for reader in there:
        check_references(reader.columns.references(), columns.references())
    computes = computes and not any(columns.references().keys() & each.columns.references().keys() for each in there)
    unread = {name: each for name, each in references.items() if name not in attached.references()}
    reader = FeatureReader(columns, unread, computes, tuple(dropped))
    _tell_of_format(dataset)
    return AttachedDataset.of(plain.with_transform(attached.and_then(reader)))


def _tell_of_format(dataset: datasets.Dataset) -> None:
    """Warn if a format such as "torch" is lost; one of arrays that NumPy has is not missed."""
    kind = dataset.format["type"]
    if kind not in (None, "custom", "numpy"):
        logger.warning(
            "attach takes the place of the dataset's format %r: its rows have NumPy arrays and Python values. Convert "
            "them in the collator, or use cached_features.map(ds), whose columns take each format.",
            kind,
        )


def _computes_beside(
    columns: FeatureColumns, references: Mapping[str, CachedArray], features: Mapping[str, Any], dropped: Sequence[str]
) -> bool:
    """Return whether features are computed from audio, beside references; raise if columns would be mixed up."""
    audio_column = columns.settings.audio_column
    of_other_audio = any(reference.audio_column not in (None, audio_column) for reference in references.values())
    is_there = has_audio(audio_column, features.keys() - references.keys())
    if not is_there and not of_other_audio:
        return False
    own = columns.references()
    check_new_columns(own, features, dropped)
    return is_there and not references.keys() & own.keys()

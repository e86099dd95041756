"""Features computed or read when a row is read, for datasets and streams: `CachedFeatures.attach`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from ..audio.source import check_column
from ..errors import CannotSkipError
from .audio_rows import with_encoded_audio
from .cached_array import CachedArray, reference_columns, undecoded
from .column_checks import check_new_columns
from .feature_columns import FeatureColumns
from .map_functions import Attached, FeatureReader, HasFeatures
from .prefetch import read_ahead

__all__ = ["attach"]

_BATCH_ROWS = 64  # of a stream


def attach(columns: FeatureColumns, dataset: Any, remove_columns: str | Sequence[str] | None) -> Any:
    """Return a dataset or a stream that has features when it is read; see `CachedFeatures.attach`."""
    settings = columns.settings
    references = reference_columns(dataset.features or {})
    dropped = [remove_columns] if isinstance(remove_columns, str) else list(remove_columns or [])
    if dataset.features is not None and not references:
        check_column(settings.audio_column, list(dataset.features))
    computes = dataset.features is None or _computes_beside(columns, references, dataset.features, dropped)
    skips = computes and settings.on_error == "skip"
    plain = undecoded(dataset, references)
    if computes and dataset.features is not None:
        # Otherwise datasets decodes the column before a transform sees it, which needs torchcodec.
        plain = with_encoded_audio(plain, settings.audio_column)
    reader = FeatureReader(columns, references, computes, tuple(dropped))
    if isinstance(plain, datasets.IterableDataset):
        mapped = plain.map(reader, batched=True, batch_size=_BATCH_ROWS, remove_columns=dropped or None)
        if skips:
            mapped = mapped.filter(HasFeatures(columns))
        return mapped if columns.pipeline.store.is_local else read_ahead(mapped, _BATCH_ROWS)
    if skips:
        raise CannotSkipError(
            'on_error="skip" cannot leave rows out of a Dataset that is attached: they are counted before any is read. '
            'Use cached_features.map(ds), which skips, and attach that; or on_error="null". Nothing was attached.'
        )
    return plain.with_transform(Attached(reader))


def _computes_beside(
    columns: FeatureColumns, references: Mapping[str, CachedArray], features: Mapping[str, Any], dropped: Sequence[str]
) -> bool:
    """Return whether features are computed from audio, beside references to other features.

    Raises
    ------
    AudioColumnError, ProcessorError
        If columns of these features' names were made from other audio, by another processor or with other settings.
    """
    audio_column = columns.settings.audio_column
    of_other_audio = any(reference.audio_column not in (None, audio_column) for reference in references.values())
    if audio_column not in features and not of_other_audio:
        return False
    own = columns.references()
    check_new_columns(own, features, dropped)
    return audio_column in features and not references.keys() & own.keys()

"""Features computed or read when a row is read, for datasets and streams: `CachedFeatures.attach`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from ..audio.source import check_column
from ..errors import CannotSkipError, ProcessorError
from .audio_rows import with_encoded_audio
from .cached_array import CachedArray, reference_columns, undecoded
from .feature_columns import FeatureColumns
from .map_functions import Attached, FeatureReader, HasFeatures
from .prefetch import read_ahead

__all__ = ["attach"]

_BATCH_ROWS = 64  # of a stream
_SETTINGS_OF_REFERENCES = ("processor_sha", "sampling_rate", "max_length_ms", "auto_resample")


def attach(columns: FeatureColumns, dataset: Any, remove_columns: str | Sequence[str] | None) -> Any:
    """Return a dataset or a stream that has features when it is read; see `CachedFeatures.attach`."""
    settings = columns.settings
    references = reference_columns(dataset.features or {})
    computes = not references or _computes_beside(columns, references, list(dataset.features))
    skips = computes and settings.on_error == "skip"
    dropped = [remove_columns] if isinstance(remove_columns, str) else list(remove_columns or [])
    plain = undecoded(dataset, references)
    if computes and dataset.features is not None:
        # Otherwise datasets decodes the column before a transform sees it, which needs torchcodec.
        check_column(settings.audio_column, list(dataset.features))
        plain = with_encoded_audio(plain, settings.audio_column)
    reader = FeatureReader(columns, references, computes)
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
    return plain.with_transform(Attached(reader, tuple(dropped)))


def _computes_beside(columns: FeatureColumns, references: Mapping[str, CachedArray], present: Sequence[str]) -> bool:
    """Return whether features are computed from audio, beside references to other features.

    Raises
    ------
    ProcessorError
        If references of these features' names were made by another processor or with other settings.
    """
    if columns.settings.audio_column not in present:
        return False
    own = columns.references()
    for column in references.keys() & own.keys():
        theirs, ours = dataclasses.asdict(references[column]), dataclasses.asdict(own[column])
        differing = [name for name in _SETTINGS_OF_REFERENCES if theirs[name] != ours[name]]
        if differing:
            raise ProcessorError(
                f"the references in column {column!r} were made by another processor or with other settings. Attach "
                "with those, or remove the column to have the features of this processor. They have "
                f"{', '.join(f'{name}={theirs[name]!r}, not {ours[name]!r}' for name in differing)}; nothing "
                "was attached."
            )
    return not references.keys() & own.keys()

"""Refuse columns that would be mixed up: references to another audio column, and two columns of one name."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import AudioColumnError, ProcessorError
from .cached_array import CachedArray, reference_columns

_SETTINGS = ("processor_sha", "sampling_rate", "max_length_ms", "auto_resample", "channels", "name")


def check_new_columns(own: Mapping[str, CachedArray], features: Mapping[str, Any], dropped: Collection[str]) -> None:
    """Raise if a column of a dataset would be replaced by another's, or taken for what it is not.

    References that the same processor made of the same audio column may be replaced: they are the same. `own` are the
    references that are to be added, `features` those of the dataset, `dropped` the columns that the user has removed.
    """
    present = {name: feature for name, feature in features.items() if name not in dropped}
    references = reference_columns(present)
    check_references(references, own)
    taken = present.keys() - references.keys()
    check_not_replaced(
        {name: each.name for name, each in own.items() if name in taken and not _is_its_audio(name, each)}
    )


def _is_its_audio(column: str, reference: CachedArray) -> bool:
    """Return whether a waveform takes the place of the audio that it is of."""
    return reference.processor_sha is None and column == reference.audio_column


def removed_columns(remove_columns: str | Sequence[str] | None, columns: Collection[str] | None) -> list[str]:
    """Return the columns to remove, given as one name, several or None; raise ValueError if one is not there.

    `columns` are those of the dataset; None if they are not known.
    """
    removed = [remove_columns] if isinstance(remove_columns, str) else list(remove_columns or [])
    missing = [name for name in removed if columns is not None and name not in columns]
    if missing:
        raise ValueError(
            f"remove_columns={missing!r} is not among the columns of the dataset, which are "
            f"{', '.join(map(repr, columns or ()))}. Nothing was computed."
        )
    return removed


def check_audio(audio_column: str, features: Mapping[str, Any]) -> None:
    """Raise `AudioColumnError` if the audio column holds references, or asks for a stream that is not decoded."""
    check_stream(audio_column, features)
    if audio_column in reference_columns(features):
        raise AudioColumnError(
            f"the column {audio_column!r} holds references to waveforms or features, and no audio. Use the dataset "
            "from which it was made: waveforms that are cached are not decoded again. Nothing was computed.",
            column=audio_column,
            columns=tuple(features),
        )


def check_stream(audio_column: str, features: Mapping[str, Any]) -> None:
    """Raise `AudioColumnError` if `datasets` would decode another stream of each file than we may."""
    feature = features.get(audio_column)
    stream = getattr(getattr(feature, "feature", feature), "stream_index", None)  # of Audio, or of a list of it
    if stream is not None:
        raise AudioColumnError(
            f"the audio column {audio_column!r} is Audio(stream_index={stream}), and the stream of a file cannot be "
            f"chosen here. If the files have one audio stream, pass ds.cast_column({audio_column!r}, "
            "Audio(decode=False)); else copy that stream to files of its own. Nothing was computed.",
            column=audio_column,
            columns=tuple(features),
        )


def check_positions(passed: Sequence[Any], audio_column: str) -> None:
    """Raise `AudioColumnError` for arguments that are neither row numbers nor a rank: further input columns."""
    for values in passed:
        if values is None:  # the rank in a process alone
            continue
        first = next(iter(values), 0) if isinstance(values, Sequence) and not isinstance(values, str) else values
        if not isinstance(first, numbers.Integral):
            raise AudioColumnError(
                "other columns were passed beside the audio, and nothing but audio is taken. Pass "
                f"input_columns=[{audio_column!r}], or none: the columns of a dataset stay in it all the same. "
                "Nothing was computed.",
                column=audio_column,
            )


def check_not_replaced(taken: Mapping[str, str]) -> None:
    """Raise `ProcessorError` if there are columns of these names already; each is given with its output."""
    if not taken:
        return
    renamed = {output: f"my_{column}" for column, output in taken.items()}
    raise ProcessorError(
        f"there is a column {', '.join(map(repr, taken))} already, which the output of the same name would replace: "
        "it may be another processor's or the tokenizer's. To keep both, pass "
        f"output_names={renamed!r}; to replace it, remove it from the dataset first. No column was made."
    )


def check_not_written(written: Collection[str]) -> None:
    """Raise `ProcessorError` if a dataset has columns of features that it had not when they were attached."""
    if written:
        raise ProcessorError(
            f"the column {', '.join(map(repr, sorted(written)))} was written after attach, by a map whose function "
            "returned the whole batch, or by flatten_indices. Attach last; or let the function return only its new "
            'columns. For what was written, use ds.with_format("numpy"). The row was not read.'
        )


def check_references(references: Mapping[str, CachedArray], own: Mapping[str, CachedArray]) -> None:
    """Raise if references have the names of other ones, and were made of other audio or by another processor."""
    for column in references.keys() & own.keys():
        _check_reference(column, references[column], own[column])


def _check_reference(column: str, theirs: CachedArray, ours: CachedArray) -> None:
    if theirs.audio_column not in (None, ours.audio_column):
        raise AudioColumnError(
            f"the references in column {column!r} were made from the audio column {theirs.audio_column!r}, and "
            f"audio_column is {ours.audio_column!r} here. Pass audio_column={theirs.audio_column!r}, or give one of "
            f"them another name by output_names. If the audio column was renamed since (rename_column), say so by "
            f"ds.cast_column({column!r}, dataclasses.replace(ds.features[{column!r}], "
            f"audio_column={ours.audio_column!r})). Nothing was read.",
            column=str(ours.audio_column),
            columns=(str(theirs.audio_column),),
        )
    mine, others = dataclasses.asdict(ours), dataclasses.asdict(theirs)
    differing = [name for name in _SETTINGS if mine[name] != others[name]]
    if differing:
        raise ProcessorError(
            f"the references in column {column!r} were made by another processor or with other settings. Attach with "
            "those; or keep both, by output_names; or remove the column to have the features of this processor. They "
            f"have {', '.join(f'{name}={others[name]!r}, not {mine[name]!r}' for name in differing)}; nothing "
            "was attached or replaced."
        )

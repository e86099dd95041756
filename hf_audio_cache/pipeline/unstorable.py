"""Outputs that cannot be written to an entry, such as strings: returned uncached, or refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ..audio.source import AudioSource
from ..cache.entry import encode_entry
from ..cache.keys import AudioCacheKey, WaveformCacheKey
from ..errors import AudioError, AudioExtractionError, UnstorableOutputError
from ..processors.output_specs import OutputSpec
from ..support.write_behind import WriteError

logger = logging.getLogger(__name__)

_ANY_KEY = AudioCacheKey("0" * 64, "0" * 64, 1, 0)
_REMEDY = (
    "Use ds.map(cached_features) or cached_features.attach(ds), which compute such features each time; or have the "
    "front end return arrays of numbers and JSON values, under names that are identifiers"
)


def check_storable(specs: Mapping[str, OutputSpec], processor: str) -> None:
    """Raise `UnstorableOutputError` if no entry can hold outputs of this form."""
    try:
        for name, spec in specs.items():
            if spec.unstorable is not None:
                raise UnstorableOutputError(f"the output {name!r} is {spec.unstorable}.", name=name)
        if specs:
            encode_entry(_ANY_KEY, {name: spec.stand_in() for name, spec in specs.items()})
    except UnstorableOutputError as exc:
        raise UnstorableOutputError(
            f"no entry can hold the outputs of {processor}, and references need entries: {exc} {_REMEDY}. No column "
            "was made.",
            name=exc.name,
        ) from exc


def errors_of_clips(
    errors: Sequence[WriteError], sources: Sequence[AudioSource], keys: Mapping[str, AudioCacheKey | WaveformCacheKey]
) -> dict[str, AudioError]:
    """Return an error by ``blob_sha`` for each clip whose features no entry can hold, though others' can be stored."""
    reasons = {error.key: error for error in errors if isinstance(error, UnstorableOutputError)}
    return {
        source.blob_sha: AudioExtractionError(
            f"no entry can hold the features of {source.clip}, and a reference needs one: {reason} {_REMEDY}; or "
            "filter the clip out.",
            clip=source.clip,
            output=reason.name,
        )
        for source in sources
        if (reason := reasons.get(keys[source.blob_sha])) is not None
    }


class UnstorableWarning:
    """Logs that features are returned and not kept: the first time as a warning, later as information."""

    def __init__(self) -> None:
        self._warned = False

    def of(self, errors: Sequence[WriteError], processor: str) -> None:
        """Log each error that says that an output cannot be held."""
        for error in errors:
            if isinstance(error, UnstorableOutputError):
                level = logging.INFO if self._warned else logging.WARNING
                self._warned = True
                logger.log(
                    level,
                    "%s: features are not cached but computed each time: %s (further cases are logged at level INFO)",
                    *(processor, error),
                )

"""What a pipeline returns for a clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic

from ..audio.length import ClipLength
from ..cache.keys import KeyT
from ..processors.output_forms import copied


@dataclass(frozen=True)
class ClipFeatures:
    """The features of a clip; or its waveform, as the one output that it has."""

    outputs: Mapping[str, Any]  # of the processor, by name
    length: ClipLength | None  # length of the waveform that they were made from; None if their entry does not say it

    def copied(self) -> ClipFeatures:
        """Return the same features in arrays of their own."""
        return ClipFeatures({name: copied(value) for name, value in self.outputs.items()}, self.length)


@dataclass(frozen=True)
class StoredClip(Generic[KeyT]):
    """The key of a clip's entry, which is in the cache; and the clip's length, if that was looked at."""

    key: KeyT
    length: ClipLength | None

"""Decide whether features are stored: always, never, or if reading is faster; for waveforms, `waveforms` decides."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..audio.source import AudioSource
from ..cache.keys import AudioCacheKey

logger = logging.getLogger(__name__)

Policy = Literal["auto", "always", "never"]

SAMPLE_SIZE = 4  # clips that decide; reading them from a remote store costs about one round trip
_REPEATS = 3
_CLEARLY = 10.0  # so many times slower to make than to read: making them again would tell nothing new


@dataclass(frozen=True)
class Sample:
    """A clip whose features were computed and stored, and the seconds that their extraction took."""

    key: AudioCacheKey
    source: AudioSource
    seconds: float


class FeatureStoragePolicy:
    """Decides for each identity of the processor whether its features are stored.

    ``"auto"`` measures it on the first clips that a process computes.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._decisions: dict[str, bool] = {}
        self._samples: list[Sample] = []

    def is_stored(self, processor_sha: str) -> bool:
        """Return whether features of this identity are stored and looked up; True until it is decided."""
        return self._policy == "always" or (self._policy == "auto" and self._decisions.get(processor_sha, True))

    def is_undecided(self, processor_sha: str) -> bool:
        """Return whether it is still to be measured."""
        return self._policy == "auto" and processor_sha not in self._decisions

    def add_sample(self, sample: Sample) -> None:
        """Keep a clip for the measurement, if there is still one to come."""
        if self.is_undecided(sample.key.processor_sha):
            same = [other for other in self._samples if other.key.processor_sha == sample.key.processor_sha]
            self._samples = [*same, sample][-SAMPLE_SIZE:]

    def take_samples(self, processor_sha: str) -> list[Sample]:
        """Return the clips to measure, once there are enough; before and afterwards none."""
        if len(self._samples) < SAMPLE_SIZE or not self.is_undecided(processor_sha):
            return []
        samples, self._samples = self._samples, []
        return samples

    def decide(
        self,
        processor_sha: str,
        name: str,
        *,
        seconds_made: float,
        read: Callable[[], Sequence[object]],
        make: Callable[[], object],
    ) -> None:
        """Compare reading the features of some clips with making them.

        If some are missing, nothing is measured and features go on being stored. `seconds_made` is what extracting them
        took the first time. `read` reads them as one batch, and gives None for those that are missing. `make` makes
        them as if they were not stored.
        """
        self._decisions[processor_sha] = True
        features = read()
        if any(each is None for each in features):
            return
        reading = _seconds(read)
        if seconds_made > _CLEARLY * reading:
            return
        making = _seconds(make)
        if making <= reading:
            self._decisions[processor_sha] = False
            logger.warning(
                "%s makes features in %.2f ms a clip, and reading them takes %.2f ms: they are not stored from here "
                'on. To store them all the same, pass features="always".',
                *(name, 1e3 * making / len(features), 1e3 * reading / len(features)),
            )


def _seconds(call: Callable[[], object]) -> float:
    """Return the shortest time of some calls."""
    took = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return min(took)

"""Whether what a processor makes is worth storing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, get_args

__all__ = ["SAMPLE_SIZE", "FeatureWorth", "Policy", "check_policy"]

logger = logging.getLogger(__name__)

Policy = Literal["auto", "always", "never"]
SampleT = TypeVar("SampleT")

SAMPLE_SIZE = 4  # clips that decide
_REPEATS = 3
_CLEARLY = 3.0  # times longer: then extracting once more would tell nothing new


def check_policy(**policies: str) -> None:
    """Refuse what is none.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    for name, policy in policies.items():
        if policy not in get_args(Policy):
            raise ValueError(f'{name} must be "auto", "always" or "never", not {policy!r}; nothing was opened.')


class FeatureWorth:
    """Whether a processor's features are read faster than they are made, as measured on the first clips of a process.

    Parameters
    ----------
    policy
        ``"auto"`` to measure it; ``"always"`` and ``"never"`` to have said so.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._verdicts: dict[str, bool] = {}

    def stores(self, processor_sha: str) -> bool:
        """Return whether features of this identity are to be stored and looked up; True until it has been measured."""
        return self.policy == "always" or (self.policy == "auto" and self._verdicts.get(processor_sha, True))

    def wants(self, processor_sha: str) -> bool:
        """Return whether it is still to be measured."""
        return self.policy == "auto" and processor_sha not in self._verdicts

    def judge(
        self,
        processor_sha: str,
        name: str,
        samples: Sequence[tuple[SampleT, float]],
        *,
        read: Callable[[SampleT], Any],
        make: Callable[[SampleT], Any],
    ) -> None:
        """Compare reading features with making them. What could not be stored and read goes on being tried.

        Parameters
        ----------
        processor_sha, name
            The identity, and what the processor is called.
        samples
            `SAMPLE_SIZE` clips, and the seconds that each took to extract.
        read
            Reads a clip's features, and returns None where they were not stored.
        make
            Makes them, from where they would be made if they were not stored.
        """
        clips = [clip for clip, _ in samples]
        self._verdicts[processor_sha] = True
        if any(read(clip) is None for clip in clips):
            return
        reading = _seconds(read, clips)
        if sum(seconds for _, seconds in samples) > _CLEARLY * reading:
            return
        making = _seconds(make, clips)
        if making <= reading:
            self._verdicts[processor_sha] = False
            logger.warning(
                "%s makes features in %.2f ms a clip, and reading them takes %.2f ms: they are not stored from here "
                'on. features="always" stores them all the same.',
                *(name, 1e3 * making / len(clips), 1e3 * reading / len(clips)),
            )


def _seconds(call: Callable[[SampleT], Any], clips: Sequence[SampleT]) -> float:
    """Return what `call` takes for all the clips, each at its best."""
    total = 0.0
    for clip in clips:
        took = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            call(clip)
            took.append(time.perf_counter() - started)
        total += min(took)
    return total

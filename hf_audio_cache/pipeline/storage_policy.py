"""Whether what a processor makes is worth storing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal, get_args

__all__ = ["SAMPLE_SIZE", "FeatureWorth", "Policy", "check_policy"]

logger = logging.getLogger(__name__)

Policy = Literal["auto", "always", "never"]

SAMPLE_SIZE = 4  # clips that decide; a batch of them costs a far store about one round trip
_REPEATS = 3
_CLEARLY = 10.0  # times longer, so that extracting them again would tell nothing new


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
        *,
        made_in: float,
        read: Callable[[], Sequence[object]],
        make: Callable[[], object],
    ) -> None:
        """Compare reading the features of some clips with making them.

        What was not stored, or cannot be read, says nothing; such features go on being stored, if they can be.

        Parameters
        ----------
        processor_sha, name
            The identity, and what the processor is called.
        made_in
            What it took to extract them, in seconds.
        read
            Reads the features of these clips as one batch; None in the place of those that are not there.
        make
            Makes them, from where they would be made if they were not stored.
        """
        self._verdicts[processor_sha] = True
        features = read()
        if any(each is None for each in features):
            return
        reading = _seconds(read)
        if made_in > _CLEARLY * reading:
            return
        making = _seconds(make)
        if making <= reading:
            self._verdicts[processor_sha] = False
            logger.warning(
                "%s makes features in %.2f ms a clip, and reading them takes %.2f ms: they are not stored from here "
                'on. features="always" stores them all the same.',
                *(name, 1e3 * making / len(features), 1e3 * reading / len(features)),
            )


def _seconds(call: Callable[[], object]) -> float:
    """Return what a call takes at its best."""
    took = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return min(took)

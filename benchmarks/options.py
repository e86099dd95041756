"""What a run of the benchmarks is told."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUICK_PROCESSOR = "wav2vec2"  # for a quick look: it computes next to nothing


@dataclass(frozen=True)
class Options:
    """Settings of a run.

    Parameters
    ----------
    rounds
        How many rounds each comparison has.
    is_quick
        Whether everything is as small as can be, and in one process: it shows that the scripts run, and no figures.
    scratch
        A folder to work in.
    """

    rounds: int
    is_quick: bool
    scratch: Path

    @property
    def in_processes(self) -> bool:
        """Whether each contender has a process of its own."""
        return not self.is_quick

    def at_most(self, rounds: int) -> int:
        """Return the number of rounds, but no more than this: for comparisons whose rounds take long."""
        return min(self.rounds, rounds)

    def some(self, count: int, *, quick: int) -> int:
        """Return `count`, or the number for a quick look."""
        return quick if self.is_quick else count


def takes(name: str) -> bool:
    """Return whether `CachedFeatures` of this package has such an argument."""
    from hf_audio_cache import CachedFeatures

    return name in inspect.signature(CachedFeatures).parameters


def storing() -> dict[str, Any]:
    """Return the arguments of a `CachedFeatures` that stores whatever it computes, cheap or not."""
    return {name: "always" for name in ("features", "waveforms") if takes(name)}

"""`FillReport`: what filling a cache did."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..cache.stats import BadClip, Stats


@dataclass
class FillReport:
    """What the processes or workers that filled a cache did."""

    rows: int = 0  # that were processed
    # Their figures in all. A clip that a lost worker had stored is a hit of the worker that took over.
    stats: Stats = field(default_factory=Stats)
    n_elsewhere: int = 0  # clips that a worker left to another one, which was computing them
    # Clips that were computed again, since their worker was lost. Others are computed twice only if a worker survives
    # its node for a moment.
    n_again: int = 0
    bad_clips: dict[BadClip, None] = field(default_factory=dict)  # each once
    n_not_stored: int = 0  # clips whose features the root did not take
    reason: str = ""

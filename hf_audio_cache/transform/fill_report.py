"""`FillReport`: what filling a cache did."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..cache.stats import BadClip, Stats


@dataclass
class FillReport:
    """What the processes or workers that filled a cache did.

    Attributes
    ----------
    rows
        Rows that were processed.
    stats
        Their figures in all. A clip that a lost worker had stored is a hit of the worker that took over.
    n_elsewhere
        Clips that a worker left to another one, which was computing them.
    n_again
        Clips that were computed again, since their worker was lost. Others are computed twice only if a worker
        survives its node for a moment.
    bad_clips
        Clips without features, each once.
    n_not_stored, reason
        Clips whose features are not in the root, since it did not take them, and why not.
    """

    rows: int = 0
    stats: Stats = field(default_factory=Stats)
    n_elsewhere: int = 0
    n_again: int = 0
    bad_clips: dict[BadClip, None] = field(default_factory=dict)
    n_not_stored: int = 0
    reason: str = ""

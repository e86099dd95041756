"""What ``warm`` reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..support.report import Report, Table
from ..support.units import format_seconds, format_size
from .messages import in_flags, problems

if TYPE_CHECKING:
    from ..transform.cached_features import CachedFeatures
    from ..transform.fill_report import FillReport

_MOST_PROBLEMS = 20


@dataclass(frozen=True, repr=False)
class WarmReport(Report):
    """What ``warm`` did."""

    root: str
    processor_sha: str
    rows: int  # of the dataset
    hits: int  # distinct clips that were there
    computed: int  # distinct clips
    duplicates: int  # further rows with the audio of these clips
    bad_rows: int  # without features
    bad_clips: list[dict[str, str]]
    bytes_written: int  # of new entries, waveforms included
    seconds: float
    not_stored: int = 0  # distinct clips whose features the root did not take
    reason: str = ""
    elsewhere: int = 0  # clips that one worker of Ray left to another, which was computing them
    again: int = 0  # clips that were begun again, since a worker of Ray was lost

    @classmethod
    def of(cls, cached_features: CachedFeatures, filling: FillReport, seconds: float) -> WarmReport:
        """Return the report on a cache that was filled."""
        seen = filling.stats.hits + filling.stats.computed + filling.stats.bad_clips
        return cls(
            root=str(cached_features.root),
            processor_sha=cached_features.processor_sha,
            rows=filling.rows,
            hits=filling.stats.hits,
            computed=filling.stats.computed,
            duplicates=max(0, filling.rows - seen),
            bad_rows=filling.stats.bad_clips,
            bad_clips=[{**asdict(clip), "reason": in_flags(clip.reason)} for clip in filling.bad_clips],
            bytes_written=filling.stats.bytes_written,
            seconds=seconds,
            not_stored=filling.n_not_stored,
            reason=filling.reason,
            elsewhere=filling.n_elsewhere,
            again=filling.n_again,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, with the rate."""
        return {**super().to_dict(), "clips_per_second": self.clips_per_second}

    @property
    def clips_per_second(self) -> float:
        """Rows a second."""
        return self.rows / max(self.seconds, 1e-9)

    def tables(self) -> list[Table]:
        figures = [
            ("rows", f"{self.rows:,}"),
            ("hits", f"{self.hits:,}"),
            ("computed", f"{self.computed:,}"),
            *([("left to another worker", f"{self.elsewhere:,}")] if self.elsewhere else []),
            *([("begun again", f"{self.again:,}")] if self.again else []),
            ("duplicates", f"{self.duplicates:,}"),
            ("bad", f"{self.bad_rows:,}"),
            *([("not stored", f"{self.not_stored:,}")] if self.not_stored else []),
            ("written", format_size(self.bytes_written)),
            ("time", format_seconds(self.seconds)),
            ("clips/s", f"{self.clips_per_second:,.1f}"),
        ]
        bad = [(f"{count:,}", problem, first) for count, problem, first in problems(self.bad_clips)[:_MOST_PROBLEMS]]
        return [
            Table(self.root, (), figures),
            *([Table("problems", ("clips", "why", "the first"), bad)] if bad else []),
        ]

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
    """What ``warm`` did.

    Attributes
    ----------
    root, processor_sha
        Where, and for which processor.
    rows
        Rows of the dataset.
    hits, computed
        Distinct clips that were there, and that were computed.
    duplicates
        Further rows with the audio of these clips.
    bad_rows, bad_clips
        Rows without features; their clips, with the reason of each.
    bytes_written
        Bytes of new entries, waveforms included.
    not_stored, reason
        Distinct clips whose features are not in the root, since it did not take them, and why not.
    seconds
        What it took.
    elsewhere, again
        With ``--engine ray``: clips that one worker left to another, which was computing them; and clips that were
        begun again, since a worker was lost.
    """

    root: str
    processor_sha: str
    rows: int
    hits: int
    computed: int
    duplicates: int
    bad_rows: int
    bad_clips: list[dict[str, str]]
    bytes_written: int
    seconds: float
    not_stored: int = 0
    reason: str = ""
    elsewhere: int = 0
    again: int = 0

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

"""What ``warm`` reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..support.report import Report, Table
from ..support.units import format_seconds, format_size
from .messages import in_flags, problems

if TYPE_CHECKING:
    from ..transform.fill_report import FillReport

_MOST_PROBLEMS = 20


@dataclass(frozen=True, repr=False)
class WarmReport(Report):
    """What ``warm`` did."""

    root: str
    processor_sha: str
    filling: FillReport
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, with the rate."""
        filling, stats = self.filling, self.filling.stats
        return {
            "root": self.root,
            "processor_sha": self.processor_sha,
            "rows": filling.rows,
            "hits": stats.hits,
            "computed": stats.computed,
            "duplicates": max(0, filling.rows - stats.hits - stats.computed - stats.bad_clips),
            "bad_rows": stats.bad_clips,
            "bad_clips": [{**asdict(clip), "reason": in_flags(clip.reason)} for clip in filling.bad_clips],
            "bytes_written": stats.bytes_written,
            "seconds": self.seconds,
            "not_stored": filling.n_not_stored,
            "reason": filling.reason,
            "elsewhere": filling.n_elsewhere,
            "again": filling.n_again,
            "clips_per_second": filling.rows / max(self.seconds, 1e-9),
        }

    def tables(self) -> list[Table]:
        said = self.to_dict()
        names = {"rows": "rows", "hits": "hits", "computed": "computed"}
        names |= {"elsewhere": "left to another worker", "again": "begun again"}
        names |= {"duplicates": "duplicates", "bad_rows": "bad", "not_stored": "not stored"}
        only_if_any = ("elsewhere", "again", "not_stored")
        figures = [
            *((name, f"{said[field]:,}") for field, name in names.items() if said[field] or field not in only_if_any),
            ("written", format_size(said["bytes_written"])),
            ("time", format_seconds(self.seconds)),
            ("clips/s", f"{said['clips_per_second']:,.1f}"),
        ]
        bad = [(f"{count:,}", problem, first) for count, problem, first in problems(said["bad_clips"])[:_MOST_PROBLEMS]]
        return [
            Table(self.root, (), figures),
            *([Table("problems", ("clips", "why", "the first"), bad)] if bad else []),
        ]

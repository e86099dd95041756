"""How much of a dataset is in the cache, and what the rest will cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..pipeline.feature_pipeline import FeaturePipeline
from ..support.report import Report, Table
from ..support.units import format_seconds, format_size
from .audio_rows import audio_rows, row_shas
from .estimate import Estimate, estimate

_SAMPLE_OF_THE_REST = 16


@dataclass(frozen=True, repr=False)
class Coverage(Report):
    """How much of a dataset is in the cache.

    Attributes
    ----------
    n_rows
        Rows of the dataset.
    n_clips
        Distinct clips among them.
    n_cached
        Rows whose features are cached.
    n_with_waveform
        Of the other rows, those whose waveform is cached.
    n_bad
        Rows whose audio cannot be read.
    rest
        Estimate for the rows that are not cached, from a sample; None if all are.
    """

    n_rows: int
    n_clips: int
    n_cached: int
    n_with_waveform: int
    n_bad: int
    rest: Estimate | None

    @property
    def share(self) -> float:
        """Share of the rows whose features are cached; 1.0 without rows."""
        return self.n_cached / self.n_rows if self.n_rows else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**super().to_dict(), "share": self.share, "rest": self.rest and self.rest.to_dict()}

    def tables(self) -> list[Table]:
        figures = [
            ("rows", f"{self.n_rows:,}"),
            ("distinct clips", f"{self.n_clips:,}"),
            ("cached", f"{self.n_cached:,} ({self.share:.1%})"),
            ("not cached, with a cached waveform", f"{self.n_with_waveform:,}"),
            ("bad", f"{self.n_bad:,}"),
        ]
        if self.rest is not None:
            figures += [
                ("the rest: features", format_size(self.rest.features_bytes)),
                ("the rest: waveforms", format_size(self.rest.waveforms_bytes)),
                ("the rest: time in one process", format_seconds(self.rest.seconds_first_run)),
            ]
        return [Table("coverage", (), figures)]


def coverage(pipeline: FeaturePipeline, dataset: Any, *, estimates_rest: bool = True) -> Coverage:
    """Return how much of `dataset` is in the root; see `CachedFeatures.coverage`."""
    column = pipeline.settings.audio_column
    rows = audio_rows(dataset, column)
    clips = [None if sha is None else bytes.fromhex(sha) for sha in row_shas(rows, column, pipeline.audio_reader)]
    identity = pipeline.identity()
    keys = {sha: pipeline.key(sha.hex(), identity) for sha in dict.fromkeys(clips) if sha is not None}
    present = pipeline.audio_cache.exists_many(list(keys.values()))
    absent = {sha: key for (sha, key), is_there in zip(keys.items(), present, strict=True) if not is_there}
    has_waveform = pipeline.waveform_cache.exists_many([key.waveform_key() for key in absent.values()])
    with_waveform = {sha for sha, is_there in zip(absent, has_waveform, strict=True) if is_there}
    missing = [row for row, sha in enumerate(clips) if sha in absent]
    n_bad = clips.count(None)
    rest = estimate(pipeline, rows.select(missing), sample=_SAMPLE_OF_THE_REST) if missing and estimates_rest else None
    return Coverage(
        n_rows=len(clips),
        n_clips=len(keys),
        n_cached=len(clips) - n_bad - len(missing),
        n_with_waveform=sum(sha in with_waveform for sha in clips),
        n_bad=n_bad,
        rest=rest,
    )

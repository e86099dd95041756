"""`hf-audio-cache runs` and `stats`: the past runs of a root, and the sum of what they counted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..cache.access_records import read_figures
from ..cache.layout import RUNS, parse_figures_name, parse_record_name
from ..cache.open_root import OpenRoot
from ..cache.root import CacheRoot
from ..cache.stats import Stats
from ..stores import Store
from ..support.batches import batches
from ..support.report import Report, Table
from ..support.units import format_seconds, format_size
from .processors import processor_names

_BATCH = 64


@dataclass
class RunLine:
    """One run, with all its processes."""

    run: str  # its id, which `prune` takes as ``keep_run``
    started: str = ""  # as ISO 8601 in UTC
    user: str = ""
    host: str = ""
    # The number of rows of each dataset that it was given, by name.
    datasets: dict[str, int] = field(default_factory=dict)
    processor: str = ""  # the first twelve digits of its sha
    name: str = ""  # the processor's class
    figures: Stats = field(default_factory=Stats)  # what it counted, as far as it is recorded

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**vars(self), "figures": self.figures.to_dict()}


@dataclass(frozen=True, repr=False)
class AllRuns(Report):
    """The runs of a root, the latest first."""

    root: str
    runs: tuple[RunLine, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"root": self.root, "runs": [one.to_dict() for one in self.runs]}

    def tables(self) -> list[Table]:
        lines = [
            (
                one.run,
                f"{one.user}@{one.host}".strip("@"),
                ", ".join(one.datasets),
                f"{sum(one.datasets.values()):,}" if one.datasets else "",
                f"{one.figures.hits:,}",
                f"{one.figures.computed:,}",
            )
            for one in self.runs
        ]
        return [Table(self.root, ("run", "who", "dataset", "rows", "hits", "computed"), lines)]


@dataclass(frozen=True)
class _OfProcessor:
    """What the runs of one processor counted."""

    processor: str
    name: str
    n_runs: int
    figures: Stats

    @property
    def seconds_saved(self) -> float:
        """What the hits would have taken, at the mean time of computing a clip here; else what the runs say."""
        if not self.figures.computed:
            return self.figures.seconds_saved
        return self.figures.hits * self.figures.seconds_computing / self.figures.computed


@dataclass(frozen=True, repr=False)
class TotalStats(Report):
    """What all runs of a root counted, as far as they are recorded."""

    root: str
    n_runs: int  # that left a record
    lines: tuple[_OfProcessor, ...]  # their figures by processor, those with most hits first

    @property
    def figures(self) -> Stats:
        """The sum over all processors."""
        return sum((line.figures for line in self.lines), Stats())

    @property
    def seconds_saved(self) -> float:
        """What all hits would have taken to compute."""
        return sum(line.seconds_saved for line in self.lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        lines = [
            {**vars(line), "figures": line.figures.to_dict(), "seconds_saved": line.seconds_saved}
            for line in self.lines
        ]
        total = {**self.figures.to_dict(), "seconds_saved": self.seconds_saved, "hit_rate": self.figures.hit_rate}
        return {"root": self.root, "n_runs": self.n_runs, **total, "lines": lines}

    def tables(self) -> list[Table]:
        total = self.figures
        figures = [
            ("runs", f"{self.n_runs:,}"),
            ("hits", f"{total.hits:,} ({total.hit_rate:.1%})"),
            ("misses", f"{total.misses:,}"),
            ("computed", f"{total.computed:,}"),
            ("bad clips", f"{total.bad_clips:,}"),
            ("read", format_size(total.bytes_read)),
            ("written", format_size(total.bytes_written)),
            ("time saved", format_seconds(self.seconds_saved)),
        ]
        lines = [
            (
                line.name or line.processor or "references",
                line.processor,
                f"{line.n_runs:,}",
                f"{line.figures.hits:,}",
                f"{line.figures.computed:,}",
                format_seconds(line.seconds_saved),
            )
            for line in self.lines
        ]
        columns = ("processor", "sha", "runs", "hits", "computed", "saved")
        return [Table(self.root, (), figures), *([Table("", columns, lines)] if lines else [])]


def list_runs(root: str | os.PathLike[str] | CacheRoot) -> AllRuns:
    """Return the runs of a root that left a description, the latest first; StoreError if the root cannot be listed."""
    store = OpenRoot.for_maintenance(root).store
    runs: dict[str, RunLine] = {}
    for part in _parts(store):
        line = runs.setdefault(part.run, RunLine(part.run))
        line.figures += part.figures
        line.datasets.update(part.datasets)
        for name in ("started", "user", "host"):
            setattr(line, name, getattr(part, name) or getattr(line, name))
        for name in ("processor", "name"):
            setattr(line, name, getattr(line, name) or getattr(part, name))
    lines = [line for line in runs.values() if line.started]  # of others only what they counted is left
    return AllRuns(str(store.location()), tuple(sorted(lines, key=lambda line: line.run, reverse=True)))


def total_stats(root: str | os.PathLike[str] | CacheRoot) -> TotalStats:
    """Return what all runs of a root counted; it lags by at most 30 s, and lacks what killed processes did since.

    Raises StoreError if the root cannot be listed.
    """
    store = OpenRoot.for_maintenance(root).store
    figures: dict[str, Stats] = {}
    runs: dict[str, set[str]] = {}
    for part in _parts(store, descriptions=False):
        figures[part.processor] = figures.get(part.processor, Stats()) + part.figures
        runs.setdefault(part.processor, set()).add(part.run)
    names = processor_names(store)
    lines = [_OfProcessor(sha, names.get(sha, ""), len(runs[sha]), counted) for sha, counted in figures.items()]
    lines.sort(key=lambda line: (-line.figures.hits, line.processor))
    return TotalStats(str(store.location()), len(set().union(*runs.values())), tuple(lines))


def _parts(store: Store, *, descriptions: bool = True) -> Iterator[RunLine]:
    """Yield what each record under ``runs/`` says: what a process counted, or the description of its run."""
    for batch in batches(store.names(f"{RUNS}/"), _BATCH):
        for name, content in zip(batch, store.get_many(batch), strict=True):
            record, counted = parse_record_name(name), parse_figures_name(name)
            try:
                if not isinstance(content, bytes):
                    continue
                if counted is not None:
                    sha, figures = read_figures(content)
                    part = RunLine(counted, processor=(sha or "")[:12], figures=figures)
                elif record is not None and descriptions:
                    part = _described(record.run, json.loads(content))
                else:
                    continue
            except Exception:  # noqa: BLE001 - a damaged record says nothing; `verify` names it
                continue
            yield part


def _described(run: str, told: dict[str, Any]) -> RunLine:
    """Return what a description says of its run."""
    started, user, host, name = (str(told.get(each) or "") for each in ("started", "user", "host", "processor"))
    rows = {str(dataset): int(n_rows) for dataset, n_rows in (told.get("datasets") or {}).items()}
    return RunLine(run, started, user, host, rows, str(told.get("processor_sha") or "")[:12], name)

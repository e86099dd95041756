"""What a run found, as JSON and as Markdown: times, claims with their targets, and what machine it was."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import Comparison

_LIBRARIES = (
    *("hf_audio_cache", "datasets", "transformers", "torch", "numpy", "pyarrow", "numcodecs", "soundfile", "soxr"),
    *("joblib", "diskcache", "safetensors", "lhotse", "lilcom", "fsspec", "s3fs", "obstore"),
)


@dataclass(frozen=True)
class Spread:
    """The median of a number of rounds, and how far they lie from each other."""

    median: float
    least: float
    lower_quartile: float
    upper_quartile: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return that of some values."""
        quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        return cls(statistics.median(values), min(values), quartiles[0], quartiles[2], max(values))

    def say(self, digits: int = 2) -> str:
        """Return the quartiles, and the extremes in parentheses."""
        one = [f"{value:.{digits}f}" for value in (self.least, self.lower_quartile, self.upper_quartile, self.most)]
        return f"{one[1]} to {one[2]} ({one[0]} to {one[3]})"


@dataclass(frozen=True)
class Claim:
    """What a benchmark is to show, and what it showed.

    Parameters
    ----------
    what
        What was measured.
    measured
        Its value in each round.
    at_least, at_most
        The target, of which one is given.
    unit
        Of the value; "times" for a ratio.
    """

    what: str
    measured: list[float]
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "times"

    @property
    def spread(self) -> Spread:
        """The median and the spread of its rounds."""
        return Spread.of(self.measured)

    @property
    def target(self) -> str:
        """The target in words."""
        return f"≥ {self.at_least:g} {self.unit}" if self.at_least is not None else f"≤ {self.at_most:g} {self.unit}"

    @property
    def holds(self) -> bool:
        """Whether the median reaches the target."""
        median = self.spread.median
        return median >= self.at_least if self.at_least is not None else median <= (self.at_most or 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**asdict(self), "target": self.target, "spread": asdict(self.spread), "holds": self.holds}


@dataclass
class Section:
    """What one benchmark found.

    Attributes
    ----------
    title
        What it is about.
    notes
        What a reader must know of how it was done, and what was left out and why.
    tables
        Rows of figures by column, for each table's caption.
    claims
        What it was to show.
    wrong
        What was wrong with what contenders returned.
    rounds
        The seconds of a row for each table, contender and round.
    when
        The day on which it was run.
    """

    title: str
    notes: list[str] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    rounds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    when: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Section:
        """Return the section that `to_json` described."""
        names = ("what", "measured", "at_least", "at_most", "unit")
        claims = [Claim(**{name: claim[name] for name in names}) for claim in values["claims"]]
        return cls(**{**values, "claims": claims})

    def add(self, caption: str, comparison: Comparison, *, beside: str, net_of: str | None = None) -> None:
        """Add the times of a comparison, and how each relates to the contender `beside`."""
        rows = []
        for name, seconds in comparison.seconds.items():
            spread = Spread.of([each * 1000 for each in seconds])
            ratio = Spread.of(comparison.ratios(name, beside))
            row = {
                "contender": name,
                "ms a row": f"{spread.median:.3f}",
                "spread": spread.say(3),
                f"times {beside}": f"{ratio.median:.2f}",
                "spread of it": ratio.say(),
            }
            if net_of:
                net = Spread.of([(each - free) * 1000 for each, free in self._pairs(comparison, name, net_of)])
                row["net ms"] = f"{net.median:.3f}"
            rows.append(row)
        self.tables[caption] = rows
        self.rounds[caption] = comparison.seconds
        self.notes += [f"{caption}: {name} is left out, since {reason}." for name, reason in comparison.skipped.items()]
        self.notes += [f"{caption}: {name} differs by up to {error:.2g}." for name, error in comparison.errors.items()]
        self.wrong += [f"{caption}: {problem}" for problem in comparison.wrong]

    @staticmethod
    def _pairs(comparison: Comparison, name: str, other: str) -> list[tuple[float, float]]:
        return list(zip(comparison.seconds[name], comparison.seconds[other], strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**asdict(self), "claims": [claim.to_json() for claim in self.claims]}

    def to_markdown(self) -> str:
        """Return it as a part of a page."""
        parts = [f"## {self.title}", *([f"(Run on {self.when}.)"] if self.when else []), *self.notes]
        parts += [f"{caption}:\n\n{_table(rows)}" for caption, rows in self.tables.items()]
        if self.claims:
            claims = [
                {
                    "what": claim.what,
                    "target": claim.target,
                    "measured": f"{claim.spread.median:.3g} {claim.unit}",
                    "spread": claim.spread.say(3),
                    "holds": "yes" if claim.holds else "**no**",
                }
                for claim in self.claims
            ]
            parts.append(_table(claims))
        parts += [f"**Wrong**: {problem}" for problem in self.wrong]
        return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    lines += [f"| {' | '.join(str(row.get(column, '')) for column in columns)} |" for row in rows]
    return "\n".join(lines)


def machine(scratch: Path) -> dict[str, Any]:
    """Return what a reader must know of the machine and the libraries."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    cpu = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "unknown")
    kilobytes = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(kilobytes / 2**20, 1),
        "system": platform.platform(),
        "file system": _file_system(scratch),
        "python": platform.python_version(),
        "page cache": "warm: each pass was done once before the first that is timed, unless a table says otherwise",
        "torch threads": "as torch sets them; one in forked workers",
        "load before": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _file_system(path: Path) -> str:
    """Return the type of the file system that a folder is on."""
    mounts = [line.split()[1:3] for line in _lines("/proc/mounts")]
    inside = [(len(where), kind) for where, kind in mounts if path.resolve().is_relative_to(where)]
    return max(inside)[1] if inside else "unknown"


def page(described: Mapping[str, Any], sections: Mapping[str, Section]) -> str:
    """Return the Markdown of a run."""
    versions = ", ".join(f"{name} {version}" for name, version in described["versions"].items())
    facts = [f"- {name}: {value}" for name, value in described.items() if name != "versions"]
    head = "\n".join(
        [
            "# The tables",
            "",
            "Written by `make bench`. [Benchmarks](benchmarks.md) says how it is measured, and what the rows are.",
            "Times are of one machine; ratios are within a round, and what is quoted.",
            "",
            *facts,
        ]
    )
    return "\n\n".join([f"{head}\n- libraries: {versions}", *(section.to_markdown() for section in sections.values())])

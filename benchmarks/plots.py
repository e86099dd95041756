"""Plots and the short table of docs/benchmarks.md, from a run: ``python benchmarks/plots.py FILE.json``.

Each plot shows one table of the run, into docs/images/: the median of its rounds, and every round as a dot.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from picture import READ, ROOT, WITHOUT, bars, save

TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=\n<!-- end of table -->)", re.DOTALL)
Rounds = dict[str, list[float]]

# Name of a picture: the benchmark, words of the table's caption, contenders that are left out, and the title.
ARROW = "Dataset.map, Arrow, numpy format"
PLOTS = {
    "hit": (
        "hit",
        ("whisper_tiny", "10 s"),
        ("recompute", "lossy", "into one array"),
        "Reading the features of a clip of 10 s (Whisper)",
    ),
    "prompts": (
        "hit",
        ("whisper_tiny", "prompts"),
        ("recompute", "lossy", "into one array"),
        "Reading the features of a prompt of 2 to 3 s (Whisper)",
    ),
    "seamless": (
        "hit",
        ("seamless_m4t", "10 s"),
        ("recompute", "lossy", "into one array"),
        "Reading the features of a clip of 10 s (SeamlessM4T)",
    ),
}


def main(path: Path) -> None:
    """Draw the plots of what the run has, and write the table."""
    sections = json.loads(path.read_text("utf-8"))["sections"]
    for name, (section, words, left_out, title) in PLOTS.items():
        found = sections.get(section, {}).get("rounds", {})
        rounds = next((found[caption] for caption in found if all(word in caption for word in words)), None)
        if rounds is not None:
            shown = {each: rounds[each] for each in rounds if not any(word in each for word in left_out)}
            save(name, lambda shown=shown, title=title: draw(shown, title))
    page = ROOT / "docs" / "benchmarks.md"
    page.write_text(TABLE.sub(lambda _: table(sections), page.read_text("utf-8")), "utf-8")


def table(sections: dict[str, Any]) -> str:
    """Return the figures that a reader asks for first, as Markdown."""
    head = ["what", "without the cache, ms", "with it, ms", "ratio", "its lowest and highest"]
    lines = [head, ["---"] * len(head), *rows(sections)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows(sections: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the lines of the table: first passes, and then warm ones."""
    for caption, rounds in tables(sections, "cold_pass", "one process"):
        without, ours, *_ = rounds
        yield compared(f"first pass: {caption}", rounds[without], rounds[ours])
    for caption, rounds in tables(sections, "hit", "whisper_tiny"):
        attached, mapped = rounds["ours: .attach, 32 rows"], rounds["ours: .map with .attach, 32 rows"]
        yield compared(f"computed again, or attached: {caption}", rounds["recompute"], attached)
        yield compared(f"read from Arrow, or attached: {caption}", rounds[ARROW], attached)
        yield compared(f"read from Arrow, or mapped and attached: {caption}", rounds[ARROW], mapped)


def tables(sections: dict[str, Any], section: str, words: str) -> list[tuple[str, Rounds]]:
    """Return those of a section whose caption has these words."""
    found = sections.get(section, {}).get("rounds", {})
    return [(caption, found[caption]) for caption in found if words in caption]


def compared(what: str, without: list[float], ours: list[float]) -> list[str]:
    """Return a line of the table, in ms a clip."""
    ratios = [one / other for one, other in zip(ours, without, strict=True)]
    times = [f"{1000 * statistics.median(seconds):.2f}" for seconds in (without, ours)]
    return [what, *times, f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]


def draw(rounds: Rounds, title: str) -> Any:
    """Return the figure of a table: milliseconds a clip."""
    figure, axes = plt.subplots(figsize=(10, 0.6 + 0.42 * len(rounds)), layout="constrained")
    medians = {name: 1000 * statistics.median(seconds) for name, seconds in rounds.items()}
    lines = [(name, value, READ if name.startswith("ours") else WITHOUT) for name, value in medians.items()]
    bars(axes, lines, [f"{value:.2f} ms" for value in medians.values()])
    for place, seconds in enumerate(rounds.values()):
        dots = [min(1000 * each, 1.1 * max(medians.values())) for each in seconds]
        axes.plot(dots, [place] * len(dots), ".", color="0.3", markersize=3)
    figure.suptitle(f"{title}, ms a clip", x=0.01, ha="left", fontsize=12)
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]))

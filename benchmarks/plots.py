"""Plots of a run, into docs/images/: ``python benchmarks/plots.py FILE.json``.

Each shows one table of the run: the median of its rounds, and every round as a dot.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from picture import READ, WITHOUT, bars, save

# Name of a picture: the benchmark, words of the table's caption, contenders that are left out, and the title.
PLOTS = {
    "hit": (
        "hit",
        ("whisper_tiny", "10 s"),
        ("recompute", "lossy", "into one array"),
        "Reading the features of a clip of 10 s (Whisper)",
    ),
    "epoch": (
        "epoch",
        ("whisper_tiny", "10 s", "0 workers"),
        ("constant",),
        "A warm epoch through a DataLoader (Whisper, 10 s)",
    ),
    "cold": ("cold_pass", ("whisper_tiny", "one process"), (), "A first pass (Whisper)"),
}


def main(path: Path) -> None:
    """Draw the plots of what the run has."""
    sections = json.loads(path.read_text("utf-8"))["sections"]
    for name, (section, words, left_out, title) in PLOTS.items():
        tables = sections.get(section, {}).get("rounds", {})
        rounds = next((tables[caption] for caption in tables if all(word in caption for word in words)), None)
        if rounds is not None:
            shown = {each: rounds[each] for each in rounds if not any(word in each for word in left_out)}
            save(name, lambda shown=shown, title=title: draw(shown, title))


def draw(rounds: dict[str, list[float]], title: str) -> Any:
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

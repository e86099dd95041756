"""The README's picture and its figures, from what `make demo` measures: ``python benchmarks/picture.py DEMO.json``.

`make picture` runs the demo and then this. It draws docs/images/saves-light.svg and -dark.svg, and writes the
sentence with the same figures between the README's two marks.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
FIGURES = re.compile(r"(?<=<!-- figures -->\n).*?(?=\n<!-- end of figures -->)", re.DOTALL)
COMPUTED, READ, WITHOUT = "tab:orange", "tab:blue", "0.6"  # as in the notebooks
_INKS = {"light": "#24292f", "dark": "#e6edf3"}


def main(path: Path) -> None:
    """Draw the pictures and write the sentence."""
    demo = json.loads(path.read_text("utf-8"))
    save("saves", lambda: draw(demo))
    readme = ROOT / "README.md"
    readme.write_text(FIGURES.sub(lambda _: sentence(demo), readme.read_text("utf-8")), "utf-8")


def save(name: str, make: Callable[[], Any]) -> None:
    """Save a figure for light and for dark pages."""
    plt.rcParams.update({"font.size": 11, "svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": name})
    for theme, ink in _INKS.items():
        for part in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"):
            plt.rcParams[part] = ink
        path = ROOT / "docs" / "images" / f"{name}-{theme}.svg"
        make().savefig(path, transparent=True, metadata={"Date": None})
        plt.close("all")


def passes(demo: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the passes of the demo by what they are, without this package and with it."""
    kinds = {"without": "ds.map(compute)", "with": "cached_features.map(ds)"}
    return {name: [run for run in demo["runs"] if run["form"].startswith(kind)] for name, kind in kinds.items()}


def sentence(demo: dict[str, Any]) -> str:
    """Return the README's figures as Markdown."""
    plain_first, plain_new = passes(demo)["without"]
    first, again, new, _ = passes(demo)["with"]
    arrays, _, features, waveforms = demo["n_bytes"].values()
    return (
        f"{new['rows']} spoken prompts through Whisper's feature extractor, on {demo['machine']}: a first pass takes "
        f"**{first['seconds']:.1f} s** ({plain_first['seconds']:.1f} s without this package), the same again "
        f"**{again['seconds']:.2f} s**, and a new version of the dataset with 5 % new rows **{new['seconds']:.1f} s** "
        f"({plain_new['seconds']:.1f} s without). Arrays in Arrow take **{_mb(arrays)}** for each version; the cache "
        f"holds the features in **{_mb(features)}** for all of them, and the waveforms in {_mb(waveforms)}."
    )


def draw(demo: dict[str, Any]) -> Any:
    """Return the figure: seconds on the left, bytes on the right."""
    plain_first, plain_new = passes(demo)["without"]
    first, again, new, _ = passes(demo)["with"]
    arrays, _, features, waveforms = demo["n_bytes"].values()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.9), width_ratios=(3, 2), layout="constrained")
    seconds = [
        ("Dataset.map: first pass", plain_first["seconds"], WITHOUT),
        ("cached: first pass", first["seconds"], COMPUTED),
        ("Dataset.map: 5 % new rows", plain_new["seconds"], WITHOUT),
        ("cached: 5 % new rows", new["seconds"], READ),
        ("cached: the same again", again["seconds"], READ),
    ]
    bars(left, seconds, [f"{value:.2f} s" if value < 1 else f"{value:.1f} s" for _, value, _ in seconds])
    left.set_title(f"Time for {new['rows']} clips", loc="left", fontsize=12)
    sizes = [
        ("Arrow: each version", arrays, WITHOUT),
        ("features: all versions", features, READ),
        ("waveforms: all versions", waveforms, READ),
    ]
    bars(right, sizes, [_mb(value) for _, value, _ in sizes])
    right.set_title("Bytes on disk", loc="left", fontsize=12)
    return figure


def bars(axes: Any, lines: list[tuple[str, float, str]], labels: list[str]) -> None:
    """Draw horizontal bars, each with its name, value, color and label."""
    names, values, colors = zip(*lines, strict=True)
    drawn = axes.barh(names, values, color=colors, height=0.7)
    axes.bar_label(drawn, labels, padding=5)
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelbottom=False)


def _mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.0f} MB"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

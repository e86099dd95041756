"""Runs benchmarks: ``python benchmarks/run.py [NAMES] [--rounds N] [--out FILE] [--scratch DIR] [--quick]``.

Prints Markdown. ``--out FILE.json`` writes the JSON, and the tables into FILE.md beside it; what the file has of other
benchmarks stays. Speed is no test: the exit code is 0 however slow, and 1 if a contender gave other arrays than the
others.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
NAMES = (
    *("hit", "epoch", "cold_pass", "new_rows", "loose_files", "many_entries", "sizes", "auto", "map_cost", "remote"),
    "ray_fill",
    "scale_model",
    "packs",
    "packs_remote",
    "packs_many",
)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"of {', '.join(NAMES)}; by default all")
    parser.add_argument("--rounds", type=int, default=11, help="how many times each contender has its turn (11)")
    parser.add_argument("--out", type=Path, help="write this JSON, and Markdown beside it")
    parser.add_argument("--scratch", type=Path, help="work in a new folder in this one; by default a temporary one")
    parser.add_argument("--quick", action="store_true", help="everything tiny and in one process; no figures to quote")
    told = parser.parse_args(arguments)
    unknown = sorted(set(told.names) - set(NAMES))
    if unknown:
        parser.error(f"expected names of {', '.join(NAMES)}, and found {', '.join(unknown)}; nothing was run")
    if told.rounds < 1:
        parser.error(f"expected at least one round, and found {told.rounds}; nothing was run")
    with tempfile.TemporaryDirectory(prefix="hf-audio-cache-bench-", dir=told.scratch) as scratch:
        _settle(Path(scratch))
        return _run(told.names or NAMES, told, Path(scratch))


def _settle(scratch: Path) -> None:
    """Let this process and its children import the benchmarks, work offline and touch no cache of the user's."""
    sys.path[0] = str(CHECKOUT / "tests")  # the helpers of the tests
    sys.path.append(str(CHECKOUT))  # the last: the package is the one that is installed
    os.environ |= {
        "HF_HOME": str(scratch / "huggingface"),
        "HF_AUDIO_CACHE": str(scratch / "audio_cache"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        # Of AST's filters some are empty, by its own configuration.
        "PYTHONWARNINGS": "ignore",
    }
    for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_TOKEN"):
        os.environ.pop(name, None)
    warnings.simplefilter("ignore")


def _run(names: Sequence[str], told: argparse.Namespace, scratch: Path) -> int:
    from benchmarks.options import Options
    from benchmarks.report import Section, machine, page

    options = Options(told.rounds, told.quick, scratch)
    described = {**machine(scratch), "rounds": told.rounds}
    has_old = told.out and told.out.exists()
    old = json.loads(told.out.read_text(encoding="utf-8")) if has_old else {"sections": {}}
    sections = {name: Section.from_json(section) for name, section in old["sections"].items()}
    for name in names:
        started = time.perf_counter()
        sections[name] = importlib.import_module(f"benchmarks.{name}").run(options)
        sections[name].when = time.strftime("%Y-%m-%d")
        sys.stdout.write(f"{sections[name].to_markdown()}\n({name}: {time.perf_counter() - started:.0f} s)\n\n")
        sys.stdout.flush()
        if told.out:  # after each, so that what was found is not lost with what comes after
            ordered = {each: sections[each] for each in NAMES if each in sections}
            content = {"machine": described, "sections": {each: ordered[each].to_json() for each in ordered}}
            told.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            told.out.with_suffix(".md").write_text(page(described, ordered), encoding="utf-8")
    return 1 if any(sections[name].wrong for name in names) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

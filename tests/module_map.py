"""Writes the list of modules in CONTRIBUTING.md from their docstrings: ``python tests/module_map.py``."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
MAP = re.compile(r"(?<=<!-- Written by tests/module_map.py -->\n).*(?=<!-- The end)", re.DOTALL)
# From the command line down, as the layers in setup.cfg.
ROOMS = ("cli", "transform", "maintenance", "pipeline", "cache", "processors", "audio", "stores", "support")


def module_map() -> str:
    """Return the first sentence of each module's docstring, by room."""
    lines = []
    for room in ROOMS:
        folder = ROOT / "hf_audio_cache" / room
        lines += ["", f"**`{room}/`**: {_summary(folder / '__init__.py')}", ""]
        modules = (path for path in sorted(folder.rglob("*.py")) if path != folder / "__init__.py")
        lines += [f"- `{path.relative_to(folder)}`: {_summary(path)}" for path in modules]
    return "\n".join(lines) + "\n"


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split()).replace("``", "`")


if __name__ == "__main__":
    CONTRIBUTING.write_text(MAP.sub(lambda _: module_map(), CONTRIBUTING.read_text("utf-8")), "utf-8")

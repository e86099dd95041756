"""Runs the tests of a change, on the source folder: ``python tests/check.py [FILE…] [-- PYTEST'S ARGUMENTS]``.

Without a file, of all that differs from the branch ``main``, committed or not. The tests of a module are those that
mirror it: ``tests/cache/test_keys.py`` for ``hf_audio_cache/cache/keys.py``; where there are none, those of its room.
Those of a helper are the modules that import it. What needs torch, servers or Ray is left to `make test`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
TESTS = Path("tests")
MARKERS = "not torch and not torchcodec and not servers and not ray"


def changed() -> list[Path]:
    """Return the files that differ from where this branch left ``main``, and those that git does not know yet."""
    start = _git("merge-base", "HEAD", "origin/main") or _git("merge-base", "HEAD", "main") or ["HEAD"]
    return [Path(name) for name in _git("diff", "--name-only", *start) + _git("ls-files", "-o", "--exclude-standard")]


def _git(*arguments: str) -> list[str]:
    told = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return told.stdout.split() if told.returncode == 0 else []


def tests_of(path: Path) -> list[Path]:
    """Return the tests to run for one file, relative to the checkout."""
    if path.suffix != ".py" or not (CHECKOUT / path).is_file():
        return []
    if path.parts[0] == "hf_audio_cache":
        room = TESTS.joinpath(*path.parent.parts[1:])
        mirror = room / f"test_{path.stem}.py"
        if (CHECKOUT / mirror).is_file():
            return [mirror]
        return [room] if room != TESTS and (CHECKOUT / room).is_dir() else []
    if path.parts[0] != "tests" or path.name == "conftest.py":
        return []
    if path.name.startswith("test_"):
        return [path]
    imports = re.compile(rf"^(import|from) {path.stem}\b", re.MULTILINE)
    modules = sorted((CHECKOUT / TESTS).rglob("test_*.py"))
    return [one.relative_to(CHECKOUT) for one in modules if imports.search(one.read_text(encoding="utf-8"))]


def main(arguments: list[str]) -> int:
    """Run them; return pytest's status."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    files, told = [Path(name) for name in arguments[:split]], arguments[split + 1 :]
    found: dict[Path, None] = {}
    for path in files or changed():
        if not (CHECKOUT / path).exists() and files:
            sys.stderr.write(f"check: no such file: {path}\n")
            return 2
        tests = [path] if path in files and (CHECKOUT / path).is_dir() else tests_of(path)
        found |= dict.fromkeys(tests)
    if not found:
        sys.stderr.write("check: no test belongs to these files alone; `make test` runs all\n")
        return 0
    environment = {**os.environ, "HF_AUDIO_CACHE_TEST_SOURCE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", MARKERS, *map(str, found), *told]
    return subprocess.run(command, cwd=CHECKOUT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

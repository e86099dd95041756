"""Runs the tests of a change, on the source folder: ``python tests/check.py [FILE…] [-- PYTEST'S ARGUMENTS]``.

Without a file, of all that differs from the branch ``main``, committed or not. The tests of a module are those that
mirror it: ``tests/cache/test_keys.py`` for ``hf_audio_cache/cache/keys.py``. Where there are none, those of its room
that name it, else those of the nearest modules that import it, else its room's. Those of a helper are the modules that
import it. What needs torch, servers or Ray is left to `make test`.
"""

from __future__ import annotations

import functools
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
        return _tests_of_module(path)
    if path.parts[0] != "tests" or path.name == "conftest.py":
        return []
    if path.name.startswith("test_"):
        return [path]
    return _naming(rf"^(import|from) {path.stem}\b", TESTS)


def _tests_of_module(path: Path) -> list[Path]:
    *folders, name = path.with_suffix("").parts
    room = TESTS.joinpath(*folders[1:])
    if mirror := _mirror(path):
        return [mirror]
    if room == TESTS:
        return []
    has_room = (CHECKOUT / room).is_dir()
    if name == "__init__" and has_room:
        return [room]
    if name != "__init__" and not has_room:
        return _tests_of_module(path.parent / "__init__.py")
    package = re.escape(".".join(folders))
    found = _naming(rf"\b{package}\.{name}\b|from {package} import .*\b{name}\b", room)
    seen = nearest = [] if found else [path]
    while nearest and not found:
        importers = [one for one in _importers(nearest) if one not in seen]
        found = [mirror for one in importers if (mirror := _mirror(one))]
        nearest = [one for one in importers if one.name != "__init__.py"]  # which imports all of its room
        seen = seen + nearest
    return found or [next(one for one in (room, *room.parents) if (CHECKOUT / one).is_dir())]


def _mirror(path: Path) -> Path | None:
    """Return the test module of this module's name; a package has it beside its folder, or a room in it."""
    room = TESTS.joinpath(*path.parent.parts[1:])
    names = [room.parent / f"test_{room.name}.py", room / f"test_{room.name}.py"]
    names = names if path.name == "__init__.py" else [room / f"test_{path.stem}.py"]
    return next((name for name in names if (CHECKOUT / name).is_file()), None)


def _importers(modules: list[Path]) -> list[Path]:
    """Return the modules of the package that import one of these; those of its room, where there are any."""
    room = modules[0].parent
    names = "|".join(one.parent.name if one.name == "__init__.py" else one.stem for one in modules)
    imports = rf"^\s*from \.[.\w]* import .*\b({names})\b|^\s*from \.[.\w]*\b({names}) import"
    found = _naming(imports, Path("hf_audio_cache"), "*.py")
    return [one for one in found if one.is_relative_to(room)] or found


def _naming(pattern: str, folder: Path, names: str = "test_*.py") -> list[Path]:
    matches = re.compile(pattern, re.MULTILINE).search
    files = sorted((CHECKOUT / folder).rglob(names))
    return [one.relative_to(CHECKOUT) for one in files if matches(_text(one))]


@functools.cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


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

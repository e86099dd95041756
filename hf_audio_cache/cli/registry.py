"""Commands as typer has them: their help from docstrings, ``--json``, and what a group does without a command."""

from __future__ import annotations

import inspect
import io
import re
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import typer
import typer.core

from .running import guarded

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # of click, or of the copy that newer releases of typer have
_EXAMPLE_WIDTH = 70  # of 80 characters
_HEADING = re.compile(r"^(Examples?)\n-+\n", re.MULTILINE)


class _TakesJson:
    """A command that takes ``--json`` for ``--format json``."""

    params: list[Any]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if any(parameter.name == "form" for parameter in self.params):
            end = args.index("--") if "--" in args else len(args)
            args = [*("--format=json" if arg == "--json" else arg for arg in args[:end]), *args[end:]]
        return super().parse_args(ctx, args)  # type: ignore[misc, no-any-return]  # of the class beside this one


class Command(_TakesJson, typer.core.TyperCommand):
    """A command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Say of an argument too many how a root is named."""
        try:
            return super().parse_args(ctx, args)
        except _USAGE_ERROR as exc:
            if "extra argument" in exc.message and any("--root" in parameter.opts for parameter in self.params):
                exc.message += ". Name a cache with --root."
            raise


class Group(_TakesJson, typer.core.TyperGroup):
    """A command that has others under it."""

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run it. Characters that the terminal's encoding lacks are escaped."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **settings)


def add_command(app: typer.Typer, command: Callable[..., Any], name: str | None = None) -> None:
    """Add a command, with its docstring as help: examples stay as they are, all else is wrapped to the terminal."""
    text = _HEADING.sub(r"\1:\n\n", inspect.cleandoc(command.__doc__ or ""))
    head, separator, examples = text.partition("    hf-audio-cache")
    lines = [line.strip() for line in f"{separator}{examples}".splitlines() if line.strip()]
    parts = (textwrap.wrap(line, _EXAMPLE_WIDTH, break_long_words=False, break_on_hyphens=False) for line in lines)
    shown = "\n".join(["\b", *("  " + " \\\n      ".join(wrapped) for wrapped in parts)])
    summary = head.partition("\n")[0]
    text = f"{head.rstrip()}\n\n{shown}" if lines else head
    app.command(name, help=text, short_help=summary, cls=Command)(guarded(command))

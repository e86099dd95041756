"""The command line, run in this process and as a program."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import typer.testing
from children import python_path

from hf_audio_cache.cli import app


def run(*arguments: Any, code: int = 0) -> SimpleNamespace:
    """Run a command in this process; check its exit code, and that no traceback came of it."""
    result = typer.testing.CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return SimpleNamespace(out=result.stdout, err=result.stderr, lines=result.stdout.splitlines())


def run_json(*arguments: Any, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--format", "json", code=code).out)


def run_csv(*arguments: Any, code: int = 0) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(run(*arguments, "--format", "csv", code=code).out)))


def program(*arguments: Any, start_new_session: bool = False, **environment: str) -> subprocess.Popen[str]:
    """Start the program of the command line, as a process of its own, which has no torch."""
    command = "import sys; from hf_audio_cache.cli import app; app(prog_name='hf-audio-cache')"
    return subprocess.Popen(
        [sys.executable, "-c", command, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": python_path(has_torch=False), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )

"""Print what a command returns as a table, JSON, CSV, or names only."""

from __future__ import annotations

import csv
import enum
import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

from ..support.report import Report, Table


class Format(str, enum.Enum):
    """A form of output."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[
    Format, typer.Option("--format", metavar="FORM", help="table, json or csv; --json is short for --format json.")
]
NoTruncateOption = Annotated[bool, typer.Option("--no-truncate", help="Show long names whole, and wrap nothing.")]


def show_report(
    report: Report,
    form: Format,
    *,
    rows: Iterable[Mapping[str, Any]] | None = None,
    quiet: bool = False,
    names: Iterable[str] = (),
) -> None:
    """Print a report: `rows` for CSV (by default its figures), `names` for ``-q``."""
    if quiet:
        show_names(names)
    elif form is Format.json:
        _show_json(report.to_dict())
    elif form is Format.csv:
        _show_csv([_flat(report.to_dict())] if rows is None else list(rows))
    else:
        typer.echo(_printable(report.to_text(terminal_width())))


def terminal_width() -> int:
    """Return how many characters a line has room for: ``$COLUMNS``, or the terminal's; 80 if that is unknown."""
    return shutil.get_terminal_size().columns


def show_rows(rows: Sequence[Mapping[str, Any]], table: Table, form: Format, *, is_whole: bool = False) -> None:
    """Print a listing; `table` is its readable form, cut to the terminal's width unless it `is_whole`."""
    if form is Format.json:
        _show_json(list(rows))
    elif form is Format.csv:
        _show_csv(rows)
    else:
        typer.echo(_printable(table.to_text(None if is_whole else terminal_width())))


def show_names(names: Iterable[str]) -> None:
    """Print names, one per line."""
    for name in names:
        typer.echo(_printable(name))


def _show_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, default=str))


def _show_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: json.dumps(cell) if isinstance(cell, dict) else cell for name, cell in row.items()})
    typer.echo(text.getvalue(), nl=False)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a report, with the length of each list and dict."""
    return {name: len(value) if isinstance(value, (list, tuple, dict)) else value for name, value in values.items()}


def _printable(text: str) -> str:
    """Escape control characters: text from a file must not control the terminal."""
    return "".join(char if char == "\n" or char.isprintable() else f"\\x{ord(char):02x}" for char in text)

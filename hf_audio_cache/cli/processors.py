"""``processors``: whose features a root has, and how two processors differ."""

from __future__ import annotations

from typing import Annotated

import typer

from ..support.report import Table
from .options import SignedRootOptions
from .output import Format, FormatOption, NoTruncateOption, show_names, show_report, show_rows
from .registry import Group, add_command
from .running import guarded

_QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print only the shas, one per line.")]

processors = typer.Typer(help="List and compare the processors of a root.", invoke_without_command=True)


@processors.callback(cls=Group)
@guarded
def _list_by_default(
    context: typer.Context,
    root: SignedRootOptions,
    form: FormatOption = Format.table,
    no_truncate: NoTruncateOption = False,
    quiet: _QuietOption = False,
) -> None:
    if context.invoked_subcommand is None:
        list_(root, form, no_truncate, quiet)


def list_(
    root: SignedRootOptions,
    form: FormatOption = Format.table,
    no_truncate: NoTruncateOption = False,
    quiet: _QuietOption = False,
) -> None:
    """List the processors of a root; `processors` alone does, too.

    Example:

        hf-audio-cache processors list --root /data/audio-cache
    """
    from ..maintenance.processors import list_processors

    found = list_processors(root.open())
    if quiet:
        show_names(one.sha for one in found)
        return
    lines = [
        (
            one.sha[:12],
            one.name,
            ", ".join(f"{name}: {form_of}" for name, form_of in one.outputs.items()),
            ", ".join(f"{library} {version}" for library, version in one.versions.items()),
        )
        for one in found
    ]
    rows = [one.to_dict() for one in found]
    show_rows(rows, Table("", ("sha", "name", "outputs", "first used with"), lines), form, is_whole=no_truncate)


def diff(
    old: Annotated[str, typer.Argument(metavar="A", help="The sha of a processor, or its first digits.")],
    new: Annotated[str, typer.Argument(metavar="B", help="That of another one.")],
    root: SignedRootOptions,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the differences, one per line.")] = False,
) -> None:
    """Show what differs between two processors; the exit code is 1 if something does.

    Example:

        hf-audio-cache processors diff 6e675520 b900a361
    """
    from ..maintenance.processors import diff_processors

    report = diff_processors(root.open(), old, new)
    show_report(
        report, form, rows=[{"difference": line} for line in report.differences], quiet=quiet, names=report.differences
    )
    if report.differences:
        raise typer.Exit(1)


add_command(processors, list_, "list")
add_command(processors, diff)

"""``config``, ``stats`` and ``runs``: how a cache is set up, and what it did so far."""

from __future__ import annotations

from typing import Annotated

import typer

from ..support.report import Table
from .options import RootOptions
from .output import Format, FormatOption, NoTruncateOption, show_names, show_report, show_rows
from .running import waiting


def config(
    root: RootOptions,
    form: FormatOption = Format.table,
    no_truncate: NoTruncateOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the root.")] = False,
) -> None:
    """Show the settings, and where each of them comes from. Nothing is contacted.

    Example:

        hf-audio-cache config
    """
    from ..maintenance.config import settings_of

    where = root.open()
    given = {"root": root.root, "near tier": root.near, "storage options": root.storage_option}
    settings = settings_of(where, [name for name, option in given.items() if option])
    if quiet:
        show_names([where.url])
        return
    table = Table("", ("setting", "value", "from"), [(one.name, one.value, one.source) for one in settings])
    show_rows([vars(one) for one in settings], table, form, is_whole=no_truncate)


def stats(
    root: RootOptions,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the number of hits.")] = False,
) -> None:
    """Show hits, misses and the time saved over all runs of a cache, by processor.

    Runs record what they count each 30 seconds, and at their end. Time saved is what the hits would have taken at the
    processor's mean time of computing a clip in this cache.

    Example:

        hf-audio-cache stats
    """
    from ..maintenance.runs import total_stats

    with waiting("Reading the records of runs"):
        report = total_stats(root.open())
    show_report(report, form, rows=report.to_dict()["lines"], quiet=quiet, names=[str(report.figures.hits)])


def runs(
    root: RootOptions,
    form: FormatOption = Format.table,
    no_truncate: NoTruncateOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the ids, one per line.")] = False,
) -> None:
    """List the runs of a cache, the latest first; `prune --keep-run` takes their ids.

    Example:

        hf-audio-cache runs
    """
    from ..maintenance.runs import list_runs

    with waiting("Reading the records of runs"):
        report = list_runs(root.open())
    if quiet:
        show_names(one.run for one in report.runs)
    else:
        [table] = report.tables()
        show_rows([one.to_dict() for one in report.runs], table, form, is_whole=no_truncate)

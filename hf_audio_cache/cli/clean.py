"""``verify``, ``pack``, ``prune``, ``clear`` and ``rm``: find damage, pack entries, and delete them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..support.units import format_size, parse_seconds, parse_share, parse_size
from .options import DryRunOption, RootOptions, SignedRootOptions, YesOption
from .output import Format, FormatOption, show_report
from .running import plan_confirm_run, progress

if TYPE_CHECKING:
    from ..maintenance.delete import PruneReport


CacheOption = Annotated[
    str | None, typer.Option("--cache", metavar="CACHE", help="Delete only features, or only waveforms.")
]


def verify(
    root: SignedRootOptions,
    repair: Annotated[bool, typer.Option("--repair", help="Delete bad entries; they are computed again.")] = False,
    yes: YesOption = False,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the names of damaged entries.")] = False,
) -> None:
    """Check every entry and report damaged ones.

    The exit code is 1 if any are damaged, repaired or not.

    Examples
    --------
        hf-audio-cache verify

        hf-audio-cache verify --root s3://bucket/audio-cache --repair -y
    """
    from ..maintenance.verify import repair_root
    from ..maintenance.verify import verify as check

    if yes and not repair:
        raise ValueError("expected --repair with -y: without it, nothing is deleted, and nobody is asked")
    where = root.open()
    with progress("Reading entries"):
        found = report = check(where)
    if repair and found.repairable:
        report = plan_confirm_run(
            lambda: found,
            lambda: repair_root(where, found),
            lambda plan: f"Delete {len(plan.repairable):,} files under {plan.root}?",
            yes=yes,
        )
    show_report(report, form, quiet=quiet, names=[*report.repairable, *report.unreadable])
    if not report.is_clean:
        raise typer.Exit(1)


def prune(
    root: RootOptions,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="Maximum size of all entries afterwards, such as 100GB."),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Delete entries not used for this long, such as 30d."),
    ] = None,
    processor: Annotated[
        str | None, typer.Option("--processor", metavar="NAME_OR_SHA", help="Delete only features of this processor.")
    ] = None,
    cache: CacheOption = None,
    keep_run: Annotated[
        list[str] | None,
        typer.Option("--keep-run", metavar="RUN", help="Keep what this run used; `runs` has the ids. Repeat for more."),
    ] = None,
    keep_free: Annotated[
        str | None,
        typer.Option("--keep-free", metavar="SHARE", help="Share of the disk to be free afterwards, such as 10%."),
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the names of deleted entries.")] = False,
) -> None:
    """Delete entries, those that were not used for longest first.

    Among entries last used on the same day, those go first that are cheapest to make again for their bytes.

    Runs can continue meanwhile: what is deleted under them is computed again. The record of what a run used lags by at
    most 4,096 entries or 30 seconds.

    Examples
    --------
        hf-audio-cache prune --max-size 100GB --dry-run

        hf-audio-cache prune --older-than 30d --keep-run RUN -y
    """
    from ..maintenance.prune import prune as make_room

    if max_size is older_than is processor is cache is keep_free is None and not keep_run:
        raise ValueError(
            "nothing was deleted: pass --max-size, --older-than, --processor, --cache, --keep-run or --keep-free"
        )
    limits = {
        "max_bytes": None if max_size is None else parse_size(max_size),
        "older_than_seconds": None if older_than is None else parse_seconds(older_than),
        "keep_free": None if keep_free is None else parse_share(keep_free),
    }
    where = root.open()
    settings: dict[str, Any] = {**limits, "processor": processor, "cache": cache, "keep_run": keep_run or ()}
    report = _delete(functools.partial(make_room, where, **settings), dry_run=dry_run, yes=yes)
    show_report(report, form, quiet=quiet, names=report.names)


def clear(
    root: RootOptions,
    cache: CacheOption = None,
    only_near: Annotated[
        bool, typer.Option("--only-near", help="Delete only this machine's near tier of it; the root stays.")
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the names of deleted entries.")] = False,
) -> None:
    """Delete the whole cache, with this machine's near tier of it; other files under the root stay.

    Examples
    --------
        hf-audio-cache clear --cache waveforms -y

        hf-audio-cache clear --root s3://bucket/audio-cache --only-near
    """
    from ..maintenance.prune import clear as delete_all

    where = root.open()
    report = _delete(functools.partial(delete_all, where, cache=cache, only_near=only_near), dry_run=dry_run, yes=yes)
    show_report(report, form, quiet=quiet, names=report.names)


def rm(
    entries: Annotated[
        list[str], typer.Argument(metavar="ENTRY", help="Names of entries, or at least 8 digits of clips' sha256.")
    ],
    root: RootOptions,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the names of deleted entries.")] = False,
) -> None:
    """Delete entries.

    Example:

        hf-audio-cache ls -q --filter "size>10MB" | xargs hf-audio-cache rm -y
    """
    from ..maintenance.prune import remove

    where = root.open()
    report = _delete(functools.partial(remove, where, entries), dry_run=dry_run, yes=yes)
    show_report(report, form, quiet=quiet, names=report.names)


def pack(
    root: RootOptions,
    place: Annotated[str | None, typer.Argument(metavar="ROOT", help="Where the cache is, as --root says.")] = None,
    cache: Annotated[
        str | None, typer.Option("--cache", metavar="CACHE", help="Pack only features, or only waveforms.")
    ] = None,
    processor: Annotated[
        str | None, typer.Option("--processor", metavar="NAME_OR_SHA", help="Pack only features of this processor.")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Pack only entries written this long ago, such as 1d."),
    ] = None,
    pack_size: Annotated[str, typer.Option("--pack-size", metavar="SIZE", help="Size of a pack, about.")] = "256MB",
    form: FormatOption = Format.table,
) -> None:
    """Move entries into a few large files.

    Runs can continue meanwhile. Everything works as before: reading, references, verify, usage, ls, prune, export.

    Examples
    --------
        hf-audio-cache pack ~/audio-cache

        hf-audio-cache pack s3://bucket/audio-cache --older-than 1d
    """
    from ..maintenance.pack import pack as move

    if place is not None and root.root is not None:
        raise ValueError("expected ROOT or --root, not both; nothing was packed")
    with progress("Packing"):
        report = move(
            root.open() if place is None else replace(root, root=place).open(),
            cache=cache,
            processor=processor,
            older_than_seconds=parse_seconds(older_than) if older_than else 0.0,
            pack_bytes=parse_size(pack_size),
        )
    show_report(report, form)


def _delete(delete: Callable[..., PruneReport], *, dry_run: bool, yes: bool) -> PruneReport:
    """Plan, ask, and delete. `delete` only plans if it is called with ``dry_run=True``."""

    def act(*, dry_run: bool) -> PruneReport:
        with progress("Listing" if dry_run else "Deleting"):
            return delete(dry_run=dry_run)

    return plan_confirm_run(
        lambda: act(dry_run=True),
        lambda: act(dry_run=False),
        lambda plan: (
            f"Delete {plan.n_deleted:,} entries, {format_size(plan.n_bytes_deleted)}, under {plan.root}"
            + (f", and {plan.n_near:,} copies in the near tier?" if plan.n_near else "?")
        ),
        dry_run=dry_run,
        yes=yes,
    )

"""``usage``, ``ls``, ``explain``, ``show`` and ``processors``: what is in a cache, and why a clip misses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Optional, cast

import typer

from ..maintenance.explain import Explanation
from ..support.report import Table
from ..support.units import format_seconds, format_size
from .options import (
    AutoResampleOption,
    CapOption,
    ChannelsOption,
    NonfiniteOption,
    ProcessorOption,
    RateOption,
    RootOption,
    SigningKeyFileOption,
    StorageOptions,
    guarded,
    root_of,
    waiting,
)
from .output import Format, FormatOption, QuietOption, show_names, show_report, show_rows

__all__ = ["add_to"]


@guarded
def usage(
    root: RootOption = None,
    sample: Annotated[int, typer.Option("--sample", help="Entries to read for the compression ratio.", min=0)] = 64,
    storage_option: StorageOptions = None,
    form: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Show entries and bytes by processor, rate, cap and age.

    With -q only the shas of processors are printed.

    Examples
    --------
        hf-audio-cache usage

        hf-audio-cache usage --root s3://bucket/audio-cache --format json
    """
    from ..maintenance.usage import usage as measure

    with waiting("Listing"):
        report = measure(root_of(root, storage_option, exists=True), sample=sample)
    show_report(
        report,
        form,
        rows=report.to_dict()["lines"],
        quiet=quiet,
        names=dict.fromkeys(line.processor for line in report.lines if line.processor),
    )


@guarded
def ls(
    root: RootOption = None,
    filters: Annotated[
        Optional[list[str]],  # noqa: UP045 - see hf_audio_cache.cli
        typer.Option(
            "--filter",
            help="Such as size>1MB, accessed>30d, modified<2h, processor=NAME_OR_SHA, clip=SHA, cache=waveforms, "
            "rate=16000, cap=30. Repeat for more; all must hold.",
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", help="name, size, modified, accessed, processor, rate or cap; :desc for downwards.")
    ] = "name",
    limit: Annotated[Optional[int], typer.Option("--limit", help="Maximum number of lines.", min=1)] = None,  # noqa: UP045
    storage_option: StorageOptions = None,
    form: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """List entries.

    Times of last use lag by at most 4,096 entries or 30 seconds.

    Examples
    --------
        hf-audio-cache ls --filter "size>1MB" --filter "accessed>30d" --sort size:desc

        hf-audio-cache ls -q --filter cache=waveforms | xargs hf-audio-cache rm -y
    """
    from ..maintenance.listing import list_entries

    with waiting("Listing"):
        where = root_of(root, storage_option, exists=True)
        entries = list_entries(where, filters=filters or (), sort=sort)[:limit]
    if quiet:
        show_names(entry.name for entry in entries)
        return
    now = time.time()
    lines = [
        (
            entry.name,
            entry.cache,
            entry.processor,
            f"{entry.sampling_rate}",
            format_size(entry.n_bytes),
            format_seconds(max(now - entry.accessed, 0.0)),
        )
        for entry in entries
    ]
    table = Table("", ("name", "cache", "processor", "rate", "size", "used before"), lines)
    show_rows([entry.to_dict() for entry in entries], table, form)


@guarded
def explain(
    clip: Annotated[str, typer.Argument(help="An audio file, or its URL.")],
    processor: ProcessorOption,
    root: RootOption = None,
    sampling_rate: RateOption = None,
    max_length_seconds: CapOption = None,
    auto_resample: AutoResampleOption = False,
    channels: ChannelsOption = "mean",
    nonfinite: NonfiniteOption = "error",
    storage_option: StorageOptions = None,
    signing_key_file: SigningKeyFileOption = None,
    form: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Say why a clip hits or misses.

    The exit code is 0 for a hit and 1 for anything else. With -q only the status is printed.

    Example:

        hf-audio-cache explain clip.wav --processor openai/whisper-tiny --auto-resample
    """
    from .inputs import open_cache

    cached_features = open_cache(
        processor,
        root_of(root, storage_option, signing_key_file, read_only=True),
        sampling_rate=sampling_rate,
        max_length_seconds=max_length_seconds,
        auto_resample=auto_resample,
        channels=channels,
        nonfinite=nonfinite,
    )
    report = cast(Explanation, cached_features.explain(clip))
    if quiet:
        show_names([report.status])
    elif form is Format.table:
        show_names([str(report)])
    else:
        rows = [{"clip": report.clip, "status": report.status, "reason": reason} for reason in report.reasons or ("",)]
        show_report(report, form, rows=rows)
    if report.status != "hit":
        raise typer.Exit(1)


@guarded
def show(
    entry: Annotated[str, typer.Argument(help="Name of an entry, or at least 8 digits of a clip's sha256.")],
    root: RootOption = None,
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--plot", help="PNG file for a picture; needs matplotlib."),
    ] = None,
    storage_option: StorageOptions = None,
    signing_key_file: SigningKeyFileOption = None,
    form: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Show what an entry holds, and draw it.

    The exit code is 1 if one is bad. With -q only names are printed.

    Example:

        hf-audio-cache show features/ab/ab….npz --plot features.png
    """
    from ..maintenance.inspect import inspect_entries, plot_entry

    entries = inspect_entries(root_of(root, storage_option, signing_key_file, exists=True), entry)
    if plot is not None:
        if len(entries) != 1:
            raise ValueError(
                f"expected one entry to draw, and {entry!r} stands for {len(entries)}: "
                f"{', '.join(one.name for one in entries)}"
            )
        plot_entry(entries[0], plot.expanduser())
    if quiet:
        show_names(one.name for one in entries)
    elif form is Format.table:
        for one in entries:
            show_report(one, form)
    else:
        rows: list[dict[str, Any]] = [one.to_dict() for one in entries]
        show_rows(rows, Table("", (), []), form)
    if any(one.problem for one in entries):
        raise typer.Exit(1)


processors = typer.Typer(help="List and compare the processors of a root.", invoke_without_command=True)


@processors.callback()
def _list_by_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        context.invoke(list_, root=None, storage_option=None, signing_key_file=None, form=Format.table, quiet=False)


@guarded
def list_(
    root: RootOption = None,
    storage_option: StorageOptions = None,
    signing_key_file: SigningKeyFileOption = None,
    form: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """List the processors of a root.

    Example:

        hf-audio-cache processors list --root /data/audio-cache
    """
    from ..maintenance.processors import list_processors

    found = list_processors(root_of(root, storage_option, signing_key_file, exists=True))
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
    show_rows(rows, Table("", ("sha", "name", "outputs", "first used with"), lines), form)


@guarded
def diff(
    old: Annotated[str, typer.Argument(metavar="A", help="The sha of a processor, or its first digits.")],
    new: Annotated[str, typer.Argument(metavar="B", help="That of another one.")],
    root: RootOption = None,
    storage_option: StorageOptions = None,
    signing_key_file: SigningKeyFileOption = None,
    form: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Show what differs between two processors; the exit code is 1 if something does.

    Example:

        hf-audio-cache processors diff 6e675520 b900a361
    """
    from ..maintenance.processors import diff_processors

    report = diff_processors(root_of(root, storage_option, signing_key_file, exists=True), old, new)
    show_report(
        report, form, rows=[{"difference": line} for line in report.differences], quiet=quiet, names=report.differences
    )
    if report.differences:
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (usage, ls, explain, show):
        app.command()(command)
    processors.command("list")(list_)
    processors.command("diff")(diff)
    app.add_typer(processors, name="processors")

"""``usage``, ``ls``, ``explain`` and ``show``: what is in a cache, and why a clip misses."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..support.report import Table
from ..support.units import format_seconds, format_size
from .messages import in_flags
from .options import AudioStorageOptions, KeyOptions, ProcessorOption, RootOptions, SignedRootOptions, options_of
from .output import Format, FormatOption, NoTruncateOption, show_names, show_report, show_rows
from .running import waiting

if TYPE_CHECKING:
    from ..maintenance.explain import Explanation


def usage(
    root: RootOptions,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", help="Entries to read for the compression ratio.", min=0)
    ] = 64,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the shas of processors.")] = False,
) -> None:
    """Show entries and bytes by processor, rate, cap and age, and this machine's near tier.

    Examples
    --------
        hf-audio-cache usage

        hf-audio-cache usage --root s3://bucket/audio-cache --format json
    """
    from ..maintenance.usage import usage as measure

    with waiting("Listing"):
        report = measure(root.open(), sample=sample)
    show_report(
        report,
        form,
        rows=report.to_dict()["lines"],
        quiet=quiet,
        names=dict.fromkeys(line.processor for line in report.lines if line.processor),
    )


def ls(
    root: RootOptions,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="TEST",
            help="Such as size>1MB, accessed>30d, modified<2h, processor=NAME_OR_SHA, clip=SHA, cache=waveforms, "
            "rate=16000, cap=30 (seconds; 0 for none). Repeat for more; all must hold.",
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            metavar="FIELD",
            help="name, size, modified, accessed, processor, rate or cap; FIELD:desc for downwards.",
        ),
    ] = "name",
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Maximum number of lines.", min=1)] = None,
    form: FormatOption = Format.table,
    no_truncate: NoTruncateOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only whole names, one per line.")] = False,
) -> None:
    """List entries.

    A clip is the beginning of its sha256, which `show` and `rm` take. Times of last use lag by at most 4,096 entries or
    30 seconds.

    Examples
    --------
        hf-audio-cache ls --filter "size>1MB" --filter "accessed>30d" --sort size:desc

        hf-audio-cache ls -q --filter cache=waveforms | xargs hf-audio-cache rm -y
    """
    from ..maintenance.listing import list_entries

    with waiting("Listing"):
        entries = list_entries(root.open(), filters=filters or (), sort=sort)[:limit]
    if quiet:
        show_names(entry.name for entry in entries)
        return
    now = time.time()
    lines = [
        (
            entry.name if no_truncate else entry.blob_sha[:12],
            entry.cache,
            entry.processor,
            f"{entry.sampling_rate}",
            f"{entry.max_length_ms / 1000:g} s" if entry.max_length_ms else "none",
            format_size(entry.n_bytes),
            f"{format_seconds(max(now - entry.accessed, 0.0))} ago",
        )
        for entry in entries
    ]
    table = Table("", ("clip", "cache", "processor", "rate", "cap", "size", "last used"), lines)
    show_rows([entry.to_dict() for entry in entries], table, form, is_whole=no_truncate)


def explain(
    clip: Annotated[str, typer.Argument(metavar="CLIP", help="An audio file, or its URL.")],
    processor: ProcessorOption,
    root: SignedRootOptions,
    features: KeyOptions,
    audio_storage_option: AudioStorageOptions = None,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the status.")] = False,
) -> None:
    """Say why a clip hits or misses.

    The exit code is 0 for a hit and 1 for anything else.

    Example:

        hf-audio-cache explain clip.wav --processor openai/whisper-tiny --auto-resample
    """
    from .inputs import open_cache

    if "://" not in clip and (os.path.isdir(clip) or not os.path.exists(clip)):
        raise ValueError(f"expected CLIP to be an audio file or its URL, and there is no file {clip}")
    storage_options = options_of(audio_storage_option, "--audio-storage-option")
    cached_features = open_cache(
        processor, root.open(read_only=True), audio_storage_options=storage_options, **features.settings
    )
    report = cast("Explanation", cached_features.explain(clip))
    if quiet:
        show_names([report.status])
    elif form is Format.table:
        show_names([in_flags(str(report))])
    else:
        rows = [{"clip": report.clip, "status": report.status, "reason": reason} for reason in report.reasons or ("",)]
        show_report(report, form, rows=rows)
    if report.status != "hit":
        raise typer.Exit(1)


def show(
    entry: Annotated[
        str,
        typer.Argument(
            metavar="CLIP_OR_ENTRY",
            help="An audio file or its URL, the name of an entry, or at least 8 digits of a clip's sha256.",
        ),
    ],
    root: SignedRootOptions,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="PNG file for a picture; needs matplotlib.")
    ] = None,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only names, one per line.")] = False,
) -> None:
    """Show what the entries of a clip hold, and draw one.

    The exit code is 1 if one is not readable.

    Examples
    --------
        hf-audio-cache show clip.wav

        hf-audio-cache show features/ab/ab….npz --plot features.png
    """
    from ..audio import AUDIO_SUFFIXES
    from ..audio.source import read_source
    from ..maintenance.inspect import inspect_entries, plot_entry

    where = root.open()
    is_audio = "://" in entry or Path(entry).expanduser().is_file()
    if not is_audio and Path(entry).suffix.lower() in AUDIO_SUFFIXES:
        raise ValueError(f"there is no audio file {entry}; nothing was read")
    what = read_source(os.path.expanduser(entry)).blob_sha if is_audio else entry
    entries = inspect_entries(where, what)
    if plot is not None:
        if len(entries) != 1:
            raise ValueError(
                f"expected one entry to draw, and {entry!r} stands for {len(entries)}: "
                f"{', '.join(one.name for one in entries)}. Pass the name of one of them"
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

"""``export`` and ``import``: moving entries between roots."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import DatasetOptions, SignedRootOptions
from .output import Format, FormatOption, show_report
from .running import waiting

if TYPE_CHECKING:
    from ..cache.root import CacheRoot


def export(
    to: Annotated[str, typer.Option("--to", metavar="FILE.tar|ROOT", help="Archive to write, or another root.")],
    root: SignedRootOptions,
    audio: DatasetOptions,
    dataset: Annotated[
        str | None,
        typer.Argument(metavar="DATASET", help="Dataset whose clips to take, as for warm; by default all clips."),
    ] = None,
    processor: Annotated[
        str | None,
        typer.Option(
            "--processor",
            metavar="PROCESSOR",
            help="Export only features of this one: its name or sha, a Hub name or a directory.",
        ),
    ] = None,
    with_waveforms: Annotated[bool, typer.Option("--with-waveforms", help="Include cached waveforms.")] = False,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the names of bad entries.")] = False,
) -> None:
    """Write entries into one tar, or into another root.

    Each entry is checked before it is written. Bad ones are left out, and the exit code is 1.

    Examples
    --------
        hf-audio-cache export clips.parquet --processor openai/whisper-tiny --to laptop.tar

        hf-audio-cache export --to s3://bucket/audio-cache
    """
    from ..maintenance.transfer import copy_entries, export_archive

    is_archive = _is_archive(to)
    clips = None
    if dataset is not None:
        from ..pipeline.audio_reader import AudioReader
        from ..support.secrets import secret_options
        from ..transform.audio_rows import clip_shas
        from .inputs import load_dataset

        with waiting("Reading the dataset"):
            settings = audio.settings
            reader = AudioReader(settings["data_dir"], secret_options(settings["audio_storage_options"]))
            clips = clip_shas(load_dataset(dataset, **audio.source), audio.audio_column, reader)
    source = root.open()
    chosen: dict[str, Any] = {
        "clips": clips,
        "processor": None if processor is None else _sha_of(processor, source),
        "waveforms": with_waveforms,
    }
    with waiting("Exporting"):
        if is_archive:
            report = export_archive(source, to, **chosen)
        else:
            report = copy_entries(source, replace(root, root=to, near=None).open(), **chosen)
    show_report(report, form, quiet=quiet, names=report.refused)
    if report.n_refused:
        raise typer.Exit(1)


def _is_archive(to: str) -> bool:
    """Return whether a target is an archive, and no root; ValueError if it is one that is not written."""
    if re.search(r"\.(tar\.\w+|t[gbx]z2?|zip|7z)$", to, re.IGNORECASE):
        raise ValueError(f"expected an uncompressed FILE.tar (entries are compressed) or a root, not {to!r}")
    is_archive = to.lower().endswith(".tar")
    if is_archive and "://" in to:
        raise ValueError(f"expected --to to be a FILE.tar on a local disk, or a root, not {to!r}; nothing was written")
    return is_archive


def _sha_of(processor: str, root: CacheRoot) -> str:
    """Return the sha of a processor of the root's, or of one that is loaded."""
    from ..cache.open_root import OpenRoot
    from ..maintenance.listing import is_processor, list_entries
    from ..maintenance.processors import processor_names
    from ..processors.identity import processor_sha256
    from .inputs import load_processor

    names = processor_names(OpenRoot.for_maintenance(root).store)
    is_listed = any(is_processor(sha, processor, names) for sha in names)
    if is_listed or (re.fullmatch(r"[0-9a-f]{4,64}", processor) and not os.path.isdir(processor)):
        return processor
    sha = processor_sha256(load_processor(processor))
    # A manifest may be lost; entries are as good without it.
    if sha[:12] not in names and all(entry.processor != sha[:12] for entry in list_entries(root)):
        raise ValueError(
            f"no features of {processor} ({sha[:12]}) under {root.url}; nothing was written. `hf-audio-cache "
            "processors` lists whose there are: pass one by its name or sha"
        )
    return sha


def import_(
    archive: Annotated[Path, typer.Argument(metavar="FILE.tar", help="A tar that export wrote.")],
    root: SignedRootOptions,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the names of refused entries.")] = False,
) -> None:
    """Import the entries of a tar into a root.

    Each entry is checked before it is stored. Entries that are there already stay. The exit code is 1 if something was
    refused. Unless the root is signed, trust an archive as much as whoever made it.

    Example:

        hf-audio-cache import laptop.tar --root ~/audio-cache
    """
    from ..maintenance.transfer import import_archive

    with waiting("Importing"):
        report = import_archive(archive, root.open())
    show_report(report, form, quiet=quiet, names=report.refused)
    if report.n_refused:
        raise typer.Exit(1)

"""``warm`` and ``estimate``: fill a cache, and estimate the cost."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..support.report import Report, Table
from ..support.units import format_seconds, format_size
from .engines import Engine, cluster, fill_by_processes, fill_by_workers
from .messages import in_flags, problems
from .options import DatasetOptions, FillOptions, ProcessorOption, SignedRootOptions
from .output import Format, FormatOption, show_report
from .running import waiting

if TYPE_CHECKING:
    from ..transform.ray_fill import FillReport

_MOST_PROBLEMS = 20

DatasetArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="Hub name, Parquet file, folder of audio files, or folder written by save_to_disk."
    ),
]


@dataclass(frozen=True, repr=False)
class WarmReport(Report):
    """What ``warm`` did."""

    root: str
    processor_sha: str
    filling: FillReport
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, with the rate."""
        filling, stats = self.filling, self.filling.stats
        return {
            "root": self.root,
            "processor_sha": self.processor_sha,
            "rows": filling.rows,
            "hits": stats.hits,
            "computed": stats.computed,
            "duplicates": max(0, filling.rows - stats.hits - stats.computed - stats.bad_clips),
            "bad_rows": stats.bad_clips,
            "bad_clips": [{**asdict(clip), "reason": in_flags(clip.reason)} for clip in filling.bad_clips],
            "bytes_written": stats.bytes_written,
            "seconds": self.seconds,
            "not_stored": filling.n_not_stored,
            "reason": filling.reason,
            "elsewhere": filling.n_elsewhere,
            "again": filling.n_again,
            "clips_per_second": filling.rows / max(self.seconds, 1e-9),
        }

    def tables(self) -> list[Table]:
        said = self.to_dict()
        names = {"rows": "rows", "hits": "hits", "computed": "computed"}
        names |= {"elsewhere": "left to another worker", "again": "begun again"}
        names |= {"duplicates": "duplicates", "bad_rows": "bad", "not_stored": "not stored"}
        only_if_any = ("elsewhere", "again", "not_stored")
        figures = [
            *((name, f"{said[field]:,}") for field, name in names.items() if said[field] or field not in only_if_any),
            ("written", format_size(said["bytes_written"])),
            ("time", format_seconds(self.seconds)),
            ("clips/s", f"{said['clips_per_second']:,.1f}"),
        ]
        bad = [(f"{count:,}", problem, first) for count, problem, first in problems(said["bad_clips"])[:_MOST_PROBLEMS]]
        return [
            Table(self.root, (), figures),
            *([Table("problems", ("clips", "why", "the first"), bad)] if bad else []),
        ]


def warm(
    dataset: DatasetArgument,
    processor: ProcessorOption,
    root: SignedRootOptions,
    audio: DatasetOptions,
    features: FillOptions,
    num_proc: Annotated[
        int | None,
        typer.Option("--num-proc", metavar="N", help="Processes; with --engine ray, workers at most.", min=1),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option("--engine", metavar="ENGINE", help="processes of this machine, or ray: workers of a Ray cluster."),
    ] = Engine.processes,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDRESS", help="Of the Ray cluster; default: $RAY_ADDRESS, else a new one."),
    ] = None,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the names of bad clips.")] = False,
) -> None:
    """Fill a cache with the features of a dataset.

    Entries that exist stay, so you can interrupt it and start again. Rate, cap, resampling, channels and nonfinite are
    part of the key: pass the same ones as in training.

    The exit code is 1 if there are bad clips, or if only the near tier took some of the features; 2 if the root failed,
    which ends the command. Nothing is computed for a root that takes no entries.

    On a Ray cluster, paths of the dataset and of the root must be the same on all machines.

    Examples
    --------
        hf-audio-cache warm ./recordings --processor openai/whisper-tiny --auto-resample

        hf-audio-cache warm clips.parquet --processor ./processor --root s3://bucket/cache --num-proc 8

        hf-audio-cache warm s3://bucket/clips.parquet --processor ./processor --root s3://bucket/cache --engine ray
    """
    from .inputs import open_cache

    if address is not None and engine is not Engine.ray:
        raise ValueError("expected --engine ray with --address; nothing was done")
    with waiting("Loading the processor"):
        cached_features = open_cache(processor, root.open(), **audio.settings, **features.settings, on_error="null")
    started = time.perf_counter()
    if engine is Engine.ray:
        with cluster(address):
            filling = fill_by_workers(cached_features, dataset, audio.source, num_proc)
    else:
        filling = fill_by_processes(cached_features, dataset, audio.source, num_proc)
    seconds = time.perf_counter() - started
    report = WarmReport(str(cached_features.root), cached_features.processor_sha, filling, seconds)
    show_report(report, form, quiet=quiet, names=(clip.clip for clip in filling.bad_clips))
    if filling.n_not_stored:
        typer.echo(f"{filling.n_not_stored:,} clips were not stored: {filling.reason}. Do the same again.", err=True)
    if filling.bad_clips or filling.n_not_stored:
        raise typer.Exit(1)


def estimate(
    dataset: DatasetArgument,
    processor: ProcessorOption,
    root: SignedRootOptions,
    audio: DatasetOptions,
    features: FillOptions,
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="Number of rows to try.", min=1)] = 64,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the verdict.")] = False,
) -> None:
    """Estimate the cost of caching a dataset, and whether it saves time.

    A sample goes through all steps; nothing is stored.

    Example:

        hf-audio-cache estimate ./recordings --processor openai/whisper-tiny --auto-resample
    """
    from .inputs import load_dataset, open_cache

    with waiting("Trying a sample"):
        rows = load_dataset(dataset, **audio.source)
        cached_features = open_cache(processor, root.open(read_only=True), **audio.settings, **features.settings)
        report = cached_features.estimate(rows, sample=sample)
    show_report(report, form, quiet=quiet, names=[report.verdict])

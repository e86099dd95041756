"""``warm`` and ``estimate``: fill a cache, and estimate the cost."""

from __future__ import annotations

import time
from typing import Annotated, Optional

import typer

from .engines import Engine, cluster, fill_by_processes, fill_by_workers
from .options import (
    AudioColumnOption,
    AudioStorageOptions,
    AutoResampleOption,
    CapOption,
    ChannelsOption,
    DataDirOption,
    LongerOption,
    NearOption,
    NonfiniteOption,
    ProcessorOption,
    RateOption,
    RootOption,
    SigningKeyFileOption,
    SplitOption,
    StorageOptions,
    SubsetOption,
    TruncatedOption,
    WaveformsOption,
    options_of,
    root_of,
)
from .output import Format, FormatOption, show_report
from .registry import add_command
from .running import guarded, waiting
from .warm_report import WarmReport

DatasetArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="Hub name, Parquet file, folder of audio files, or folder written by save_to_disk."
    ),
]


@guarded
def warm(
    dataset: DatasetArgument,
    processor: ProcessorOption,
    root: RootOption = None,
    split: SplitOption = None,
    subset: SubsetOption = None,
    audio_column: AudioColumnOption = "audio",
    data_dir: DataDirOption = None,
    audio_storage_option: AudioStorageOptions = None,
    num_proc: Annotated[
        Optional[int],  # noqa: UP045 - see hf_audio_cache.cli
        typer.Option(
            "--num-proc",
            metavar="N",
            help="Number of processes; with --engine ray, the maximum number of workers.",
            min=1,
        ),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option("--engine", metavar="ENGINE", help="processes of this machine, or ray: workers of a Ray cluster."),
    ] = Engine.processes,
    address: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--address",
            metavar="ADDRESS",
            help="Address of the Ray cluster; default: $RAY_ADDRESS, else a new one on this machine.",
        ),
    ] = None,
    sampling_rate: RateOption = None,
    max_length_seconds: CapOption = None,
    longer: LongerOption = "cut",
    auto_resample: AutoResampleOption = False,
    channels: ChannelsOption = "mean",
    truncated: TruncatedOption = "error",
    nonfinite: NonfiniteOption = "error",
    waveforms: WaveformsOption = "auto",
    storage_option: StorageOptions = None,
    near: NearOption = None,
    signing_key_file: SigningKeyFileOption = None,
    form: FormatOption = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the names of bad clips.")] = False,
) -> None:
    """Fill a cache with the features of a dataset.

    Entries that exist stay, so you can interrupt it and start again. Rate, cap, resampling, channels and nonfinite are
    part of the key: pass the same ones as in training.

    The exit code is 1 if there are bad clips, or if the root did not take some of the features; 2 if nothing was
    stored. Nothing is computed for a root that takes no entries.

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
    source = {"split": split, "subset": subset, "audio_column": audio_column}
    with waiting("Loading the processor"):
        cached_features = open_cache(
            processor,
            root_of(root, storage_option, signing_key_file, near=near),
            audio_column=audio_column,
            data_dir=data_dir,
            audio_storage_options=options_of(audio_storage_option, "--audio-storage-option"),
            sampling_rate=sampling_rate,
            max_length_seconds=max_length_seconds,
            longer=longer,
            auto_resample=auto_resample,
            channels=channels,
            truncated=truncated,
            nonfinite=nonfinite,
            waveforms=waveforms,
            on_error="null",
        )
    started = time.perf_counter()
    if engine is Engine.ray:
        with cluster(address):
            filling = fill_by_workers(cached_features, dataset, source, num_proc)
    else:
        filling = fill_by_processes(cached_features, dataset, source, num_proc)
    report = WarmReport.of(cached_features, filling, time.perf_counter() - started)
    show_report(report, form, quiet=quiet, names=(clip["clip"] for clip in report.bad_clips))
    if report.not_stored:
        typer.echo(f"{report.not_stored:,} clips were not stored: {report.reason}. Do the same again.", err=True)
    if report.bad_clips or report.not_stored:
        raise typer.Exit(1)


@guarded
def estimate(
    dataset: DatasetArgument,
    processor: ProcessorOption,
    root: RootOption = None,
    split: SplitOption = None,
    subset: SubsetOption = None,
    audio_column: AudioColumnOption = "audio",
    data_dir: DataDirOption = None,
    audio_storage_option: AudioStorageOptions = None,
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="Number of rows to try.", min=1)] = 64,
    sampling_rate: RateOption = None,
    max_length_seconds: CapOption = None,
    longer: LongerOption = "cut",
    auto_resample: AutoResampleOption = False,
    channels: ChannelsOption = "mean",
    truncated: TruncatedOption = "error",
    nonfinite: NonfiniteOption = "error",
    waveforms: WaveformsOption = "auto",
    storage_option: StorageOptions = None,
    near: NearOption = None,
    signing_key_file: SigningKeyFileOption = None,
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
        rows = load_dataset(dataset, split=split, subset=subset, audio_column=audio_column)
        cached_features = open_cache(
            processor,
            root_of(root, storage_option, signing_key_file, read_only=True, near=near),
            audio_column=audio_column,
            data_dir=data_dir,
            audio_storage_options=options_of(audio_storage_option, "--audio-storage-option"),
            sampling_rate=sampling_rate,
            max_length_seconds=max_length_seconds,
            longer=longer,
            auto_resample=auto_resample,
            channels=channels,
            truncated=truncated,
            nonfinite=nonfinite,
            waveforms=waveforms,
        )
        report = cached_features.estimate(rows, sample=sample)
    show_report(report, form, quiet=quiet, names=[report.verdict])


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    add_command(app, warm)
    add_command(app, estimate)

"""``warm`` and ``estimate``: filling a cache, and what that will take."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ..quantities import format_seconds, format_size
from ..tables import Report, Table
from .options import (
    AudioColumnOption,
    AutoResampleOption,
    CapOption,
    ProcessorOption,
    RateOption,
    RootOption,
    SigningKeyFileOption,
    SplitOption,
    StorageOptions,
    SubsetOption,
    WaveformsOption,
    guarded,
    waiting,
)
from .output import Format, FormatOption, QuietOption, show_report

if TYPE_CHECKING:
    from ..transform import CachedFeatures

__all__ = ["add_to"]

DatasetArgument = Annotated[
    str, typer.Argument(help="Hub name, Parquet file, folder of audio, or folder that save_to_disk wrote.")
]


@dataclass(frozen=True, repr=False)
class WarmReport(Report):
    """What ``warm`` did.

    Attributes
    ----------
    root, processor_sha
        Where, and for which processor.
    rows
        Rows of the dataset.
    hits, computed
        Distinct clips that were there, and that were computed.
    bad_clips
        Rows without features, with the reason.
    bytes_written
        Bytes of new entries, waveforms included.
    seconds
        What it took.
    """

    root: str
    processor_sha: str
    rows: int
    hits: int
    computed: int
    bad_clips: list[dict[str, str]]
    bytes_written: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values, with the rate."""
        return {**super().to_dict(), "clips_per_second": self.clips_per_second}

    @property
    def clips_per_second(self) -> float:
        """Rows a second."""
        return self.rows / max(self.seconds, 1e-9)

    def tables(self) -> list[Table]:
        figures = [
            ("rows", f"{self.rows:,}"),
            ("hits", f"{self.hits:,}"),
            ("computed", f"{self.computed:,}"),
            ("bad clips", f"{len(self.bad_clips):,}"),
            ("written", format_size(self.bytes_written)),
            ("time", format_seconds(self.seconds)),
            ("clips/s", f"{self.clips_per_second:,.1f}"),
        ]
        bad = [(clip["clip"], clip["reason"]) for clip in self.bad_clips[:50]]
        return [Table(self.root, (), figures), *([Table("bad clips", ("clip", "reason"), bad)] if bad else [])]


@guarded
def warm(
    dataset: DatasetArgument,
    processor: ProcessorOption,
    root: RootOption = None,
    split: SplitOption = None,
    subset: SubsetOption = None,
    audio_column: AudioColumnOption = "audio",
    num_proc: Annotated[
        Optional[int],  # noqa: UP045 - see hf_audio_cache.cli
        typer.Option("--num-proc", help="Processes to use.", min=1),
    ] = None,
    sampling_rate: RateOption = None,
    max_length_seconds: CapOption = None,
    auto_resample: AutoResampleOption = False,
    waveforms: WaveformsOption = "auto",
    storage_option: StorageOptions = None,
    signing_key_file: SigningKeyFileOption = None,
    form: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Fill a cache with the features of a dataset.

    What is there already is left as it is, so that it may be interrupted and begun again. With -q the names of bad
    clips are printed; the exit code is 1 if there are any. Rate, cap and resampling are part of the key: give the same
    ones as where the features are used.

    Examples
    --------
        hf-audio-cache warm ./recordings --processor openai/whisper-tiny --auto-resample

        hf-audio-cache warm clips.parquet --processor ./processor --root s3://bucket/cache --num-proc 8
    """
    from .inputs import load_dataset, open_cache

    with waiting("Loading the dataset"):
        rows = load_dataset(dataset, split=split, subset=subset, audio_column=audio_column)
        cached_features = open_cache(
            processor,
            root,
            storage_options=storage_option,
            signing_key_file=signing_key_file,
            audio_column=audio_column,
            sampling_rate=sampling_rate,
            max_length_seconds=max_length_seconds,
            auto_resample=auto_resample,
            waveforms=waveforms,
            on_error="null",
        )
    started = time.perf_counter()
    with _progress(cached_features, len(rows)):
        # Bad clips are reported below, and references are not kept: the entries are what is wanted.
        cached_features.map(rows, num_proc=num_proc, load_from_cache_file=False, keep_in_memory=True)
    stats = cached_features.stats
    report = WarmReport(
        root=str(cached_features.root),
        processor_sha=cached_features.processor_sha,
        rows=len(rows),
        hits=stats.hits,
        computed=stats.computed,
        bad_clips=[asdict(clip) for clip in cached_features.bad_clips],
        bytes_written=stats.bytes_written,
        seconds=time.perf_counter() - started,
    )
    show_report(report, form, quiet=quiet, names=(clip["clip"] for clip in report.bad_clips))
    if report.bad_clips:
        raise typer.Exit(1)


@contextlib.contextmanager
def _progress(cached_features: CachedFeatures, n_rows: int) -> Iterator[None]:
    """Show on a terminal how many clips were seen to, in all processes."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    has_ended = threading.Event()
    with Progress(console=console) as progress:
        task = progress.add_task("Caching features", total=n_rows)

        def watch() -> None:
            while not has_ended.wait(0.5):
                stats = cached_features.stats
                progress.update(task, completed=stats.hits + stats.computed + stats.bad_clips)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            has_ended.set()
            watcher.join()
        progress.update(task, completed=n_rows)


@guarded
def estimate(
    dataset: DatasetArgument,
    processor: ProcessorOption,
    root: RootOption = None,
    split: SplitOption = None,
    subset: SubsetOption = None,
    audio_column: AudioColumnOption = "audio",
    sample: Annotated[int, typer.Option("--sample", help="How many rows to try.", min=1)] = 64,
    sampling_rate: RateOption = None,
    max_length_seconds: CapOption = None,
    auto_resample: AutoResampleOption = False,
    waveforms: WaveformsOption = "auto",
    storage_option: StorageOptions = None,
    signing_key_file: SigningKeyFileOption = None,
    form: FormatOption = Format.table,
    quiet: QuietOption = False,
) -> None:
    """Say what caching a dataset will take, and whether it pays.

    A sample goes through all steps; nothing is stored. With -q only the verdict is printed.

    Example:

        hf-audio-cache estimate ./recordings --processor openai/whisper-tiny --auto-resample
    """
    from .inputs import load_dataset, open_cache

    with waiting("Trying a sample"):
        rows = load_dataset(dataset, split=split, subset=subset, audio_column=audio_column)
        cached_features = open_cache(
            processor,
            root,
            storage_options=storage_option,
            signing_key_file=signing_key_file,
            audio_column=audio_column,
            sampling_rate=sampling_rate,
            max_length_seconds=max_length_seconds,
            auto_resample=auto_resample,
            waveforms=waveforms,
            read_only=True,
        )
        report = cached_features.estimate(rows, sample=sample)
    show_report(report, form, quiet=quiet, names=[report.verdict])


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(warm)
    app.command()(estimate)

"""The demonstration: one processor over the same clips, cold, warm, in a new dataset version, and as a subset."""

from __future__ import annotations

import io
import os
import platform
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile
import soxr
import typer

from ..audio import AUDIO_SUFFIXES
from ..support.report import Report, Table
from ..support.threads import n_cores
from ..support.units import format_size
from ..transform.cached_features import CachedFeatures

_FEWEST_CLIPS = 4
_HUB_DATASET = ("hf-internal-testing/librispeech_asr_dummy", "clean", "validation")
_SPEECH = "HF_AUDIO_CACHE_SPEECH"  # where `make demo` puts the prompts that it fetched

Clips = list[dict[str, Any]]


@dataclass(frozen=True)
class DemoRun:
    """One pass over a dataset: the form of the call, the dataset, and what the pass took."""

    form: str
    dataset: str
    rows: int
    hits: int
    computed: int
    seconds: float


@dataclass(frozen=True, repr=False)
class DemoReport(Report):
    """What the demonstration measured."""

    clips: str  # where the clips come from
    processor: str  # and the library that it computes with
    machine: str  # number and architecture of the cores
    runs: list[DemoRun]
    n_rows: int  # rows of the first version of the dataset, which the sizes are for
    # Bytes on disk by what they hold: the dataset's Arrow files with arrays and with references, and the cache.
    n_bytes: dict[str, int]

    def tables(self) -> list[Table]:
        """Return the passes and the sizes."""
        columns = ("", "rows", "hits", "computed", "seconds")
        return [
            Table("", (), [("clips", self.clips), ("features", self.processor), ("machine", self.machine)]),
            *(
                Table(
                    f"\n{form}",
                    columns,
                    [
                        (run.dataset, f"{run.rows:,}", f"{run.hits:,}", f"{run.computed:,}", f"{run.seconds:.2f}")
                        for run in self.runs
                        if run.form == form
                    ],
                )
                for form in dict.fromkeys(run.form for run in self.runs)
            ),
            Table(
                f"\nBytes on disk, {self.n_rows:,} rows",
                (),
                [(what, format_size(size), f"{size / self.n_rows:,.0f} a row") for what, size in self.n_bytes.items()],
            ),
        ]


def run_demo(audio: Path | None, max_clips: int) -> DemoReport:
    """Run the demonstration.

    Without a folder of the user's the clips come from a package manager's speech, from a small dataset on the Hub, or
    are synthesized, whichever can be had first.
    """
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    clips, origin = _find_clips(audio, max_clips)
    if len(clips) < _FEWEST_CLIPS:
        typer.echo(
            f"Found {len(clips)} audio files, and the demonstration takes at least {_FEWEST_CLIPS}: {origin}. "
            f"Name another folder with --audio. Files that count: {', '.join(sorted(AUDIO_SUFFIXES))}.",
            err=True,
        )
        raise SystemExit(2)
    typer.echo(f"Running over {len(clips)} clips, with and without the cache.", err=True)
    with tempfile.TemporaryDirectory(prefix="hf-audio-cache-demo-") as folder:
        return _run(clips, f"{len(clips)} clips: {origin}", Path(folder))


def _run(clips: Clips, origin: str, folder: Path) -> DemoReport:
    from transformers import WhisperFeatureExtractor

    processor = WhisperFeatureExtractor()
    library = "torch" if "torch" in sys.modules else "NumPy"
    n_new = max(len(clips) // 20, 1)
    first_version = _dataset(clips[n_new:], folder / "v1")
    # The new version has other file names and another order, and 5 % rows that were not there.
    second_version = _dataset(
        [{**clip, "path": f"renamed-{i}"} for i, clip in enumerate(clips)], folder / "v2"
    ).shuffle(1)
    subset = first_version.shuffle(seed=2).select(range(len(first_version) // 2))
    first, again, new = "first pass", "the same again", f"new version, {n_new / len(clips):.0%} new rows"
    cached_features = CachedFeatures(processor, folder / "cache", auto_resample=True)
    constant = {"input_features": processor(np.zeros(16_000), sampling_rate=16_000)["input_features"][0]}
    runs: list[DemoRun] = []

    def measure(form: str, job: Callable[..., Any], *passes: tuple[str, datasets.Dataset]) -> datasets.Dataset:
        for what, dataset in passes:
            before = cached_features.stats
            started = time.perf_counter()
            result: datasets.Dataset = job(dataset, desc=f"{form}: {what}", load_from_cache_file=False)
            seconds = time.perf_counter() - started
            used = cached_features.stats - before
            computed = len(dataset) if job is without_cache else used.computed
            runs.append(DemoRun(form, what, len(dataset), used.hits, computed, seconds))
        return result

    without_cache = _by(partial(_compute, processor))
    measure("ds.map(compute), without this package", without_cache, (first, first_version), (new, second_version))
    passes = [
        (first, first_version),
        (again, first_version),
        (new, second_version),
        ("shuffled half of the first", subset),
    ]
    measure("cached_features.map(ds): references in Arrow", cached_features.map, *passes)
    arrays = _by(cached_features)
    measure("ds.map(cached_features): arrays in Arrow", arrays, (again, first_version))
    measure(
        "ds.map(a constant array): what Arrow takes with no work at all",
        _by(lambda _: constant),
        ("first version", first_version),
    )
    kept: dict[str, Any] = {"remove_columns": ["audio", "name"], "load_from_cache_file": False}
    sizes = {
        "Arrow, by ds.map: arrays, for each version": _arrow_bytes(arrays(first_version, **kept)),
        "Arrow, by cached_features.map(ds): references, for each version": _arrow_bytes(
            cached_features.map(first_version, **kept)
        ),
        "the cache: features, once for all versions": _folder_bytes(folder / "cache" / "features"),
        "the cache: waveforms, for the next processor": _folder_bytes(folder / "cache" / "waveforms"),
    }
    what = f"Whisper's log-mel features (80 bins, 30 s), computed by {library}"
    machine = f"{n_cores()} cores ({platform.machine()})"
    return DemoReport(origin, what, machine, runs, len(first_version), sizes)


def _by(function: Callable[[Any], Any]) -> Callable[..., datasets.Dataset]:
    return lambda dataset, **settings: dataset.map(function, **settings)


def _compute(processor: Any, example: Any) -> dict[str, Any]:
    """Decode, resample and extract, as one would without this package."""
    samples, rate = soundfile.read(io.BytesIO(example["audio"]["bytes"]), dtype="float32", always_2d=True)
    waveform = soxr.resample(samples.mean(axis=1), rate, processor.sampling_rate)
    features = processor(waveform, sampling_rate=processor.sampling_rate, return_tensors="np")
    return {"input_features": features["input_features"][0]}


def _dataset(clips: Clips, path: Path) -> datasets.Dataset:
    """Return the clips as a dataset on disk, as a loaded one is, with their encoded bytes embedded."""
    rows = {"audio": clips, "name": [clip["path"] for clip in clips]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(path))
    return datasets.load_from_disk(str(path)).cast_column("audio", datasets.Audio(decode=False))


def _arrow_bytes(dataset: datasets.Dataset) -> int:
    return sum(os.path.getsize(file["filename"]) for file in dataset.cache_files)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# Where the clips come from --------------------------------------------------------------------------------------------


def _find_clips(audio: Path | None, max_clips: int) -> tuple[Clips, str]:
    if audio is not None:
        return _from_folder(audio, max_clips), f"your own, from {audio}"
    if prompts := _from_folder(Path(os.environ.get(_SPEECH, os.devnull)) / "prompts", max_clips):
        return prompts, "spoken prompts of Debian's asterisk-core-sounds-en-wav (8 kHz WAV, CC-BY-SA-3.0)"
    name, config, split = _HUB_DATASET
    try:
        hub = datasets.load_dataset(name, config, split=f"{split}[:{max_clips}]")
        return list(hub.cast_column("audio", datasets.Audio(decode=False))["audio"]), f"{name} from the Hub"
    except Exception as exc:  # noqa: BLE001 - offline, moved or gated: each in its own way, and none ends a demo
        return _synthesized(min(max_clips, 200)), f"SYNTHESIZED tones and not speech ({type(exc).__name__} at the Hub)"


def _from_folder(folder: Path, max_clips: int) -> Clips:
    files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES)
    return [{"bytes": path.read_bytes(), "path": path.name} for path, _ in zip(files, range(max_clips), strict=False)]


def _synthesized(n_clips: int) -> Clips:
    """Return made-up clips of 1 to 10 s: harmonics of a voice's pitch, in syllables."""
    generator = np.random.default_rng(0)
    clips = []
    for index in range(n_clips):
        seconds = np.arange(int(generator.uniform(1, 10) * 16_000)) / 16_000
        pitch = generator.uniform(90, 250)
        voice = sum(np.sin(2 * np.pi * pitch * harmonic * seconds) / harmonic for harmonic in range(1, 12))
        samples = 0.2 * voice * np.clip(np.sin(2 * np.pi * generator.uniform(2, 5) * seconds), 0, 1)
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes((samples * 32767).astype("<i2").tobytes())
        clips.append({"bytes": buffer.getvalue(), "path": f"tone-{index}.wav"})
    return clips

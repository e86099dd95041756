"""The demonstration: one processor over the same clips, cold, warm, in a new dataset version, and as a subset."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from ..cache.stats import Stats
from ..transform.cached_features import CachedFeatures

__all__ = ["run_demo"]

_FEWEST_CLIPS = 4
_AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".m4a", ".webm"}
_HUB_DATASET = ("hf-internal-testing/librispeech_asr_dummy", "clean", "validation")
_SPEECH = "HF_AUDIO_CACHE_SPEECH"  # where `make demo` puts the prompts that it fetched

Clips = list[dict[str, Any]]


@dataclass
class _Run:
    """One line of the table."""

    form: str
    what: str
    rows: int
    stats: Stats
    seconds: float


def run_demo(audio: Path | None, max_clips: int) -> None:
    """Run the demonstration and print its tables.

    Parameters
    ----------
    audio
        A folder of the user's; without it the clips come from a package manager's speech, from a small dataset on the
        Hub, or are synthesized, whichever can be had first.
    max_clips
        How many clips to take at most.
    """
    console = Console()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    clips, origin = _find_clips(audio, max_clips)
    if len(clips) < _FEWEST_CLIPS:
        console.print(
            f"expected at least {_FEWEST_CLIPS} audio files ({', '.join(sorted(_AUDIO_SUFFIXES))}), and found "
            f"{len(clips)}: {origin}. Nothing was run; name another folder with --audio."
        )
        raise SystemExit(2)
    console.print(f"{len(clips)} clips: {origin}")
    with tempfile.TemporaryDirectory(prefix="hf-audio-cache-demo-") as folder:
        _run(console, clips, Path(folder))


def _run(console: Console, clips: Clips, folder: Path) -> None:
    from transformers import WhisperFeatureExtractor

    processor = WhisperFeatureExtractor()
    console.print(
        f"Whisper's log-mel features (80 bins, 30 s), computed by {'torch' if 'torch' in sys.modules else 'NumPy'}.\n"
    )
    n_new = max(len(clips) // 20, 1)
    first_version = _dataset(clips[n_new:], folder / "v1")
    # The new version has other file names and another order, and 5 % rows that were not there.
    second_version = _dataset(
        [{**clip, "path": f"renamed-{i}"} for i, clip in enumerate(clips)], folder / "v2"
    ).shuffle(1)
    subset = first_version.shuffle(seed=2).select(range(len(first_version) // 2))
    jobs = [
        ("cold", first_version),
        ("warm, the same again", first_version),
        (f"new version, {n_new / len(clips):.0%} new rows", second_version),
        ("shuffled half", subset),
    ]
    runs: list[_Run] = []
    by_reference = CachedFeatures(processor, folder / "references", auto_resample=True)
    by_array = CachedFeatures(processor, folder / "arrays", auto_resample=True)
    for what, dataset in jobs:
        runs.append(_measure("cached_features.map(ds)", what, by_reference, dataset, by_reference.map))
    for what, dataset in jobs:
        runs.append(
            _measure("ds.map(cached_features)", what, by_array, dataset, lambda ds, **kw: ds.map(by_array, **kw))
        )
    free = _Constant(first_version.map(by_array, load_from_cache_file=False).with_format("numpy")[0]["input_features"])
    floor = _measure(
        "ds.map(a constant array)", "no work at all", by_array, first_version, lambda ds, **kw: ds.map(free, **kw)
    )
    console.print(_runs_table([*runs, floor]))
    arrow = first_version.map(by_array, remove_columns=["audio"], load_from_cache_file=False)
    references = by_reference.map(first_version, remove_columns=["audio", "name"], load_from_cache_file=False)
    console.print(_sizes_table(len(first_version), folder, arrow, references))


def _measure(
    form: str, what: str, cached_features: CachedFeatures, dataset: datasets.Dataset, job: Callable[..., Any]
) -> _Run:
    before = cached_features.stats
    started = time.perf_counter()
    job(dataset, desc=f"{form}: {what}", load_from_cache_file=False)
    return _Run(form, what, len(dataset), cached_features.stats - before, time.perf_counter() - started)


class _Constant:
    """A transform that costs nothing: what remains is what `datasets` takes to read rows and to write Arrow."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array

    def __call__(self, example: Any) -> dict[str, npt.NDArray[Any]]:
        return {"input_features": self._array}


def _dataset(clips: Clips, path: Path) -> datasets.Dataset:
    """Return the clips as a dataset on disk, as a loaded one is, with their encoded bytes embedded."""
    rows = {"audio": clips, "name": [clip["path"] for clip in clips]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(path))
    return datasets.load_from_disk(str(path)).cast_column("audio", datasets.Audio(decode=False))


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
    files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _AUDIO_SUFFIXES)
    clips = [{"bytes": path.read_bytes(), "path": path.name} for path, _ in zip(files, range(max_clips), strict=False)]
    return clips


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


# What it prints -------------------------------------------------------------------------------------------------------


def _runs_table(runs: list[_Run]) -> Table:
    table = Table(title="Each clip is decoded and extracted once")
    table.add_column("run", no_wrap=True)
    for name in ("rows", "hits", "computed", "seconds", "cold / this"):
        table.add_column(name, justify="right")
    cold = {run.form: run.seconds for run in reversed(runs)}
    previous = ""
    for run in runs:
        if run.form != previous:
            table.add_section()
            table.add_row(f"[bold]{run.form}[/bold]")
        is_floor = not run.stats.to_dict()["hits"] and not run.stats.computed
        table.add_row(
            f"  {run.what}",
            f"{run.rows:,}",
            "" if is_floor else f"{run.stats.hits:,}",
            "" if is_floor else f"{run.stats.computed:,}",
            f"{run.seconds:.2f}",
            "" if is_floor else f"{cold[run.form] / run.seconds:.1f}",
        )
        previous = run.form
    table.caption = (
        "ds.map(cached_features) copies every array into Arrow: the last line is what that costs with no work at all."
    )
    return table


def _sizes_table(n_rows: int, folder: Path, arrow: datasets.Dataset, references: datasets.Dataset) -> Table:
    table = Table(title=f"Bytes on disk for {n_rows:,} rows of the first version")
    table.add_column("what")
    table.add_column("MB", justify="right")
    table.add_column("bytes a row", justify="right")
    cache = folder / "references"
    sizes = {
        "Arrow, by Dataset.map: once for each version": _arrow_bytes(arrow),
        "Arrow, by cached_features.map(ds): references": _arrow_bytes(references),
        "the cache: features, once for all versions": _folder_bytes(cache / "features"),
        "the cache: waveforms, for the next processor": _folder_bytes(cache / "waveforms"),
    }
    for what, n_bytes in sizes.items():
        table.add_row(what, f"{n_bytes / 1e6:,.2f}", f"{n_bytes / n_rows:,.0f}")
    return table


def _arrow_bytes(dataset: datasets.Dataset) -> int:
    return sum(os.path.getsize(file["filename"]) for file in dataset.cache_files)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

"""The clips of all benchmarks: real speech, as encoded bytes, and datasets of them."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import speech

SETS = ("prompts", "10 s", "30 s")

_SOURCE_RATE = 16_000


def clips(name: str, count: int) -> list[bytes]:
    """Return clips of one of the `SETS`, no two alike."""
    return prompts(count) if name == "prompts" else joined(count, float(name.split()[0]))


def prompts(count: int) -> list[bytes]:
    """Return spoken telephone prompts of 2 to 3 s as they are: 16-bit WAV at 8 kHz."""
    found: list[bytes] = []
    for path in speech.clips("prompts"):
        if len(found) < count and 2.0 <= soundfile.info(path).duration <= 3.0:
            found.append(path.read_bytes())
    return found


def joined(count: int, seconds: float, *, rate: int = _SOURCE_RATE, form: str = "WAV") -> list[bytes]:
    """Return clips of `seconds` that are cut out of read sentences, joined to an endless ring, at even distances.

    They are mono, and 16-bit but for MP3. Those at another rate than the sentences' 16 kHz are resampled before they
    are encoded.
    """
    ring = _sentences()
    length = round(seconds * _SOURCE_RATE)
    encoded = []
    for number in range(count):
        start = number * len(ring) // count
        samples = np.take(ring, np.arange(start, start + length), mode="wrap")
        if rate != _SOURCE_RATE:
            samples = soxr.resample(samples, _SOURCE_RATE, rate)
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format=form, subtype=None if form == "MP3" else "PCM_16")
        encoded.append(file.getvalue())
    return encoded


@functools.lru_cache
def _sentences() -> np.ndarray:
    read = [soundfile.read(path, dtype="int16") for path in speech.clips("sentences")]
    return np.concatenate([samples for samples, rate in read if rate == _SOURCE_RATE])


def cells(encoded: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return the audio cells of clips."""
    return [{"bytes": clip, "path": f"{number:06}"} for number, clip in enumerate(encoded)]


def save_dataset(encoded: Sequence[bytes], folder: Path) -> None:
    """Save a dataset of clips, with a text and their audio as encoded bytes."""
    import datasets

    columns = {"audio": cells(encoded), "text": [f"clip {number}" for number in range(len(encoded))]}
    dataset = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
    dataset.save_to_disk(folder)

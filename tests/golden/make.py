"""Write the cache of made-up entries that stays here, readable, for ever: ``python tests/golden/make.py v1``.

Each released version of the entry format gets a folder of its own, which is never written again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from hf_audio_cache import AudioCache, AudioCacheKey, CacheRoot, WaveformCache, WaveformCacheKey

HERE = Path(__file__).resolve().parent

BLOB = "0123456789abcdef" * 4
PROCESSOR = "fedcba9876543210" * 4


def ramp(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return numbers that every NumPy makes alike: multiples of 1/64 that go up and down."""
    numbers = np.arange(np.prod(shape)) * 37 % 201 - 100
    return (numbers / 64).astype(np.float32).reshape(shape)


def padded() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return features whose last columns are padding, as Whisper's are."""
    array = ramp(8, 90)
    array[:, 20:] = -1.5
    return array


def features() -> dict[AudioCacheKey, dict[str, Any]]:
    """Return the entries of the features cache."""
    return {
        AudioCacheKey(BLOB, PROCESSOR, 16000, 0): {"input_features": ramp(8, 20)},
        AudioCacheKey(BLOB, PROCESSOR, 16000, 0, True): {"input_features": padded()},
        AudioCacheKey(BLOB, PROCESSOR, 16000, 30000): {
            "attention_mask": np.arange(40) < 25,
            "input_values": ramp(40),
            "count": np.array(3, np.int64),
            "nothing": np.zeros((0, 4), np.float16),
            "big_endian": ramp(20).astype(">f8"),
            "chunks": [[0, 25], {"text": "é", "end": None}],
        },
        AudioCacheKey(BLOB[::-1], PROCESSOR[::-1], 48000, 10000, True): {
            "input_features": ramp(1, 4, 16),
            "is_longer": np.array([[False]]),
        },
    }


def waveforms() -> dict[WaveformCacheKey, dict[str, Any]]:
    """Return the entries of the waveform cache: 16-bit samples, finer ones, and none."""
    return {
        WaveformCacheKey(BLOB, 16000, 0): {"waveform": (np.arange(-60, 60) * 270 / 32768).astype(np.float32)},
        WaveformCacheKey(BLOB, 16000, 30000, True): {"waveform": ramp(100) / np.float32(3)},
        WaveformCacheKey(BLOB[::-1], 8000, 0): {"waveform": np.zeros(0, np.float32)},
    }


def make(root: Path) -> None:
    """Write all of them under `root`, compressed and not."""
    for folder, compression in (("blosc", "blosc"), ("raw", None)):
        AudioCache(CacheRoot(root / folder / "features", compression=compression)).put_many(
            features(), compute_seconds=2.0
        )
        WaveformCache(CacheRoot(root / folder / "waveforms", compression=compression)).put_many(
            waveforms(), compute_seconds=1.5
        )


if __name__ == "__main__":
    target = HERE / sys.argv[1]
    if target.exists():
        sys.exit(f"{target} is there, and stays as it is")
    make(target)

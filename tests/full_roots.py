"""Roots of three processors and six clips, and what is under them by the file system's account."""

from __future__ import annotations

import functools
import os
import shutil
import time
from pathlib import Path
from typing import Any

import audio_datasets as data
import configs
import numpy as np
import pytest

from hf_audio_cache import CachedFeatures, CacheRoot

RATE = 8000


N_CLIPS = 6


SIGNING_KEY = "a-key-of-more-than-sixteen-bytes"


def energy(waveform, sampling_rate):
    """Return the energy of each twentieth of a second: a processor of the user's own."""
    frames = waveform[: len(waveform) // 400 * 400].reshape(-1, 400)
    return np.square(frames).sum(axis=1)


def cached_by_all(root: Path | CacheRoot, **settings: Any) -> list[CachedFeatures]:
    """Return a cache on `root` for each of three processors, which stores all; they share the waveforms."""
    settings = {"features": "always", "waveforms": "always", **settings}
    caches = [CachedFeatures(extractor, root, **settings) for extractor in _extractors()]
    return [*caches, CachedFeatures(energy, root, identity="energy-v1", sampling_rate=RATE, **settings)]


@functools.cache
def _extractors() -> list[Any]:
    return [configs.make_processor(name, sampling_rate=RATE) for name in ("wav2vec2", "seamless_m4t")]


@pytest.fixture(scope="module")
def clips(prompts):
    """Six prompts of about a second."""
    return data.shortest(prompts, 200)[-N_CLIPS:]


def fill(root: CacheRoot, clips: list[Path]) -> None:
    """Let three processors cache the clips; no record is left of who used them when."""
    caches = cached_by_all(root)
    for cached_features in caches:
        cached_features({"audio": data.columns(clips)["audio"]})
        cached_features.pipeline.access_log.finish()
    for folder in ("access", "runs"):
        shutil.rmtree(Path(root.url, folder))


@pytest.fixture(scope="session")
def full_roots(prompts, tmp_path_factory):
    """One root of each kind, to be copied: of three processors and six clips."""
    folder, clips = tmp_path_factory.mktemp("roots"), data.shortest(prompts, 200)[-N_CLIPS:]
    fill(CacheRoot(folder / "blosc"), clips)
    fill(CacheRoot(folder / "plain", compression=None), clips)
    fill(CacheRoot(folder / "signed", signing_key=SIGNING_KEY), clips)
    return folder


@pytest.fixture
def copy_of(full_roots, tmp_path):
    """``copy_of(kind)``: a root of that kind, of the test's own."""
    return lambda kind: Path(shutil.copytree(full_roots / kind, tmp_path / "root"))


@pytest.fixture
def root(copy_of):
    return copy_of("blosc")


def contents(root: Path) -> dict[str, bytes]:
    """Return all files under a root, and what links point to, by name."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(root))] = os.fsencode(os.readlink(path))
        elif path.is_file():
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


def entries(root: Path, kind: str = "*") -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob(f"{kind}/*/*.npz"))


def manifests(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob("processors/*.json"))


def n_bytes(root: Path, names: Any) -> int:
    return sum((root / name).stat().st_size for name in names)


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]

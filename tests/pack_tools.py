"""Roots with packs, for tests: small, made without waiting, and looked at without the package."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from hf_audio_cache.stores import LocalStore, Store
from hf_audio_cache.stores.packs import packer
from hf_audio_cache.stores.packs.store import PackedStore


def entry_name(number: int, processor: str = "0123456789ab", folder: str = "features") -> str:
    """Return the name of the entry of a clip."""
    sha = hashlib.sha256(str(number).encode()).hexdigest()
    part = f".{processor}" if folder == "features" else ""
    return f"{folder}/{sha[:2]}/{sha}{part}.16000.0.{'npz' if part else 'wav.npz'}"


def open_packed(root: str | Path | Store, near: Path | None = None) -> PackedStore:
    """Return a store that always looks again for missing entries. Its packer does not wait for other processes."""
    store = root if isinstance(root, Store) else LocalStore(root)
    packed = PackedStore(store, None if near is None else LocalStore(near))
    packed.catalog.missing_seconds = packed.catalog.look_seconds = 0.0
    return packed


def pack_all(root: Path | Store, pack_bytes: int = 1 << 20) -> packer.Packer:
    """Pack all entries of a root, in the order of writing."""
    store = root if isinstance(root, PackedStore) else open_packed(root)
    found = [one for folder in ("features/", "waveforms/") for one in store.single.scan(folder)]
    moved = packer.Packer(store, pack_bytes)
    moved.pack(sorted((one for one in found if one.name.endswith(".npz")), key=lambda one: (one.modified, one.name)))
    return moved


def make_packed(root: Path, objects: Mapping[str, bytes], pack_bytes: int = 1 << 20) -> None:
    """Make a root of packed entries."""
    LocalStore(root).put_many(objects)
    pack_all(root, pack_bytes)
    assert singles(root) == {}


def singles(root: Path) -> dict[str, bytes]:
    """Return the entries that are files of their own."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.npz") if path.is_file()}


def packs(root: Path) -> list[Path]:
    return sorted((root / "packs").glob("*.tar"))


def indexes(root: Path) -> list[Path]:
    return sorted((root / "packs").glob("*.index"))


def in_tars(root: Path) -> list[tuple[str, bytes]]:
    """Return what Python's tarfile finds in all packs, but for their lists of contents."""
    found = []
    for path in packs(root):
        with tarfile.open(path) as tar:
            for member in tar.getmembers()[1:]:
                content = tar.extractfile(member)
                assert content is not None
                found.append((member.name, content.read()))
    return found


def age(root: Path, seconds: float = 86_400.0) -> None:
    """Make the packs of a root old."""
    for path in (root / "packs").iterdir():
        then = time.time() - seconds
        os.utime(path, (then, then))


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """Let packers wait for nobody."""
    before, packer._LOOKS = packer._LOOKS, 0.0
    try:
        yield
    finally:
        packer._LOOKS = before

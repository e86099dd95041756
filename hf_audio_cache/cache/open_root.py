"""`OpenRoot`: what is under a root, ready to be used: store, both caches, manifests and access log."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import InvalidRootError, StoreError, UnknownVersionError
from .access_log import Run, UseRecorder
from .caches import AudioCache, WaveformCache
from .layout import FEATURES, TAG, TAG_NAME, WAVEFORMS, manifest_name
from .processor_manifest import Manifest, parse_manifest, read_manifest
from .root import CacheRoot, as_cache_root
from .signing import SigningKeys
from .stats import Counters


class OpenRoot:
    """An open root; nothing is contacted or created before it is used.

    Both caches note in `access_log` what they read and write.
    """

    def __init__(
        self, root: str | os.PathLike[str] | CacheRoot, *, counters: Counters | None = None, run: Run | None = None
    ) -> None:
        self.root = as_cache_root(root)
        self.store = self.root.open_store()
        self.counters = counters or Counters()
        self.access_log = UseRecorder(self.store, run, counters=self.counters)
        self.audio_cache, self.waveform_cache = self._caches(self.counters)

    @classmethod
    def for_maintenance(cls, root: str | os.PathLike[str] | CacheRoot, *, may_be_new: bool = False) -> OpenRoot:
        """Open the root itself, and not what this machine's near tier has of it; nothing is counted.

        Raises InvalidRootError for a path where there is no folder, unless it `may_be_new`: a mistyped name must not be
        reported as an empty cache.
        """
        opened = cls(as_cache_root(root).without_near_tier(), counters=Counters(""))
        where = opened.store.location()
        if isinstance(where, Path) and not (may_be_new or where.is_dir()):
            raise InvalidRootError(
                f"no cache found at {where}. Pass its root=…, or set HF_AUDIO_CACHE; nothing was read or deleted.",
                root=str(where),
            )
        return opened

    def uncounted(self, *, records_use: bool = False) -> tuple[AudioCache, WaveformCache]:
        """Return both caches for reads that are nobody's hits or misses."""
        return self._caches(Counters(""), records_use=records_use)

    def _caches(self, counters: Counters, *, records_use: bool = True) -> tuple[AudioCache, WaveformCache]:
        def noting(folder: str) -> Callable[[Sequence[str]], None] | None:
            return functools.partial(self.access_log.add, folder) if records_use else None

        features, waveforms = self.store.child(FEATURES), self.store.child(WAVEFORMS)
        return (
            AudioCache(self.root, store=features, counters=counters, on_use=noting(FEATURES)),
            WaveformCache(self.root, store=waveforms, counters=counters, on_use=noting(WAVEFORMS)),
        )

    @property
    def signing_keys(self) -> SigningKeys | None:
        """The keys of a signed root."""
        return self.root.signing_keys

    @property
    def caches(self) -> dict[str, AudioCache | WaveformCache]:
        """Both caches, by their folder."""
        return {FEATURES: self.audio_cache, WAVEFORMS: self.waveform_cache}

    def refusal(self) -> StoreError | None:
        """Return why the root takes no entries now; None if it does. To find out, its tag is read and written."""
        [found] = self.store.get_again([TAG_NAME])  # of the root itself; some stores make a bucket for a put
        if isinstance(found, StoreError):
            return found
        return next(iter(self.store.put_many({TAG_NAME: TAG}).values()), None)

    def read_manifest(self, processor_sha: str) -> Manifest | None:
        """Return the manifest of a processor, or None if there is no good one. A strict root raises `StoreError`."""
        return read_manifest(self.store, processor_sha, self.signing_keys, strict=self.root.strict)

    def lacks_manifest(self, processor_sha: str) -> bool:
        """Return whether to write a processor's manifest: it is missing, damaged, or without outputs."""
        name = manifest_name(processor_sha)
        [found] = self.store.get_many([name])
        try:
            there = parse_manifest(found, processor_sha, self.signing_keys)
        except UnknownVersionError:
            return False
        return there is None or not there.outputs or not self.store.exists(name)

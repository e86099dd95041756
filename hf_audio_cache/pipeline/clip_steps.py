"""The steps of one clip that the cache lacks: waveform, features, entries."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..audio.source import AudioSource
from ..cache.keys import AudioCacheKey
from ..cache.open_root import OpenRoot
from ..errors import AudioError
from ..processors.extractor import audio_part, name_of
from ..support.threads import forks_wait
from ..support.write_behind import WriteError
from .clip_features import ClipFeatures
from .compute import Extraction
from .storage_policy import FeatureStoragePolicy, Sample
from .store import EntryWriter
from .waveforms import Clip

Result = ClipFeatures | AudioError


@dataclass(frozen=True)
class Computed:
    """The features of a clip, and the seconds of their extraction."""

    clip: Clip
    outputs: dict[str, Any]
    seconds: float

    @property
    def features(self) -> ClipFeatures:
        """The features, with the length of the clip."""
        return ClipFeatures(self.outputs, self.clip.waveform.length)

    @property
    def total_seconds(self) -> float:
        """The seconds of decoding and extraction."""
        return self.clip.seconds + self.seconds


@dataclass(frozen=True)
class ClipSteps:
    """The steps, for the clips of one batch."""

    root: OpenRoot
    keys: Mapping[str, AudioCacheKey]  # by ``blob_sha``
    is_stored: bool  # whether features are stored, and may have been since the clips were looked up
    waveform_of: Callable[[AudioSource], Clip | AudioError]
    extraction: Extraction
    policy: FeatureStoragePolicy
    writer: EntryWriter

    @property
    def name(self) -> str:
        """What messages call the extractor."""
        return name_of(audio_part(self.extraction.processor))

    def read(self, source: AudioSource) -> Result | Clip:
        """Return a clip with its waveform; its error, or features that another process stored meanwhile."""
        # A clip alone was looked for just now, and a far root is not asked for each clip.
        if self.is_stored and self.root.store.is_local and len(self.keys) > 1:
            stored = self.root.audio_cache.peek(self.keys[source.blob_sha])
            if stored is not None and stored[1] is not None:
                return ClipFeatures(*stored)
        return self.waveform_of(source)

    def key(self, clip: Clip) -> AudioCacheKey:
        """Return the key of the features of a clip."""
        return self.keys[clip.source.blob_sha]

    def count(self, done: Computed) -> None:
        """Count a clip, and keep it for the decision whether features are stored."""
        self.root.counters.add(computed=1, seconds_computing=done.total_seconds)
        if self.is_stored:
            self.policy.add_sample(Sample(self.key(done.clip), done.clip.source, done.seconds))

    def extract(self, clip: Clip, **how: Any) -> dict[str, Any]:
        """Return the outputs for a clip; `how` are arguments of `Extraction.extract`."""
        # A front end of the user's own may have a thread that forks, and wait for it.
        with forks_wait if self.extraction.is_safe_in_threads() else contextlib.nullcontext():
            processor_sha = self.key(clip).processor_sha
            return self.extraction.extract(clip.waveform.samples, clip.source.clip, processor_sha, **how)

    def store_waveform(self, clip: Clip, *, behind: bool) -> None:
        """Store the waveform of a clip, if it is new, behind the next clips or in this thread."""
        if clip.is_new:
            entry = self.key(clip).waveform_key(), clip.waveform, clip.seconds
            self.writer.submit(lambda: self.writer.write_waveform(*entry), behind=behind)

    def store(self, done: Computed, *, behind: bool) -> None:
        """Count a clip, and store its features behind the next clips or in this thread."""
        self.count(done)
        if not self.is_stored:
            return
        change = self.extraction.change_since(self.key(done.clip))
        if change is not None:
            self.writer.note([change])
            return
        self.writer.submit(lambda: self.write_features(done), behind=behind)

    def write_features(self, done: Computed) -> list[WriteError]:
        """Store features in this thread, if they are stored; return why they could not be."""
        if not self.is_stored:
            return []
        length, seconds = done.clip.waveform.length, done.total_seconds
        return self.writer.write(self.key(done.clip), done.outputs, length, seconds)

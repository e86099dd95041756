"""Second step: read or decode the waveform of each missing clip; decide whether waveforms are stored."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..audio.containers import is_plain_pcm16
from ..audio.decode import decode_audio
from ..audio.request import Request
from ..audio.source import AudioSource, check_unchanged
from ..audio.waveform import Waveform, to_waveform
from ..cache.caches import WaveformCache
from ..cache.keys import AudioCacheKey
from ..cache.stats import Counters
from ..errors import AudioError
from .settings import WaveformSettings
from .storage_policy import Policy

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """A clip with its waveform."""

    source: AudioSource
    waveform: Waveform
    seconds: float = 0.0  # that decoding took; 0 if it was read
    is_new: bool = False  # whether it is still to be stored


def decode(source: AudioSource, settings: WaveformSettings) -> Waveform:
    """Return the waveform of a clip whose content was read.

    Raises AudioError if it cannot be decoded, or is too long or not whole and such clips are not wanted.
    """
    request = Request(**settings.arguments(), clip=source.clip)
    if isinstance(source.content, np.ndarray):
        waveform = to_waveform(source.content, source.source_rate or 0, request)
    else:
        waveform = decode_audio(source.content or b"", request)
    settings.check(waveform.length, source.clip)
    return waveform


class WaveformReader:
    """Gives waveforms of clips, from the cache where it has them.

    `policy` says whether waveforms are stored; ``"auto"`` leaves out clips that are decoded as fast as an entry is
    read.
    """

    def __init__(self, cache: WaveformCache, settings: WaveformSettings, policy: Policy, counters: Counters) -> None:
        self._cache = cache
        self._settings = settings
        self._policy = policy
        self._counters = counters
        self._warnings_left = [True]

    def is_stored(self, source: AudioSource) -> bool:
        """Return whether the waveform of a clip is stored; its content must have been read."""
        if self._policy == "auto":
            return not self._is_waveform(source)
        return self._policy == "always"

    def _is_waveform(self, source: AudioSource) -> bool:
        """Return whether decoding the clip takes no longer than reading an entry."""
        if isinstance(source.content, np.ndarray):
            return source.source_rate == self._settings.sampling_rate
        return is_plain_pcm16(source.content or b"", self._settings.sampling_rate)

    def reader_of(
        self, sources: Sequence[AudioSource], keys: Mapping[str, AudioCacheKey]
    ) -> Callable[[AudioSource], Clip | AudioError]:
        """Read the waveforms that the cache has of these clips, and return what gives that of each, read or decoded."""
        stored = [source for source in sources if self.is_stored(source)]
        read = self._cache.read_many([keys[source.blob_sha].waveform_key() for source in stored])
        cached = {source.blob_sha: found for source, found in zip(stored, read, strict=True)}

        def make(source: AudioSource) -> Clip | AudioError:
            found = cached.pop(source.blob_sha, None)
            if found is None or found[1] is None:
                return self.decoded(source)
            waveform = Waveform(found[0]["waveform"], found[1])
            try:
                self._settings.check(waveform.length, source.clip)
            except AudioError as exc:
                return exc
            return Clip(source, waveform)

        return make

    def decoded(self, source: AudioSource) -> Clip | AudioError:
        """Return the waveform of a clip whose content was read, or the error of decoding it."""
        started = time.perf_counter()
        self._counters.add(decodes=1)
        try:
            waveform = decode(source, self._settings)
            check_unchanged(source)
        except AudioError as exc:
            return exc
        self._warn_if_cancelled(waveform, source.clip)
        return Clip(source, waveform, time.perf_counter() - started, is_new=self.is_stored(source))

    def _warn_if_cancelled(self, waveform: Waveform, clip: str) -> None:
        """Warn of the first clip whose channels cancel each other out; several threads may find one."""
        if not waveform.cancels:
            return
        with contextlib.suppress(IndexError):
            self._warnings_left.pop()
            logger.warning(
                "The channels of %r cancel each other out: their mean is silence, and its features are those of "
                "silence. Pass channels=0 to take the first channel of each clip. (Further such clips are not told.)",
                clip,
            )

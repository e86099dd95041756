"""A batch of clips on its way to waveforms: look up, decode, store."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from ..audio.channels import Channels
from ..audio.source import AudioSource
from ..cache.access_log import Run
from ..cache.keys import WaveformCacheKey
from ..cache.root import CacheRoot
from ..cache.stats import Counters
from ..errors import AudioError
from ..processors.output_specs import OutputSpec
from ..support.process_local import is_worker
from ..support.threads import ahead
from .clip_features import ClipFeatures
from .clip_pipeline import ClipPipeline
from .settings import ResultSettings
from .store import tag_root

# The forms of a waveform, as outputs: with its rate, as `datasets` decodes audio, or the array alone.
AUDIO, WAVEFORM = "audio", "waveform"


def waveform_as(output: str, waveform: Any, sampling_rate: int) -> Any:
    """Return a waveform in the form of an output."""
    return {"array": waveform, "sampling_rate": sampling_rate} if output == AUDIO else waveform


@dataclass(frozen=True)
class _AudioSpec(OutputSpec):
    def feature(self, *, nullable: bool = False) -> Any:
        return {"array": OutputSpec("float32", self.shape).feature(), "sampling_rate": datasets.Value("int64")}


def waveform_spec(output: str, channels: Channels) -> OutputSpec:
    """Return the form of an output."""
    shape = (None, None) if channels == "all" else (None,)
    return _AudioSpec(None, shape) if output == AUDIO else OutputSpec("float32", shape)


class WaveformPipeline(ClipPipeline[WaveformCacheKey, None]):
    """Turns audio cells into waveforms, with a cache in place of the decoding.

    The one output that `settings` name is the form in which waveforms are returned.
    """

    what = "waveforms"
    name = "CachedWaveforms"

    def __init__(
        self, root: CacheRoot, settings: ResultSettings, *, counters: Counters | None = None, run: Run | None = None
    ) -> None:
        super().__init__(root, settings, counters=counters, run=run)
        self.cache = self.waveform_cache
        [self._output] = settings.output_names
        self._is_tagged = False

    def identity(self) -> None:
        return None

    def key(self, blob_sha: str, identity: None) -> WaveformCacheKey:
        return self.settings.waveform.waveform_key(blob_sha)

    def output_specs(self) -> dict[str, OutputSpec]:
        return {self._output: waveform_spec(self._output, self.settings.waveform.channels)}

    def _stores(self, identity: None) -> None:
        return None

    def _begin(self, identity: None) -> None:
        if not self._is_tagged:  # asked once in a process
            tag_root(self.root)
            self._is_tagged = True

    def _made_of(self, outputs: dict[str, Any]) -> dict[str, Any]:
        rate = self.settings.waveform.sampling_rate
        return {self._output: waveform_as(self._output, outputs[WAVEFORM], rate)}

    def _compute(
        self,
        sources: Sequence[AudioSource],
        keys: Mapping[str, WaveformCacheKey],
        identity: None,
        *,
        is_stored: bool | None,
    ) -> Iterator[tuple[str, ClipFeatures | AudioError]]:
        if sources:
            self._begin(identity)
        decode = self.waveforms.decoded
        decoded = map(decode, sources) if is_worker() and self.store.is_local else ahead(decode, sources)
        for source, made in zip(sources, decoded, strict=True):
            if isinstance(made, AudioError):
                yield source.blob_sha, made
                continue
            self.counters.add(seconds_computing=made.seconds)
            outputs, length = {WAVEFORM: made.waveform.samples}, made.waveform.length
            if made.is_new if is_stored is None else is_stored:
                entry = keys[source.blob_sha], outputs, length, made.seconds
                self.writer.submit(functools.partial(self.writer.write, *entry))
            yield source.blob_sha, ClipFeatures(self._made_of(outputs), length)

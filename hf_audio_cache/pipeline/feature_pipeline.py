"""A batch of clips on its way to features: look up, read or decode waveforms, extract, store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..audio.source import AudioSource
from ..cache.access_log import Run
from ..cache.keys import AudioCacheKey
from ..cache.root import CacheRoot
from ..cache.stats import Counters
from ..errors import AudioError, ProcessorError
from ..processors.difference import differences
from ..processors.extractor import audio_part, name_of
from ..processors.identity import Fingerprinter, ProcessorIdentity
from ..processors.output_specs import OutputSpec
from ..support.write_behind import WriteError
from .clip_features import ClipFeatures
from .clip_pipeline import ClipPipeline
from .clip_steps import ClipSteps
from .compute import Extraction
from .missing_clips import compute_missing
from .settings import FeatureSettings
from .storage_policy import FeatureStoragePolicy
from .store import ProcessorManifests
from .unstorable import UnstorableWarning
from .waveforms import decode


class FeaturePipeline(ClipPipeline[AudioCacheKey, ProcessorIdentity]):
    """Turns audio cells into features, with a cache before and after the extraction."""

    what = "features"
    settings: FeatureSettings

    def __init__(
        self,
        processor: Any,
        root: CacheRoot,
        settings: FeatureSettings,
        *,
        counters: Counters | None = None,
        run: Run | None = None,
    ) -> None:
        super().__init__(root, settings, counters=counters, run=run)
        self.cache = self.audio_cache
        self.processor = processor
        waveform = settings.waveform
        self.access_log.about.update(processor=self.name)
        self.fingerprinter = Fingerprinter(
            processor,
            settings.processor_kwargs,
            dtype=settings.dtype,
            nonfinite=settings.nonfinite,
            sampling_rate=waveform.sampling_rate,
            channels=waveform.channels,
        )
        self.extraction = Extraction(processor, settings, self.fingerprinter)
        self.policy = FeatureStoragePolicy(settings.features)
        self.manifests = ProcessorManifests(self.root, self.extraction.probe)
        self.unstorable = UnstorableWarning()

    def __getstate__(self) -> dict[str, Any]:
        return {"processor": self.processor, **super().__getstate__()}

    @property
    def name(self) -> str:
        return name_of(audio_part(self.processor))

    def identity(self) -> ProcessorIdentity:
        """Return the processor's identity as it is now, and note it in the record of this run."""
        identity = self.fingerprinter.identity()
        self.access_log.about["processor_sha"] = identity.sha
        return identity

    def key(self, blob_sha: str, identity: ProcessorIdentity) -> AudioCacheKey:
        return self.settings.waveform.features_key(blob_sha, identity.sha)

    def output_specs(self) -> dict[str, OutputSpec]:
        """Return the form of each output, from the processor's manifest if the root has it, else by trying it out."""
        return dict(self.manifests.get(self.identity()).outputs)

    def why_no_specs(self) -> str:
        return self.extraction.made_up_failure()

    def _still(self, processor_sha: str | None) -> ProcessorIdentity:
        identity = self.identity()
        if identity.sha != processor_sha:
            raise ProcessorError(
                f"the processor changed during the map: its identity was {str(processor_sha)[:12]} and is "
                f"{identity.sha[:12]}{self._change_since(str(processor_sha), identity)}. Change a processor before "
                ".map(ds) or after it, and in no other process. Nothing more was computed."
            )
        return identity

    def _change_since(self, processor_sha: str, identity: ProcessorIdentity) -> str:
        """Say what differs from the processor of before, if the root has its manifest."""
        there = self.root.read_manifest(processor_sha)
        found = [] if there is None else differences(there.identity.description, identity.description)
        return f" ({'; '.join(map(str, found[:3]))})" if found else ""

    def _compute(
        self,
        sources: Sequence[AudioSource],
        keys: Mapping[str, AudioCacheKey],
        identity: ProcessorIdentity,
        *,
        is_stored: bool | None,
    ) -> Iterator[tuple[str, ClipFeatures | AudioError]]:
        if sources:
            self.manifests.ensure(identity)
            waveform_of = self.waveforms.reader_of(sources, keys)
            how = (self.extraction, self.policy, self.writer)
            yield from compute_missing(ClipSteps(self.root, keys, bool(is_stored), waveform_of, *how), sources)

    def _stores(self, identity: ProcessorIdentity) -> bool:
        return self.policy.is_stored(identity.sha)

    def _begin(self, identity: ProcessorIdentity) -> None:
        self.manifests.ensure(identity)

    def _end(self, errors: Sequence[WriteError], identity: ProcessorIdentity) -> None:
        if errors:
            self.unstorable.of(errors, self.name)
        self._decide_storage(identity)

    def _decide_storage(self, identity: ProcessorIdentity) -> None:
        """Measure whether features of this identity are worth storing, once enough of them are stored."""
        samples = self.policy.take_samples(identity.sha)
        if not samples:
            return
        audio_cache, waveform_cache = self.root.uncounted()
        with_waveform = [sample for sample in samples if self.waveforms.is_stored(sample.source)]

        def read_features() -> list[dict[str, Any] | None]:
            return audio_cache.get_all_many([sample.key for sample in samples])

        def make_features() -> None:
            read = waveform_cache.get_many([sample.key.waveform_key() for sample in with_waveform])
            stored = {sample.key: waveform for sample, waveform in zip(with_waveform, read, strict=True)}
            for sample in samples:
                waveform = stored.get(sample.key)
                if waveform is None:
                    waveform = decode(sample.source, self.settings.waveform).samples
                self.extraction.extract(waveform, sample.source.clip, identity.sha)

        # By now a caller may have written to an array that is a sample. Then nothing is measured.
        with contextlib.suppress(AudioError):
            self.policy.decide(
                identity.sha,
                self.name,
                seconds_made=sum(sample.seconds for sample in samples),
                read=read_features,
                make=make_features,
            )

"""A batch of clips on its way to features: look up, read or decode waveforms, extract, store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from ..audio.length import ClipLength
from ..audio.source import AudioSource, located
from ..cache.access_log import Run
from ..cache.keys import AudioCacheKey
from ..cache.open_root import OpenRoot
from ..cache.root import CacheRoot
from ..cache.stats import BadClip, Counters
from ..errors import AudioError, ProcessorError, StoreError
from ..processors.difference import differences
from ..processors.extractor import audio_part, name_of
from ..processors.identity import Fingerprinter, ProcessorIdentity
from ..processors.output_specs import OutputSpec
from ..support.write_behind import WriteError
from .clip_features import ClipFeatures, StoredClip
from .compute import Extraction
from .look_up import Clips, look_up
from .missing_clips import MissingClips
from .settings import FeatureSettings
from .storage_policy import FeatureStoragePolicy
from .store import EntryWriter, ProcessorManifests
from .unstorable import UnstorableWarning, errors_of_clips
from .waveforms import WaveformReader, decode

__all__ = ["FeaturePipeline"]


class FeaturePipeline:
    """Turns audio cells into features, with a cache before and after the extraction.

    Each step is a module of its own, and none calls another: this class hands a batch from one to the next.

    Parameters
    ----------
    processor
        A feature extractor, or a processor that has one.
    settings
        How examples become features.
    root
        Where everything is kept.
    counters, run
        Those of the process that sent this pipeline here; by default new ones.
    """

    def __init__(
        self,
        processor: Any,
        root: CacheRoot,
        settings: FeatureSettings,
        *,
        counters: Counters | None = None,
        run: Run | None = None,
    ) -> None:
        self.processor = processor
        self.settings = settings
        self.root = opened = OpenRoot(root, counters=counters, run=run)
        self.store, self.counters, self.access_log = opened.store, opened.counters, opened.access_log
        self.audio_cache, self.waveform_cache = opened.audio_cache, opened.waveform_cache
        waveform = settings.waveform
        self.access_log.about.update(processor=name_of(audio_part(processor)), **waveform.arguments())
        self.fingerprinter = Fingerprinter(
            processor,
            settings.processor_kwargs,
            dtype=settings.dtype,
            nonfinite=settings.nonfinite,
            sampling_rate=waveform.sampling_rate,
            channels=waveform.channels,
        )
        self.waveforms = WaveformReader(self.waveform_cache, waveform, settings.waveforms, self.counters)
        self.extraction = Extraction(processor, settings)
        self.policy = FeatureStoragePolicy(settings.features)
        self.writer = EntryWriter(opened)
        self.missing_clips = MissingClips(opened, self.waveforms, self.extraction, self.policy, self.writer)
        self.manifests = ProcessorManifests(opened, self.extraction.probe)
        self.unstorable = UnstorableWarning()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "processor": self.processor,
            "root": self.root.root,
            "settings": self.settings,
            "counters": self.counters,
            "run": self.access_log.run,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def identity(self) -> ProcessorIdentity:
        """Return the processor's identity as it is now, and note it in the record of this run."""
        identity = self.fingerprinter.identity()
        self.access_log.about["processor_sha"] = identity.sha
        return identity

    def key(self, blob_sha: str, identity: ProcessorIdentity) -> AudioCacheKey:
        """Return the key of the features that a processor of this identity gives for a clip."""
        return self.settings.waveform.features_key(blob_sha, identity.sha)

    def output_specs(self) -> dict[str, OutputSpec]:
        """Return the form of each output, from the processor's manifest if the root has it, else by trying it out."""
        return dict(self.manifests.get(self.identity()).outputs)

    def features(
        self, cells: Sequence[Any], known: Sequence[str | None] | None = None
    ) -> list[ClipFeatures | AudioError]:
        """Return for each audio cell its features, or the error of its clip.

        The batch is looked up at once. Each clip that is missing is computed once, apart from all others.

        Parameters
        ----------
        cells
            The audio cells.
        known
            The ``blob_sha`` of each as a reference to stored features says, or None; files may have changed since.
        """
        cells = [located(cell, self.settings.data_dir) for cell in cells]
        identity = self.identity()
        is_stored = known is not None or self.policy.is_stored(identity.sha)

        def find(keys: list[AudioCacheKey]) -> list[ClipFeatures | None]:
            if is_stored:
                return self._read(keys)
            self.counters.add(misses=len(keys))
            return [None] * len(keys)

        clips = look_up(cells, lambda blob_sha: self.key(blob_sha, identity), find, known)
        results: dict[str, ClipFeatures | AudioError] = dict(clips.found)
        results.update(self._refused({blob_sha: found.length for blob_sha, found in clips.found.items()}, clips))
        results.update(self._compute(clips.missing(), clips.keys, identity, is_stored=is_stored))
        self.unstorable.of(self.writer.wait(), name_of(audio_part(self.processor)))
        self._decide_storage(identity)
        return self._rows(clips, results)

    def _read(self, keys: list[AudioCacheKey]) -> list[ClipFeatures | None]:
        """Return the features that the cache has. If lengths are needed, an entry without one is a miss."""
        read = self.audio_cache.read_many(keys)
        found = [None if each is None else ClipFeatures(*each) for each in read]
        if self.settings.needs_length:
            useless = sum(each is not None and each.length is None for each in found)
            self.counters.add(hits=-useless, misses=useless)
            found = [None if each is None or each.length is None else each for each in found]
        return found

    def _refused(self, lengths: Mapping[str, ClipLength | None], clips: Clips[Any]) -> dict[str, AudioError]:
        """Return the error of each clip that is too long or not whole, though its features are there."""
        refused: dict[str, AudioError] = {}
        for source in clips.sources:
            length = lengths.get(source.blob_sha) if isinstance(source, AudioSource) else None
            if length is not None and isinstance(source, AudioSource) and source.blob_sha not in refused:
                try:
                    self.settings.waveform.check(length, source.clip)
                except AudioError as exc:
                    refused[source.blob_sha] = exc
        return refused

    def ensure(
        self,
        cells: Sequence[Any],
        processor_sha: str,
        *,
        claim: Callable[[Sequence[str]], Collection[str]] | None = None,
    ) -> list[StoredClip | AudioError]:
        """Return for each audio cell its entry, which is in the cache now, or the error of its clip.

        Parameters
        ----------
        cells
            The audio cells.
        processor_sha
            The identity that the processor must have.
        claim
            Is given the ``blob_sha`` of each missing clip, and returns those to compute here. The others are computed
            elsewhere, and may not be in the cache yet.

        Raises
        ------
        ProcessorError
            If the processor has another identity by now.
        StoreError
            If features could not be stored.
        """
        identity = self.identity()
        if identity.sha != processor_sha:
            raise ProcessorError(
                f"the processor changed during the map: its identity was {processor_sha[:12]} and is "
                f"{identity.sha[:12]}{self._change_since(processor_sha, identity)}. Change a processor before .map(ds) "
                "or after it, and in no other process. Nothing more was computed."
            )

        cells = [located(cell, self.settings.data_dir) for cell in cells]
        self.manifests.ensure(identity)  # also where all entries come from the near tier
        clips: Clips[ClipLength | bool] = look_up(
            cells, lambda blob_sha: self.key(blob_sha, identity), self._find_present
        )
        missing = clips.missing()
        if claim is not None and missing:
            claimed = claim([source.blob_sha for source in missing])
            missing = [source for source in missing if source.blob_sha in claimed]
            # Another worker may have stored a clip since it was looked up.
            present = self.audio_cache.exists_many([clips.keys[source.blob_sha] for source in missing])
            missing = [source for source, is_there in zip(missing, present, strict=True) if not is_there]
        lengths = {blob_sha: found for blob_sha, found in clips.found.items() if isinstance(found, ClipLength)}
        failed = self._refused(lengths, clips)
        for blob_sha, result in self._compute(missing, clips.keys, identity, is_stored=True):
            if isinstance(result, AudioError):
                failed[blob_sha] = result
            elif result.length is not None:
                lengths[blob_sha] = result.length
        errors = self.writer.wait()
        failed.update(errors_of_clips(errors, missing, clips.keys))
        self._check_stored(errors, [clips.keys[each.blob_sha] for each in missing if each.blob_sha not in failed])
        results: list[StoredClip | AudioError] = []
        for source in clips.sources:
            error = source if isinstance(source, AudioError) else failed.get(source.blob_sha)
            if error is not None:
                results.append(self._noted(error, source.clip))
            elif isinstance(source, AudioSource):
                results.append(StoredClip(clips.keys[source.blob_sha], lengths.get(source.blob_sha)))
        return results

    def _change_since(self, processor_sha: str, identity: ProcessorIdentity) -> str:
        """Say what differs from the processor of before, if the root has its manifest."""
        there = self.root.read_manifest(processor_sha)
        found = [] if there is None else differences(there.identity.description, identity.description)
        return f" ({'; '.join(map(str, found[:3]))})" if found else ""

    def _find_present(self, keys: list[AudioCacheKey]) -> list[ClipLength | bool | None]:
        """Say which entries need not be computed, by the lengths of their clips if these are looked at; count them.

        An entry that the near tier has and the root does not take counts as a miss: nobody else can read it.
        """
        # A remote root is not made to send all of its entries only because one may be of a truncated file.
        is_strict = self.settings.waveform.truncated == "error" and self.store.is_local
        are_read = self.settings.needs_length or is_strict
        present = self.audio_cache.secure_many(keys, are_read=are_read)
        found: list[ClipLength | bool | None] = [True if answer else None for answer in present]
        if are_read:
            self._read_lengths(keys, found)
        n_hits = sum(answer is True and there is not None for answer, there in zip(present, found, strict=True))
        self.counters.add(hits=n_hits, misses=len(keys) - n_hits)
        self.audio_cache.note_use([key.name() for key, there in zip(keys, found, strict=True) if there is not None])
        return found

    def _read_lengths(self, keys: Sequence[AudioCacheKey], found: list[ClipLength | bool | None]) -> None:
        """Put the lengths of clips in the place of the entries that were found."""
        rows = [row for row, is_there in enumerate(found) if is_there]
        for row, entry in zip(rows, self.audio_cache.open_many([keys[row] for row in rows]), strict=True):
            if entry is None or (entry.length is None and self.settings.needs_length):
                found[row] = None
            elif entry.length is not None:
                found[row] = entry.length

    def _compute(
        self,
        sources: Sequence[AudioSource],
        keys: Mapping[str, AudioCacheKey],
        identity: ProcessorIdentity,
        *,
        is_stored: bool,
    ) -> Iterator[tuple[str, ClipFeatures | AudioError]]:
        """Yield the features of each clip by ``blob_sha``."""
        if sources:
            self.manifests.ensure(identity)
            yield from self.missing_clips.compute(sources, keys, is_stored=is_stored)

    def _check_stored(self, errors: Sequence[WriteError], keys: Sequence[AudioCacheKey]) -> None:
        """Raise the first error of storing features, unless this machine can read all of them."""
        failed = [error for error in errors if isinstance(error, StoreError)]
        failed.sort(key=lambda error: error.kind != "later version")
        is_later = bool(failed) and failed[0].kind == "later version"
        if failed and (is_later or not all(self.audio_cache.readable_many(keys))):
            remedy = "Upgrade hf_audio_cache to read it" if is_later else "Make room"
            raise StoreError(
                f"features could not be stored under {self.audio_cache.root}, and references need them there. "
                f"{remedy} or use another root, or read with cached_features.attach(ds). No column was made: "
                f"{failed[0]}",
                kind=failed[0].kind,
            ) from failed[0]

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

        self.policy.decide(
            identity.sha,
            name_of(audio_part(self.processor)),
            seconds_made=sum(sample.seconds for sample in samples),
            read=read_features,
            make=make_features,
        )

    def _rows(
        self, clips: Clips[ClipFeatures], results: Mapping[str, ClipFeatures | AudioError]
    ) -> list[ClipFeatures | AudioError]:
        """Return the result of each row. Rows of one clip get copies, to be changed independently."""
        given: set[str] = set()
        rows: list[ClipFeatures | AudioError] = []
        for source in clips.sources:
            result = source if isinstance(source, AudioError) else results[source.blob_sha]
            if isinstance(result, AudioError):
                result = self._noted(result, source.clip)
            elif isinstance(source, AudioSource):
                result = result.copied() if source.blob_sha in given else result
                given.add(source.blob_sha)
            rows.append(result)
        return rows

    def _noted(self, error: AudioError, clip: str) -> AudioError:
        """Return the error under the name of this row's clip, and count the clip as bad."""
        error = error.of(clip)
        self.counters.add_bad_clip(BadClip(clip, type(error).__name__, str(error)))
        return error

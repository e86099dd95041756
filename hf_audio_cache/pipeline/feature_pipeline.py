"""The way of a clip through the two caches: features, else a waveform, else its encoded bytes."""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..audio.file_hashes import find_hashes, learn_hashes
from ..audio.source import AudioSource, local_path, read_source
from ..cache.keys import AudioCacheKey, WaveformCacheKey
from ..cache.layout import TAG, TAG_NAME, manifest_name
from ..cache.open_root import OpenRoot
from ..cache.processor_manifest import Manifest
from ..cache.stats import BadClip
from ..errors import AudioError, ProcessorError, StoreError
from ..processors.extractor import audio_part, name_of
from ..processors.fingerprint import Fingerprinter, ProcessorIdentity
from ..processors.output_specs import OutputSpec
from ..processors.precision import FloatType
from ..support.threads import ahead, in_threads, leaving_a_core
from ..support.write_behind import Writer
from .compute import Extraction
from .storage_policy import SAMPLE_SIZE, FeatureWorth, Policy

__all__ = ["Router"]

FoundT = TypeVar("FoundT")


@dataclass
class Router:
    """Brings clips to their features, and keeps all that was computed on the way.

    Parameters
    ----------
    processor
        A feature extractor, or a processor that has one.
    root
        Where everything is kept.
    sampling_rate
        Rate of the waveforms in Hz.
    max_length_ms
        Cap on their length in milliseconds; 0 for none.
    auto_resample
        Whether clips at another rate are resampled, or are errors.
    processor_kwargs
        Further arguments of the processor's call.
    dtype
        What features are rounded to; None for what they are.
    features_policy, waveforms_policy
        Whether features and waveforms are stored; ``"auto"`` is where reading them is faster than making them.
    carried_code
        See `Fingerprinter`.
    """

    processor: Any
    root: OpenRoot
    sampling_rate: int
    max_length_ms: int
    auto_resample: bool
    processor_kwargs: Mapping[str, Any]
    dtype: FloatType | None = None
    features_policy: Policy = "auto"
    waveforms_policy: Policy = "auto"
    carried_code: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.store, self.counters, self.uses = self.root.store, self.root.counters, self.root.uses
        self.audio_cache, self.waveform_cache = self.root.audio_cache, self.root.waveform_cache
        self.uses.about.update(
            processor=name_of(audio_part(self.processor)),
            sample_rate=self.sampling_rate,
            max_length_ms=self.max_length_ms,
            auto_resample=self.auto_resample,
        )
        self.fingerprinter = Fingerprinter(self.processor, self.processor_kwargs, self.carried_code, dtype=self.dtype)
        self.extraction = Extraction(
            self.processor,
            self.sampling_rate,
            self.max_length_ms,
            self.auto_resample,
            self.processor_kwargs,
            self.dtype,
        )
        self._worth = FeatureWorth(self.features_policy)
        self._samples: list[tuple[_Sample, float]] = []
        self._writer = Writer()
        self._manifests: dict[str, Manifest] = {}  # by identity, as read or written
        self._written: set[str] = set()  # identities whose manifest this process has seen to

    def identity(self) -> ProcessorIdentity:
        """Return the processor's identity as it is now; nothing is remembered but for the record of this run."""
        identity = self.fingerprinter.identity()
        self.uses.about["processor_sha"] = identity.sha
        return identity

    def key(self, blob_sha: str, identity: ProcessorIdentity) -> AudioCacheKey:
        """Return the key of the features that `identity` gives for a clip."""
        return AudioCacheKey(blob_sha, identity.sha, self.sampling_rate, self.max_length_ms, self.auto_resample)

    def features(self, cells: Sequence[Any]) -> list[dict[str, Any] | AudioError]:
        """Return, for each audio cell, its outputs by name, or why there are none.

        The whole batch is looked up at once; each distinct clip that is missing is computed once, on its own, and
        stored before the next.
        """
        identity = self.identity()
        is_stored = self._worth.stores(identity.sha)

        def read(keys: list[AudioCacheKey]) -> list[dict[str, Any] | None]:
            if is_stored:
                return self.audio_cache.get_all_many(keys)
            self.counters.add(misses=len(keys))
            return [None] * len(keys)

        sources, keys, found = self._look_up(cells, identity, read)
        missing = _distinct(sources, found)
        results: dict[str, dict[str, Any] | AudioError] = dict(found)
        results.update(self._compute(missing, keys, identity, is_stored=is_stored))
        self._writer.wait()
        self._judge(identity)
        given: set[str] = set()
        rows: list[dict[str, Any] | AudioError] = []
        for source in sources:
            result = source if isinstance(source, AudioError) else results[source.blob_sha]
            if isinstance(result, AudioError):
                result = self._noted(result, source.clip)
            elif isinstance(source, AudioSource):
                # The rows of one clip are to be changed independently of each other.
                result = dict(result) if source.blob_sha not in given else _copied(result)
                given.add(source.blob_sha)
            rows.append(result)
        return rows

    def ensure(
        self,
        cells: Sequence[Any],
        processor_sha: str,
        *,
        claim: Callable[[Sequence[str]], Collection[str]] | None = None,
    ) -> list[AudioCacheKey | AudioError]:
        """Return, for each audio cell, the key of an entry that is in the cache now, or why there is none.

        Parameters
        ----------
        cells
            The audio cells.
        processor_sha
            The identity that the processor is to have.
        claim
            Is told the ``blob_sha`` of each clip that is missing, and returns those that are to be computed here:
            others are somebody else's, and may not be in the cache yet.

        Raises
        ------
        ProcessorError
            If the processor is not the one of `processor_sha` any more.
        StoreError
            If what was computed could not be stored.
        """
        identity = self.identity()
        if identity.sha != processor_sha:
            raise ProcessorError(
                f"the processor changed under way: its identity was {processor_sha[:12]} and is {identity.sha[:12]}; "
                "nothing more was computed. Change a processor before .map(ds) or after it, and not in another process."
            )

        def look(keys: list[AudioCacheKey]) -> list[bool | None]:
            present = self.audio_cache.exists_many(keys)
            self.counters.add(hits=sum(present), misses=len(present) - sum(present))
            self.audio_cache.note_use([key.name() for key, is_there in zip(keys, present, strict=True) if is_there])
            return [is_there or None for is_there in present]

        sources, keys, found = self._look_up(cells, identity, look)
        missing = _distinct(sources, found)
        if claim is not None and missing:
            claimed = claim([source.blob_sha for source in missing])
            missing = [source for source in missing if source.blob_sha in claimed]
            # Whoever had a clip until now has stored it.
            present = self.audio_cache.exists_many([keys[source.blob_sha] for source in missing])
            missing = [source for source, is_there in zip(missing, present, strict=True) if not is_there]
        failed = {
            blob_sha: result
            for blob_sha, result in self._compute(missing, keys, identity, is_stored=True)
            if isinstance(result, AudioError)
        }
        for error in self._writer.wait():
            if all(self.audio_cache.exists_many([keys[source.blob_sha] for source in missing])):
                break  # near, though not far
            raise StoreError(
                f"expected to store features under {self.audio_cache.root}, and {error}; references need entries, so "
                "no column was made. Make room or use another root, or read with cached_features.attach(ds)."
            ) from error
        results: list[AudioCacheKey | AudioError] = []
        for source in sources:
            result = source if isinstance(source, AudioError) else failed.get(source.blob_sha, keys[source.blob_sha])
            results.append(self._noted(result, source.clip) if isinstance(result, AudioError) else result)
        return results

    def output_specs(self) -> dict[str, OutputSpec]:
        """Return the form of each output, as the processor's manifest says; without one, by trying it out."""
        identity = self.identity()
        return dict(self._manifest(identity).outputs)

    def _look_up(
        self,
        cells: Sequence[Any],
        identity: ProcessorIdentity,
        look: Callable[[list[AudioCacheKey]], list[FoundT | None]],
    ) -> tuple[list[AudioSource | AudioError], dict[str, AudioCacheKey], dict[str, FoundT]]:
        """Return the sources of audio cells, their keys by blob, and what `look` finds of them, each looked for once.

        A file whose hash is remembered is read only if nothing is found.
        """
        shas = find_hashes([local_path(cell) for cell in cells])
        sources = in_threads(_source, list(zip(cells, shas, strict=True)))
        keys: dict[str, AudioCacheKey] = {}
        found: dict[str, FoundT] = {}

        def look_for_new() -> None:
            new = {s.blob_sha: self.key(s.blob_sha, identity) for s in sources if isinstance(s, AudioSource)}
            new = {blob_sha: key for blob_sha, key in new.items() if blob_sha not in keys}
            answers = zip(new, look(list(new.values())), strict=True) if new else ()
            found.update((blob_sha, answer) for blob_sha, answer in answers if answer is not None)
            keys.update(new)

        look_for_new()
        unread = [
            row
            for row, source in enumerate(sources)
            if isinstance(source, AudioSource) and source.content is None and source.blob_sha not in found
        ]
        for row, source in zip(unread, in_threads(_source, [(cells[row], None) for row in unread]), strict=True):
            sources[row] = source
        look_for_new()  # of files that have changed just now
        learn_hashes((s.file, s.blob_sha) for s in sources if isinstance(s, AudioSource) and s.file is not None)
        return sources, keys, found

    def _compute(
        self,
        sources: Sequence[AudioSource],
        keys: Mapping[str, AudioCacheKey],
        identity: ProcessorIdentity,
        *,
        is_stored: bool,
    ) -> Iterator[tuple[str, dict[str, Any] | AudioError]]:
        """Compute the features of each clip, and yield them by blob.

        The next clips are decoded, and the last ones encoded and stored, beside the extraction of each.
        """
        if not sources:
            return
        self._write_manifest(identity)
        waveforms = self._waveforms(sources, keys)
        for source, made in zip(sources, waveforms, strict=True):
            key = keys[source.blob_sha]
            if isinstance(made.waveform, AudioError):
                yield source.blob_sha, made.waveform
                continue
            if is_stored and (stored := self._stored_meanwhile(key)) is not None:
                yield source.blob_sha, stored
                continue
            if made.is_new:
                self._store_behind(functools.partial(self._write_waveform, key.waveform_key(), made.waveform))
            started = time.perf_counter()
            try:
                # One clip alone has nobody beside it.
                with leaving_a_core() if len(sources) > 1 else contextlib.nullcontext():
                    outputs = self.extraction.extract(made.waveform, source.clip, identity.sha)
            except AudioError as exc:
                yield source.blob_sha, exc
                continue
            seconds = time.perf_counter() - started
            self.counters.add(computed=1, seconds_computing=made.seconds + seconds)
            if is_stored:
                self._store_behind(functools.partial(self._write_features, key, outputs, made.seconds + seconds))
                if self._worth.wants(identity.sha):
                    same = [sample for sample in self._samples if sample[0].key.processor_sha == identity.sha]
                    self._samples = [*same, (_Sample(key, source), seconds)][-SAMPLE_SIZE:]
            yield source.blob_sha, outputs

    def _stored_meanwhile(self, key: AudioCacheKey) -> dict[str, Any] | None:
        """Return the features of a clip that another process has stored since its batch was looked up.

        Only where to ask costs next to nothing: a far root would be asked once a clip.
        """
        return self.audio_cache.peek(key) if self.store.is_local else None

    def _waveforms(self, sources: Sequence[AudioSource], keys: Mapping[str, AudioCacheKey]) -> Iterator[_Made]:
        """Yield the waveform of each clip, read or decoded; the next ones are decoded in threads meanwhile."""
        kept = [source for source in sources if self.keeps_waveform(source)]
        read = self.waveform_cache.get_many([keys[source.blob_sha].waveform_key() for source in kept])
        cached = {source.blob_sha: waveform for source, waveform in zip(kept, read, strict=True)}

        def make(source: AudioSource) -> _Made:
            waveform = cached.pop(source.blob_sha, None)
            if waveform is not None:
                return _Made(waveform, 0.0, is_new=False)
            self.counters.add(decodes=1)
            started = time.perf_counter()
            try:
                decoded = self.extraction.decode(source)
            except AudioError as exc:
                return _Made(exc, 0.0, is_new=False)
            return _Made(decoded, time.perf_counter() - started, is_new=self.keeps_waveform(source))

        return ahead(make, sources)

    def keeps_waveform(self, source: AudioSource) -> bool:
        """Return whether the waveform of a clip is stored; its content must have been read."""
        if self.waveforms_policy == "auto":
            return not self.extraction.is_waveform(source)
        return self.waveforms_policy == "always"

    def _judge(self, identity: ProcessorIdentity) -> None:
        """Find out whether features of this identity are worth storing, as soon as some are stored."""
        if len(self._samples) < SAMPLE_SIZE or not self._worth.wants(identity.sha):
            return
        samples = [sample for sample, _ in self._samples]
        features, waveforms = self.root.uncounted()
        kept = [sample for sample in samples if self.keeps_waveform(sample.source)]

        def make() -> None:
            read = waveforms.get_many([sample.key.waveform_key() for sample in kept])
            stored = {sample.key: waveform for sample, waveform in zip(kept, read, strict=True)}
            for sample in samples:
                waveform = stored.get(sample.key)
                if waveform is None:
                    waveform = self.extraction.decode(sample.source)
                self.extraction.extract(waveform, sample.source.clip, identity.sha)

        self._worth.judge(
            identity.sha,
            name_of(audio_part(self.processor)),
            made_in=sum(seconds for _, seconds in self._samples),
            read=lambda: features.get_all_many([sample.key for sample in samples]),
            make=make,
        )
        self._samples = []

    def _store_behind(self, write: Callable[[], list[StoreError]]) -> None:
        """Encode and store beside what is computed next. Where the store takes nothing now, nothing is encoded."""
        self._writer.submit(write, at_once=bool(self.store.refuse_puts((TAG_NAME,))))

    def _write_features(self, key: AudioCacheKey, outputs: Mapping[str, Any], seconds: float) -> list[StoreError]:
        return self.audio_cache.store_many({key: outputs}, compute_seconds=seconds)

    def _write_waveform(self, key: WaveformCacheKey, waveform: npt.NDArray[np.float32]) -> list[StoreError]:
        self.waveform_cache.store_many({key: {"waveform": waveform}})
        return []  # nobody refers to a waveform: losing one costs a decoding, and is counted

    def _noted(self, error: AudioError, clip: str) -> AudioError:
        """Return the error of a row, by the name of that row's clip, and keep a record of it."""
        error = error.of(clip)
        self.counters.add_bad_clip(BadClip(clip, type(error).__name__, str(error)))
        return error

    def _manifest(self, identity: ProcessorIdentity) -> Manifest:
        """Return the processor's manifest, as the root has it, or as it will be written."""
        known = self._manifests.get(identity.sha) or self.root.read_manifest(identity.sha)
        if known is None:
            known = Manifest.of(identity, self.extraction.probe())
        self._manifests[identity.sha] = known
        return known

    def _write_manifest(self, identity: ProcessorIdentity) -> None:
        """Write the processor's manifest, and what the root is, where they are not yet there; once a process."""
        if identity.sha in self._written:
            return
        self._written.add(identity.sha)
        missing = {}
        if self.root.lacks_manifest(identity.sha):
            missing[manifest_name(identity.sha)] = self._manifest(identity).to_bytes(self.root.signing_keys)
        if not self.store.exists(TAG_NAME):
            missing[TAG_NAME] = TAG
        failed = self.store.put_many(missing).values()
        self.counters.add(write_errors=sum(error.kind != "read-only" for error in failed))


@dataclass(frozen=True)
class _Made:
    """A waveform, or why there is none; the seconds it took to decode; and whether it is to be stored."""

    waveform: npt.NDArray[np.float32] | AudioError
    seconds: float
    is_new: bool


@dataclass(frozen=True)
class _Sample:
    """A clip whose features were computed and stored."""

    key: AudioCacheKey
    source: AudioSource


def _source(cell_and_sha: tuple[Any, str | None]) -> AudioSource | AudioError:
    """Return the content of an audio cell, not read where its sha is known; or why there is none."""
    cell, blob_sha = cell_and_sha
    if blob_sha is not None:
        return AudioSource(local_path(cell) or "", blob_sha, None)
    try:
        return read_source(cell)
    except AudioError as exc:
        return exc


def _distinct(sources: Sequence[AudioSource | AudioError], found: Mapping[str, Any]) -> list[AudioSource]:
    """Return each clip of which nothing was found, once."""
    clips = {source.blob_sha: source for source in sources if isinstance(source, AudioSource)}
    return [source for blob_sha, source in clips.items() if blob_sha not in found]


def _copied(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: copy.deepcopy(value) for name, value in outputs.items()}

"""The way of a clip through the two caches: features, else a waveform, else its encoded bytes."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .caches import AudioCache, WaveformCache
from .decode import decode_audio, to_waveform
from .errors import AudioError, AudioExtractionError, HfAudioCacheError, ProcessorError, StoreError
from .extractor import audio_part, name_of
from .fingerprint import Fingerprinter, ProcessorIdentity
from .keys import AudioCacheKey, WaveformCacheKey
from .manifest import Manifest, manifest_name, read_manifest
from .outputs import OutputSpec, probe_outputs
from .repeatable import extract_repeatable
from .signing import SigningKeys
from .source import AudioSource, read_source
from .stats import BadClip, Counters
from .stores import Store
from .uses import UseRecorder
from .writer import Writer

__all__ = ["Router"]

TAG_NAME = "CACHEDIR.TAG"  # https://bford.info/cachedir/: backup programs leave such a directory out
TAG = b"""Signature: 8a477f597d28d172789f06886806bc55
# This directory holds audio features and waveforms that hf_audio_cache can compute again.
"""


@dataclass
class Router:
    """Brings clips to their features, and keeps all that was computed on the way.

    Parameters
    ----------
    processor
        A feature extractor, or a processor that has one.
    store
        Where everything is kept: ``features/``, ``waveforms/`` and ``processors/``.
    sampling_rate
        Rate of the waveforms in Hz.
    max_length_ms
        Cap on their length in milliseconds; 0 for none.
    auto_resample
        Whether clips at another rate are resampled, or are errors.
    processor_kwargs
        Further arguments of the processor's call.
    compression
        That of new entries.
    signing_keys
        Those of a signed root.
    strict
        Whether a store that fails is an error.
    counters
        Where to count.
    uses
        Where to note which entries are used.
    carried_code
        See `Fingerprinter`.
    """

    processor: Any
    store: Store
    sampling_rate: int
    max_length_ms: int
    auto_resample: bool
    processor_kwargs: Mapping[str, Any]
    compression: str | None
    signing_keys: SigningKeys | None
    strict: bool
    counters: Counters
    uses: UseRecorder
    carried_code: Mapping[str, Any] | None = None
    audio_cache: AudioCache = field(init=False)
    waveform_cache: WaveformCache = field(init=False)

    def __post_init__(self) -> None:
        options: dict[str, Any] = {
            "compression": self.compression,
            "signing_key": self.signing_keys,
            "strict": self.strict,
            "counters": self.counters,
        }
        self.audio_cache = AudioCache(self.store.child("features"), on_use=self.uses.add_features, **options)
        self.waveform_cache = WaveformCache(self.store.child("waveforms"), on_use=self.uses.add_waveforms, **options)
        self.uses.about.update(
            processor=name_of(audio_part(self.processor)),
            sample_rate=self.sampling_rate,
            max_length_ms=self.max_length_ms,
            auto_resample=self.auto_resample,
        )
        self.fingerprinter = Fingerprinter(self.processor, self.processor_kwargs, self.carried_code)
        self._writer = Writer()
        self._manifests: dict[str, Manifest] = {}  # by identity, as read or written
        self._written: set[str] = set()  # identities whose manifest this process has seen to
        self._repeated: set[str] = set()  # identities that gave one clip the same features twice

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
        sources = self._read(cells)
        distinct = {source.blob_sha: source for source in sources if isinstance(source, AudioSource)}
        keys = {blob_sha: self.key(blob_sha, identity) for blob_sha in distinct}
        looked_up = zip(keys, self.audio_cache.get_all_many(list(keys.values())), strict=True)
        found: dict[str, dict[str, Any] | AudioError] = {
            sha: outputs for sha, outputs in looked_up if outputs is not None
        }
        missing = [source for blob_sha, source in distinct.items() if blob_sha not in found]
        found.update(self._compute(missing, keys, identity))
        self._writer.wait()
        given: set[str] = set()
        rows: list[dict[str, Any] | AudioError] = []
        for source in sources:
            result = source if isinstance(source, AudioError) else found[source.blob_sha]
            if isinstance(result, AudioError):
                result = self._noted(result, source.clip)
            elif isinstance(source, AudioSource):
                # The rows of one clip are to be changed independently of each other.
                result = dict(result) if source.blob_sha not in given else _copied(result)
                given.add(source.blob_sha)
            rows.append(result)
        return rows

    def ensure(self, cells: Sequence[Any], processor_sha: str) -> list[AudioCacheKey | AudioError]:
        """Return, for each audio cell, the key of an entry that is in the cache now, or why there is none.

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
        sources = self._read(cells)
        distinct = {source.blob_sha: source for source in sources if isinstance(source, AudioSource)}
        keys = {blob_sha: self.key(blob_sha, identity) for blob_sha in distinct}
        present = self.audio_cache.exists_many(list(keys.values()))
        missing = [source for source, is_there in zip(distinct.values(), present, strict=True) if not is_there]
        self.counters.add(hits=len(distinct) - len(missing), misses=len(missing))
        self.audio_cache.note_use(
            [key.name() for key, is_there in zip(keys.values(), present, strict=True) if is_there]
        )
        failed = {
            blob_sha: result
            for blob_sha, result in self._compute(missing, keys, identity)
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

    def _read(self, cells: Sequence[Any]) -> list[AudioSource | AudioError]:
        sources: list[AudioSource | AudioError] = []
        for cell in cells:
            try:
                sources.append(read_source(cell))
            except AudioError as exc:
                sources.append(exc)
        return sources

    def _compute(
        self, sources: Sequence[AudioSource], keys: Mapping[str, AudioCacheKey], identity: ProcessorIdentity
    ) -> Iterator[tuple[str, dict[str, Any] | AudioError]]:
        """Compute the features of each clip, and yield them by blob; they are stored behind that of the next."""
        if not sources:
            return
        self._write_manifest(identity)
        waveform_keys = [keys[source.blob_sha].waveform_key() for source in sources]
        waveforms = self.waveform_cache.get_many(waveform_keys)
        extractor = audio_part(self.processor)
        for source, waveform in zip(sources, waveforms, strict=True):
            key = keys[source.blob_sha]
            try:
                started = time.perf_counter()
                if waveform is None:
                    waveform = self._decode(source)
                    self._writer.submit(functools.partial(self._write_waveform, key.waveform_key(), waveform))
                outputs = self._extract(extractor, waveform, source.clip, identity)
            except AudioError as exc:
                yield source.blob_sha, exc
                continue
            seconds = time.perf_counter() - started
            self.counters.add(computed=1, seconds_computing=seconds)
            self._writer.submit(functools.partial(self._write_features, key, outputs, seconds))
            yield source.blob_sha, outputs

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

    def _decode(self, source: AudioSource) -> npt.NDArray[np.float32]:
        settings: dict[str, Any] = {
            "sampling_rate": self.sampling_rate,
            "max_length_ms": self.max_length_ms,
            "auto_resample": self.auto_resample,
            "clip": source.clip,
        }
        self.counters.add(decodes=1)
        if isinstance(source.content, np.ndarray):
            return to_waveform(source.content, source.source_rate or 0, **settings)
        return decode_audio(source.content, **settings)

    def _extract(
        self, extractor: Any, waveform: npt.NDArray[np.float32], clip: str, identity: ProcessorIdentity
    ) -> dict[str, Any]:
        try:
            outputs = extract_repeatable(
                extractor,
                waveform,
                self.sampling_rate,
                self.processor_kwargs,
                clip=clip,
                twice=identity.sha not in self._repeated,
            )
        except HfAudioCacheError:
            raise
        except Exception as exc:
            raise AudioExtractionError(
                f"{name_of(extractor)} failed on {clip} ({len(waveform)} samples at {self.sampling_rate} Hz) "
                f"with {type(exc).__name__}: {exc}; nothing was stored for it. If every clip fails, see "
                'processor_kwargs; if this one does, filter it out, or pass on_error="null".',
                clip=clip,
            ) from exc
        self._repeated.add(identity.sha)
        return outputs

    def _manifest(self, identity: ProcessorIdentity) -> Manifest:
        """Return the processor's manifest, as the root has it, or as it will be written."""
        known = self._manifests.get(identity.sha) or read_manifest(self.store, identity.sha, self.signing_keys)
        if known is None:
            outputs = probe_outputs(audio_part(self.processor), self.sampling_rate, self.processor_kwargs)
            known = Manifest.of(identity, outputs)
        self._manifests[identity.sha] = known
        return known

    def _write_manifest(self, identity: ProcessorIdentity) -> None:
        """Write the processor's manifest, and what the root is, where they are not yet there; once a process."""
        if identity.sha in self._written:
            return
        self._written.add(identity.sha)
        missing = {}
        if read_manifest(self.store, identity.sha, self.signing_keys) is None:
            missing[manifest_name(identity.sha)] = self._manifest(identity).to_bytes(self.signing_keys)
        if not self.store.exists(TAG_NAME):
            missing[TAG_NAME] = TAG
        failed = self.store.put_many(missing).values()
        self.counters.add(write_errors=sum(error.kind != "read-only" for error in failed))


def _copied(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in outputs.items()}

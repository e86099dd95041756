"""Both pipelines: look up a batch of clips, make and store what is missing, tell errors."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from ..audio.length import ClipLength
from ..audio.source import AudioSource
from ..cache.access_log import Run
from ..cache.entry_cache import EntryCache
from ..cache.keys import KeyT
from ..cache.open_root import OpenRoot
from ..cache.root import CacheRoot
from ..cache.stats import BadClip, Counters
from ..errors import AudioError, StoreError
from ..processors.identity import ProcessorIdentity
from ..processors.output_specs import OutputSpec
from ..support.write_behind import WriteError
from .audio_reader import AudioReader
from .clip_features import ClipFeatures, StoredClip
from .look_up import Clips, look_up
from .settings import ResultSettings
from .store import EntryWriter
from .unstorable import errors_of_clips
from .waveforms import WaveformReader

logger = logging.getLogger(__name__)

IdentityT = TypeVar("IdentityT", bound=ProcessorIdentity | None)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ClipPipeline(Generic[KeyT, IdentityT]):
    """Turns audio cells into results that a cache keeps: a processor's features, or waveforms.

    `counters` and `run` are those of the process that sent this pipeline here.
    """

    what: ClassVar[str]  # what messages call the results
    cache: EntryCache[KeyT]  # of the results

    def __init__(
        self,
        root: CacheRoot,
        settings: ResultSettings,
        *,
        counters: Counters | None = None,
        run: Run | None = None,
    ) -> None:
        self.settings = settings
        self.root = opened = OpenRoot(root, counters=counters, run=run)
        self.store, self.counters, self.access_log = opened.store, opened.counters, opened.access_log
        self.audio_cache, self.waveform_cache = opened.audio_cache, opened.waveform_cache
        self.access_log.about.update(settings.waveform.arguments())
        self.audio_reader = AudioReader(settings.data_dir, settings.audio_storage_options)
        self.waveforms = WaveformReader(self.waveform_cache, settings.waveform, settings.waveforms, self.counters)
        self.writer = EntryWriter(opened)
        self._has_told_of_bad_clips = False

    def __getstate__(self) -> dict[str, Any]:
        return {
            "root": self.root.root,
            "settings": self.settings,
            "counters": self.counters,
            "run": self.access_log.run,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def name(self) -> str:
        """What messages call the processor."""
        raise NotImplementedError

    def identity(self) -> IdentityT:
        """Return the processor's identity as it is now; None if there is no processor."""
        raise NotImplementedError

    def key(self, blob_sha: str, identity: IdentityT) -> KeyT:
        """Return the key of the entry that a processor of this identity gives for a clip."""
        raise NotImplementedError

    def output_specs(self) -> dict[str, OutputSpec]:
        """Return the form of each output."""
        raise NotImplementedError

    def why_no_specs(self) -> str:
        """Say what to do where no output is found, and what was raised."""
        return ""

    def _stores(self, identity: IdentityT) -> bool | None:
        """Return whether results are stored; None if that is another question for each clip."""
        raise NotImplementedError

    def _compute(
        self, sources: Sequence[AudioSource], keys: Mapping[str, KeyT], identity: IdentityT, *, is_stored: bool | None
    ) -> Iterator[tuple[str, ClipFeatures | AudioError]]:
        """Yield the result of each clip by ``blob_sha``; `is_stored` as `_stores` has it."""
        raise NotImplementedError

    def _made_of(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Return what is returned of the outputs in an entry."""
        return outputs

    def _begin(self, identity: IdentityT) -> None:
        """Store what a root has beside its entries."""
        raise NotImplementedError

    def _end(self, errors: Sequence[WriteError], identity: IdentityT) -> None:
        """Take the errors of storing a batch that was returned all the same."""

    def _still(self, processor_sha: str | None) -> IdentityT:
        """Return the identity, which must be this one still."""
        return self.identity()

    def features(
        self, cells: Sequence[Any], known: Sequence[str | None] | None = None
    ) -> list[ClipFeatures | AudioError]:
        """Return for each audio cell its result, or the error of its clip.

        The batch is looked up at once. Each clip that is missing is computed once, apart from all others. `known` are
        the ``blob_sha`` that references to stored entries say, or None; files may have changed since.
        """
        identity = self.identity()
        is_stored = True if known is not None else self._stores(identity)

        def find(keys: list[KeyT]) -> list[ClipFeatures | None]:
            if is_stored is not False:
                return self._read(keys)
            self.cache.count(hits=0, misses=len(keys))
            return [None] * len(keys)

        clips: Clips[KeyT, ClipFeatures] = look_up(
            cells, self.audio_reader, lambda blob_sha: self.key(blob_sha, identity), find, known
        )
        results: dict[str, ClipFeatures | AudioError] = dict(clips.found)
        results.update(self._refused({blob_sha: found.length for blob_sha, found in clips.found.items()}, clips))
        results.update(self._compute(clips.missing(), clips.keys, identity, is_stored=is_stored))
        self._end(self.writer.wait(), identity)
        rows = self._rows(clips, results)
        self._tell_of_bad_clips(rows)
        return rows

    def _tell_of_bad_clips(self, results: Sequence[ClipFeatures | AudioError]) -> None:
        """Warn of the first clip that gives nothing, unless its error is raised."""
        if self._has_told_of_bad_clips or self.settings.on_error == "raise":
            return
        first = next((result for result in results if isinstance(result, AudioError)), None)
        if first is not None:
            self._has_told_of_bad_clips = True
            becomes = "are left out" if self.settings.on_error == "skip" else "have None in their place"
            logger.warning(
                "rows without %s %s; the first: %s (cached_%s.bad_clips lists them; each process warns once)",
                *(self.what, becomes, first, self.what),
            )

    def _read(self, keys: list[KeyT]) -> list[ClipFeatures | None]:
        """Return the results that the cache has. If lengths are needed, an entry without one is a miss."""
        read = self.cache.read_many(keys)
        found = [None if each is None else ClipFeatures(self._made_of(each[0]), each[1]) for each in read]
        if self.settings.needs_length:
            useless = sum(each is not None and each.length is None for each in found)
            self.cache.count(hits=-useless, misses=useless)
            found = [None if each is None or each.length is None else each for each in found]
        return found

    def _refused(self, lengths: Mapping[str, ClipLength | None], clips: Clips[KeyT, Any]) -> dict[str, AudioError]:
        """Return the error of each clip that is too long or not whole, though its entry is there."""
        refused: dict[str, AudioError] = {}
        for blob_sha, source in clips.each().items():
            length = lengths.get(blob_sha)
            if length is not None:
                try:
                    self.settings.waveform.check(length, source.clip)
                except AudioError as exc:
                    refused[blob_sha] = exc
        return refused

    def ensure(
        self,
        cells: Sequence[Any],
        processor_sha: str | None,
        *,
        claim: Callable[[Sequence[str]], Collection[str]] | None = None,
    ) -> list[StoredClip[KeyT] | AudioError]:
        """Return for each audio cell its entry, which is in the cache now, or the error of its clip.

        `claim` is given the ``blob_sha`` of each missing clip, and returns those to compute here. The others are
        computed elsewhere, and may not be in the cache yet. Raises ProcessorError if the processor has another identity
        by now; StoreError if entries could not be stored.
        """
        identity = self._still(processor_sha)
        self._begin(identity)  # also where all entries come from the near tier
        clips: Clips[KeyT, ClipLength | bool] = look_up(
            cells, self.audio_reader, lambda blob_sha: self.key(blob_sha, identity), self._find_present
        )
        missing = clips.missing()
        if claim is not None and missing:
            claimed = claim([source.blob_sha for source in missing])
            missing = [source for source in missing if source.blob_sha in claimed]
            # Another worker may have stored a clip since it was looked up.
            present = self.cache.exists_many([clips.keys[source.blob_sha] for source in missing])
            missing = [source for source, is_there in zip(missing, present, strict=True) if not is_there]
        lengths = {blob_sha: found for blob_sha, found in clips.found.items() if isinstance(found, ClipLength)}
        failed = self._refused(lengths, clips)
        for blob_sha, result in self._compute(missing, clips.keys, identity, is_stored=True):
            if isinstance(result, AudioError):
                failed[blob_sha] = result
            elif result.length is not None:
                lengths[blob_sha] = result.length
        errors = self.writer.wait()
        if errors:
            self._still(processor_sha)  # raises if calls have changed it, which is no fault of a clip
        failed.update(errors_of_clips(errors, missing, clips.keys))
        self._check_stored(errors, [clips.keys[each.blob_sha] for each in missing if each.blob_sha not in failed])
        results: list[StoredClip[KeyT] | AudioError] = []
        for source in clips.sources:
            error = source if isinstance(source, AudioError) else failed.get(source.blob_sha)
            if error is not None:
                results.append(self._noted(error, source.clip))
            elif isinstance(source, AudioSource):
                results.append(StoredClip(clips.keys[source.blob_sha], lengths.get(source.blob_sha)))
        return results

    def _find_present(self, keys: list[KeyT]) -> list[ClipLength | bool | None]:
        """Say which entries need not be computed, by the lengths of their clips if these are looked at; count them."""
        needs_length = self.settings.needs_length
        present = self.cache.secure_many(keys, are_read=True)
        found: list[ClipLength | bool | None] = [True if answer else None for answer in present]
        there = [row for row, is_there in enumerate(found) if is_there]
        if not needs_length:  # only entries that say that their clip is not whole are opened
            is_strict = self.settings.waveform.truncated == "error" and self.store.is_local
            said = self.cache.say_short_many([keys[row] for row in there])
            for row, says_short in zip(there, said, strict=True):
                found[row] = True if says_short is not None else None
            there = [row for row, says_short in zip(there, said, strict=True) if says_short and is_strict]
        self._read_lengths(keys, there, found)
        # An entry that the near tier has and the root does not take counts as a miss: nobody else can read it.
        n_hits = sum(answer is True and there is not None for answer, there in zip(present, found, strict=True))
        self.cache.count(hits=n_hits, misses=len(keys) - n_hits)
        self.cache.note_use([key.name() for key, there in zip(keys, found, strict=True) if there is not None])
        return found

    def _read_lengths(self, keys: Sequence[KeyT], rows: Sequence[int], found: list[ClipLength | bool | None]) -> None:
        """Put the lengths of these clips in the place of the entries that were found."""
        for row, entry in zip(rows, self.cache.open_many([keys[row] for row in rows]), strict=True):
            if entry is None or (entry.length is None and self.settings.needs_length):
                found[row] = None
            elif entry.length is not None:
                found[row] = entry.length

    def _check_stored(self, errors: Sequence[WriteError], keys: Sequence[KeyT]) -> None:
        """Raise the first error of storing, unless this machine can read all of these entries."""
        failed = [error for error in errors if isinstance(error, StoreError)]
        failed.sort(key=lambda error: error.kind != "later version")
        is_later = bool(failed) and failed[0].kind == "later version"
        if failed and (is_later or not all(self.cache.readable_many(keys))):
            if is_later:
                remedy = "Upgrade hf_audio_cache to read it, use another root"
            else:
                remedy = "Make room, use another root" if failed[0].errno in _FULL else "Use another root"
            raise StoreError(
                f"{self.what} could not be stored under {self.cache.root}, and references need them there. "
                f"{remedy}, or read with cached_{self.what}.attach(ds). No column was made: "
                f"{failed[0]}",
                errno=failed[0].errno,
                kind=failed[0].kind,
            ) from failed[0]

    def _rows(
        self, clips: Clips[KeyT, ClipFeatures], results: Mapping[str, ClipFeatures | AudioError]
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

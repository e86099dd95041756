"""What the cache lacks: each clip from its content to its stored features, several of them at once where that pays."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..audio.source import AudioSource
from ..cache.keys import AudioCacheKey
from ..cache.open_root import OpenRoot
from ..errors import AudioError
from ..support.library_threads import keep_this_thread_to_one, leaving_a_core, one_thread_each
from ..support.process_local import is_worker
from ..support.threads import ahead, is_own_thread, share_out, thread_count
from . import pace
from .at_once import AtOnce
from .clip_steps import Clip, ClipSteps, Computed, Result
from .compute import Extraction
from .storage_policy import FeatureStoragePolicy
from .store import EntryWriter
from .waveforms import WaveformReader

__all__ = ["MissingClips"]

_IN_MEMORY = 64  # clips that are computed at once before their outputs are handed on


class MissingClips:
    """Computes and stores the features of clips that the cache lacks.

    One at a time: the calling thread extracts; others decode the next clips and store the last ones. At once: each
    thread takes a clip from its content to its stored entry, with libraries kept to one thread. If a random generator
    was drawn from meanwhile, or a clip failed, nothing of it is kept, and it is computed alone.

    Parameters
    ----------
    root
        The open root.
    waveforms, extraction, policy, writer
        The steps.
    """

    def __init__(
        self,
        root: OpenRoot,
        waveforms: WaveformReader,
        extraction: Extraction,
        policy: FeatureStoragePolicy,
        writer: EntryWriter,
    ) -> None:
        self._root = root
        self._waveforms = waveforms
        self._extraction = extraction
        self._policy = policy
        self._writer = writer

    def compute(
        self, sources: Sequence[AudioSource], keys: Mapping[str, AudioCacheKey], *, is_stored: bool
    ) -> Iterator[tuple[str, Result]]:
        """Yield the features of each clip by ``blob_sha``, or its error.

        Parameters
        ----------
        sources
            The clips, each once.
        keys
            Their keys by ``blob_sha``.
        is_stored
            Whether features are stored, and may have been since the clips were looked up.
        """
        steps = ClipSteps(
            *(self._root, keys, is_stored, self._waveforms.reader_of(sources, keys)),
            *(self._extraction, self._policy, self._writer),
        )
        n_threads = self._n_at_once(len(sources))
        sha = keys[sources[0].blob_sha].processor_sha
        if n_threads > 1 and pace.is_faster_at_once(sha) is None and len(sources) > pace.ROUNDS * n_threads:
            n_tried = 1 + pace.ROUNDS * n_threads
            yield from _one_at_a_time(steps, sources[:1])  # what is loaded or made only once is there then
            yield from _try_out(steps, sources[1:n_tried], n_threads)
            sources = sources[n_tried:]
        while sources and n_threads > 1 and pace.is_faster_at_once(sha):
            yield from _at_once(steps, sources[:_IN_MEMORY], n_threads)
            sources = sources[_IN_MEMORY:]
        yield from _one_at_a_time(steps, sources)

    def _n_at_once(self, n_clips: int) -> int:
        """Return how many clips may be under way at once: one in a worker, which has a core for itself."""
        is_for_one = is_worker() or is_own_thread() or not self._root.store.is_local
        return 1 if is_for_one or not self._extraction.is_safe_in_threads() else min(thread_count(), n_clips)


# One at a time ----------------------------------------------------------------------------------------------------


def _one_at_a_time(steps: ClipSteps, sources: Sequence[AudioSource]) -> Iterator[tuple[str, Result]]:
    """Compute clips in this thread, while others decode and store; a worker does all itself, under a local root."""
    reads_here = is_worker() and steps.root.store.is_local
    read = map(steps.read, sources) if reads_here else ahead(steps.read, sources)
    for source, clip in zip(sources, read, strict=True):
        yield (
            source.blob_sha,
            _alone(steps, clip, leaves_a_core=len(sources) > 1) if isinstance(clip, Clip) else clip,
        )


def _alone(steps: ClipSteps, clip: Clip, *, leaves_a_core: bool) -> Result:
    steps.store_waveform(clip)
    started = time.perf_counter()
    try:
        # A clip alone has no decoding beside it that would need a core.
        with leaving_a_core() if leaves_a_core else contextlib.nullcontext():
            outputs = steps.extract(clip)
    except AudioError as exc:
        return exc
    done = Computed(clip, outputs, time.perf_counter() - started)
    steps.store(done)
    return done.features


# At once ----------------------------------------------------------------------------------------------------------


def _try_out(steps: ClipSteps, sources: Sequence[AudioSource], n_threads: int) -> Iterator[tuple[str, Result]]:
    """Compute the first clips at once and then one at a time, to decide how the others are."""
    read = [(source, steps.read(source)) for source in sources]
    clips = [clip for _, clip in read if isinstance(clip, Clip)]
    yield from ((source.blob_sha, result) for source, result in read if not isinstance(result, Clip))
    if len(clips) < len(sources):  # a later batch tells
        yield from ((clip.source.blob_sha, _alone(steps, clip, leaves_a_core=True)) for clip in clips)
        return

    def beside(number: int) -> dict[str, Any]:
        if is_own_thread():
            keep_this_thread_to_one()
        return steps.extract(clips[number], is_alone=False, twice=False)

    for clip in clips:
        steps.store_waveform(clip)
    sha = clips[0].key.processor_sha
    tried = pace.try_out(
        *(sha, steps.name, n_threads),
        beside=beside,
        alone=lambda number, twice: steps.extract(clips[number], twice=twice),
    )
    for clip, (result, seconds) in zip(clips, tried, strict=True):
        if isinstance(result, AudioError):
            yield clip.source.blob_sha, result
            continue
        done = Computed(clip, result, seconds)
        steps.store(done)
        yield clip.source.blob_sha, done.features


def _at_once(steps: ClipSteps, sources: Sequence[AudioSource], n_threads: int) -> Iterator[tuple[str, Result]]:
    """Compute clips in several threads. Each thread takes a clip from its content to its stored entry."""
    work = AtOnce(steps)
    with one_thread_each():
        share_out(work.take, sources, n_threads)
        work.keep_rest()
    steps.writer.note(work.errors)
    for source in sources:
        sha = source.blob_sha
        if sha in work.done:
            steps.count(work.done[sha])
            yield sha, work.done[sha].features
        elif sha in work.found:
            yield sha, work.found[sha]
        else:
            clip = work.doubtful.get(sha) or steps.read(source)
            result = _alone(steps, clip, leaves_a_core=True) if isinstance(clip, Clip) else clip
            if not isinstance(result, AudioError) and sha in work.doubtful:
                sha_of_processor = steps.keys[sha].processor_sha
                pace.refuse(sha_of_processor, steps.name, work.reason)
            yield sha, result

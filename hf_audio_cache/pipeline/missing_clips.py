"""Take each clip that the cache lacks through the steps to its entry, in one thread or in as many as `at_once` allows.

One or several threads take a clip each from its content to its stored entry: one with all threads of the libraries,
or several with one each. If a random generator was drawn from meanwhile, or a clip failed, nothing of it is kept, and
it is computed alone. For object stores, and front ends that no other thread may call, the calling thread extracts
instead, while others decode the next clips and store the last ones.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..audio.source import AudioSource
from ..errors import AudioError
from ..support.library_threads import leaving_a_core, share_out_on_one_core_each
from ..support.process_local import is_worker
from ..support.threads import ahead, is_own_thread, share_out, thread_count
from . import at_once
from .clip_steps import ClipSteps, Computed, Result
from .waveforms import Clip

_IN_MEMORY = 64  # clips that are computed at once before their outputs are handed on


def compute_missing(steps: ClipSteps, sources: Sequence[AudioSource]) -> Iterator[tuple[str, Result]]:
    """Yield the features of each clip by ``blob_sha``, or its error; each clip comes once."""
    is_safe = steps.extraction.is_safe_in_threads()
    overlaps = not steps.root.store.is_local or not (is_safe or is_worker() or len(sources) == 1)
    if overlaps or not is_safe:
        yield from _in_turn(steps, sources, overlaps=overlaps)
        return
    sha = steps.keys[sources[0].blob_sha].processor_sha
    n_threads = 1 if is_worker() or is_own_thread() else min(thread_count(), len(sources))
    n_tried = 1 + at_once.ROUNDS * n_threads
    if n_threads > 1 and at_once.is_faster_at_once(sha) is None and len(sources) >= n_tried:
        yield from _at_once(steps, sources[:1], 1)  # what is loaded or made only once is there then
        yield from _try_out(steps, sources[1:n_tried], n_threads)
        sources = sources[n_tried:]
    for start in range(0, len(sources), _IN_MEMORY):
        is_faster = n_threads > 1 and at_once.is_faster_at_once(sha)
        yield from _at_once(steps, sources[start : start + _IN_MEMORY], n_threads if is_faster else 1)


# One at a time ----------------------------------------------------------------------------------------------------


def _in_turn(steps: ClipSteps, sources: Sequence[AudioSource], *, overlaps: bool) -> Iterator[tuple[str, Result]]:
    """Compute each clip in this thread, while others read the next ones and store the last ones if it `overlaps`."""
    # A clip alone has no decoding beside it that would need a core.
    with _cores_left(len(sources) > 1 if overlaps else is_worker()):
        clips = ahead(steps.read, sources) if overlaps else map(steps.read, sources)
        for source, clip in zip(sources, clips, strict=True):
            yield source.blob_sha, _alone(steps, clip, behind=overlaps) if isinstance(clip, Clip) else clip


def _cores_left(is_shared: bool) -> contextlib.AbstractContextManager[None]:
    """Leave cores to other workers or threads, if they need any."""
    return leaving_a_core() if is_shared else contextlib.nullcontext()


def _alone(steps: ClipSteps, clip: Clip, *, behind: bool) -> Result:
    steps.store_waveform(clip, behind=behind)
    started = time.perf_counter()
    try:
        outputs = steps.extract(clip)
    except AudioError as exc:
        return exc
    done = Computed(clip, outputs, time.perf_counter() - started)
    steps.store(done, behind=behind)
    return done.features


# At once ----------------------------------------------------------------------------------------------------------


def _try_out(steps: ClipSteps, sources: Sequence[AudioSource], n_threads: int) -> Iterator[tuple[str, Result]]:
    """Compute the first clips one at a time and then at once, to decide how the others are."""
    clips: dict[int, Clip] = {}
    found: dict[int, Result] = {}

    def alone(number: int) -> at_once.Tried:
        started = time.perf_counter()
        clip = steps.read(sources[number])
        if not isinstance(clip, Clip):
            found[number] = clip
            return at_once.Tried()
        clips[number] = clip
        steps.store_waveform(clip, behind=False)
        begun = time.perf_counter()
        return at_once.Tried(extract(number), time.perf_counter() - begun, begun - started)

    def extract(number: int, **how: Any) -> dict[str, Any] | None:
        try:
            return steps.extract(clips[number], **how)
        except AudioError as exc:
            found[number] = exc
            return None

    tried = at_once.try_out(
        *(steps.keys[sources[0].blob_sha].processor_sha, steps.name, n_threads),
        alone=alone,
        beside=lambda number: steps.extract(clips[number], is_alone=False, twice=False),
        again=lambda number: extract(number, twice=True),
    )
    for number, (source, one) in enumerate(zip(sources, tried, strict=True)):
        if one.outputs is None:
            yield source.blob_sha, found[number]
            continue
        done = Computed(clips[number], one.outputs, one.seconds)
        steps.store(done, behind=False)
        yield source.blob_sha, done.features


def _at_once(steps: ClipSteps, sources: Sequence[AudioSource], n_threads: int) -> Iterator[tuple[str, Result]]:
    """Compute clips in several threads, or in this one. Each takes a clip from its content to its stored entry."""
    work = at_once.AtOnce(steps)
    if n_threads > 1:
        share_out_on_one_core_each(work.take, sources, n_threads)
    else:
        with _cores_left(is_worker()):
            share_out(work.take, sources, 1)
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
            result = _alone(steps, clip, behind=False) if isinstance(clip, Clip) else clip
            if not isinstance(result, AudioError) and sha in work.doubtful:
                at_once.refuse(steps.keys[sha].processor_sha, steps.name, work.reason)
            yield sha, result

"""Several clips at once: whether that is faster, by trying it on the first ones; and the threads that take them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..audio.source import AudioSource
from ..errors import AudioError
from ..processors.determinism import GeneratorWatch, difference
from ..support.library_threads import share_out_on_one_core_each
from ..support.process_local import ProcessLocal
from ..support.write_behind import WriteError
from .clip_steps import ClipSteps, Computed, Result
from .waveforms import Clip

logger = logging.getLogger(__name__)

_WATCHED_TOGETHER = 4  # clips for each look at the random generators
Outputs = dict[str, Any]

ROUNDS = 3  # of which the last two are timed

# By the processor's identity. Pipelines share it: it is a matter of the machine, too.
_decided: ProcessLocal[dict[str, bool]] = ProcessLocal()


def is_faster_at_once(processor_sha: str) -> bool | None:
    """Return whether several clips are extracted at once; None before it was tried."""
    return _decided.get(dict).get(processor_sha)


def refuse(processor_sha: str, name: str, reason: str) -> None:
    """Extract one clip at a time from here on."""
    if is_faster_at_once(processor_sha) is not False:
        logger.info("%s extracts one clip at a time in this process: %s", name, reason)
    _decided.get(dict)[processor_sha] = False


@dataclass(frozen=True)
class Tried:
    """What a clip gave alone, None if nothing; the seconds of its extraction, and those of the rest of its steps."""

    outputs: Outputs | None = None
    seconds: float = 0.0
    other_seconds: float = 0.0


def try_out(
    processor_sha: str,
    name: str,
    n_threads: int,
    *,
    alone: Callable[[int], Tried],
    beside: Callable[[int], Outputs],
    again: Callable[[int], Outputs | None],
) -> list[Tried]:
    """Take ``ROUNDS * n_threads`` clips alone, extract them at once, and decide; return what they gave alone.

    `alone` takes the clip of a number through all steps; `beside` extracts it, in one of several threads; `again`
    extracts it alone twice, and returns None if the results differ.
    """
    tried = [alone(number) for number in range(ROUNDS * n_threads)]
    watch = GeneratorWatch()
    found: dict[int, Outputs] = {}

    def extract(number: int) -> None:
        try:
            found[number] = beside(number)
        except Exception as exc:  # noqa: BLE001 - whatever it is: alone, the clip raised it too, or is not bad
            logger.debug("%s failed beside other clips: %s", name, exc)

    kept = {number: one.outputs for number, one in enumerate(tried) if one.outputs is not None}
    first, timed = list(kept)[:n_threads], list(kept)[n_threads:]
    share_out_on_one_core_each(extract, first, n_threads)  # each thread makes some things for itself
    started = time.perf_counter()
    share_out_on_one_core_each(extract, timed, n_threads)
    together = time.perf_counter() - started
    if watch.has_moved():
        watch.put_back()
    doubtful = [number for number in kept if number not in found or difference(found[number], kept[number]) is not None]
    for number in doubtful:
        tried[number] = replace(tried[number], outputs=again(number))
    if doubtful:
        refuse(processor_sha, name, "beside other clips it gives other outputs")
    elif timed:  # else a later batch tells
        others = sum(tried[number].other_seconds for number in timed)  # which threads share without loss
        is_faster = together + others / n_threads < sum(tried[number].seconds for number in timed) + others
        _decided.get(dict)[processor_sha] = is_faster
        logger.info("%s is %s at once in this process", name, "faster" if is_faster else "no faster")
    return tried


class AtOnce:
    """The clips that several threads are at."""

    def __init__(self, steps: ClipSteps) -> None:
        self._steps = steps
        self._watch = GeneratorWatch()
        self._lock = threading.Lock()
        self._unwatched: list[Computed] = []
        self._is_stopped = False
        self.reason = "a clip failed beside others, and not alone"
        self.done: dict[str, Computed] = {}  # computed and stored, while no random generator was drawn from
        self.found: dict[str, Result] = {}  # clips that needed no extraction: errors, and features that were there
        self.doubtful: dict[str, Clip] = {}  # clips that were begun and came to nothing
        self.errors: list[WriteError] = []  # why features could not be stored

    def take(self, source: AudioSource) -> None:
        """Compute a clip; store it, or the last few, once it is known that they drew no random number."""
        if self._is_stopped:
            return
        clip = self._steps.read(source)
        if not isinstance(clip, Clip):
            self.found[source.blob_sha] = clip
            return
        self._steps.store_waveform(clip, behind=False)
        self.doubtful[source.blob_sha] = replace(clip, is_new=False)
        started = time.perf_counter()
        try:
            outputs = self._steps.extract(clip, is_alone=False)
        except Exception as exc:  # noqa: BLE001 - whatever it is: alone, the clip raises it again, or is not bad
            if not isinstance(exc, AudioError):  # the others would fail, too
                self._is_stopped = True
            return
        done = Computed(clip, outputs, time.perf_counter() - started)
        with self._lock:
            self._unwatched.append(done)
            taken = self._unwatched if len(self._unwatched) >= _WATCHED_TOGETHER else []
            if taken:
                self._unwatched = []
        self._keep(taken)

    def keep_rest(self) -> None:
        """Store what the threads have left, now that they are done."""
        self._keep(self._unwatched)
        if self.doubtful and self._watch.has_moved():  # a clip that came to nothing may have drawn, too
            self._watch.put_back()

    def _keep(self, taken: Sequence[Computed]) -> None:
        if taken and self._watch.has_moved():
            self._is_stopped = True
            self.reason = "random numbers are drawn meanwhile"
            return
        for done in taken:
            self.errors += self._steps.write_features(done)
            sha = done.clip.source.blob_sha
            self.done[sha] = done
            del self.doubtful[sha]

"""Threads that each take a clip from its content to its stored entry, where `pace` found several faster than one."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from ..audio.source import AudioSource
from ..errors import AudioError
from ..processors.determinism import GeneratorWatch
from ..support.write_behind import WriteError
from .clip_steps import Clip, ClipSteps, Computed, Result

_WATCHED_TOGETHER = 4  # clips for each look at the random generators


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
        self.doubtful[source.blob_sha] = replace(clip, made=replace(clip.made, is_new=False))
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

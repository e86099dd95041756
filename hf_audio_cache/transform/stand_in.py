"""The stand-in for a feature extractor, which answers from the cache: `CachedFeatures.feature_extractor`.

A processor takes it in the place of its own extractor, and calls it with arrays. It is of a class derived from the
extractor's, of the same name, and shares its attributes.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import logging
import mmap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..cache.access_log import Run
from ..cache.root import CacheRoot
from ..cache.stats import Counters
from ..errors import AudioError, HfAudioCacheError, ProcessorError, RandomOutputError, UnfingerprintableProcessorError
from ..pipeline.feature_pipeline import FeaturePipeline
from ..pipeline.settings import FeatureSettings, WaveformSettings
from ..processors.batch_rules import is_well_known
from ..processors.extractor import STANDS_FOR, NamedFunction, name_of, processor_sampling_rate
from ..processors.identity import processor_sha256
from .extractor_call import ExtractorCall, ResultForm, UncacheableCallError, is_same_result
from .hash_hook import hash_by

logger = logging.getLogger(__name__)

# Equal results of one form, after which the cache answers alone: of extractors that are well known, and of others.
_ENOUGH, _ENOUGH_OF_OTHERS = 1, 2
_MOST_PIPELINES = 16  # one for each set of arguments
_MOST_SAID = 100  # kinds of reasons why calls are not answered
_DIFFERS = "it gives a batch other features than each of its clips"


class ExtractorCache:
    """Answers calls of an extractor by the cached features of single clips, where these are the same to the bit.

    By rule, a batch is answered only if each of its clips has the features that it has alone. Besides, the first
    results of each form of call are compared with the extractor's, which are what is returned then. After a difference
    the extractor is called for all calls of that form. `processor` is the extractor, or a `NamedFunction` that holds
    it.
    """

    def __init__(
        self, processor: Any, root: CacheRoot, policies: Mapping[str, Any], counters: Counters, run: Run
    ) -> None:
        self._state: tuple[Any, ...] = processor, root, policies, counters, run
        self.processor = processor
        self.extractor = processor.front_end if isinstance(processor, NamedFunction) else processor
        if self.extractor is None or not hasattr(self.extractor, "__dict__"):
            raise ProcessorError(
                f"expected a feature extractor, of which a stand-in can be made, and got {name_of(processor)}. Call "
                "cached_features itself, or use its map or attach. Nothing was made."
            )
        self._pipelines: dict[str, FeaturePipeline] = {}
        self._evidence = _Evidence()
        self._results: dict[str, ResultForm] = {}  # of each form of call
        self._said: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return ExtractorCache, self._state

    def of_copy(self) -> ExtractorCache:
        """Return the same for a copy of the extractor, whose attributes are its own."""
        processor, *rest = self._state
        processor = copy.copy(processor)
        if isinstance(processor, NamedFunction):
            processor = NamedFunction(copy.copy(processor.function), processor.identity)
        return ExtractorCache(processor, *rest)

    def hashed_state(self) -> list[str]:
        """Return what `datasets` hashes in the place of this object."""
        return [processor_sha256(self.processor)]

    def call(self, call: Callable[..., Any], positional: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Return what ``call(*positional, **named)``, a call of the extractor, returns."""
        try:
            asked = ExtractorCall.of(self.extractor, positional, named)
            entries, form = self._look_up(asked)
            like, is_known = self._results.get(form), is_well_known(self.extractor)
            needs_like = asked.return_tensors is None or not is_known
            enough = _ENOUGH if is_known else _ENOUGH_OF_OTHERS
            if self._evidence.count(form) >= enough and not (like is None and needs_like):
                return asked.result(entries, like)
        except UncacheableCallError as exc:
            self._say(str(exc), str(exc))
            return call(*positional, **named)
        except HfAudioCacheError as exc:
            self._say(type(exc).__name__, str(exc))
            return call(*positional, **named)
        result = call(*positional, **named)
        try:
            like = ResultForm.of(result)
            if not is_same_result(asked.result(entries, like), result):
                raise UncacheableCallError(_DIFFERS)
            self._results[form] = like
            self._evidence.add(form)
        except UncacheableCallError as exc:
            self._evidence.refuse(asked.form)
            self._say(str(exc), str(exc))
        return result

    def _look_up(self, asked: ExtractorCall) -> tuple[list[Mapping[str, Any]], str]:
        """Return the outputs of each clip, read or computed, and the form of the call with that of its outputs."""
        if self._evidence.is_refused(asked.form):
            raise UncacheableCallError("")  # why was said then
        try:
            pipeline = self._pipeline(asked.arguments)
            sha = pipeline.identity().sha
            if not pipeline.policy.is_stored(sha):
                raise UncacheableCallError('its features are not worth storing, as features="auto" found')
            rate = pipeline.settings.waveform.sampling_rate
            results = pipeline.features([{"array": clip, "sampling_rate": rate} for clip in asked.clips])
            entries: list[Mapping[str, Any]] = []
            for result in results:
                if isinstance(result, AudioError):
                    raise result
                entries.append(result.outputs)
        except (ProcessorError, RandomOutputError, UnfingerprintableProcessorError):
            self._evidence.refuse(asked.form)  # the next call would only take as long to fail
            raise
        ranks = {name: getattr(value, "ndim", type(value).__name__) for name, value in entries[0].items()}
        return entries, f"{sha} {asked.form} {ranks}"

    def _pipeline(self, arguments: Mapping[str, Any]) -> FeaturePipeline:
        name = repr(sorted(arguments.items()))
        if name not in self._pipelines:
            if len(self._pipelines) >= _MOST_PIPELINES:
                self._pipelines.clear()
            processor, root, policies, counters, run = self._state
            waveform = WaveformSettings(processor_sampling_rate(processor))
            settings = FeatureSettings(waveform, processor_kwargs=arguments, **policies)
            self._pipelines[name] = FeaturePipeline(processor, root, settings, counters=counters, run=run)
        return self._pipelines[name]

    def _say(self, kind: str, reason: str) -> None:
        """Say once of a kind of reason that the extractor itself is called; nothing without a reason."""
        if reason and kind not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(kind)
            logger.warning(
                "A call of %s is not answered from the cache, and the extractor itself is called, here and whenever "
                "that is so: %s",
                *(name_of(self.processor), reason),
            )


hash_by(ExtractorCache, ExtractorCache.hashed_state)


class _Evidence:
    """How many results of each form were the same; shared with forked processes, such as a DataLoader's workers.

    Where two forms meet in one place, the earlier is forgotten, and compared again.
    """

    _PLACE = 16  # bytes: those of the form's digest, and a count
    _REFUSED = 255

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 << 14)

    def _place(self, form: str) -> tuple[slice, bytes]:
        digest = hashlib.sha256(form.encode()).digest()
        start = int.from_bytes(digest[:4], "little") % (len(self._memory) // self._PLACE) * self._PLACE
        return slice(start, start + self._PLACE), digest[: self._PLACE - 1]

    def count(self, form: str) -> int:
        """Return how many results of a form were the same."""
        place, tag = self._place(form)
        found = self._memory[place]
        return found[-1] if found[:-1] == tag else 0

    def is_refused(self, form: str) -> bool:
        """Return whether a result of a form was another one."""
        return self.count(form) == self._REFUSED

    def add(self, form: str) -> None:
        """Count a result that was the same."""
        place, tag = self._place(form)
        self._memory[place] = tag + bytes([min(self.count(form) + 1, _ENOUGH_OF_OTHERS)])

    def refuse(self, form: str) -> None:
        """Answer no calls of a form any more."""
        place, tag = self._place(form)
        self._memory[place] = tag + bytes([self._REFUSED])


def stand_in(cache: ExtractorCache) -> Any:
    """Return an object with the extractor's class and attributes. The cache answers its calls."""
    extractor = cache.extractor
    kind: Any = type(extractor)

    @functools.wraps(kind.__call__)
    def call(self: Any, *positional: Any, **named: Any) -> Any:
        return cache.call(functools.partial(kind.__call__, extractor), positional, named)

    members = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__call__": call,
        # What makes another object of this class, such as its from_pretrained, makes an extractor.
        "__new__": lambda _, *positional, **named: kind(*positional, **named),
        "__reduce_ex__": lambda self, protocol: (_copied_stand_in, (cache,)),
        STANDS_FOR: extractor,
    }
    made = object.__new__(type(kind)(kind.__name__, (kind,), members))
    made.__dict__ = extractor.__dict__
    return made


def _copied_stand_in(cache: ExtractorCache) -> Any:
    return stand_in(cache.of_copy())

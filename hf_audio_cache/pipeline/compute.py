"""Third step: the features of a waveform, by the processor."""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cache.keys import AudioCacheKey
from ..errors import AudioExtractionError, HfAudioCacheError, ProcessorError, UnstorableOutputError
from ..processors.determinism import extract_beside_others, extract_repeatable, random_state_kept
from ..processors.extractor import NamedFunction, audio_part, extract, name_of
from ..processors.identity import Fingerprinter
from ..processors.output_specs import OutputSpec, made_up_sound
from ..processors.ownership import Owner, owner_of
from ..processors.precision import rounded
from ..processors.soundness import unsound_output
from .settings import FeatureSettings

logger = logging.getLogger(__name__)

# Two lengths tell which axes follow the clip's; the longer one passes the 30 s to which several extractors pad.
_PROBE_SECONDS = (1.0, 41.0)
# They change an attribute of their own during a call.
_NOT_IN_THREADS = ("DiaFeatureExtractor", "SpeechT5FeatureExtractor")


class Extraction:
    """Calls a processor, whose state may change between two calls, for one clip at a time."""

    def __init__(self, processor: Any, settings: FeatureSettings, fingerprinter: Fingerprinter) -> None:
        self.processor = processor
        self._fingerprinter = fingerprinter
        self._settings = settings
        self._sampling_rate = settings.waveform.sampling_rate
        self._computed: dict[str, tuple[int, int]] = {}  # by identity: number of clips, and length of the longest

    def extract(
        self,
        waveform: npt.NDArray[np.float32],
        clip: str,
        processor_sha: str,
        *,
        is_alone: bool = True,
        twice: bool | None = None,
    ) -> dict[str, Any]:
        """Return the outputs for a clip by name. `processor_sha` is the processor's identity now.

        Unless it `is_alone`, other clips are extracted meanwhile, and the caller watches the random generators.
        `twice`: a second call is compared with the first; by default for some clips only. Raises RandomOutputError if a
        second call for the same clip gives other outputs; AudioExtractionError if the processor fails, or an output is
        not finite, has no frames, or is too large for `dtype`.
        """
        extractor = audio_part(self.processor)
        n_samples = waveform.shape[-1]
        number, longest = self._computed.get(processor_sha, (0, -1))
        if twice is None:  # some extractors take random parts of long clips only; others are random now and then
            twice = n_samples > longest or (number + 1).bit_count() == 1
        try:
            call = functools.partial(extract, extractor, waveform, self._sampling_rate, self._settings.processor_kwargs)
            outputs = (extract_repeatable if is_alone else extract_beside_others)(
                call, extractor, clip=clip, twice=twice
            )
        except HfAudioCacheError:
            raise
        except Exception as exc:
            raise AudioExtractionError(
                f"{name_of(extractor)} failed on {clip} ({n_samples} samples at {self._sampling_rate} Hz) "
                f"with {type(exc).__name__}: {exc}; nothing was stored for it. {_remedy(extractor, exc)}",
                clip=clip,
            ) from exc
        self._computed[processor_sha] = (number + 1, max(longest, n_samples))
        unsound = unsound_output(outputs, self._settings.nonfinite)
        if unsound is not None:
            raise AudioExtractionError(
                f"the output {unsound.name!r} of {name_of(extractor)} for {clip} ({n_samples} samples at "
                f"{self._sampling_rate} Hz) {unsound.description}; nothing was stored for it. The clip may be silent "
                f"or too short: filter it out.{unsound.remedy}",
                clip=clip,
                output=unsound.name,
                count=unsound.count,
            )
        try:
            return rounded(outputs, self._settings.dtype)
        except ProcessorError as exc:  # this clip is too loud for the type; others need not be
            raise AudioExtractionError(f"of {clip}, {exc}", clip=clip) from exc

    def change_since(self, key: AudioCacheKey) -> UnstorableOutputError | None:
        """Return why features are not stored, if calls have changed the processor since it was what their key says."""
        change = self._fingerprinter.change_by_calls(key.processor_sha)
        if change is None:
            return None
        return UnstorableOutputError(
            f"calls of {name_of(audio_part(self.processor))} change it. Its features may depend on the clips before, "
            "and this one's were not stored. Keep in local variables what one call needs; or, if the change decides "
            f'nothing (a buffer that each call overwrites), pass identity="my-mel-v1". What changed: {change}.',
            key=key,
        )

    def is_safe_in_threads(self) -> bool:
        """Return whether the processor may be called by several threads at once, as far as that is known."""
        kind: Any = type(audio_part(self.processor))
        return _is_safe_in_threads(kind)

    def probe(self) -> dict[str, OutputSpec]:
        """Return the form of each output, by calling the processor on two made-up clips of different length.

        A length at which it fails says nothing.
        """
        specs: dict[str, OutputSpec] = {}
        for seconds in _PROBE_SECONDS:
            try:
                outputs = self._extract_made_up(seconds)
            except Exception as exc:  # noqa: BLE001 - whatever an extractor raises for a clip that is not the user's
                name = name_of(audio_part(self.processor))
                logger.info("%s failed on a made-up clip of %s s: %s", name, seconds, exc)
                continue
            for name, value in outputs.items():
                spec = OutputSpec.of(value)
                specs[name] = specs[name].merge(spec) if name in specs else spec
        return specs

    def _extract_made_up(self, seconds: float) -> dict[str, Any]:
        settings, rate = self._settings, self._sampling_rate
        waveform = made_up_sound(seconds, rate, settings.waveform.channels)
        with random_state_kept():  # some extractors draw from them
            outputs = extract(audio_part(self.processor), waveform, rate, settings.processor_kwargs)
        return rounded(outputs, settings.dtype)

    def made_up_failure(self) -> str:
        """Say what to do about the error that the processor raises for a made-up clip, and which one it is."""
        extractor = audio_part(self.processor)
        try:
            self._extract_made_up(_PROBE_SECONDS[0])
        except Exception as exc:  # noqa: BLE001 - whatever a processor raises for a clip that is not the user's
            remedy = _how_it_is_called(extractor, exc) or "Correct processor_kwargs"
            return f"{remedy} ({type(exc).__name__}: {exc})"
        return "See the log at level INFO"


def _remedy(extractor: Any, error: Exception) -> str:
    """Say what to do where an extractor fails for a clip."""
    if how := _how_it_is_called(extractor, error):
        return f"{how}. If only this clip fails, filter it out."
    return "If every clip fails, see processor_kwargs; if this one does, filter it out."


def _how_it_is_called(extractor: Any, error: Exception) -> str:
    """Say how an extractor of the user's own is called, which it may not expect; "" where that is not the cause."""
    is_own = not isinstance(extractor, NamedFunction) and owner_of(type(extractor)) is not Owner.FOLLOWED
    if not is_own or not isinstance(error, (AttributeError, TypeError)):
        return ""
    return (
        "It is called as a feature extractor is: with a list of one waveform, and sampling_rate= if it takes that. "
        "If it takes a waveform, pass a function: CachedFeatures(lambda waveform, sampling_rate: "
        'front_end(waveform), identity="my-mel-v1", sampling_rate=16_000)'
    )


@functools.lru_cache(maxsize=64)
def _is_safe_in_threads(kind: type) -> bool:
    return owner_of(kind) is Owner.FOLLOWED and kind.__name__ not in _NOT_IN_THREADS

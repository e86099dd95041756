"""What a miss costs: a clip's bytes decoded, and its waveform put through the processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..audio.containers import is_plain_pcm16
from ..audio.decode import decode_audio
from ..audio.source import AudioSource
from ..audio.waveform import to_waveform
from ..errors import AudioExtractionError, HfAudioCacheError, ProcessorError
from ..processors.determinism import extract_repeatable
from ..processors.extractor import audio_part, name_of
from ..processors.output_specs import OutputSpec, probe_outputs
from ..processors.precision import FloatType, rounded

__all__ = ["Extraction"]


@dataclass
class Extraction:
    """A processor, and how clips are brought to it.

    Parameters
    ----------
    processor
        A feature extractor, or a processor that has one; it may be changed between two calls.
    sampling_rate
        Rate of the waveforms in Hz.
    max_length_ms
        Cap on their length in milliseconds; 0 for none.
    auto_resample
        Whether clips at another rate are resampled, or are errors.
    processor_kwargs
        Further arguments of the processor's call.
    dtype
        What its outputs are rounded to; None for what they are.
    """

    processor: Any
    sampling_rate: int
    max_length_ms: int
    auto_resample: bool
    processor_kwargs: Mapping[str, Any]
    dtype: FloatType | None
    _repeated: set[str] = field(default_factory=set)  # identities that gave one clip the same features twice

    def decode(self, source: AudioSource) -> npt.NDArray[np.float32]:
        """Return the waveform of a clip, float32 mono of shape ``(n_samples,)``.

        Raises
        ------
        AudioError
            If there is none.
        """
        settings: dict[str, Any] = {
            "sampling_rate": self.sampling_rate,
            "max_length_ms": self.max_length_ms,
            "auto_resample": self.auto_resample,
            "clip": source.clip,
        }
        if isinstance(source.content, np.ndarray):
            return to_waveform(source.content, source.source_rate or 0, **settings)
        return decode_audio(source.content or b"", **settings)

    def is_waveform(self, source: AudioSource) -> bool:
        """Return whether a clip is as good as its waveform: to decode it takes no longer than to read an entry."""
        if isinstance(source.content, np.ndarray):
            return source.source_rate == self.sampling_rate
        return is_plain_pcm16(source.content or b"", self.sampling_rate)

    def extract(self, waveform: npt.NDArray[np.float32], clip: str, processor_sha: str) -> dict[str, Any]:
        """Return the outputs of a clip by name, of a processor that has this identity now.

        Raises
        ------
        RandomOutputError
            If they are not the same each time.
        AudioExtractionError
            If the processor fails, or gives a number that is too large for `dtype`.
        """
        extractor = audio_part(self.processor)
        try:
            outputs = extract_repeatable(
                extractor,
                waveform,
                self.sampling_rate,
                self.processor_kwargs,
                clip=clip,
                twice=processor_sha not in self._repeated,
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
        self._repeated.add(processor_sha)
        try:
            return rounded(outputs, self.dtype)
        except ProcessorError as exc:  # this clip is too loud for it; others need not be
            raise AudioExtractionError(f"of {clip}, {exc}", clip=clip) from exc

    def probe(self) -> dict[str, OutputSpec]:
        """Return the form of each output, by trying out made-up clips."""
        return probe_outputs(audio_part(self.processor), self.sampling_rate, self.processor_kwargs, self.dtype)

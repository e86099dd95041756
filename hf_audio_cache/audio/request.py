"""What is asked of a decoder, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from ..errors import AudioDecodeError, SamplingRateError
from .channels import Channels
from .length import clip_name

# At other rates one byte of a damaged header would make a resampler fill gigabytes.
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 1_000_000


@dataclass(frozen=True)
class Request:
    """One clip, and the waveform that is wanted of it."""

    sampling_rate: int  # of the waveform, in Hz
    max_length_ms: int = 0  # 0 for no cap
    auto_resample: bool = False
    channels: Channels = "mean"
    clip: str = ""  # what messages call the clip; may be empty
    n_bytes: int = 0  # of its content, for messages

    def refusal(self, cause: str, remedy: str = "Replace the clip or leave it out.") -> AudioDecodeError:
        """Return the error that says that `cause` was found in place of audio."""
        message = f"Expected audio in {clip_name(self.clip)} ({self.n_bytes} bytes), found {cause}. It cannot be used. "
        return AudioDecodeError(message + remedy, clip=self.clip, n_bytes=self.n_bytes, cause=cause)

    @contextmanager
    def refusing(self, library: str) -> Iterator[None]:
        """Turn whatever a library raises into `AudioDecodeError`."""
        try:
            yield
        except (AudioDecodeError, SamplingRateError, NotForThisDecoderError, MemoryError):
            raise
        except Exception as exc:
            raise self.refusal(f"bytes that {library} cannot decode: {reason_of(exc)}") from exc

    def check_rate(self, source_rate: int) -> None:
        """Raise `SamplingRateError` for another rate without `auto_resample`, `AudioDecodeError` for an absurd one."""
        if source_rate == self.sampling_rate:
            return
        if not self.auto_resample:
            raise SamplingRateError(
                f"Expected {self.sampling_rate} Hz, found {source_rate} Hz in {clip_name(self.clip)}. It cannot "
                "be used. Pass auto_resample=True to have it resampled.",
                clip=self.clip,
                expected=self.sampling_rate,
                actual=source_rate,
            )
        if not _LOWEST_RATE <= source_rate <= _HIGHEST_RATE:
            raise self.refusal(f"a sampling rate of {source_rate} Hz, which no audio has")

    def n_samples(self) -> int | None:
        """Return how many samples of the waveform the cap leaves; None for all."""
        return max(1, self.max_length_ms * self.sampling_rate // 1000) if self.max_length_ms else None

    def n_source_frames(self, source_rate: int) -> int | None:
        """Return how many frames of the clip are needed; None for all.

        They are one more than the cap leaves, which tells a longer clip, or 100 ms more for the resampler's filter.
        """
        n_samples = self.n_samples()
        if n_samples is None or source_rate == self.sampling_rate:
            return None if n_samples is None else n_samples + 1
        return -(-n_samples * source_rate // self.sampling_rate) + max(1, source_rate // 10)


@dataclass(frozen=True)
class Decoded:
    """What a decoder made of a clip."""

    samples: npt.NDArray[Any]  # the wanted channels: shape (n_frames,), or (n_frames, n_channels) for all of them
    source_rate: int  # in Hz
    n_stated: int | None = None  # how many frames the file states; None if it does not
    # About how long the file's header says it is; None if it does not, or `n_stated` says it.
    header_seconds: float | None = None
    damage: str = ""  # what the library said where it stopped before the end; else empty
    cancels: bool = False  # each other: the channels of the clip


class Decoder(Protocol):
    """Decodes the formats that one library knows."""

    def __call__(self, encoded: memoryview, request: Request) -> Decoded:
        """Return the clip's samples.

        At least `Request.n_source_frames` frames are returned, if there are as many. A decoder calls
        `Request.check_rate` before it decodes, and `Request.refusing` around its library. Raises NotForThisDecoderError
        if another decoder may know the format; AudioDecodeError or SamplingRateError if the clip gives no waveform.
        """


class NotForThisDecoderError(Exception):
    """The library cannot open these bytes, or not read them to their end; the next decoder is tried.

    ``remedy`` says what would help, such as installing the library.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


def reason_of(exc: Exception) -> str:
    """Return the first line of what `exc` says; of libsndfile's errors the part without an address in memory."""
    said = getattr(exc, "error_string", str(exc))
    return str(said).strip().partition("\n")[0].rstrip(".") or type(exc).__name__

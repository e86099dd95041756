"""Encoded bytes to the waveform a processor is given.

Decoders return what is left of a truncated file without a word. So the length that a container states is compared
with the bytes there are, before anything is decoded, and the frames it states with those that came out. What states
no length cannot be checked: a streamed WAV, AIFF, AU, CAF or WebM, and, when cut where a frame or page ends, a
streamed FLAC, an Ogg file, or an MP3 without a Xing header. (The end-of-stream flag of Ogg is no sign: encoders forget
it, and RFC 7845 has decoders expect that.) The rarer formats that libsndfile knows are not checked.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .containers import truncation
from .ffmpeg import decode_with_ffmpeg
from .libsndfile import decode_with_libsndfile
from .request import Decoder, NotForThisDecoderError, Request
from .waveform import finish_waveform

__all__ = ["decode_audio"]

# By the name that messages use, in the order in which they are tried. A new decoder is a module of its own and a line
# here.
_DECODERS: dict[str, Decoder] = {
    "libsndfile": decode_with_libsndfile,
    "torchcodec": decode_with_ffmpeg,
}


def decode_audio(
    encoded: bytes | memoryview,
    *,
    sampling_rate: int,
    max_length_ms: int = 0,
    auto_resample: bool = False,
    clip: str = "",
) -> npt.NDArray[np.float32]:
    """Decode a clip.

    Parameters
    ----------
    encoded
        The bytes of an audio file.
    sampling_rate
        Rate of the waveform in Hz.
    max_length_ms
        Cap on its length in milliseconds; 0 for none. At least one sample is kept. No more is decoded than the cap,
        and 100 ms for the resampler's filter, so damage behind that is found only if the container shows it.
    auto_resample
        Whether a clip at another rate is resampled (soxr, quality HQ).
    clip
        What messages call the clip.

    Returns
    -------
    ndarray of float32, shape (n_samples,)
        The mean of the channels, C-contiguous; full scale is -1 to 1.

    Raises
    ------
    SamplingRateError
        If the clip has another rate and `auto_resample` is False.
    AudioDecodeError
        If the bytes are no audio, are truncated, have no samples, or samples that are NaN or infinite; or if they need
        torchcodec, and it or FFmpeg is missing.
    """
    view = memoryview(encoded)
    request = Request(sampling_rate, max_length_ms, auto_resample, clip, view.nbytes)
    if not view.nbytes:
        raise request.refusal("no bytes at all")
    view = view.cast("B")
    if truncated := truncation(view):
        raise request.refusal(f"a truncated file: {truncated}", "Fetch the file again.")
    mono, source_rate = _decode(view, request)
    return finish_waveform(mono, source_rate, request)


def _decode(encoded: memoryview, request: Request) -> tuple[npt.NDArray[np.float32], int]:
    """Return what the first decoder gives that knows the format."""
    passed_on: dict[str, NotForThisDecoderError] = {}
    for name, decode in _DECODERS.items():
        try:
            return decode(encoded, request)
        except NotForThisDecoderError as exc:
            passed_on[name] = exc
    reasons = "; ".join(f"{name}: {exc}" for name, exc in passed_on.items())
    remedy = next((exc.remedy for exc in passed_on.values() if exc.remedy), "Convert the clip to FLAC or WAV.")
    raise request.refusal(f"bytes that no decoder reads ({reasons})", remedy) from list(passed_on.values())[-1]

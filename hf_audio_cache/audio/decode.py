"""Encoded bytes to samples: which decoder is asked, and how truncated files are found; then `waveform`.

Decoders return what is left of a truncated file without a word. So the length that a container states is compared
with the bytes there are, and the frames it states with those that came out; `ClipLength` says what is missing. What
states no length cannot be checked: a streamed WAV, AIFF, AU, CAF or WebM, an MP3 without a Xing header, and, when cut
where a page ends, an Ogg file. (The end-of-stream flag of Ogg is no sign: encoders forget it, and RFC 7845 has decoders
expect that.) The rarer formats that libsndfile knows are not checked.

Several streams one after another, as a chained Ogg file or MP3s that were joined have them, are one clip.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import AudioDecodeError
from .containers import Missing, missing_audio, unpadded_chunk
from .ffmpeg import decode_with_ffmpeg
from .length import Shortfall
from .libsndfile import decode_with_libsndfile
from .mp3 import without_tags
from .request import Decoded, Decoder, NotForThisDecoderError, Request
from .waveform import Waveform, finish_waveform

# What is missing less counts as whole: the last frame of an MP3, or a header that counts itself.
_NEGLIGIBLE_SECONDS = 0.1

# By the name that messages use, in the order in which they are tried. A new decoder is a module of its own and a line
# here.
_DECODERS: dict[str, Decoder] = {
    "libsndfile": decode_with_libsndfile,
    "torchcodec": decode_with_ffmpeg,
}
# Of the files that the commands take for clips, in a folder.
AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".webm", ".aiff", ".aif", ".au", ".caf"}
)


def decode_audio(encoded: bytes | memoryview, request: Request) -> Waveform:
    """Decode a clip.

    At least one sample is kept. Little more is decoded than the cap, so damage behind it is found only if the container
    shows it. Full scale is -1 to 1; the length says what the file lacks of what its header promises, from 100 ms on.
    Raises SamplingRateError if the clip has another rate and `auto_resample` is False; AudioDecodeError if the bytes
    are no audio, have no samples, no such channel, or samples that are NaN or infinite; or if they need torchcodec, and
    it or FFmpeg is missing.
    """
    view = memoryview(encoded)
    request = replace(request, n_bytes=view.nbytes)
    if not view.nbytes:
        raise request.refusal("no bytes at all")
    view = without_tags(view.cast("B"))
    if chunk := unpadded_chunk(view):
        raise request.refusal(
            f"a WAV whose {chunk} lacks its pad byte, so that the chunks behind it are not found",
            "A chunk of odd size needs a zero byte behind it: add it, or correct the program that made the file.",
        )
    missing = missing_audio(view)
    # Of a truncated file all is decoded, to say how much there is.
    asked = replace(request, max_length_ms=0) if missing else request
    try:
        decoded = _decode(view, asked)
        return finish_waveform(decoded, request, _shortfall(decoded, missing, asked))
    except AudioDecodeError as exc:
        if missing is None:
            raise
        raise request.refusal(f"a truncated file: {missing.sign}; {exc.cause}", "Fetch the file again.") from exc


def _shortfall(decoded: Decoded, missing: Missing | None, request: Request) -> Shortfall | None:
    """Return what a file lacks of what it promises; None for less than 100 ms."""
    n_frames, rate = len(decoded.samples), decoded.source_rate
    needed = request.n_source_frames(rate)
    if needed is not None and n_frames >= needed:
        return None
    seconds = n_frames / rate
    promised: float | None = None
    sign = decoded.damage
    if decoded.n_stated is not None and n_frames < decoded.n_stated:
        promised = decoded.n_stated / rate
        sign = sign or f"{n_frames} of {decoded.n_stated} frames"
    elif missing is not None:
        promised = decoded.header_seconds or missing.promised(n_frames, rate)
        sign = missing.sign
    elif decoded.n_stated is not None or not decoded.damage:
        return None
    if promised is not None and round(promised - seconds, 6) < _NEGLIGIBLE_SECONDS:
        return None
    return Shortfall(round(seconds, 6), None if promised is None else round(promised, 6), request.n_bytes, sign[:200])


def _decode(encoded: memoryview, request: Request) -> Decoded:
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

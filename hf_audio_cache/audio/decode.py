"""Encoded bytes, or an array that is decoded already, to the waveform a processor is given.

libsndfile decodes WAV, FLAC, Ogg Vorbis, Opus, MP3, AIFF, AU and CAF. torchcodec, which is FFmpeg, is imported only
for what libsndfile cannot open: M4A, AAC, WebM. soxr resamples. None of the three is used anywhere else.

Decoders return what is left of a truncated file without a word. So the length that a container states is compared
with the bytes there are, before anything is decoded, and the frames it states with those that came out. What states
no length cannot be checked: a streamed WAV, AIFF, AU, CAF or WebM, and, when cut where a frame or page ends, a
streamed FLAC, an Ogg file, or an MP3 without a Xing header. (The end-of-stream flag of Ogg is no sign: encoders forget
it, and RFC 7845 has decoders expect that.) The rarer formats that libsndfile knows are not checked.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ..errors import AudioDecodeError, SamplingRateError
from ..support.process_local import ForkStep, at_fork
from .containers import mp3_start, truncation, walk_mp3, with_known_end, xing_end

__all__ = ["decode_audio", "to_waveform"]

# What full scale is, by kind and bytes of a dtype.
_FULL_SCALE = {"f2": 1, "f4": 1, "f8": 1, "i2": 1 << 15, "i4": 1 << 31}
_MOST_CHANNELS = 32
_BLOCK_VALUES = 1 << 16
_UNKNOWN_FRAMES = (1 << 63) - 1
# At other rates one byte of a damaged header would make a resampler fill gigabytes.
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 1_000_000
_TEXT = bytes(range(0x20, 0x7F)) + b"\t\n\r"


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
    request = _Request(sampling_rate, max_length_ms, auto_resample, clip, view.nbytes)
    if not view.nbytes:
        raise request.refusal("no bytes at all")
    view = view.cast("B")
    if truncated := truncation(view):
        raise request.refusal(f"a truncated file: {truncated}", "Fetch the file again.")
    try:
        mono, source_rate = _decode_with_libsndfile(view, request)
    except _NotForLibsndfileError as exc:
        mono, source_rate = _decode_with_torchcodec(view, request, exc)
    return _finish(mono, source_rate, request)


def to_waveform(
    samples: npt.NDArray[Any],
    source_rate: int,
    *,
    sampling_rate: int,
    max_length_ms: int = 0,
    auto_resample: bool = False,
    clip: str = "",
) -> npt.NDArray[np.float32]:
    """Make a waveform of an array that is decoded already, by the rules of `decode_audio`.

    Parameters
    ----------
    samples
        Shape (n_samples,), or two-dimensional, where the shorter axis, of at most 32, is that of the channels. Floats
        are taken as they are; int16 and int32 are full-scale PCM, and divided by 32768 and 2147483648.
    source_rate
        Rate of `samples` in Hz.
    sampling_rate, max_length_ms, auto_resample, clip
        As for `decode_audio`.

    Returns
    -------
    ndarray of float32, shape (n_samples,)
        A new C-contiguous array.

    Raises
    ------
    SamplingRateError
        If `source_rate` is not `sampling_rate` and `auto_resample` is False.
    AudioDecodeError
        If dtype or shape are none of these, or a sample is NaN or infinite.
    """
    request = _Request(sampling_rate, max_length_ms, auto_resample, clip, samples.nbytes)
    full_scale = _FULL_SCALE.get(samples.dtype.str[1:])
    if full_scale is None:
        raise request.refusal(
            f"an array of dtype {samples.dtype}", "Pass float32 between -1 and 1, or int16 or int32 of full scale."
        )
    request.check_rate(source_rate)
    channels_last = _channels_last(samples, request)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which is refused below
        return _finish(_mono(channels_last.astype(np.float32) / np.float32(full_scale)), source_rate, request)


@dataclass(frozen=True)
class _Request:
    """What was asked for, of which clip."""

    sampling_rate: int
    max_length_ms: int
    auto_resample: bool
    clip: str
    n_bytes: int

    def refusal(self, cause: str, remedy: str = "Replace the clip or leave it out.") -> AudioDecodeError:
        """Return the error that says that `cause` was found in place of audio."""
        name = repr(self.clip) if self.clip else "a clip without a name"
        message = f"Expected audio in {name} ({self.n_bytes} bytes), found {cause}. It gives no waveform. {remedy}"
        return AudioDecodeError(message, clip=self.clip, n_bytes=self.n_bytes, cause=cause)

    def check_rate(self, source_rate: int) -> None:
        """Refuse a clip at another rate, unless it can and may be resampled."""
        if source_rate == self.sampling_rate:
            return
        if not self.auto_resample:
            name = repr(self.clip) if self.clip else "a clip without a name"
            raise SamplingRateError(
                f"Expected {self.sampling_rate} Hz, found {source_rate} Hz in {name}. It gives no waveform. Pass "
                "auto_resample=True to have it resampled.",
                clip=self.clip,
                expected=self.sampling_rate,
                actual=source_rate,
            )
        if not _LOWEST_RATE <= source_rate <= _HIGHEST_RATE:
            raise self.refusal(f"a sampling rate of {source_rate} Hz, which no audio has")

    def kept(self) -> int | None:
        """Return the samples that the cap leaves of the waveform; None for all."""
        return max(1, self.max_length_ms * self.sampling_rate // 1000) if self.max_length_ms else None

    def needed(self, source_rate: int) -> int | None:
        """Return the source frames that these are made of, the filter's margin included; None for all."""
        kept = self.kept()
        if kept is None or source_rate == self.sampling_rate:
            return kept
        return -(-kept * source_rate // self.sampling_rate) + source_rate // 10


class _NotForLibsndfileError(Exception):
    """Libsndfile cannot open these bytes, or not read them to their end."""


class _Source(io.BytesIO):
    """Bytes in which a seek to nowhere, as a damaged header asks for it, stays where it is.

    libsndfile calls this from C, where an exception would be printed, and not be raised.
    """

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Seek, if there is such a place."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile publishes no types
    """A file that is read front to back.

    soundfile seeks after every read of a seekable file, which loses an MP3 decoder's state, and fails in a FLAC of
    unknown length.
    """

    def seekable(self) -> bool:
        """Return False, whatever the file is."""
        return False


# soundfile opens files one at a time, under a lock of its own. A process that is forked while another thread opens one
# would wait for that lock for ever: no fork comes between.
_OPENING = threading.Lock()
at_fork(ForkStep.AUDIO_OPENING, before=_OPENING.acquire, in_parent=_OPENING.release, in_child=_OPENING.release)


def _decode_with_libsndfile(encoded: memoryview, request: _Request) -> tuple[npt.NDArray[np.float32], int]:
    try:
        with _OPENING:
            sound = _SequentialFile(_Source(with_known_end(encoded)))
    except Exception as exc:
        raise _NotForLibsndfileError(_reason(exc)) from exc
    with sound, _refusing("libsndfile", request):
        request.check_rate(sound.samplerate)
        is_mpeg = sound.subtype.startswith("MPEG")
        if is_mpeg and sound.format != "MP3":
            raise _NotForLibsndfileError("MPEG audio in another container, the length of which it guesses")
        if is_mpeg:
            sound.seek(0)  # as soundfile.read does: without any seek the last bits of libsndfile's MP3 are others
        stated = _stated_frames(sound, encoded)
        needed = request.needed(sound.samplerate)
        mono = _read(sound, stated if needed is None else min(needed, stated))
        if needed is not None and len(mono) == needed:
            return mono, sound.samplerate
        if is_mpeg:
            # Without a Xing header libsndfile guesses the length from the first frame's bit rate, and stops there.
            start = mp3_start(encoded)
            n_frames, _ = walk_mp3(encoded, start)
            if xing_end(encoded, start) is None and len(mono) < n_frames - 1152:
                raise _NotForLibsndfileError("an MP3 of varying bit rate without a Xing header, whose end it misses")
        elif len(mono) < stated < _UNKNOWN_FRAMES:
            cause = f"a truncated or damaged file: {len(mono)} of the {stated} frames that it states"
            raise request.refusal(cause, "Fetch the file again.")
        return mono, sound.samplerate


def _stated_frames(sound: _SequentialFile, encoded: memoryview) -> int:
    """Return the number of frames that a file says it has; `_UNKNOWN_FRAMES` if it does not say."""
    if sound.format == "NIST" and (sample_count := re.search(rb"sample_count -i (\d+)", encoded[:1024])):
        return int(sample_count[1])  # libsndfile goes by the number of bytes
    return int(sound.frames)


def _read(sound: _SequentialFile, n_wanted: int) -> npt.NDArray[np.float32]:
    """Return up to `n_wanted` frames, in blocks: nothing is allocated because a header says so."""
    block_frames = max(1, _BLOCK_VALUES // sound.channels)
    blocks = [np.zeros(0, np.float32)]
    n_frames = 0
    while n_frames < n_wanted:
        block = sound.read(min(block_frames, n_wanted - n_frames), dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(_mono(block))
        n_frames += len(block)
    return np.concatenate(blocks)


def _decode_with_torchcodec(
    encoded: memoryview, request: _Request, libsndfile_error: Exception
) -> tuple[npt.NDArray[np.float32], int]:
    beginning = bytes(encoded[:64])
    if not beginning.translate(None, _TEXT):
        # Text is never handed to FFmpeg, which would follow a playlist to other files and hosts.
        raise request.refusal(f"text that begins {beginning[:40].decode()!r}") from libsndfile_error
    try:
        from torchcodec.decoders import AudioDecoder
    except Exception as exc:
        raise request.refusal(
            f"what libsndfile cannot open ({libsndfile_error}), and torchcodec, which decodes M4A, AAC and WebM, "
            f"cannot be imported ({_reason(exc)})",
            "Install torchcodec (`pip install torchcodec`) and FFmpeg, or convert the clip to FLAC or WAV.",
        ) from exc
    with _refusing(f"libsndfile ({libsndfile_error}) and torchcodec", request):
        decoder = AudioDecoder(bytes(encoded))
        source_rate = int(decoder.metadata.sample_rate)
        request.check_rate(source_rate)
        needed = request.needed(source_rate)
        begin = decoder.metadata.begin_stream_seconds or 0.0
        stop = None if needed is None else begin + needed / source_rate + 1.0
        channels_first = decoder.get_samples_played_in_range(stop_seconds=stop).data.numpy()
        if needed is not None and channels_first.shape[1] < needed:  # its time stamps have gaps, or it is as short
            # Of a new decoder: the first samples of one that has been read depend on what it read.
            channels_first = AudioDecoder(bytes(encoded)).get_all_samples().data.numpy()
    return _mono(channels_first.T), source_rate


@contextmanager
def _refusing(decoder: str, request: _Request) -> Iterator[None]:
    """Turn whatever a decoder raises into `AudioDecodeError`."""
    try:
        yield
    except (AudioDecodeError, SamplingRateError, _NotForLibsndfileError, MemoryError):
        raise
    except Exception as exc:
        raise request.refusal(f"bytes that {decoder} cannot decode: {_reason(exc)}") from exc


def _reason(exc: Exception) -> str:
    """Return the first line of what `exc` says; of libsndfile's errors the part without an address in memory."""
    said = exc.error_string if isinstance(exc, soundfile.LibsndfileError) else str(exc)
    return str(said).strip().partition("\n")[0].rstrip(".") or type(exc).__name__


def _channels_last(samples: npt.NDArray[Any], request: _Request) -> npt.NDArray[Any]:
    if samples.ndim == 1 or not samples.size:
        return samples.reshape(-1, 1)
    if samples.ndim == 2 and samples.shape[0] != samples.shape[1] and min(samples.shape) <= _MOST_CHANNELS:
        return samples if samples.shape[1] < samples.shape[0] else samples.T
    raise request.refusal(
        f"an array of shape {samples.shape}, which does not show what its channels are",
        f"Pass shape (n_samples,), or (n_samples, n_channels) with at most {_MOST_CHANNELS} channels.",
    )


def _mono(channels_last: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):  # the mean of what is not finite is refused later
        return channels_last[:, 0] if channels_last.shape[1] == 1 else channels_last.mean(axis=1)


def _finish(mono: npt.NDArray[np.float32], source_rate: int, request: _Request) -> npt.NDArray[np.float32]:
    """Cut, check and resample; `_Request.check_rate` has allowed `source_rate`."""
    mono = mono[: request.needed(source_rate)]
    if not mono.size:
        raise request.refusal("no samples")
    finite = np.isfinite(mono)
    if not finite.all():
        at = int(finite.argmin())
        raise request.refusal(f"a sample that is {mono[at]} (frame {at})")
    if source_rate != request.sampling_rate:
        with _refusing("soxr", request):
            mono = soxr.resample(mono, source_rate, request.sampling_rate, quality="HQ")
    waveform = np.array(mono[: request.kept()], dtype=np.float32)
    if not (waveform.size and np.isfinite(waveform).all()):
        raise request.refusal(f"too short or too loud a clip to be resampled to {request.sampling_rate} Hz")
    return waveform

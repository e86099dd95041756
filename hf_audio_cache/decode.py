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
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from .errors import AudioDecodeError, SamplingRateError

__all__ = ["decode_audio", "to_waveform"]

# What full scale is, by kind and bytes of a dtype.
_FULL_SCALE = {"f2": 1, "f4": 1, "f8": 1, "i2": 1 << 15, "i4": 1 << 31}
_MOST_CHANNELS = 32
_BLOCK_VALUES = 1 << 16
_UNKNOWN_FRAMES = (1 << 63) - 1
# At other rates one byte of a damaged header would make a resampler fill gigabytes.
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 1_000_000
_TEXT = bytes(range(0x20, 0x7F)) + b"\t\n\r"
# Bytes that begin a WAV (RF64 and BW64: EBU Tech 3306), AIFF or CAF, to the layout of its chunks' headers.
_CHUNK_LAYOUTS = {
    b"RIFF": "<4sI", b"RIFX": ">4sI", b"RF64": "<4sI", b"BW64": "<4sI", b"FORM": ">4sI", b"caff": ">4sQ"
}  # fmt: skip
_MOST_CHUNKS = 1000
# Sizes from here on (sox: 0x7F000000, 0x7FFFF000, FFmpeg: 0xFFFFFFFF) mean that the end was not known yet.
_UNKNOWN_SIZE = {"I": 0x7F000000, "Q": 1 << 63}
# Bit rates of layer III in kbit/s, for MPEG-1 and for MPEG-2 and 2.5 (ISO/IEC 11172-3, 2.4.2.3, and 13818-3, 2.4.2.3).
_MP3_BIT_RATES = (
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_MP3_SAMPLING_RATES = (44100, 48000, 32000)


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
    if truncated := _truncation(view):
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


def _decode_with_libsndfile(encoded: memoryview, request: _Request) -> tuple[npt.NDArray[np.float32], int]:
    try:
        sound = _SequentialFile(_Source(_with_known_end(encoded)))
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
            start = _mp3_start(encoded)
            n_frames, _ = _walk_mp3(encoded, start)
            if _xing_end(encoded, start) is None and len(mono) < n_frames - 1152:
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


def _truncation(encoded: memoryview) -> str:
    """Return how a container shows that it is not all there; empty if it does not."""
    try:
        end = _stated_end(encoded)
    except (struct.error, IndexError, OverflowError):
        return "it ends inside a header"
    return f"its container goes on to byte {end} at least" if end > len(encoded) else ""


def _stated_end(encoded: memoryview) -> int:
    """Return the number of bytes that a container says it has; 0 if it does not say."""
    magic, form = bytes(encoded[:4]), bytes(encoded[8:12])
    if magic in _CHUNK_LAYOUTS and (magic == b"caff" or form in (b"WAVE", b"AIFF", b"AIFC")):
        return sum(_audio_chunk(encoded, _CHUNK_LAYOUTS[magic], 8 if magic == b"caff" else 12))
    if magic == b".snd":
        start, size = struct.unpack_from(">II", encoded, 4)
        return int(start + size) if size < _UNKNOWN_SIZE["I"] else 0
    if magic == b"riff":  # Sony Wave64: the size of the file
        (size,) = struct.unpack_from("<Q", encoded, 16)
        return int(size) if size < _UNKNOWN_SIZE["Q"] else 0
    if magic == b"OggS":
        return _ogg_end(encoded)
    if magic == b"\x1aE\xdf\xa3":
        return _matroska_end(encoded)
    if bytes(encoded[4:8]) == b"ftyp":
        return _mp4_end(encoded)
    start = _mp3_start(encoded)
    xing_end = _xing_end(encoded, start)
    return _walk_mp3(encoded, start)[1] if xing_end is None else xing_end


def _audio_chunk(encoded: memoryview, layout: str, position: int) -> tuple[int, int]:
    """Walk the chunks of a WAV, AIFF or CAF to that with the samples; return its position and size, 0 for unknown."""
    size_64 = 0
    for _ in range(_MOST_CHUNKS):
        chunk, size = struct.unpack_from(layout, encoded, position)
        position += struct.calcsize(layout)
        if chunk == b"ds64":
            (size_64,) = struct.unpack_from("<8xQ", encoded, position)
        if chunk in (b"data", b"SSND"):
            if size_64 and size == 0xFFFFFFFF:
                size = size_64
            return position, 0 if size >= _UNKNOWN_SIZE[layout[-1]] else int(size)
        position += size if layout.endswith("Q") else size + size % 2
    return 0, 0


def _with_known_end(encoded: memoryview) -> bytes | memoryview:
    """Return a streamed WAV that has 0 for its unknown size as one that has the other sign, which libsndfile knows."""
    if bytes(encoded[:4]) != b"RIFF" or bytes(encoded[8:12]) != b"WAVE":
        return encoded
    position, size = _audio_chunk(encoded, "<4sI", 12)
    (riff_size,) = struct.unpack_from("<I", encoded, 4)
    # Where the outer size reaches beyond the samples, it is known that there are none.
    if size or position == len(encoded) or position - 8 < riff_size < _UNKNOWN_SIZE["I"]:
        return encoded
    return b"".join((encoded[:4], b"\xff" * 4, encoded[8 : position - 4], b"\xff" * 4, encoded[position:]))


def _ogg_end(encoded: memoryview) -> int:
    """Walk the pages of an Ogg file (RFC 3533, section 6)."""
    position = 0
    is_last = False
    while bytes(encoded[position : position + 4]) == b"OggS":
        is_last = bool(encoded[position + 5] & 4)
        n_segments = encoded[position + 26]
        position += 27 + n_segments + sum(encoded[position + 27 : position + 27 + n_segments])
    if position < len(encoded) and not is_last:
        return len(encoded) + 27  # a page is due, of 27 bytes at least, and what there is is none
    return position


def _matroska_end(encoded: memoryview) -> int:
    """Return the end of the segment of a WebM file (RFC 8794, sections 4 and 6.2)."""
    size, position = _ebml_size(encoded, 4)
    position += size
    if bytes(encoded[position : position + 4]) != b"\x18S\x80g":
        return 0
    size, position = _ebml_size(encoded, position + 4)
    return position + size


def _ebml_size(encoded: memoryview, position: int) -> tuple[int, int]:
    """Return the size of an element, 0 for unknown, and the position behind it."""
    length = 9 - encoded[position].bit_length()
    ones = (1 << 7 * length) - 1
    size = int.from_bytes(encoded[position : position + length], "big") & ones
    return 0 if size == ones else size, position + length


def _mp4_end(encoded: memoryview) -> int:
    """Walk the boxes of an MP4 or M4A file (ISO/IEC 14496-12, section 4.2)."""
    position = 0
    while position + 8 <= len(encoded):
        (size,) = struct.unpack_from(">I", encoded, position)
        if size == 1:
            (size,) = struct.unpack_from(">Q", encoded, position + 8)
        if size < 8:  # 0: to the end of the file
            return 0
        position += int(size)
    return position


def _mp3_start(encoded: memoryview) -> int:
    """Return where an ID3v2 tag ends."""
    if bytes(encoded[:3]) != b"ID3":
        return 0
    size = struct.unpack_from("4B", encoded, 6)
    return int(10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]))


def _xing_end(encoded: memoryview, start: int) -> int | None:
    """Return where the Xing or Info header of an MP3 says that it ends; None if there is none that says it."""
    # Behind the frame's header (4 bytes), its checksum (0 or 2) and side information (9, 17 or 32).
    header = re.match(rb"\xff[\xe0-\xff].{11,36}(?:Xing|Info)", encoded[start : start + 48], re.DOTALL)
    if header is None:
        return None
    position = start + header.end()
    (flags,) = struct.unpack_from(">I", encoded, position)
    if not flags & 2:
        return None
    (n_bytes,) = struct.unpack_from(">I", encoded, position + 4 + 4 * (flags & 1))
    return int(start + n_bytes)


def _walk_mp3(encoded: memoryview, position: int) -> tuple[int, int]:
    """Return how many frames the layer III frames of an MP3 hold, and where the last of them ends."""
    n_frames = 0
    while position + 4 <= len(encoded):
        header = int.from_bytes(encoded[position : position + 4], "big")
        version, layer, bit_rate, rate = (
            header >> shift & mask for shift, mask in ((19, 3), (17, 3), (12, 15), (10, 3))
        )
        if header >> 21 != 0x7FF or version == 1 or layer != 1 or bit_rate in (0, 15) or rate == 3:
            break
        is_mpeg_2 = version != 3
        bits_per_second = 1000 * _MP3_BIT_RATES[is_mpeg_2][bit_rate - 1]
        samples_per_second = _MP3_SAMPLING_RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]  # MPEG-1, MPEG-2, MPEG-2.5
        frames = 576 if is_mpeg_2 else 1152
        n_frames += frames
        position += frames // 8 * bits_per_second // samples_per_second + (header >> 9 & 1)
    return n_frames, position

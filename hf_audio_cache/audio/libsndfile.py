"""The decoder for WAV, FLAC, Ogg, MP3, AIFF, AU and CAF: soundfile; headers that it reads wrongly are put right."""

from __future__ import annotations

import io
import os
import re
import threading

import numpy as np
import numpy.typing as npt
import soundfile

from ..support.process_local import ForkStep, at_fork
from .channels import Mixer
from .containers import streams_in, with_known_end
from .mp3 import mp3_start, walk_mp3, xing_end
from .request import Decoded, NotForThisDecoderError, Request, reason_of

_BLOCK_VALUES = 1 << 16
_UNKNOWN_FRAMES = (1 << 63) - 1


class _Callbacks(io.BytesIO):
    """Bytes in which a seek to nowhere, as a damaged header asks for it, stays where it is.

    libsndfile calls this from C, where an exception would be printed, and not be raised.
    """

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile publishes no types
    """A file that is read front to back.

    soundfile seeks after every read of a seekable file, which loses an MP3 decoder's state, and fails in a FLAC of
    unknown length.
    """

    damage = 0  # libsndfile's number of the error that ended the reading

    def seekable(self) -> bool:
        return False

    @property
    def _errorcode(self) -> int:
        """Where soundfile looks for an error after a read: if frames came before it, they are not lost."""
        self.damage = self.damage or int(super()._errorcode)
        return 0


def _source(content: bytes | memoryview) -> int | _Callbacks:
    """Return a descriptor of a file in memory, which libsndfile closes."""
    # If it called Python from C, an exception of a signal handler there (Ctrl-C) would be lost, and end the clip.
    try:
        with os.fdopen(os.memfd_create("clip"), "w+b") as file:
            file.write(content)
            file.seek(0)
            return os.dup(file.fileno())
    except (AttributeError, OSError):  # other systems have none; no descriptor is free, or no file may be as large
        return _Callbacks(content)


# soundfile opens files one at a time, under a lock of its own. A process that is forked while another thread opens one
# would wait for that lock for ever: no fork comes between.
_OPENING = threading.Lock()
at_fork(ForkStep.AUDIO_OPENING, before=_OPENING.acquire, in_parent=_OPENING.release, in_child=_OPENING.release)


def decode_with_libsndfile(encoded: memoryview, request: Request) -> Decoded:
    """Decode a clip, as a `Decoder` does; of several streams one after another all, where libsndfile reads one."""
    mix = Mixer(request.channels, request.refusal)
    parts: list[Decoded] = []
    n_frames = 0
    for stream in streams_in(encoded):
        part = _decode(stream, request, mix)
        parts.append(part)
        n_frames += len(part.samples)
        needed = request.n_source_frames(part.source_rate)
        if part.damage or (needed is not None and n_frames >= needed):
            break
    if len(parts) == 1:
        return parts[0]
    if len({(part.source_rate, part.samples.shape[1:]) for part in parts}) > 1:
        raise NotForThisDecoderError("several streams of different rates or channels, one after another")
    stated = [part.n_stated for part in parts if part.n_stated is not None]
    return Decoded(
        np.concatenate([part.samples for part in parts]),
        parts[0].source_rate,
        sum(stated) if len(stated) == len(parts) else None,
        damage=parts[-1].damage,
        cancels=mix.cancels,
    )


def _decode(encoded: memoryview, request: Request, mix: Mixer) -> Decoded:
    """Decode one stream."""
    try:
        with _OPENING:
            sound = _SequentialFile(_source(with_known_end(encoded)))
    except Exception as exc:
        raise NotForThisDecoderError(reason_of(exc)) from exc
    with sound, request.refusing("libsndfile"):
        request.check_rate(sound.samplerate)
        is_mpeg = sound.subtype.startswith("MPEG")
        if is_mpeg and sound.format != "MP3":
            raise NotForThisDecoderError("MPEG audio in another container, the length of which it guesses")
        if is_mpeg:
            sound.seek(0)  # as soundfile.read does: without any seek the last bits of libsndfile's MP3 are others
        stated = _stated_frames(sound, encoded)
        needed = request.n_source_frames(sound.samplerate)
        samples = _read(sound, stated if needed is None else min(needed, stated), mix)
        damage = reason_of(soundfile.LibsndfileError(sound.damage)) if sound.damage else ""
        if damage and not len(samples):
            raise request.refusal(f"bytes that libsndfile cannot decode: {damage}")
        is_stated = stated < _UNKNOWN_FRAMES
        if is_mpeg and (needed is None or len(samples) < needed):
            is_stated = _check_mp3_end(encoded, len(samples))
        return Decoded(samples, sound.samplerate, stated if is_stated else None, damage=damage, cancels=mix.cancels)


def _stated_frames(sound: _SequentialFile, encoded: memoryview) -> int:
    """Return the number of frames that a file says it has; `_UNKNOWN_FRAMES` if it does not say."""
    if sound.format == "NIST" and (sample_count := re.search(rb"sample_count -i (\d+)", encoded[:1024])):
        return int(sample_count[1])  # libsndfile goes by the number of bytes
    return int(sound.frames)


def _read(sound: _SequentialFile, n_wanted: int, mix: Mixer) -> npt.NDArray[np.float32]:
    """Return up to `n_wanted` frames, in blocks: nothing is allocated because a header says so."""
    block_frames = max(1, _BLOCK_VALUES // sound.channels)
    blocks = [mix(np.zeros((0, sound.channels), np.float32))]
    n_frames = 0
    while n_frames < n_wanted and not sound.damage:
        block = sound.read(min(block_frames, n_wanted - n_frames), dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(mix(block))
        n_frames += len(block)
    return np.concatenate(blocks)


def _check_mp3_end(encoded: memoryview, n_read: int) -> bool:
    """Return whether an MP3 states its length in a Xing header; refuse a file that libsndfile stopped reading early."""
    start = mp3_start(encoded)
    if xing_end(encoded, start) is not None:
        return True
    # Without such a header libsndfile guesses the length from one frame.
    if n_read < walk_mp3(encoded, start) - 1152:
        raise NotForThisDecoderError("an MP3 of varying bit rate without a Xing header, whose end it misses")
    return False

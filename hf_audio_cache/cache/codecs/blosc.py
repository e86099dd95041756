"""The codecs of Blosc frames (LZ4 after a byte shuffle): any array, and waveforms that came from 16-bit audio."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from ...errors import CorruptEntryError
from .codec import Codec, Encoded, Member

MAX_TAIL_BYTES = 1 << 28  # a tail costs its writer nothing, so it is bounded more closely
_MIN_TAIL = 16  # a shorter tail is not worth a second copy
_PCM16_SAMPLES = 64  # that show first whether a waveform can be 16-bit
_MAX_RATIO = 256  # LZ4's best is 255 to 1
_HEADER = struct.Struct("<2x2BL4xL")  # of a Blosc frame: flags, the item's size, decoded and encoded length
_LZ4 = 1  # the codec in the upper three bits of the flags


class BloscCodec(Codec):
    """A Blosc frame; a constant tail along the last axis (the padding of an extractor) is left out."""

    name, suffix, max_ratio, has_tail = "blosc", ".blosc", _MAX_RATIO, True

    def encode(self, name: str, value: Any) -> Encoded | None:
        if not _is_for_frames(value):
            return None
        tail = _constant_tail(value)
        kept = value[..., : value.shape[-1] - tail[0]] if tail else value
        return Encoded(_frame(np.asarray(kept, order="C")), value.dtype, value.shape, tail)

    def decode(self, member: Member, header: bytes, payload: memoryview, place: npt.NDArray[Any] | None = None) -> Any:
        array = np.empty(member.shape, member.dtype) if place is None else place
        if member.tail is None:
            return _unframe(payload, array)
        kept = member.shape[-1] - member.tail[0]
        if kept < 1:
            raise CorruptEntryError(f"a tail of {member.tail[0]} does not fit an array of shape {member.shape}")
        array[..., kept:] = member.tail_value
        array[..., :kept] = _unframe(payload, np.empty((*member.shape[:-1], kept), array.dtype))
        return array


class Pcm16Codec(Codec):
    """A Blosc frame of int16; the waveform is those numbers / 32768, as float32."""

    name, suffix, dtypes, max_ratio = "pcm16", ".pcm16.blosc", re.compile("<f4"), _MAX_RATIO

    def encode(self, name: str, value: Any) -> Encoded | None:
        if name != "waveform" or not _is_for_frames(value):
            return None
        pcm = _as_pcm16(value)
        return None if pcm is None else Encoded(_frame(pcm), value.dtype, value.shape)

    def decode(self, member: Member, header: bytes, payload: memoryview, place: npt.NDArray[Any] | None = None) -> Any:
        return _from_pcm16(_unframe(payload, np.empty(member.shape, np.int16)), place)


def _is_for_frames(array: npt.NDArray[Any]) -> bool:
    return array.ndim > 0 and 0 < array.nbytes <= blosc.MAX_BUFFERSIZE


def _frame(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(blosc.compress(array, b"lz4", 5, blosc.SHUFFLE), np.uint8)


def _unframe(payload: memoryview, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Decode the Blosc frame at the start of `payload` into an array, and return it."""
    flags, itemsize, n_bytes, n_frame_bytes = _HEADER.unpack_from(payload)
    if n_bytes != array.nbytes or not 16 <= n_frame_bytes <= len(payload):
        raise CorruptEntryError(f"a frame of {n_bytes} bytes stands for an array of {array.dtype} {array.shape}")
    if flags >> 5 != _LZ4 or itemsize != min(array.itemsize, 255):
        raise CorruptEntryError(f"a frame of codec {flags >> 5} and items of {itemsize} bytes is none of ours")
    if n_bytes > _MAX_RATIO * n_frame_bytes:
        raise CorruptEntryError(f"a frame of {n_frame_bytes} bytes claims to hold {n_bytes}")
    blosc.decompress(payload[:n_frame_bytes], array)
    return array


def _as_pcm16(waveform: npt.NDArray[Any]) -> npt.NDArray[np.int16] | None:
    """Return the 16-bit numbers that `waveform` is made of, or None where they would not give back its exact bits."""
    if waveform.dtype != np.float32:
        return None
    some = waveform.reshape(-1)[:: 1 + waveform.size // _PCM16_SAMPLES]
    if not _is_within_full_scale(some) or (some * np.float32(32768) % 1).any():
        return None  # as nearly all that was resampled or decoded from MP3
    if not _is_within_full_scale(waveform):
        return None
    pcm = (waveform * np.float32(32768)).astype(np.int16)
    return pcm if _from_pcm16(pcm).tobytes() == waveform.tobytes() else None


def _is_within_full_scale(waveform: npt.NDArray[Any]) -> bool:
    return bool(waveform.min() >= -1.0 and waveform.max() < 1.0)


def _from_pcm16(pcm: npt.NDArray[np.int16], place: npt.NDArray[Any] | None = None) -> npt.NDArray[np.float32]:
    return np.multiply(pcm, np.float32(1 / 32768), out=place, dtype=np.float32)  # a power of two: exact


def _constant_tail(array: npt.NDArray[Any]) -> tuple[int, str] | None:
    """Return length and value of the constant tail along the last axis, where there is one worth leaving out."""
    itemsize, length = array.dtype.itemsize, array.shape[-1]
    if itemsize > 8 or length <= _MIN_TAIL or array.nbytes > MAX_TAIL_BYTES:
        return None
    bits = array.view(f"u{itemsize}").reshape(-1, length)  # bits, so that -0.0 and NaN are what they are
    value = bits[-1, -1]
    if not (bits[:, -_MIN_TAIL:] == value).all():
        return None
    # The last row bounds the tail, so that the rows before it are compared from there on only.
    kept = _kept(bits[-1] != value)
    different = bits[:, kept:] != value
    if different.any():
        kept += _kept(different.any(axis=0))
    return length - kept, array.reshape(-1)[-1:].tobytes().hex()


def _kept(different: npt.NDArray[np.bool_]) -> int:
    """Return how many columns there are up to the last one that is different; at least 1."""
    found = np.flatnonzero(different)
    return int(found[-1]) + 1 if found.size else 1

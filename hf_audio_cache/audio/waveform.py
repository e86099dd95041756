"""Samples, decoded by us or by somebody else, to the waveform a processor is given: mono, resampled, cut, checked.

soxr resamples, and is used nowhere else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from .request import Request, mix_to_mono

__all__ = ["finish_waveform", "to_waveform"]

# What full scale is, by kind and bytes of a dtype.
_FULL_SCALE = {"f2": 1, "f4": 1, "f8": 1, "i2": 1 << 15, "i4": 1 << 31}
_MOST_CHANNELS = 32


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
    request = Request(sampling_rate, max_length_ms, auto_resample, clip, samples.nbytes)
    full_scale = _FULL_SCALE.get(samples.dtype.str[1:])
    if full_scale is None:
        raise request.refusal(
            f"an array of dtype {samples.dtype}", "Pass float32 between -1 and 1, or int16 or int32 of full scale."
        )
    request.check_rate(source_rate)
    channels_last = _channels_last(samples, request)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which is refused below
        scaled = channels_last.astype(np.float32) / np.float32(full_scale)
        return finish_waveform(mix_to_mono(scaled), source_rate, request)


def finish_waveform(mono: npt.NDArray[np.float32], source_rate: int, request: Request) -> npt.NDArray[np.float32]:
    """Cut, check and resample; `Request.check_rate` has allowed `source_rate`."""
    mono = mono[: request.n_source_frames(source_rate)]
    if not mono.size:
        raise request.refusal("no samples")
    finite = np.isfinite(mono)
    if not finite.all():
        at = int(finite.argmin())
        raise request.refusal(f"a sample that is {mono[at]} (frame {at})")
    if source_rate != request.sampling_rate:
        with request.refusing("soxr"):
            mono = soxr.resample(mono, source_rate, request.sampling_rate, quality="HQ")
    waveform = np.array(mono[: request.n_samples()], dtype=np.float32)
    if not (waveform.size and np.isfinite(waveform).all()):
        raise request.refusal(f"too short or too loud a clip to be resampled to {request.sampling_rate} Hz")
    return waveform


def _channels_last(samples: npt.NDArray[Any], request: Request) -> npt.NDArray[Any]:
    if samples.ndim == 1 or not samples.size:
        return samples.reshape(-1, 1)
    if samples.ndim == 2 and samples.shape[0] != samples.shape[1] and min(samples.shape) <= _MOST_CHANNELS:
        return samples if samples.shape[1] < samples.shape[0] else samples.T
    raise request.refusal(
        f"an array of shape {samples.shape}, which does not show what its channels are",
        f"Pass shape (n_samples,), or (n_samples, n_channels) with at most {_MOST_CHANNELS} channels.",
    )

"""From decoded samples to the waveform that a processor is given: resampled, cut, measured, checked.

soxr resamples, and is used nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from .channels import Mixer
from .length import ClipLength, Shortfall
from .request import Decoded, Request

# What full scale is, by kind and bytes of a dtype.
_FULL_SCALE = {"f2": 1, "f4": 1, "f8": 1, "i2": 1 << 15, "i4": 1 << 31}
_MOST_CHANNELS = 32


@dataclass(frozen=True)
class Waveform:
    """The waveform of a clip, and how much of the clip it is."""

    # float32 of shape (n_samples,), or (n_channels, n_samples) where all channels are wanted; C-contiguous.
    samples: npt.NDArray[np.float32]
    length: ClipLength
    cancels: bool = False  # it is silence, because the channels of the clip cancel each other out


def to_waveform(samples: npt.NDArray[Any], source_rate: int, request: Request) -> Waveform:
    """Make a waveform of an array that is decoded already, by the rules of `decode_audio`.

    Samples have the shape (n_samples,), or are two-dimensional, where the shorter axis, of at most 32, is that of the
    channels. Floats are taken as they are; int16 and int32 are full-scale PCM, and divided by 32768 and 2147483648. The
    array of the waveform is a new one. Raises SamplingRateError if `source_rate` is another than the one requested, and
    `auto_resample` is False; AudioDecodeError if dtype or shape are none of these, or a sample is NaN or infinite.
    """
    request = replace(request, n_bytes=samples.nbytes)
    full_scale = _FULL_SCALE.get(samples.dtype.str[1:])
    if full_scale is None:
        raise request.refusal(
            f"an array of dtype {samples.dtype}",
            "Pass float32 between -1 and 1, or int16 or int32 of full scale. Lists of integers, which columns of "
            "integers are read as, do not say what full scale is: divide them first.",
        )
    request.check_rate(source_rate)
    channels_last = _channels_last(samples, request)
    mix = Mixer(request.channels, request.refusal)
    with np.errstate(over="ignore"), request.refusing("NumPy"):  # what is too large for float32 is refused later
        mixed = mix(channels_last.astype(np.float32) / np.float32(full_scale))
    return finish_waveform(Decoded(mixed, source_rate, cancels=mix.cancels), request)


def finish_waveform(decoded: Decoded, request: Request, short: Shortfall | None = None) -> Waveform:
    """Cut, check and resample; `Request.check_rate` has allowed the rate."""
    source_rate, n_samples = decoded.source_rate, request.n_samples()
    samples = decoded.samples[: request.n_source_frames(source_rate)]
    if not samples.size:
        raise request.refusal("no samples")
    is_resampled = source_rate != request.sampling_rate
    checked = samples if is_resampled else samples[:n_samples]
    finite = np.isfinite(checked)
    if not finite.all():
        at = np.unravel_index(int(finite.argmin()), finite.shape)
        raise request.refusal(f"a sample that is {checked[at]} (frame {at[0]})")
    if is_resampled:
        with request.refusing("soxr"):
            samples = soxr.resample(samples, source_rate, request.sampling_rate, quality="HQ")
    # All channels come as (n_channels, n_samples).
    waveform = np.array(samples[:n_samples].T, dtype=np.float32, order="C")
    if not waveform.size or (is_resampled and not np.isfinite(waveform).all()):
        raise request.refusal(f"too short or too loud a clip to be resampled to {request.sampling_rate} Hz")
    is_cut = n_samples is not None and len(samples) > n_samples
    return Waveform(waveform, ClipLength(waveform.shape[-1], is_cut, short), decoded.cancels)


def _channels_last(samples: npt.NDArray[Any], request: Request) -> npt.NDArray[Any]:
    if samples.ndim == 1 or not samples.size:
        return samples.reshape(-1, 1)
    if samples.ndim == 2 and samples.shape[0] != samples.shape[1] and min(samples.shape) <= _MOST_CHANNELS:
        return samples if samples.shape[1] < samples.shape[0] else samples.T
    raise request.refusal(
        f"an array of shape {samples.shape}, which does not show what its channels are",
        f"Pass shape (n_samples,), or (n_samples, n_channels) with at most {_MOST_CHANNELS} channels.",
    )

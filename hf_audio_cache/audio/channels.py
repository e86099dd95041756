"""Choose one channel of a clip, or mix all of them to their mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import AudioDecodeError

Channels: TypeAlias = Literal["mean", "all"] | int

# Energy of the mean, as a share of that of the channels, below which they cancel each other out. Vorbis leaves 1.4 %.
_NOTHING_LEFT = 0.02


def in_words(channels: Channels) -> str:
    """Return what a table says behind the rate of a waveform; empty for the mean."""
    return "" if channels == "mean" else ", all channels" if channels == "all" else f", channel {channels}"


class Mixer:
    """Takes the wanted channels of blocks of samples, and notices whether they cancel each other out."""

    def __init__(self, channels: Channels, refusal: Callable[[str, str], AudioDecodeError]) -> None:
        self._channels = channels
        self._refusal = refusal  # makes the error of the clip, of a cause and a remedy
        self._energy = 0.0
        self._energy_of_mean = 0.0

    def __call__(self, channels_last: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the wanted channels of samples of shape (n_frames, n_channels).

        Shape (n_frames,), or as before for ``"all"``. Raises AudioDecodeError if there is no such channel.
        """
        n_channels = channels_last.shape[1]
        if self._channels == "all":
            return channels_last
        if self._channels != "mean":
            if self._channels >= n_channels:
                raise self._refusal(
                    f"{n_channels} channel{'s' * (n_channels != 1)}, and no channel {self._channels}",
                    'Channels are counted from 0. Pass channels="mean", or leave the clip out.',
                )
            return channels_last[:, self._channels]
        if n_channels == 1:
            return channels_last[:, 0]
        with np.errstate(over="ignore", invalid="ignore"):  # the mean of what is not finite is refused later
            mean: npt.NDArray[Any] = channels_last.mean(axis=1)
            self._energy += float(np.vdot(channels_last, channels_last)) / n_channels
            self._energy_of_mean += float(np.vdot(mean, mean))
        return mean

    @property
    def cancels(self) -> bool:
        """Whether the mean of channels that are not silent is silence, as that of channels in opposite phase."""
        return self._energy_of_mean < _NOTHING_LEFT * self._energy

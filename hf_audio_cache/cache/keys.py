"""The keys of the two caches: what an entry is found by. `layout` spells its name.

A key is everything that decides an entry's content. Its file name is part of the stored format, which other
programs read: a later field adds a suffix only where it differs from its default, so that old names stay valid.
"""

from __future__ import annotations

import contextlib
import math
import operator
import re
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..audio.channels import Channels
from ..errors import InvalidKeyError
from .layout import entry_name

_LONGEST_MS = 10**12  # a cap that is no cap; a file name must hold its digits
_MOST_CHANNELS = 10_000  # a file name must hold its digits
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _check_sha(field: str, sha: object) -> None:
    if not (isinstance(sha, str) and _SHA256.fullmatch(sha)):
        raise InvalidKeyError(
            f"{field} must be a sha256 as 64 lowercase hexadecimal digits, not {sha!r}; no key was made. "
            "Use hashlib.sha256(...).hexdigest().",
            field=field,
            actual=sha,
        )


def _as_int(number: object) -> int | None:
    """Return an integer, NumPy's included, as an ``int``; ``True`` is no number."""
    return int(number) if isinstance(number, (int, np.integer)) and not isinstance(number, bool) else None


def _check_int(field: str, number: object, at_least: int, unit: str) -> int:
    whole = _as_int(number)
    if whole is not None and whole >= at_least:
        return whole
    raise InvalidKeyError(
        f"{field} must be an integer of at least {at_least} ({unit}), not {number!r}; no key was made.",
        field=field,
        actual=number,
    )


def check_sampling_rate(rate: object) -> int:
    """Return a sampling rate in Hz as an ``int``. Raises InvalidKeyError if it is no positive integer."""
    return _check_int("sampling_rate", rate, 1, "Hz")


def _check_bool(field: str, flag: object) -> None:
    if not isinstance(flag, bool):
        raise InvalidKeyError(
            f"{field} must be True or False, not {flag!r}; no key was made.", field=field, actual=flag
        )


def check_channels(channels: object) -> Channels:
    """Return channels as a key has them; InvalidKeyError if they are none."""
    if isinstance(channels, str) and channels in ("mean", "all"):
        return channels  # type: ignore[return-value]  # which mypy cannot see
    whole = _as_int(channels)
    if whole is not None and 0 <= whole < _MOST_CHANNELS:
        return whole
    raise InvalidKeyError(
        f'channels must be "mean", "all" or the number of a channel, from 0 on, not {channels!r}; no key was made.',
        field="channels",
        actual=channels,
    )


class _EntryKey:
    """What the two kinds of key share: where an entry lies under the root of its cache."""

    blob_sha: str
    sample_rate: int
    max_length_ms: int
    auto_resample: bool
    channels: Channels

    def _check(self) -> None:
        """Raise InvalidKeyError for an invalid field, with its name. Turn NumPy numbers into Python's."""
        _check_sha("blob_sha", self.blob_sha)
        object.__setattr__(self, "sample_rate", _check_int("sample_rate", self.sample_rate, 1, "Hz"))
        object.__setattr__(self, "max_length_ms", _check_int("max_length_ms", self.max_length_ms, 0, "milliseconds"))
        _check_bool("auto_resample", self.auto_resample)
        object.__setattr__(self, "channels", check_channels(self.channels))

    def fields(self) -> dict[str, Any]:
        """Return the fields as a manifest states them: a later one only where it differs from its default."""
        fields = dict(vars(self))
        if self.channels == "mean":
            del fields["channels"]
        return fields

    def name(self) -> str:
        """Return the entry's name under the root of its cache: shard and file name."""
        return entry_name(
            self.blob_sha,
            self.sample_rate,
            self.max_length_ms,
            auto_resample=self.auto_resample,
            channels=self.channels,
            processor_sha=getattr(self, "processor_sha", None),
        )

    def shard(self) -> str:
        """Return the folder of the entry: the first two digits of the blob's sha."""
        return self.name().partition("/")[0]

    def as_filename(self) -> str:
        """Return the name of the entry's file inside its shard."""
        return self.name().partition("/")[2]


@dataclass(frozen=True)
class WaveformCacheKey(_EntryKey):
    """What decides a decoded waveform.

    Parameters
    ----------
    blob_sha
        sha256 of the encoded bytes, as 64 lowercase hexadecimal digits.
    sample_rate
        Rate of the waveform in Hz.
    max_length_ms
        Cap on its length in milliseconds; 0 for none.
    auto_resample
        Whether a source at another rate was to be resampled. An entry at its native rate is never served to a
        caller that asked for resampling, nor the other way round.
    channels
        ``"mean"`` of the channels, the number of one of them from 0 on, or ``"all"``, each on its own.

    Raises
    ------
    InvalidKeyError
        Naming the field that is none of these.
    """

    blob_sha: str
    sample_rate: int
    max_length_ms: int
    auto_resample: bool = False
    channels: Channels = "mean"

    def __post_init__(self) -> None:
        self._check()


@dataclass(frozen=True)
class AudioCacheKey(_EntryKey):
    """What decides the features of a clip.

    Parameters
    ----------
    blob_sha
        sha256 of the encoded bytes, as 64 lowercase hexadecimal digits.
    processor_sha
        Identity of the processor (`hf_audio_cache.processor_sha256`), of the same form. The file name has its first
        12 digits, the entry all of them: a foreign processor with the same 12 is a miss.
    sample_rate, max_length_ms, auto_resample, channels
        As for `WaveformCacheKey`.

    Raises
    ------
    InvalidKeyError
        Naming the field that is none of these.
    """

    blob_sha: str
    processor_sha: str
    sample_rate: int
    max_length_ms: int
    auto_resample: bool = False
    channels: Channels = "mean"

    def __post_init__(self) -> None:
        _check_sha("processor_sha", self.processor_sha)
        self._check()

    def waveform_key(self) -> WaveformCacheKey:
        """Return the key of the waveform that these features are computed from."""
        return WaveformCacheKey(self.blob_sha, self.sample_rate, self.max_length_ms, self.auto_resample, self.channels)


KeyT = TypeVar("KeyT", AudioCacheKey, WaveformCacheKey)


def max_length_ms(seconds: float | None) -> int:
    """Return a cap in seconds as the whole milliseconds of a key; 0 for None, which is no cap.

    Raises InvalidKeyError if `seconds` is no positive finite number, or so small that it would round to 0, which means
    "no cap".
    """
    if seconds is None:
        return 0
    if not isinstance(seconds, (bool, np.bool_)):
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # no number, NaN, infinity, beyond float
            milliseconds: int = math.floor(operator.mul(seconds, 1000.0) + 0.5)
            if 1 <= milliseconds <= _LONGEST_MS:
                return milliseconds
    raise InvalidKeyError(
        f"max_length_seconds must be at least 0.0005 (half a millisecond) and at most 10^9 (or None, for no cap), "
        f"not {seconds!r}; nothing was computed.",
        field="max_length_seconds",
        actual=seconds,
    )

"""`ClipLength`, which `waveform` measures after decoding, and the errors of clips that are too long or truncated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import AudioTooLongError, TruncatedAudioError

Truncated = Literal["error", "accept"]
Longer = Literal["cut", "error"]

_MOST = 1 << 53  # beyond which JSON's numbers are not exact
_LONGEST_SIGN = 200


@dataclass(frozen=True)
class Shortfall:
    """What is there of a file whose header promises more."""

    seconds: float  # that are there
    promised: float | None  # seconds, by the header; None if it only shows that something is missing
    n_bytes: int  # of the file
    sign: str  # what showed it


@dataclass(frozen=True)
class ClipLength:
    """How long a waveform is, and what it lacks of its clip."""

    n_samples: int  # of each channel of the waveform
    is_cut: bool = False  # whether the cap left some of the clip out
    short: Shortfall | None = None  # what the file lacks of what its header promises; None if it is whole

    def check(self, clip: str, *, truncated: Truncated, longer: Longer, max_length_ms: int) -> None:
        """Raise TruncatedAudioError or AudioTooLongError if a clip of this length is not wanted."""
        if self.short is not None and truncated == "error":
            raise _truncated(clip, self.short)
        if self.is_cut and longer == "error":
            seconds = max_length_ms / 1000
            raise AudioTooLongError(
                f"Expected at most {seconds:g} s in {clip_name(clip)}, found more. It cannot be used. Pass "
                'longer="cut" to keep the beginning of such clips, or a greater max_length_seconds=.',
                clip=clip,
                max_seconds=seconds,
            )

    def to_json(self) -> dict[str, Any]:
        """Return the length as it is in a manifest."""
        short = self.short
        return {
            "samples": self.n_samples,
            **({"cut": True} if self.is_cut else {}),
            **({} if short is None else {"short": [short.seconds, short.promised, short.n_bytes, short.sign]}),
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> ClipLength:
        """Return the length that a manifest states; ValueError if it states none."""
        n_samples, is_cut = said["samples"], said.get("cut", False)
        short = None
        if "short" in said:
            seconds, promised, n_bytes, sign = said["short"]
            short = Shortfall(_seconds(seconds), None if promised is None else _seconds(promised), n_bytes, sign)
            if type(n_bytes) is not int or not 0 <= n_bytes < _MOST:
                raise ValueError(f"it states {n_bytes!r} bytes")
            if type(sign) is not str or len(sign) > _LONGEST_SIGN or not sign.isprintable():
                raise ValueError("it does not say what showed that the clip is short")
        if type(n_samples) is not int or not 0 < n_samples < _MOST or type(is_cut) is not bool:
            raise ValueError(f"it states a length of {said!r}")
        return cls(n_samples, is_cut, short)


def _seconds(number: Any) -> float:
    if type(number) not in (int, float) or not math.isfinite(number) or not 0 <= number < _MOST:
        raise ValueError(f"it states {number!r} s")
    return float(number)


def clip_name(clip: str) -> str:
    """Return what messages call a clip."""
    return repr(clip) if clip else "a clip without a name"


def _truncated(clip: str, short: Shortfall) -> TruncatedAudioError:
    of = "" if short.promised is None else f" of the {short.promised:.3f} s that its header promises"
    cause = f"a truncated or damaged file: {short.seconds:.3f} s{of} are there ({short.sign})"
    return TruncatedAudioError(
        f"Expected audio in {clip_name(clip)} ({short.n_bytes} bytes), found {cause}. It cannot be used. Fetch the "
        'file again; or, if there is no more of it (its header may be wrong), pass truncated="accept" to take what is '
        "there.",
        clip=clip,
        n_bytes=short.n_bytes,
        cause=cause,
        seconds=short.seconds,
        promised=short.promised,
    )

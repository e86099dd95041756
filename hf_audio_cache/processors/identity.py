"""The identity of a processor: everything that can change what it makes of a waveform.

An attribute that nobody knows costs a needless miss at worst, never a stale hit: all of them count, arrays and tensors
by their content, and what has no canonical form is refused. A processor is looked at for every batch, so a change of it
gives another identity at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UnfingerprintableProcessorError
from ..support.torch_module import loaded_torch
from .description import Describer
from .determinism import random_state_kept
from .difference import differences
from .extractor import NamedFunction, attribute, audio_part, extract, name_of, use_one_torch_thread_after_fork
from .output_specs import made_up_sound
from .ownership import Owner, owner_of
from .watch import Watch

logger = logging.getLogger(__name__)

# Of the form of descriptions. Another one gives every processor another identity.
SCHEME = 3
# Counts the lengths of made-up sound that a front end was not called with before.
_LENGTHS = itertools.count(1)


@dataclass(frozen=True)
class ProcessorIdentity:
    """What a processor is, and the digest of that."""

    sha: str  # sha256 of `description`, as 64 hexadecimal digits
    description: dict[str, Any]  # the readable form, of JSON values only: class, state, call arguments, code

    @classmethod
    def of(cls, description: dict[str, Any]) -> ProcessorIdentity:
        """Return the identity of what `description` says."""
        text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return cls(hashlib.sha256(text.encode()).hexdigest(), description)

    @property
    def scheme(self) -> int:
        """Version of the form of the description; descriptions of two versions cannot be compared."""
        return int(self.description.get("scheme", 1))


def processor_sha256(
    processor: Any,
    *,
    processor_kwargs: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    nonfinite: str = "error",
    sampling_rate: int | None = None,
) -> str:
    """Return the identity of a processor as 64 hexadecimal digits.

    A processor, its feature extractor, a copy of it, and the same one loaded from a directory have one identity. A
    front end of your own is called on a second of made-up sound first, so that what it makes only once is there.

    Parameters
    ----------
    processor
        A feature extractor, or a processor that has one. Tokenizers don't count.
    processor_kwargs
        The arguments that it is called with.
    dtype, nonfinite
        What its outputs are rounded to, and whether they may be infinite or NaN, as in `CachedFeatures`.
    sampling_rate
        Rate of the made-up sound in Hz, for a front end of your own that has no such attribute.

    Returns
    -------
    str
        The ``processor_sha`` of an `AudioCacheKey`; its first twelve digits stand in names of entries.

    Raises
    ------
    UnfingerprintableProcessorError
        If the state of a part of it cannot be seen, or each call changes it; the message names the attribute.
    ProcessorError
        If it has no audio part.
    """
    kwargs = processor_kwargs or {}
    fingerprinter = Fingerprinter(processor, kwargs, dtype=dtype, nonfinite=nonfinite, sampling_rate=sampling_rate)
    return fingerprinter.identity().sha


def class_sha256(kind: type) -> str:
    """Return a digest of the code of a class of one's own, and of all that it reaches.

    Raises UnfingerprintableProcessorError if the state of a part of it cannot be seen.
    """
    return ProcessorIdentity.of(Describer().describe(None, {kind.__qualname__: kind})).sha


class Fingerprinter:
    """Gives a processor its identity, as often as it is asked; see `processor_sha256`.

    The processor is described once, and again where anything that was seen then has changed. The first of a process
    takes some tenths of a second, and seconds if it is one's own and holds a tokenizer.
    """

    def __init__(
        self,
        processor: Any,
        processor_kwargs: Mapping[str, Any],
        *,
        dtype: str | None = None,
        nonfinite: str = "error",
        sampling_rate: int | None = None,
        channels: str | int = "mean",
    ) -> None:
        self._processor = processor
        self._processor_kwargs = processor_kwargs
        self._settings: dict[str, Any] = {"scheme": SCHEME} | ({} if dtype is None else {"dtype": dtype})
        if nonfinite != "error":
            self._settings["nonfinite"] = nonfinite
        self._sampling_rate = sampling_rate
        self._channels = channels
        self._counts_left_out = True
        self._last: tuple[Any, Watch, dict[str, Any], ProcessorIdentity] | None = None

    def identity(self) -> ProcessorIdentity:
        """Return the identity of the processor as it is now."""
        use_one_torch_thread_after_fork()
        extractor, last = audio_part(self._processor), self._last
        if last is not None and self._is_as_last(extractor):
            return last[3]
        if isinstance(extractor, NamedFunction):
            return self._describe(extractor)
        is_own = owner_of(type(extractor)) is not Owner.FOLLOWED
        if last is None and is_own:
            return self._settled(extractor)
        identity = self._describe(extractor, clear_caches=is_own)
        return self._settled(extractor) if is_own and last is not None and identity != last[3] else identity

    def _is_as_last(self, extractor: Any) -> bool:
        """Return whether an extractor is what was described last."""
        last = self._last
        return last is not None and last[0] is extractor and last[1].is_current() and last[2] == _torch_settings()

    def change_by_calls(self, processor_sha: str) -> str | None:
        """Say what calls have changed since the identity was this one; None if nothing, or by transformers' own."""
        extractor, last = audio_part(self._processor), self._last
        if last is None or isinstance(extractor, NamedFunction) or owner_of(type(extractor)) is Owner.FOLLOWED:
            return None
        if last[3].sha == processor_sha and self._is_as_last(extractor):
            return None
        try:
            identity = self._describe(extractor)
        except UnfingerprintableProcessorError as exc:
            return str(exc)
        if identity.sha == processor_sha:
            return None
        self._last = last  # the next batch finds that it changed, and lets it settle
        return "; ".join(map(str, differences(last[3].description, identity.description)[:3]))

    def _settled(self, extractor: Any) -> ProcessorIdentity:
        """Return the identity of a front end of one's own, after what its calls make once is there."""
        # Pickling may leave out a cache that each clip changes.
        for self._counts_left_out in (True, False):
            before = last = None
            self._describe(extractor, clear_caches=True)
            for more in (0, next(_LENGTHS), next(_LENGTHS)):  # of new lengths: what is kept for each shows
                self._call(extractor, 1 + more % 1000 / 2000)
                identity = self._describe(extractor)
                if identity == before:
                    return identity
                before, last = identity, before
        raise _unsettled(last, identity, name_of(extractor))

    def _call(self, extractor: Any, seconds: float) -> None:
        rate = self._sampling_rate or attribute(extractor, "sampling_rate") or 16_000
        sound = made_up_sound(seconds, int(rate), self._channels)
        with random_state_kept():
            try:
                extract(extractor, sound, int(rate), self._processor_kwargs)
            except Exception as exc:  # noqa: BLE001 - whatever an extractor raises for a clip that is not the user's
                logger.info("%s failed on a made-up clip: %s", type(extractor).__name__, exc)

    def _describe(self, extractor: Any, *, clear_caches: bool = False) -> ProcessorIdentity:
        describer = Describer(clear_caches=clear_caches, counts_left_out=self._counts_left_out)
        settings = _torch_settings()
        is_named = isinstance(extractor, NamedFunction)
        try:
            described = describer.describe(None if is_named else extractor, self._processor_kwargs)
        except UnfingerprintableProcessorError:
            raise
        except Exception as exc:  # whatever objects raise that do not bear to be looked at
            raise UnfingerprintableProcessorError(
                f"Changes of the processor {name_of(extractor)} could not be noticed, so nothing was cached: looking "
                f'at it raises {type(exc).__name__}: {exc}. Pass identity="my-front-end-v1" to CachedFeatures, and '
                "another name whenever the front end computes something else.",
                path="processor",
            ) from exc
        described |= self._settings
        if is_named:
            described["identity"] = extractor.identity
        elif describer.uses_torch and settings:
            described["torch"] = settings
        identity = ProcessorIdentity.of(described)
        self._last = extractor, describer.watch, settings, identity
        return identity


def _torch_settings() -> dict[str, str]:
    """Return the settings of torch's that change bits, where they are not what they are by default."""
    torch, found = loaded_torch(), {}
    if torch is None:
        return {}
    if torch.get_float32_matmul_precision() != "highest":
        found["float32_matmul_precision"] = torch.get_float32_matmul_precision()
    if torch.get_default_dtype() is not torch.float32:
        found["default_dtype"] = str(torch.get_default_dtype())
    with contextlib.suppress(TypeError):  # before 2.4 it takes no device
        if torch.is_autocast_enabled("cpu"):
            found["autocast"] = str(torch.get_autocast_dtype("cpu"))
    return found


def _unsettled(before: ProcessorIdentity | None, now: ProcessorIdentity, name: str) -> UnfingerprintableProcessorError:
    found = differences({} if before is None else before.description, now.description)
    path = found[0].path if found else ""
    return UnfingerprintableProcessorError(
        f"Each call of {name} changes it, so no two clips would have the same key, and nothing was cached. Keep what "
        'changes outside of it, or pass identity="my-front-end-v1" to CachedFeatures, and another name whenever it '
        f"computes something else. What changes: {'; '.join(map(str, found[:3]))}.",
        path=path,
    )

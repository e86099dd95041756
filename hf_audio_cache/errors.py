"""Everything this package raises, as one tree.

    HfAudioCacheError
    ├── InvalidKeyError(ValueError)                  a field of a key, a rate or a cap is invalid
    ├── InvalidNameError(ValueError)                 a name in a store could leave the root
    ├── InvalidRootError(ValueError)                 no store can be at this root
    ├── UnstorableOutputError(TypeError)             no entry can hold this output
    ├── SigningKeyError(ValueError)                  signing keys are unusable or missing
    ├── CorruptEntryError(ValueError)                stored bytes are not the entry they should be
    │   └── UnsignedEntryError                       they have no signature by one of our keys
    ├── UnknownVersionError(ValueError)              a later release wrote these stored bytes
    ├── StoreError(OSError)                          a store could not read, write, list or delete
    ├── ArchiveError(ValueError)                     a file is not an archive of entries
    ├── ClusterError(RuntimeError)                   workers on a cluster left rows undone
    ├── MissingEntryError(LookupError)               the entry of a reference is gone
    ├── CannotSkipError(ValueError)                  on_error="skip", where no row can be left out
    ├── AudioColumnError(LookupError)                there is no such audio column, or features are of another one
    ├── AudioError(ValueError)                       a clip gives no features (see `on_error`)
    │   ├── AudioSourceError                         its encoded bytes cannot be read
    │   ├── AudioDecodeError                         its bytes cannot be decoded
    │   │   └── TruncatedAudioError                  some of what its header promises is not there
    │   ├── AudioTooLongError                        it is longer than the cap, and longer="error"
    │   ├── SamplingRateError                        it has another rate, and auto_resample is off
    │   ├── AudioExtractionError                     the processor failed on its waveform
    │   └── RandomOutputError                        the processor gives random features for it
    ├── ProcessorError(TypeError)                    the processor cannot be called for audio
    └── UnfingerprintableProcessorError(TypeError)   part of its state has no canonical form

Every class has what its message names as fields, and survives pickling out of a worker process.
"""

from __future__ import annotations

import copy
import re

__all__ = [
    "ArchiveError",
    "AudioColumnError",
    "AudioDecodeError",
    "AudioError",
    "AudioExtractionError",
    "AudioSourceError",
    "AudioTooLongError",
    "CannotSkipError",
    "ClusterError",
    "CorruptEntryError",
    "HfAudioCacheError",
    "InvalidKeyError",
    "InvalidNameError",
    "InvalidRootError",
    "MissingEntryError",
    "ProcessorError",
    "RandomOutputError",
    "SamplingRateError",
    "SigningKeyError",
    "StoreError",
    "TruncatedAudioError",
    "UnfingerprintableProcessorError",
    "UnknownVersionError",
    "UnsignedEntryError",
    "UnstorableOutputError",
]


class HfAudioCacheError(Exception):
    """Base class of every error that this package raises."""

    # Exceptions are pickled as class, message and attributes. Fields are attributes with defaults, so that this works.


class InvalidKeyError(HfAudioCacheError, ValueError):
    """The ``field`` of a key has a value, ``actual``, that the format does not allow."""

    def __init__(self, message: str, *, field: str = "", actual: object = None) -> None:
        super().__init__(message)
        self.field = field
        self.actual = actual


class InvalidNameError(HfAudioCacheError, ValueError):
    """The ``name`` of an object is absolute, could leave the root, or is not a path."""

    def __init__(self, message: str, *, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class InvalidRootError(HfAudioCacheError, ValueError):
    """A cache cannot be at ``root``."""

    def __init__(self, message: str, *, root: str = "") -> None:
        super().__init__(message)
        self.root = root


class UnstorableOutputError(HfAudioCacheError, TypeError):
    """No entry, such as that of ``key``, can hold the output ``name`` of a processor."""

    def __init__(self, message: str, *, name: str = "", key: object = None) -> None:
        super().__init__(message)
        self.name = name
        self.key = key


class SigningKeyError(HfAudioCacheError, ValueError):
    """Keys for signing entries are too short, missing, or in a file ``path`` that others can read."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class CorruptEntryError(HfAudioCacheError, ValueError):
    """Stored bytes are not the entry they should be. The caches count a miss."""


class UnsignedEntryError(CorruptEntryError):
    """An entry in a signed root has no signature by one of the keys."""


class UnknownVersionError(HfAudioCacheError, ValueError):
    """An entry or a manifest of a later version of the format; the caches turn it into a miss, and leave it there."""


class StoreError(HfAudioCacheError, OSError):
    """A store failed for the object ``name``. The caches count a miss, or a lost write.

    ``errno`` is the system's error number, if there is one. ``kind`` says what may be done about it:

    - ``"throttled"``: too many requests; later it may succeed.
    - ``"unreachable"``: no answer, a broken one, or an error of the server itself.
    - ``"denied"``: by the store's permissions.
    - ``"unauthenticated"``: the store takes the credentials for none: they have expired, or are wrong or missing.
    - ``"no bucket"``: there is no such bucket or container.
    - ``"circuit open"``: the store failed too often, and is not asked for a while.
    - ``"read-only"``: the user wants nothing written.
    - ``"later version"``: an entry that a later release wrote is in its place, and stays.
    - ``""``: anything else.
    """

    def __init__(self, message: str, *, name: str = "", errno: int | None = None, kind: str = "") -> None:
        super().__init__(message)
        self.name = name
        self.errno = errno
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        # OSError keeps its errno outside of the attributes that are pickled.
        return type(self), self.args, {"name": self.name, "errno": self.errno, "kind": self.kind}


class ArchiveError(HfAudioCacheError, ValueError):
    """The file at ``path`` is not an archive of entries, or is incomplete."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class ClusterError(HfAudioCacheError, RuntimeError):
    """Workers on a cluster ended before all rows were done; what they stored stays."""


class MissingEntryError(HfAudioCacheError, LookupError):
    """The entry of a reference, ``key`` under ``root``, does not exist any more."""

    def __init__(self, message: str, *, key: object = None, root: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.root = root


class CannotSkipError(HfAudioCacheError, ValueError):
    """Bad clips should be skipped where `datasets` cannot leave a row out."""


class AudioColumnError(HfAudioCacheError, LookupError):
    """There is no audio ``column``, or references were not made from it; there are ``columns``."""

    def __init__(self, message: str, *, column: str = "", columns: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.column = column
        self.columns = columns


class AudioError(HfAudioCacheError, ValueError):
    """The clip named ``clip`` gives no features."""

    def __init__(self, message: str, *, clip: str = "") -> None:
        super().__init__(message)
        self.clip = clip

    def of(self, clip: str) -> AudioError:
        """Return this error for another clip with the same content."""
        if clip == self.clip:
            return self
        as_a_word = rf"(?<![\w./-]){re.escape(self.clip)}(?![\w/-])"
        error = self._saying(re.sub(as_a_word, lambda _: clip, str(self)))
        error.clip = clip
        return error

    def adding(self, sentences: str) -> AudioError:
        """Return this error with more in its message."""
        return self._saying(f"{self} {sentences}")

    def _saying(self, message: str) -> AudioError:
        error = copy.copy(self)
        error.args, error.__cause__ = (message,), self.__cause__
        return error


class AudioSourceError(AudioError):
    """The encoded bytes of a clip cannot be read: no such file, an unknown form of cell, or None."""


class AudioDecodeError(AudioError):
    """The ``n_bytes`` encoded bytes of a clip cannot be decoded; ``cause`` is what was found instead."""

    def __init__(self, message: str, *, clip: str = "", n_bytes: int = 0, cause: str = "") -> None:
        super().__init__(message, clip=clip)
        self.n_bytes = n_bytes
        self.cause = cause


class TruncatedAudioError(AudioDecodeError):
    """Only ``seconds`` of a clip are there, of the ``promised`` seconds that its header states (None if unknown)."""

    def __init__(
        self,
        message: str,
        *,
        clip: str = "",
        n_bytes: int = 0,
        cause: str = "",
        seconds: float = 0.0,
        promised: float | None = None,
    ) -> None:
        super().__init__(message, clip=clip, n_bytes=n_bytes, cause=cause)
        self.seconds = seconds
        self.promised = promised


class AudioTooLongError(AudioError):
    """A clip is longer than ``max_seconds``, and ``longer="error"`` wants no part of it."""

    def __init__(self, message: str, *, clip: str = "", max_seconds: float = 0.0) -> None:
        super().__init__(message, clip=clip)
        self.max_seconds = max_seconds


class SamplingRateError(AudioError):
    """A clip's rate is ``actual`` Hz, not ``expected`` Hz, and it may not be resampled."""

    def __init__(self, message: str, *, clip: str = "", expected: int = 0, actual: int = 0) -> None:
        super().__init__(message, clip=clip)
        self.expected = expected
        self.actual = actual


class AudioExtractionError(AudioError):
    """The processor failed on a clip, for example because it is too short.

    It raised an exception, or ``count`` values of its ``output`` are not finite, or that has no frames.
    """

    def __init__(self, message: str, *, clip: str = "", output: str = "", count: int = 0) -> None:
        super().__init__(message, clip=clip)
        self.output = output
        self.count = count


class RandomOutputError(AudioError):
    """The processor's output for a clip is random, so it must not be kept."""


class ProcessorError(HfAudioCacheError, TypeError):
    """The processor has no audio part that can be called, or its output has an unknown form."""


class UnfingerprintableProcessorError(HfAudioCacheError, TypeError):
    """The attribute at ``path`` has no canonical form, so the processor has no identity."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path

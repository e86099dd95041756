"""Everything this package raises, as one tree.

    HfAudioCacheError
    ├── InvalidKeyError(ValueError)                  a field of a key, a rate or a cap that cannot be one
    ├── InvalidNameError(ValueError)                 a store name that could leave the root
    ├── InvalidRootError(ValueError)                 a root that no store can serve
    ├── UnstorableOutputError(TypeError)             an output that no entry can hold
    ├── SigningKeyError(ValueError)                  signing keys that are unusable, or not to be had
    ├── CorruptEntryError(ValueError)                stored bytes that are not the entry they should be
    │   └── UnsignedEntryError                       they have no signature that our keys made
    ├── StoreError(OSError)                          a store could not read, write, list or delete
    ├── ArchiveError(ValueError)                     a file that is no archive of entries
    ├── ClusterError(RuntimeError)                   workers on a cluster that did not see to all rows
    ├── MissingEntryError(LookupError)               a reference whose entry is gone
    ├── CannotSkipError(ValueError)                  on_error="skip" where no row can be left out
    ├── AudioColumnError(LookupError)                the batch has no such audio column
    ├── AudioError(ValueError)                       this clip gives no features (see `on_error`)
    │   ├── AudioSourceError                         its encoded bytes cannot be had
    │   ├── AudioDecodeError                         its bytes are not audio that can be decoded
    │   ├── SamplingRateError                        it has another rate, and resampling was not asked for
    │   ├── AudioExtractionError                     the processor failed on its waveform
    │   └── RandomOutputError                        the processor gives it other features each time
    ├── ProcessorError(TypeError)                    this processor cannot be called for audio
    └── UnfingerprintableProcessorError(TypeError)   part of its state has no canonical form

Every class keeps what it speaks of in fields, and survives pickling out of a worker process.
"""

from __future__ import annotations

import copy

__all__ = [
    "ArchiveError",
    "AudioColumnError",
    "AudioDecodeError",
    "AudioError",
    "AudioExtractionError",
    "AudioSourceError",
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
    "UnfingerprintableProcessorError",
    "UnsignedEntryError",
    "UnstorableOutputError",
]


class HfAudioCacheError(Exception):
    """Base class of every error that this package raises."""

    # Fields are set as attributes and default to nothing, so that the pickling that every exception
    # has (its class, its message, its attributes) rebuilds it.


class InvalidKeyError(HfAudioCacheError, ValueError):
    """A field of a key is not what the format allows; ``field`` names it, ``actual`` is its value."""

    def __init__(self, message: str, *, field: str = "", actual: object = None) -> None:
        super().__init__(message)
        self.field = field
        self.actual = actual


class InvalidNameError(HfAudioCacheError, ValueError):
    """A store was asked for a ``name`` that is absolute, leaves the root, or is no path at all."""

    def __init__(self, message: str, *, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class InvalidRootError(HfAudioCacheError, ValueError):
    """``root`` is not a place where a cache can be."""

    def __init__(self, message: str, *, root: str = "") -> None:
        super().__init__(message)
        self.root = root


class UnstorableOutputError(HfAudioCacheError, TypeError):
    """The output ``name`` of a processor is nothing that an entry can hold."""

    def __init__(self, message: str, *, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class SigningKeyError(HfAudioCacheError, ValueError):
    """Keys for signing entries are too short, readable for others (in the file ``path``), or not known here."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class CorruptEntryError(HfAudioCacheError, ValueError):
    """Stored bytes that are not the entry they should be; the caches turn it into a miss."""


class UnsignedEntryError(CorruptEntryError):
    """An entry under a signed root that none of the keys signed."""


class StoreError(HfAudioCacheError, OSError):
    """A store failed at the object ``name``; the caches turn it into a miss, or a lost write.

    ``errno`` is the system's error number, if there is one. ``kind`` says what may be done about it:

    - ``"throttled"``: too many requests; later it may succeed.
    - ``"unreachable"``: no answer, a broken one, or an error of the server itself.
    - ``"denied"``: by the store's permissions, or for its credentials.
    - ``"no bucket"``: there is no such bucket or container.
    - ``"circuit open"``: the store failed too often, and is not asked for a while.
    - ``"read-only"``: the user wants nothing written.
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
    """The file at ``path`` is no archive of entries, or not a whole one."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class ClusterError(HfAudioCacheError, RuntimeError):
    """Workers on a cluster ended before all rows were seen to; what they stored stays."""


class MissingEntryError(HfAudioCacheError, LookupError):
    """A reference points to ``key`` under ``root``, and there is no such entry any more."""

    def __init__(self, message: str, *, key: object = None, root: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.root = root


class CannotSkipError(HfAudioCacheError, ValueError):
    """Bad clips were to be skipped, where `datasets` gives no way to leave a row out."""


class AudioColumnError(HfAudioCacheError, LookupError):
    """The batch has no audio ``column``; ``columns`` are those that it has."""

    def __init__(self, message: str, *, column: str = "", columns: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.column = column
        self.columns = columns


class AudioError(HfAudioCacheError, ValueError):
    """No features can be made of the clip that ``clip`` names."""

    def __init__(self, message: str, *, clip: str = "") -> None:
        super().__init__(message)
        self.clip = clip

    def of(self, clip: str) -> AudioError:
        """Return the same error of another clip, which has the same content."""
        if clip == self.clip:
            return self
        error = copy.copy(self)
        error.clip, error.args = clip, (str(self).replace(self.clip, clip),)
        return error


class AudioSourceError(AudioError):
    """The encoded bytes of a clip cannot be had: no such file, no such form of cell, or None."""


class AudioDecodeError(AudioError):
    """The ``n_bytes`` encoded bytes of a clip are not audio that can be decoded; ``cause`` says why."""

    def __init__(self, message: str, *, clip: str = "", n_bytes: int = 0, cause: str = "") -> None:
        super().__init__(message, clip=clip)
        self.n_bytes = n_bytes
        self.cause = cause


class SamplingRateError(AudioError):
    """A clip's rate (``actual``, Hz) is not the wanted one (``expected``, Hz), and stays as it is."""

    def __init__(self, message: str, *, clip: str = "", expected: int = 0, actual: int = 0) -> None:
        super().__init__(message, clip=clip)
        self.expected = expected
        self.actual = actual


class AudioExtractionError(AudioError):
    """The processor raised something for the waveform of a clip, such as one that is too short for it."""


class RandomOutputError(AudioError):
    """The processor's output for a clip is random, so that none of its draws may be kept."""


class ProcessorError(HfAudioCacheError, TypeError):
    """The processor has no audio part that can be called, or its output is not of a known form."""


class UnfingerprintableProcessorError(HfAudioCacheError, TypeError):
    """The attribute at ``path`` has no canonical form, so no identity can be given to the processor."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path

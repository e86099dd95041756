"""The two caches: keys, entries and a store put together.

Neither ever returns a wrong array, nor raises for what it finds: a bad entry is a miss (counted, deleted, replaced), an
entry of a later version of the format is a miss (counted, left as it is), an object that cannot be read is a miss, and
a write that fails is counted and warned of once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import (
    CorruptEntryError,
    HfAudioCacheError,
    SigningKeyError,
    StoreError,
    UnknownVersionError,
    UnsignedEntryError,
    UnstorableOutputError,
)
from ..stores import Store
from ..support.threads import in_threads
from .entry import Entry, check_signature, encode_entry, open_entry
from .keys import AudioCacheKey, WaveformCacheKey
from .layout import FEATURES, WAVEFORMS, finished_name, is_entry
from .root import CacheRoot, as_cache_root
from .stats import Counters, Stats

__all__ = ["AudioCache", "WaveformCache"]

logger = logging.getLogger(__name__)

KeyT = TypeVar("KeyT", AudioCacheKey, WaveformCacheKey)


class _Cache(Generic[KeyT]):
    """What the two caches share; see them."""

    _key_type: type[KeyT]
    _folder: str
    _hits: str
    _misses: str

    def __init__(
        self,
        root: str | os.PathLike[str] | CacheRoot,
        *,
        counters: Counters | None = None,
        on_use: Callable[[Sequence[str]], None] | None = None,
        store: Store | None = None,
    ) -> None:
        root = as_cache_root(root, compression=None)
        self.compression = root.compression
        self._store = root.open_store() if store is None else store
        self._strict = root.strict
        self._signing_keys = root.signing_keys
        self._counters = counters or Counters()
        self._on_use = on_use
        self._warned = False
        self._has_later_versions = False

    @property
    def root(self) -> Path | str:
        """Where the cache is: a path on a local disk, else the full URL."""
        return self._store.location()

    @property
    def stats(self) -> Stats:
        """What was read and written so far."""
        return self._counters.total()

    def path_for(self, key: KeyT) -> Path | str:
        """Return where the entry of `key` is or would be: a path on a local disk, else the full URL."""
        return self._store.location(self._name(key))

    def exists(self, key: KeyT) -> bool:
        """Return whether there is an entry of this name; only reading it tells whether it is a good one.

        In a signed root it is read as far as its signature: what somebody else put there counts as absent.
        """
        return self.exists_many([key])[0]

    def exists_many(self, keys: Sequence[KeyT]) -> list[bool]:
        """Return `exists` for each key."""
        names = [self._name(key) for key in keys]
        if self._signing_keys is None:
            return self._store.exists_many(names)
        return [self._is_signed(name, found) for name, found in zip(names, self._store.get_many(names), strict=True)]

    def _is_signed(self, name: str, found: bytes | StoreError | None) -> bool:
        if not isinstance(found, bytes):
            return False
        try:
            self._check_signature(name, found)
        except UnsignedEntryError:
            return False
        return True

    def _check_signature(self, name: str, found: bytes) -> None:
        if self._signing_keys is not None:
            check_signature(found, name, self._signing_keys)

    def _read_many(self, keys: Sequence[KeyT], pick: Callable[[Entry], Any]) -> list[Any]:
        """Return ``pick(entry)`` for each key, or None where there is no good entry; one batch of reads."""
        started = time.perf_counter()
        names = [self._name(key) for key in keys]
        found = self._store.get_many(names)
        opened = in_threads(lambda each: self._open_found(*each, pick), list(zip(names, keys, found, strict=True)))
        once_took = sum(compute_seconds for _, compute_seconds in opened)
        values = [value for value, _ in opened]
        hits = [name for name, value in zip(names, values, strict=True) if value is not None]
        self.note_use(hits)
        self._counters.add(
            **{self._hits: len(hits), self._misses: len(values) - len(hits)},
            bytes_read=sum(len(content) for content in found if isinstance(content, bytes)),
            read_errors=sum(isinstance(content, StoreError) for content in found),
            seconds_saved=once_took - (time.perf_counter() - started) if once_took else 0.0,
        )
        return values

    def note_use(self, names: Sequence[str]) -> None:
        """Say to whoever wants to know that the entries of these names were used."""
        if self._on_use is not None and names:
            self._on_use(names)

    def _open_found(
        self, name: str, key: KeyT, found: bytes | StoreError | None, pick: Callable[[Entry], Any]
    ) -> tuple[Any, float]:
        if isinstance(found, StoreError):
            self._fail(found, "what it holds is computed anew")
        return self._open(name, key, found, pick) if isinstance(found, bytes) else (None, 0.0)

    def _open(self, name: str, key: KeyT, found: bytes, pick: Callable[[Entry], Any]) -> tuple[Any, float]:
        """Return ``pick`` of an entry and what it took to compute; None where it is not a good one."""
        reason: Exception
        try:
            return self._pick(name, key, found, pick)
        except SigningKeyError:
            raise  # it says nothing of the entry
        except UnknownVersionError as exc:
            self._leave(name, exc)
            return None, 0.0
        except Exception as exc:  # noqa: BLE001 - whatever a crafted frame or shape makes numpy or Blosc raise
            reason = exc
        [again] = self._store.get_again([name])
        if isinstance(again, bytes) and again != found:  # a copy was bad, or what came over the network
            self._counters.add(bad_entries=1)
            with contextlib.suppress(Exception):
                return self._pick(name, key, again, pick)
            where = self._store.location(name)
            self._warn(f"the entry {where} was read twice, bad in two ways, and counts as a miss: {reason}")
        elif isinstance(again, StoreError):  # what it is a copy of may be good
            self._counters.add(bad_entries=1, read_errors=1)
            self._fail(again, "what it holds is computed anew")
        elif isinstance(reason, UnsignedEntryError):
            self._ignore(name, reason)
        else:
            self._discard(name, reason)
        return None, 0.0

    def _pick(self, name: str, key: KeyT, found: bytes, pick: Callable[[Entry], Any]) -> tuple[Any, float]:
        self._check_signature(name, found)
        entry = open_entry(found, key)
        return pick(entry), entry.compute_seconds

    def put_many(self, entries: Mapping[KeyT, Mapping[str, Any]], *, compute_seconds: float = 0.0) -> bool:
        """Store the outputs of each key; return whether all of them were kept.

        An entry of a later version of the format stays as it is.

        Raises
        ------
        UnstorableOutputError
            If an output is nothing that an entry can hold.
        """
        free = self._without_later_versions(entries)
        return not self.store_many(free, compute_seconds=compute_seconds) and len(free) == len(entries)

    def store_many(
        self, entries: Mapping[KeyT, Mapping[str, Any]], *, compute_seconds: float = 0.0
    ) -> list[StoreError]:
        """Do as `put_many`, for entries that were looked for before; return why some could not be stored."""
        objects: dict[str, bytes] = {}
        if self._has_later_versions:
            entries = self._without_later_versions(entries)
        failed = self._store.refuse_puts([self._name(key) for key in entries])
        if not failed:
            objects = {
                self._name(key): encode_entry(
                    key,
                    outputs,
                    compression=self.compression,
                    compute_seconds=compute_seconds / len(entries),
                    signing_keys=self._signing_keys,
                )
                for key, outputs in entries.items()
            }
            failed = self._store.put_many(objects)
        written = sum(len(content) for name, content in objects.items() if name not in failed)
        self.note_use([name for name in objects if name not in failed])
        by_fault = [error for error in failed.values() if error.kind != "read-only"]
        self._counters.add(bytes_written=written, write_errors=len(by_fault))
        for error in by_fault:
            self._fail(error, "the run goes on without it")
        return list(failed.values())

    def _without_later_versions(self, entries: Mapping[KeyT, Mapping[str, Any]]) -> dict[KeyT, Mapping[str, Any]]:
        """Return the entries that may be stored: those whose place no entry of a later version has."""
        found = self._store.get_many([self._name(key) for key in entries])
        free: dict[KeyT, Mapping[str, Any]] = {}
        for (key, outputs), there in zip(entries.items(), found, strict=True):
            error = self.check(key.name(), there) if isinstance(there, bytes) else None
            if isinstance(error, UnknownVersionError):
                self._leave(key.name(), error)
            else:
                free[key] = outputs
        return free

    def clear(self) -> int:
        """Delete every entry of this cache, and what interrupted writers left; return how many files that were.

        Only files of this cache's own names are deleted: never a stranger's, never one outside the root.

        Raises
        ------
        StoreError
            If the root cannot be listed, or an entry not be deleted.
        """
        own = [name for name in self._store.names() if self.owns(name)]
        for error in self._store.delete(own).values():
            raise error
        return len(own)

    @classmethod
    def owns(cls, name: str) -> bool:
        """Return whether `name`, a file's path under the root of such a cache, is that of an entry, finished or not."""
        return is_entry(finished_name(f"{cls._folder}/{name}"))

    def check_many(self, names: Sequence[str]) -> list[HfAudioCacheError | None]:
        """Return, for the entry of each name, what is wrong with it: it is read whole, and all of it is decoded."""
        return [
            # Else deleted since it was listed, or why it could not be read.
            self.check(name, found) if isinstance(found, bytes) else found
            for name, found in zip(names, self._store.get_many(names), strict=True)
        ]

    def check(self, name: str, found: bytes) -> HfAudioCacheError | None:
        """Return what is wrong with the bytes of an entry under this name; all of it is decoded."""
        try:
            self._check_signature(name, found)
            entry = open_entry(found, None)
            self._outputs(entry)
            if entry.key is not None and self._key_type(**entry.key).name() != name:
                return CorruptEntryError(f"it is the entry of another key, {entry.key!r}")
        except SigningKeyError:
            raise
        except HfAudioCacheError as exc:
            return exc
        except Exception as exc:  # noqa: BLE001 - as in _open
            return CorruptEntryError(f"{type(exc).__name__}: {exc}")
        return None

    @staticmethod
    def _outputs(entry: Entry) -> Any:
        """Return what `get` would make of an entry.

        Raises
        ------
        CorruptEntryError
            If that is nothing for this cache.
        """
        raise NotImplementedError

    def _name(self, key: KeyT) -> str:
        if not isinstance(key, self._key_type):
            raise TypeError(f"{type(self).__name__} takes a {self._key_type.__name__}, not {key!r}; nothing was done.")
        return key.name()

    def _discard(self, name: str, reason: Exception) -> None:
        """Delete a bad entry, where the root can be written; what is computed anew replaces it in any case."""
        self._counters.add(bad_entries=1)
        failed = [error for error in self._store.delete([name]).values() if error.kind != "read-only"]
        self._warn(f"the entry {self._store.location(name)} is bad and counts as a miss: {reason}", *failed)

    def _ignore(self, name: str, reason: Exception) -> None:
        """Count an entry that is not ours to trust. It may be good to those who put it there, so that it stays."""
        self._counters.add(unsigned_entries=1)
        self._warn(f"the entry {self._store.location(name)} counts as a miss: {reason}")

    def _leave(self, name: str, reason: UnknownVersionError) -> None:
        """Count an entry that a later release wrote. It is good to that release, so that it stays."""
        self._has_later_versions = True
        self._counters.add(unknown_versions=1)
        self._warn(f"the entry {self._store.location(name)} counts as a miss and stays: {reason}")

    def _fail(self, error: StoreError, consequence: str) -> None:
        """Go on without what the store could not do; raise it where failures are to end the run."""
        if self._strict:
            raise error
        self._warn(error, consequence)

    def _warn(self, *reasons: object) -> None:
        """Warn of the first thing that goes wrong; the others are counted, and logged as information."""
        level = logging.INFO if self._warned else logging.WARNING
        self._warned = True
        logger.log(level, "%s (further cases are only counted)", "; ".join(map(str, reasons)))


class AudioCache(_Cache[AudioCacheKey]):
    """Features that a processor made, by content.

    Parameters
    ----------
    root
        Where the entries are: a path or a URL, whose new entries are as `numpy.savez` writes them, or a `CacheRoot`,
        which says how the root is reached, compressed and signed. (Of a cache that `CachedFeatures` filled, it is the
        folder ``features``.) Opening a cache creates nothing: the first `put` does.
    counters
        Where to count; by default the cache's own.
    on_use
        Called with the names of entries that were read or written.
    store
        An open store of the entries, in place of the one that `root` describes.
    """

    _key_type = AudioCacheKey
    _hits, _misses = "hits", "misses"
    _folder = FEATURES

    def get(self, key: AudioCacheKey, name: str | None = None) -> Any:
        """Return one output of the entry, or None where there is no good entry of this key.

        Parameters
        ----------
        key
            The key of the entry.
        name
            Which output; by default the one that a model takes: the only one, or ``input_features``, or
            ``input_values``, or the first.

        Returns
        -------
        numpy.ndarray or None
            The array, of the dtype and shape it was stored with (a JSON value, where the output was one). It is the
            caller's own.
        """

        def pick(entry: Entry) -> Any:
            wanted = name or entry.main
            return entry.read(wanted) if wanted in entry.names else None

        return self._read_many([key], pick)[0]

    def get_all(self, key: AudioCacheKey) -> dict[str, Any] | None:
        """Return every output of the entry by name, or None where there is no good entry of this key."""
        return self.get_all_many([key])[0]

    def get_all_many(self, keys: Sequence[AudioCacheKey]) -> list[dict[str, Any] | None]:
        """Return `get_all` for each key; one batch of reads."""
        return self._read_many(keys, self._outputs)

    def peek(self, key: AudioCacheKey) -> dict[str, Any] | None:
        """Return `get_all`, for one who has asked before: nothing is counted, logged or deleted."""
        name = self._name(key)
        found = self._store.get_many([name])[0] if self._store.exists(name) else None
        if not isinstance(found, bytes):
            return None
        with contextlib.suppress(Exception):  # as in _open; it was, or will be, told when it is asked for
            outputs: dict[str, Any] = self._pick(name, key, found, self._outputs)[0]
            self.note_use([name])
            return outputs
        return None

    @staticmethod
    def _outputs(entry: Entry) -> dict[str, Any]:
        return entry.read_all()

    def put(self, key: AudioCacheKey, outputs: npt.NDArray[Any] | Mapping[str, Any]) -> Path | str:
        """Store the outputs of a processor: an array (as ``input_features``), or several by name.

        Returns
        -------
        pathlib.Path or str
            Where the entry is. On a disk that is full or read-only the write is lost, counted and logged.
        """
        self.put_many({key: outputs if isinstance(outputs, Mapping) else {"input_features": outputs}})
        return self.path_for(key)


class WaveformCache(_Cache[WaveformCacheKey]):
    """Decoded waveforms, by content; parameters as for `AudioCache`.

    With compression a waveform that is exactly 16-bit PCM is kept as such; `get` still returns float32.
    """

    _key_type = WaveformCacheKey
    _hits, _misses = "waveform_hits", "waveform_misses"
    _folder = WAVEFORMS

    def get(self, key: WaveformCacheKey) -> npt.NDArray[np.float32] | None:
        """Return the waveform, float32 mono of shape ``(n_samples,)``, or None where there is no good entry."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[WaveformCacheKey]) -> list[npt.NDArray[np.float32] | None]:
        """Return `get` for each key; one batch of reads."""
        return self._read_many(keys, self._outputs)

    @staticmethod
    def _outputs(entry: Entry) -> Any:
        waveform = entry.read("waveform") if entry.names == ("waveform",) else None
        if not _is_waveform(waveform):
            raise CorruptEntryError(f"it holds {entry.names} and not one float32 waveform")
        return waveform

    def put(self, key: WaveformCacheKey, waveform: npt.NDArray[np.float32]) -> Path | str:
        """Store a waveform, float32 mono of shape ``(n_samples,)``; return where it is, as `AudioCache.put` does.

        Raises
        ------
        UnstorableOutputError
            If it is anything else.
        """
        if not _is_waveform(waveform):
            found = f"{getattr(waveform, 'dtype', type(waveform))} {getattr(waveform, 'shape', '')}".strip()
            raise UnstorableOutputError(
                f"a waveform must be a float32 array of shape (n_samples,), not {found}; nothing was stored.",
                name="waveform",
            )
        self.put_many({key: {"waveform": waveform}})
        return self.path_for(key)


def _is_waveform(array: object) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == np.float32 and array.ndim == 1

"""What both caches share: keys, entries and a store put together.

No method returns a wrong array. A damaged entry is a miss, and is deleted and replaced. An entry of a later version is
a miss, and stays. Failed reads are misses; failed writes are counted. The first problem is logged as a warning.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic

from ..audio.length import ClipLength
from ..errors import CorruptEntryError, HfAudioCacheError, SigningKeyError, StoreError, UnknownVersionError
from ..stores import Store
from ..stores.folders import finished_name
from ..support.threads import in_threads
from .bad_entries import BadEntries
from .entry import Entry, encode_entry
from .entry_reader import EntryReader, Pick, give_places
from .keys import KeyT
from .layout import is_entry
from .presence import Presence
from .root import CacheRoot, as_cache_root
from .stats import Counters, Stats


class EntryCache(Generic[KeyT]):
    """Entries of one kind under one root; see `AudioCache` and `WaveformCache`."""

    _key_type: type[KeyT]
    _in_one_array = False  # whether the arrays of a batch are rows of one
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
        self._store = root.open_folder(self._folder) if store is None else store
        self._signing_keys = root.signing_keys
        self._presence = Presence(self._store, self.check, self._signing_keys)
        self._counters = counters or Counters()
        self._bad = BadEntries(self._store, self._counters, strict=root.strict)
        self._reader: EntryReader[KeyT] = EntryReader(self._store, root.signing_keys, self._counters, self._bad)
        self._on_use = on_use

    def __repr__(self) -> str:
        n_read = getattr(self.stats, self._hits)
        return f"{type(self).__name__}({str(self.root)!r}, {n_read:,} {'entry' if n_read == 1 else 'entries'} read)"

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
        """Return whether there is an entry of this name, good or damaged; in a signed root, one with our signature."""
        return self.exists_many([key])[0]

    def exists_many(self, keys: Sequence[KeyT]) -> list[bool]:
        """Return `exists` for each key.

        This asks the root itself, not the near tier. Few keys are asked for one by one, many by listing.
        """
        return self._presence.exist([self._name(key) for key in keys])

    def readable_many(self, keys: Sequence[KeyT]) -> list[bool]:
        """Return, for each key, whether this machine can read an entry: from the near tier or from the root."""
        return self._presence.are_readable([self._name(key) for key in keys])

    def secure_many(self, keys: Sequence[KeyT], *, are_read: bool = False) -> list[bool | StoreError]:
        """Return, for each key, whether the root has its entry now.

        An entry that only the near tier has is first put into the root again; if the root refuses it, the error says
        why. An entry of a later version counts as missing, if that can be seen without the network. (If the entries
        `are_read` next, that shows then, and is not looked for.)
        """
        names = [self._name(key) for key in keys]
        answers, n_bytes = self._presence.secure(names)
        there = [] if are_read else [place for place, answer in enumerate(answers) if answer is True]
        for place, says_short in zip(there, self.say_short_many([keys[place] for place in there]), strict=True):
            answers[place] = says_short is not None
        errors = [answer for answer in answers if isinstance(answer, StoreError) and answer.kind != "read-only"]
        self._counters.add(bytes_written=n_bytes, write_errors=len(errors))
        for error in errors:
            self._bad.fail(error, "only the near tier of this machine has it")
        return answers

    def say_short_many(self, keys: Sequence[KeyT]) -> list[bool | None]:
        """Return, for each entry, whether its manifest says that its clip is not whole; None for a later version.

        Nothing is checked, and False said where only the network could tell.
        """
        names = [self._name(key) for key in keys]
        said: list[bool | None] = []
        for name, manifest in zip(names, self._presence.manifests(names), strict=True):
            if isinstance(manifest, bytes):
                said.append(b'"short":' in manifest)
            else:
                self._bad.leave(name, manifest)
                said.append(None)
        return said

    def _read_many(self, keys: Sequence[KeyT], pick: Pick) -> list[Any]:
        """Return what `pick` gives for each key, or None where there is no good entry; one batch of reads."""
        started = time.perf_counter()
        read = self._reader.open_many([self._name(key) for key in keys], keys)
        if self._in_one_array and len(keys) > 1:
            give_places(opened for _, _, _, opened in read)
        picked = in_threads(lambda each: self._reader.pick_found(*each, pick), read)
        values, hits, n_bytes, n_errors, once_took = [], [], 0, 0, 0.0
        for (name, _, content, _), (value, compute_seconds) in zip(read, picked, strict=True):
            values.append(value)
            if value is not None:
                hits.append(name)
                once_took += compute_seconds
            if isinstance(content, bytes):
                n_bytes += len(content)
            elif content is not None:
                n_errors += 1
        self._counters.add(
            **{self._hits: len(hits), self._misses: len(values) - len(hits)},
            bytes_read=n_bytes,
            read_errors=n_errors,
            seconds_saved=once_took - (time.perf_counter() - started) if once_took else 0.0,
        )
        self.note_use(hits)  # with which a record of the counts may be written
        return values

    def read_many(self, keys: Sequence[KeyT]) -> list[tuple[dict[str, Any], ClipLength | None] | None]:
        """Return every output of each entry by name, with the length of its clip if known; one batch of reads."""
        return self._read_many(keys, self._outputs_and_length)

    def count(self, *, hits: int, misses: int) -> None:
        """Count hits and misses that no read has counted."""
        self._counters.add(**{self._hits: hits, self._misses: misses})

    def open_many(self, keys: Sequence[KeyT]) -> list[Entry | None]:
        """Return each entry, checked and not decoded; None where there is no good one. Counts no hits or misses."""
        read = self._reader.open_many([self._name(key) for key in keys], keys)
        self._counters.add(bytes_read=sum(len(content) for _, _, content, _ in read if isinstance(content, bytes)))
        return [self._reader.pick_found(*each, lambda entry: entry)[0] for each in read]

    def note_use(self, names: Sequence[str]) -> None:
        """Record that the entries of these names were used."""
        if self._on_use is not None and names:
            self._on_use(names)

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
        self,
        entries: Mapping[KeyT, Mapping[str, Any]],
        *,
        compute_seconds: float = 0.0,
        length: ClipLength | None = None,
    ) -> list[StoreError]:
        """Do as `put_many`, for entries that were looked for before; return why some could not be stored."""
        objects: dict[str, bytes] = {}
        left: list[StoreError] = []
        if self._bad.has_later_versions:
            free = self._without_later_versions(entries)
            left = [_of_later_version(self._store, key.name()) for key in entries.keys() - free.keys()]
            entries = free
        failed: dict[str, StoreError] = self._store.refuse_puts([self._name(key) for key in entries])
        if not failed:
            objects = {
                self._name(key): encode_entry(
                    key,
                    outputs,
                    compression=self.compression,
                    compute_seconds=compute_seconds / len(entries),
                    length=length,
                    signing_keys=self._signing_keys,
                )
                for key, outputs in entries.items()
            }
            failed = self._store.put_many(objects)
        written = sum(len(content) for name, content in objects.items() if name not in failed)
        by_fault = [error for error in failed.values() if error.kind != "read-only"]
        self._counters.add(bytes_written=written, write_errors=len(by_fault))
        self.note_use([name for name in objects if name not in failed])
        for error in by_fault:
            self._bad.fail(error, f"the run goes on without it{self._bad.remedy(error)}")
        return [*failed.values(), *left]

    def _without_later_versions(self, entries: Mapping[KeyT, Mapping[str, Any]]) -> dict[KeyT, Mapping[str, Any]]:
        """Return the entries that may be stored: those whose place no entry of a later version has."""
        found = self._store.get_many([self._name(key) for key in entries])
        free: dict[KeyT, Mapping[str, Any]] = {}
        for (key, outputs), there in zip(entries.items(), found, strict=True):
            error = self.check(key.name(), there) if isinstance(there, bytes) else None
            if isinstance(error, UnknownVersionError):
                self._bad.leave(key.name(), error)
            else:
                free[key] = outputs
        return free

    def clear(self) -> int:
        """Delete every entry of this cache and what interrupted writers left; return the number of files.

        Files with other names than this cache gives are never deleted.

        Raises
        ------
        StoreError
            If the root cannot be listed, or an entry not be deleted.
        """
        own = [name for name in self._store.names() if self.owns(name)]
        for error in self._store.delete(own).values():
            raise error
        self._store.tidy()
        return len(own)

    @classmethod
    def owns(cls, name: str) -> bool:
        """Return whether a name under the root of such a cache is that of an entry, finished or not."""
        return is_entry(finished_name(f"{cls._folder}/{name}"))

    def check(self, name: str, found: bytes) -> HfAudioCacheError | None:
        """Return what is wrong with the bytes of an entry of this name; all of it is decoded."""
        try:
            entry = self._reader.checked(name, None, found)
            self._outputs(entry)
            if entry.key is not None and self._key_type(**entry.key).name() != name:
                return CorruptEntryError(f"it is the entry of another key, {entry.key!r}")
        except SigningKeyError:
            raise
        except HfAudioCacheError as exc:
            return exc
        except Exception as exc:  # noqa: BLE001 - whatever crafted bytes make numpy, json or Blosc raise
            return CorruptEntryError(f"{type(exc).__name__}: {exc}")
        return None

    @classmethod
    def _outputs_and_length(cls, entry: Entry) -> tuple[dict[str, Any], ClipLength | None]:
        return cls._outputs(entry), entry.length

    @staticmethod
    def _outputs(entry: Entry) -> dict[str, Any]:
        """Return every output of an entry; raise CorruptEntryError if this cache cannot hold it."""
        return entry.read_all()

    def _name(self, key: KeyT) -> str:
        if not isinstance(key, self._key_type):
            raise TypeError(f"{type(self).__name__} takes a {self._key_type.__name__}, not {key!r}; nothing was done.")
        return key.name()


def _of_later_version(store: Store, name: str) -> StoreError:
    where = store.location(name)
    return StoreError(f"a later release wrote the entry {where}, which stays", name=name, kind="later version")

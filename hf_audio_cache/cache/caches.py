"""The two caches: features by clip and processor, waveforms by clip."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..audio.length import ClipLength
from ..errors import CorruptEntryError, UnstorableOutputError
from .entry import Entry
from .entry_cache import EntryCache
from .keys import AudioCacheKey, WaveformCacheKey
from .layout import FEATURES, WAVEFORMS


class AudioCache(EntryCache[AudioCacheKey]):
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
    _in_one_array = True
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

        Raises
        ------
        TypeError
            If `key` is no `AudioCacheKey`.
        StoreError
            If a strict root (``CacheRoot(strict=True)``) cannot be read; otherwise that is a miss.

        Examples
        --------
        >>> cache = AudioCache("/data/audio-cache/features")                            # doctest: +SKIP
        >>> key = AudioCacheKey(blob_sha, cached_features.processor_sha, 16_000, 0)     # doctest: +SKIP
        >>> cache.get(key).shape                                                        # doctest: +SKIP
        (80, 3000)
        """

        def pick(entry: Entry) -> Any:
            wanted = name or entry.main
            return entry.read(wanted) if wanted in entry.names else None

        return self._read_many([key], pick)[0]

    def get_all(self, key: AudioCacheKey) -> dict[str, Any] | None:
        """Return every output of the entry by name, or None where there is no good entry of this key.

        Parameters
        ----------
        key
            The key of the entry.

        Returns
        -------
        dict of str to numpy.ndarray, or None
            The outputs, each as `get` returns it.

        Raises
        ------
        TypeError, StoreError
            As `get`.
        """
        return self.get_all_many([key])[0]

    def get_all_many(self, keys: Sequence[AudioCacheKey]) -> list[dict[str, Any] | None]:
        """Return `get_all` for each key; one batch of reads.

        Arrays of one output, dtype and shape are rows of one array: one that you keep keeps the memory of all of them.
        Copy it if you keep few.

        Parameters
        ----------
        keys
            The keys of the entries.

        Returns
        -------
        list
            The outputs for each key, in the order of `keys`; None for each miss.

        Raises
        ------
        TypeError, StoreError
            As `get`.
        """
        return self._read_many(keys, self._outputs)

    def peek(self, key: AudioCacheKey) -> tuple[dict[str, Any], ClipLength | None] | None:
        """Return `read_many` again, for a key that was a miss before: nothing is counted, logged or deleted."""
        name = self._name(key)
        [found] = self._store.get_many([name])
        if not isinstance(found, bytes):
            return None
        with contextlib.suppress(Exception):  # whatever crafted bytes raise; it is told when the entry is asked for
            read: tuple[dict[str, Any], ClipLength | None]
            read, _ = self._reader.pick(name, key, found, self._outputs_and_length)
            self.note_use([name])
            return read
        return None

    def put(self, key: AudioCacheKey, outputs: npt.NDArray[Any] | Mapping[str, Any]) -> Path | str:
        """Store the outputs of a processor: an array (as ``input_features``), or several by name.

        Parameters
        ----------
        key
            The key of the entry.
        outputs
            An array of any shape, of booleans or numbers; or arrays and JSON values by name.

        Returns
        -------
        pathlib.Path or str
            Where the entry is. On a disk that is full or read-only the write is lost, counted and logged.

        Raises
        ------
        UnstorableOutputError
            If no entry can hold an output, such as an array of strings.
        TypeError, StoreError
            As `get`.
        """
        self.put_many({key: outputs if isinstance(outputs, Mapping) else {"input_features": outputs}})
        return self.path_for(key)


class WaveformCache(EntryCache[WaveformCacheKey]):
    """Decoded waveforms, by content; parameters as for `AudioCache`.

    With compression a waveform that is exactly 16-bit PCM is kept as such; `get` still returns float32.
    """

    _key_type = WaveformCacheKey
    _hits, _misses = "waveform_hits", "waveform_misses"
    _folder = WAVEFORMS

    def get(self, key: WaveformCacheKey) -> npt.NDArray[np.float32] | None:
        """Return the waveform, or None where there is no good entry.

        Parameters
        ----------
        key
            The key of the entry.

        Returns
        -------
        numpy.ndarray or None
            float32 of shape ``(n_samples,)``, at ``key.sample_rate`` Hz; of all channels ``(n_channels, n_samples)``.

        Raises
        ------
        TypeError
            If `key` is no `WaveformCacheKey`.
        StoreError
            If a strict root cannot be read; otherwise that is a miss.
        """
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[WaveformCacheKey]) -> list[npt.NDArray[np.float32] | None]:
        """Return `get` for each key, in the order of `keys`; one batch of reads."""
        return [None if found is None else found["waveform"] for found in self._read_many(keys, self._outputs)]

    @classmethod
    def _outputs_and_length(cls, entry: Entry) -> tuple[dict[str, Any], ClipLength]:
        outputs = cls._outputs(entry)
        return outputs, entry.length or _length_of(outputs["waveform"], entry.key or {})

    @staticmethod
    def _outputs(entry: Entry) -> dict[str, Any]:
        waveform = entry.read("waveform") if entry.names == ("waveform",) else None
        if not _is_waveform(waveform, None if entry.key is None else entry.key.get("channels")):
            raise CorruptEntryError(f"it holds {entry.names} and not one float32 waveform")
        return {"waveform": waveform}

    def put(self, key: WaveformCacheKey, waveform: npt.NDArray[np.float32]) -> Path | str:
        """Store a waveform.

        Parameters
        ----------
        key
            The key of the entry.
        waveform
            As `get` returns it.

        Returns
        -------
        pathlib.Path or str
            Where the entry is, as `AudioCache.put` says.

        Raises
        ------
        UnstorableOutputError
            If it is no float32 array of that shape.
        TypeError, StoreError
            As `get`.
        """
        path = self.path_for(key)  # which refuses what is no key of this cache
        if not _is_waveform(waveform, key.channels):
            found = f"{getattr(waveform, 'dtype', type(waveform))} {getattr(waveform, 'shape', '')}".strip()
            shape = "(n_channels, n_samples)" if key.channels == "all" else "(n_samples,)"
            raise UnstorableOutputError(
                f"a waveform must be a float32 array of shape {shape}, not {found}; nothing was stored.",
                name="waveform",
            )
        self.put_many({key: {"waveform": waveform}})
        return path


def _is_waveform(array: object, channels: object) -> bool:
    """Return whether this is a waveform of these channels."""
    return isinstance(array, np.ndarray) and array.dtype == np.float32 and array.ndim == (2 if channels == "all" else 1)


def _length_of(samples: npt.NDArray[np.float32], key: Mapping[str, Any]) -> ClipLength:
    """Return the length of a waveform whose entry does not say it: as long as the cap, it was cut."""
    n_samples, cap = samples.shape[-1], key.get("max_length_ms", 0)
    return ClipLength(n_samples, bool(cap) and n_samples >= max(1, cap * key["sample_rate"] // 1000))

"""Read the array that a reference stands for, for `cached_array`: one output of an entry, from the root it names.

A reference holds the path or URL of its root. Where a root needs a key or credentials, a reader that has them is
registered here.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..cache.caches import AudioCache, WaveformCache
from ..cache.entry_cache import EntryCache
from ..cache.keys import AudioCacheKey, WaveformCacheKey
from ..cache.layout import FEATURES, WAVEFORMS
from ..cache.open_root import OpenRoot
from ..cache.stats import Counters
from ..errors import MissingEntryError
from ..pipeline.waveform_pipeline import WAVEFORM, waveform_as

AnyKey = AudioCacheKey | WaveformCacheKey
AnyCache = EntryCache[Any]


def outputs_of(read: tuple[dict[str, Any], Any] | None) -> dict[str, Any] | None:
    """Return the outputs of what a cache read."""
    return None if read is None else read[0]


def pick_output(outputs: Mapping[str, Any] | None, key: AnyKey, name: str, root: str) -> Any:
    """Return one of an entry's outputs, of a waveform in its form; a number without axes as a scalar."""
    if outputs is not None and WAVEFORM in outputs and isinstance(key, WaveformCacheKey):
        return waveform_as(name, outputs[WAVEFORM], key.sample_rate)
    if outputs is None or name not in outputs:
        kind = "waveform" if isinstance(key, WaveformCacheKey) else "audio"
        of = "cached_waveforms" if isinstance(key, WaveformCacheKey) else "cached_features"
        raise MissingEntryError(
            f"the output {name!r} of the entry {key} is missing under {root}, or could not be read (then "
            "the log says why); the row was not read. "
            f"If the cache was moved, cast each column to its new place, with {of} on the new root: "
            "ds.cast_column(column, dataclasses.replace(ds.features[column], "
            f"root=str({of}.{kind}_cache.root))). If it was pruned or damaged, run "
            f"{of}.map(ds, load_from_cache_file=False) again on the dataset with its audio.",
            key=key,
            root=root,
        )
    value = outputs[name]
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


class ReferenceReader:
    """Reads references to one root, one row of one column at a time, as `datasets` does.

    An entry is read once for all columns of a row: its other outputs are kept until their columns are read. The oldest
    of those that are never read are dropped.
    """

    _MAX_KEPT = 2048
    _MAX_KEPT_BYTES = 64 << 20

    def __init__(self, cache: AnyCache) -> None:
        self.cache = cache
        self._kept: OrderedDict[tuple[AnyKey, str], Any] = OrderedDict()
        self._kept_bytes = 0

    def read(self, key: AnyKey, name: str) -> Any:
        """Return one output of an entry."""
        kept = self._take((key, name))
        if kept is not None:
            return kept
        outputs = outputs_of(self.cache.read_many([key])[0])
        value = pick_output(outputs, key, name, str(self.cache.root))
        for other in outputs.keys() - {name} if outputs and isinstance(key, AudioCacheKey) else ():
            self._keep((key, other), pick_output(outputs, key, other, str(self.cache.root)))
        return value

    # Each step is a single, atomic operation of the dict: threads can read at once, and no lock is held in a fork.

    def _take(self, which: tuple[AnyKey, str]) -> Any:
        value = self._kept.pop(which, None)
        self._kept_bytes -= getattr(value, "nbytes", 0)
        return value

    def _keep(self, which: tuple[AnyKey, str], value: Any) -> None:
        self._take(which)
        self._kept[which] = value
        self._kept_bytes += getattr(value, "nbytes", 0)
        while len(self._kept) > self._MAX_KEPT or self._kept_bytes > self._MAX_KEPT_BYTES:
            try:
                _, dropped = self._kept.popitem(last=False)
            except KeyError:
                return
            self._kept_bytes -= getattr(dropped, "nbytes", 0)


# `datasets` decodes a reference without calling `CachedFeatures`.
_REGISTERED: dict[str, ReferenceReader] = {}


def register_reader(cache: AnyCache) -> None:
    """Read references to the root of `cache` through it, in this process and those forked from it."""
    _REGISTERED[str(cache.root)] = ReferenceReader(cache)


def reader_of(root: str, is_of_waveforms: bool) -> ReferenceReader:
    """Return the reader of a root, by the name that references have for it."""
    return _REGISTERED.get(root) or _opened(root, is_of_waveforms)


@functools.lru_cache(maxsize=32)
def _opened(root: str, is_of_waveforms: bool) -> ReferenceReader:
    above, _, folder = root.rpartition("/")
    own_folder = WAVEFORMS if is_of_waveforms else FEATURES
    if folder == own_folder and above.rstrip("/")[-1:] not in ("", ":"):  # of a root, which has the access log
        return ReferenceReader(OpenRoot(above, counters=Counters("")).caches[folder])
    return ReferenceReader((WaveformCache if is_of_waveforms else AudioCache)(root, counters=Counters("")))

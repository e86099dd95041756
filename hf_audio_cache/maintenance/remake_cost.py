"""What it costs to make entries again: a few of each kind are read, which say how long they took to compute."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from ..cache.entry import open_entry
from ..stores import Store
from .listing import ListedEntry

_SAMPLE = 16  # entries of a kind that are read


def seconds_per_byte(store: Store, entries: Iterable[ListedEntry]) -> Callable[[ListedEntry], float]:
    """Return a function that estimates, for an entry, the seconds to make it again for each byte that it takes.

    Entries of one processor, rate and cap are one kind. If no entry of a kind can be read, its cost is 0.
    """
    kinds: dict[tuple[object, ...], list[ListedEntry]] = defaultdict(list)
    for entry in entries:
        kinds[_kind(entry)].append(entry)
    costs = {kind: _cost(store, found) for kind, found in kinds.items()}
    return lambda entry: costs.get(_kind(entry), 0.0)


def _kind(entry: ListedEntry) -> tuple[object, ...]:
    return entry.cache, entry.processor, entry.sampling_rate, entry.max_length_ms, entry.auto_resample


def _cost(store: Store, entries: Sequence[ListedEntry]) -> float:
    chosen = entries[:: max(len(entries) // _SAMPLE, 1)][:_SAMPLE]
    n_bytes, seconds = 0, 0.0
    for content in store.get_many([entry.name for entry in chosen]):
        if isinstance(content, bytes):
            try:
                seconds += open_entry(content, None).compute_seconds
            except Exception:  # noqa: BLE001 - a bad entry, which `verify` names
                continue
            n_bytes += len(content)
    return seconds / n_bytes if n_bytes else 0.0

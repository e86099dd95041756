"""Why a clip misses, in words: its key against the names of entries, its processor against the manifests."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..audio.channels import Channels, in_words
from ..cache.entry import check_signature, open_entry
from ..cache.keys import AudioCacheKey, WaveformCacheKey
from ..cache.layout import FEATURES, WAVEFORMS, EntryName, parse_entry_name
from ..cache.processor_manifest import Manifest, manifests_of
from ..cache.signing import SigningKeys
from ..errors import CorruptEntryError, StoreError, UnknownVersionError, UnsignedEntryError
from ..processors.difference import Difference, differences
from ..processors.identity import ProcessorIdentity
from ..stores import Store
from ..support.report import Report, Table

_OTHERS = 3  # processors that are named beside the nearest one


@dataclass(frozen=True)
class Explanation(Report):
    """Why a clip hits or misses.

    Attributes
    ----------
    clip
        What the clip is called.
    status
        ``"hit"``, ``"never seen"``, ``"other processor"``, ``"other settings"`` (rate, cap, resampling or channels),
        ``"bad entry"``, ``"unsigned entry"``, ``"unknown version"`` or ``"unreadable"``.
    key
        The key that was looked for.
    reasons
        What differs from what is there, one sentence each.
    """

    clip: str
    status: str
    key: AudioCacheKey | WaveformCacheKey
    reasons: tuple[str, ...] = ()

    def tables(self) -> list[Table]:
        return [Table(f"{self.clip}: {self.status}", (), [(reason,) for reason in self.reasons])]

    def __str__(self) -> str:
        return "\n".join([f"{self.clip}: {self.status}", *(f"  {reason}" for reason in self.reasons)])


def explain_key(
    store: Store,
    key: AudioCacheKey | WaveformCacheKey,
    identity: ProcessorIdentity | None,
    clip: str,
    signing_keys: SigningKeys | None = None,
) -> Explanation:
    """Say why `key` hits or misses under the root of `store`; nothing is changed there.

    `identity` is what its ``processor_sha`` stands for; None for a waveform.
    """
    folder = WAVEFORMS if isinstance(key, WaveformCacheKey) else FEATURES
    entries = store.child(folder)
    try:
        found = entries.get(key.name())
        if found is not None:
            if signing_keys is not None:
                check_signature(found, key.name(), signing_keys)
            open_entry(found, key)
            return Explanation(clip, "hit", key)
        names = entries.names(f"{key.shard()}/{key.blob_sha}.")
        others = [other for name in names if (other := parse_entry_name(f"{folder}/{name}")) is not None]
    except UnsignedEntryError as exc:
        return Explanation(clip, "unsigned entry", key, (f"The entry is there, but {exc}. It is replaced.",))
    except UnknownVersionError as exc:
        return Explanation(clip, "unknown version", key, (f"The entry is there, but {exc}. It stays.",))
    except CorruptEntryError as exc:
        return Explanation(clip, "bad entry", key, (f"The entry is there, but {exc}. It is replaced when it is read.",))
    except StoreError as exc:
        return Explanation(clip, "unreadable", key, (f"{exc}.",))
    settings = _settings(key.sample_rate, key.max_length_ms, key.auto_resample, key.channels)
    same_settings = [other for other in others if _settings_of(other) == settings]
    processor_sha = "" if isinstance(key, WaveformCacheKey) else key.processor_sha
    same_processor = [other for other in others if processor_sha.startswith(other.processor)]
    if same_settings and not same_processor and identity is not None:
        wanted = Manifest.of(identity, {})
        processors = [other.processor for other in same_settings]
        return Explanation(clip, "other processor", key, tuple(_compare(store, processors, wanted, signing_keys)))
    if others:
        there = "It is there" if same_processor else "It is there for another processor"
        nearest = same_processor or others
        reasons = [f"{there} with {_settings_of(other)}; {settings} was asked for." for other in nearest]
        return Explanation(clip, "other settings", key, tuple(dict.fromkeys(reasons)))
    if isinstance(key, WaveformCacheKey):
        reason = "Nothing of it is there. (16-bit WAVs at this rate, and arrays, are stored by map alone.)"
        return Explanation(clip, "never seen", key, (reason,))
    has_waveform = store.child("waveforms").exists(key.waveform_key().name())
    reason = "Its waveform is there: only the processor has to run." if has_waveform else "Nothing of it is there."
    return Explanation(clip, "never seen", key, (reason,))


def _settings(sample_rate: int, max_length_ms: int, auto_resample: bool, channels: Channels) -> str:
    cap = f"a cap of {max_length_ms / 1000:g} s" if max_length_ms else "no cap"
    return f"{sample_rate} Hz{in_words(channels)}, {cap}, auto_resample={auto_resample}"


def _settings_of(name: EntryName) -> str:
    return _settings(name.sampling_rate, name.max_length_ms, name.auto_resample, name.channels)


def _compare(
    store: Store, processors: Iterable[str], wanted: Manifest, signing_keys: SigningKeys | None
) -> Iterator[str]:
    """Say how other processors differ from the one that is wanted: the nearest in full, some more in a line."""
    told: list[tuple[int, str, list[str]]] = []
    for processor in processors:
        there = next(manifests_of(store, signing_keys, processor), None)
        if there is None:
            told.append((sys.maxsize, f"processor {processor}, of which there is no manifest", []))
        elif there.identity.scheme != wanted.identity.scheme:
            schemes = f"version {there.identity.scheme}, now {wanted.identity.scheme}"
            told.append((sys.maxsize - 1, f"processor {processor}, described by another scheme ({schemes})", []))
        else:
            found = explain_difference(there, wanted)
            told.append((len(found), f"processor {processor}", found))
    nearest, *others = sorted(told)
    yield f"It is there for {nearest[1]}." + (" From that one to this:" if nearest[2] else "")
    yield from (f"- {difference}" for difference in nearest[2])
    for _, processor, found in others[:_OTHERS]:
        count = f" ({len(found)} difference{'s' if len(found) > 1 else ''})" if found else ""
        yield f"It is also there for {processor}{count}."
    if others[_OTHERS:]:
        yield f"And for {len(others) - _OTHERS} more."


def explain_difference(there: Manifest, wanted: Manifest) -> list[str]:
    """Return the differences between two processors, one in a line, such as ``feature_size: 80 -> 128``."""
    if there.identity.scheme != wanted.identity.scheme:
        return [f"another scheme: version {there.identity.scheme} -> {wanted.identity.scheme}; they cannot be compared"]
    found = differences(there.identity.description, wanted.identity.description)
    lines = [f"{difference}{_releases(difference, there, wanted)}" for difference in found]
    return lines or ["no difference: they are one processor"]


def _releases(difference: Difference, there: Manifest, wanted: Manifest) -> str:
    """Return the releases of the library whose code differs, where both are known."""
    library = difference.path.partition(".")[0]
    releases = (there.versions.get(library), wanted.versions.get(library))
    return f", {releases[0]} -> {releases[1]}" if difference.kind == "changed" and None not in releases else ""

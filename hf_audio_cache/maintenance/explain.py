"""Why a clip misses, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..cache.entry import check_signature, open_entry
from ..cache.keys import AudioCacheKey
from ..cache.processor_manifest import Manifest, read_manifest
from ..cache.signing import SigningKeys
from ..errors import CorruptEntryError, StoreError, UnknownVersionError, UnsignedEntryError
from ..processors.fingerprint import ProcessorIdentity
from ..stores import Store
from ..support.report import Report, Table

__all__ = ["Explanation", "explain_difference", "explain_key"]

_NAME = re.compile(
    r"[0-9a-f]{2}/(?P<blob_sha>[0-9a-f]{64})\.(?P<processor>[0-9a-f]{12})"
    r"\.(?P<rate>[0-9]+)\.(?P<cap>[0-9]+)(?P<resampled>\.rs)?\.npz"
)


@dataclass(frozen=True)
class Explanation(Report):
    """Why a clip hits or misses.

    Attributes
    ----------
    clip
        What the clip is called.
    status
        ``"hit"``, ``"never seen"``, ``"other processor"``, ``"other settings"`` (rate, cap or resampling),
        ``"bad entry"``, ``"unsigned entry"``, ``"unknown version"`` or ``"unreadable"``.
    key
        The key that was looked for.
    reasons
        What differs from what is there, one sentence each.
    """

    clip: str
    status: str
    key: AudioCacheKey
    reasons: tuple[str, ...] = ()

    def tables(self) -> list[Table]:
        return [Table(f"{self.clip}: {self.status}", (), [(reason,) for reason in self.reasons])]

    def __str__(self) -> str:
        return "\n".join([f"{self.clip}: {self.status}", *(f"  {reason}" for reason in self.reasons)])


def explain_key(
    store: Store,
    key: AudioCacheKey,
    identity: ProcessorIdentity,
    clip: str,
    signing_keys: SigningKeys | None = None,
) -> Explanation:
    """Say why `key` hits or misses under the root of `store`; nothing is changed there.

    Parameters
    ----------
    store
        The root of a cache, with ``features/``, ``waveforms/`` and ``processors/``.
    key
        The key of the clip's features.
    identity
        What its ``processor_sha`` stands for.
    clip
        What to call the clip.
    signing_keys
        Those of a signed root.
    """
    features = store.child("features")
    try:
        found = features.get(key.name())
        if found is not None:
            if signing_keys is not None:
                check_signature(found, key.name(), signing_keys)
            open_entry(found, key)
            return Explanation(clip, "hit", key)
        others = [
            match for name in features.names(f"{key.shard()}/{key.blob_sha}.") if (match := _NAME.fullmatch(name))
        ]
    except UnsignedEntryError as exc:
        return Explanation(clip, "unsigned entry", key, (f"The entry is there, but {exc}. It is replaced.",))
    except UnknownVersionError as exc:
        return Explanation(clip, "unknown version", key, (f"The entry is there, but {exc}. It stays.",))
    except CorruptEntryError as exc:
        return Explanation(clip, "bad entry", key, (f"The entry is there, but {exc}. It is replaced when it is read.",))
    except StoreError as exc:
        return Explanation(clip, "unreadable", key, (f"{exc}.",))
    settings = _settings(key.sample_rate, key.max_length_ms, key.auto_resample)
    same_settings = [other for other in others if _settings_of(other) == settings]
    same_processor = [other for other in others if key.processor_sha.startswith(other["processor"])]
    if same_settings:
        wanted = Manifest.of(identity, {})
        reasons = [
            reason for other in same_settings for reason in _compare(store, other["processor"], wanted, signing_keys)
        ]
        return Explanation(clip, "other processor", key, tuple(reasons))
    if others:
        nearest = same_processor or others
        reasons = [f"It is there with {_settings_of(other)}; {settings} was asked for." for other in nearest]
        return Explanation(clip, "other settings", key, tuple(dict.fromkeys(reasons)))
    has_waveform = store.child("waveforms").exists(key.waveform_key().name())
    reason = "Its waveform is there: only the processor has to run." if has_waveform else "Nothing of it is there."
    return Explanation(clip, "never seen", key, (reason,))


def _settings(sample_rate: int, max_length_ms: int, auto_resample: bool) -> str:
    cap = f"a cap of {max_length_ms / 1000:g} s" if max_length_ms else "no cap"
    return f"{sample_rate} Hz, {cap}, auto_resample={auto_resample}"


def _settings_of(name: re.Match[str]) -> str:
    return _settings(int(name["rate"]), int(name["cap"]), name["resampled"] is not None)


def _compare(store: Store, processor: str, wanted: Manifest, signing_keys: SigningKeys | None) -> Iterator[str]:
    manifests = [name for name in store.names(f"processors/{processor}") if name.endswith(".json")]
    for name in manifests:
        there = read_manifest(store, name.removeprefix("processors/").removesuffix(".json"), signing_keys)
        if there is not None:
            yield f"It is there for processor {processor}. From that one to this:"
            yield from (f"- {difference}" for difference in explain_difference(there, wanted))
            return
    yield f"It is there for processor {processor}, of which there is no manifest."


def explain_difference(there: Manifest, wanted: Manifest) -> list[str]:
    """Return the differences between two processors, one in a line, such as ``feature_size: 80 -> 128``."""
    old, new = there.identity.description, wanted.identity.description
    differences: list[str] = []
    for part in sorted(old.keys() | new.keys()):
        if part == "code":
            differences += _code_differences(there, wanted)
        else:
            prefix = {"state": "", "call": "processor_kwargs."}.get(part, part)
            differences += _value_differences(old.get(part), new.get(part), prefix)
    return differences or ["no difference: they are one processor"]


def _code_differences(there: Manifest, wanted: Manifest) -> Iterator[str]:
    old, new = there.identity.description.get("code", {}), wanted.identity.description.get("code", {})
    old_functions, new_functions = old.get("functions", {}), new.get("functions", {})
    for name in sorted(old_functions.keys() & new_functions.keys()):
        if old_functions[name] != new_functions[name]:
            library = name.partition(".")[0]
            releases = (there.versions.get(library), wanted.versions.get(library))
            known = f", {releases[0]} -> {releases[1]}" if None not in releases else ""
            yield f"the code of {name} changed{known}"
    yield from (f"{name} is not called any more" for name in sorted(old_functions.keys() - new_functions.keys()))
    yield from (f"{name} is called now" for name in sorted(new_functions.keys() - old_functions.keys()))
    yield from _value_differences(old.get("constants", {}), new.get("constants", {}), "the constant ")
    yield from _value_differences(old.get("backends", {}), new.get("backends", {}), "")


def _value_differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True):  # True is not 1
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping) and not {"array", "xxh3_128"} & (old.keys() | new.keys()):
        dot = "" if path == "" or path.endswith((".", " ")) else "."
        for name in sorted(old.keys() | new.keys()):
            yield from _value_differences(old.get(name), new.get(name), f"{path}{dot}{name}")
    else:
        yield f"{path}: {_text(old)} -> {_text(new)}"


def _text(value: Any) -> str:
    if isinstance(value, Mapping) and "array" in value:
        return f"{value['array']} array of shape {tuple(value['shape'])}, digest {value['xxh3_128'][:8]}"
    return "(none)" if value is None else repr(value)

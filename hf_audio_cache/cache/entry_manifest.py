"""Read the manifest of an entry, and check every field (the file may be damaged or hostile); find later versions."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..audio.length import ClipLength
from ..errors import CorruptEntryError, UnknownVersionError
from .codecs import Form, Member, least_stored_bytes, load_json, member_from_json
from .keys import AudioCacheKey, WaveformCacheKey

FORMAT_VERSION = 1
_VERSION = re.compile(rb'\{"version":([0-9]{1,4})[,}]')  # in every version the manifest begins like this
_BEFORE_MEMBERS = b',"members":'
_BEFORE_LENGTH = b',"length":'
_PLAIN_LENGTH = re.compile(rb'\{"samples":([1-9][0-9]{0,14})\}')  # of a clip that is whole
_LONG_MEMBERS = 2000  # bytes beyond which what they say is not kept, so that crafted entries fill no memory
_LONGEST_SECONDS = 1e9


class Members:
    """The members of an entry by name, the forms of those that are arrays, and the fewest bytes that can hold all."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.by_name = {member.name: member for member in members}
        self.forms: Mapping[str, Form] = {member.name: member.form for member in members if member.is_array}
        self.n_least = least_stored_bytes(members)


@dataclass(frozen=True)
class Manifest:
    """What a manifest says: the members, the key's fields, what the outputs took to compute, and the clip's length."""

    members: Members
    key: Mapping[str, Any]
    compute_seconds: float
    length: ClipLength | None = None


def check_version(version: int, known: int) -> None:
    """Raise UnknownVersionError for a later version than this release knows."""
    if version > known:
        raise UnknownVersionError(
            f"a later release wrote it, in version {version} of the format; this release reads version {known}"
        )


def check_stated_version(text: bytes, start: int = 0) -> None:
    """Raise UnknownVersionError if a manifest that starts there in a text says that a later release wrote it."""
    version = _VERSION.match(text, start)
    if version is not None:
        check_version(int(version[1]), FORMAT_VERSION)


def read_manifest(text: bytes, key: AudioCacheKey | WaveformCacheKey | None, n_stored: int) -> Manifest:
    """Return what a manifest says, if it is that of an entry of `key` (or of any, without one) in so many bytes.

    Raises UnknownVersionError if it is of a later version; CorruptEntryError if it is not that. (Other exceptions mean
    the same.)
    """
    head, _, members_text = text.partition(_BEFORE_MEMBERS)
    fields = {} if key is None else key.fields()
    start = _start_of(fields) if fields else b""
    seconds_text, _, length_text = head[len(start) :].partition(_BEFORE_LENGTH)
    if fields and head.startswith(start) and b"," not in seconds_text:  # as it is written: nothing to parse
        seconds, length = float(seconds_text), _length(length_text) if length_text else None
    else:
        fields, seconds, length = _parse_head(text, head, key)
    if not 0 <= seconds < _LONGEST_SECONDS:
        raise CorruptEntryError(f"its outputs took {seconds!r} s to compute")
    members_text = members_text[:-1]
    members = (_known_members if len(members_text) <= _LONG_MEMBERS else _read_members)(members_text)
    if n_stored < members.n_least:
        raise CorruptEntryError(
            f"its manifest has outputs that {n_stored} bytes cannot hold, or that lie over each other"
        )
    return Manifest(members, fields, float(seconds), length)


def _parse_head(
    text: bytes, head: bytes, key: AudioCacheKey | WaveformCacheKey | None
) -> tuple[dict[str, Any], float, ClipLength | None]:
    """Return the key's fields, the seconds and the length that a manifest says before its members."""
    check_stated_version(text)  # before the rest, which a later version may say otherwise
    manifest = load_json(head + b"}")
    if manifest["version"] != FORMAT_VERSION:
        raise CorruptEntryError(f"its format is version {manifest['version']!r}, and there is none")
    if key is not None and manifest["key"] != key.fields():
        raise CorruptEntryError(f"it is the entry of another key, {manifest['key']!r}")
    length = ClipLength.from_json(manifest["length"]) if "length" in manifest else None
    return dict(manifest["key"]), manifest["compute_seconds"], length


def _length(text: bytes) -> ClipLength:
    plain = _PLAIN_LENGTH.fullmatch(text)
    return ClipLength.from_json(load_json(text)) if plain is None else ClipLength(int(plain[1]))


def _start_of(fields: Mapping[str, Any]) -> bytes:
    """Return how the manifest of an entry of a key of these fields starts, up to the seconds."""
    blob_sha, *others = fields.items()
    before, after = _around_blob_sha(tuple(others))
    return b"".join((before, blob_sha[1].encode(), after))


@functools.lru_cache(maxsize=64)
def _around_blob_sha(fields: tuple[tuple[str, Any], ...]) -> tuple[bytes, bytes]:
    head = {"version": FORMAT_VERSION, "key": {"blob_sha": "?", **dict(fields)}, "compute_seconds": 0}
    before, _, after = json.dumps(head, separators=(",", ":")).encode().partition(b"?")
    return before, after.removesuffix(b"0}")


def _read_members(text: bytes) -> Members:
    members = tuple(member_from_json(line) for line in load_json(text))
    n_distinct = min(len({member.name for member in members}), len({member.offset for member in members}))
    if not members or n_distinct < len(members):
        raise CorruptEntryError("its manifest has no outputs, or two of one name or at one place")
    return Members(members)


_known_members = functools.lru_cache(maxsize=1024)(_read_members)

"""The entry format: a few named arrays and the key they belong to, as the bytes of a zip (``.npz``), made and read.

An entry is a zip whose members are stored, each a ``.npy``; ``numpy.load(path, allow_pickle=False)`` opens it. What a
member holds shows in its name:

==========================  =================================================================================
member                      content
==========================  =================================================================================
``NAME.npy``                the array, as ``numpy.savez`` would hold it
``NAME.blosc.npy``          uint8: a Blosc frame of the array (LZ4, byte shuffle), lossless
``NAME.pcm16.blosc.npy``    uint8: a Blosc frame of int16; the array is those numbers / 32768, as float32
``NAME.json.npy``           uint8: JSON of an output that is no array
==========================  =================================================================================

The archive comment is 16 hex digits of xxh3-64 and one compact JSON manifest: the format's version, the full key, the
length of the clip, and for each member its output's name, codec, dtype, shape and ``offset`` (where the ``.npy``
starts in the file). The checksum covers everything before the comment, and the JSON; the file ends where the comment
ends. In a signed root 64 hex digits follow the JSON: the HMAC-SHA256 of the entry's name in its cache, a zero byte, and
every byte before them.

In a frame, a constant tail along the last axis (the padding that an extractor appends) may be left out; it then stands
in the manifest as ``tail``: its length, and its value as the hex of its bytes.

The reader takes the file as one block of bytes, checks all of it, and decodes straight from the offsets. An ``.npz``
without a comment, such as ``numpy.savez`` writes, is read with the checks that zip has. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt
import xxhash

from ..audio.length import ClipLength
from ..errors import CorruptEntryError, UnknownVersionError, UnsignedEntryError, UnstorableOutputError
from .codecs import OUTPUT_NAME, Form, Member, decode, encode
from .entry_manifest import FORMAT_VERSION, Manifest, check_stated_version, read_manifest
from .foreign_npz import load_foreign_npz
from .keys import AudioCacheKey, WaveformCacheKey
from .npz import NpzWriter
from .signing import SIGNATURE_LENGTH, SigningKeys

MAX_MANIFEST_BYTES = 60_000  # a zip comment holds 65,535
_MAX_SAID = 300  # characters of what a stranger's bytes may bring into a message

_DIGEST_LENGTH = 16
_END_OF_DIRECTORY = b"PK\x05\x06"  # zip's last record: 22 bytes, of which the last two give the comment's length
LONGEST_END = 22 + 0xFFFF  # zip's last record with the longest comment
USUAL_END = 4096
_MODEL_INPUTS = ("input_features", "input_values")  # in this order: what most models call their audio
_COMPACT = json.JSONEncoder(separators=(",", ":"))


# Writing --------------------------------------------------------------------------------------------------------------


def encode_entry(
    key: AudioCacheKey | WaveformCacheKey,
    outputs: Mapping[str, Any],
    *,
    compression: str | None = None,
    compute_seconds: float = 0.0,
    length: ClipLength | None = None,
    signing_keys: SigningKeys | None = None,
) -> bytes:
    """Return the bytes of the entry that holds `outputs` under `key`.

    The key goes into the manifest whole, so that the entry is never served for another key. An output is an array
    (bool, integer, float or complex, of any shape) or a JSON value. `length` is that of the waveform they were computed
    from. Raises UnstorableOutputError if an output is neither, or the manifest would pass 60 kB.
    """
    if not outputs:
        raise UnstorableOutputError("an entry needs at least one output, and there is none; nothing was stored.")
    npz = NpzWriter()
    members = [_add_member(npz, name, value, compression) for name, value in outputs.items()]
    manifest = {
        "version": FORMAT_VERSION,
        "key": key.fields(),
        "compute_seconds": round(compute_seconds, 5),
        **({} if length is None else {"length": length.to_json()}),
        "members": [member.to_json() for member in members],
    }
    text = _COMPACT.encode(manifest).encode("ascii")
    if len(text) > MAX_MANIFEST_BYTES:
        raise UnstorableOutputError(
            f"the manifest of an entry may have {MAX_MANIFEST_BYTES} bytes, and this one, of {len(members)} "
            f"outputs, has {len(text)}; nothing was stored. Store fewer outputs in one entry."
        )
    npz.end(_DIGEST_LENGTH + len(text) + (0 if signing_keys is None else SIGNATURE_LENGTH))
    entry = b"".join((*npz.parts, _digest(npz.parts, text), text))
    return entry if signing_keys is None else entry + signing_keys.sign(_signed_text(key.name(), entry))


def _digest(before_comment: Iterable[bytes | memoryview], manifest: bytes | memoryview) -> bytes:
    state = xxhash.xxh3_64()
    for part in before_comment:
        state.update(part)
    state.update(manifest)
    return state.hexdigest().encode("ascii")


def _add_member(npz: NpzWriter, name: str, value: Any, compression: str | None) -> Member:
    if type(name) is not str or not OUTPUT_NAME.fullmatch(name):
        raise UnstorableOutputError(
            f"an output's name must be an identifier, not {name!r}; nothing was stored.", name=str(name)
        )
    codec, encoded = encode(name, value, compression)
    offset = npz.add(f"{name}{codec.suffix}.npy", encoded.payload)
    return Member(name, codec.name, encoded.dtype.str, encoded.shape, offset, encoded.tail)


# Reading --------------------------------------------------------------------------------------------------------------


class Entry:
    """The outputs of one entry, decoded when they are asked for."""

    def __init__(
        self,
        outputs: Mapping[str, Any],
        forms: Mapping[str, Form],
        compute_seconds: float = 0.0,
        key: Mapping[str, Any] | None = None,
        length: ClipLength | None = None,
    ) -> None:
        self._outputs = outputs
        self.forms = forms  # of each array by name
        self.compute_seconds = compute_seconds  # 0.0 where that is not known
        self.key = key  # the fields of the key that it was stored or, if it does not say, opened with
        self.length = length  # of the waveform that the outputs are of; None where it does not say
        self.places: dict[str, npt.NDArray[Any]] = {}  # that the outputs of their form are decoded into, each once

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs, in the order in which they were stored."""
        return tuple(self._outputs)

    @property
    def main(self) -> str:
        """The one that a model takes: the only one, or ``input_features``, or ``input_values``, or the first."""
        return next((name for name in _MODEL_INPUTS if name in self._outputs), None) or next(iter(self._outputs))

    def read(self, name: str) -> Any:
        """Return the output `name`, an array of your own or a JSON value; CorruptEntryError if it is damaged."""
        place = self.places.pop(name, None)
        if place is None:
            return self._outputs[name]
        place[...] = self._outputs[name]
        return place

    def read_all(self) -> dict[str, Any]:
        """Return every output by name."""
        return {name: self.read(name) for name in self._outputs}


class _ManifestEntry(Entry):
    def __init__(self, block: memoryview, manifest: Manifest) -> None:
        members = manifest.members
        super().__init__(members.by_name, members.forms, manifest.compute_seconds, manifest.key, manifest.length)
        self._block = block

    def read(self, name: str) -> Any:
        with _AS_CORRUPT:
            return decode(self._block, self._outputs[name], self.places.pop(name, None))


def _signed_text(name: str, signed: bytes | memoryview) -> bytes:
    return b"\0".join((name.encode("ascii"), signed))


def check_signature(data: bytes, name: str, signing_keys: SigningKeys) -> None:
    """Raise `UnsignedEntryError` if none of the keys signed these bytes, as those of the entry of this name.

    Call it before anything else looks at the entry.
    """
    signed, signature = memoryview(data)[:-SIGNATURE_LENGTH], data[-SIGNATURE_LENGTH:]
    if not signing_keys.accept(_signed_text(name, signed), signature):
        raise UnsignedEntryError("it has no signature that one of the signing keys made for it")


def manifest_at_end(end: bytes) -> bytes | None:
    """Return what the last bytes of an entry have of its manifest on, unchecked; None if that starts before them.

    Raises UnknownVersionError if it says that a later release wrote the entry.
    """
    start = end.rfind(_END_OF_DIRECTORY)
    if start < 0:
        return None
    check_stated_version(end, start + 22 + _DIGEST_LENGTH)
    return end[start + 22 + _DIGEST_LENGTH :]


def open_entry(data: bytes, key: AudioCacheKey | WaveformCacheKey | None) -> Entry:
    """Check the bytes of an entry against their checksum and `key`, and return its outputs, not yet decoded.

    Without `key`, compare the entry's own key yourself. Raises CorruptEntryError if they are anything but a whole entry
    for this very key; UnknownVersionError if they are a whole entry of a later version.
    """
    block = memoryview(data)
    end = data.rfind(_END_OF_DIRECTORY, max(0, len(data) - LONGEST_END))
    if end < 0 or end + 22 > len(data):
        raise CorruptEntryError(f"its {len(data)} bytes are no zip, or not a whole one")
    comment = block[end + 22 :]
    if int.from_bytes(block[end + 20 : end + 22], "little") != len(comment):
        raise CorruptEntryError(f"it does not end where its comment ends ({len(data)} bytes)")
    with _AS_CORRUPT:
        if len(comment):
            return _open_checked(block, comment, key)
        arrays = load_foreign_npz(data)
        forms = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
        return Entry(arrays, forms, key=None if key is None else key.fields())


class _AsCorrupt:
    """Give one meaning to whatever json, zipfile, zlib, numpy and Blosc raise on bytes that somebody crafted.

    (BadZipFile is neither an OSError nor a ValueError, and an encrypted member is a RuntimeError.)
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, UnknownVersionError):
            return
        if isinstance(exc, CorruptEntryError):
            raise CorruptEntryError(_printable(str(exc))) from None
        if isinstance(exc, Exception):
            raise CorruptEntryError(_printable(f"{type(exc).__name__} while reading it: {exc}")) from exc


_AS_CORRUPT = _AsCorrupt()


def _printable(text: str) -> str:
    """Return the beginning of a text, without line breaks and terminal controls: it goes into logs."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text[: _MAX_SAID + 1])
    return text if len(text) <= _MAX_SAID else f"{text[:_MAX_SAID]}…"


def _open_checked(block: memoryview, comment: memoryview, key: AudioCacheKey | WaveformCacheKey | None) -> Entry:
    text = bytes(comment[_DIGEST_LENGTH:])
    if not text.endswith(b"}"):  # it was signed: JSON, and then hexadecimal digits
        text = text[:-SIGNATURE_LENGTH]
    if _digest((block[: len(block) - len(comment)],), text) != comment[:_DIGEST_LENGTH]:
        raise CorruptEntryError("its checksum is wrong")
    return _ManifestEntry(block, read_manifest(text, key, len(block)))

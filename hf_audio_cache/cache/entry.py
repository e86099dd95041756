"""The entry format: a few named arrays and the key they belong to, as the bytes of an ordinary ``.npz``.

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

The archive comment is 16 hex digits of xxh3-64 and one compact JSON manifest: the format's version, the full key, and
for each member its output's name, codec, dtype, shape and ``offset`` (where the ``.npy`` starts in the file). The
checksum covers everything before the comment, and the JSON; the file ends where the comment ends. In a signed root 64
hex digits follow the JSON: the HMAC-SHA256 of the entry's name in its cache, a zero byte, and every byte before them.

In a frame, a constant tail along the last axis (the padding that an extractor appends) may be left out; it then stands
in the manifest as ``tail``: its length, and its value as the hex of its bytes.

The reader takes the file as one block of bytes, checks all of it, and decodes straight from the offsets. An ``.npz``
without a comment, such as ``numpy.savez`` writes, is read with the checks that zip has. Nothing is ever unpickled.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from numcodecs import blosc

from ..errors import CorruptEntryError, UnknownVersionError, UnsignedEntryError, UnstorableOutputError
from .keys import AudioCacheKey, WaveformCacheKey
from .signing import SIGNATURE_LENGTH, SigningKeys

__all__ = ["Entry", "encode_entry", "open_entry"]

FORMAT_VERSION = 1
_VERSION = re.compile(rb'\{"version":([0-9]{1,4})[,}]')  # in every version the manifest begins like this
MAX_MANIFEST_BYTES = 60_000  # a zip comment holds 65,535
MAX_DECODED_BYTES = 1 << 36  # what no honest entry reaches: a shape beyond it is a lie
MAX_JSON_BYTES = 1 << 20  # of all JSON outputs together: as Python objects they take up to a hundred times as much
MAX_TAIL_BYTES = 1 << 28  # a tail costs its writer nothing, so it is bounded more closely
_MAX_RATIO = 256  # LZ4's best is 255 to 1
_LZ4 = 1  # the codec in the upper three bits of a Blosc frame's flags, its third byte; the fourth is the item's size
_MAX_JSON_LEVELS = 200  # more could overflow the stack of a thread
_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_LONGEST_SECONDS = 1e9
_MAX_SAID = 300  # characters of what a stranger's bytes may bring into a message
_MIN_TAIL = 16  # a shorter tail is not worth a second copy

_DIGEST_LENGTH = 16
_BEFORE_MEMBERS = b',"members":'
_LONG_MEMBERS = 2000  # bytes beyond which what they say is not kept, so that crafted entries fill no memory
_END_OF_DIRECTORY = b"PK\x05\x06"  # zip's last record: 22 bytes, of which the last two give the comment's length
_OUTPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_DTYPE = re.compile(r"[<>|][biufc][0-9]{1,2}")
_DTYPES_OF = {"raw": _DTYPE, "blosc": _DTYPE, "pcm16": re.compile("<f4"), "json": re.compile(r"\|u1")}
_MODEL_INPUTS = ("input_features", "input_values")  # in this order: what most models call their audio
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's earliest date: the same arrays give the same bytes


@dataclass(frozen=True)
class _Member:
    """One line of the manifest: how the output `name` lies in the file."""

    name: str
    codec: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    tail: tuple[int, str] | None = None

    def to_json(self) -> dict[str, Any]:
        return {field: value for field, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> _Member:
        shape, tail = line["shape"], line.get("tail")
        if not (isinstance(shape, list) and (tail is None or (isinstance(tail, list) and len(tail) == 2))):
            raise CorruptEntryError(f"the manifest gives {line['name']!r} a broken shape or tail")
        member = cls(**{**line, "shape": tuple(shape), "tail": tail and tuple(tail)})
        integers = (*member.shape, member.offset, *(member.tail[:1] if member.tail else ()))
        if set(map(type, integers)) != {int} or min(integers) < 0:
            raise CorruptEntryError(f"the manifest gives {member.name!r} a negative or broken number")
        dtypes = _DTYPES_OF.get(member.codec)
        if not (_OUTPUT_NAME.fullmatch(member.name) and dtypes is not None and dtypes.fullmatch(member.dtype)):
            raise CorruptEntryError(
                f"the manifest has an output {member.name!r} of codec {member.codec!r} and dtype {member.dtype!r}"
            )
        if member.n_bytes > MAX_DECODED_BYTES or (member.tail and member.codec != "blosc"):
            raise CorruptEntryError(
                f"the manifest gives {member.name!r} the shape {member.shape} or a tail it cannot have"
            )
        return member

    @functools.cached_property
    def n_bytes(self) -> int:
        """Bytes of the decoded array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


# Writing --------------------------------------------------------------------------------------------------------------


def encode_entry(
    key: AudioCacheKey | WaveformCacheKey,
    outputs: Mapping[str, Any],
    *,
    compression: str | None = None,
    compute_seconds: float = 0.0,
    signing_keys: SigningKeys | None = None,
) -> bytes:
    """Return the bytes of the entry that holds `outputs` under `key`.

    Parameters
    ----------
    key
        Goes into the manifest whole, so that the entry is never served for another key.
    outputs
        Arrays (bool, integer, float or complex, of any shape) and JSON values, by name.
    compression
        ``"blosc"``, or None for members as `numpy.savez` writes them.
    compute_seconds
        What it took to compute the outputs; kept for statistics.
    signing_keys
        Those of a signed root.

    Raises
    ------
    UnstorableOutputError
        If an output is neither, or the manifest would pass 60 kB.
    """
    if not outputs:
        raise UnstorableOutputError("an entry needs at least one output, and there is none; nothing was stored.")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        members = [_write_member(archive, buffer, name, value, compression) for name, value in outputs.items()]
        manifest = {
            "version": FORMAT_VERSION,
            "key": vars(key),
            "compute_seconds": round(compute_seconds, 5),
            "members": [member.to_json() for member in members],
        }
        text = json.dumps(manifest, separators=(",", ":")).encode("ascii")
        if len(text) > MAX_MANIFEST_BYTES:
            raise UnstorableOutputError(
                f"the manifest of an entry may have {MAX_MANIFEST_BYTES} bytes, and this one, of {len(members)} "
                f"outputs, has {len(text)}; nothing was stored. Store fewer outputs in one entry."
            )
        signature_length = 0 if signing_keys is None else SIGNATURE_LENGTH
        archive.comment = b"0" * _DIGEST_LENGTH + text + b"0" * signature_length
    entry = buffer.getbuffer()
    signed = entry[: len(entry) - signature_length]
    comment_start = len(signed) - _DIGEST_LENGTH - len(text)
    signed[comment_start : comment_start + _DIGEST_LENGTH] = _digest(signed[:comment_start], text)
    if signing_keys is not None:
        entry[len(signed) :] = signing_keys.sign(_signed_text(key.name(), signed))
    return buffer.getvalue()


def _digest(before_comment: bytes | memoryview, manifest: bytes | memoryview) -> bytes:
    state = xxhash.xxh3_64(before_comment)
    state.update(manifest)
    return state.hexdigest().encode("ascii")


def _write_member(
    archive: zipfile.ZipFile, buffer: io.BytesIO, name: str, value: Any, compression: str | None
) -> _Member:
    if type(name) is not str or not _OUTPUT_NAME.fullmatch(name):
        raise UnstorableOutputError(
            f"an output's name must be an identifier, not {name!r}; nothing was stored.", name=str(name)
        )
    codec, payload, tail = _encode(name, value, compression)
    array = value if isinstance(value, np.ndarray) else payload
    suffix = {"raw": "", "json": ".json", "blosc": ".blosc", "pcm16": ".pcm16.blosc"}[codec]
    info = zipfile.ZipInfo(f"{name}{suffix}.npy", _EPOCH)
    info.file_size = payload.nbytes  # lets zipfile see that a member needs zip64
    with archive.open(info, "w") as stream:
        offset = buffer.tell()
        np.lib.format.write_array(stream, payload, allow_pickle=False)
    return _Member(name, codec, array.dtype.str, array.shape, offset, tail)


def _encode(name: str, value: Any, compression: str | None) -> tuple[str, npt.NDArray[Any], tuple[int, str] | None]:
    """Return the codec of an output, the array that its member holds, and the tail that was left out of it."""
    if not isinstance(value, np.ndarray):
        try:
            text = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as exc:
            raise UnstorableOutputError(
                f"the output {name!r} must be a NumPy array or a JSON value, and is of type "
                f"{type(value).__module__}.{type(value).__qualname__} ({exc}); nothing was stored.",
                name=name,
            ) from exc
        if len(text) > MAX_JSON_BYTES or _is_deep(text):
            raise UnstorableOutputError(
                f"the output {name!r} must have at most {MAX_JSON_BYTES} bytes and {_MAX_JSON_LEVELS} levels as JSON, "
                f"and has {len(text)} bytes or more levels; nothing was stored. Make it a NumPy array.",
                name=name,
            )
        return "json", np.frombuffer(text, np.uint8), None
    if not _DTYPE.fullmatch(value.dtype.str):
        raise UnstorableOutputError(
            f"the output {name!r} must be an array of booleans or numbers, and has dtype {value.dtype}; "
            "nothing was stored.",
            name=name,
        )
    array = np.asarray(value, order="C")  # unlike ascontiguousarray, it leaves a 0-d array 0-d
    if compression is None or array.ndim == 0 or not 0 < array.nbytes <= blosc.MAX_BUFFERSIZE:
        return "raw", array, None
    if name == "waveform" and (pcm := _as_pcm16(array)) is not None:
        return "pcm16", _frame(pcm), None
    tail = _constant_tail(array)
    kept = array[..., : array.shape[-1] - tail[0]] if tail else array
    return "blosc", _frame(np.asarray(kept, order="C")), tail


def _frame(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(blosc.compress(array, b"lz4", 5, blosc.SHUFFLE), np.uint8)


def _as_pcm16(waveform: npt.NDArray[Any]) -> npt.NDArray[np.int16] | None:
    """Return the 16-bit numbers that `waveform` is made of, or None where they would not give back its exact bits."""
    if waveform.dtype != np.float32 or not (waveform.min() >= -1.0 and waveform.max() < 1.0):
        return None
    pcm = (waveform * np.float32(32768)).astype(np.int16)
    return pcm if _from_pcm16(pcm).tobytes() == waveform.tobytes() else None


def _from_pcm16(pcm: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    return pcm.astype(np.float32) * np.float32(1 / 32768)  # a power of two: exact


def _constant_tail(array: npt.NDArray[Any]) -> tuple[int, str] | None:
    """Return length and value of the constant tail along the last axis, where there is one worth leaving out."""
    itemsize, length = array.dtype.itemsize, array.shape[-1]
    if itemsize > 8 or length <= _MIN_TAIL or array.nbytes > MAX_TAIL_BYTES:
        return None
    bits = array.view(f"u{itemsize}").reshape(-1, length)  # bits, so that -0.0 and NaN are what they are
    value = bits[-1, -1]
    if not (bits[:, -_MIN_TAIL:] == value).all():
        return None
    different = np.flatnonzero((bits != value).any(axis=0))
    kept = int(different[-1]) + 1 if different.size else 1
    return length - kept, array.reshape(-1)[-1:].tobytes().hex()


# Reading --------------------------------------------------------------------------------------------------------------


class Entry:
    """The outputs of one entry, decoded when they are asked for.

    Attributes
    ----------
    names
        The outputs, in the order in which they were stored.
    main
        The one that a model takes: the only one, or ``input_features``, or ``input_values``, or the first.
    compute_seconds
        What it took to compute them; 0.0 where that is not known.
    key
        The fields of the key that it was stored under; None where it does not say.
    """

    def __init__(
        self, outputs: Mapping[str, Any], compute_seconds: float = 0.0, key: Mapping[str, Any] | None = None
    ) -> None:
        self._outputs = outputs
        self.key = key
        self.names = tuple(outputs)
        self.main = next((name for name in _MODEL_INPUTS if name in outputs), self.names[0])
        self.compute_seconds = compute_seconds

    def read(self, name: str) -> Any:
        """Return the output `name`: an array that is the caller's own, or a JSON value.

        Raises
        ------
        CorruptEntryError
            If its bytes are not what the manifest says.
        """
        return self._outputs[name]

    def read_all(self) -> dict[str, Any]:
        """Return every output by name."""
        return {name: self.read(name) for name in self.names}


class _ManifestEntry(Entry):
    def __init__(self, block: memoryview, members: Iterable[_Member], manifest: Mapping[str, Any]) -> None:
        super().__init__(
            {member.name: member for member in members}, float(manifest["compute_seconds"]), dict(manifest["key"])
        )
        self._block = block

    def read(self, name: str) -> Any:
        with _AS_CORRUPT:
            return _decode(self._block, self._outputs[name])


def _signed_text(name: str, signed: bytes | memoryview) -> bytes:
    return b"\0".join((name.encode("ascii"), signed))


def check_signature(data: bytes, name: str, signing_keys: SigningKeys) -> None:
    """Raise `UnsignedEntryError` if none of the keys signed these bytes, as those of the entry of this name.

    It is for the caller to do so before anything of an entry is looked at.
    """
    signed, signature = memoryview(data)[:-SIGNATURE_LENGTH], data[-SIGNATURE_LENGTH:]
    if not signing_keys.accept(_signed_text(name, signed), signature):
        raise UnsignedEntryError("it has no signature that one of the signing keys made for it")


def check_version(version: int, known: int) -> None:
    """Raise UnknownVersionError for a later version than this release knows."""
    if version > known:
        raise UnknownVersionError(
            f"a later release wrote it, in version {version} of the format; this release reads version {known}"
        )


def open_entry(data: bytes, key: AudioCacheKey | WaveformCacheKey | None) -> Entry:
    """Check the bytes of an entry against their checksum and `key`, and return its outputs, not yet decoded.

    Without `key` it is for the caller to look at the entry's own.

    Raises
    ------
    CorruptEntryError
        If they are anything but a whole entry for this very key.
    UnknownVersionError
        If they are a whole entry of a later version.
    """
    block = memoryview(data)
    end = data.rfind(_END_OF_DIRECTORY, max(0, len(data) - 22 - 0xFFFF))
    if end < 0 or end + 22 > len(data):
        raise CorruptEntryError(f"its {len(data)} bytes are no zip, or not a whole one")
    comment = block[end + 22 :]
    if int.from_bytes(block[end + 20 : end + 22], "little") != len(comment):
        raise CorruptEntryError(f"it does not end where its comment ends ({len(data)} bytes)")
    with _AS_CORRUPT:
        return _open_checked(block, comment, key) if len(comment) else Entry(_load_foreign(data))


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


def _load_json(text: bytes) -> Any:
    if _is_deep(text):
        raise CorruptEntryError(f"it has JSON of more than {_MAX_JSON_LEVELS} levels")
    return json.loads(text)


def _is_deep(text: bytes) -> bool:
    """Return whether JSON has more levels than are followed."""
    if text.count(b"[") + text.count(b"{") <= _MAX_JSON_LEVELS:
        return False
    brackets = re.findall(rb"[\[\]{}]", _JSON_STRING.sub(b"", text))
    depths = itertools.accumulate(1 if bracket in b"[{" else -1 for bracket in brackets)
    return max(depths, default=0) > _MAX_JSON_LEVELS


def _open_checked(block: memoryview, comment: memoryview, key: AudioCacheKey | WaveformCacheKey | None) -> Entry:
    text = bytes(comment[_DIGEST_LENGTH:])
    if not text.endswith(b"}"):  # it was signed: JSON, and then hexadecimal digits
        text = text[:-SIGNATURE_LENGTH]
    if _digest(block[: len(block) - len(comment)], text) != comment[:_DIGEST_LENGTH]:
        raise CorruptEntryError("its checksum is wrong")
    if (version := _VERSION.match(text)) is not None:
        check_version(int(version[1]), FORMAT_VERSION)  # before the rest, which a later version may say otherwise
    head, members = _split_manifest(text)
    manifest = _load_json(head)
    if manifest["version"] != FORMAT_VERSION:
        raise CorruptEntryError(f"its format is version {manifest['version']!r}, and there is none")
    if key is not None and manifest["key"] != vars(key):
        raise CorruptEntryError(f"it is the entry of another key, {manifest['key']!r}")
    if not 0 <= manifest["compute_seconds"] < _LONGEST_SECONDS:
        raise CorruptEntryError(f"its outputs took {manifest['compute_seconds']!r} s to compute")
    described = (_known_members if len(members) <= _LONG_MEMBERS else _read_members)(members)
    _check_sizes(described, len(block))
    return _ManifestEntry(block, described, manifest)


def _split_manifest(text: bytes) -> tuple[bytes, bytes]:
    """Return a manifest without its members, which come last, and these: they are equal in many entries."""
    head, _, members = text.partition(_BEFORE_MEMBERS)
    return head + b"}", members[:-1]


def _read_members(text: bytes) -> tuple[_Member, ...]:
    members = tuple(_Member.from_json(line) for line in _load_json(text))
    if not len({member.name for member in members}) == len(members) == len({member.offset for member in members}):
        raise CorruptEntryError("its manifest has two outputs of one name or at one place")
    return members


_known_members = functools.lru_cache(maxsize=1024)(_read_members)


def _check_sizes(members: Iterable[_Member], n_stored: int) -> None:
    """Check that outputs together are no larger than what is stored can be, before memory is asked for."""
    as_they_are = as_json = with_tails = in_all = 0
    for member in members:
        in_all += member.n_bytes
        as_they_are += member.n_bytes if member.codec in ("raw", "json") else 0
        as_json += member.n_bytes if member.codec == "json" else 0
        with_tails += member.n_bytes if member.tail else 0
    if as_they_are > n_stored:
        raise CorruptEntryError("its manifest has outputs that lie over each other")
    if as_json > MAX_JSON_BYTES:
        raise CorruptEntryError(f"its manifest has more than {MAX_JSON_BYTES} bytes of JSON")
    if in_all > MAX_TAIL_BYTES + _MAX_RATIO * n_stored:
        raise CorruptEntryError(f"its manifest has outputs that {n_stored} bytes cannot hold")
    if with_tails > MAX_TAIL_BYTES:
        raise CorruptEntryError(f"its tails would unpack {n_stored} bytes to more than {MAX_TAIL_BYTES}")


def _decode(block: memoryview, member: _Member) -> Any:
    """Return the output that `member` describes, decoded from the file's bytes into an array of its own."""
    dtype, shape = np.dtype(member.dtype), member.shape
    header_length = 10 + int.from_bytes(block[member.offset + 8 : member.offset + 10], "little")
    payload = block[member.offset + header_length :]
    if member.codec in ("raw", "json"):
        header = bytes(block[member.offset : member.offset + header_length])
        if _parse_npy_header(header) != (dtype, shape, False):
            raise CorruptEntryError(f"the .npy of {member.name!r} is not the {dtype} {shape} of the manifest")
        content = payload[: member.n_bytes]
        return (
            _load_json(bytes(content))
            if member.codec == "json"
            else np.frombuffer(content, dtype).reshape(shape).copy()
        )
    if member.codec == "pcm16":
        return _from_pcm16(_unframe(payload, np.dtype(np.int16), shape))
    if member.tail is None:
        return _unframe(payload, dtype, shape)
    return _with_tail(payload, dtype, shape, member.tail)


def _with_tail(
    payload: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], tail: tuple[int, str]
) -> npt.NDArray[Any]:
    length, value = tail[0], bytes.fromhex(tail[1])
    kept = shape[-1] - length
    if kept < 1 or len(value) != dtype.itemsize:
        raise CorruptEntryError(f"a tail of {length} does not fit an array of shape {shape}")
    array = np.empty(shape, dtype)
    array[..., kept:] = np.frombuffer(value, dtype)[0]
    array[..., :kept] = _unframe(payload, dtype, (*shape[:-1], kept))
    return array


def _unframe(payload: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Decode the Blosc frame at the start of `payload` into a new array."""
    n_bytes = int.from_bytes(payload[4:8], "little")  # Blosc's header: bytes 4 to 7 decoded, 12 to 15 encoded length
    n_frame_bytes = int.from_bytes(payload[12:16], "little")
    if n_bytes != math.prod(shape) * dtype.itemsize or not 16 <= n_frame_bytes <= len(payload):
        raise CorruptEntryError(f"a frame of {n_bytes} bytes stands for an array of {dtype} {shape}")
    if payload[2] >> 5 != _LZ4 or payload[3] != min(dtype.itemsize, 255):
        raise CorruptEntryError(f"a frame of codec {payload[2] >> 5} and items of {payload[3]} bytes is none of ours")
    if n_bytes > _MAX_RATIO * n_frame_bytes:
        raise CorruptEntryError(f"a frame of {n_frame_bytes} bytes claims to hold {n_bytes}")
    array = np.empty(shape, dtype)
    blosc.decompress(payload[:n_frame_bytes], array)
    return array


_NPY_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>[^']{3,5})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:[0-9]{1,19}(?:, ?|(?=\))))*)\), \} *\n"
)


@functools.lru_cache(maxsize=256)
def _parse_npy_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Return dtype, shape and whether the order is Fortran's, of a header as NumPy writes it.

    NumPy reads it as Python, whose parser nests as deep as the header says: in a thread's small stack that is a crash.
    """
    start = {1: 10, 2: 12}[header[6]]
    found = _NPY_HEADER.fullmatch(header, start)
    if not header.startswith(b"\x93NUMPY") or found is None or not _DTYPE.fullmatch(found["dtype"].decode("ascii")):
        raise CorruptEntryError(f"a .npy member begins with {header[: start + 60]!r}")
    shape = tuple(int(number) for number in found["shape"].decode().replace(" ", "").split(",") if number)
    return np.dtype(found["dtype"].decode()), shape, found["fortran"] == b"True"


def _load_foreign(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an ``.npz`` that another program wrote; zip's own checksums are all that guards it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        _check_gapless(data, members, archive.start_dir)
        n_bytes = sum(info.file_size for info in members)
        if n_bytes > MAX_TAIL_BYTES and n_bytes > 1000 * len(data):  # deflate's best is 1032 to 1
            raise CorruptEntryError(f"its {len(data)} bytes would unpack to {n_bytes}")
        arrays = {info.filename.removesuffix(".npy"): _read_foreign_member(archive, info) for info in members}
    if not arrays or not all(map(_OUTPUT_NAME.fullmatch, arrays)):
        raise CorruptEntryError(f"it has no manifest, and the members {list(arrays)}, which are no outputs")
    return arrays


def _check_gapless(data: bytes, members: list[zipfile.ZipInfo], end: int) -> None:
    """Check that members lie one behind the other from the first byte on: a directory that lost one shows here only."""
    position = slack = 0
    for info in sorted(members, key=lambda member: member.header_offset):
        if not position <= info.header_offset <= position + slack:
            break
        lengths = data[info.header_offset + 26 : info.header_offset + 30]  # of its name, and of what is added to it
        name_length, extra_length = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
        position = info.header_offset + 30 + name_length + extra_length + info.compress_size
        slack = 24 if info.flag_bits & 8 else 0  # a descriptor behind it, where the writer could not seek
    else:
        if position <= end <= position + slack:
            return
    raise CorruptEntryError("its directory does not list all that is in it")


def _read_foreign_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> npt.NDArray[Any]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a bound
        raise CorruptEntryError(f"its member {info.filename!r} has a compression that numpy never writes")
    n_bytes = info.file_size
    info.file_size += 1  # zipfile stops there: what is longer than it says gives one byte more
    with archive.open(info) as stream:
        content = stream.read(n_bytes + 1)
    if len(content) != n_bytes:
        raise CorruptEntryError(f"its member {info.filename!r} has not the {n_bytes} bytes that it says")
    length_bytes = {1: 2, 2: 4}[content[6]]
    start = 8 + length_bytes + int.from_bytes(content[8 : 8 + length_bytes], "little")
    dtype, shape, is_fortran = _parse_npy_header(content[:start])
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise CorruptEntryError(f"its member {info.filename!r} is not the {dtype} {shape} that it says")
    array = np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if is_fortran else "C")
    return np.array(array, order="C")

"""Entries that somebody crafted: right checksums around wrong contents, for the fault suite and for fuzzing."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from hf_audio_cache import AudioCacheKey, WaveformCacheKey
from hf_audio_cache.cache.entry import encode_entry

CORPUS = Path(__file__).resolve().parent / "corpus"
KEY = AudioCacheKey("c0535e4b" * 8, "7d865e95" * 8, 16000, 30000, True)

END_OF_DIRECTORY = b"PK\x05\x06"
DIGEST_LENGTH = 16


def signed_text(content: bytes) -> bytes:
    """Return what the signature that ends an entry is of, as the format says; nothing where it is no signed entry."""
    try:
        fields = json.loads(zipfile.ZipFile(io.BytesIO(content)).comment[DIGEST_LENGTH:-64])["key"]
    except (ValueError, KeyError, zipfile.BadZipFile):
        return b""
    key = AudioCacheKey(**fields) if "processor_sha" in fields else WaveformCacheKey(**fields)
    return key.name().encode() + b"\0" + content[:-64]


def noise(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return an array of random bits."""
    content = np.random.default_rng(seed).bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.frombuffer(content, dtype).reshape(shape)


@dataclass
class Outcomes:
    """What came of reading bad entries; each thing that is wrong in a few words."""

    tried: int = 0
    wrong: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    bytes_lost: int = 0

    def report(self, faults: Any, fault: str) -> None:
        """Enter a line into the closing table; fail, and say at what, if anything was wrong."""
        try:
            faults.survived(
                fault,
                tried=self.tried,
                wrong_values=len(self.wrong),
                exceptions=len(self.raised),
                bytes_lost=self.bytes_lost,
            )
        except AssertionError as exc:
            raise AssertionError(f"{exc}; of {self.tried}: {[*self.wrong, *self.raised][:5]}") from None


# Small entries of every kind ------------------------------------------------------------------------------------------

_PCM = np.round(3000 * np.sin(np.arange(700) / 9)).astype(np.int16).astype(np.float32) / np.float32(32768)
_FEATURES = np.sin(np.arange(600, dtype="<f4") / 7).reshape(20, 30)

OUTPUTS: dict[str, dict[str, Any]] = {
    "raw": {"x": np.arange(12, dtype="<f4").reshape(3, 4), "y": np.arange(12, dtype=">f8")},
    "json": {"chunks": [[0, 1], {"a": None}], "x": np.array(3)},
    "blosc": {"input_features": _FEATURES, "mask": np.arange(40, dtype="<i4") % 3},
    "noise": {"input_features": noise("<f4", (30, 40))},
    "tail": {"x": np.eye(30, 90, dtype="<f4"), "attention_mask": np.ones((2, 500), np.int64)},
    "pcm16": {"waveform": _PCM},
    "many": {f"x{i}": np.full((4, 5), i, f"<{'iuf'[i % 3]}{2 << i % 3}") for i in range(9)},
}


def base(kind: str) -> bytes:
    """Return a good entry of `KEY`: ``"savez"`` without a manifest, or one of `OUTPUTS`."""
    if kind == "savez":
        return savez(**OUTPUTS["raw"])
    return encode_entry(KEY, OUTPUTS[kind], compression=None if kind in ("raw", "json") else "blosc")


# Taking apart and putting together ------------------------------------------------------------------------------------


def split(data: bytes) -> tuple[bytes, bytes]:
    """Return the bytes of an entry before its manifest's checksum, and the manifest as text."""
    end = data.rindex(END_OF_DIRECTORY) + 22
    return data[:end], data[end + DIGEST_LENGTH :]


def seal(body: bytes, manifest: Any) -> bytes:
    """Put a manifest (an object, or its text) after the body of an entry, with the length and checksum it needs."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest, separators=(",", ":")).encode()
    body = body[:-2] + (DIGEST_LENGTH + len(text)).to_bytes(2, "little")
    return body + xxhash.xxh3_64_hexdigest(body + text).encode() + text


def manifest_of(data: bytes) -> Any:
    """Return the manifest of an entry; None where it is an ``.npz`` without one."""
    text = split(data)[1]
    try:
        return json.loads(text) if text else None
    except ValueError:  # it was signed: a signature follows
        return json.loads(text[:-64])


def with_manifest(data: bytes, **changes: Any) -> bytes:
    """Return an entry with other fields in its manifest, sealed."""
    body, text = split(data)
    return seal(body, {**json.loads(text), **changes})


def with_member(data: bytes, which: int = 0, **changes: Any) -> bytes:
    """Return an entry with other fields in one line of its manifest, sealed."""
    members = manifest_of(data)["members"]
    members[which] = {**members[which], **changes}
    return with_manifest(data, members=members)


def payload_start(data: bytes, which: int = 0) -> int:
    """Return where the content of a member starts, behind the header of its ``.npy``."""
    offset = manifest_of(data)["members"][which]["offset"]
    return offset + 10 + int.from_bytes(data[offset + 8 : offset + 10], "little")


def with_bytes(data: bytes, at: int, content: bytes) -> bytes:
    """Return an entry with `content` written over what is at `at`, before the manifest, sealed."""
    body, text = split(data)
    return seal(body[:at] + content + body[at + len(content) :], text)


def with_frame(data: bytes, frame: bytes) -> bytes:
    """Return an entry whose first member's content is `frame`, whatever its length; sealed.

    What follows in the file moves; only the first member may be read.
    """
    body, text = split(data)
    start = payload_start(data)
    manifest = json.loads(text)
    manifest["members"] = manifest["members"][:1]
    return seal(body[:start] + frame + body[body.rindex(b"PK\x01\x02") :], manifest)


def with_npy_header(data: bytes, header: bytes, *, version: bytes = b"\x01\x00") -> bytes:
    """Return an entry with another ``.npy`` header for its first member, which stays where it was; sealed."""
    body, text = split(data)
    offset = json.loads(text)["members"][0]["offset"]
    rest = body[payload_start(data) :]
    return seal(body[:offset] + npy_header(header, version=version) + rest, text)


def npy_header(header: bytes, *, version: bytes = b"\x01\x00") -> bytes:
    """Return the start of a ``.npy`` with this text as its header."""
    header += b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2 if version[0] == 1 else 4, "little") + header


# Files of other programs ----------------------------------------------------------------------------------------------


def savez(**arrays: np.ndarray) -> bytes:
    """Return what `numpy.savez` writes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array: np.ndarray, **settings: Any) -> bytes:
    """Return what `numpy.save` writes."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **settings)
    return buffer.getvalue()


def zip_of(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    """Return a zip of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
        archive.comment = comment
    return buffer.getvalue()


def zip_by_hand(
    content: bytes,
    names: list[bytes],
    *,
    size: int,
    crc: int = 0,
    method: int = 8,
    compressed: int | None = None,
    offset: int = 0,
    extra: bytes = b"",
    local_name: bytes | None = None,
) -> bytes:
    """Return a zip whose directory gives each of `names` the one stored `content`, and says of it what it is told to.

    Parameters
    ----------
    content
        As it is stored.
    names
        A line of the directory for each.
    size, crc, compressed
        What the directory says of the unpacked content, and of its stored size (by default the true one).
    method
        The compression: 0 or 8.
    offset
        Where the directory says that each member starts.
    extra
        The extra field of each line, such as zip64's.
    local_name
        The name before the content; by default the first one.
    """
    compressed = len(content) if compressed is None else compressed
    name = names[0] if local_name is None else local_name
    local = _numbers((20, 2), (0, 2), (method, 2), (0, 4), (crc, 4), (len(content), 4), (size, 4), (len(name), 2))
    before = b"PK\x03\x04" + local + bytes(2) + name + content
    sizes = ((0, 2), (method, 2), (0, 4), (crc, 4), (compressed, 4), (size, 4))
    rest = _numbers((len(extra), 2), (0, 2), (0, 2), (0, 2), (0, 4), (offset, 4))
    lines = [b"PK\x01\x02" + _numbers((20, 2), (20, 2), *sizes, (len(name), 2)) + rest + name + extra for name in names]
    directory = b"".join(lines)
    count = min(len(names), 0xFFFF)
    end = _numbers((0, 4), (count, 2), (count, 2), (len(directory), 4), (len(before), 4), (0, 2))
    return before + directory + END_OF_DIRECTORY + end


def _numbers(*pairs: tuple[int, int]) -> bytes:
    return b"".join((value & (1 << 8 * width) - 1).to_bytes(width, "little") for value, width in pairs)


def deflated(content: bytes, zeros: int = 0) -> bytes:
    """Return `content` and then `zeros` zero bytes, as deflate packs them; never all of them in memory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [packer.compress(content)]
    for start in range(0, zeros, 1 << 20):
        parts.append(packer.compress(bytes(min(1 << 20, zeros - start))))
    return b"".join(parts) + packer.flush()

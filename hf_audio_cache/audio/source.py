"""The content of an audio cell, in any form that `datasets` or a user gives it, and its SHA-256."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import AudioColumnError, AudioSourceError
from .content_sha import content_sha256
from .file_hashes import FarState, FileState

_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_CELL_FIELDS = {"bytes", "path", "array", "sampling_rate"}
# Hashed before a decoded array. No file starts like this, so that no file has the hash of an array.
_ARRAY_DOMAIN = b"\x00hf_audio_cache: decoded array\x00"


@dataclass(frozen=True)
class AudioSource:
    """The content of one audio cell."""

    clip: str  # what messages call it: its path, if it has one
    # SHA-256 of the encoded bytes, which is the Git LFS sha256 of the same file, or of the dtype, shape, rate and bytes
    # of a decoded array.
    blob_sha: str
    # The encoded bytes, or the decoded array; None if the file was not read, since its hash was known.
    content: bytes | memoryview | npt.NDArray[Any] | None
    source_rate: int | None = None  # rate of a decoded array in Hz; None for encoded bytes, which state it themselves
    # State of the file that the bytes were read from; None if there is no such file, or it changed while it was read or
    # just before, so that another change might not show.
    file: FileState | FarState | None = None


def flat_columns(audio_column: str, columns: Collection[str]) -> dict[str, str]:
    """Return the columns that hold the audio together, by field. Empty if one column holds it, or none does.

    They are those of a flattened dataset (``audio.bytes``, …), or ``array`` and ``sampling_rate``.
    """
    if audio_column in columns:
        return {}
    names = {field: f"{audio_column}.{field}" for field in ("bytes", "path", "array", "sampling_rate")}
    flattened = {field: name for field, name in names.items() if name in columns}
    if flattened.keys() - {"sampling_rate"}:
        return flattened
    return {name: name for name in ("array", "sampling_rate")} if {"array", "sampling_rate"} <= {*columns} else {}


def has_audio(audio_column: str, columns: Collection[str]) -> bool:
    """Return whether there is such an audio column, or flat columns in its place."""
    return audio_column in columns or bool(flat_columns(audio_column, columns))


def check_column(audio_column: str, columns: Sequence[str]) -> None:
    """Raise `AudioColumnError` if neither `audio_column` nor flat columns in its place are among `columns`."""
    if not has_audio(audio_column, columns):
        found = ", ".join(map(repr, columns)) or "(none)"
        raise AudioColumnError(
            f"There is no audio column {audio_column!r}, only the columns {found}. Pass the right name: "
            "CachedFeatures(…, audio_column=…). (Did Trainer drop it? Pass remove_unused_columns=False to its "
            "TrainingArguments.)",
            column=audio_column,
            columns=tuple(columns),
        )


def is_audio_cell(value: object) -> bool:
    """Return whether a value is an audio cell in the form of a dict, and not an example that has one."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and set(value) <= _CELL_FIELDS
        and ("bytes" in value or "path" in value or "array" in value)
    )


def local_path(cell: Any) -> str | None:
    """Return the path of the local file that `read_source` would read for this cell; None if it would read none."""
    path = _path_in(cell)
    return path if path is not None and not _is_url(path) else None


def far_url(cell: Any) -> str | None:
    """Return the URL of the file that `read_source` would read for this cell; None if it would read none at a URL."""
    path = _path_in(cell)
    return path if path is not None and "://" in path and "::" not in path else None


def _path_in(cell: Any) -> str | None:
    """Return the path or URL that `read_source` would read for this cell."""
    cell = getattr(cell, "_hf_encoded", None) or cell
    if isinstance(cell, Mapping) and cell.get("array") is None and cell.get("bytes") is None:
        cell = cell.get("path")
    return os.fsdecode(cell) if isinstance(cell, (str, os.PathLike)) else None


def _is_url(path: str) -> bool:
    """Return whether a path is for fsspec: a URL, or a chain of file systems such as ``zip://a.wav::s3://…``."""
    return "://" in path or ("::" in path and path.partition("::")[0] in fsspec.available_protocols())


def located(cell: Any, data_dir: str | None) -> Any:
    """Return an audio cell with its relative path, if it has one, made one under `data_dir`."""
    path = None if data_dir is None else local_path(cell)
    if data_dir is None or path is None or os.path.isabs(path):
        return cell
    path = os.path.join(data_dir, path)
    cell = getattr(cell, "_hf_encoded", None) or cell
    return {**cell, "path": path} if isinstance(cell, Mapping) else path


def read_source(cell: Any) -> AudioSource:
    """Return the content of an audio cell; nothing is decoded.

    A cell is a dict of ``bytes`` and/or ``path``; a path or URL; encoded bytes (those of an Arrow buffer are not
    copied); a torchcodec decoder that `datasets` made, which still has its encoded bytes; or a dict of a decoded
    ``array`` and its ``sampling_rate``. Anything else, or bytes that cannot be read, is an AudioSourceError.
    """
    encoded = getattr(cell, "_hf_encoded", None)  # `datasets` sets this on the decoders that it makes
    if encoded is not None:
        cell = encoded
    if isinstance(cell, (str, os.PathLike)):
        return _from_file(os.fsdecode(cell))
    if isinstance(cell, (bytes, bytearray, memoryview, pa.Buffer)):
        return _from_bytes(cell, None)
    if isinstance(cell, Mapping):
        path = cell.get("path")
        if isinstance(path, os.PathLike):
            path = os.fsdecode(path)
        if path is not None and not isinstance(path, str):
            raise _not_audio(cell)
        if cell.get("array") is not None:
            return _from_array(cell["array"], cell.get("sampling_rate"), path)
        if cell.get("bytes") is not None:
            return _from_bytes(cell["bytes"], path)
        if path is not None:
            return _from_file(path)
    raise _not_audio(cell)


def _not_audio(cell: Any) -> AudioSourceError:
    found = _describe(cell)
    if cell is None or (isinstance(cell, Mapping) and cell and not any(value is not None for value in cell.values())):
        remedy = "Filter such rows out."
    else:
        remedy = (
            "Pass a dict of bytes or path, a path or URL, encoded bytes, a dict of array and sampling_rate, or a "
            "decoder that datasets made."
        )
    return AudioSourceError(f"There is no audio in a cell: found {found}. It cannot be used. {remedy}", clip=found)


def _describe(cell: Any) -> str:
    if isinstance(cell, Mapping) and not cell:
        return "an empty dict"
    if isinstance(cell, Mapping):
        return "a dict of " + ", ".join(f"{name}: {type(value).__name__}" for name, value in cell.items())
    if isinstance(cell, np.ndarray) or (hasattr(cell, "detach") and hasattr(cell, "shape")):
        return f"a bare array of shape {tuple(cell.shape)} (its rate is unknown)"
    if isinstance(cell, (list, tuple)):
        return f"a {type(cell).__name__} of {len(cell)} values"
    return "None" if cell is None else f"an object of type {type(cell).__name__}"


def _from_bytes(encoded: Any, path: str | None) -> AudioSource:
    if isinstance(encoded, np.bytes_):  # NumPy drops trailing zero bytes, which a WAV may well end in
        raise AudioSourceError(
            "The encoded bytes of a clip are a NumPy string, which has lost any zeros at its end. It cannot "
            "be used. Use ds.with_format(None), or cast the column to Audio(decode=False).",
            clip=path or "a NumPy string",
        )
    if isinstance(encoded, pa.Buffer):
        encoded = memoryview(encoded).cast("B")  # immutable, so not copied
    elif not isinstance(encoded, bytes):
        try:
            encoded = bytes(memoryview(encoded))
        except (TypeError, ValueError):  # a null of Arrow's, a buffer that was released
            raise AudioSourceError(
                f"The encoded bytes of a clip are a {type(encoded).__name__}. It cannot be used. Pass "
                "bytes, or an object with a buffer.",
                clip=path or type(encoded).__name__,
            ) from None
    blob_sha = content_sha256(encoded)
    return AudioSource(path or f"the clip with sha256 {blob_sha[:12]}", blob_sha, encoded)


def _from_file(path: str) -> AudioSource:
    content, state = _read_file(path)
    return replace(_from_bytes(content, path), file=state)


def _read_file(path: str) -> tuple[bytes, FileState | None]:
    state = None
    try:
        if _is_url(path):
            with fsspec.open(path, "rb") as file:
                content = file.read()
        else:
            # Without O_NONBLOCK this would wait for a pipe, where a system has them.
            with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAIT)) as file:
                before = os.fstat(file.fileno())
                if not stat.S_ISREG(before.st_mode):
                    raise OSError("it is not a regular file")
                content = file.read()
                state = FileState.of(path, os.fstat(file.fileno()))
            is_whole = state == FileState.of(path, before) and len(content) == before.st_size
            if state is not None and not (is_whole and state.is_settled()):
                state = None  # it changed while it was read, or might change now without a trace
    except Exception as exc:  # fsspec drivers raise exceptions of their own, not only OSError
        raise AudioSourceError(
            f"The audio file {path or repr(path)} could not be read ({type(exc).__name__}: {exc}). It cannot be used."
            f"{_hint(path)} Check that the file is where the dataset says, and that you may read it.",
            clip=path,
        ) from exc
    return bytes(content), state


def _hint(path: str) -> str:
    """Say what a path that was not found may lack."""
    if _is_url(path) or os.path.isabs(path):
        return ""
    try:
        here = os.getcwd()
    except OSError:
        here = "the working directory, which is gone"
    remedy = f"that is not {here}: pass that folder as data_dir=, such as the one of the manifest."
    if os.path.dirname(path):
        return f" It is a relative path. It may start from a folder {remedy}"
    return (
        " It is a bare file name: the dataset was stored without the bytes that belong to it, or the name is that of a "
        f"file in a folder {remedy}"
    )


def _from_array(array: Any, sampling_rate: Any, path: str | None) -> AudioSource:
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise AudioSourceError(
            "A decoded clip is an array with masked samples, which have no values. It cannot be used. Fill them: "
            "array.filled(0).",
            clip=path or f"a masked array of shape {array.shape}",
        )
    try:
        samples = np.asarray(array)
    except (RuntimeError, TypeError, ValueError) as exc:  # torch raises all three
        raise AudioSourceError(
            f"A decoded clip is not an array of numbers ({exc}). It cannot be used. Pass samples as one array.",
            clip=path or f"an array of type {type(array).__name__}",
        ) from exc
    if not isinstance(array, np.ndarray) and samples.dtype == np.float64:
        # Arrow gives float32 back as Python floats; the same clip must have the same key in either form.
        with np.errstate(over="ignore"):
            single = samples.astype(np.float32)
        samples = single if np.array_equal(single, samples) else samples
    if getattr(sampling_rate, "shape", None) == () and hasattr(sampling_rate, "item"):
        sampling_rate = sampling_rate.item()  # as the formats of NumPy and torch give it
    is_rate = isinstance(sampling_rate, (int, float, np.integer)) and not isinstance(sampling_rate, bool)
    if not is_rate or sampling_rate <= 0 or sampling_rate % 1:
        raise AudioSourceError(
            f"A decoded array has the sampling_rate {sampling_rate!r}. It cannot be used. Pass its rate in Hz.",
            clip=path or f"an array of shape {samples.shape}",
        )
    samples = np.asarray(samples, order="C")
    blob_sha = _array_sha256(samples, int(sampling_rate))
    return AudioSource(path or f"the array with sha256 {blob_sha[:12]}", blob_sha, samples, int(sampling_rate))


def _array_sha256(samples: npt.NDArray[Any], sampling_rate: int) -> str:
    header = json.dumps([samples.dtype.str, samples.shape, sampling_rate]).encode()
    # An array of objects has no bytes to hash; decoding refuses it.
    content = b"" if samples.dtype.hasobject else samples.reshape(-1).view(np.uint8).data
    return content_sha256(_ARRAY_DOMAIN + header, content)


def check_unchanged(source: AudioSource) -> None:
    """Raise `AudioSourceError` if a clip's memory was written to after it was hashed.

    What was computed from it would be stored under the key of other content. `bytes` are immutable and not checked.
    """
    content = source.content
    if content is None or isinstance(content, bytes):
        return
    if isinstance(content, np.ndarray):
        now = _array_sha256(content, source.source_rate or 0)
    else:
        now = content_sha256(content)
    if now != source.blob_sha:
        raise AudioSourceError(
            f"The bytes of {source.clip} changed while they were read: another thread or process writes to that "
            "memory. They cannot be used. Pass a copy.",
            clip=source.clip,
        )

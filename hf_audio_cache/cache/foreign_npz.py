"""Entries that another program wrote with ``numpy.savez``: no manifest, and zip's own checksums."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CorruptEntryError
from .codecs import MAX_TAIL_BYTES, OUTPUT_NAME, parse_header


def load_foreign_npz(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an ``.npz`` that another program wrote; zip's own checksums are all that guards it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        _check_gapless(data, members, archive.start_dir)
        n_bytes = sum(info.file_size for info in members)
        if n_bytes > MAX_TAIL_BYTES and n_bytes > 1000 * len(data):  # deflate's best is 1032 to 1
            raise CorruptEntryError(f"its {len(data)} bytes would unpack to {n_bytes}")
        arrays = {info.filename.removesuffix(".npy"): _read_foreign_member(archive, info) for info in members}
    if not arrays or not all(map(OUTPUT_NAME.fullmatch, arrays)):
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
    dtype, shape, is_fortran = parse_header(content[:start])
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise CorruptEntryError(f"its member {info.filename!r} is not the {dtype} {shape} that it says")
    array = np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if is_fortran else "C")
    return np.array(array, order="C")

"""Entries that somebody crafted, with right checksums and keys: each costs a miss, and neither time nor memory.

Who can write an unsigned root can give wrong values in an honest form, which no reader can see. Everything else is
tried here: each family of entries is read in a process of its own, whose address space and CPU time have a limit.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import pickle
import resource
import socket
import stat
import struct
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import audio_datasets as data
import entry_tools as tools
import numpy as np
import pytest
from children import in_child
from entry_tools import KEY, OUTPUTS, Outcomes, all_same, base, seal, split, with_bytes, with_manifest, with_member

from hf_audio_cache import AudioCache, AudioCacheKey, CachedFeatures, CacheRoot, WaveformCache, verify
from hf_audio_cache.cache.signing import signing_keys
from hf_audio_cache.errors import StoreError

SIGNING_KEY = "a key that the attacker has not"
MB = 1 << 20
BASES = [*OUTPUTS]


# Crafting -------------------------------------------------------------------------------------------------------------

NUMBERS: list[Any] = [-1, -(1 << 63), 1.0, 1e308, float("nan"), float("inf"), True, False, None, "1", "", [], [1], {}]
NUMBERS += [0, 1, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 36, 1 << 62, 1 << 63, 1 << 64, 1 << 2000]

SHAPES: list[Any] = [[1 << 62], [1 << 31, 1 << 31], [1 << 36], [-1], [-3, -4], [-1, 12], [0, 1 << 62], [1 << 62, 0]]
SHAPES += [[1] * 65, [1] * 20_000, [0] * 20_000, [1 << 62] * 1000, [3.0, 4.0], [True, 12], [None], [[12]], ["12"]]
SHAPES += ["12", 12, None, {}, {"0": 12}, [math.nan], [1 << 4000], [], [0], [(1 << 28) - 1], [1, (1 << 28) - 1]]

DTYPES: list[Any] = ["|O", "O", "object", "|V8", "V", "<U4", "|S4", "<M8[s]", "<m8", "f4,f4", "(2,)<f4", "<f4[2]"]
DTYPES += [
    [["a", "<f4"]],
    {"names": ["a"], "formats": ["<f4"]},
    "float32",
    "",
    None,
    4,
    True,
    "<f4\n",
    "<f\uff13",
    "<f99",
]
DTYPES += ["<f0", "<i3", "|b4", "=f4", "@f4", ">O8", "|a4", "<f4" * 5000]

NAMES: list[Any] = [
    "../x",
    "../../../../tmp/x",
    "/etc/passwd",
    "x/y",
    "x\\y",
    "x\0",
    "\0",
    "",
    ".",
    "..",
    "x.npy",
    "x\n",
]
NAMES += [
    "x" * 201,
    "x" * 50_000,
    "\uff58",
    "\ud800",
    "\x1b[2J",
    "__class__ ",
    "1x",
    None,
    5,
    ["x"],
    {"x": 1},
    True,
    "x y",
]

CODECS: list[Any] = [
    "pickle",
    "zstd",
    "",
    "RAW",
    None,
    1,
    True,
    ["raw"],
    {"raw": 1},
    "raw\0",
    "json.blosc",
    "lz4" * 9999,
]

TAILS: list[Any] = [[n, "00000000"] for n in NUMBERS] + [[n] for n in (0, 60)] + NUMBERS[:14]
TAILS += [[60, value] for value in ("", "00", "0" * 50_000, "zz", None, 0, [], "\u0660" * 8, "0000\0000")]
TAILS += [[60, "00000000", 0], ["00000000", 60], [90, "00000000"], [89, "00000000"], [(1 << 26) - 30, "00000000"]]


@functools.cache
def lying_manifests() -> dict[str, bytes]:
    """Entries whose manifest has a wrong number, dtype, name, codec or tail, in each of its members."""
    cases = {}
    fields = {"offset": NUMBERS, "shape": SHAPES, "dtype": DTYPES, "name": NAMES, "codec": CODECS, "tail": TAILS}
    for kind in BASES:
        for field, values in fields.items():
            for number, value in enumerate(values):
                which = number % len(OUTPUTS[kind])
                if field == "tail" and value is None:
                    continue  # no tail
                cases[f"{kind}: {field} {ascii(value)[:60]}"] = with_member(base(kind), which, **{field: value})
    return {label: content for label, content in cases.items() if len(split(content)[1]) <= 65_519}


@functools.cache
def unsafe_offsets() -> dict[str, bytes]:
    """Members that start in one another, in the directory, in the comment, or at the last bytes of the file."""
    cases = {}
    for kind in BASES:
        body, text = split(base(kind))
        places = [0, 1, body.index(b"PK\x01\x02"), len(body) - 22, len(body) - 10, len(body) - 1, len(body)]
        places += [len(body) + 16, len(body) + 17, len(body) + len(text), len(body) + 16 + len(text), 1 << 16]
        places += [json.loads(text)["members"][0]["offset"] + step for step in (-30, -2, -1, 1, 2, 8, 10, 64, 128)]
        for place in places:
            cases[f"{kind}: offset {place} of {len(body)}"] = with_member(base(kind), offset=place)
    return cases


@functools.cache
def strange_texts() -> dict[str, bytes]:
    """Manifests that are not JSON, or such JSON as nobody writes."""
    body, text = split(base("raw"))
    manifest = json.loads(text)
    member = json.dumps(manifest["members"][0]).encode()
    texts = {
        "empty": b"",
        "NUL": bytes(1000),
        "no JSON": b"manifest}",
        "half": text[: len(text) // 2],
        "not UTF-8": text.replace(b"raw", b"r\xff\xfe"),
        "half a character": text[:-1] + b"\xe2\x82}",
        "UTF-16": text.decode().encode("utf-16"),
        "UTF-32": text.decode().encode("utf-32-be"),
        "a byte order mark": b"\xef\xbb\xbf" + text,
        "surrogates": text.replace(b'"x"', b'"\\ud800"'),
        "NaN": text.replace(b'"version":1', b'"version":NaN'),
        "infinity": text.replace(b'"version":1', b'"version":-Infinity'),
        "1e999": text.replace(b'"version":1', b'"version":1e999'),
        "a number of 4000 digits": text.replace(b'"version":1', b'"version":1' + b"0" * 4000),
        "a number of 50000 digits": text.replace(b'"version":1', b'"version":1' + b"0" * 50_000),
        "a fraction of 50000 digits": text.replace(b'"version":1', b'"version":0.' + b"1" * 50_000),
        "an exponent of 50000 digits": text.replace(b'"version":1', b'"version":1e' + b"1" * 50_000),
        "duplicate keys": text[:-1] + b',"members":[],"version":2}',
        "duplicate fields": text.replace(b'"codec":"raw"', b'"codec":"raw","codec":"json"'),
        "5000 duplicate keys": text[:-1] + b',"version":1' * 4500 + b"}",
        "5000 keys": text[:-1] + b"".join(b',"k%d":1' % n for n in range(4500)) + b"}",
        "lists": b"[" * 60_000,
        "closed lists": b"[" * 30_000 + b"]" * 30_000,
        "objects": b'{"a":' * 10_000,
        "closed objects": b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
        "a deep key": text.replace(b'"version":1', b'"version":1,"key":' + b"[" * 900 + b"]" * 900),
        "a deep name": text.replace(b'"x"', b"[" * 900 + b"]" * 900),
        "a list": b"[" + text + b"]",
        "text": json.dumps(text.decode()).encode(),
        "null": b"null",
        "500 members": text.replace(member, b",".join([member.replace(b'"x"', b'"x%d"' % n) for n in range(500)])),
        "20000 empty members": b'{"version":1,"members":[' + b",".join([b"{}"] * 19_000) + b"]}",
        "20000 null members": b'{"version":1,"members":[' + b",".join([b"0"] * 29_000) + b"]}",
        "spaces": text.replace(b",", b"," + b" " * 2000),
        "forged lines of a log": text.replace(b'"codec"', b'"x\\nERROR all is lost\\u001b[2J":1,"codec"'),
        "a forged key": text.replace(b'"blob_sha"', b'"x\\nERROR all is lost\\u001b[2J":1,"blob_sha"'),
    }
    cases = {label: seal(body, content) for label, content in texts.items() if len(content) <= 65_519}
    assert len(cases) > 30
    fields = {
        "version": [2.0, 0, -1, "1", None, [1], {}, 1 << 4000],
        "key": [None, {}, [], "x", 1, {**manifest["key"], "more": 1}, {**manifest["key"], "sample_rate": "16000"}],
        "members": [None, {}, {"x": 1}, [], [[]], [None], "x", 1, [manifest["members"][0]] * 2],
        "compute_seconds": [None, "long", [], {}, 1 << 4000, "x" * 1000],
    }
    for field, values in fields.items():
        for value in values:
            cases[f"{field} {str(value)[:30]}"] = with_manifest(base("raw"), **{field: value})
        without = {name: value for name, value in manifest.items() if name != field}
        cases[f"no {field}"] = seal(body, without)
    for length in range(1, 16):
        cases[f"a comment of {length}"] = body[:-2] + length.to_bytes(2, "little") + b"0" * length
    return cases


@functools.cache
def lying_frames() -> dict[str, bytes]:
    """Blosc frames whose header lies on any of its fields, alone and in pairs, and whose table of blocks does."""
    cases = {}
    sizes = [0, 1, 2, 7, 15, 16, 17, 255, 4799, 4800, 4801, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
    for kind in ("blosc", "noise", "tail", "pcm16"):
        content = base(kind)
        start = tools.payload_start(content)
        frame = content[start : start + int.from_bytes(content[start + 12 : start + 16], "little")]

        def lie(label: str, *changes: tuple[int, bytes], kind: str = kind, frame: bytes = frame) -> None:
            changed = bytearray(frame)
            for at, value in changes:
                changed[at : at + len(value)] = value
            cases[f"{kind}: {label}"] = with_bytes(base(kind), tools.payload_start(base(kind)), bytes(changed))

        for value in range(256):
            lie(f"flags {value:08b}", (2, bytes([value])))
        for value in (0, 1, 3, 4, 5, 127, 255):
            lie(f"version {value}", (0, bytes([value])))
            lie(f"version of the codec {value}", (1, bytes([value])))
        for value in (0, 1, 2, 3, 5, 8, 16, 64, 255):
            lie(f"typesize {value}", (3, bytes([value])))
        for size in sizes:
            coded = struct.pack("<I", size)
            for field, at in (("nbytes", 4), ("blocksize", 8), ("cbytes", 12)):
                lie(f"{field} {size}", (at, coded))
                lie(f"{field} {size}, copied", (2, bytes([frame[2] | 2])), (at, coded))
            for number in range(3):
                lie(f"block {number} at {size}", (16 + 4 * number, coded))
            lie(f"a stream of {size}", (20, coded))
            lie(f"blocksize {size}, no shuffle", (2, bytes([frame[2] & 0xF0])), (8, coded))
        cut = struct.pack("<I", 16)
        lie("a header alone", (12, cut))
    return cases


def zeros_frame(n_bytes: int, *, block: int = 0) -> bytes:
    """Return a frame of zeros."""
    from numcodecs import blosc  # the frames are its own

    return bytes(blosc.compress(np.zeros(n_bytes, np.uint8), b"lz4", 9, blosc.SHUFFLE, block))


def one_frame(frame: bytes, *, members: int, **fields: Any) -> bytes:
    """Return an entry of many outputs that are all decoded from the one frame."""
    content = tools.with_frame(base("blosc"), frame)
    [member] = tools.manifest_of(content)["members"]
    lines = [{**member, "dtype": "|u1", **fields, "name": f"x{n}"} for n in range(members)]
    return with_manifest(content, members=lines)


def shared_json(n_lists: int, members: int) -> bytes:
    """Return an entry of many outputs that are all the one JSON text: a list of empty lists."""
    content = base("json")
    text = b"[" + b"[]," * (n_lists - 1) + b"[]]"
    content = tools.with_frame(content, text)  # behind the header, whatever it is
    content = tools.with_npy_header(
        content, f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(text)},), }}".encode().ljust(118)
    )
    [member] = tools.manifest_of(content)["members"]
    return with_manifest(content, members=[{**member, "shape": [len(text)], "name": f"x{n}"} for n in range(members)])


@functools.cache
def amplifications() -> dict[str, bytes]:
    """Small entries that would decode to much; what they may take is 256 MB, and 256 times their own bytes."""
    frame, blocks = zeros_frame(MB), zeros_frame(MB, block=4096)
    tail = base("tail")
    return {
        "LZ4 of zeros": one_frame(frame, members=1, shape=[MB]),
        "LZ4 of zeros, 400 times": one_frame(frame, members=400, shape=[MB]),
        "LZ4 of zeros in blocks, 400 times": one_frame(blocks, members=400, shape=[MB]),
        "a frame of one block that claims gigabytes": one_frame(
            frame[:4] + struct.pack("<II", (1 << 31) - 1, (1 << 31) - 1) + frame[12:], members=1, shape=[(1 << 31) - 1]
        ),
        "a tail of a terabyte": with_member(tail, shape=[1, 1 << 40], tail=[(1 << 40) - 30, "00000000"]),
        "a tail of 4 GB": with_member(tail, shape=[1, 1 << 30], tail=[(1 << 30) - 900, "00000000"]),
        "a tail of 200 MB before a frame that is too short": with_member(
            tail, shape=[30, 1_700_000], tail=[1_700_000 - 29, "00000000"]
        ),
        "400 tails of 100 MB": with_manifest(
            tail,
            members=[
                {
                    **tools.manifest_of(tail)["members"][0],
                    "name": f"x{n}",
                    "shape": [30, 830_000],
                    "tail": [829_970, "00" * 4],
                }
                for n in range(400)
            ],
        ),
        "one JSON text 400 times": shared_json(100_000, 400),
        "one JSON text, deep, 400 times": shared_json(300_000, 200),
        "one array 400 times": with_manifest(
            (content := tools.encode_entry(KEY, {"x": np.zeros(MB // 4, "<f4")})),
            members=[{**tools.manifest_of(content)["members"][0], "name": f"x{n}"} for n in range(400)],
        ),
    }


PLAIN = np.arange(12, dtype="<f4").reshape(3, 4)
MEMBER = tools.npy(PLAIN)
CRC = zlib.crc32(MEMBER)

DICT = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }"
HEADERS = {
    "an expression": b"__import__('os').mkdir('MARKER')",
    "an expression in the dict": DICT.replace(b"(3, 4)", b"(__import__('os').mkdir('MARKER'), 4)"),
    "a power": DICT.replace(b"(3, 4)", b"(9**9**9, 4)"),
    "a product": DICT.replace(b"(3, 4)", b"(3*4,)"),
    "a comprehension": DICT.replace(b"(3, 4)", b"tuple(n for n in (3, 4))"),
    "objects": DICT.replace(b"<f4", b"|O"),
    "text": DICT.replace(b"<f4", b"<U1"),
    "void": DICT.replace(b"<f4", b"|V4"),
    "times": DICT.replace(b"<f4", b"<M8[s]"),
    "records": DICT.replace(b"'<f4'", b"[('a', '<f4')]"),
    "records of gigabytes": DICT.replace(b"'<f4'", b"[('a', '<f4', (1073741824,))]"),
    "3000 fields": DICT.replace(b"<f4", b"f4," * 2999 + b"f4"),
    "a sub-array": DICT.replace(b"'<f4'", b"('<f4', (2,))"),
    "Fortran order": DICT.replace(b"False", b"True"),
    "no order": DICT.replace(b"False", b"None"),
    "a negative shape": DICT.replace(b"(3, 4)", b"(-3, -4)"),
    "a shape of floats": DICT.replace(b"(3, 4)", b"(3.0, 4.0)"),
    "a shape of 2**62": DICT.replace(b"(3, 4)", b"(4611686018427387904,)"),
    "a shape of 2**62 by 0": DICT.replace(b"(3, 4)", b"(4611686018427387904, 0)"),
    "a shape of 9000 digits": DICT.replace(b"(3, 4)", b"(" + b"9" * 9000 + b",)"),
    "3000 dimensions": DICT.replace(b"(3, 4)", b"(" + b"1," * 3000 + b")"),
    "Python 2's numbers": DICT.replace(b"(3, 4)", b"(3L, 4L)"),
    "another shape": DICT.replace(b"(3, 4)", b"(4, 3)"),
    "a key more": DICT.replace(b"}", b"'x': 1}"),
    "a key less": b"{'descr': '<f4', 'fortran_order': False}",
    "no dict": b"[1, 2]",
    "nothing": b"",
    "NUL": bytes(118),
    "bytes above 127": b"\xff" * 118,
    "a million brackets": b"(" * 65_000,
    "brackets": b"(" * 9_900,
    "closed brackets": b"[" * 4_900 + b"]" * 4_900,
    "190 brackets": b"{'descr': " + b"(" * 190 + b")" * 190 + b"}",
    "signs": b"-" * 9_900 + b"1",
    "complements": b"~" * 9_900 + b"1",
    "sums": b"1" + b"+1" * 4_900,
    "powers": b"1" + b"**1" * 3_200,
    "attributes": b"a" + b".a" * 4_900,
    "calls": b"a" + b"()" * 4_900,
    "lambdas": b"lambda:" * 1_400 + b"1",
    "conditions": b"1 if 1 else " * 800 + b"1",
    "lines": b"\n" * 9_900,
    "a header of 64 kB": DICT.ljust(65_534),
}


@functools.cache
def strange_headers() -> dict[str, bytes]:
    """``.npy`` headers that numpy never writes, in entries with a manifest and without one."""
    cases = {}
    for label, header in HEADERS.items():
        cases[f"raw: {label}"] = tools.with_npy_header(base("raw"), header)
        member = tools.npy_header(header) + PLAIN.tobytes()
        cases[f"savez: {label}"] = tools.zip_of(("x.npy", member))
        for version in (b"\x02\x00", b"\x03\x00"):
            member = tools.npy_header(header, version=version) + PLAIN.tobytes()
            cases[f"savez, version {version[0]}: {label}"] = tools.zip_of(("x.npy", member))
    for version in (b"\x00\x00", b"\x01\x01", b"\x01\xff", b"\x02\x00", b"\x03\x00", b"\x04\x00", b"\xff\xff"):
        cases[f"raw: version {version.hex()}"] = tools.with_npy_header(base("raw"), DICT, version=version)
        member = b"\x93NUMPY" + version + b"\x76\x00" + DICT.ljust(117) + b"\n" + PLAIN.tobytes()
        cases[f"savez: version {version.hex()}"] = tools.zip_of(("x.npy", member))
    for length in (0, 1, 10_001, 65_535):
        member = MEMBER[:8] + length.to_bytes(2, "little") + MEMBER[10:]
        cases[f"savez: a header of {length}"] = tools.zip_of(("x.npy", member))
    member = b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + DICT
    cases["savez: a header of 4 GB"] = tools.zip_of(("x.npy", member))
    return cases


class Bait:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (self.marker, "w")


@functools.cache
def strange_zips() -> dict[str, bytes]:
    """Zips that lie, in the place of an ``.npz``."""
    by_hand = functools.partial(tools.zip_by_hand, MEMBER, [b"x.npy"], method=0, crc=CRC)
    objects = tools.npy(np.array([Bait("MARKER")], dtype=object))
    pickled = pickle.dumps(Bait("MARKER"))
    good = by_hand(size=len(MEMBER))
    end = good.rindex(tools.END_OF_DIRECTORY)
    zip64_end = b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, 1 << 62, 1 << 62, 1 << 62, 1 << 62)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, end, 1)
    all_ones = tools.END_OF_DIRECTORY + bytes(4) + b"\xff" * 12 + bytes(2)
    names = {
        "leaves the folder": "../../x.npy",
        "absolute": "/etc/x.npy",
        "of Windows": "C:\\x.npy",
        "a folder": "x/",
        "NUL": "x\0.npy",
        "empty": ".npy",
        "long": "x" * 60_000 + ".npy",
        "control": "x\x1b[2J\n.npy",
        "dots": "...npy",
    }
    cases = {
        "objects": tools.zip_of(("x.npy", objects)),
        "objects beside an array": tools.zip_of(("x.npy", MEMBER), ("y.npy", objects)),
        "objects behind a header of numbers": tools.zip_of(("x.npy", MEMBER[:128] + pickled)),
        "a pickle": tools.zip_of(("x.npy", pickled)),
        "a zip in the zip": tools.zip_of(("x.npy", tools.zip_of(("x.npy", MEMBER)))),
        "the size larger": by_hand(size=len(MEMBER) + 1),
        "the size smaller": by_hand(size=len(MEMBER) - 1),
        "the size 0": by_hand(size=0),
        "the size 4 GB": by_hand(size=(1 << 32) - 2),
        "stored bytes beyond the end": by_hand(size=len(MEMBER), compressed=1 << 30),
        "stored bytes 0": by_hand(size=len(MEMBER), compressed=0),
        "the start beyond the end": by_hand(size=len(MEMBER), offset=1 << 30),
        "the start in the directory": by_hand(size=len(MEMBER), offset=len(MEMBER) + 40),
        "another name at the start": by_hand(size=len(MEMBER), local_name=b"y.npy"),
        "zip64 of 2**62": by_hand(size=0xFFFFFFFF, extra=struct.pack("<HHQ", 1, 8, 1 << 62)),
        "zip64 of 2**64": by_hand(size=0xFFFFFFFF, extra=struct.pack("<HHQ", 1, 8, (1 << 64) - 1)),
        "zip64, the start at 2**63": by_hand(
            size=len(MEMBER), offset=0xFFFFFFFF, extra=struct.pack("<HHQ", 1, 8, 1 << 63)
        ),
        "zip64, cut": by_hand(size=0xFFFFFFFF, extra=struct.pack("<HH", 1, 8)),
        "zip64, empty": by_hand(size=0xFFFFFFFF, extra=struct.pack("<HH", 1, 0)),
        "zip64, the end": good[:end] + zip64_end + locator + all_ones,
        "zip64, the end, no record": good[:end] + locator + all_ones,
        "zip64, the end in itself": good[:end] + locator + locator + all_ones,
        "ends of ones": good[:end] + all_ones,
        "extra fields, cut": by_hand(size=len(MEMBER), extra=b"\x01\x00\xff\xff\0"),
        "deflate cut off": tools.zip_by_hand(tools.deflated(MEMBER)[:-9], [b"x.npy"], size=len(MEMBER), crc=CRC),
        "deflate of noise": tools.zip_by_hand(os.urandom(500), [b"x.npy"], size=len(MEMBER), crc=CRC),
        "two of one name": tools.zip_by_hand(MEMBER, [b"x.npy"] * 2, size=len(MEMBER), crc=CRC, method=0),
        "x and x.npy": tools.zip_by_hand(MEMBER, [b"x.npy", b"x"], size=len(MEMBER), crc=CRC, method=0),
        "60000 members": tools.zip_by_hand(MEMBER, [b"x%d.npy" % n for n in range(60_000)], size=1, method=0),
        "no members": tools.zip_of(),
        "a comment": tools.zip_of(("x.npy", MEMBER), comment=b"made by another program"),
        "a comment like a checksum": tools.zip_of(("x.npy", MEMBER), comment=b"0" * 16),
        **{f"a name: {label}": tools.zip_of((name, MEMBER)) for label, name in names.items() if name != "x\0.npy"},
        "a name: NUL": tools.zip_by_hand(MEMBER, [b"x\0.npy"], size=len(MEMBER), crc=CRC, method=0),
    }
    for method in (1, 6, 9, 12, 14, 93, 95, 98, 99, 0xFFFF):
        cases[f"compression {method}"] = tools.zip_by_hand(MEMBER, [b"x.npy"], size=len(MEMBER), crc=CRC, method=method)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        cases[f"a bomb of compression {method}"] = tools.zip_of(("x.npy", bytes(8 * MB)), compression=method)
    flags = bytearray(good)
    for flag in (0x1, 0x8, 0x20, 0x40, 0x800, 0x2000, 0xFFFF):
        for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            place = good.index(mark) + at
            flags[place : place + 2] = flag.to_bytes(2, "little")
        cases[f"flags {flag:#x}"] = bytes(flags)
    return cases


@functools.cache
def zip_bombs() -> dict[str, bytes]:
    """Small zips that would unpack to much, or take long to unpack."""
    zeros = tools.deflated(MEMBER, zeros=300 * MB)
    fewer = tools.deflated(MEMBER, zeros=60 * MB)
    by_hand = functools.partial(tools.zip_by_hand, zeros, [b"x.npy"])
    stored = MEMBER + bytes(4 * MB)
    return {
        "300 MB, as it says": by_hand(size=len(MEMBER) + 300 * MB),
        "300 MB, and it says 176 bytes": by_hand(size=len(MEMBER), crc=CRC),
        "300 MB, and it says 0": by_hand(size=0),
        "60 MB, 300 times, and it says 176 bytes": tools.zip_by_hand(
            fewer, [b"x.npy"] * 300, size=len(MEMBER), crc=CRC
        ),
        "60 MB, 300 times, as it says": tools.zip_by_hand(fewer, [b"x.npy"] * 300, size=len(MEMBER) + 60 * MB),
        "4 MB stored, 2000 times, and it says 176 bytes": tools.zip_by_hand(
            stored, [b"x.npy"] * 2000, size=len(MEMBER), crc=CRC, method=0
        ),
        "zips in zips": functools.reduce(
            lambda inner, _: tools.zip_of(("x.npy", inner), compression=zipfile.ZIP_DEFLATED), range(6), bytes(30 * MB)
        ),
    }


@dataclass(frozen=True)
class Family:
    """Entries of one kind, and what reading them may take or give."""

    make: Callable[[], Mapping[str, bytes]]
    megabytes: int = 64
    may_differ: bool = False  # honest in form, with values that were changed


FAMILIES = {
    "lying manifests": Family(lying_manifests),
    "unsafe offsets": Family(unsafe_offsets, may_differ=True),
    "strange JSON": Family(strange_texts),
    "lying frames": Family(lying_frames, may_differ=True),
    "amplifications": Family(amplifications, megabytes=700, may_differ=True),
    "strange npy headers": Family(strange_headers, may_differ=True),
    "strange zips": Family(strange_zips, megabytes=128),
    "zip bombs": Family(zip_bombs, megabytes=64),
}


# Reading --------------------------------------------------------------------------------------------------------------


@dataclass
class Reading:
    """What came of reading one entry."""

    label: str
    outcome: str  # "miss", "hit", or what was raised
    is_same: bool = False  # as an honest entry of the same outputs
    agrees: bool = False  # with its own manifest
    seconds: float = 0.0
    megabytes: float = 0.0  # that the process had to grow by
    log: str = ""


ADDRESS_SPACE = 3 << 30  # beyond what the process has: what no case may take at once
CPU_SECONDS = 200


def confine() -> None:
    """Let the process fail, or be killed, where it takes far too much memory or time."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def start_of_peak() -> float:
    """Forget the most memory that the process ever had, where the system can; return what it is then, in MB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def agrees(content: bytes, outputs: Mapping[str, Any]) -> bool:
    """Return whether the outputs have the names, dtypes and shapes that the manifest says, and no odd dtype."""
    arrays = {name: value for name, value in outputs.items() if isinstance(value, np.ndarray)}
    if not all(array.dtype.kind in "biufc" for array in arrays.values()):
        return False
    manifest = tools.manifest_of(content)
    if manifest is None:
        return len(arrays) == len(outputs)
    said = {line["name"]: (np.dtype(line["dtype"]), tuple(line["shape"])) for line in manifest["members"]}
    return list(said) == list(outputs) and all(
        (array.dtype, array.shape) == said[name] for name, array in arrays.items()
    )


def read_each(root: Path, cases: Mapping[str, bytes], last: Path, signing_key: str | None = None) -> list[Reading]:
    """Put each entry under the key's name and get it, in a process that was confined."""
    confine()
    honest = [*OUTPUTS.values(), {"x": PLAIN}]
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger("hf_audio_cache").addHandler(handler)
    logging.getLogger("hf_audio_cache").setLevel(logging.INFO)
    cache = AudioCache(CacheRoot(root, signing_key=signing_key))
    path = cache.path_for(KEY)
    path.parent.mkdir(parents=True, exist_ok=True)
    readings = []
    for label, content in cases.items():
        last.write_text(label)  # who killed the process
        path.write_bytes(content)
        reading = Reading(label, "miss")
        before, started = start_of_peak(), time.perf_counter()
        try:
            found = cache.get_all(KEY)
        except BaseException as exc:  # noqa: BLE001 - what may not happen, told to the parent
            reading.outcome = repr(exc)[:300]
        else:
            if found is not None:
                same = any(all_same(found, outputs) for outputs in honest)
                reading.outcome, reading.is_same, reading.agrees = "hit", same, agrees(content, found)
            found = None
        reading.seconds, reading.megabytes = time.perf_counter() - started, peak() - before
        reading.log = "".join(logged)
        logged.clear()
        if reading.outcome == "miss" and path.exists() is not (signing_key is not None):
            reading.outcome = "a miss that was not deleted, or deleted though it is not ours"
        readings.append(reading)
    stats = cache.stats
    n_misses = sum(reading.outcome == "miss" for reading in readings)
    assert stats.misses == n_misses, (stats, n_misses)
    assert (stats.unsigned_entries if signing_key else stats.bad_entries) == n_misses, (stats, n_misses)
    return readings


def read_confined(root: Path, cases: Mapping[str, bytes], outcomes: Outcomes, **settings: Any) -> list[Reading]:
    """Read the entries in a child; a crash of it is an exception of the one that it read last."""
    last = root.with_name(f"{root.name}-last")
    root.mkdir()
    try:
        return in_child(functools.partial(read_each, **settings), root, cases, last)
    except RuntimeError as exc:
        outcomes.raised.append(f"{last.read_text()}: {exc}")
        return []


def has_control(text: str) -> bool:
    """Return whether a line of a log would not be one line, or would steer a terminal."""
    return any(ord(character) < 32 or ord(character) == 127 for character in text)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_crafted_entry_costs_a_miss_and_nothing_else(family, faults, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MARKER would be made
    cases = FAMILIES[family].make()
    outcomes = Outcomes(tried=len(cases))
    readings = read_confined(tmp_path / "root", cases, outcomes)
    for reading in readings:
        is_right = reading.is_same or (FAMILIES[family].may_differ and reading.agrees)
        if reading.outcome not in ("miss", "hit"):
            outcomes.raised.append(f"{reading.label}: {reading.outcome}")
        elif reading.outcome == "hit" and not is_right:
            outcomes.wrong.append(f"{reading.label}: a hit")
        elif reading.seconds > 20:
            outcomes.raised.append(f"{reading.label}: took {reading.seconds:.1f} s")
        elif reading.megabytes > FAMILIES[family].megabytes + 256 * len(cases[reading.label]) / MB:
            outcomes.raised.append(f"{reading.label}: took {reading.megabytes:.0f} MB")
        elif has_control(reading.log):
            outcomes.raised.append(f"{reading.label}: logged {reading.log[:300]!r}")
    assert outcomes.raised or len(readings) == len(cases)
    assert outcomes.raised or any(reading.outcome == "miss" for reading in readings)
    listing = sorted(path.name for path in tmp_path.iterdir())
    assert listing == ["root", "root-last"], "something was made outside of the root"
    outcomes.report(faults, f"crafted entries: {family}")


# Signed roots ---------------------------------------------------------------------------------------------------------

PARSERS = {"_open_checked", "_load_foreign", "_parse_npy_header", "_decode", "_unframe"}
PARSERS |= {"loads", "raw_decode", "_RealGetContents", "read_magic", "literal_eval", "find_class"}


def read_each_watched(root: Path, cases: Mapping[str, bytes], last: Path) -> tuple[list[Reading], set[str]]:
    """Read the entries in a signed root; return also which parsers were called, by name."""
    called = set()

    def watch(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_name in PARSERS:
            called.add(frame.f_code.co_name)

    AudioCache(root)  # what is imported late, is imported
    sys.setprofile(watch)
    try:
        return read_each(root, cases, last, signing_key=SIGNING_KEY), called
    finally:
        sys.setprofile(None)


def wrongly_signed() -> dict[str, bytes]:
    """Good entries with no signature, or with one that is none of ours."""
    theirs = tools.encode_entry(KEY, OUTPUTS["raw"], signing_keys=signing_keys("another key, of the attacker"))
    ours = tools.encode_entry(KEY, OUTPUTS["raw"], signing_keys=signing_keys(SIGNING_KEY))
    cases = {f"unsigned {kind}": base(kind) for kind in [*BASES, "savez"]}
    cases |= {
        "signed with another key": theirs,
        "the signature in capitals": ours[:-64] + ours[-64:].upper(),
        "the signature of another entry": base("blosc") + ours[-64:],
        "the signature twice": ours + ours[-64:],
        "no signature but zeros": ours[:-64] + b"0" * 64,
        "no signature but NUL": ours[:-64] + bytes(64),
        "a signature that is not ASCII": ours[:-64] + b"\xff" * 64,
        "half a signature": ours[:-32],
        "the manifest changed": ours[:-66] + b" " + ours[-65:],
        "the signature alone": ours[-64:],
        "empty": b"",
    }
    return cases


def test_in_a_signed_root_all_of_them_are_refused_before_they_are_parsed(faults, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = wrongly_signed()
    for name, family in FAMILIES.items():
        cases |= {f"{name}: {label}": content for label, content in family.make().items() if len(content) < MB}
    assert len(cases) > 3000
    outcomes = Outcomes(tried=len(cases))
    (tmp_path / "root").mkdir()
    readings, called = in_child(read_each_watched, tmp_path / "root", cases, tmp_path / "last")
    assert called == set()
    outcomes.wrong += [f"{reading.label}: a hit" for reading in readings if reading.outcome == "hit"]
    outcomes.raised += [f"{one.label}: {one.outcome}" for one in readings if one.outcome not in ("miss", "hit")]
    assert max(reading.megabytes for reading in readings) < 32
    outcomes.report(faults, "crafted and unsigned entries in a signed root")
    # What was watched for is seen where there is a signature.
    good = {"ours": tools.encode_entry(KEY, OUTPUTS["raw"], signing_keys=signing_keys(SIGNING_KEY))}
    (tmp_path / "good").mkdir()
    [reading], called = in_child(read_each_watched, tmp_path / "good", good, tmp_path / "last")
    assert reading.is_same
    assert {"_open_checked", "loads", "_decode"} <= called


# A whole run, and what looks after a root -----------------------------------------------------------------------------


def spectrum(waveform, sampling_rate):
    frames = waveform[: len(waveform) // 160 * 160].reshape(-1, 160)
    return {"input_features": np.abs(np.fft.rfft(frames, axis=1)).astype(np.float32), "n_frames": np.array(len(frames))}


LIES: dict[str, Callable[[bytes], bytes]] = {
    "a shape of 2**62": lambda entry: with_member(entry, shape=[1 << 62]),
    "a negative shape": lambda entry: with_member(entry, shape=[-1, -81]),
    "70 dimensions": lambda entry: with_member(entry, shape=[1] * 70),
    "an offset beyond the end": lambda entry: with_member(entry, offset=1 << 62),
    "objects": lambda entry: with_member(entry, dtype="|O"),
    "a name that leaves": lambda entry: with_member(entry, name="../../input_features"),
    "a codec that is none": lambda entry: with_member(entry, codec="pickle"),
    "a tail of terabytes": lambda entry: with_member(entry, tail=[1 << 40, "00000000"]),
    "no members": lambda entry: with_manifest(entry, members=[]),
    "members of nothing": lambda entry: with_manifest(entry, members=[None] * 1000),
    "another version": lambda entry: with_manifest(entry, version=2),
    "another key": lambda entry: with_manifest(entry, key={}),
    "brackets for a manifest": lambda entry: seal(split(entry)[0], b"[" * 60_000),
    "a frame of zeros": lambda entry: with_bytes(entry, tools.payload_start(entry), bytes(16)),
    "a frame of gigabytes": lambda entry: with_bytes(entry, tools.payload_start(entry) + 4, b"\xff\xff\xff\x7f"),
    "a header of signs": lambda entry: tools.zip_of(("input_features.npy", tools.npy_header(b"-" * 9_900))),
    "a pickle": lambda entry: tools.zip_of(("waveform.npy", tools.npy(np.array([Bait("MARKER")], dtype=object)))),
    "a bomb": lambda entry: tools.zip_by_hand(
        tools.deflated(MEMBER, zeros=20 * MB), [b"waveform.npy"] * 20, size=len(MEMBER) + 20 * MB, crc=CRC
    ),
    "a waveform of two dimensions": lambda entry: tools.zip_of(("waveform.npy", MEMBER), ("y.npy", MEMBER)),
}


def run_over(root: Path, cells: list[Any]) -> tuple[dict[str, list[Any]], Any]:
    confine()
    cached_features = CachedFeatures(spectrum, root, identity="spectrum", sampling_rate=8000, waveforms="always")
    return cached_features({"audio": cells}), cached_features.stats


def test_a_run_over_crafted_entries_gives_what_the_processor_computes(prompts, faults, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clips = data.shortest(prompts, 100)[60 : 60 + len(LIES)]
    cells = data.columns(clips)["audio"]
    expected, stats = in_child(run_over, tmp_path / "root", cells)
    assert stats.computed == len(clips)
    features = sorted((tmp_path / "root" / "features").rglob("*.npz"))
    waveforms = sorted((tmp_path / "root" / "waveforms").rglob("*.npz"))
    outcomes = Outcomes()
    for number in range(faults.times(2, len(LIES))):
        lies = [*LIES.items()]
        lies = lies[number * 7 % len(lies) :] + lies[: number * 7 % len(lies)]
        # As features "a waveform of two dimensions" would be two arrays in an honest form.
        for path, (label, lie) in zip(features, lies, strict=True):
            content = path.read_bytes()
            path.write_bytes(lie(content) if "dimensions" not in label or "70" in label else lies[0][1](content)[:-1])
        for path, (_, lie) in zip(waveforms, lies, strict=True):
            path.write_bytes(lie(path.read_bytes()))
        outcomes.tried += len(features) + len(waveforms)
        try:
            found, stats = in_child(run_over, tmp_path / "root", cells)
        except RuntimeError as exc:
            outcomes.raised.append(f"round {number}: {exc}")
            break
        assert (stats.hits, stats.misses, stats.bad_entries) == (0, len(clips), 2 * len(clips))
        assert (stats.decodes, stats.computed) == (len(clips), len(clips))
        for name, arrays in expected.items():
            for row, (one, other) in enumerate(zip(found[name], arrays, strict=True)):
                if not tools.same(one, other):
                    outcomes.wrong.append(f"round {number}: {name} of row {row}")
    assert not (tmp_path / "MARKER").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]
    outcomes.report(faults, "a run over crafted features and waveforms")


def verify_confined(root: Path, repair: bool) -> Any:
    confine()
    return verify(root, repair=repair)


def test_verify_says_what_is_wrong_with_each_of_them(faults, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcomes, names = Outcomes(), []
    for name in ("lying manifests", "unsafe offsets", "strange JSON", "strange npy headers", "strange zips"):
        for content in list(FAMILIES[name].make().values())[:: faults.times(5, 1)]:
            key = AudioCacheKey(f"{len(names):064x}", KEY.processor_sha, 16000, 30000, True)
            names.append(f"features/{key.name()}")
            (tmp_path / "root" / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "root" / names[-1]).write_bytes(content)
    outcomes.tried = len(names)
    try:
        report = in_child(verify_confined, tmp_path / "root", False)
        assert report.n_entries == len(names)
        # Those that have no key of their own are good under any name: they say what an honest file of savez says.
        for name in set(names) - report.bad.keys():
            found = AudioCache(tmp_path / "root" / "features").get_all(_key_of(name))
            if found is None or not all(value.dtype.kind in "biufc" for value in found.values()):
                outcomes.wrong.append(f"{name} is not found to be bad")
        assert len(report.bad) > 0.9 * len(names)
        repaired = in_child(verify_confined, tmp_path / "root", True)
        assert repaired.n_deleted == len(report.bad)
        assert in_child(verify_confined, tmp_path / "root", False).is_clean
    except RuntimeError as exc:
        outcomes.raised.append(str(exc))
    outcomes.report(faults, "verify over crafted entries")


def _key_of(name: str) -> AudioCacheKey:
    return AudioCacheKey(name.rpartition("/")[2][:64], KEY.processor_sha, 16000, 30000, True)


def test_the_seconds_that_an_entry_claims_do_not_spoil_the_figures(faults, tmp_path):
    claims: list[Any] = [math.nan, math.inf, -math.inf, -1e300, -1, 1e308, "nan", "inf", "-1", True, 1 << 2000]
    cache = AudioCache(tmp_path)
    outcomes = Outcomes()
    path = cache.put(KEY, OUTPUTS["raw"])
    good = path.read_bytes()
    for claim in claims:
        path.write_bytes(with_manifest(good, compute_seconds=claim))
        outcomes.tried += 1
        found = cache.get_all(KEY)
        if found is not None and not all_same(found, OUTPUTS["raw"]):
            outcomes.wrong.append(f"{claim}: another array")
        saved = cache.stats.seconds_saved
        if not (math.isfinite(saved) and saved > -60):
            outcomes.wrong.append(f"{claim}: saved {saved} s")
            cache = AudioCache(tmp_path)
    outcomes.report(faults, "entries that claim to have taken no time, or all of it")


# Threads with small stacks --------------------------------------------------------------------------------------------


def read_in_a_thread(root: Path, cases: Mapping[str, bytes], last: Path, stack: int) -> list[str]:
    """Get each entry in a thread; return what was raised or found."""
    cache = AudioCache(root)
    path = cache.path_for(KEY)
    path.parent.mkdir(parents=True, exist_ok=True)
    found: list[str] = []
    threading.stack_size(stack)
    for label, content in cases.items():
        last.write_text(label)
        path.write_bytes(content)
        thread = threading.Thread(target=lambda: found.append(repr(cache.get_all(KEY))[:100]))
        thread.start()
        thread.join()
    return found


def test_in_a_thread_with_a_small_stack_they_are_misses_too(faults, tmp_path):
    """512 kB is what threads have on some systems. Whatever nests deeply must not be followed that far."""
    cases = {**strange_headers(), **strange_texts(), "deep JSON": shared_json(2, 1)}
    cases["an output of deep JSON"] = tools.with_frame(base("json"), b"[" * 200_000)
    outcomes = Outcomes(tried=len(cases))
    (tmp_path / "root").mkdir()
    last = tmp_path / "last"
    try:
        found = in_child(read_in_a_thread, tmp_path / "root", cases, last, 512 << 10)
        assert len(found) == len(cases)
    except RuntimeError as exc:
        outcomes.raised.append(f"{last.read_text()}: {exc}")
    outcomes.report(faults, "crafted entries, read in a thread with a stack of 512 kB")


# Things that are no files ---------------------------------------------------------------------------------------------


def a_link_to(target: Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s")
        os.rename("s", path.name)
    finally:
        os.chdir(here)


def a_folder_with_a_file(path: Path) -> None:
    path.mkdir()
    (path / "kept").write_bytes(b"kept")


def a_sparse_file(n_bytes: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(n_bytes)

    return make


def an_unreadable_file(path: Path) -> None:
    path.write_bytes(b"x")
    path.chmod(0)


def a_device(major: int, minor: int) -> Callable[[Path], None]:
    return lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))


def special_files(outside: Path) -> dict[str, Callable[[Path], None]]:
    return {
        "a link to a good entry": a_link_to(outside / "good.npz"),
        "a link to a secret": a_link_to(outside / "secret"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a link to nothing": a_link_to(outside / "nothing"),
        "a link to a folder": a_link_to(outside),
        "a link to an endless device": a_link_to(Path("/dev/zero")),
        "a link to a terminal": a_link_to(Path("/dev/tty")),
        "a pipe": os.mkfifo,
        "a socket": a_socket,
        "a folder": Path.mkdir,
        "a folder with a file": a_folder_with_a_file,
        "a sparse file of 1 TB": a_sparse_file(1 << 40),
        "a sparse file of 4 GB": a_sparse_file(1 << 32),
        "a file that nobody may read": an_unreadable_file,
        "an endless device": a_device(1, 5),
        "a device that blocks": a_device(5, 0),
    }


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def read_special(cache_type: Any, key: Any, value: Any, root: Path) -> tuple[Any, Any, int]:
    """Get what is in the place of an entry, several times; then put a good entry there."""
    confine()
    cache = cache_type(root)
    cache.stats  # noqa: B018 - opens what it counts in
    cache.get(type(key)(**{**vars(key), "blob_sha": "0" * 64}))
    before = open_descriptors()
    found = [cache.get(key) for _ in range(20)]
    found += [None] * cache.exists(key)
    cache.put(key, value)
    return found, cache.get(key), open_descriptors() - before


@pytest.mark.parametrize("kind", ["features", "waveforms"])
def test_what_is_no_regular_file_is_a_miss_and_nothing_outside_is_touched(kind, faults, tmp_path):
    cache_type, key, value = {
        "features": (AudioCache, KEY, PLAIN),
        "waveforms": (WaveformCache, KEY.waveform_key(), OUTPUTS["pcm16"]["waveform"]),
    }[kind]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"a secret")
    name = "waveform" if kind == "waveforms" else "input_features"
    (outside / "good.npz").write_bytes(tools.encode_entry(key, {name: value[::-1].copy()}))
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    outcomes = Outcomes()
    for number, (label, make) in enumerate(special_files(outside).items()):
        root = tmp_path / f"root-{number}"
        path = cache_type(root).path_for(key)
        path.parent.mkdir(parents=True)
        try:
            make(path)
        except PermissionError:
            continue  # devices are for root
        outcomes.tried += 1
        try:
            found, put, n_left_open = in_child(read_special, cache_type, key, value, root)
        except RuntimeError as exc:
            outcomes.raised.append(f"{label}: {exc}")
            continue
        if any(one is not None for one in found):
            outcomes.wrong.append(f"{label}: a hit")
        is_replaced = put is not None and tools.same(put, value) and stat.S_ISREG(path.lstat().st_mode)
        if is_replaced is label.startswith("a folder"):  # which is left alone
            outcomes.wrong.append(f"{label}: {'' if is_replaced else 'not '}replaced")
        if n_left_open > 0:
            outcomes.raised.append(f"{label}: {n_left_open} descriptors are left open")
        if "with a file" in label:
            assert (path / "kept").read_bytes() == b"kept"
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before
    outcomes.report(faults, f"links, pipes, devices and folders in the place of {kind}")


def test_linked_folders_under_a_root_are_not_followed(faults, tmp_path):
    outcomes = Outcomes()
    elsewhere = tmp_path / "elsewhere"
    other = AudioCache(elsewhere / "features")
    theirs = other.put(KEY, PLAIN[::-1].copy()).read_bytes()
    for number, link in enumerate(["features", f"features/{KEY.shard()}"]):
        root = tmp_path / f"root-{number}"
        (root / link).parent.mkdir(parents=True)
        (root / link).symlink_to(elsewhere / link)
        cache = AudioCache(
            CachedFeatures(spectrum, root, identity="x", sampling_rate=8000, waveforms="always").audio_cache._store
        )
        outcomes.tried += 1
        if cache.get(KEY) is not None:
            outcomes.wrong.append(f"{link} is followed")
        cache.put(KEY, PLAIN)
        with contextlib.suppress(StoreError):  # a root that is a link cannot be listed
            assert cache.clear() == 0
        assert other.path_for(KEY).read_bytes() == theirs
        assert cache.stats.write_errors == 1
    outcomes.report(faults, "links in the place of a root's folders")


# What fuzzing found ---------------------------------------------------------------------------------------------------


def test_what_fuzzing_kept_is_read_without_harm(faults, tmp_path, monkeypatch):
    """Inputs that reach every branch of the reader, and those that once did harm, which are refused."""
    monkeypatch.chdir(tmp_path)
    cases = {path.name: path.read_bytes() for path in sorted(tools.CORPUS.iterdir())}
    assert len(cases) >= 24
    assert sum(map(len, cases.values())) < 100_000
    outcomes = Outcomes(tried=len(cases))
    for reading in read_confined(tmp_path / "root", cases, outcomes):
        if reading.outcome not in ("miss", "hit") or reading.megabytes > 300 or reading.seconds > 20:
            outcomes.raised.append(f"{reading.label}: {reading}")
        elif has_control(reading.log):
            outcomes.raised.append(f"{reading.label}: logged {reading.log[:300]!r}")
        elif reading.outcome == "hit" and (not reading.agrees or reading.label.startswith("refused-")):
            outcomes.wrong.append(f"{reading.label}: {reading}")
    outcomes.report(faults, "inputs that fuzzing kept")


def test_the_good_entries_that_all_this_starts_from_are_hits(tmp_path):
    cases = {kind: base(kind) for kind in [*BASES, "savez"]}
    readings = read_confined(tmp_path / "root", cases, Outcomes())
    assert [(reading.label, reading.is_same, reading.agrees) for reading in readings] == [
        (kind, True, True) for kind in cases
    ]
    assert {line["codec"] for kind in BASES for line in tools.manifest_of(base(kind))["members"]} == {
        "raw",
        "json",
        "blosc",
        "pcm16",
    }
    assert any("tail" in line for line in tools.manifest_of(base("tail"))["members"])
    assert seal(*split(base("raw"))) == base("raw")

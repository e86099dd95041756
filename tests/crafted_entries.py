"""Entries that somebody crafted, in families: right checksums and keys around what no honest writer writes."""

from __future__ import annotations

import bz2
import functools
import json
import math
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import entry_tools as tools
import numpy as np
from entry_tools import KEY, OUTPUTS, base, seal, split, with_bytes, with_manifest, with_member

MB = 1 << 20
BASES = [*OUTPUTS]

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
        "version": [2.0, 12345, 0, -1, "1", None, [1], {}, 1 << 4000],
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
    members = {
        "text": b"hello",
        "nothing": b"",
        "half a npy": MEMBER[:-1],
        "more than a npy": MEMBER + b"\0",
        "a header alone": MEMBER[:128],
        "an array of text": tools.npy(np.array(["a"])),
        "records": tools.npy(np.zeros(3, [("a", "f4")])),
        "times": tools.npy(np.zeros(3, "M8[s]")),
    }
    cases |= {f"a member of {label}": tools.zip_of(("x.npy", member)) for label, member in members.items()}
    cases["a text among arrays"] = tools.zip_of(("x.npy", MEMBER), ("notes.txt", b"hello"))
    cases["a member of ours"] = tools.zip_of(("x.blosc.npy", tools.npy(np.arange(3, dtype=np.uint8))))
    cases["a wrong checksum"] = tools.zip_by_hand(MEMBER, [b"x.npy"], size=len(MEMBER), crc=CRC ^ 1, method=0)
    cases["a bomb that lies"] = tools.zip_by_hand(
        bz2.compress(MEMBER + bytes(8 * MB)), [b"x.npy"], size=len(MEMBER), crc=CRC, method=zipfile.ZIP_BZIP2
    )
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


# What they say in an honest form.
HONEST = [*OUTPUTS.values(), {"x": PLAIN}]


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

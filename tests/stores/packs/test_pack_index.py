"""The index of packs: what it finds, and what damaged and hostile ones do."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
import xxhash
from pack_tools import entry_name

from hf_audio_cache.errors import CorruptEntryError, UnknownVersionError
from hf_audio_cache.stores.packs.index import BLOCK_ROWS, ROW, Index, Location, encode_index, sort_rows
from hf_audio_cache.stores.packs.names import entry_key

PACKS = [f"{number:032x}" for number in (7, 8)]
NAMES = [entry_name(number) for number in range(1000)]


def rows_of(names, packs=(0,)):
    numbers = [struct.unpack("<QQ", entry_key(name)) for name in names]
    rows = [(*pair, 1000 * place, place + 1, pack) for place, pair in enumerate(numbers) for pack in packs]
    return sort_rows(np.array(rows, ROW))


def open_index(content):
    return Index(lambda start, n_bytes: content[start : start + n_bytes], len(content))


@pytest.mark.parametrize("count", [0, 1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 1000])
def test_it_finds_each_entry_and_no_other(count):
    index = open_index(encode_index(rows_of(NAMES[:count]), PACKS))
    assert (index.n_rows, index.packs, index.is_gone) == (count, tuple(PACKS), False)
    for place, name in enumerate(NAMES):
        expected = [Location(PACKS[0], 1000 * place, place + 1)] if place < count else []
        assert index.find(entry_key(name)) == expected
    assert sum(len(rows) for rows in index.rows()) == count


def test_it_reads_one_block_for_a_name():
    content = encode_index(rows_of(NAMES), PACKS)
    asked = []
    index = Index(lambda start, n_bytes: asked.append(n_bytes) or content[start : start + n_bytes], len(content))
    asked.clear()
    assert index.find(entry_key(NAMES[5]))
    assert len(asked) == 1
    assert asked[0] <= BLOCK_ROWS * ROW.itemsize


def test_after_some_look_ups_all_blocks_are_announced_once(monkeypatch):
    monkeypatch.setattr("hf_audio_cache.stores.packs.index._BLOCKS_IN_THE_TIME_OF_ONE", 4)
    content = encode_index(rows_of(NAMES), PACKS)  # 8 blocks
    announced = []
    index = Index(
        lambda start, n_bytes: content[start : start + n_bytes],
        len(content),
        announce=lambda start, n_bytes: announced.append(content[start : start + n_bytes]),
    )
    for number, name in enumerate(NAMES[:20]):
        assert announced == ([] if number < 3 else [rows_of(NAMES).tobytes()])
        index.find(entry_key(name))


def test_a_clip_of_more_rows_than_a_block_has_is_found():
    first = NAMES[0]
    names = [first.replace(".16000.", f".{rate}.") for rate in range(1, 400)]
    index = open_index(encode_index(rows_of([*names, *NAMES[1:50]], packs=(0, 1)), PACKS))
    for place, name in enumerate(names):
        assert index.find(entry_key(name)) == [Location(pack, 1000 * place, place + 1) for pack in PACKS]
    clip = int(first.rpartition("/")[2][:16], 16)
    assert sum(len(rows) for rows in index.rows(clip, clip)) == 2 * len(names)


def test_a_later_version_is_told_from_damage():
    content = bytearray(encode_index(rows_of(NAMES[:5]), PACKS))
    content[8] = 2
    with pytest.raises(UnknownVersionError):
        open_index(bytes(content))


def look_up_all(content):
    """Return what is found, where it is neither nothing nor right; what is damaged has to be found damaged."""
    wrong = []
    try:
        index = open_index(content)
        for place, name in enumerate(NAMES[:300]):
            found = index.find(entry_key(name))
            if any(one != Location(PACKS[0], 1000 * place, place + 1) for one in found):
                wrong.append((name, found))
        list(index.rows())
    except (CorruptEntryError, UnknownVersionError):
        pass
    return wrong


def test_a_flipped_or_cut_index_finds_nothing_wrong():
    content = encode_index(rows_of(NAMES[:300]), PACKS)
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        assert look_up_all(bytes(damaged)) == []
    for length in [*range(0, 200, 7), *(rng.randrange(len(content)) for _ in range(100))]:
        assert look_up_all(content[:length]) == []
        assert look_up_all(content + bytes(length + 1)) == []


def seal(content, **fields):
    """Return an index with other numbers in its header, and the checksum that it needs."""
    n_rows, n_packs = fields.get("n_rows", 300), fields.get("n_packs", 2)
    head = struct.pack("<8sIIQII", b"HFACPACK", fields.get("version", 1), fields.get("kind", 0), n_rows, n_packs, 0)
    tables = content[40 : 40 + fields.get("n_tables", 16 * (2 + 3))]
    return head + struct.pack("<Q", xxhash.xxh3_64_intdigest(head + tables)) + content[40:]


@pytest.mark.parametrize(
    "fields",
    [
        {"n_rows": 0},
        {"n_rows": 299},
        {"n_rows": (1 << 64) - 1},
        {"n_rows": 1 << 40},
        {"n_packs": 0},
        {"n_packs": (1 << 32) - 1},
        {"kind": 77},
        {"n_tables": 0},
    ],
    ids=str,
)
def test_a_header_that_lies_is_found_out(fields):
    content = encode_index(rows_of(NAMES[:300]), PACKS)
    assert seal(content) == content
    assert look_up_all(seal(content, **fields)) == []


def test_rows_of_packs_that_there_are_not_are_damage():
    index = open_index(encode_index(rows_of(NAMES[:300], packs=(2,)), PACKS))
    with pytest.raises(CorruptEntryError, match="names a pack"):
        index.find(entry_key(NAMES[0]))
    with pytest.raises(CorruptEntryError, match="names a pack"):
        list(index.rows())

"""Listing entries, and the filters of it; sizes and times as people write them."""

from __future__ import annotations

import gzip
import os
import time

import pytest

from hf_audio_cache.maintenance.listing import find_entries, list_entries, parse_entry, parse_filter
from hf_audio_cache.stores import LocalStore, StoredObject
from hf_audio_cache.support.units import format_seconds, format_size, parse_seconds, parse_share, parse_size

ONE, TWO = "a" * 12, "b" * 12
DAY = 86_400.0


def name_of(clip: str, processor: str = "", settings: str = "16000.0") -> str:
    blob_sha = clip * 64
    if processor:
        return f"features/{blob_sha[:2]}/{blob_sha}.{processor}.{settings}.npz"
    return f"waveforms/{blob_sha[:2]}/{blob_sha}.{settings}.wav.npz"


@pytest.fixture
def root(tmp_path):
    """Five entries of 1 to 5 MB, written 1 to 5 days ago; the oldest was used today."""
    names = [name_of("1", ONE), name_of("2", ONE, "8000.30000.rs"), name_of("1", TWO), name_of("1"), name_of("2")]
    store = LocalStore(tmp_path)
    for number, name in enumerate(names, start=1):
        store.put(name, b"")
        os.truncate(tmp_path / name, number * 1_000_000)
        then = time.time() - number * DAY - 60
        os.utime(tmp_path / name, (then, then))
    store.put("features/notes.txt", b"a stranger's")
    today = time.strftime("%Y-%m-%d", time.gmtime())
    store.put(f"access/{today}/20260101T120000-0a1b2c3d-0123456789ab-0.gz", gzip.compress(names[4].encode()))
    return tmp_path, names


FILTERS = [
    ([], {0, 1, 2, 3, 4}),
    (["size>2MB"], {2, 3, 4}),
    (["size>=2MB", "size<4MB"], {1, 2}),
    (["size=3000000"], {2}),
    (["accessed>3d"], {2, 3}),
    (["modified>3d"], {2, 3, 4}),
    (["accessed<2d"], {0, 4}),
    ([f"processor={ONE}"], {0, 1}),
    ([f"processor={ONE}{'0' * 52}"], {0, 1}),
    (["processor=bbbb"], {2}),
    ([f"processor!={ONE}"], {2, 3, 4}),
    (["cache=waveforms"], {3, 4}),
    (["cache!=waveforms"], {0, 1, 2}),
    (["rate=8000"], {1}),
    (["cap=30"], {1}),
    ([" clip = 2222 "], {1, 4}),
    (["clip=2222", "cache=features"], {1}),
]


def test_filters_leave_what_they_say(root):
    path, names = root
    for filters, expected in FILTERS:
        assert {names.index(entry.name) for entry in list_entries(path, filters=filters)} == expected, filters


NO_FILTERS = ["", "size", "size>", "size>1parsec", "foo=1", "processor>1", "cache=", "accessed>x", "rate=a"]
NO_FILTERS += ["cache=wav", "cache!=wav", "cap=x", "cap=inf", "cap=nan", f"size>{'9' * 400}", f"accessed>{'9' * 400}d"]


def test_what_is_no_filter_is_an_error():
    for text in NO_FILTERS:
        with pytest.raises(ValueError, match=r"is not a (filter|size|time)"):
            parse_filter(text, {}, time.time())


@pytest.mark.parametrize("text", ["processor=cccc", "processor!=WhisperFeatureExtractr"])
def test_a_filter_for_a_processor_that_is_not_there_is_an_error(text, root):
    with pytest.raises(ValueError, match="No processor"):
        list_entries(root[0], filters=[text])


ORDERS = {
    "size": [0, 1, 2, 3, 4],
    "size:desc": [4, 3, 2, 1, 0],
    "modified": [4, 3, 2, 1, 0],
    "accessed": [3, 2, 1, 0, 4],
    "accessed:desc": [4, 0, 1, 2, 3],
}


def test_the_order_is_as_asked(root):
    path, names = root
    assert {sort: [names.index(entry.name) for entry in list_entries(path, sort=sort)] for sort in ORDERS} == ORDERS


def test_an_unknown_order_is_an_error(root):
    with pytest.raises(ValueError, match="Pass one of name, size"):
        list_entries(root[0], sort="colour")


def test_a_name_says_what_an_entry_is():
    assert parse_entry(StoredObject("features/notes.txt", 1, 1.0)) is None
    entry = parse_entry(
        StoredObject(name_of("2", ONE, "8000.30000.rs"), 17, 5.0), {name_of("2", ONE, "8000.30000.rs"): 9.0}
    )
    assert entry is not None
    assert entry.to_dict() == {
        "name": name_of("2", ONE, "8000.30000.rs"),
        "cache": "features",
        "blob_sha": "2" * 64,
        "processor": ONE,
        "sampling_rate": 8000,
        "max_length_ms": 30000,
        "auto_resample": True,
        "channels": "mean",
        "n_bytes": 17,
        "modified": 5.0,
        "accessed": 9.0,
    }


def test_entries_are_found_by_name_and_by_clip(root):
    path, names = root
    store = LocalStore(path)
    assert [entry.name for entry in find_entries(store, [names[0]])] == [names[0]]
    assert {entry.name for entry in find_entries(store, ["1" * 8])} == {names[0], names[2], names[3]}
    [used] = find_entries(store, [names[4]])
    assert used == next(entry for entry in list_entries(path) if entry.name == names[4])  # and when it was used last
    assert used.accessed > used.modified + DAY
    for nothing in ("1" * 7, "3" * 8, "notes.txt", "features/notes.txt", "../x", "features/"):
        with pytest.raises(ValueError, match="No entry "):
            find_entries(store, [names[0], nothing])


def test_sizes_and_times_are_read_and_written():
    sizes = {"100GB": 10**11, "1.5GiB": 3 * 2**29, "4096": 4096, "1 kB": 1000, "2m": 2_000_000, "7B": 7}
    assert {text: parse_size(text) for text in sizes} == sizes
    times = {"30d": 30 * DAY, "12h": 43_200.0, "90s": 90.0, "2w": 14 * DAY, "1.5m": 90.0}
    assert {text: parse_seconds(text) for text in times} == times
    assert parse_share("10%") == 0.1
    for parse, bad in (
        (parse_size, "-1GB"),
        (parse_size, "GB"),
        (parse_seconds, "30"),
        (parse_share, "0.1"),
        (parse_share, "101%"),
    ):
        with pytest.raises(ValueError, match="is not a "):
            parse(bad)
    assert [format_size(size) for size in (0, 999, 1000, 99_949, 999_999, 1.25e9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "99.9 kB",
        "1.0 MB",
        "1.2 GB",
    ]
    assert [format_seconds(s) for s in (0.0012, 1.5, 120, 7200, 10 * DAY)] == [
        "1.2 ms",
        "1.5 s",
        "2 min",
        "2 h",
        "10.0 d",
    ]

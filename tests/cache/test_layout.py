"""The names under a root are part of the format: each is made and read in `layout`, and stays what it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hf_audio_cache import AudioCacheKey, WaveformCacheKey
from hf_audio_cache.cache import layout
from hf_audio_cache.cache.layout import EntryName, RecordName
from hf_audio_cache.stores import is_temporary

BLOB, PROCESSOR = "ab" + "c0535e4b" * 7 + "012345", "7d865e95" * 8
RUN = "20260101T120000-0a1b2c3d"

GOLDEN = {
    f"features/ab/{BLOB}.7d865e957d86.16000.0.npz": EntryName("features", BLOB, "7d865e957d86", 16000, 0, False),
    f"features/ab/{BLOB}.7d865e957d86.8000.500.rs.npz": EntryName("features", BLOB, "7d865e957d86", 8000, 500, True),
    f"waveforms/ab/{BLOB}.16000.0.wav.npz": EntryName("waveforms", BLOB, "", 16000, 0, False),
    f"waveforms/ab/{BLOB}.48000.30000.rs.wav.npz": EntryName("waveforms", BLOB, "", 48000, 30000, True),
    f"features/ab/{BLOB}.7d865e957d86.16000.0.ch0.npz": EntryName("features", BLOB, "7d865e957d86", 16000, 0, False, 0),
    f"waveforms/ab/{BLOB}.16000.0.rs.ch12.wav.npz": EntryName("waveforms", BLOB, "", 16000, 0, True, 12),
    f"waveforms/ab/{BLOB}.16000.0.chall.wav.npz": EntryName("waveforms", BLOB, "", 16000, 0, False, "all"),
    f"processors/{PROCESSOR}.json": PROCESSOR,
    f"access/2026-01-01/{RUN}-0123456789ab-17.gz": RecordName(RUN, "2026-01-01"),
    f"runs/{RUN}/7d865e957d86.json": RecordName(RUN, None),
    f"runs/{RUN}/references.json": RecordName(RUN, None),
    "CACHEDIR.TAG": None,
}


def parsed(name):
    return layout.parse_entry_name(name) or layout.parse_manifest_name(name) or layout.parse_record_name(name)


def test_a_name_says_what_it_is_of():
    for name, meaning in GOLDEN.items():
        assert parsed(name) == meaning
        assert layout.is_ours(name)
        assert layout.is_entry(name) is isinstance(meaning, EntryName)
        assert layout.finished_name(name) == name


def test_a_file_that_is_not_finished_is_ours_and_nothing_else():
    for name in GOLDEN:
        folder, separator, file_name = name.rpartition("/")
        unfinished = f"{folder}{separator}.{file_name}.123-0a1b2c3d.tmp"
        assert layout.is_ours(unfinished)
        assert layout.finished_name(unfinished) == name
        assert parsed(unfinished) is None
        assert not layout.is_entry(unfinished)
        assert is_temporary(unfinished)


def test_what_is_made_is_what_is_read():
    assert layout.manifest_name(PROCESSOR) in GOLDEN
    assert layout.access_name("2026-01-01", RUN, "0123456789ab", 17) in GOLDEN
    assert layout.run_name(RUN, PROCESSOR) in GOLDEN
    assert layout.run_name(RUN, None) in GOLDEN
    assert layout.TAG_NAME in GOLDEN


@given(
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.integers(1, 10**7),
    st.integers(0, 10**12),
    st.booleans(),
)
def test_a_key_is_read_from_its_name(blob, processor, rate, cap, resampled):
    key = AudioCacheKey(blob, processor, rate, cap, resampled)
    read = layout.parse_entry_name(f"features/{key.name()}")
    assert read == EntryName("features", blob, processor[:12], rate, cap, resampled)
    key = WaveformCacheKey(blob, rate, cap, resampled)
    assert layout.parse_entry_name(f"waveforms/{key.name()}") == EntryName("waveforms", blob, "", rate, cap, resampled)


ENTRY = f"features/ab/{BLOB}.7d865e957d86.16000.0.npz"


STRANGERS = [
    "features/notes.txt",
    ENTRY.replace("features", "waveforms"),
    f"features/ab/{BLOB}.16000.0.wav.npz",
    ENTRY.replace("/ab/", "/ac/"),
    ENTRY.replace("16000", "016000"),
    ENTRY.replace("16000", "0"),
    ENTRY.removeprefix("features/"),
    ENTRY + ".bak",
    ENTRY + "\n",
    ENTRY.replace(".npz", ".ch.npz"),
    ENTRY.replace(".npz", ".ch01.npz"),
    ENTRY.replace(".npz", ".chmean.npz"),
    ENTRY.replace(".npz", ".ch1.rs.npz"),
    f"features/ab/.{ENTRY[12:]}.tmp",
    f"features/ab/.{ENTRY[12:]}.x-0a1b2c3d.tmp",
    f"processors/{PROCESSOR}.txt",
    f"processors/{PROCESSOR[:12]}.json",
    f"access/{RUN}-0123456789ab-17.gz",
    f"access/2026-01-01/{RUN}.gz",
    f"runs/{RUN}/notes.json",
    f"runs/{RUN}",
    "deeper/CACHEDIR.TAG",
    "",
]


def test_strangers_are_none_of_ours():
    for name in STRANGERS:
        assert not layout.is_ours(name)
        assert parsed(name) is None


def test_a_name_with_more_in_it_is_like_an_entry_and_a_strangers():
    later = ENTRY.replace(".npz", ".x2.npz")
    assert layout.is_like_entry(later)
    assert not layout.is_ours(later)

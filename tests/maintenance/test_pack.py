"""`pack`, and what every command says of a packed root: the same as of the single entries before."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import audio_datasets as data
import pytest
from command_line import run, run_json
from full_roots import N_CLIPS, RATE, SIGNING_KEY, cached_by_all, contents, entries, flip
from pack_tools import age, in_tars, indexes, packs, singles, without_waiting

from hf_audio_cache import AudioCache, AudioCacheKey, CacheRoot, pack, prune, usage, verify
from hf_audio_cache.maintenance.listing import list_entries
from hf_audio_cache.maintenance.prune import clear, remove
from hf_audio_cache.maintenance.transfer import copy_entries, export_archive

N_ENTRIES = 4 * N_CLIPS


@pytest.fixture(autouse=True)
def nobody_waits():
    with without_waiting():
        yield


@pytest.fixture
def packed(root):
    """A root, packed; what was in it before is beside it."""
    shutil.copytree(root, root.with_name("before"))
    report = pack(root, pack_bytes=200_000)
    assert (report.n_packed, report.n_present, report.n_bad) == (N_ENTRIES, 0, 0)
    assert singles(root) == {}
    return root


@pytest.fixture
def before(packed):
    return packed.with_name("before")


def test_entries_are_moved_byte_for_byte(packed, before):
    assert dict(in_tars(packed)) == singles(before)
    assert len(packs(packed)) > 1
    assert {name for name in contents(packed) if not name.startswith("packs/")} == (
        contents(before).keys() - singles(before).keys()
    )


def test_commands_say_what_they_said(packed, before, tmp_path, clips):
    def said(root):
        used = usage(root)
        listed = list_entries(root, sort="name")
        checked = verify(root)
        export_archive(root, root.with_suffix(".tar"), waveforms=True)
        copy_entries(root, root.with_name(f"{root.name}-copy"), waveforms=True)
        explained = cached_by_all(root)[0].explain({"audio": data.columns(clips)["audio"][0]})
        other = cached_by_all(root, max_length_seconds=3.0)[0].explain({"audio": data.columns(clips)["audio"][0]})
        shown = run_json("show", listed[0].blob_sha[:12], "--root", str(root))
        return (
            [(line.cache, line.processor, line.n_entries, line.n_bytes) for line in used.lines],
            [(one.name, one.n_bytes, int(one.modified)) for one in listed],
            (checked.is_clean, checked.n_entries, checked.n_bytes, checked.n_strangers),
            contents(root.with_name(f"{root.name}-copy")),
            (explained.status, sorted(other.reasons)),
            sorted(str(one["outputs"]) for one in shown),
        )

    assert said(packed) == said(before)
    assert usage(packed).n_packs == len(list((packed / "packs").iterdir()))
    assert usage(before).n_packs == 0


@pytest.mark.parametrize("signing_key", [None, SIGNING_KEY])
def test_every_form_reads_a_packed_root(signing_key, root, clips, tmp_path):
    if signing_key:
        shutil.rmtree(root)
    at = CacheRoot(root, signing_key=signing_key)
    for cached in cached_by_all(at):
        cached({"audio": data.columns(clips)["audio"]})
    rows = cached_by_all(at)[0].map(data.in_memory(clips))
    pack(root)  # needs no key
    assert singles(root) == {}
    for root_again in (at, CacheRoot(root, signing_key=signing_key, read_only=True)):
        cached = cached_by_all(root_again)[0]
        arrays = cached({"audio": data.columns(clips)["audio"]})["input_values"]
        attached = cached.attach(data.in_memory(clips))[:]["input_values"]
        for row, array, late in zip(rows.with_format("numpy")["input_values"], arrays, attached, strict=True):
            data.assert_same_bits(row, array)
            data.assert_same_bits(late, array)
        assert (cached.stats.hits, cached.stats.misses, cached.stats.computed) == (2 * N_CLIPS, 0, 0)
    key = AudioCacheKey(data.sha256(clips[0]), cached_by_all(at)[0].processor_sha, RATE, 0)
    assert AudioCache(CacheRoot(root / "features", signing_key=signing_key)).get(key) is not None
    if signing_key:
        assert verify(at).is_clean
        other = cached_by_all(CacheRoot(root, signing_key="another key of sixteen bytes"))[0]
        other({"audio": data.columns(clips)["audio"]})
        assert other.stats.unsigned_entries == 2 * N_CLIPS


def test_what_is_chosen_is_packed(root):
    sha = cached_by_all(root)[1].processor_sha
    report = pack(root, processor=sha)
    assert report.n_packed == N_CLIPS
    assert {name for name, _ in in_tars(root)} == {name for name, _ in in_tars(root) if sha[:12] in name}
    assert pack(root, older_than_seconds=3600).n_packed == 0
    assert pack(root, cache="waveforms").n_packed == N_CLIPS
    assert pack(root).n_packed == 2 * N_CLIPS
    assert pack(root).n_packed == 0
    assert len(indexes(root)) <= 2


def test_settings_are_checked(root):
    of_none = {"cache": "waveforms", "processor": "energy-v1"}
    for wrong in ({"cache": "x"}, of_none):
        with pytest.raises(ValueError, match=r"nothing was packed\.$"):
            pack(root, **wrong)
    for wrong in (-1, None, "30d", True):
        with pytest.raises(ValueError, match=f"older_than_seconds must be a number of at least 0, not {wrong!r}; noth"):
            pack(root, older_than_seconds=wrong)
    for wrong in (0, None, "1GB", {}):
        with pytest.raises(ValueError, match=f"pack_bytes must be a positive number, not {wrong!r}; nothing was pack"):
            pack(root, pack_bytes=wrong)
    with pytest.raises(ValueError, match="is only read"):
        pack(CacheRoot(root, read_only=True))


def test_damaged_entries_are_not_packed(root):
    name = next(iter(entries(root, "features")))
    (root / name).write_bytes(flip((root / name).read_bytes(), 100))
    assert pack(root).n_bad == 1
    assert singles(root).keys() == {name}


def test_rm_prune_and_clear_reach_into_packs(packed, clips):
    first = data.sha256(clips[0])
    assert remove(packed, [first]).n_deleted == 4
    assert not [one for one in list_entries(packed) if one.blob_sha == first]
    size = sum(path.stat().st_size for path in packs(packed))
    age(packed)
    waveforms = prune(packed, cache="waveforms")
    assert (waveforms.n_deleted, waveforms.n_kept) == (N_CLIPS - 1, 3 * (N_CLIPS - 1))
    assert {name.split("/")[0] for name, _ in in_tars(packed)} >= {"features"}
    assert sum(path.stat().st_size for path in packs(packed)) < size
    assert verify(packed).is_clean
    assert clear(packed).n_deleted == 3 * (N_CLIPS - 1)
    assert list((packed / "packs").iterdir()) == []


def test_clearing_one_cache_gives_room_back(packed):
    AudioCache(packed / "features").clear()
    assert {name.split("/")[0] for name, _ in in_tars(packed)} == {"waveforms", "features"} or packs(packed)
    assert {one.cache for one in list_entries(packed)} == {"waveforms"}


def test_a_bad_packed_entry_is_replaced_by_a_single_one(packed, before, clips):
    name = next(iter(entries(before, "features")))
    content = singles(before)[name]
    for path in packs(packed):
        path.write_bytes(path.read_bytes().replace(content, content[:50] + b"x" + content[51:]))
    caches = cached_by_all(packed)
    for cached in caches:
        cached({"audio": data.columns(clips)["audio"]})
    assert sum(cached.stats.bad_entries for cached in caches) == 1
    assert sum(cached.stats.computed for cached in caches) == 1
    assert singles(packed).keys() == {name}
    assert verify(packed).is_clean
    pack(packed)
    assert singles(packed) == {}
    for cached in cached_by_all(packed):
        cached({"audio": data.columns(clips)["audio"]})
        assert (cached.stats.hits, cached.stats.computed) == (N_CLIPS, 0)


def test_verify_finds_damaged_packs_and_repairs_them(packed):
    index, pack_file = indexes(packed)[0], packs(packed)[0]
    index.write_bytes(index.read_bytes()[:-1] + bytes([index.read_bytes()[-1] ^ 1]))
    pack_file.write_bytes(pack_file.read_bytes()[:520] + b"xxxx" + pack_file.read_bytes()[524:])
    report = verify(packed)
    assert report.bad.keys() == {f"packs/{path.name}" for path in (index, pack_file)}
    assert report.n_entries == N_ENTRIES
    verify(packed, repair=True)
    report = verify(packed)
    assert (report.is_clean, report.n_entries) == (True, N_ENTRIES)


def test_what_a_later_version_wrote_stays(packed, tmp_path):
    [*_, index] = indexes(packed)
    content = bytearray(index.read_bytes())
    content[8] = 9
    index.write_bytes(content)
    report = verify(packed)
    assert (report.is_clean, report.unknown_versions, report.n_entries) == (True, [f"packs/{index.name}"], N_ENTRIES)
    verify(packed, repair=True)
    pack(packed)
    clear(packed)
    assert [path.name for path in (packed / "packs").iterdir()] == [index.name]


def test_the_command_says_what_was_packed(root):
    said = run_json("pack", str(root), "--cache", "features", "--pack-size", "100kB")
    assert (said["n_packed"], said["n_bad"]) == (3 * N_CLIPS, 0)
    assert singles(root).keys() == set(entries(root, "waveforms"))
    said = run("pack", root).out
    assert re.search(rf"packed +{N_CLIPS} ", said)
    assert re.search(r"packed before +0\n", said)
    assert "files of packs" in run("usage", "--root", root).out


def test_the_reader_of_the_documentation_reads_every_entry(packed, before):
    page = (Path(__file__).parents[2] / "docs" / "packs.md").read_text()
    program = page.partition("```python\n")[2].partition("```")[0]
    assert len(program.splitlines()) <= 30
    scope = {}
    exec(program, scope)
    for name, content in singles(before).items():
        assert scope["read_entry"](str(packed), name) == content
    assert scope["read_entry"](str(packed), next(iter(singles(before))).replace(".npz", "x.npz")) is None

"""Archives of entries: what goes in, what comes out, and what is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import audio_datasets as data
import pytest
from full_roots import N_CLIPS, SIGNING_KEY, cached_by_all, contents, entries, flip, manifests

from hf_audio_cache import CacheRoot, verify
from hf_audio_cache.errors import ArchiveError
from hf_audio_cache.maintenance import transfer
from hf_audio_cache.maintenance.transfer import copy_entries, export_archive, import_archive


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def write_tar(path: Path, files: dict[str, bytes], *odd: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in odd:
            tar.addfile(member)
    return path


@pytest.mark.parametrize("limit", [None, "_BATCH", "_BATCH_BYTES"])
def test_a_root_goes_through_an_archive_unchanged(limit, root, tmp_path, clips, monkeypatch):
    if limit is not None:
        monkeypatch.setattr(transfer, limit, 5)  # in several steps
    archive = tmp_path / "all.tar"
    report = export_archive(root, archive, waveforms=True)
    everything = {name: content for name, content in contents(root).items() if name != "CACHEDIR.TAG"}
    assert members(archive) == everything
    assert (report.n_entries, report.n_manifests, report.n_refused) == (4 * N_CLIPS, 3, 0)
    target = tmp_path / "target"
    report = import_archive(archive, target)
    assert contents(target) == everything
    assert (report.n_entries, report.n_manifests, report.n_present) == (4 * N_CLIPS, 3, 0)
    assert report.n_bytes == sum(len(content) for name, content in everything.items() if name.endswith(".npz"))
    for cached_features in cached_by_all(target):
        cached_features({"audio": data.columns(clips)["audio"]})
        assert (cached_features.stats.hits, cached_features.stats.computed) == (N_CLIPS, 0)


@pytest.mark.parametrize("waveforms", [False, True])
def test_one_dataset_and_processor_can_be_taken(waveforms, root, tmp_path, clips):
    sha = cached_by_all(root)[1].processor_sha
    shas = {data.sha256(clip) for clip in clips[:2]}
    archive = tmp_path / "some.tar"
    export_archive(root, archive, clips=shas, processor=sha, waveforms=waveforms)
    wanted = {name for name in entries(root, "features") if sha[:12] in name and name.split("/")[2][:64] in shas}
    assert len(wanted) == 2
    if waveforms:
        wanted |= {name for name in entries(root, "waveforms") if name.split("/")[2][:64] in shas}
    assert set(members(archive)) == {*wanted, f"processors/{sha}.json"}
    copy_entries(root, tmp_path / "copy", clips=shas, processor=sha, waveforms=waveforms)
    assert contents(tmp_path / "copy") == members(archive)


def test_what_is_there_stays_and_an_import_can_be_gone_on_with(root, tmp_path):
    archive, target = tmp_path / "all.tar", tmp_path / "target"
    export_archive(root, archive)
    names = list(members(archive))
    import_archive(write_tar(tmp_path / "part.tar", dict(list(members(archive).items())[:9])), target)
    before = {name: (target / name).stat().st_ino for name in contents(target)}
    report = import_archive(archive, target)
    assert (report.n_present, report.n_entries) == (6, 3 * N_CLIPS - 6)
    assert {name: (target / name).stat().st_ino for name in before} == before
    assert set(contents(target)) == set(names)
    again = copy_entries(root, target)
    assert (again.n_present, again.n_entries, again.n_manifests) == (3 * N_CLIPS, 0, 0)


def test_damaged_entries_are_left_out_and_named(root, tmp_path):
    one, two, *_ = entries(root, "features")
    (root / one).write_bytes((root / one).read_bytes()[:-5])
    (root / two).write_bytes(flip((root / two).read_bytes(), 200))
    report = export_archive(root, tmp_path / "all.tar")
    assert set(report.refused) == {one, two}
    assert "checksum is wrong" in report.refused[two]
    assert set(members(tmp_path / "all.tar")) == {*entries(root, "features"), *manifests(root)} - {one, two}
    assert copy_entries(root, tmp_path / "copy").n_refused == 2
    assert verify(tmp_path / "copy").is_clean


def test_an_export_of_nothing_leaves_the_older_archive(root, tmp_path):
    archive = tmp_path / "all.tar"
    export_archive(root, archive)
    before = archive.read_bytes()
    with pytest.raises(ValueError, match=r"No entry to export .* none is of the chosen clips"):
        export_archive(root, archive, clips=["0" * 64])
    for name in entries(root, "features"):
        (root / name).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"No entry to export .* are damaged"):
        export_archive(root, archive)
    assert archive.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.tar", "root"]


def test_a_hostile_archive_puts_nothing_but_entries(root, tmp_path):
    good, other, third, *_ = entries(root, "features")
    was = contents(root)
    link = tarfile.TarInfo(third)
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo(entries(root, "waveforms")[0])
    hard.type, hard.linkname = tarfile.LNKTYPE, good
    folder = tarfile.TarInfo("features/ab")
    folder.type = tarfile.DIRTYPE
    files = {
        good: was[good],
        other: was[good],  # under another clip's name
        "../evil.npz": was[good],
        "/evil.npz": was[good],
        f"features/../{good}": was[good],
        f"./{other}": was[other],
        "notes.txt": b"hello",
        "CACHEDIR.TAG": b"another",
        "access/2026-01-01/20260101T120000-0a1b2c3d-0123456789ab-0.gz": b"",
        f"{good}.bak": b"",
        f"features/00/.{good.split('/')[2]}.1-0a1b2c3d.tmp": b"",
        "evil\x1b[2Jname": b"",
        manifests(root)[0]: was[manifests(root)[1]],
        manifests(root)[2]: was[manifests(root)[2]],
    }
    target = tmp_path / "inner" / "target"
    report = import_archive(write_tar(tmp_path / "evil.tar", files, link, hard, folder), target)
    assert contents(target) == {name: was[name] for name in (good, manifests(root)[2])}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tar", "inner", "root"]
    assert (report.n_entries, report.n_manifests, report.n_refused) == (1, 1, len(files) - 2 + 3)
    assert "it is the entry of another key" in report.refused[other]
    assert "evil\\x1b[2Jname" in report.refused


def test_sizes_are_bounded_before_anything_is_read(root, tmp_path, monkeypatch):
    archive = tmp_path / "all.tar"
    export_archive(root, archive)
    monkeypatch.setattr(transfer, "_MAX_ENTRY_BYTES", 100)
    report = import_archive(archive, tmp_path / "target")
    assert (report.n_entries, report.n_refused) == (0, 3 * N_CLIPS)
    assert all("at most 100 are taken" in reason for reason in report.refused.values())


@pytest.mark.parametrize("kind", ["no tar", "empty", "cut", "compressed"])
def test_what_is_no_archive_is_an_error(kind, root, tmp_path):
    archive = tmp_path / "all.tar"
    export_archive(root, archive)
    content = archive.read_bytes()
    if kind == "compressed":
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(root / "features", "features")
    else:
        damaged = {"no tar": b"hello" * 1000, "empty": b"", "cut": content[: len(content) // 2 + 100]}
        archive.write_bytes(damaged[kind])
    with pytest.raises(ArchiveError, match=r"is not an uncompressed tar, or was cut") as caught:
        import_archive(archive, tmp_path / "target")
    assert caught.value.path == str(archive)
    if (tmp_path / "target").exists():
        assert verify(tmp_path / "target").is_clean


@pytest.mark.parametrize("kind", ["an entry", "a stranger's", "a header of headers"])
def test_an_archive_that_promises_more_than_there_is_ends_at_once(kind, root, tmp_path):
    good, other, *_ = entries(root, "features")
    archive = write_tar(tmp_path / "some.tar", {good: (root / good).read_bytes()})
    content = archive.read_bytes()
    whole = content[: 512 + -(-(root / good).stat().st_size // 512) * 512]  # without what ends an archive
    if kind == "a header of headers":
        more = tarfile.TarInfo("more")
        more.type = tarfile.XHDTYPE
        archive.write_bytes(whole + more.tobuf(tarfile.USTAR_FORMAT) * 3000)
    else:
        member = tarfile.TarInfo(other if kind == "an entry" else "notes.txt")
        member.size = 1 << 60
        archive.write_bytes(whole + member.tobuf(tarfile.GNU_FORMAT) + bytes(2000))
    with pytest.raises(ArchiveError, match="Entries stored before that place: 1"):
        import_archive(archive, tmp_path / "target")
    assert list(entries(tmp_path / "target")) == [good]


def test_an_interrupted_export_leaves_no_archive(root, tmp_path, monkeypatch):
    before = tmp_path / "all.tar"
    before.write_bytes(b"as it was")

    def stop(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile.TarFile, "addfile", stop)
    with pytest.raises(KeyboardInterrupt):
        export_archive(root, before)
    assert before.read_bytes() == b"as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.tar", "root"]


def test_a_signed_root_takes_what_is_signed(copy_of, full_roots, tmp_path):
    signed = copy_of("signed")
    report = export_archive(CacheRoot(signed, signing_key=SIGNING_KEY), tmp_path / "signed.tar")
    assert (report.n_entries, report.n_refused) == (3 * N_CLIPS, 0)
    export_archive(full_roots / "blosc", tmp_path / "plain.tar")
    assert (
        import_archive(tmp_path / "signed.tar", CacheRoot(tmp_path / "one", signing_key=SIGNING_KEY)).n_entries
        == 3 * N_CLIPS
    )
    report = import_archive(tmp_path / "plain.tar", CacheRoot(tmp_path / "two", signing_key=SIGNING_KEY))
    assert (report.n_entries, report.n_manifests, report.n_refused) == (0, 0, 3 * N_CLIPS + 3)
    assert not (tmp_path / "two").exists()

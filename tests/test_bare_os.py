"""The package where a system is not Linux, as far as that can be tried on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import audio_datasets as data
import pytest
from children import python_path

from hf_audio_cache import AudioCache, CachedFeatures
from hf_audio_cache.stores import near_folder

HERE = Path(__file__).parent
PROMISES = [
    "import bare_os; bare_os.import_libraries(); bare_os.take_away()",
    "import os, sys; from hf_audio_cache.stores import folders; assert not folders.HAS_DESCRIPTORS",
]


def without_posix(program, *arguments):
    """Run a program in a process from which POSIX was taken away; return what it prints."""
    lines = "\n".join([*PROMISES, textwrap.dedent(program)])
    environment = {**os.environ, "PYTHONPATH": python_path(has_torch=False)}
    done = subprocess.run(
        [sys.executable, "-c", lines, *arguments], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# More than ten seconds: it is a suite of its own, of some hundred tests.
def test_a_part_of_the_suite_runs_without_posix():
    done = subprocess.run(
        [sys.executable, HERE / "bare_os.py"],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": python_path(has_torch=False)},
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 90


def test_the_main_job_and_upkeep_run_without_posix(prompts, tmp_path):
    clips = data.shortest(prompts, 6)
    program = """
        import audio_datasets as data, configs, datasets
        from pathlib import Path
        from hf_audio_cache import CachedFeatures, prune, usage, verify
        from hf_audio_cache.cli import app

        root, *clips = sys.argv[1:]
        dataset = data.of_paths(list(map(Path, clips)))
        cached_features = CachedFeatures(configs.make_processor("wav2vec2"), root, auto_resample=True)
        forms = [cached_features.map(dataset), cached_features.attach(dataset), dataset.map(cached_features)]
        forms += [list(cached_features.attach(dataset.to_iterable_dataset()))]
        for form in forms:
            rows = [row["input_values"] for row in form]
            assert len(rows) == 6
            for row, clip in zip(rows, clips):
                expected = data.expected_features(configs.make_processor("wav2vec2"), Path(clip), auto_resample=True)
                assert list(row) == list(expected["input_values"])
        assert (cached_features.stats.computed, cached_features.stats.write_errors) == (6, 0)
        os.symlink(root, os.path.join(root, "features", "00"))
        assert verify(root).is_clean and usage(root).n_entries == 12
        assert len(os.listdir(os.path.join(root, "features"))) > 1
        assert prune(root, max_bytes=0).n_deleted == 12
        app(["usage", "--root", root], standalone_mode=False)
    """
    assert "all entries" in without_posix(program, str(tmp_path / "root"), *map(str, clips))


def test_links_under_a_root_are_refused_without_posix(tmp_path):
    program = """
        from hf_audio_cache.stores import LocalStore

        root, outside = sys.argv[1:]
        store = LocalStore(root)
        store.put("ab/name", b"content")
        os.symlink(outside, os.path.join(root, "cd"))
        os.symlink(os.path.join(outside, "kept"), os.path.join(root, "ab", "link"))
        [read] = store.get_many(["cd/kept"])
        assert "is a symbolic link" in str(read), read
        assert "is a symbolic link" in str(store.get_many(["ab/link"])[0])
        assert set(store.put_many({"cd/new": b""})) == {"cd/new"}
        assert set(store.delete(["cd/kept"])) == {"cd/kept"}
        assert not store.exists("cd/kept") and not store.exists("ab/link")
        assert list(store.names()) == ["ab/name"]
    """
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_bytes(b"kept")
    without_posix(program, str(tmp_path / "root"), str(tmp_path / "outside"))
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("s3://bucket/a:b/c?d", "s3/bucket/a%3Ab/c%3Fd"),
        ("s3://bucket/con/com1.txt/COM", "s3/bucket/%63on/%63om1.txt/COM"),
        ("s3://bucket/a./b ", "s3/bucket/a%2E/b%20"),
        ("s3://bucket/50%", "s3/bucket/50%25"),
        ("s3://bucket/ä b=1", "s3/bucket/ä b=1"),
    ],
)
def test_a_near_tier_has_a_name_that_every_system_takes(url, folder, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    assert near_folder(url, near=str(tmp_path)) == str(tmp_path / folder)


def test_names_in_a_root_are_valid_everywhere_and_none_differs_by_case_alone(prompts, tmp_path, make_processor):
    cached_features = CachedFeatures(make_processor("wav2vec2"), tmp_path / "root", auto_resample=True, channels=0)
    cached_features.map(data.of_paths(data.shortest(prompts, 4)))
    names = [path.relative_to(tmp_path / "root").as_posix() for path in (tmp_path / "root").rglob("*")]
    assert len(names) > 10
    assert all(re.fullmatch(r"[A-Za-z0-9_./-]+", name) and not name.endswith(".") for name in names)
    assert len({name.lower() for name in names}) == len(names)


def test_a_home_that_is_read_only_is_told_by_its_variable(tmp_path, caplog, make_processor, monkeypatch):
    store = "hf_audio_cache.stores.local.open_in"

    def refuse(folder, name, *flags):
        raise OSError(30, os.strerror(30), name)  # as root, no folder of ours is read-only

    cached_features = CachedFeatures(make_processor("wav2vec2"), tmp_path / "root", features="always")
    monkeypatch.setattr(store, refuse)
    import numpy as np

    cached_features({"audio": {"array": np.zeros(16_000, np.float32), "sampling_rate": 16_000}})
    [said] = [record.getMessage() for record in caplog.records if "could not write" in record.getMessage()]
    assert "set HF_AUDIO_CACHE to a folder that you may write to" in said


def test_temporary_files_on_another_file_system(prompts, tmp_path, make_processor, monkeypatch):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.fail("this test needs /dev/shm to be a file system of its own")
    folder = other / f"hf-audio-cache-test-{os.getpid()}"
    folder.mkdir()
    try:
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        cached_features = CachedFeatures(make_processor("wav2vec2"), tmp_path / "root", auto_resample=True)
        dataset = data.of_paths(data.shortest(prompts, 4))
        assert len(cached_features.map(dataset, num_proc=2)) == 4
        assert cached_features.stats.computed == 4
        assert cached_features.estimate(dataset).n_sample == 4
        cache = AudioCache(tmp_path / "root")
        assert repr(cache) == f"AudioCache('{tmp_path / 'root'}', 0 entries read)"
    finally:
        shutil.rmtree(folder)

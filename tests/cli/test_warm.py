"""What `warm` says where the root does not take what it is filled with."""

from __future__ import annotations

import json

import audio_datasets as data
import entry_tools
import pytest
from command_line import run, run_json

from hf_audio_cache.errors import StoreError
from hf_audio_cache.stores import LocalStore, near_folders
from hf_audio_cache.stores.resilient import ResilientStore

N = 6


@pytest.fixture
def job(prompts, processor_directory, tmp_path, monkeypatch):
    """The arguments of a fill of `N` clips; the near tiers are in ``tmp_path / "near"``."""
    monkeypatch.setenv("HF_AUDIO_CACHE_NEAR", str(tmp_path / "near"))
    folder = data.copies(data.shortest(prompts, N), tmp_path / "clips")[0].parent
    return ["warm", folder, "--processor", processor_directory("seamless_m4t"), "--auto-resample"]


def features_under(folder):
    return [path for path in folder.rglob("*.npz") if "/features/" in str(path)]


@pytest.mark.servers
@pytest.mark.parametrize(
    ("bucket", "changes", "reason"),
    [("no-such-bucket", {}, "NoSuchBucket"), ("theirs", {"secret": "wrong"}, "SignatureDoesNotMatch")],
)
def test_nothing_stored_is_an_error_each_time(bucket, changes, reason, job, s3_server, tmp_path):
    if bucket == "theirs":
        s3_server.make_bucket(bucket)
    options = [
        f"--storage-option={name}={json.dumps(value) if isinstance(value, dict) else value}"
        for name, value in {**s3_server.storage_options, **changes}.items()
    ]
    for _ in range(2):
        answer = run(*job, "--root", f"s3://{bucket}/cache", *options, "--format", "json", code=2)
        assert f"nothing was stored under s3://{bucket}/cache: " in answer.err
        assert reason in answer.err
        assert answer.out == ""
        assert features_under(tmp_path) == []  # nor computed in vain
    if bucket == "theirs":
        assert s3_server.names(bucket) == []


def refuse(monkeypatch, kind, names):
    """Let the store refuse to write the names that the test `names` picks."""
    put_many = kind.put_many

    def refusing(store, objects):
        refused = {name: StoreError(f"could not write {name}: for a test") for name in filter(names, objects)}
        return put_many(store, {name: objects[name] for name in objects if name not in refused}) | refused

    monkeypatch.setattr(kind, "put_many", refusing)


def test_a_root_that_takes_nothing_is_right_if_it_has_everything(job, tmp_path, monkeypatch):
    root = tmp_path / "root"
    assert run_json(*job, "--root", root)["computed"] == N
    with monkeypatch.context() as patch:
        refuse(patch, LocalStore, lambda name: True)
        report = run_json(*job, "--root", root)
        assert (report["hits"], report["computed"], report["not_stored"]) == (N, 0, 0)
        features_under(root)[0].unlink()
        answer = run(*job, "--root", root, code=2)
        assert "nothing was stored" in answer.err
        assert "for a test" in answer.err
    assert len(features_under(root)) == N - 1


def test_a_root_that_fails_in_the_middle_says_how_much_it_has(job, tmp_path, monkeypatch):
    root = tmp_path / "root"
    shas = sorted(data.sha256(path) for path in (tmp_path / "clips").iterdir())
    with monkeypatch.context() as patch:
        refuse(patch, LocalStore, lambda name: shas[0] in name)
        answer = run(*job, "--root", root, code=2)
        assert "not everything was stored" in answer.err
        assert "for a test" in answer.err
    assert run_json(*job, "--root", root)["hits"] == len(features_under(root)) - 1 == N - 1


def test_an_entry_of_a_later_version_asks_for_an_upgrade(job, tmp_path):
    root = tmp_path / "root"
    run(*job, "--root", root)
    one = features_under(root)[0]
    one.write_bytes(entry_tools.seal(entry_tools.split(one.read_bytes())[0], b'{"version":2}'))
    said = run(*job, "--root", root, code=2).err
    assert "Upgrade hf_audio_cache, or pass another --root." in said
    assert "Do the same again" not in said


def test_what_only_the_near_tier_took_is_stored_by_the_next_run(job, tmp_path, monkeypatch):
    monkeypatch.setattr(near_folders, "is_in_process", lambda url: False)
    url = "memory://warm-in-the-middle/cache"
    shas = sorted(data.sha256(path) for path in (tmp_path / "clips").iterdir())
    for refused, code, expected in (
        (shas[:2], 1, (0, N, 2)),  # hits, computed, not stored
        (shas[:1], 1, (N - 1, 0, 1)),
        ((), 0, (N, 0, 0)),
    ):
        with monkeypatch.context() as patch:
            refuse(patch, ResilientStore, lambda name, refused=refused: any(sha in name for sha in refused))
            answer = run(*job, "--root", url, "--format", "json", code=code)
        report = json.loads(answer.out)
        assert (report["hits"], report["computed"], report["not_stored"]) == expected
        assert ("clips were not stored" in answer.err) == bool(refused)

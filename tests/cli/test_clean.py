"""`verify`, `prune`, `clear` and `rm`: what they print and delete, against the truth."""

from __future__ import annotations

import audio_datasets as data
import numpy as np
import pytest
from command_line import run, run_csv, run_json
from full_roots import N_CLIPS, SIGNING_KEY, age, cached_by_all, contents, entries, manifests


def test_verify_finds_what_was_damaged_and_repairs_it(root):
    assert run_json("verify", "--root", root)["bad"] == {}
    by_processor = {name.split(".")[1]: name for name in entries(root, "features")}
    damaged = sorted([*by_processor.values(), entries(root, "waveforms")[0], manifests(root)[0]])
    assert len(damaged) == 5
    for name in damaged:
        (root / name).write_bytes((root / name).read_bytes()[:-7])
    (root / "notes.txt").write_text("a stranger's")
    before = contents(root)
    assert sorted(run("verify", "--root", root, "-q", code=1).lines) == damaged
    report = run_json("verify", "--root", root, code=1)
    assert (sorted(report["bad"]), report["n_strangers"], report["n_entries"]) == (damaged, 1, 4 * N_CLIPS)
    assert int(run_csv("verify", "--root", root, code=1)[0]["bad"]) == 5
    assert contents(root) == before
    assert "Pass -y" in run("verify", "--root", root, "--repair", code=2).err
    assert contents(root) == before
    assert "what is wrong" in run("verify", "--root", root, "--repair", "-y", code=1).out
    assert contents(root) == {name: content for name, content in before.items() if name not in damaged}
    run("verify", "--root", root)


def test_the_file_of_keys_is_used(copy_of, tmp_path):
    signed, keys = copy_of("signed"), tmp_path / "keys"
    keys.write_text(SIGNING_KEY)
    keys.chmod(0o600)
    assert run_json("verify", "--root", signed, "--signing-key-file", keys)["unsigned"] == []
    keys.write_text("another key of sixteen bytes")
    assert len(run_json("verify", "--root", signed, "--signing-key-file", keys, code=1)["unsigned"]) == 4 * N_CLIPS + 3
    keys.chmod(0o644)
    assert "chmod 600" in run("verify", "--root", signed, "--signing-key-file", keys, code=2).err


def test_prune_deletes_what_was_not_used_for_longest(root):
    names = sorted(entries(root), key=lambda name: data.digest(np.frombuffer(name.encode(), np.uint8)))
    for days, name in enumerate(names, start=1):  # the last one is the oldest
        age(root / name, days * 86_400)
    sizes = [(root / name).stat().st_size for name in names]
    limit = sum(sizes[:10])
    before = contents(root)
    planned = run("prune", "--root", root, "--max-size", limit, "--dry-run", "-q").lines
    assert sorted(planned) == sorted(names[10:])
    assert contents(root) == before
    assert "Pass -y" in run("prune", "--root", root, "--max-size", limit, code=2).err
    assert contents(root) == before
    report = run_json("prune", "--root", root, "--max-size", limit, "-y")
    assert (report["n_kept"], report["n_bytes_kept"], report["is_dry_run"]) == (10, limit, False)
    assert set(entries(root)) == set(names[:10])
    run("prune", "--root", root, "--older-than", "5d", "-y")
    assert set(entries(root)) == set(names[:4])


def test_prune_by_processor_and_run(root, clips):
    sha = cached_by_all(root)[1].processor_sha[:12]
    gone = run("prune", "--root", root, "--processor", "SeamlessM4TFeatureExtractor", "-y", "-q").lines
    assert len(gone) == N_CLIPS
    assert all(sha in name for name in gone)
    cached_features = cached_by_all(root)[0]
    cached_features({"audio": data.columns(clips[:2])["audio"]})
    cached_features.pipeline.access_log.finish()
    run("prune", "--root", root, "--keep-run", cached_features.pipeline.access_log.run.id, "-y")
    assert len(entries(root)) == 2
    run("prune", "--root", root, "--keep-free", "0%", "-y")
    assert len(entries(root)) == 2


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--max-size", "much"),
        ("--older-than", "30"),
        ("--keep-free", "0.1"),
        ("--keep-run", "none"),
        ("--max-size", "-1"),
    ],
)
def test_a_limit_that_is_none_deletes_nothing(options, root):
    before = contents(root)
    assert run("prune", "--root", root, *options, "-y", code=2).err != ""
    assert contents(root) == before


def test_rm_and_clear(root, clips):
    name, sha = entries(root)[0], data.sha256(clips[0])
    going = {name} | {found for found in entries(root) if sha in found}
    assert set(run("rm", name, sha[:12], "--root", root, "--dry-run", "-q").lines) == going
    assert "Pass -y" in run("rm", name, "--root", root, code=2).err
    left = set(entries(root)) - going
    run("rm", name, sha[:12], "--root", root, "-y")
    assert set(entries(root)) == left
    assert "No entry " in run("rm", name, "--root", root, "-y", code=2).err
    (root / "notes.txt").write_text("a stranger's")
    assert run_json("clear", "--root", root, "--cache", "waveforms", "-y")["n_kept"] == len(entries(root, "features"))
    assert entries(root, "waveforms") == []
    run("clear", "--root", root, "-y")
    assert set(contents(root)) == {"notes.txt"}
    assert "cache must be" in run("clear", "--root", root, "--cache", "x", "-y", code=2).err

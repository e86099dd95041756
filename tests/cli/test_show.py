"""`usage`, `ls`, `explain` and `show`: what they print, against the truth."""

from __future__ import annotations

import sys
from collections import Counter

import audio_datasets as data
import numpy as np
import pytest
from command_line import run, run_csv, run_json
from full_roots import RATE, cached_by_all, entries, flip, manifests


def test_usage_is_what_the_disk_says(root, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    count = Counter(f"{name.split('/')[0]}{name.split('/')[2][64:]}" for name in entries(root))
    report = run_json("usage", "--root", root)
    found = {
        f"{line['cache']}{'.' * bool(line['processor'])}{line['processor']}.{RATE}.0"
        + (".npz" if line["processor"] else ".wav.npz"): line["n_entries"]
        for line in report["lines"]
    }
    assert found == count
    assert report["n_bytes"] == sum((root / name).stat().st_size for name in entries(root))
    rows = run_csv("usage", "--root", root)
    assert [int(row["n_bytes"]) for row in rows] == [line["n_bytes"] for line in report["lines"]]
    shas = {cached_features.processor_sha[:12] for cached_features in cached_by_all(root)}
    assert set(run("usage", "--root", root, "-q").lines) == shas
    text = run("usage", "--root", root).out
    assert all(
        name in text for name in (*shas, "SeamlessM4TFeatureExtractor", "energy-v1", "of a sample of 24 entries")
    )


def test_the_default_root_is_that_of_python(root, monkeypatch):
    monkeypatch.setenv("HF_AUDIO_CACHE", str(root))
    assert run_json("usage")["root"] == str(root)
    assert len(run("processors", "list", "-q").lines) == len(manifests(root))
    assert "energy-v1" in run("processors").out


def test_ls_filters_and_sorts(root):
    sizes = {name: (root / name).stat().st_size for name in entries(root)}
    assert run("ls", "--root", root, "-q").lines == sorted(sizes)
    middle = sorted(sizes.values())[len(sizes) // 2]
    large = [name for name, size in sizes.items() if size > middle]
    found = run_json("ls", "--root", root, "--filter", f"size>{middle}", "--sort", "size:desc")
    assert [entry["name"] for entry in found] == sorted(large, key=lambda name: (-sizes[name],))[: len(found)]
    assert {entry["name"]: entry["n_bytes"] for entry in found} == {name: sizes[name] for name in large}
    by_name = run_csv(
        "ls", "--root", root, "--filter", "processor=energy-v1", "--filter", "cache=features", "--limit", 2
    )
    assert [row["processor"] for row in by_name] == [cached_by_all(root)[2].processor_sha[:12]] * 2
    assert run("ls", "--root", root, "--filter", "rate=1").lines == [
        "  clip  cache  processor  rate  cap  size  last used"
    ]
    assert run("ls", "--root", root, "--filter", "rate=1", "--format", "csv").out == ""
    assert "is not a filter" in run("ls", "--root", root, "--filter", "size", code=2).err
    assert "Cannot sort by 'x'" in run("ls", "--root", root, "--sort", "x", code=2).err


def test_explain_says_why(clips, processor, mel_processor, tmp_path):
    place, cache = tmp_path / "clips", tmp_path / "root"
    [clip, other] = data.copies(clips[:2], place)
    run("warm", place, "--processor", processor, "--root", cache, "--auto-resample")
    options = ("--root", cache, "--auto-resample")
    assert run("explain", clip, "--processor", processor, *options).lines == [f"{clip}: hit"]
    with_cap = run_json("explain", clip, "--processor", processor, *options, "--max-length-seconds", 1, code=1)
    assert with_cap["status"] == "other settings"
    assert "16000 Hz, a cap of 1 s, auto_resample=True was asked for" in with_cap["reasons"][0]
    native = run("explain", clip, "--processor", processor, "--root", cache, "-q", code=1)
    assert native.lines == ["other settings"]
    for none in (place, place / "none.wav"):
        said = run("explain", none, "--processor", processor, *options, code=2).err
        assert f"there is no file {none}" in said
        assert "--data-dir" not in said, "which the command does not have"
    changed = run_json("explain", clip, "--processor", mel_processor, *options, code=1)
    assert changed["status"] == "other processor"
    assert any("Wav2Vec2FeatureExtractor' -> " in reason for reason in changed["reasons"])
    [damaged] = [name for name in entries(cache, "features") if data.sha256(other) in name]
    (cache / damaged).write_bytes(b"damaged")
    assert run_csv("explain", other, "--processor", processor, *options, code=1)[0]["status"] == "bad entry"
    assert (cache / damaged).read_bytes() == b"damaged"  # it is only looked at
    assert run("explain", clips[5], "--processor", processor, *options, "-q", code=1).lines == ["never seen"]


def test_show_says_what_an_entry_holds(root, clips):
    sha = data.sha256(clips[0])
    found = {entry["name"]: entry for entry in run_json("show", sha[:16], "--root", root)}
    assert set(found) == {name for name in entries(root) if sha in name}
    for name, entry in found.items():
        with np.load(root / name, allow_pickle=False):
            pass
        assert (entry["blob_sha"], entry["n_bytes"], entry["problem"]) == (sha, (root / name).stat().st_size, "")
    [energy] = [entry for entry in found.values() if entry["processor_name"] == "energy-v1"]
    array = cached_by_all(root)[2]({"audio": data.columns(clips[:1])["audio"][0]})["input_features"]
    assert energy["outputs"]["input_features"].startswith(
        f"{array.dtype} {array.shape}, {array.min():.4g} to {array.max():.4g}"
    )
    assert run("show", energy["name"], "--root", root, "-q").lines == [energy["name"]]
    assert "state" in run("show", energy["name"], "--root", root).out
    (root / energy["name"]).write_bytes(flip((root / energy["name"]).read_bytes(), 200))
    assert "checksum is wrong" in run("show", energy["name"], "--root", root, code=1).out
    assert "No entry " in run("show", "0" * 64, "--root", root, code=2).err
    assert "there is no audio file none.wav" in run("show", "none.wav", "--root", root, code=2).err


@pytest.mark.parametrize("kind", ["waveforms", "features"])
def test_show_draws_a_picture(kind, root, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib import image

    sha = cached_by_all(root)[1].processor_sha[:12]
    name = next(name for name in entries(root, kind) if kind == "waveforms" or sha in name)
    run("show", name, "--root", root, "--plot", tmp_path / "entry.png")
    picture = image.imread(tmp_path / "entry.png")
    assert picture.shape == (480, 1200, 4)
    assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 20
    clip = name.split("/")[2][:64]
    assert "stands for 4" in run("show", clip, "--root", root, "--plot", tmp_path / "all.png", code=2).err
    (root / name).write_bytes(b"damaged")
    assert "Nothing was drawn" in run("show", name, "--root", root, "--plot", tmp_path / "bad.png", code=2).err
    assert not (tmp_path / "bad.png").exists()


def test_a_picture_without_matplotlib_is_an_error_that_says_what_to_install(root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    err = run("show", entries(root)[0], "--root", root, "--plot", tmp_path / "x.png", code=2).err
    assert "pip install 'hf_audio_cache[plot]'" in err

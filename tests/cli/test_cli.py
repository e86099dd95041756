"""The command line: what each command prints and does, against the truth, and how it fails."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import audio_datasets as data
import configs
import numpy as np
import pytest
from command_line import run, run_csv, run_json
from full_roots import N_CLIPS, RATE, SIGNING_KEY, age, cached_by_all, contents, entries, flip, manifests

from hf_audio_cache import CachedFeatures, verify

COMMANDS = ("warm", "estimate", "usage", "ls", "explain", "show", "processors", "processors list", "processors diff")
COMMANDS += ("verify", "prune", "clear", "rm", "export", "import", "demo", "config", "stats", "runs")


@pytest.fixture(scope="module")
def folder(clips, tmp_path_factory):
    """A folder of six clips in two folders, with a text file and a bad clip among them."""
    folder = tmp_path_factory.mktemp("recordings")
    data.copies(clips[:3], folder / "a")
    data.copies(clips[3:], folder / "b")
    (folder / "notes.txt").write_text("not audio")
    (folder / "b" / "bad.wav").write_bytes(b"no audio at all")
    return folder


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """Directory of a processor that takes no time."""
    return configs.write_config("wav2vec2", tmp_path_factory.mktemp("processors") / "wav2vec2")


@pytest.fixture(scope="module")
def mel_processor(tmp_path_factory):
    return configs.write_config("seamless_m4t", tmp_path_factory.mktemp("processors") / "seamless_m4t")


def program(*arguments: Any, **settings: Any) -> subprocess.Popen[str]:
    command = "import sys; from hf_audio_cache.cli import app; app(prog_name='hf-audio-cache')"
    return subprocess.Popen(
        [sys.executable, "-c", command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


# Help -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    text = run(*command.split(), "--help").out
    assert "Usage:" in text
    assert command == "processors" or f"hf-audio-cache {command}" in text.split("Usage:")[1].partition("\n")[2]


def test_what_is_no_command_or_option_is_a_usage_error(tmp_path):
    run("nosuch", code=2)
    run("usage", "--nosuch", code=2)
    run("usage", "--format", "xml", code=2)
    run("warm", tmp_path, code=2)  # without a processor


# warm and estimate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_proc", [1, 2])
def test_warm_fills_a_cache_from_a_folder(num_proc, folder, processor, clips, tmp_path):
    cache = tmp_path / "root"
    options = ("--processor", processor, "--root", cache, "--auto-resample", "--num-proc", num_proc)
    report = run_json("warm", folder, *options, code=1)
    assert {name: report[name] for name in ("rows", "hits", "computed")} == {"rows": 7, "hits": 0, "computed": 6}
    assert [clip["clip"] for clip in report["bad_clips"]] == [str(folder / "b" / "bad.wav")]
    assert report["bad_clips"][0]["error"] == "AudioDecodeError"
    assert report["bytes_written"] == sum((cache / name).stat().st_size for name in entries(cache))
    assert report["clips_per_second"] == pytest.approx(7 / report["seconds"])
    extractor = configs.make_processor("wav2vec2")
    cached_features = CachedFeatures(extractor, cache, auto_resample=True)
    assert report["processor_sha"] == cached_features.processor_sha
    rows = cached_features({"audio": data.columns(clips)["audio"]})["input_values"]
    assert (cached_features.stats.hits, cached_features.stats.computed) == (N_CLIPS, 0)
    for row, clip in zip(rows, clips, strict=True):
        data.assert_same_bits(row, data.expected_features(extractor, clip, auto_resample=True)["input_values"])
    again = run_json("warm", folder, *options, code=1)
    assert {name: again[name] for name in ("hits", "computed", "bytes_written")} == {
        "hits": 6,
        "computed": 0,
        "bytes_written": 0,
    }
    assert run("warm", folder, *options, "-q", code=1).lines == [str(folder / "b" / "bad.wav")]


@pytest.mark.parametrize("form", ["parquet", "saved", "dict"])
def test_warm_takes_datasets_in_other_forms(form, processor, clips, tmp_path):
    import datasets

    place, cache = tmp_path / "clips", tmp_path / "root"
    options: tuple[Any, ...] = ("--processor", processor, "--root", cache, "--auto-resample")
    if form == "parquet":
        place = data.parquet_file(clips[:3], tmp_path / "clips.parquet")
    elif form == "saved":
        data.in_memory(clips[:3]).rename_column("audio", "speech").save_to_disk(place)
        options += ("--audio-column", "speech")
    else:
        parts = {"train": data.in_memory(clips[:3]), "test": data.in_memory(clips[3:4])}
        datasets.DatasetDict(parts).save_to_disk(place)
        assert run_json("warm", place, *options)["rows"] == 4
        shutil.rmtree(cache)
        options += ("--split", "train")
        assert "train, test" in run("warm", place, *options[:-1], "dev", code=2).err
    assert run_json("warm", place, *options)["computed"] == 3
    assert len(entries(cache, "features")) == 3


@pytest.mark.parametrize("name", ["all.tar.gz", "all.tgz", "ALL.TAR.ZST"])
def test_a_compressed_archive_is_not_taken_for_a_root(name, root, tmp_path):
    assert "uncompressed" in run("export", "--root", root, "--to", tmp_path / name, code=2).err
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("form", ["folder", "saved"])
def test_a_split_of_what_has_none_is_an_error(form, processor, clips, folder, tmp_path):
    place = folder
    if form == "saved":
        place = tmp_path / "clips"
        data.in_memory(clips[:3]).save_to_disk(place)
    options = ("--processor", processor, "--root", tmp_path / "root", "--split", "test")
    assert "has no splits" in run("warm", place, *options, code=2).err
    assert not (tmp_path / "root").exists()


def test_the_settings_of_the_key_are_those_of_python(processor, clips, tmp_path):
    place = tmp_path / "clips"
    data.copies(clips[:2], place)
    run(
        "warm",
        place,
        "--processor",
        processor,
        "--root",
        tmp_path / "root",
        "--auto-resample",
        "--max-length-seconds",
        0.5,
    )
    extractor = configs.make_processor("wav2vec2")
    cached_features = CachedFeatures(extractor, tmp_path / "root", auto_resample=True, max_length_seconds=0.5)
    assert cached_features.coverage(data.in_memory(clips[:2])).n_cached == 2
    report = run_json("warm", place, "--processor", processor, "--root", tmp_path / "root", code=1)
    assert ["16000 Hz" in clip["reason"] for clip in report["bad_clips"]] == [True, True]


@pytest.mark.parametrize(
    "arguments",
    [["verify"], ["usage"], ["ls"], ["prune", "--max-size", "1GB", "-y"], ["clear", "-y"], ["processors", "list"]],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_root_that_is_none_is_not_taken_for_an_empty_one(arguments, kind, tmp_path):
    root = tmp_path / "root"
    if kind == "file":
        root.write_text("kept")
    result = run(*arguments, "--root", root, code=2)
    assert ("no cache found at " if kind == "missing" else "is a file") in result.err
    assert result.out == ""
    assert [path.name for path in tmp_path.iterdir()] == (["root"] if kind == "file" else [])


@pytest.mark.parametrize("what", ["dataset", "folder without audio", "processor", "rate", "root", "storage option"])
def test_an_error_of_the_user_s_is_one_line(what, folder, processor, tmp_path):
    arguments = {"dataset": folder, "--processor": processor, "--root": tmp_path / "root"}
    wrong: dict[str, tuple[str, Any, str]] = {
        "dataset": ("dataset", tmp_path / "none", "expected a dataset"),
        "folder without audio": ("dataset", tmp_path, "no file under"),
        "processor": ("--processor", tmp_path / "none", "expected --processor to be"),
        "rate": ("--sampling-rate", 5, "takes waveforms at 16000 Hz"),
        "root": ("--root", "nosuch://bucket/x", "nothing was opened"),
        "storage option": ("--storage-option", "novalue", "KEY=VALUE"),
    }
    name, value, message = wrong[what]
    arguments[name] = value
    flat = [arguments.pop("dataset")] + [item for pair in arguments.items() for item in pair]
    err = run("warm", *flat, code=2).err
    assert message in err
    assert err.startswith("Error: ")
    assert "Traceback" not in err
    assert not (tmp_path / "root").exists()


def test_a_root_that_cannot_be_written_is_an_error(folder, processor, tmp_path):
    (tmp_path / "root").write_bytes(b"a file, where the root should be")
    err = run(
        "warm", folder / "a", "--processor", processor, "--root", tmp_path / "root", "--auto-resample", code=2
    ).err
    assert f"the root must be a folder, and {tmp_path / 'root'} is a file" in err


def test_estimate_stores_nothing_and_says_what_it_takes(folder, mel_processor, tmp_path):
    options = ("--processor", mel_processor, "--root", tmp_path / "root", "--auto-resample")
    report = run_json("estimate", folder / "a", *options)
    assert not (tmp_path / "root").exists()
    written = run_json("warm", folder / "a", *options)["bytes_written"]
    assert report["features_bytes"] + report["waveforms_bytes"] == pytest.approx(written, rel=0.01)
    assert (report["n_rows"], report["n_sample_cached"]) == (3, 0)
    assert run_json("estimate", folder / "a", *options)["n_sample_cached"] == 3
    assert run("estimate", folder / "a", *options, "-q").out.startswith("Cach")  # the verdict
    assert "features of all rows" in run("estimate", folder / "a", *options, "--sample", 2).out


# usage, ls, explain, show, processors ---------------------------------------------------------------------------------


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
        "  clip  cache  processor  rate  cap  size  used before"
    ]
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
    changed = run_json("explain", clip, "--processor", mel_processor, *options, code=1)
    assert changed["status"] == "other processor"
    assert any("Wav2Vec2FeatureExtractor' -> " in reason for reason in changed["reasons"])
    [damaged] = [name for name in entries(cache, "features") if data.sha256(other) in name]
    (cache / damaged).write_bytes(b"damaged")
    assert run_csv("explain", other, "--processor", processor, *options, code=1)[0]["status"] == "bad entry"
    assert (cache / damaged).read_bytes() == b"damaged"  # it is only looked at
    assert run("explain", clips[5], "--processor", processor, *options, "-q", code=1).lines == ["never seen"]
    assert "could not be read" in run("explain", "none.wav", "--processor", processor, *options, code=2).err


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


def test_processors_are_listed_and_compared(root):
    caches = cached_by_all(root)
    found = {one["sha"]: one["name"] for one in run_json("processors", "list", "--root", root)}
    assert found == {
        caches[0].processor_sha: "Wav2Vec2FeatureExtractor",
        caches[1].processor_sha: "SeamlessM4TFeatureExtractor",
        caches[2].processor_sha: "energy-v1",
    }
    shas = [cached_features.processor_sha for cached_features in caches]
    report = run_json("processors", "diff", shas[0][:8], shas[1], "--root", root, code=1)
    assert (report["old"], report["new"]) == (shas[0], shas[1])
    assert any(line.startswith("class: ") for line in report["differences"])
    assert run("processors", "diff", shas[0][:8], shas[0], "--root", root, "-q").lines == []
    for bad in ("0" * 12, "xyz", ""):
        assert "0 processors under " in run("processors", "diff", shas[0], bad, "--root", root, code=2).err


# verify, prune, clear, rm ---------------------------------------------------------------------------------------------


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


# export and import ----------------------------------------------------------------------------------------------------


def test_a_dataset_s_features_go_to_another_root(folder, processor, mel_processor, clips, tmp_path):
    cache, archive, other, third = (tmp_path / name for name in ("root", "moved.tar", "other", "third"))
    for one in (processor, mel_processor):
        run("warm", folder, "--processor", one, "--root", cache, "--auto-resample", code=1)
    report = run_json("export", folder / "a", "--processor", processor, "--root", cache, "--to", archive)
    assert (report["n_entries"], report["n_manifests"]) == (3, 1)
    assert run_json("import", archive, "--root", other)["n_entries"] == 3
    assert len(entries(other)) == 3
    again = run_json("warm", folder / "a", "--processor", processor, "--root", other, "--auto-resample")
    assert (again["hits"], again["computed"]) == (3, 0)
    run("export", "--root", cache, "--to", third, "--with-waveforms", "--processor", "wav2vec2featureextractor")
    assert len(entries(third, "waveforms")) == len(entries(third, "features")) == N_CLIPS
    assert "is not an uncompressed tar, or was cut" in run("import", folder / "notes.txt", "--root", other, code=2).err
    assert "No such file" in run("import", tmp_path / "none.tar", "--root", other, code=2).err
    damaged = entries(cache, "features")[0]
    (cache / damaged).write_bytes(b"damaged")
    assert run("export", "--root", cache, "--to", tmp_path / "all.tar", "-q", code=1).lines == [damaged]


# Far roots ------------------------------------------------------------------------------------------------------------


def look_after(url: str, damage: Any, clip: Path, processor: Path, archive: Path, *options: str) -> None:
    """Let each command see to a far root of three clips of one processor, with damage planted."""
    settings = ("--processor", processor, "--auto-resample", "--root", url, *options)
    assert run_json("explain", clip, *settings)["status"] == "hit"
    [entry] = run_json("show", hashlib.sha256(clip.read_bytes()).hexdigest(), "--root", url, *options)[:1]
    assert entry["name"].startswith(("features/", "waveforms/"))
    assert len(run_json("processors", "list", "--root", url, *options)) == 1
    run("export", "--root", url, "--to", archive, "--with-waveforms", *options)
    assert run_json("import", archive, "--root", f"{url}-copy", *options)["n_entries"] == 6
    assert run("ls", "--root", f"{url}-copy", "-q", *options).lines == run("ls", "--root", url, "-q", *options).lines
    assert (
        run_json("rm", hashlib.sha256(clip.read_bytes()).hexdigest(), "--root", f"{url}-copy", "-y", *options)[
            "n_deleted"
        ]
        == 2
    )
    assert run_json("clear", "--root", f"{url}-copy", "-y", *options)["n_deleted"] >= 4
    report = run_json("usage", "--root", url, *options)
    assert {line["cache"]: line["n_entries"] for line in report["lines"]} == {"features": 3, "waveforms": 3}
    names = run("ls", "--root", url, "-q", *options).lines
    assert len(names) == 6
    run("verify", "--root", url, *options)
    damage(names[0])
    assert run("verify", "--root", url, "-q", *options, code=1).lines == [names[0]]
    run("verify", "--root", url, "--repair", "-y", *options, code=1)
    assert run_json("ls", "--root", url, "--sort", "size", *options)[0]["n_bytes"] > 0
    assert run("ls", "--root", url, "-q", *options).lines == names[1:]
    assert run_json("prune", "--root", url, "--max-size", "0", "-y", *options)["n_deleted"] == 5
    assert run("ls", "--root", url, "-q", *options).lines == []


def test_a_root_in_memory_is_looked_after(folder, processor, tmp_path):
    import fsspec

    url = "memory://cli/root"
    run("warm", folder / "a", "--processor", processor, "--root", url, "--auto-resample")
    damage = lambda name: fsspec.filesystem("memory").pipe_file(f"/cli/root/{name}", b"damaged")  # noqa: E731 - short
    look_after(url, damage, min((folder / "a").iterdir()), processor, tmp_path / "all.tar")
    assert (
        "keep_free is for roots on a local disk" in run("prune", "--root", url, "--keep-free", "10%", "-y", code=2).err
    )


@pytest.mark.servers
def test_a_bucket_is_looked_after(folder, processor, s3_server, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_AUDIO_CACHE_NEAR", str(tmp_path / "near"))
    bucket = "command-line"
    s3_server.make_bucket(bucket)
    url = s3_server.url(bucket, "cache")
    options = []
    for name, value in s3_server.storage_options.items():
        options += ["--storage-option", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    run("warm", folder / "a", "--processor", processor, "--root", url, "--auto-resample", *options)
    damage = lambda name: s3_server.write(bucket, f"cache/{name}", b"damaged")  # noqa: E731 - short
    look_after(url, damage, min((folder / "a").iterdir()), processor, tmp_path / "all.tar", *options)


# Terminals, pipes and Ctrl-C ------------------------------------------------------------------------------------------


def test_nothing_but_the_result_goes_to_a_pipe(folder, processor, tmp_path):
    process = program(
        "warm", folder / "a", "--processor", processor, "--root", tmp_path / "root", "--auto-resample", "-q"
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "")
    assert "\x1b" not in err
    assert "%" not in err


def test_ctrl_c_leaves_nothing_half_done_and_warm_goes_on(prompts, processor, tmp_path):
    place, cache = tmp_path / "clips", tmp_path / "root"
    data.copies(prompts[:200], place)
    options = ("warm", place, "--processor", processor, "--root", cache, "--auto-resample")
    process = program(*options)
    while len(entries(cache, "features")) < 20:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.rstrip().endswith("Interrupted; what was finished until now stays.")
    assert "Traceback" not in err
    report = verify(cache)
    assert report.is_clean
    assert report.n_in_progress == 0
    n_done = len(entries(cache, "features"))
    assert 20 <= n_done < 200
    again = run_json(*options)
    assert (again["hits"], again["computed"]) == (n_done, 200 - n_done)


def test_a_reader_that_goes_away_is_no_error(root):
    process = program("ls", "--root", root)
    process.stdout.close()
    process.wait(timeout=60)
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()

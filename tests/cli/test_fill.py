"""`warm` and `estimate`: what they print and do, against the truth, and how they fail."""

from __future__ import annotations

import os
import shutil
from typing import Any

import audio_datasets as data
import configs
import pytest
from command_line import run, run_json
from full_roots import N_CLIPS, entries

from hf_audio_cache import CachedFeatures
from hf_audio_cache.cli.messages import problems


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


@pytest.mark.parametrize("form", ["folder", "saved"])
def test_a_split_of_what_has_none_is_an_error(form, processor, clips, folder, tmp_path):
    place = folder
    if form == "saved":
        place = tmp_path / "clips"
        data.in_memory(clips[:3]).save_to_disk(place)
    options = ("--processor", processor, "--root", tmp_path / "root", "--split", "test")
    assert "has no splits" in run("warm", place, *options, code=2).err
    if form == "folder":
        assert "is not on the Hub" in run("warm", place, *options[:-2], "--subset", "en", code=2).err
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
    "what", ["dataset", "folder without audio", "file name", "processor", "rate", "root", "storage option", "address"]
)
def test_an_error_of_the_user_s_is_one_line(what, folder, processor, tmp_path):
    empty, odd = tmp_path / "empty", tmp_path / "odd"
    empty.mkdir()
    odd.mkdir()
    (odd / os.fsdecode(b"\xff.wav")).write_bytes(b"")
    arguments = {"dataset": folder, "--processor": processor, "--root": tmp_path / "root"}
    wrong: dict[str, tuple[str, Any, str]] = {
        "dataset": ("dataset", tmp_path / "none", "expected a dataset"),
        "folder without audio": ("dataset", empty, "no file under"),
        "file name": ("dataset", odd, r"\xff.wav' is not UTF-8, which Arrow needs: rename the file"),
        "processor": ("--processor", tmp_path / "none", "expected --processor to be"),
        "rate": ("--sampling-rate", 5, "takes waveforms at 16000 Hz"),
        "root": ("--root", "nosuch://bucket/x", "nothing was opened"),
        "storage option": ("--storage-option", "novalue", "KEY=VALUE"),
        "address": ("--address", "auto", "expected --engine ray with --address; nothing was done"),
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


def test_a_terminal_is_shown_how_far_it_is(folder, processor, tmp_path, monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    root = ("--root", tmp_path / "root")
    filled = run("warm", folder / "a", "--processor", processor, "--auto-resample", *root)
    checked = run("verify", *root)
    assert "Caching features" in filled.err
    assert "3/3" in filled.err
    assert "Reading entries" in checked.err
    assert "\x1b" not in filled.out + checked.out


def test_the_problem_of_a_clip_whose_path_is_empty_can_be_read():
    bad = {"clip": "", "error": "AudioSourceError", "reason": "The audio file '' could not be read."}
    assert problems([bad]) == [(1, "The audio file a clip could not be read.", "")]


def test_a_terminal_shows_how_many_clips_were_seen_to(folder, processor, tmp_path, monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    said = run("warm", folder, "--processor", processor, "--root", tmp_path / "root", "--auto-resample", code=1)
    assert "Caching features" in said.err
    assert "7/7" in said.err

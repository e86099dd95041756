"""What operators look at: settings, statistics, runs, the near tier; and how the commands print it."""

from __future__ import annotations

import json
import re
import shutil

import audio_datasets as data
import pytest
from command_line import run, run_csv, run_json

from hf_audio_cache import CachedFeatures, CacheRoot, usage
from hf_audio_cache.cli.messages import in_flags
from hf_audio_cache.maintenance.runs import total_stats
from hf_audio_cache.stores import near_folders

# How it is printed ----------------------------------------------------------------------------------------------------


def test_one_problem_is_said_once_in_flags(recordings, processor, tmp_path):
    (recordings / "bad.wav").write_bytes(b"no audio")
    shutil.copy(recordings / "0001.wav", recordings / "again.wav")
    arguments = ("warm", recordings, "--processor", processor, "--root", tmp_path / "root")
    answer = run(*arguments, code=1)
    assert re.search(r"^  7 +Expected 16000 Hz, found 8000 Hz", answer.out, re.MULTILINE)
    assert answer.out.count("--auto-resample") == 1
    assert "auto_resample" not in answer.out + answer.err
    assert answer.err == ""
    report = run_json(*arguments, "--auto-resample", code=1)
    assert (report["rows"], report["hits"], report["computed"], report["duplicates"], report["bad_rows"]) == (
        8,
        0,
        6,
        1,
        1,
    )
    for arguments_of, expected in [
        ('pass truncated="accept" to take it', "pass --truncated accept to take it"),
        ("CachedFeatures(…, audio_column=…). Under", "--audio-column. Under"),
        ("Pass sampling_rate= in Hz", "Pass --sampling-rate in Hz"),
        ("storage_options=, or where", "--storage-option, or where"),
        (
            "no cap, auto_resample=True; no cap, auto_resample=False",
            "no cap, --auto-resample; no cap, no --auto-resample",
        ),
        (
            'cache must be "features" or "waveforms" (or None, for all), not',
            '--cache must be "features" or "waveforms", not',
        ),
        ("keep_free is for roots on a local disk", "--keep-free is for roots on a local disk"),
    ]:
        assert in_flags(arguments_of) == expected


def test_small_things(root, clips, capsys):
    assert run("--version").out.startswith("hf_audio_cache ")
    assert run("processors", "--root", root, "-q").lines == run("processors", "list", "--root", root, "-q").lines
    assert json.loads(run("ls", "--root", root, "--json").out) == run_json("ls", "--root", root)
    entry = next(line for line in run("ls", "--root", root, "-q").lines)
    assert entry in run("ls", "--root", root, "--no-truncate").out
    assert entry not in run("ls", "--root", root).out
    assert "expected --repair with -y" in run("verify", "-y", "--root", root, code=2).err
    sha = data.sha256(clips[0])
    assert {one["name"] for one in json.loads(run("show", clips[0], "--root", root, "--json").out)} == {
        line for line in run("ls", "--root", root, "-q").lines if sha in line
    }


@pytest.mark.parametrize("call", [usage, total_stats])
def test_a_root_that_is_not_there_is_the_same_error_in_python(call, tmp_path):
    with pytest.raises(Exception, match="no cache found at ") as caught:
        call(tmp_path / "none")
    assert run("usage", "--root", tmp_path / "none", code=2).err == f"Error: {caught.value}\n".replace(
        "root=…", "--root"
    )


# Records -------------------------------------------------------------------------------------------------------


def test_a_dataset_with_a_name_is_in_the_record(clips, tmp_path, make_processor):
    dataset = data.from_parquet(clips[:3], tmp_path / "data")
    CachedFeatures(make_processor("wav2vec2"), tmp_path / "root", auto_resample=True).map(dataset)
    [listed] = run_json("runs", "--root", tmp_path / "root")
    assert listed["datasets"] == {"parquet train": 3}
    [row] = run_csv("runs", "--root", tmp_path / "root")
    assert [json.loads(row[name]) for name in ("datasets", "figures")] == [listed["datasets"], listed["figures"]]


# The near tier in sight -----------------------------------------------------------------------------------------------


def test_the_near_tier_is_seen_and_cleared(clips, tmp_path, make_processor, monkeypatch):
    monkeypatch.setattr(near_folders, "is_in_process", lambda url: False)
    url, near = "memory://in-sight/cache", tmp_path / "near"
    root = CacheRoot(url, near=near)
    CachedFeatures(make_processor("wav2vec2"), root, auto_resample=True).map(data.of_paths(clips))
    there = ("--root", url, "--near", near)
    report = run_json("usage", *there)
    assert (report["n_near"], report["n_entries"]) == (12, 12)
    assert report["near"].startswith(str(near))
    assert "near tier " in run("usage", *there).out
    assert usage(root).compression_ratio == usage(CacheRoot(report["near"])).compression_ratio
    settings = {one["name"]: one for one in run_json("config", *there)}
    assert settings["root"] == {"name": "root", "value": url, "source": "given here"}
    assert settings["near tier"]["value"] == report["near"]
    assert run_json("clear", *there, "--only-near", "-y")["n_deleted"] == 12
    report = run_json("usage", *there)
    assert (report["n_near"], report["n_entries"]) == (0, 12)
    assert "there is no near tier" in run("clear", "--root", tmp_path, "--only-near", "-y", code=2).err


def test_where_settings_come_from(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_AUDIO_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_AUDIO_CACHE_HASHES", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    settings = {one["name"]: (one["value"], one["source"]) for one in run_json("config")}
    assert settings["root"] == (str(tmp_path), "$HF_AUDIO_CACHE")
    assert settings["hashes of files"] == (str(tmp_path / "hf" / "audio_cache_hashes.sqlite"), "$HF_HOME")
    assert settings["near tier"][0] == "none"
    assert run("config", "-q").lines == [str(tmp_path)]
    monkeypatch.setenv("HF_AUDIO_CACHE_HASHES", "")
    (hashes,) = [one for one in run_json("config") if one["name"] == "hashes of files"]
    assert (hashes["value"], hashes["source"]) == ("none", "$HF_AUDIO_CACHE_HASHES")

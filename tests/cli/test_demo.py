"""`demo`: what its passes find and compute, and which clips it takes."""

from __future__ import annotations

import re
import tempfile

import audio_datasets as data
import pytest
from command_line import run, run_json

from hf_audio_cache.cli.demo import run_demo


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """Where the demo works, which is empty afterwards."""
    folder = tmp_path / "workplace"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("HF_AUDIO_CACHE_SPEECH", str(tmp_path / "speech"))
    yield folder
    assert [path.name for path in folder.iterdir() if "demo" in path.name] == []


def test_each_pass_computes_only_what_is_new(recordings):
    report = run_json("demo", "--audio", recordings)
    assert report["clips"] == f"6 clips: your own, from {recordings}"
    found = [(re.split("[:,] ", one["form"])[0], one["rows"], one["hits"], one["computed"]) for one in report["runs"]]
    assert found == [
        *(("ds.map(compute)", rows, 0, rows) for rows in (5, 6)),
        ("cached_features.map(ds)", 5, 0, 5),
        ("cached_features.map(ds)", 5, 5, 0),
        ("cached_features.map(ds)", 6, 5, 1),
        ("cached_features.map(ds)", 2, 2, 0),
        ("ds.map(cached_features)", 5, 5, 0),
        ("ds.map(a constant array)", 5, 0, 0),
    ]
    arrays, references, features, _ = report["n_bytes"].values()
    assert arrays > 5 * 80 * 3000 * 4 > features > 100 * references > 0


def test_it_takes_what_was_fetched_or_makes_tones(clips, tmp_path):
    assert run_demo(None, 4).clips.startswith("4 clips: SYNTHESIZED tones and not speech (")
    data.copies(clips, tmp_path / "speech" / "prompts")
    report = run_demo(None, 5)
    assert report.clips.startswith("5 clips: spoken prompts of Debian's")
    assert "4 rows" in str(report)


def test_too_few_clips_are_an_error_that_says_which_count(tmp_path):
    (tmp_path / "notes.txt").write_text("no audio")
    said = run("demo", "--audio", tmp_path, code=2).err
    assert f"Found 0 audio files, and the demonstration takes at least 4: your own, from {tmp_path}. " in said
    assert ".wav" in said

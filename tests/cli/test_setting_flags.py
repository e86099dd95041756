"""The settings that the command line has of `CachedFeatures`: each fills and finds the entries that Python finds."""

from __future__ import annotations

import configs
import datasets
import numpy as np
import pytest
import soundfile
from audio_files import encode
from command_line import run, run_json

from hf_audio_cache import CachedFeatures


@pytest.fixture(scope="module")
def folder(sentences, tmp_path_factory):
    """A stereo file, and one whose header promises twice what is there."""
    folder = tmp_path_factory.mktemp("recordings")
    speech = soundfile.read(sentences[0], dtype="int16")[0][:20_000]
    (folder / "stereo.flac").write_bytes(encode(np.stack([speech, speech // 2], axis=1), 16_000, "FLAC"))
    lying = bytearray(encode(speech, 16_000, "WAV"))
    lying[40:44] = (80_000).to_bytes(4, "little")
    (folder / "lying.wav").write_bytes(lying)
    rows = datasets.Dataset.from_dict({"audio": ["stereo.flac", "lying.wav"]})
    rows.to_parquet(folder / "relative.parquet")
    return folder


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return configs.write_config("wav2vec2", tmp_path_factory.mktemp("processors") / "wav2vec2")


@pytest.mark.parametrize(
    ("in_key", "others", "settings", "bad"),
    [
        ("", "", {}, ["TruncatedAudioError"]),
        ("", "--truncated accept", {"truncated": "accept"}, []),
        ("--channels 0", "--truncated accept", {"truncated": "accept", "channels": 0}, []),
        ("--nonfinite keep", "--truncated accept", {"truncated": "accept", "nonfinite": "keep"}, []),
        (
            "--max-length-seconds 1",
            "--truncated accept --longer error",
            {"truncated": "accept", "max_length_seconds": 1, "longer": "error"},
            ["AudioTooLongError", "AudioTooLongError"],
        ),
    ],
)
def test_warm_estimate_and_explain_have_the_settings_of_python(
    in_key, others, settings, bad, folder, processor, tmp_path
):
    options = ("--processor", processor, "--root", tmp_path / "root", *in_key.split())
    filling = (folder, *options, *others.split())
    n_good = 2 - len(bad)
    assert run_json("estimate", *filling)["n_sample_bad"] == len(bad)
    report = run_json("warm", *filling, code=1 if bad else 0)
    assert (report["computed"], [clip["error"] for clip in report["bad_clips"]]) == (n_good, bad)
    cached_features = CachedFeatures(configs.make_processor("wav2vec2"), tmp_path / "root", on_error="null", **settings)
    assert cached_features.processor_sha == report["processor_sha"]
    cached_features({"audio": [str(path) for path in sorted(folder.glob("*.[fw]*"))]})
    assert (cached_features.stats.hits, cached_features.stats.computed) == (n_good, 0)
    explained = run("explain", folder / "stereo.flac", *options, "-q", code=0 if n_good else 1)
    assert explained.lines == ["hit" if n_good else "never seen"]


@pytest.mark.parametrize("command", ["warm", "estimate"])
def test_relative_paths_start_in_data_dir(command, folder, processor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--processor", processor, "--root", tmp_path / "root", "--truncated", "accept")
    report = run_json(command, folder / "relative.parquet", *options, "--data-dir", folder)
    assert len(report["bad_clips"]) == 0 if command == "warm" else report["n_sample_bad"] == 0
    report = run_json(command, folder / "relative.parquet", *options, code=1 if command == "warm" else 0)
    assert len(report["bad_clips"]) == 2 if command == "warm" else report["n_sample_bad"] == 2


def test_values_that_cannot_be_are_errors_of_their_flags(folder, processor, tmp_path):
    for flags in ("--channels left", "--longer maybe --max-length-seconds 1", "--truncated no", "--nonfinite no"):
        answer = run("warm", folder, "--processor", processor, "--root", tmp_path, *flags.split(), code=2)
        assert flags.split()[0][2:] in answer.err

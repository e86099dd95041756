"""The command line: what each command prints and does, against the truth, and how it fails."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from command_line import run, run_json
from full_roots import N_CLIPS, contents, entries, manifests

from hf_audio_cache.cli import app
from hf_audio_cache.cli.running import guarded
from hf_audio_cache.errors import StoreError
from hf_audio_cache.stores import RUN_GOES_ON


def commands(group, before=""):
    for name, command in group.commands.items():
        yield f"{before}{name}"
        yield from commands(command, f"{name} ") if hasattr(command, "commands") else ()


# Help -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *commands(typer.main.get_command(app))])
def test_every_command_has_help_in_80_columns_with_an_example(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = run(*command.split(), "--help")
    assert max(map(len, result.lines)) <= 80
    # Options have words of their own, flags none.
    assert not any(re.match(r"  -.*<(str|bool|int|float|path|list)\b", line) for line in result.lines)
    assert "Usage:" in result.out
    has_example = f"hf-audio-cache {command}" in result.out.split("Usage:")[1].partition("\n")[2]
    assert has_example or command in ("", "processors")


def test_what_is_no_command_or_option_is_a_usage_error(tmp_path):
    run("nosuch", code=2)
    run("usage", "--nosuch", code=2)
    run("usage", "--format", "xml", code=2)
    run("warm", tmp_path, code=2)  # without a processor


# Roots that are none --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["all.tar.gz", "all.tgz", "ALL.TAR.ZST", "all.zip"])
def test_a_compressed_archive_is_not_taken_for_a_root(name, root, tmp_path):
    assert "uncompressed" in run("export", "--root", root, "--to", tmp_path / name, code=2).err
    assert not (tmp_path / name).exists()


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


# export and import ----------------------------------------------------------------------------------------------------


def test_a_dataset_s_features_go_to_another_root(folder, processor, mel_processor, clips, tmp_path):
    cache, archive, other, third = (tmp_path / name for name in ("root", "moved.tar", "other", "third"))
    for one in (processor, mel_processor):
        run("warm", folder, "--processor", one, "--root", cache, "--auto-resample", code=1)
    report = run_json("export", folder / "a", "--processor", processor, "--root", cache, "--to", archive)
    assert (report["n_entries"], report["n_manifests"]) == (3, 1)
    assert run_json("import", archive, "--root", other)["n_entries"] == 3
    assert len(entries(other)) == 3
    said = run("export", "--processor", mel_processor, "--root", other, "--to", tmp_path / "none.tar", code=2).err
    assert f"no features of {mel_processor} (" in said
    assert not (tmp_path / "none.tar").exists()
    [sha] = run("processors", "-q", "--root", other).lines
    (other / manifests(other)[0]).unlink()
    for one in (processor, sha[:12], sha[:4]):  # as for prune
        assert run_json("export", "--processor", one, "--root", other, "--to", tmp_path / "again.tar")["n_entries"] == 3
    again = run_json("warm", folder / "a", "--processor", processor, "--root", other, "--auto-resample")
    assert (again["hits"], again["computed"]) == (3, 0)
    run("export", "--root", cache, "--to", third, "--with-waveforms", "--processor", "wav2vec2featureextractor")
    assert len(entries(third, "waveforms")) == len(entries(third, "features")) == N_CLIPS
    assert "is not an uncompressed tar, or was cut" in run("import", folder / "notes.txt", "--root", other, code=2).err
    assert "there is no archive" in run("import", tmp_path / "none.tar", "--root", other, code=2).err
    with tarfile.open(archive, "a") as tar:
        tar.add(folder / "notes.txt", "notes.txt")
    assert run("import", archive, "--root", other, "-q", code=1).lines == ["notes.txt"]
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


def test_a_root_without_its_flag_is_told_the_flag(tmp_path):
    assert "extra argument" in (said := run("usage", tmp_path, code=2).err)
    assert "Name a cache with --root." in said


def test_pack_takes_its_root_either_way(root, tmp_path):
    assert "not both" in run("pack", root, "--root", tmp_path, code=2).err
    assert run_json("pack", "--root", root)["n_packed"] == len(run("ls", "--root", root, "-q").lines) > 0


@pytest.mark.parametrize(
    "arguments",
    [["clear", "-y", "--root", ""], ["pack", ""], ["usage", "--near", ""], ["export", "--to", ""]],
    ids=lambda arguments: arguments[0],
)
def test_an_empty_name_is_no_place(arguments, root, monkeypatch):
    """Such as ``--root "$UNSET"``."""
    monkeypatch.setenv("HF_AUDIO_CACHE", str(root))
    before = contents(root)
    assert re.search("""must be a (path or a URL|folder or "auto"), not ''""", run(*arguments, code=2).err)
    assert contents(root) == before


def test_an_archive_that_cannot_be_one_is_told_before_anything_is_done(root, tmp_path):
    assert "on a local disk" in run("export", "--root", root, "--to", "s3://bucket/all.tar", code=2).err
    said = run("export", "--root", root, "--to", tmp_path / "none" / "all.tar", code=2).err
    assert f"there is no folder {tmp_path / 'none'} for all.tar" in said
    assert "export --root FROM --to INTO" in run("import", root, "--root", tmp_path / "other", code=2).err
    run("export", "--root", root, "--to", tmp_path / "ALL.TAR")
    assert tarfile.is_tarfile(tmp_path / "ALL.TAR")
    assert not (tmp_path / "other").exists()


def test_the_package_is_a_program():
    shown = subprocess.run(
        [sys.executable, "-m", "hf_audio_cache", "usage", "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage: hf-audio-cache usage" in shown.stdout


@pytest.mark.parametrize("end", ["", "."])
def test_a_store_that_does_not_answer_is_an_error_with_a_remedy(end, capsys):
    def command():
        logging.getLogger("hf_audio_cache").warning(f"it is down. {RUN_GOES_ON} Ask.")
        raise StoreError(f"could not list s3://bucket{end}", kind="unreachable")

    with pytest.raises(typer.Exit):
        guarded(command)()
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "it is down. Ask.",
        "Error: could not list s3://bucket. Check the network, the endpoint and the region.",
    ]

"""What operators look at: settings, statistics, runs, the near tier; and how the commands print it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import audio_datasets as data
import configs
import pytest
import typer.testing
from command_line import run, run_json

from hf_audio_cache import CachedFeatures, CacheRoot, usage
from hf_audio_cache.cache.layout import parse_figures_name
from hf_audio_cache.cli import app
from hf_audio_cache.cli.messages import in_flags
from hf_audio_cache.maintenance.runs import total_stats
from hf_audio_cache.stores import near_folders

DOCUMENTATION = Path(__file__).parent.parent.parent / "docs" / "operating.md"
COMMANDS = ("", "warm", "estimate", "config", "usage", "stats", "runs", "ls", "explain", "show", "processors", "verify")
COMMANDS += ("processors list", "processors diff", "prune", "clear", "rm", "export", "import", "demo")


@pytest.fixture
def processor(tmp_path):
    return configs.write_config("seamless_m4t", tmp_path / "processor")


@pytest.fixture
def recordings(clips, tmp_path):
    data.copies(clips, tmp_path / "recordings")
    return tmp_path / "recordings"


def program(folder):
    """Write the command as ``hf-audio-cache`` into a folder, as pip does."""
    path = folder / "bin" / "hf-audio-cache"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\nfrom hf_audio_cache.cli import app\napp(prog_name='hf-audio-cache')\n")
    path.chmod(0o755)
    return path


# The session of the documentation ------------------------------------------------------------------------------------


CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    server.sendall(json.dumps([sys.argv[1:], os.environ["HF_AUDIO_CACHE"]]).encode() + b"\\n")
    code, out, err = json.loads(server.makefile().read())
sys.stdout.write(out), sys.stderr.write(err), sys.exit(code)
"""


@pytest.fixture
def served_command(tmp_path, monkeypatch):
    """The command as a program that has this process do the work: each import of `datasets` takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    before = os.environ["HF_AUDIO_CACHE"]

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            arguments, os.environ["HF_AUDIO_CACHE"] = json.loads(self.rfile.readline())
            result = typer.testing.CliRunner().invoke(app, arguments, prog_name="hf-audio-cache")
            self.wfile.write(json.dumps([result.exit_code, result.stdout, result.stderr]).encode())

    path = tmp_path / "bin" / "hf-audio-cache"
    path.parent.mkdir()
    path.write_text(CLIENT.format(python=sys.executable, address="socket"))
    path.chmod(0o755)
    with socketserver.UnixStreamServer("socket", Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield path
        server.shutdown()
    os.environ["HF_AUDIO_CACHE"] = (
        before  # not by monkeypatch: `datasets` puts another mapping in the place of os.environ
    )


def test_the_session_of_the_documentation_runs(recordings, processor, tmp_path, served_command):
    script = re.search(r'```bash title="session.sh"\n(.*?)```', DOCUMENTATION.read_text(), re.DOTALL)[1]
    shutil.move(next(recordings.iterdir()), recordings / "one.wav")
    environment = {**os.environ, "PATH": f"{served_command.parent}:{os.environ['PATH']}"}
    session = ["bash", "-e", "-o", "pipefail", "-c", script]
    done = subprocess.run(session, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for said in ("Caching pays", "$HF_AUDIO_CACHE", "one.wav: hit", "time saved", "would be deleted"):
        assert said in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert list((tmp_path / "cache").rglob("*.npz")) == []


# How it is printed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_and_has_no_types_for_flags(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(*command.split(), "--help").lines
    assert max(map(len, lines)) <= 80
    # Options have words of their own, flags none.
    assert not any(re.match(r"  -.*<(str|bool|int|float|path|list)\b", line) for line in lines)


def test_help_waits_for_no_library(tmp_path):
    check = "import sys; from hf_audio_cache.cli import app\ntry: app(['--help'])\nfinally: print(sorted(sys.modules))"
    path = program(tmp_path)
    path.write_text(f"#!{sys.executable}\n{check}\n")
    done = subprocess.run([path], capture_output=True, text=True, check=True, timeout=60)
    assert "Usage:" in done.stdout
    for library in ("datasets", "transformers", "numpy", "pyarrow", "fsspec"):
        assert f"'{library}'" not in done.stdout


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
        ('filter it out, or pass on_error="null".', "filter it out."),
        ("Pass sampling_rate= in Hz", "Pass --sampling-rate in Hz"),
        ("storage_options=, or where", "--storage-option, or where"),
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
    assert run("usage", "--root", tmp_path / "none", code=2).err == f"Error: {caught.value}\n"


def test_ctrl_c_under_workers_is_one_line(prompts, processor, tmp_path):
    folder = data.copies(prompts[:200], tmp_path / "recordings")[0].parent
    arguments = ["warm", folder, "--processor", processor, "--root", tmp_path / "root", "--auto-resample"]
    command = [program(tmp_path), *arguments, "--num-proc", "2"]
    process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True)
    deadline = time.monotonic() + 100
    while len(list((tmp_path / "root").rglob("*.npz"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "Interrupted; what was finished until now stays.\n"


# Statistics that last ------------------------------------------------------------------------------------------------


def test_stats_are_the_truth_over_runs_in_processes_and_one_that_is_killed(clips, tmp_path):
    """Three runs in two processes. One has two workers; one is killed."""
    root = tmp_path / "root"
    job = textwrap.dedent(
        """
        import os, signal, sys
        sys.path[:0] = sys.argv[4].split(":")
        import audio_datasets as data, configs
        from pathlib import Path
        from hf_audio_cache import CachedFeatures
        from hf_audio_cache.cache import access_log

        root, how, clips, _ = sys.argv[1:]
        def new():
            return CachedFeatures(configs.make_processor("wav2vec2"), root, auto_resample=True, features="always")
        clips = data.of_paths(list(map(Path, clips.split("|"))))
        if how == "two":
            new().map(clips, num_proc=2, load_from_cache_file=False)
            new().attach(clips)[:]["input_values"]
        elif how == "one":
            new().attach(clips)[:]["input_values"]
        else:
            access_log._MAX_NAMES = 4  # a record after each four entries
            killed = new()
            for row in range(6):
                killed({"audio": [clips[row]["audio"]["path"]]})
            killed.pipeline.access_log._writer.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    path = ":".join(sys.path)
    names = "|".join(map(str, clips[:6]))
    for how, code in (("two", 0), ("one", 0), ("killed", -signal.SIGKILL)):
        done = subprocess.run([sys.executable, "-c", job, root, how, names, path], capture_output=True, timeout=200)
        assert done.returncode == code, done.stderr.decode()
    stats = run_json("stats", "--root", root)
    assert (stats["n_runs"], stats["computed"], stats["misses"]) == (4, 6, 6)
    assert stats["hits"] == 6 + 6 + 4, "the killed one had written four of its six"
    [line] = stats["lines"]
    mean = line["figures"]["seconds_computing"] / 6
    assert line["seconds_saved"] == pytest.approx(16 * mean)
    listed = run_json("runs", "--root", root)
    runs = {one["run"]: one["figures"]["hits"] for one in listed}
    assert sorted(runs.values()) == [0, 4, 6, 6]
    assert run("runs", "--root", root, "-q").lines == list(runs) == sorted(runs, reverse=True)
    assert all(one["host"] and one["started"] for one in listed)
    kept = next(name for name, hits in runs.items() if hits == 6)
    assert run_json("prune", "--root", root, "--keep-run", kept, "-y")["n_kept"] == 6
    run("clear", "--root", root, "--cache", "features", "-y")
    assert run_json("stats", "--root", root)["hits"] == 16, "they stay when what they were about is deleted"
    figures = next(path for path in root.rglob("figures-*.json"))
    figures.write_text('{"processor_sha": null, "hits": "many"}')
    assert parse_figures_name(figures.relative_to(root).as_posix())
    assert figures.name in run("verify", "--root", root, "-q", code=1).out


def test_a_dataset_with_a_name_is_in_the_record(clips, tmp_path, make_processor):
    dataset = data.from_parquet(clips[:3], tmp_path / "data")
    CachedFeatures(make_processor("wav2vec2"), tmp_path / "root", auto_resample=True).map(dataset)
    [listed] = run_json("runs", "--root", tmp_path / "root")
    assert listed["datasets"] == {"parquet train": 3}


# The near tier in sight -----------------------------------------------------------------------------------------------


def test_the_near_tier_is_seen_and_cleared(clips, tmp_path, make_processor, monkeypatch):
    monkeypatch.setattr(near_folders, "_IN_PROCESS", ())
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

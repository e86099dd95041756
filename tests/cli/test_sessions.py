"""Programs of the command line in processes of their own: a whole session, pipes, Ctrl-C, and runs beside others."""

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
from children import python_path
from command_line import program, run, run_json
from full_roots import entries

from hf_audio_cache import verify
from hf_audio_cache.cache.layout import parse_figures_name
from hf_audio_cache.cli import app

DOCUMENTATION = Path(__file__).parent.parent.parent / "docs" / "operating.md"


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


def test_the_session_of_the_documentation_runs(recordings, tmp_path, served_command):
    configs.write_config("seamless_m4t", tmp_path / "processor")
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


# Terminals, pipes and Ctrl-C ------------------------------------------------------------------------------------------


def test_nothing_but_the_result_goes_to_a_pipe(folder, processor, tmp_path):
    process = program(
        "warm", folder / "a", "--processor", processor, "--root", tmp_path / "root", "--auto-resample", "-q"
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "")
    assert "\x1b" not in err
    assert "%" not in err


def test_a_reader_that_goes_away_is_no_error(root):
    process = program("ls", "--root", root)
    process.stdout.close()
    process.wait(timeout=60)
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_what_the_terminal_has_no_character_for_is_escaped(tmp_path):
    path = tmp_path / ("\N{SNOWMAN}" * 5)
    path.mkdir()
    for arguments, code, said in (
        (["show", "--help"], 0, "ab\\u2026.npz"),
        (["ls", "--root", path, "x"], 2, "Got une"),
        (["clear", "--root", path, "-y"], 0, "\\u2603"),
    ):
        process = program(*arguments, PYTHONIOENCODING="latin-1")
        out, err = process.communicate(timeout=120)
        assert (process.returncode, said in (err if code else out)) == (code, True), out + err
        assert code or err == ""


def test_ctrl_c_leaves_nothing_half_done_and_warm_goes_on(prompts, processor, tmp_path):
    place, cache = tmp_path / "clips", tmp_path / "root"
    data.copies(prompts[:100], place)
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
    assert 20 <= n_done < 100
    again = run_json(*options)
    assert (again["hits"], again["computed"]) == (n_done, 100 - n_done)


def test_ctrl_c_under_workers_is_one_line(prompts, processor, tmp_path):
    folder = data.copies(prompts[:200], tmp_path / "recordings")[0].parent
    arguments = ["warm", folder, "--processor", processor, "--root", tmp_path / "root", "--auto-resample"]
    process = program(*arguments, "--num-proc", 2, start_new_session=True)
    deadline = time.monotonic() + 100
    while len(list((tmp_path / "root").rglob("*.npz"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "Interrupted; what was finished until now stays.\n"


def test_help_waits_for_no_library(tmp_path):
    path = tmp_path / "hf-audio-cache"  # under its own name, it imports what a command needs alone
    path.write_text(
        f"#!{sys.executable}\nimport sys; from hf_audio_cache.cli import app\n"
        "try: app(['--help'])\nfinally: print(sorted(sys.modules))\n"
    )
    path.chmod(0o755)
    done = subprocess.run([path], capture_output=True, text=True, check=True, timeout=60)
    assert "Usage:" in done.stdout
    for library in ("datasets", "transformers", "numpy", "pyarrow", "fsspec"):
        assert f"'{library}'" not in done.stdout


# Runs in several processes --------------------------------------------------------------------------------------------


# More than ten seconds on a busy machine: fresh processes, and workers of theirs, import what extracts.
def test_stats_are_the_truth_over_runs_in_processes_and_one_that_is_killed(clips, tmp_path):
    """Three runs in two processes. One has two workers; one is killed."""
    root = tmp_path / "root"
    job = textwrap.dedent(
        """
        import os, signal, sys
        import audio_datasets as data, configs
        from pathlib import Path
        from hf_audio_cache import CachedFeatures
        from hf_audio_cache.cache import access_log

        root, how, clips = sys.argv[1:]
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
    environment = {**os.environ, "PYTHONPATH": python_path(has_torch=False)}
    names = "|".join(map(str, clips[:6]))
    for how, code in (("two", 0), ("one", 0), ("killed", -signal.SIGKILL)):
        told = [sys.executable, "-c", job, root, how, names]
        done = subprocess.run(told, env=environment, capture_output=True, timeout=200)
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

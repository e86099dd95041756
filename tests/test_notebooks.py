"""The notebooks run from start to end, and are committed with the outputs of such a run.

``python tests/test_notebooks.py`` runs them and puts what they show now in the place of what they showed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HAS_TORCH = importlib.util.find_spec("torch") is not None
# One that needs nothing is run where there is no torch, by `make test-bare`, and not once more with it.
WITHOUT_TORCH = pytest.mark.skipif(HAS_TORCH, reason="`make test-bare` runs it")
# What a notebook needs beside the package and matplotlib, by the markers of `setup.cfg`.
NEEDS = {
    "augment": (),  # the two take half as long with torch, without which `make test-all` runs them once more
    "dataset-versions": (),
    "object-stores": (pytest.mark.servers,),
    "training": (pytest.mark.torch,),
    "transcription": (pytest.mark.torch,),  # not torch, but a model that is installed beside it
}
NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
TIME_LIMIT = 240  # seconds for a whole notebook

# A slash that begins a path, and does not end an HTML tag, join two words or continue a relative name or a scheme.
ABSOLUTE_PATH = re.compile(r"(?<![\w<~.)-])(?<!\w:/)/\w[\w.-]*")
# What is the same in every run: what `Stats` count, and comparisons that hold.
FINDING = re.compile(r"\b(?:hits|misses|waveform_hits|waveform_misses|decodes|computed)=\d+|\bTrue$", re.MULTILINE)
# What a notebook cannot show of itself: which Python ran it, and which package.
PROBE = "import sys, hf_audio_cache; print(sys.executable, hf_audio_cache.__file__, sep='\\n')"


def run_in_place(notebook: Path) -> None:
    """Run a notebook in its folder, in a new kernel of this Python, and keep its outputs."""
    import nbclient  # here alone: the threads of its sockets would be there when other tests fork
    import nbformat

    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # a kernel in the user's home may be another Python's
    content = nbformat.read(notebook, as_version=4)
    where = {"metadata": {"path": str(notebook.parent)}}
    client = nbclient.NotebookClient(
        content, kernel_name="python3", timeout=TIME_LIMIT, record_timing=False, resources=where
    )
    client.execute()
    content.metadata.language_info = {"name": "python"}  # and not its release
    nbformat.write(content, notebook)


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds(cell: dict[str, Any]) -> set[str]:
    """Return what a cell shows: media types, and names of streams.

    What goes to stderr is left out: on a new machine matplotlib may say there that it looks for fonts.
    """
    shown = {kind for output in cell["outputs"] for kind in output.get("data", [output.get("name", "error")])}
    return shown - {"stderr"}


def texts(cell: dict[str, Any]) -> str:
    """Return all that a cell shows as text."""
    found = []
    for output in cell["outputs"]:
        found += [output.get("text", ""), output.get("traceback", "")]
        found += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(value if isinstance(value, str) else "".join(map(str, value)) for value in found)


def findings(cells: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return what each cell finds that does not depend on the machine."""
    return {cell["id"]: FINDING.findall(texts(cell)) for cell in cells}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> Path:
    return request.param


# Those that can be run where the markers of `NEEDS` are asked for.
RUNNABLE = [pytest.param(path, id=path.stem, marks=NEEDS.get(path.stem, WITHOUT_TORCH)) for path in NOTEBOOKS]


def test_there_are_notebooks():
    names = [path.stem for path in NOTEBOOKS]
    assert names == ["augment", "dataset-versions", "object-stores", "quickstart", "training", "transcription"]


def test_is_committed_as_a_run_from_start_to_end_left_it(notebook):
    content = json.loads(notebook.read_text("utf-8"))
    cells = code_cells(content)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert not [output for cell in cells for output in cell["outputs"] if output.get("name") == "stderr"]
    assert content["metadata"].keys() == {"kernelspec", "language_info"}
    assert not any(cell["metadata"] for cell in content["cells"])


def test_names_no_place_on_the_machine_it_was_run_on(notebook):
    for cell in code_cells(json.loads(notebook.read_text("utf-8"))):
        assert not ABSOLUTE_PATH.findall(texts(cell)), cell["id"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("root='/tmp/tmpabc/audio-cache'", ["/tmp"]),
        ("file:///home/me", ["/home"]),
        ("/root", ["/root"]),
        ("s3://bucket/audio-cache gs://bucket", []),
        ("<th>clips/s</th><td>and/or</td> <br/> ~/.cache audio-cache/v1 hits / misses", []),
    ],
)
def test_absolute_paths_are_recognised(text, found):
    assert ABSOLUTE_PATH.findall(text) == found


# Up to a minute each: a kernel, and whole jobs in it, some on several machines.
@pytest.mark.timeout(TIME_LIMIT + 10)
@pytest.mark.parametrize("notebook", RUNNABLE)
def test_runs_and_shows_what_is_committed(notebook, tmp_path, request):
    if NEEDS.get(notebook.stem) == () and not HAS_TORCH and not request.config.getoption("--long"):
        pytest.skip("`make test-main` runs it")
    # A checkout's layout, with nothing to import the package from.
    (tmp_path / "tests").symlink_to(Path(__file__).resolve().parent)
    (tmp_path / "notebooks").mkdir()
    copy = Path(shutil.copy(notebook, tmp_path / "notebooks"))
    committed = json.loads(notebook.read_text("utf-8"))
    probe = {
        "cell_type": "code",
        "id": "probe",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": PROBE,
    }
    copy.write_text(json.dumps({**committed, "cells": [*committed["cells"], probe]}), "utf-8")

    # It ends with the traceback of a cell that fails.
    child = subprocess.run(
        [sys.executable, __file__, copy], cwd=tmp_path, capture_output=True, text=True, timeout=TIME_LIMIT, check=False
    )
    assert child.returncode == 0, child.stderr

    *cells, probe = code_cells(json.loads(copy.read_text("utf-8")))
    said = ["".join(output["text"]) for output in probe["outputs"] if output.get("name") == "stdout"]
    assert "".join(said).split() == [sys.executable, importlib.util.find_spec("hf_audio_cache").origin]
    assert {cell["id"]: kinds(cell) for cell in cells} == {cell["id"]: kinds(cell) for cell in code_cells(committed)}
    assert findings(cells) == findings(code_cells(committed))


if __name__ == "__main__":
    for path in [Path(argument) for argument in sys.argv[1:]] or NOTEBOOKS:
        run_in_place(path.resolve())

"""What is published: the wheel's metadata, the figures that the README quotes, and the map of the modules."""

from __future__ import annotations

import importlib.metadata
import json
import re
import runpy
from pathlib import Path

import module_map
import pytest

import hf_audio_cache

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def description() -> str:
    text = importlib.metadata.metadata("hf_audio_cache").get_payload()
    assert "# hf_audio_cache" in text
    return text


def test_the_links_and_pictures_of_the_description_are_addresses(description):
    targets = re.findall(r"\]\(([^)]+)\)|(?:src|srcset)=\"([^\"]+)\"", description)
    assert len(targets) > 15
    assert [target for pair in targets for target in pair if target and not target.startswith("https://")] == []


def test_the_files_that_the_readme_links_are_there():
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", (ROOT / "README.md").read_text("utf-8"))
    assert [target for pair in targets for target in pair if target and not (ROOT / target).exists()] == []


def test_one_version_is_named_everywhere():
    version = hf_audio_cache.__version__
    assert importlib.metadata.version("hf_audio_cache") == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert version in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_figures_of_the_readme_are_those_of_the_measured_run():
    picture = runpy.run_path(str(ROOT / "benchmarks" / "picture.py"))
    demo = json.loads((ROOT / "docs" / "images" / "demo.json").read_text("utf-8"))
    readme = (ROOT / "README.md").read_text("utf-8")
    assert picture["FIGURES"].findall(readme) == [picture["sentence"](demo)]


def test_the_map_of_the_modules_is_what_their_docstrings_say():
    assert module_map.MAP.findall(module_map.CONTRIBUTING.read_text("utf-8")) == [module_map.module_map()]

"""What deletes plans, asks and runs in one way; what options say of a root."""

from __future__ import annotations

import io
import sys

import pytest
import typer

from hf_audio_cache import CacheRoot
from hf_audio_cache.cli.options import RootOptions
from hf_audio_cache.cli.running import plan_confirm_run


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def done():
    return []


@pytest.fixture
def ask(done, monkeypatch):
    """``ask(answer, …)``: what a command returns when this is typed in; None for no terminal."""

    def run(answer, **options):
        monkeypatch.setattr(sys, "stdin", io.StringIO() if answer is None else Terminal(f"{answer}\n"))
        return plan_confirm_run(
            lambda: done.append("plan") or "the plan",
            lambda: done.append("run") or "what was done",
            lambda plan: f"Do {plan}?",
            **{"yes": False, **options},
        )

    return run


def test_the_answer_yes_runs_it_after_the_plan(ask, done, capsys):
    assert ask("y") == "what was done"
    assert done == ["plan", "run"]
    assert "Do the plan?" in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["n", ""])
def test_any_other_answer_runs_nothing(answer, ask, done):
    with pytest.raises(typer.Abort):
        ask(answer)
    assert done == ["plan"]


def test_without_a_terminal_nothing_runs(ask, done, monkeypatch):
    with pytest.raises(ValueError, match="nothing deleted: there is no terminal to confirm on"):
        ask(None)
    monkeypatch.setattr(sys, "stdin", None)  # as with <&-
    with pytest.raises(ValueError, match="nothing deleted: there is no terminal to confirm on"):
        plan_confirm_run(str, str, str, yes=False)
    assert done == ["plan"]


@pytest.mark.parametrize("answer", [None, "n"])
def test_yes_asks_nothing_and_plans_nothing(answer, ask, done):
    assert ask(answer, yes=True) == "what was done"
    assert done == ["run"]


@pytest.mark.parametrize("yes", [False, True])
def test_a_dry_run_only_plans(yes, ask, done):
    assert ask(None, yes=yes, dry_run=True) == "the plan"
    assert done == ["plan"]


def test_options_describe_a_root(tmp_path):
    given = ["key=me", 'client_kwargs={"region_name": "x"}', "anon=false"]
    root = RootOptions("s3://bucket/x", given).open(read_only=True)
    options = {"key": "me", "client_kwargs": {"region_name": "x"}, "anon": False}
    assert root == CacheRoot("s3://bucket/x", storage_options=options, read_only=True)
    assert RootOptions(str(tmp_path)).open() == CacheRoot(tmp_path)
    assert RootOptions(str(tmp_path), near=str(tmp_path / "near")).open() == CacheRoot(tmp_path, near=tmp_path / "near")
    assert RootOptions().open() == CacheRoot()


@pytest.mark.parametrize(
    ("root", "options", "said"), [("{}", ["secret"], "found no '='"), ("{}", ["client_kwargs={not json"], "JSON")]
)
def test_what_is_wrong_is_said(root, options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        RootOptions(root.format(tmp_path), options).open()

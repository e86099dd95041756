"""The benchmarks run: each once, as small as can be. Their figures are looked at by people, not here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import servers
from benchmark_passes import constant, failing, process_and_turn
from pack_tools import without_waiting

from benchmarks.harness import BenchmarkError, Comparison, Contender, compare
from benchmarks.report import Claim, Section, Spread

RUN = Path(__file__).resolve().parents[1] / "benchmarks" / "run.py"


def run(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run benchmarks by their command; return its status and the JSON that it wrote."""
    out = tmp_path / "out.json"
    told = [*arguments, "--quick", "--rounds", "1", "--scratch", str(tmp_path), "--out", str(out)]
    child = subprocess.run([sys.executable, str(RUN), *told], capture_output=True, text=True, timeout=280, check=False)
    assert out.is_file(), child.stdout + child.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert out.with_suffix(".md").read_text(encoding="utf-8").count("\n## ") == len(found["sections"])
    return child.returncode, found


# Half a minute: nine benchmarks, each with all that it is compared with.
@pytest.mark.torch
def test_each_benchmark_gives_its_rows_and_right_arrays(tmp_path: Path) -> None:
    names = ["hit", "epoch", "cold_pass", "new_rows", "loose_files", "many_entries", "sizes", "auto", "map_cost"]
    status, found = run(tmp_path, *names)
    assert list(found["sections"]) == names
    assert [section["wrong"] for section in found["sections"].values()] == [[]] * len(names)
    assert status == 0
    assert {"cpu", "cores", "memory_gb", "python", "versions"} <= found["machine"].keys()

    contenders = {
        name: {contender for rounds in section["rounds"].values() for contender in rounds}
        for name, section in found["sections"].items()
    }
    assert {"recompute", "ours: AudioCache.get", "numpy.savez, one file a clip"} <= contenders["hit"]
    assert {"ours: the callable, a row", "ours: .attach, 32 rows", "ours: .map, a row"} <= contenders["hit"]
    assert {"recompute", "Dataset.map, Arrow, numpy format", "ours: .attach", "ours: .map"} <= contenders["epoch"]
    assert contenders["cold_pass"] > {"without a cache", "ours, into an empty root"}
    assert len(contenders["new_rows"]) == 3
    assert len(contenders["loose_files"]) == 2
    assert contenders["many_entries"] == {"10 entries", "1,000 entries"}
    assert len(contenders["map_cost"]) == 6
    assert contenders["auto"] in (set(), {f'features="{setting}"' for setting in ("auto", "always", "never")})
    [sizes] = found["sections"]["sizes"]["tables"].values()
    assert sizes[0]["processor"] == "wav2vec2"
    for section in found["sections"].values():
        for rounds in section["rounds"].values():
            assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in rounds.values())
    claims = [claim for section in found["sections"].values() for claim in section["claims"]]
    assert all(claim["target"] and claim["measured"] and claim["holds"] in (True, False) for claim in claims)


@pytest.mark.servers
def test_the_benchmark_of_object_stores_gives_its_rows(s3_server: servers.S3Server, tmp_path: Path) -> None:
    from benchmarks import clips, options, remote

    section = Section("")
    told = options.Options(rounds=1, is_quick=True, scratch=tmp_path)
    remote.measure(section, told, s3_server, clips.joined(2, 1.0))
    assert section.wrong == []
    assert section.notes == []
    assert list(section.rounds["2 objects"]) == [*(remote.OBSTORE, remote.S3FS, remote.BARE_OBSTORE, remote.BARE_HTTP)]


@pytest.mark.servers
def test_the_benchmarks_of_packs_give_their_rows(s3_server: servers.S3Server, tmp_path: Path) -> None:
    from benchmarks import options, packs, packs_many, packs_remote

    told = options.Options(rounds=1, is_quick=True, scratch=tmp_path)
    with without_waiting():
        local, many, far = packs.run(told), packs_many.run(told), Section("")
        packs_remote.measure(far, told, s3_server)
    assert local.wrong == []
    assert [row["root"] for row in local.tables["The roots"]] == ["loose", "packed"]
    assert {name for rounds in local.rounds.values() for name in rounds} == {"loose", "packed"}
    assert all(claim.holds for claim in many.claims)  # the model is arithmetic
    assert [row["epoch"] for row in far.tables["Epochs"]] == [
        *("loose, stored order", "loose, shuffled", "packing", "packed, stored order", "packed, shuffled")
    ]


@pytest.mark.servers
def test_the_model_of_a_large_cache_is_held_against_workers(s3_server: servers.S3Server, tmp_path: Path) -> None:
    from benchmarks import clips, options, scale_model

    section = Section("")
    told = options.Options(rounds=1, is_quick=True, scratch=tmp_path)
    found = scale_model.measure(section, told, s3_server, options.QUICK_PROCESSOR, clips.joined(8, 1.0))
    assert all(cost.seconds > 0 for cost in found.costs.values())
    # Wav2Vec2's features are a waveform themselves, in 32 bits; the waveforms are 16-bit PCM. Neither compresses much.
    assert 40_000 < found.feature_bytes < 65_000
    assert 20_000 < found.waveform_bytes < 33_000
    measured = section.tables["Predicted and measured here"]
    assert [(row["what"], row["workers"]) for row in measured] == [
        (what, workers) for what in ("filling", "reading warm") for workers in scale_model.WORKERS
    ]
    assert all(float(row["measured"]) > 0 for row in measured)

    scale_model.add_plan(section, told, found, 1000.0, tmp_path)
    assert {"The plan", "Many cores", "Dollars", "Hits of a near tier", "Keeping it"} <= section.tables.keys()
    [plan] = section.tables["The plan"]
    assert (plan["clips"], plan["entries"], plan["prefixes"]) == ("100,000,000", "200,000,000", "512")
    keeping = {row["what"]: row["of the plan"] for row in section.tables["Keeping it"]}
    assert keeping["requests of a listing"] == "200,000"
    # 32 folders of 100,000,000 / 256 names, of 1,000 bytes.
    assert keeping["GB of memory of 32 folders that fsspec lists at once"] == "12.5"
    assert [claim.what.partition(":")[0] for claim in section.claims] == ["clips a second", "processor time"]


def test_each_contender_has_a_process_of_its_own(tmp_path: Path) -> None:
    contenders = [Contender(name, process_and_turn, is_checked=False) for name in ("first", "second")]
    found = compare(contenders, 2)
    assert list(found.seconds) == ["first", "second"]
    assert [len(seconds) for seconds in found.seconds.values()] == [2, 2]
    together = [Contender(name, process_and_turn) for name in ("first", "second")]
    assert compare(together, 1).wrong == ["second: its rows are not those of the others"]  # they have other processes
    assert compare(together, 1, in_processes=False).wrong == []


def test_other_rows_are_wrong() -> None:
    contenders = [
        Contender("exact", constant, {"value": 1.0}),
        Contender("near", constant, {"value": 1.25}, tolerance=0.5),
        Contender("far", constant, {"value": 2.0}, tolerance=0.5),
        Contender("other", constant, {"value": 1.0 + 1e-12}),
        Contender("unlike", constant, {"value": 3.0}, is_checked=False),
    ]
    found = compare(contenders, 1, in_processes=False)
    assert found.wrong == ["far: its first row differs by 1", "other: its rows are not those of the others"]
    assert found.errors == {"near": 0.25, "far": 1.0}


def test_a_contender_without_its_library_is_left_out() -> None:
    contenders = [
        Contender("here", constant, {"value": 1.0}),
        Contender("gone", failing, needs=("a_library_that_is_not_there",)),
    ]
    found = compare(contenders, 1, in_processes=False)
    assert found.skipped == {"gone": "a_library_that_is_not_there is not installed"}
    assert list(found.seconds) == ["here"]


def test_a_contender_that_fails_ends_the_run() -> None:
    with pytest.raises(BenchmarkError, match="no clips here"):
        compare([Contender("failing", failing)], 1)


def test_ratios_are_of_one_round() -> None:
    found = Comparison({"slow": [4.0, 10.0], "fast": [2.0, 2.0], "free": [1.0, 1.5]})
    assert found.ratios("slow", "fast") == [2.0, 5.0]
    assert found.ratios("slow", "fast", net_of="free") == [3.0, 17.0]
    found.seconds["fast"] = [0.5, 1.5]  # no slower than what takes no time
    assert found.ratios("slow", "fast", net_of="free") == pytest.approx([3.0 / 0.001, 8.5 / 0.0015])


def test_a_claim_holds_by_its_median() -> None:
    claim = Claim("a hit", [1.0, 4.0, 3.0], at_least=3.0)
    assert (claim.target, claim.holds) == ("≥ 3 times", True)
    assert claim.spread == Spread(median=3.0, least=1.0, lower_quartile=2.0, upper_quartile=3.5, most=4.0)
    assert Claim("a hit", [3.0], at_most=2.9, unit="ms").target == "≤ 2.9 ms"
    assert not Claim("a hit", [3.0], at_most=2.9).holds
    assert Claim("files", [0.0], at_most=0.0).holds
    page = Section("Hits", claims=[claim], wrong=["something"]).to_markdown()
    assert "| a hit | ≥ 3 times | 3 times | 2.000 to 3.500 (1.000 to 4.000) | yes |" in page
    assert "**Wrong**: something" in page

"""The runs of a root, and what they counted, from what each process wrote down."""

from __future__ import annotations

import json

import audio_datasets as data
import configs
import pytest
from full_roots import N_CLIPS

from hf_audio_cache import CachedFeatures, verify
from hf_audio_cache.maintenance.runs import list_runs, total_stats


@pytest.fixture
def ran(clips, tmp_path):
    """A root after two runs over the same clips: the second finds what the first computed."""
    for _ in range(2):
        extractor = configs.make_processor("wav2vec2", sampling_rate=8000)
        cached_features = CachedFeatures(extractor, tmp_path / "root", features="always")
        cached_features({"audio": data.columns(clips)["audio"]})
        cached_features.pipeline.access_log.finish()
    return tmp_path / "root"


def figures_of(root, **counted):
    """The file with the figures of the run that counted this."""
    [found] = [path for path in root.rglob("figures-*.json") if json.loads(path.read_text()).items() >= counted.items()]
    return found


def test_runs_and_their_total(ran):
    runs = list_runs(ran)
    assert sorted((one.figures.hits, one.figures.computed) for one in runs.runs) == [(0, N_CLIPS), (N_CLIPS, 0)]
    told = json.loads(json.dumps(runs.to_dict()))
    assert told["root"] == str(ran)
    assert [one["run"] for one in told["runs"]] == [one.run for one in runs.runs]
    total = total_stats(ran)
    assert (total.n_runs, total.figures.hits, total.figures.computed) == (2, N_CLIPS, N_CLIPS)


def test_where_nothing_was_computed_the_time_saved_is_what_the_entries_say(ran):
    figures_of(ran, computed=N_CLIPS).unlink()
    total = total_stats(ran)
    saved = json.loads(figures_of(ran, hits=N_CLIPS).read_text())["seconds_saved"]
    assert total.to_dict()["lines"][0]["seconds_saved"] == saved > 0


@pytest.mark.parametrize(
    "content", [b"no JSON", b"[]", b'{"processor_sha": null, "hits": NaN}', b'{"processor_sha": 1, "hits": 2}']
)
def test_damaged_figures_count_nothing_and_are_named(content, ran):
    path = figures_of(ran, computed=N_CLIPS)
    path.write_bytes(content)
    assert total_stats(ran).n_runs == 1
    assert sorted(one.figures.computed for one in list_runs(ran).runs) == [0, 0]
    assert list(verify(ran).bad) == [path.relative_to(ran).as_posix()]


def test_a_run_whose_description_is_damaged_is_not_listed(ran):
    described = sorted(path for path in (ran / "runs").rglob("*.json") if not path.name.startswith("figures-"))
    described[0].write_bytes(b"no JSON")
    assert len(list_runs(ran).runs) == 1
    assert total_stats(ran).n_runs == 2

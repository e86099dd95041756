"""Filling a cache on a Ray cluster of several nodes: who computes what, lost nodes, and the command line."""

from __future__ import annotations

import os
import random
import secrets
import time
from typing import Any

import audio_datasets as data
import clusters
import configs
import counting
import datasets
import numpy as np
import pytest
from command_line import run, run_json

from hf_audio_cache import CachedFeatures, CacheRoot
from hf_audio_cache.cli.inputs import load_ray_dataset
from hf_audio_cache.errors import AudioColumnError, ClusterError
from hf_audio_cache.transform.ray_fill import BatchClaim, Claims, fill_by_ray

ray = pytest.importorskip("ray", reason="Ray is in the main environment alone")

pytestmark = [pytest.mark.ray, pytest.mark.servers, pytest.mark.filterwarnings("default")]

SETTINGS: dict[str, Any] = {"auto_resample": True, "features": "always"}

# How many clips a worker processes twice at most, to see that the processor is not random: the first, the second, the
# fourth and so on, and each that is longer than any before it.
TWICE = 24


@pytest.fixture
def s3_root(s3_server):
    """A root on S3, and the options to reach it, which no environment has."""
    url = s3_server.make_bucket(f"ray-{secrets.token_hex(6)}") + "/cache"
    return url, s3_server.storage_options


@pytest.fixture
def nodes(cluster):
    """The cluster with two nodes, for a test that may leave it with one."""
    while len(cluster.list_all_nodes()) < 2:
        clusters.add_node(cluster)
    return cluster


@pytest.fixture
def counted(count_file):
    """``counted()``: what `counting.CountingExtractor` has processed on the workers, in this test."""
    count_file.write_text("")
    return lambda: counting.counted(count_file)


def in_ray(clips: Any, n_blocks: int) -> Any:
    return ray.data.from_arrow(data.pa_table(clips)).repartition(n_blocks)


# Half a minute on a busy machine: the first workers of the cluster start, and import what extracts.
def test_a_bucket_is_filled_and_read_by_datasets(nodes, s3_root, prompts, tmp_path, counted, monkeypatch):
    clips = data.shortest(prompts, 90)
    rows = [*clips, *clips[:30], *clips[10:20]]
    rows = [rows[row] for row in np.random.default_rng(7).permutation(len(rows))]
    # Half of the rows are followed by a bad one. A worker that leaves it to another waits for no features of it.
    bad = {"bytes": b"no audio at all", "path": "bad.wav"}
    cells = [cell for row, one in enumerate(data.columns(rows)["audio"]) for cell in (one, bad)[: 1 + row % 2]]
    url, options = s3_root
    extractor = counting.CountingExtractor(do_normalize=False)
    far = {"storage_options": options, "near": tmp_path / "near"}
    with monkeypatch.context() as here:
        here.setenv("COUNTED", str(tmp_path / "counted-here"))
        only_near = CachedFeatures(extractor, CacheRoot(url, write="near", **far), **SETTINGS)
        only_near({"audio": cells[:1]})  # which does not stand for the root
    filler = CachedFeatures(extractor, CacheRoot(url, **far), **SETTINGS)
    seen: list[int] = []
    source = ray.data.from_items([{"audio": cell} for cell in cells]).repartition(12)
    filling = fill_by_ray(source, filler, max_workers=2, on_rows=seen.append)

    assert (filling.rows, filling.n_again) == (195, 0)
    assert {clip.clip for clip in filling.bad_clips} == {"bad.wav"}
    assert (seen[-1], sorted(seen)) == (195, seen)
    assert filling.stats.computed == 90  # each clip once, whoever had it
    assert filling.stats.hits + filling.n_elsewhere + filling.stats.computed <= 195
    tried = counted()
    assert len(tried.times) == 90
    assert max(tried.times.values()) == 2
    assert len(tried.processes) <= sum(tried.times.values()) - 90 <= TWICE * len(tried.processes)

    elsewhere = CachedFeatures(extractor, CacheRoot(url, storage_options=options, near=tmp_path / "other"), **SETTINGS)
    found = datasets.Dataset.from_dict(data.columns(rows)).map(elsewhere, batched=True, batch_size=64)
    assert (elsewhere.stats.misses, elsewhere.stats.computed) == (0, 0)
    expected = {clip: data.expected_features(extractor, clip, auto_resample=True) for clip in clips}
    data.assert_stored(found, [expected[clip] for clip in rows])

    again = fill_by_ray(in_ray(rows, 3), filler, max_workers=1)
    assert (again.rows, again.stats.computed, again.stats.bytes_written) == (130, 0, 0)


# Half a minute: each worker imports what extracts, also those that take the place of the lost.
def test_what_a_lost_node_had_in_flight_is_begun_again(nodes, s3_root, prompts, tmp_path, counted):
    clips = random.Random(7).sample(data.shortest(prompts, 120), 120)  # by length, each would be tried twice
    url, options = s3_root
    extractor = counting.CountingExtractor(do_normalize=False)
    filler = CachedFeatures(extractor, CacheRoot(url, storage_options=options, near=tmp_path / "near"), **SETTINGS)
    # The other is kept busy until then: so the work begins on the node that will be lost.
    busy = clusters.occupy(nodes.head_node, n_cpus=2)
    [lost] = nodes.worker_nodes
    raylet = lost.all_processes["raylet"][0].process.pid
    at_work: set[int] = set()  # processes of the lost node that had processed clips

    def kill(n_rows: int) -> None:
        at_work.update(process for process in counted().processes if clusters.parent_of(process) == raylet)
        if at_work and lost in nodes.worker_nodes:
            ray.kill(busy)
            nodes.remove_node(lost, allow_graceful=False)

    filling = fill_by_ray(in_ray(clips, 20), filler, max_workers=2, on_rows=kill)
    assert at_work
    assert lost not in nodes.worker_nodes
    assert filling.rows == 120
    # Once each, but for those that each worker tries twice, and what was in flight: a batch a worker.
    tried = counted()
    assert len(tried.times) == 120
    # (A worker may outlive its node for a moment, and release what it claimed: then nothing is counted as lost.)
    assert sum(tried.times.values()) - 120 <= TWICE * len(tried.processes) + 2 * 32
    assert filling.n_again <= 2 * 32
    elsewhere = CachedFeatures(
        filler.processor, CacheRoot(url, storage_options=options, near=tmp_path / "other"), **SETTINGS
    )
    elsewhere({"audio": data.columns(clips)["audio"]})
    assert (elsewhere.stats.hits, elsewhere.stats.computed) == (120, 0)


@pytest.mark.parametrize("form", ["parquet", "saved", "dict"])
def test_datasets_in_other_forms(form, cluster, prompts, tmp_path):
    clips = data.shortest(prompts, 12)
    place, source = tmp_path / "clips", {"split": None, "subset": None, "audio_column": "audio"}
    if form == "parquet":
        place = data.parquet_file(clips, tmp_path / "clips.parquet")
    elif form == "saved":
        data.in_memory(clips).rename_column("audio", "speech").save_to_disk(place)
        source["audio_column"] = "speech"
    else:
        parts = {"train": data.in_memory(clips), "test": data.in_memory(clips[:2])}
        datasets.DatasetDict(parts).save_to_disk(place)
        source["split"] = "train"
    rows = load_ray_dataset(str(place), **source).take_all()
    assert {row[source["audio_column"]]["bytes"] for row in rows} == {clip.read_bytes() for clip in clips}
    assert len(rows) == 12


def test_a_column_that_a_parquet_file_has_not_is_refused_at_once(cluster, prompts, tmp_path):
    place = data.parquet_file(prompts[:2], tmp_path / "clips.parquet")
    with pytest.raises(AudioColumnError, match=r"'speech', only the columns .*'audio'"):
        load_ray_dataset(str(place), split=None, subset=None, audio_column="speech")


def test_the_engine_of_warm_is_checked(tmp_path):
    processor = configs.write_config("wav2vec2", tmp_path / "wav2vec2")
    assert "--engine ray" in run("warm", tmp_path, "--processor", processor, "--address", "x", code=2).err


def test_a_clip_that_was_stored_before_it_was_claimed_is_not_computed(prompts, tmp_path):
    cells = data.columns(prompts[:3])["audio"]
    first, second = (CachedFeatures(configs.make_processor("wav2vec2"), tmp_path, **SETTINGS) for _ in range(2))

    def claim(blob_shas: Any) -> Any:  # by then another worker has stored the second clip, and released it
        second({"audio": cells[1]})
        return blob_shas

    keys = [stored.key for stored in first.pipeline.ensure(cells, first.processor_sha, claim=claim)]
    assert (first.stats.computed, second.stats.computed) == (2, 1)
    assert first.audio_cache.exists_many(keys) == [True] * 3


class Elsewhere(counting.CountingExtractor):
    """Has another state in each process that it is sent to."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.process = os.getpid()


# More than ten seconds on a busy machine: workers start for it, and import what extracts.
def test_a_processor_that_is_another_on_a_worker_ends_the_filling(cluster, prompts, tmp_path):
    cached_features = CachedFeatures(Elsewhere(do_normalize=False), tmp_path, **SETTINGS)
    with pytest.raises(ClusterError, match=r"the processor has another identity on this worker"):
        fill_by_ray(in_ray(prompts[:2], 1), cached_features, max_workers=1)
    assert not (tmp_path / "features").exists()


def test_a_store_that_takes_nothing_ends_the_filling(cluster, prompts, tmp_path):
    (tmp_path / "features").write_text("a file where a folder has to be")
    cached_features = CachedFeatures(configs.make_processor("wav2vec2"), tmp_path, **SETTINGS)
    with pytest.raises(ClusterError, match=r"features could not be stored under"):
        fill_by_ray(in_ray(prompts[:2], 1), cached_features, max_workers=1)


def test_claims():
    claims = Claims()
    assert claims.take("one", ["a", "b"]) == ["a", "b"]
    assert claims.take("two", ["b", "c"]) == ["c"]
    assert claims.take("one", ["a", "c"]) == ["a"]  # it has that one already
    claims.release("one")
    assert claims.take("two", ["a", "b", "c"]) == ["a", "b", "c"]
    claims.begin("two")  # again, after it was lost with three clips
    assert claims.take("one", ["a"]) == ["a"]
    claims.begin("three")  # which had none
    assert claims.end() == 4
    assert claims.take("three", ["a"]) == ["a"]


def test_clips_are_computed_twice_rather_than_not_where_claims_are_lost(cluster):
    claims = ray.remote(Claims).options(num_cpus=0).remote()
    claim = BatchClaim(claims, "one")
    assert claim.take(["a", "b"]) == {"a", "b"}
    other = BatchClaim(claims, "two")
    assert (other.take(["b", "c"]), other.refused) == ({"c"}, {"b"})
    ray.kill(claims)
    deadline = time.monotonic() + 20
    while other.take(["b", "c"]) != {"b", "c"}:
        assert time.monotonic() < deadline
    assert other.refused == set()


# Last, since after it the cluster's workers are those of another job. More than ten seconds on a busy machine.
def test_warm_on_a_cluster(cluster, prompts, tmp_path):
    clips = data.shortest(prompts, 12)
    folder = tmp_path / "clips"
    data.copies(clips, folder / "a")
    (folder / "notes.txt").write_text("not audio")
    (folder / "bad.wav").write_bytes(b"no audio at all")
    processor = configs.write_config("wav2vec2", tmp_path / "wav2vec2")
    options = ("--processor", processor, "--root", tmp_path / "root", "--auto-resample")
    options += ("--engine", "ray", "--address", cluster.address, "--num-proc", 1)
    ray.shutdown()
    try:
        report = run_json("warm", folder, *options, code=1)
    finally:
        clusters.connect(cluster)
    assert (report["rows"], report["computed"], report["hits"]) == (13, 12, 0)
    assert [clip["clip"] for clip in report["bad_clips"]] == [str(folder / "bad.wav")]
    cached_features = CachedFeatures(configs.make_processor("wav2vec2"), tmp_path / "root", **SETTINGS)
    rows = cached_features({"audio": data.columns(clips)["audio"]})["input_values"]
    assert (cached_features.stats.hits, cached_features.stats.computed) == (12, 0)
    for row, clip in zip(rows, clips, strict=True):
        expected = data.expected_features(cached_features.processor, clip, auto_resample=True)
        data.assert_same_bits(row, expected["input_values"])

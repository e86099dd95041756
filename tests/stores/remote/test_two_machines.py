"""Two machines in miniature: two near tiers in front of one bucket, of which each entry is accounted for."""

from __future__ import annotations

import json

import audio_datasets as data
import numpy as np
import pytest
from command_line import run_json
from remote_stores import new_bucket

from hf_audio_cache import CachedFeatures, CacheRoot, prune, verify
from hf_audio_cache.errors import MissingEntryError
from hf_audio_cache.maintenance.prune import clear, remove

pytestmark = pytest.mark.servers

N = 12
FOLDER = "team/cache"


def energies(waveform, sampling_rate):
    """Return something of a clip that is cheap to compute and differs from clip to clip."""
    return np.square(waveform[: len(waveform) // 80 * 80].reshape(-1, 80)).sum(axis=1)


@pytest.fixture(scope="module")
def clips(prompts):
    return data.shortest(prompts, N)


class Machines:
    """Machines with a near tier each, and what is where: features in the bucket, near, and computed."""

    def __init__(self, server, bucket, home, clips, **settings):
        self.server, self.bucket, self.home, self.clips = server, bucket, home, clips
        self.settings = {"storage_options": server.storage_options, **settings}

    def root(self, machine):
        near = None if machine is None else self.home / machine
        return CacheRoot(self.server.url(self.bucket, FOLDER), near=near, **self.settings)

    def open(self, machine):
        return CachedFeatures(energies, self.root(machine), identity="energies", sampling_rate=8000)

    def fill(self, machine, dataset=None):
        """Return hits and computed clips of a `map`, and the references."""
        cached_features = self.open(machine)
        rows = cached_features.map(data.in_memory(self.clips) if dataset is None else dataset)
        stats = cached_features.stats
        assert stats.write_errors == 0
        if stats.computed:  # the near tier may have left some out: while it looks how full it is, it takes none
            self.read(machine)
        return stats.hits, stats.computed, rows

    def read(self, machine):
        """Read all features, which brings them near."""
        return self.open(machine).attach(data.in_memory(self.clips))[:]["input_features"]

    def far(self, kind="features"):
        return [name for name in self.server.names(self.bucket) if name.startswith(f"{FOLDER}/{kind}/")]

    def near(self, machine, kind="features"):
        return [path for path in (self.home / machine).rglob("*") if path.is_file() and f"/{kind}/" in str(path)]

    def count(self):
        """Return how many features there are in the bucket, near "a" and near "b"."""
        return len(self.far()), len(self.near("a")), len(self.near("b"))

    def lose(self, numbers):
        """Delete the entries of these clips in the bucket."""
        shas = {data.sha256(self.clips[number]) for number in numbers}
        for name in self.far():
            if name.rpartition("/")[2].partition(".")[0] in shas:
                self.server.delete(self.bucket, name)


@pytest.fixture
def machines(request, s3_server, tmp_path, clips):
    return Machines(s3_server, new_bucket(s3_server), tmp_path, clips, signing_key=getattr(request, "param", None))


plain_and_signed = pytest.mark.parametrize(
    "machines", [None, b"a-key-of-more-than-sixteen-bytes"], ids=["plain", "signed"], indirect=True
)


def test_cleared_by_one_filled_by_the_other_read_by_the_first(machines):
    assert machines.fill("a")[:2] == (0, N)
    assert machines.count() == (N, N, 0)
    report = clear(machines.root("b"))
    assert (report.n_deleted, report.n_near) == (N, 0)
    assert machines.count() == (0, N, 0)
    assert machines.open("a").coverage(data.in_memory(machines.clips)).n_cached == 0
    assert machines.fill("b")[:2] == (0, N)
    assert machines.count() == (N, N, N)
    assert machines.fill("a")[:2] == (N, 0)
    assert machines.count() == (N, N, N)


@plain_and_signed
def test_what_was_cleared_is_put_again_by_the_machine_that_has_it_near(machines):
    machines.fill("a")
    assert machines.fill("b")[:2] == (N, 0)
    machines.read("b")  # `map` asks, and reads nothing
    assert machines.count() == (N, N, N)
    assert clear(machines.root("a")).n_near == N + 2  # with the manifest and the tag
    assert machines.count() == (0, 0, N)
    assert machines.server.names(machines.bucket) == []
    hits, computed, rows = machines.fill("b")
    assert (hits, computed) == (N, 0)
    assert machines.count() == (N, 0, N)
    assert len(machines.far("processors")) == 1
    assert verify(machines.root(None)).is_clean
    assert machines.open("b").coverage(data.in_memory(machines.clips)).n_cached == N
    read = machines.open("a").attach(rows)[:]["input_features"]
    assert machines.count() == (N, N, N)
    for array, clip in zip(read, machines.clips, strict=True):
        data.assert_same_bits(array, np.asarray(machines.open(None)({"audio": str(clip)})["input_features"]))


@plain_and_signed
def test_only_what_is_neither_far_nor_near_is_computed(machines):
    machines.fill("a")
    machines.lose(range(8))
    for path in sorted(machines.near("a")):
        sha = path.name.partition(".")[0]
        if sha in {data.sha256(clip) for clip in machines.clips[:3]}:
            path.unlink()
        elif sha in {data.sha256(clip) for clip in machines.clips[3:5]}:
            path.write_bytes(path.read_bytes()[:-9])  # a bad copy must not become the entry
    assert machines.count() == (N - 8, N - 3, 0)
    assert machines.fill("a")[:2] == (N - 5, 5)
    assert machines.count() == (N, N, 0)
    assert verify(machines.root(None)).is_clean


def test_references_that_datasets_kept_are_put_again_too(machines, tmp_path):
    dataset = data.saved(machines.clips, tmp_path / "dataset")
    machines.fill("a", dataset)
    clear(machines.root("b"))
    assert machines.fill("a", dataset)[1] == 0
    assert machines.count() == (N, N, 0)
    clear(machines.root("a"))
    assert machines.count() == (0, 0, 0)
    assert machines.fill("a", dataset)[1] == N
    assert machines.count() == (N, N, 0)


def test_whoever_deletes_far_deletes_near(machines):
    def filled():
        machines.fill("a")
        machines.read("b")
        assert machines.count() == (N, N, N)

    filled()
    sha = data.sha256(machines.clips[0])
    planned = remove(machines.root("b"), [sha], dry_run=True)
    assert (planned.n_deleted, planned.n_near) == (1, 1)
    assert machines.count() == (N, N, N)
    assert remove(machines.root("b"), [sha]).n_near == 1
    assert machines.count() == (N - 1, N, N - 1)
    report = remove(machines.root("a"), [sha])  # which only the near tier still has
    assert (report.n_deleted, report.n_near) == (0, 1)
    with pytest.raises(ValueError, match="No entry "):
        remove(machines.root("a"), [sha])
    assert machines.count() == (N - 1, N - 1, N - 1)
    report = prune(machines.root("a"), processor="energies")
    assert (report.n_deleted, report.n_near) == (N - 1, N - 1)
    assert machines.count() == (0, 0, N - 1)
    filled()
    assert clear(machines.root("a"), cache="waveforms").n_near == 0
    assert clear(machines.root("a"), cache="features").n_near == N
    assert machines.count() == (0, 0, N)


def test_a_reference_is_not_made_for_a_colleague_who_cannot_read_it(machines):
    machines.fill("a")
    clear(machines.root("b"))
    *_, rows = machines.fill("a")
    assert len(machines.open("b").attach(rows)[:]["input_features"]) == N
    machines.lose([0])
    with pytest.raises(MissingEntryError):
        machines.open(None).attach(rows.remove_columns("audio"))[:]["input_features"]


def test_the_commands_count_what_is_far(machines, monkeypatch, processor_directory, tmp_path):
    folder = data.copies(machines.clips, tmp_path / "clips")[0].parent
    options = [
        f"--storage-option={name}={json.dumps(value) if isinstance(value, dict) else value}"
        for name, value in machines.settings["storage_options"].items()
    ]
    where = ["--root", machines.server.url(machines.bucket, FOLDER), *options]
    job = [folder, "--processor", processor_directory("seamless_m4t"), "--auto-resample", *where]

    def warm(machine):
        monkeypatch.setenv("HF_AUDIO_CACHE_NEAR", str(machines.home / machine))
        report = run_json("warm", *job)
        return report["hits"], report["computed"], report["bytes_written"] > 0

    assert warm("a") == (0, N, True)
    assert run_json("clear", *where, "-y", "--near", machines.home / "b")["n_near"] == 0
    assert warm("a") == (N, 0, True)
    assert len(machines.far()) == len(machines.far("waveforms")) + N == N
    assert warm("a") == (N, 0, False)
    assert run_json("clear", *where, "-y", "--near", machines.home / "a")["n_near"] >= N
    assert warm("a") == (0, N, True)
    assert len(machines.far()) == N

"""`prune` by last use, processor, run and free space; `remove` and `clear`; a prune beside a training loop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import audio_datasets as data
import numpy as np
import pytest
from children import python_path
from command_line import run_json
from full_roots import N_CLIPS, RATE, age, cached_by_all, contents, entries

from hf_audio_cache import (
    AudioCache,
    AudioCacheKey,
    CachedFeatures,
    WaveformCache,
    WaveformCacheKey,
    pack,
    prune,
    verify,
)
from hf_audio_cache.maintenance.prune import clear, remove
from hf_audio_cache.maintenance.runs import list_runs, total_stats
from hf_audio_cache.maintenance.transfer import export_archive
from hf_audio_cache.support.progress import watched

DAY = 86_400.0


def use(root: Path, clips: list[Path], processor: int = 0) -> str:
    """Let a processor read clips, in a run of its own; return its id."""
    cached_features = cached_by_all(root)[processor]
    before = cached_features.stats.computed
    cached_features({"audio": data.columns(clips)["audio"]})
    assert cached_features.stats.computed == before
    cached_features.pipeline.access_log.finish()
    return cached_features.pipeline.access_log.run.id


def of_clips(root: Path, clips: list[Path], processor: str = "") -> set[str]:
    shas = {data.sha256(clip) for clip in clips}
    return {
        name for name in entries(root, "features") if name.split("/")[2].split(".")[0] in shas and processor in name
    }


@pytest.fixture
def aged(root):
    """A root whose entries were all written a hundred days ago."""
    for name in entries(root):
        age(root / name, 100 * DAY)
    return root


def test_what_was_used_last_goes_last(aged, clips):
    use(aged, clips[:2])
    wav2vec2 = cached_by_all(aged)[0].processor_sha[:12]
    used = of_clips(aged, clips[:2], wav2vec2)
    assert len(used) == 2
    n_bytes = sum((aged / name).stat().st_size for name in used)
    report = prune(aged, max_bytes=n_bytes)
    assert set(entries(aged)) == used
    assert (report.n_kept, report.n_bytes_kept, report.n_recent) == (2, n_bytes, 0)
    assert prune(aged, max_bytes=n_bytes - 1).n_recent == 1


def test_what_was_used_of_late_is_said_whoever_deletes(aged, clips):
    use(aged, clips[:2])
    assert remove(aged, entries(aged), dry_run=True).n_recent == 2
    assert clear(aged, dry_run=True).n_recent == 2


def test_what_was_not_used_for_long_goes(aged, clips):
    use(aged, clips[:3], processor=1)
    seamless = cached_by_all(aged)[1].processor_sha[:12]
    used = of_clips(aged, clips[:3], seamless)
    assert prune(aged, older_than_seconds=101 * DAY).n_deleted == 0
    report = prune(aged, older_than_seconds=30 * DAY, dry_run=True)
    assert set(report.names) == set(entries(aged)) - used
    assert "names" not in report.to_dict()
    prune(aged, older_than_seconds=30 * DAY)
    assert set(entries(aged)) == used


def test_one_processor_can_go(aged):
    sha = cached_by_all(aged)[1].processor_sha
    going = {name for name in entries(aged) if sha[:12] in name}
    assert len(going) == N_CLIPS
    before = set(entries(aged))
    for named in ("seamlessm4tfeatureextractor", sha, sha[:8]):
        assert set(prune(aged, processor=named, dry_run=True).names) == going
    assert prune(aged, processor=sha).n_deleted == N_CLIPS
    assert set(entries(aged)) == before - going


def test_with_a_limit_a_processor_says_whose_entries_may_go(aged):
    sha = cached_by_all(aged)[0].processor_sha[:12]
    before = set(entries(aged))
    assert prune(aged, processor=sha, max_bytes=0).n_deleted == N_CLIPS
    assert {name for name in before if sha not in name} == set(entries(aged))


def test_a_processor_that_is_not_there_is_an_error(root, tmp_path):
    before = contents(root)
    for typo in ("WhisperFeatureExtractor", "ffff", ""):
        with pytest.raises(ValueError, match=f"No processor '{typo}'.*hf-audio-cache processors"):
            prune(root, processor=typo)
        with pytest.raises(ValueError, match="No processor"):
            pack(root, processor=typo)
        with pytest.raises(ValueError, match="No processor"):
            export_archive(root, tmp_path / "archive.tar", processor=typo)
    assert contents(root) == before
    assert not (tmp_path / "archive.tar").exists()


def test_what_is_known_of_a_processor_by_names_of_entries_alone_is_enough(root):
    sha = cached_by_all(root)[0].processor_sha
    (root / "processors" / f"{sha}.json").unlink()
    with pytest.raises(ValueError, match="No processor ''"):
        prune(root, processor="")
    assert pack(root, processor=sha[:12]).n_packed == N_CLIPS
    assert prune(root, processor=sha[:12]).n_deleted == N_CLIPS


def described(root):
    """Return the descriptions of runs, and not what they counted."""
    return [path for path in root.glob("runs/*/*.json") if not path.name.startswith("figures-")]


def test_a_run_s_entries_are_kept(aged, clips):
    runs = [use(aged, clips[:2]), use(aged, clips[2:3], processor=1)]
    shas = [cached_features.processor_sha[:12] for cached_features in cached_by_all(aged)]
    used = [of_clips(aged, clips[:2], shas[0]), of_clips(aged, clips[2:3], shas[1])]
    assert set(prune(aged, keep_run=runs[0], dry_run=True).names) == set(entries(aged)) - used[0]
    assert set(prune(aged, keep_run=runs, max_bytes=0, dry_run=True).names) == set(entries(aged)) - used[0] - used[1]
    with pytest.raises(ValueError, match="No record of the run '20200101T000000-00000000'"):
        prune(aged, keep_run="20200101T000000-00000000", max_bytes=0)
    prune(aged, keep_run=runs)
    assert set(entries(aged)) == used[0] | used[1]
    assert len(list(aged.glob("access/*/*.gz"))) == len(described(aged)) == 2
    prune(aged, keep_run=runs[0])
    assert [path.parent.name for path in described(aged)] == [runs[0]]  # the other's is gone
    assert [line.run for line in list_runs(aged).runs] == [runs[0]]
    assert total_stats(aged).n_runs == 2  # what they counted stays
    assert len(list(aged.glob("access/*/*.gz"))) == 1


def test_space_is_made_on_the_disk(aged, monkeypatch):
    sizes = [(aged / name).stat().st_size for name in entries(aged)]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10 * sum(sizes), free=0))
    report = prune(aged, keep_free=0.05)
    assert sum(sizes) / 2 <= report.n_bytes_deleted < sum(sizes) / 2 + max(sizes)
    assert prune(aged, keep_free=0.0).n_deleted == 0
    with pytest.raises(ValueError, match="keep_free is for roots on a local disk"):
        prune("memory://pruning/x", keep_free=0.1)
    for wrong in (10, "10%", True, float("nan"), {}):
        with pytest.raises(ValueError, match=f"keep_free must be a number between 0 and 1, not {wrong!r}; nothing was"):
            prune(aged, keep_free=wrong)


def test_entries_are_removed_by_name_or_clip(root, clips):
    before = contents(root)
    one = entries(root, "waveforms")[0]
    sha = next(data.sha256(clip) for clip in clips if data.sha256(clip) not in one)
    assert remove(root, [one, sha[:10]], dry_run=True).n_deleted == 5
    assert contents(root) == before
    report = remove(root, [one, sha[:10]])
    going = {one} | {name for name in before if sha in name}
    assert set(report.names) == going
    assert contents(root) == {name: content for name, content in before.items() if name not in going}
    assert (report.n_kept, report.n_deleted) == (len(entries(root)), 5)
    with pytest.raises(ValueError, match="No entry "):
        remove(root, [entries(root)[0], one])
    assert len(entries(root)) == report.n_kept


def test_clear_takes_what_is_the_cache_s(root, clips):
    use(root, clips)
    (root / "notes.txt").write_text("a stranger's")
    assert clear(root, cache="waveforms").n_deleted == N_CLIPS
    assert entries(root, "waveforms") == []
    assert len(entries(root, "features")) == 3 * N_CLIPS
    assert clear(root, dry_run=True).n_deleted == 3 * N_CLIPS == len(entries(root))
    assert clear(root).n_deleted == 3 * N_CLIPS
    assert set(contents(root)) == {"notes.txt"}
    with pytest.raises(ValueError, match='cache must be "features" or "waveforms"'):
        clear(root, cache="pictures")


N_OF_EACH = 20

# Of each kind: bytes of one entry, about, and the seconds that it took to compute.
KINDS = {"slow": (25_000, 0.069), "quick": (25_000, 0.001), "waveforms": (63_000, 0.0)}


@pytest.fixture
def unused(tmp_path):
    """A root that a fill of five hours wrote, whose entries were never used; the dear ones were written first."""
    noise = np.random.default_rng(0)
    features, waveforms = AudioCache(tmp_path / "features"), WaveformCache(tmp_path / "waveforms")
    paths = []
    for kind, (n_bytes, seconds) in KINDS.items():
        for number in range(N_OF_EACH):
            blob_sha = f"{number:064x}"
            array = noise.random(n_bytes // 4, dtype=np.float32)
            if kind == "waveforms":
                key = WaveformCacheKey(blob_sha, RATE, 0, False)
                waveforms.put_many({key: {"waveform": array}}, compute_seconds=seconds)
                paths.append(Path(waveforms.path_for(key)))
            else:
                key = AudioCacheKey(blob_sha, {"slow": "a", "quick": "b"}[kind] * 64, RATE, 0, False)
                features.put_many({key: {"input_features": array}}, compute_seconds=seconds)
                paths.append(Path(features.path_for(key)))
    for place, path in enumerate(paths):
        age(path, 30 * DAY + 5 * 3600 - place * 5 * 3600 / len(paths))
    return tmp_path


def kind_of(name):
    return "waveforms" if name.startswith("waveforms") else "slow" if ".aaaaaaaaaaaa." in name else "quick"


def kinds_left(root):
    left = Counter(map(kind_of, entries(root)))
    return [left[kind] for kind in KINDS]


def test_what_is_cheapest_to_make_again_for_its_bytes_goes_first(unused):
    total = sum((unused / name).stat().st_size for name in entries(unused))
    of_waveforms = sum((unused / name).stat().st_size for name in entries(unused, "waveforms"))
    of_one = max((unused / name).stat().st_size for name in entries(unused, "features"))
    half = total - of_waveforms // 2
    assert prune(unused, max_bytes=half, dry_run=True).n_deleted == N_OF_EACH // 2
    prune(unused, max_bytes=half)
    assert kinds_left(unused) == [20, 20, 10]
    prune(unused, max_bytes=total - of_waveforms)
    assert kinds_left(unused) == [20, 20, 0]
    prune(unused, max_bytes=total - of_waveforms - 10 * of_one)
    assert kinds_left(unused) == [20, 10, 0]
    prune(unused, max_bytes=10 * of_one)
    assert kinds_left(unused) == [10, 0, 0]


def test_what_was_not_used_for_longer_goes_before_what_is_cheap(unused):
    slow = [name for name in entries(unused) if kind_of(name) == "slow"][:5]
    for name in slow:
        age(unused / name, 32 * DAY)
    total = sum((unused / name).stat().st_size for name in entries(unused))
    prune(unused, max_bytes=total - sum((unused / name).stat().st_size for name in slow))
    assert kinds_left(unused) == [15, 20, 20]
    assert not set(slow).intersection(entries(unused))


def test_with_both_limits_what_is_too_old_makes_the_room(unused):
    old = [name for name in entries(unused) if kind_of(name) == "slow"][:5]
    for name in entries(unused):
        age(unused / name, 31.2 * DAY if name in old else 31.1 * DAY)  # on one day
    total = sum((unused / name).stat().st_size for name in entries(unused))
    prune(unused, max_bytes=total - 1, older_than_seconds=31.15 * DAY)
    assert kinds_left(unused) == [15, 20, 20]


@pytest.mark.parametrize(("cache", "left"), [("waveforms", [20, 20, 0]), ("features", [0, 0, 20])])
def test_one_cache_can_be_chosen(unused, cache, left):
    assert prune(unused, cache=cache, older_than_seconds=31 * DAY).n_deleted == 0
    with pytest.raises(ValueError, match='cache must be "features" or "waveforms"'):
        prune(unused, cache="pictures")
    with pytest.raises(ValueError, match=r"Waveforms belong to no processor.*nothing was deleted\.$"):
        prune(unused, cache="waveforms", processor="Wav2Vec2FeatureExtractor")
    report = run_json("prune", "--root", unused, "--cache", cache, "--max-size", "1B", "-y")
    assert report["n_deleted"] == 60 - sum(left)
    assert kinds_left(unused) == left


def test_bad_entries_of_a_kind_do_not_keep_others(unused):
    for name in entries(unused, "waveforms")[::2]:
        (unused / name).write_bytes(b"damaged")
    for name in entries(unused):
        if kind_of(name) == "quick":
            (unused / name).write_bytes(b"x" * 25_000)  # of which nobody knows what they cost
    for name in entries(unused):
        age(unused / name, 30 * DAY)
    of_slow = sum((unused / name).stat().st_size for name in entries(unused) if kind_of(name) == "slow")
    prune(unused, max_bytes=of_slow)
    assert kinds_left(unused) == [20, 0, 0]


TRAINING = """
import json, sys, time
from pathlib import Path
import audio_datasets as data
import numpy as np
import configs
from hf_audio_cache import CachedFeatures

root, ready, stop, rate, *paths = sys.argv[1:]
clips = [Path(path) for path in paths]
extractor = configs.make_processor("wav2vec2", sampling_rate=int(rate))
expected = [data.expected_features(extractor, clip)["input_values"] for clip in clips]
cached_features = CachedFeatures(extractor, root, features="always")
rows = cached_features.attach(cached_features.map(data.in_memory(clips)))
n_wrong = n_epochs = 0
while not Path(stop).exists() or n_epochs < 3:
    for start in range(0, len(clips), 2):
        for row, array in zip(rows[start : start + 2]["input_values"], expected[start : start + 2]):
            n_wrong += not np.array_equal(row, array)
    n_epochs += 1
    Path(ready).touch()
print(json.dumps([n_wrong, n_epochs, cached_features.stats.computed, cached_features.stats.read_errors]))
"""


def wait_for_epoch(training, ready):
    """Wait until a training loop has said that an epoch is over."""
    while not ready.exists():
        assert training.poll() is None, training.stderr.read()
        time.sleep(0.05)


def test_a_prune_beside_a_training_loop_takes_nothing_of_it(aged, clips, tmp_path):
    ready, stop = tmp_path / "ready", tmp_path / "stop"
    training = subprocess.Popen(
        [sys.executable, "-c", TRAINING, aged, ready, stop, str(RATE), *clips],
        env={**os.environ, "PYTHONPATH": python_path(has_torch=False)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for_epoch(training, ready)
        sha = cached_by_all(aged)[0].processor_sha[:12]
        used = {name for name in entries(aged, "features") if sha in name}
        n_bytes = sum((aged / name).stat().st_size for name in used)
        for _ in range(10):
            prune(aged, max_bytes=n_bytes)
            prune(aged, older_than_seconds=DAY)
        assert set(entries(aged)) == used
        clear(aged)  # and now under its feet: what is gone is computed again
        for _ in range(2):  # the first may have been all but over
            ready.unlink()
            wait_for_epoch(training, ready)
        stop.touch()
        out, err = training.communicate(timeout=120)
    finally:
        training.kill()
    assert training.returncode == 0, err
    n_wrong, n_epochs, n_computed, n_read_errors = json.loads(out.splitlines()[-1])
    assert (n_wrong, n_read_errors) == (0, 0)
    assert n_epochs >= 3
    assert n_computed >= 1
    assert verify(aged).is_clean


def test_an_interrupted_prune_is_gone_on_with(aged, monkeypatch):
    n_entries = len(entries(aged))
    monkeypatch.setattr("hf_audio_cache.maintenance.delete._BATCH", 10)  # else all are deleted before it is interrupted

    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    with watched(interrupt), pytest.raises(KeyboardInterrupt):
        prune(aged, max_bytes=0)
    assert len(entries(aged)) == n_entries - 10
    assert prune(aged, max_bytes=0).n_deleted == n_entries - 10


def test_records_of_entries_that_are_gone_go_too(aged, clips):
    use(aged, clips)
    for folder in ("features", "waveforms"):
        shutil.rmtree(aged / folder)
    assert len(list(aged.glob("access/*/*.gz"))) == 1
    prune(aged)
    assert list(aged.glob("access/*/*.gz")) == described(aged) == []


def test_a_far_root_is_pruned_by_use(clips):
    url = "memory://pruning/by-use"
    cached_features = cached_by_all(Path("unused"))[0]
    cached_features = CachedFeatures(cached_features.processor, url, waveforms="always")
    cached_features.map(data.in_memory(clips))
    run = cached_features.pipeline.access_log.run.id
    other = CachedFeatures(cached_features.processor, url, max_length_seconds=0.5, waveforms="always")
    other.map(data.in_memory(clips))
    assert prune(url, keep_run=run).n_deleted == 2 * len(clips)
    assert cached_features.coverage(data.in_memory(clips)).n_cached == len(clips)

"""The main job on object stores: right to the bit, and computed once for all machines."""

from __future__ import annotations

import json
import logging
import pickle
import signal
import traceback

import audio_datasets as data
import datasets
import fsspec
import numpy as np
import pytest
from assertions import rows_of
from audio_files import decode_audio
from children import in_child
from crossed import crossed
from remote_stores import new_bucket

from hf_audio_cache import CachedFeatures, CachedWaveforms, CacheRoot
from hf_audio_cache.errors import StoreError
from hf_audio_cache.stores import LocalStore, open_store

pytestmark = pytest.mark.servers

N_CLIPS = 12
EXTRACTOR = "seamless_m4t"


@pytest.fixture(scope="module")
def extractor():
    import configs

    return configs.make_processor(EXTRACTOR)


@pytest.fixture(scope="module")
def expected(clips, extractor):
    return [data.expected_features(extractor, clip, auto_resample=True) for clip in clips]


@pytest.fixture(params=["s3", "gs"])
def server(request):
    return request.getfixturevalue({"s3": "s3_server", "gs": "gcs_server"}[request.param])


# What does not depend on the client and its server, once in `make test`.
on_one_server = pytest.mark.parametrize("server", ["s3", pytest.param("gs", marks=pytest.mark.long)], indirect=True)


@pytest.fixture
def bucket(server):
    return new_bucket(server)


@pytest.fixture
def near_home(tmp_path, monkeypatch):
    """Where the near tiers of this test are."""
    monkeypatch.setenv("HF_AUDIO_CACHE_NEAR", str(tmp_path / "near"))
    return tmp_path / "near"


@pytest.fixture
def open_far(server, bucket, extractor, near_home):
    """``open_far(**settings)``: the features of this test's bucket, without a near tier."""

    def open_it(**settings):
        settings = {"near": None, "storage_options": server.storage_options, **settings}
        root = CacheRoot(server.url(bucket, "team", "audio-cache"), **settings)
        return CachedFeatures(extractor, root, auto_resample=True)

    return open_it


def objects(server, bucket):
    """Return all objects in a bucket but the records of use, which appear at times of their own."""
    found = server.read_all(bucket).items()
    return {name: content for name, content in found if "/access/" not in name and "/runs/" not in name}


def files_under(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# 1. The main job


def through_map(cached_features, dataset, **map_kwargs):
    mapped = dataset.map(
        cached_features,
        remove_columns=dataset.column_names,
        features=cached_features.features(datasets.Features()),
        load_from_cache_file=False,
        **map_kwargs,
    )
    return mapped.with_format("numpy")


def through_workers(cached_features, dataset):
    return through_map(cached_features, dataset, num_proc=2)


def through_a_transform(cached_features, dataset):
    return dict(cached_features.attach(dataset)[:])


def through_a_stream(cached_features, dataset):
    return list(dataset.to_iterable_dataset().map(cached_features, batched=True, batch_size=8))


def through_references(cached_features, dataset):
    return cached_features.map(dataset, load_from_cache_file=False)


FORMS = [through_map, through_workers, through_a_transform, through_a_stream, through_references]


def assert_features(rows, expected):
    if isinstance(rows, dict):
        rows = rows_of(rows)
    assert len(rows) == len(expected)
    for row, outputs in zip(rows, expected, strict=True):
        data.assert_same_bits(row["input_features"], outputs["input_features"])
        assert np.array_equal(row["attention_mask"], outputs["attention_mask"])


@pytest.mark.parametrize(("first", "server"), crossed(FORMS, ["s3", "gs"]), indirect=["server"])
def test_every_form_is_right_to_the_bit_and_then_found_by_the_next(first, open_far, server, bucket, clips, expected):
    dataset = data.in_memory(clips)
    cold = open_far()
    assert_features(first(cold, dataset), expected)
    stats = cold.stats
    assert (stats.hits, stats.computed, stats.decodes) == (0, N_CLIPS, N_CLIPS)
    assert stats.read_errors == stats.write_errors == stats.bad_entries == 0
    names = list(objects(server, bucket))
    assert sum("/features/" in name for name in names) == sum("/waveforms/" in name for name in names) == N_CLIPS
    assert all(name.startswith("team/audio-cache/") for name in names)
    warm = open_far()
    assert_features(FORMS[FORMS.index(first) - 1](warm, dataset), expected)
    stats = warm.stats
    assert (stats.hits, stats.misses, stats.computed, stats.read_errors) == (N_CLIPS, 0, 0, 0)
    assert sorted(objects(server, bucket)) == sorted(names)


@pytest.mark.parametrize(("list_cells", "server"), crossed([False, True], ["s3", "gs"]), indirect=["server"])
def test_waveforms_are_right_to_the_bit_and_then_found(list_cells, server, bucket, clips, near_home):
    root = CacheRoot(server.url(bucket, "cache"), storage_options=server.storage_options, near=None)
    expected = [decode_audio(clip.read_bytes(), sampling_rate=16_000, auto_resample=True) for clip in clips]
    dataset = data.in_memory(clips)
    if list_cells:
        cells = dataset.to_dict()["audio"]
        dataset = datasets.Dataset.from_dict({"audio": [cells[:5], [], cells[5:6], cells[6:]]})

    def waveforms(rows):
        cells = [cell for row in rows for cell in (row["audio"] if list_cells else [row["audio"]])]
        return [cell["array"] for cell in cells]

    forms = {
        "references": lambda cached: cached.map(dataset),
        "attached": lambda cached: cached.attach(dataset),
        "stream": lambda cached: cached.attach(dataset.to_iterable_dataset()),
        "called": lambda cached: dataset.to_iterable_dataset().map(cached, batched=True, batch_size=8),
    }
    for number, (name, form) in enumerate(forms.items()):
        cached_waveforms = CachedWaveforms(root, sampling_rate=16_000, auto_resample=True)
        found = waveforms(form(cached_waveforms))
        assert len(found) == N_CLIPS
        for waveform, wanted in zip(found, expected, strict=True):
            data.assert_same_bits(waveform, wanted)
        stats = cached_waveforms.stats
        assert (stats.decodes, stats.read_errors, stats.write_errors) == (0 if number else N_CLIPS, 0, 0), name
    assert sum("/waveforms/" in name for name in objects(server, bucket)) == N_CLIPS


# 2. Machines


MACHINE = """
import json, sys
import audio_datasets as data
from pathlib import Path
from hf_audio_cache import CachedFeatures, CacheRoot

def energies(waveform, sampling_rate):
    return (waveform[: len(waveform) // 80 * 80].reshape(-1, 80) ** 2).sum(axis=1)

url, options, *clips = json.loads(sys.argv[1])
root = CacheRoot(url, storage_options=options)
cached_features = CachedFeatures(energies, root, identity="energies", sampling_rate=8000)
rows = cached_features.map(data.in_memory([Path(clip) for clip in clips]))
digests = [data.digest(row["input_features"]) for row in rows]
stats = cached_features.stats
print(json.dumps([digests, stats.hits, stats.computed, stats.decodes]))
"""


@on_one_server
def test_a_second_machine_computes_nothing(server, bucket, clips, tmp_path):
    job = json.dumps([server.url(bucket, "cache"), server.storage_options, *map(str, clips)])
    found = {}
    for machine in ("first", "second"):
        near = tmp_path / machine
        found[machine] = data.run_program(MACHINE, job, has_torch=False, HF_AUDIO_CACHE_NEAR=str(near))
        assert sum("/features/" in name for name in files_under(near)) == N_CLIPS
    digests = found["first"][0]
    assert len(set(digests)) == N_CLIPS
    assert found == {"first": [digests, 0, N_CLIPS, N_CLIPS], "second": [digests, N_CLIPS, 0, 0]}


@on_one_server
def test_a_near_tier_answers_without_the_bucket(server, bucket, open_far, near_home, clips, expected):
    dataset = data.in_memory(clips)
    open_far(near="auto").map(dataset)
    server.delete_all(bucket)
    again = open_far(near="auto")
    assert_features(through_a_transform(again, dataset), expected)
    assert again.stats.hits == N_CLIPS
    assert list(objects(server, bucket)) == []


@on_one_server
def test_a_damaged_copy_in_the_near_tier_is_read_again_from_the_bucket(
    server, bucket, open_far, near_home, clips, expected
):
    dataset = data.in_memory(clips)
    open_far(near="auto").map(dataset)
    before = objects(server, bucket)
    for name in files_under(near_home):
        if "/features/" in name:
            path = near_home / name
            path.write_bytes(path.read_bytes()[:-5])
    again = open_far(near="auto")
    assert_features(through_a_transform(again, dataset), expected)
    assert (again.stats.hits, again.stats.computed, again.stats.bad_entries) == (N_CLIPS, 0, N_CLIPS)
    assert objects(server, bucket) == before


# Reading and writing policies


@on_one_server
def test_read_only_writes_nothing_near_or_far(server, bucket, open_far, near_home, clips, expected):
    dataset = data.in_memory(clips)
    reader = open_far(read_only=True, near="auto")
    assert_features(through_a_transform(reader, dataset), expected)
    assert (reader.stats.computed, reader.stats.write_errors, reader.stats.bytes_written) == (N_CLIPS, 0, 0)
    assert list(objects(server, bucket)) == []
    assert not near_home.exists()
    with pytest.raises(StoreError, match="the root is only read"):
        reader.map(dataset)
    open_far().map(dataset)
    assert_features(through_references(open_far(read_only=True, near="auto"), dataset), expected)
    assert not near_home.exists()


@pytest.mark.torch
@on_one_server
def test_workers_forked_after_reading_end_in_time(open_far, clips, expected):
    from torch.utils.data import DataLoader

    dataset = data.in_memory(clips)
    open_far().map(dataset)
    cached_features = open_far()
    signal.alarm(120)
    try:
        assert_features(through_a_transform(cached_features, dataset), expected)  # the parent has used its client
        assert_features(through_workers(open_far(), dataset), expected)
        loader = DataLoader(cached_features.attach(dataset), batch_size=8, num_workers=2, collate_fn=list)
        assert_features([row for batch in loader for row in batch], expected)
    finally:
        signal.alarm(0)
    assert cached_features.stats.computed == 0


# Secrets


MARKER = "planted-secret-5b1e"


def test_a_secret_is_in_nothing_that_leaves_the_process(s3_server, extractor, clips, tmp_path, caplog, near_home):
    import cloudpickle
    import dill
    from datasets.fingerprint import Hasher

    caplog.set_level(logging.DEBUG)
    options = {"key": f"{MARKER}-key", "secret": f"{MARKER}-secret", "endpoint_url": s3_server.endpoint}
    dataset = data.in_memory(clips[:3])
    cached_features = CachedFeatures(
        extractor,
        CacheRoot("s3://some-bucket/cache", storage_options=options, near=tmp_path / "near"),
        auto_resample=True,
    )
    texts = [repr(cached_features), str(cached_features.root), repr(cached_features.audio_cache._store)]
    texts += [repr(vars(cached_features)), repr(cached_features.pipeline)]
    for dumps in (pickle.dumps, dill.dumps, cloudpickle.dumps):
        texts.append(dumps(cached_features).decode("latin-1"))
    texts.append(Hasher.dumps(cached_features).decode("latin-1") if hasattr(Hasher, "dumps") else "")
    texts.append(datasets.utils._dill.dumps(cached_features).decode("latin-1"))
    mapped = cached_features.attach(dataset)  # the credentials are wrong: all is computed
    assert len(mapped[:]["input_features"]) == 3
    assert cached_features.stats.write_errors > 0
    strict = CachedFeatures(
        extractor,
        CacheRoot("s3://some-bucket/cache", storage_options=options, near=None, strict=True),
        auto_resample=True,
    )
    try:
        dict(strict.attach(dataset)[:])
    except StoreError as error:
        texts += ["".join(traceback.format_exception(error)), repr(error), pickle.dumps(error).decode("latin-1")]
    else:
        pytest.fail("wrong credentials are an error where strict")
    texts += [record.getMessage() for record in caplog.records if record.name.startswith("hf_audio_cache")]
    texts += [path.read_bytes().decode("latin-1") for path in (tmp_path / "near").rglob("*") if path.is_file()]
    assert len(texts) > 12
    for text in texts:
        assert MARKER not in text


def start_of(waveform, sampling_rate):
    return waveform[:100].copy()


def stats_in_a_spawned_process(cached_features, batch):
    cached_features(batch)
    return cached_features.stats


@on_one_server
def test_a_spawned_process_gets_the_options(server, bucket, clips):
    root = CacheRoot(server.url(bucket, "cache"), storage_options=server.storage_options, near=None)
    cached_features = CachedFeatures(start_of, root, identity="start", sampling_rate=8000, features="always")
    batch = {"audio": data.columns(clips[:2])["audio"]}
    cached_features(batch)
    stats = in_child(stats_in_a_spawned_process, cached_features, batch, method="spawn")
    assert (stats.hits, stats.computed, stats.read_errors) == (2, 2, 0)  # with what was computed here


# Roots


def test_a_filesystem_of_the_users_is_a_root(s3_server, extractor, clips, expected):
    import s3fs

    s3_server.make_bucket("given")
    filesystem = s3fs.S3FileSystem(**s3_server.storage_options)
    for hits in (0, N_CLIPS):
        root = CacheRoot("given/cache", filesystem=filesystem, timeouts=(10.0, 30.0))
        cached_features = CachedFeatures(extractor, root, auto_resample=True)
        assert_features(through_a_transform(cached_features, data.in_memory(clips)), expected)
        assert cached_features.stats.hits == hits
    assert any(name.startswith("cache/features/") for name in s3_server.names("given"))
    folder = fsspec.filesystem("dir", path="given", fs=filesystem)
    for form in (through_a_transform, through_workers):  # forked: the file system inside has to be made again too
        root = CacheRoot("cache", filesystem=folder, timeouts=(10.0, 30.0))
        cached_features = CachedFeatures(extractor, root, auto_resample=True)
        assert_features(form(cached_features, data.in_memory(clips)), expected)
        assert (cached_features.stats.hits, cached_features.stats.read_errors) == (N_CLIPS, 0)


def test_a_network_mount_has_a_near_tier_and_a_disk_has_none(tmp_path, monkeypatch, near_home):
    from hf_audio_cache.stores import near_folders

    assert isinstance(open_store(tmp_path / "root").single, LocalStore)
    monkeypatch.setattr(near_folders, "is_network_mount", lambda path: str(path).startswith(str(tmp_path / "nfs")))
    store = open_store(tmp_path / "nfs")
    store.put("ab/name", b"content")
    assert files_under(tmp_path / "nfs") == {"ab/name"}
    assert [path for path in files_under(near_home) if path.endswith("nfs/ab/name")]
    assert store.location() == tmp_path / "nfs"


@pytest.mark.parametrize(
    ("path", "is_network"),
    [("/mnt/team/x", True), ("/home/me", False), ("/content/drive/MyDrive", True), ("/", False), ("/mnt/teams", False)],
)
def test_mounts_are_told_by_their_type(path, is_network, tmp_path):
    from hf_audio_cache.support.mounts import is_network_mount

    table = tmp_path / "mounts"
    table.write_text(
        "/dev/sda1 / ext4 rw 0 0\n"
        "server:/export /mnt/team nfs4 rw 0 0\n"
        "drive /content/drive fuse.drive rw 0 0\n"
        "server:/home /home nfs rw 0 0\n"
        "overlay /home fuse.fuse-overlayfs rw 0 0\n"
    )
    assert is_network_mount(path, str(table)) == is_network

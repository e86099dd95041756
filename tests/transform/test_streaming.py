"""Training from a stream: several nodes, workers of a DataLoader, and resumed epochs, all from one warm root."""

from __future__ import annotations

import functools
import itertools
import threading

import audio_datasets as data
import datasets
import pytest
from datasets.distributed import split_dataset_by_node
from fault_proxy import Fault, FaultProxy

from hf_audio_cache import CachedFeatures, CacheRoot

N_CLIPS = 150  # more than two batches of 64
N_SHARDS = 4
# Before, `datasets` loses the rows of an Arrow table of which some were handed out.
RESUMES_TABLES = int(datasets.__version__.split(".")[0]) >= 5
needs_resuming = pytest.mark.skipif(not RESUMES_TABLES, reason="this datasets cannot resume a stream of tables")


@pytest.fixture(scope="module")
def extractor():
    import configs

    return configs.make_processor("wav2vec2")


@pytest.fixture(scope="module")
def roots(request, tmp_path_factory, extractor, clips):
    """``roots(place)``: what opens a root there, as on another machine, and what a first epoch put into it."""

    @functools.cache
    def filled(place):
        settings = {}
        if place == "local":
            root = tmp_path_factory.mktemp("root")
        else:
            server = request.getfixturevalue("s3_server")
            server.make_bucket("streaming")
            root = server.url("streaming", "audio-cache")
            settings = {"near": None, "storage_options": server.storage_options, "timeouts": (30.0, 60.0)}

        def open_it():
            return CachedFeatures(extractor, CacheRoot(root, **settings), auto_resample=True, features="always")

        return open_it, first_epoch(open_it(), clips)

    return filled


def first_epoch(cached_features, clips):
    """Return the features of all clips as they are computed, by the clip's number."""
    stream = data.in_memory(clips).to_iterable_dataset(num_shards=N_SHARDS)
    arrays = {row["number"]: row["input_values"] for row in cached_features.attach(stream, remove_columns="audio")}
    assert list(arrays) == list(range(N_CLIPS))
    assert (cached_features.stats.computed, cached_features.stats.hits) == (N_CLIPS, 0)
    expected = data.expected_features(cached_features.processor, clips[100], auto_resample=True)
    data.assert_same_bits(arrays[100], expected["input_values"])
    return arrays


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.servers)])
def place(request):
    return request.param


@pytest.fixture
def open_root(place, roots):
    return roots(place)[0]


@pytest.fixture
def first_run(place, roots):
    return roots(place)[1]


def from_memory(cached_features, clips, folder):
    return data.in_memory(clips).to_iterable_dataset(num_shards=N_SHARDS)


def from_parquet(cached_features, clips, folder):
    """Return a stream of Parquet files, as a dataset on the Hub has them."""
    folder.mkdir()
    for index in range(N_SHARDS):
        part = data.in_memory(clips, decode=True).shard(N_SHARDS, index, contiguous=True)
        part.to_parquet(folder / f"{index}.parquet")
    return datasets.load_dataset(
        "parquet",
        data_files=[str(folder / f"{index}.parquet") for index in range(N_SHARDS)],
        split="train",
        streaming=True,
        cache_dir=str(folder / "cache"),
    )


def from_references(cached_features, clips, folder):
    references = cached_features.map(data.in_memory(clips), remove_columns="audio", load_from_cache_file=False)
    return references.to_iterable_dataset(num_shards=N_SHARDS)


of_each_kind = pytest.mark.parametrize(
    ("place", "warm"),
    [
        ("local", from_memory),
        *(pytest.param("s3", source, marks=pytest.mark.servers) for source in (from_parquet, from_references)),
        *(pytest.param("local", source, marks=pytest.mark.long) for source in (from_parquet, from_references)),
        pytest.param("s3", from_memory, marks=[pytest.mark.servers, pytest.mark.long]),
    ],
    indirect=True,
)


@pytest.fixture
def warm(request, open_root, clips, first_run, tmp_path):
    """A `CachedFeatures` that finds everything, and the stream with its features."""
    cached_features = open_root()
    stream = request.param(cached_features, clips, tmp_path / "data")
    yield cached_features, cached_features.attach(stream)
    stats = cached_features.stats
    assert (stats.computed, stats.misses, stats.read_errors) == (0, 0, 0)


def assert_rows(rows, numbers, first_run):
    """Check that the rows are these, each once, and their arrays those of the first run."""
    assert [row["number"] for row in rows] == list(numbers)
    for row in rows:
        data.assert_same_bits(row["input_values"], first_run[row["number"]])


def by_number(rows):
    return sorted(rows, key=lambda row: row["number"])


@of_each_kind
@pytest.mark.parametrize("n_nodes", [2, 3])
def test_nodes_share_the_rows(n_nodes, warm, first_run):
    _, stream = warm
    nodes = [split_dataset_by_node(stream, rank, n_nodes) for rank in range(n_nodes)]
    for epoch in range(2):
        for node in nodes:
            node.set_epoch(epoch)
        parts = [list(node) for node in nodes]
        assert all(len(part) >= N_CLIPS // n_nodes - 1 for part in parts)
        assert_rows(by_number(itertools.chain(*parts)), range(N_CLIPS), first_run)


def test_nodes_with_shards_of_their_own_read_no_other_entries(open_root, clips, first_run):
    for n_nodes, share in ((2, 1 / 2), (3, 1)):  # four shards cannot be dealt to three: each node reads all rows
        cached_features = open_root()
        stream = cached_features.attach(from_memory(cached_features, clips, None), remove_columns="audio")
        list(split_dataset_by_node(stream, 1, n_nodes))
        assert cached_features.stats.hits == pytest.approx(share * N_CLIPS, abs=1)


def rows_of(rows):
    """What a DataLoader collates with here."""
    return rows


@pytest.mark.torch
@pytest.mark.timeout(120)
@of_each_kind
@pytest.mark.parametrize("n_workers", [0, 2])
def test_workers_of_the_nodes_share_the_rows(n_workers, warm, first_run):
    from torch.utils.data import DataLoader

    _, stream = warm
    rows = []
    for rank in range(2):
        node = split_dataset_by_node(stream, rank, 2)
        method = "fork" if n_workers else None
        loader = DataLoader(
            node, batch_size=16, num_workers=n_workers, collate_fn=rows_of, multiprocessing_context=method
        )
        rows += itertools.chain(*loader)
    assert_rows(by_number(rows), range(N_CLIPS), first_run)


@needs_resuming
@of_each_kind
@pytest.mark.parametrize("given", [30, 64, 149])
def test_an_epoch_is_resumed_with_the_rows_that_remain(given, warm, first_run):
    _, stream = warm
    rows = list(itertools.islice(stream, given))
    assert_rows(rows, range(given), first_run)
    state = stream.state_dict()
    stream.load_state_dict(state)
    assert_rows(list(stream), range(given, N_CLIPS), first_run)


@needs_resuming
@of_each_kind
@pytest.mark.parametrize("n_nodes", [2, 3])
def test_the_epoch_of_a_node_is_resumed_in_another_process_with_the_rows_that_remain(n_nodes, warm, first_run):
    _, stream = warm
    rows = []
    for rank in range(n_nodes):
        node = split_dataset_by_node(stream, rank, n_nodes)
        node.set_epoch(3)
        rows += itertools.islice(node, 20 + rank)
        later = split_dataset_by_node(stream, rank, n_nodes)
        later.set_epoch(3)
        later.load_state_dict(node.state_dict())
        rows += later
    assert_rows(by_number(rows), range(N_CLIPS), first_run)


@needs_resuming
@pytest.mark.servers
def test_a_state_goes_from_a_far_root_to_a_near_one_and_back(s3_server, extractor, clips, tmp_path):
    s3_server.make_bucket("both")
    far = CachedFeatures(
        extractor,
        CacheRoot(s3_server.url("both"), near=None, storage_options=s3_server.storage_options),
        auto_resample=True,
    )
    local = CachedFeatures(extractor, tmp_path / "root", auto_resample=True)
    stream = from_memory(None, clips, None)
    for first, second in ((far, local), (local, far)):
        begun, resumed = first.attach(stream), second.attach(stream)
        rows = list(itertools.islice(begun, 70))
        resumed.load_state_dict(begun.state_dict())
        assert [row["number"] for row in [*rows, *resumed]] == list(range(N_CLIPS))


# Reading ahead, seen from the far root


@pytest.mark.servers
def test_a_far_root_is_asked_for_the_next_batch_while_the_consumer_has_a_row(s3_server, extractor, clips):
    s3_server.make_bucket("ahead")
    with FaultProxy(s3_server.port) as proxy:
        options = {"near": None, "storage_options": s3_server.storage_options_at(proxy.port)}

        def open_it():
            return CachedFeatures(extractor, CacheRoot(s3_server.url("ahead"), **options), auto_resample=True)

        open_it()({"audio": data.columns(clips)["audio"]})
        cached_features = open_it()
        stream = cached_features.attach(from_memory(None, clips, None), remove_columns="audio")
        proxy.faults = [Fault("delay", seconds=0.02, methods=("GET",))]
        asked = proxy.requests["GET"]
        rows = iter(stream)
        for number in range(N_CLIPS):
            assert next(rows)["number"] == number
            expected = min((number // 64 + 2) * 64, N_CLIPS)
            for _ in range(1500):  # the answers come while this row is held; 30 s at most
                if cached_features.stats.hits >= expected:
                    break
                threading.Event().wait(0.02)
            if number == 0:
                threading.Event().wait(0.3)  # in which a reader without bounds would go on
            assert cached_features.stats.hits == expected  # the next batch, and no other
        assert proxy.requests["GET"] - asked >= N_CLIPS
        assert cached_features.stats.computed == 0


def test_only_what_is_far_is_read_ahead(open_root, clips, first_run):
    cached_features = open_root()
    rows = iter(cached_features.attach(from_memory(None, clips, None), remove_columns="audio"))
    next(rows)
    is_read_ahead = "hf-audio-cache-ahead" in [thread.name for thread in threading.enumerate()]
    assert is_read_ahead == str(cached_features.root).startswith("s3://")
    rows.close()

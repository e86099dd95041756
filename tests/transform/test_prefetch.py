"""Reading ahead of a stream's consumer: the same rows and states as without, at most two batches early."""

from __future__ import annotations

import itertools
import pickle
import threading
import time

import audio_datasets as data
import datasets
import pytest
from children import in_child
from datasets.distributed import split_dataset_by_node
from datasets.iterable_dataset import MappedExamplesIterable

from hf_audio_cache.transform import prefetch as module
from hf_audio_cache.transform.prefetch import ReadAheadExamples, read_ahead

N_ROWS = 150
BATCH = 32
# Before, `datasets` loses the rows of an Arrow table of which some were handed out.
RESUMES_TABLES = int(datasets.__version__.split(".")[0]) >= 5


def numbers():
    return datasets.Dataset.from_dict({"number": list(range(N_ROWS)), "text": [f"row {n}" for n in range(N_ROWS)]})


def parquet_files(folder):
    folder.mkdir()
    for index in range(3):
        numbers().shard(3, index, contiguous=True).to_parquet(folder / f"{index}.parquet")
    return datasets.load_dataset(
        "parquet",
        data_files=[str(folder / f"{index}.parquet") for index in range(3)],
        split="train",
        streaming=True,
        cache_dir=str(folder / "cache"),
    )


def generated():
    """Return a stream of the same rows from a generator, which every release of `datasets` can resume."""
    return datasets.IterableDataset.from_generator(generate, gen_kwargs={"starts": list(range(0, N_ROWS, 50))})


def generate(starts):
    for start in starts:
        yield from ({"number": number, "text": f"row {number}"} for number in range(start, start + 50))


SOURCES = {
    "generator": lambda folder: generated(),
    "memory": lambda folder: numbers().to_iterable_dataset(),
    "shards": lambda folder: numbers().to_iterable_dataset(num_shards=6),
    "parquet": parquet_files,
    "mapped": lambda folder: numbers().to_iterable_dataset(num_shards=6).map(half),
    "filtered": lambda folder: numbers().to_iterable_dataset(num_shards=6).filter(is_even),
    "shuffled shards": lambda folder: numbers().to_iterable_dataset(num_shards=6).shuffle(seed=3, buffer_size=1),
    "interleaved": lambda folder: datasets.interleave_datasets([numbers().to_iterable_dataset(3) for _ in range(2)]),
    "concatenated": lambda folder: datasets.concatenate_datasets([numbers().to_iterable_dataset() for _ in range(2)]),
    "taken": lambda folder: numbers().to_iterable_dataset(num_shards=3).skip(10).take(100),
}


def half(row):
    return {"half": row["number"] / 2}


def is_even(row):
    return row["number"] % 2 == 0


def double(batch):
    return {"double": [2 * number for number in batch["number"]]}


def is_no_multiple_of_seven(row):
    return row["number"] % 7 != 0


def doubled(source, function=double):
    """Return a stream as `CachedFeatures.attach` makes it, that nobody reads ahead."""
    return source.map(function, batched=True, batch_size=BATCH)


def ahead(source, function=double):
    stream = read_ahead(doubled(source, function), BATCH)
    assert type(stream._ex_iterable) is ReadAheadExamples
    return stream


def with_states(stream):
    """Return the rows with the state after each, and the state at the end."""
    pairs = [(row, stream.state_dict()) for row in stream]
    return pairs, stream.state_dict()


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "hf-audio-cache-ahead"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    for thread in readers():
        thread.join(30)
    assert readers() == []


@pytest.mark.parametrize("source", SOURCES)
def test_rows_and_states_are_those_of_the_stream_itself(source, tmp_path):
    plain = SOURCES[source](tmp_path / "data")
    expected = with_states(doubled(plain))
    assert len(expected[0]) >= N_ROWS / 2
    assert expected[0][5][0]["double"] == 2 * expected[0][5][0]["number"]
    stream = ahead(plain)
    assert stream.state_dict() == doubled(plain).state_dict()
    for _ in range(2):
        assert with_states(stream) == expected


@pytest.mark.parametrize("source", SOURCES)
def test_a_state_is_loaded_with_and_without_reading_ahead(source, tmp_path):
    plain = SOURCES[source](tmp_path / "data")
    rows = list(doubled(plain))
    for given in (1, 20, BATCH, 50, 2 * BATCH, len(rows) - 1):
        states = []
        for saving in (ahead(plain), doubled(plain)):
            assert list(itertools.islice(saving, given)) == rows[:given]
            states.append(saving.state_dict())
        assert states[0] == states[1]
        rest = list(resumed(doubled(plain), states[0]))
        assert list(resumed(ahead(plain), states[0])) == rest
        if RESUMES_TABLES or source == "generator":
            assert rest == rows[given:]
        again = resumed(ahead(plain), states[0])  # and once more, from a state of a resumed stream
        assert list(itertools.islice(again, 30)) == rest[:30]
        assert list(resumed(ahead(plain), again.state_dict())) == list(resumed(doubled(plain), again.state_dict()))


def resumed(stream, state):
    stream.load_state_dict(state)
    return stream


AFTERWARDS = {
    "filter": lambda stream: stream.filter(is_no_multiple_of_seven),
    "map": lambda stream: stream.map(half),
    "map in batches": lambda stream: stream.map(double, batched=True, batch_size=7, remove_columns=["text"]),
    "shuffle": lambda stream: stream.shuffle(seed=5, buffer_size=20),
    "skip and take": lambda stream: stream.skip(40).take(50),
    "two nodes": lambda stream: split_dataset_by_node(stream, 1, 2),
    "four nodes": lambda stream: split_dataset_by_node(stream, 3, 4),
    "batches": lambda stream: stream.batch(10),
    "select columns": lambda stream: stream.select_columns(["double"]),
    "interleave": lambda stream: datasets.interleave_datasets([stream, stream], [0.3, 0.7], seed=2),
    "concatenate": lambda stream: datasets.concatenate_datasets([stream, stream]),
    "reshard": lambda stream: stream.reshard() if hasattr(stream, "reshard") else stream,
    "read ahead again": lambda stream: read_ahead(doubled(stream), BATCH),
}


@pytest.mark.parametrize("step", AFTERWARDS)
def test_what_comes_after_finds_the_rows_and_states_that_it_knows(step):
    source = numbers().to_iterable_dataset(num_shards=6)
    expected = AFTERWARDS[step](doubled(source))
    threads = []

    def double_here(batch):
        threads.append(threading.current_thread().name)
        return double(batch)

    stream = AFTERWARDS[step](ahead(source, double_here))
    assert stream.num_shards == expected.num_shards
    for epoch in range(2):
        stream.set_epoch(epoch)
        expected.set_epoch(epoch)
        rows, end = with_states(expected)
        assert with_states(stream) == (rows, end)
        assert rows
    assert set(threads) == {"hf-audio-cache-ahead"}


def test_tables_are_read_ahead_too():
    source = numbers().to_iterable_dataset(num_shards=2).with_format("arrow")
    batches = []

    def double_table(table):
        batches.append(len(table))
        return table.append_column("double", table["number"])

    rows = [row.to_pylist() for row in ahead(source, double_table)]
    assert rows == [row.to_pylist() for row in doubled(source, double_table)]
    assert len(rows) == N_ROWS
    stream = ahead(source, double_table)
    tables, expected = stream._ex_iterable.iter_arrow(), doubled(source, double_table)._ex_iterable.iter_arrow()
    assert [(key, table.to_pydict()) for key, table in tables] == [(key, table.to_pydict()) for key, table in expected]
    assert [len(table) for table in stream.iter(50)] == [50] * 3
    batches.clear()
    assert next(iter(stream)).num_rows == 1
    for thread in readers():
        thread.join(30)
    assert len(batches) <= 2


class Recorded:
    """The mapped function, and what was asked of it when."""

    def __init__(self):
        self.asked_for = 0  # rows that the consumer has asked for, that one included which it waits for
        self.calls = []  # for each batch its first row, and `asked_for` at that moment
        self.changed = threading.Condition()

    def __call__(self, batch):
        with self.changed:
            self.calls.append((batch["number"][0], self.asked_for))
            self.changed.notify_all()
        return double(batch)

    def are_called(self, count, seconds=30):
        """Return whether there are this many calls, after waiting for them."""
        with self.changed:
            return self.changed.wait_for(lambda: len(self.calls) >= count, timeout=seconds)


def test_the_next_batch_is_asked_for_while_the_consumer_has_a_row_and_never_the_one_after():
    recorded = Recorded()
    rows = iter(ahead(numbers().to_iterable_dataset(), recorded))
    for number in range(N_ROWS):
        recorded.asked_for += 1
        assert next(rows)["number"] == number
        assert recorded.are_called(min(number // BATCH + 2, 5))
        if number in (0, BATCH):
            assert not recorded.are_called(number // BATCH + 3, seconds=0.2)
    assert [first for first, _ in recorded.calls] == list(range(0, N_ROWS, BATCH))
    # When a batch is asked for, the consumer has asked for the first row of the one before it.
    assert all(first < asked_for + BATCH for first, asked_for in recorded.calls)


def test_nothing_is_read_before_the_first_row_is_asked_for():
    recorded = Recorded()
    rows = iter(ahead(numbers().to_iterable_dataset(), recorded))
    assert recorded.calls == []
    assert readers() == []
    next(rows)
    assert len(readers()) == 1


def test_an_error_is_raised_at_its_row_and_the_stream_can_be_resumed():
    fails, bad = True, 2 * BATCH

    def fail_at_the_bad_row(batch):
        if fails and bad in batch["number"]:
            raise ValueError("this row is bad")
        return double(batch)

    stream = ahead(generated(), fail_at_the_bad_row)
    rows = iter(stream)
    assert [row["number"] for row in itertools.islice(rows, bad)] == list(range(bad))
    with pytest.raises(ValueError, match="this row is bad"):
        next(rows)
    assert list(rows) == []
    fails = False
    assert [row["number"] for row in resumed(stream, stream.state_dict())] == list(range(bad, N_ROWS))


ENDS = {
    "exhausted": lambda rows: list(rows),
    "closed": lambda rows: rows.close(),
    "abandoned": lambda rows: None,
    "thrown into": lambda rows: throw_into(rows),
}


def throw_into(rows):
    with pytest.raises(KeyError, match="thrown"):
        rows.throw(KeyError("thrown"))


@pytest.mark.parametrize("end", ENDS)
def test_the_thread_ends_with_the_iteration(end):
    rows = iter(ahead(numbers().to_iterable_dataset()))
    next(rows)
    [thread] = readers()
    ENDS[end](rows)
    del rows
    thread.join(30)
    assert not thread.is_alive()


def test_several_iterations_at_once_are_separate():
    stream = ahead(numbers().to_iterable_dataset(num_shards=30))
    expected = list(doubled(numbers().to_iterable_dataset(num_shards=30)))
    for _ in range(5):
        first, second, third = iter(stream), iter(stream), iter(stream)
        assert list(itertools.islice(third, 17)) == expected[:17]
        assert [row for pair in zip(first, second, strict=True) for row in pair] == [
            row for row in expected for _ in range(2)
        ]
        assert list(third) == expected[17:]


def test_a_stream_is_pickled_without_its_threads():
    stream = ahead(generated())
    rows = iter(stream)
    expected = list(itertools.islice(rows, 100))
    copied = pickle.loads(pickle.dumps(stream))
    assert list(itertools.islice(copied, 100)) == expected
    assert len(list(copied)) == N_ROWS
    assert list(resumed(copied, stream.state_dict())) == list(rows)


@pytest.mark.timeout(60)
def test_a_fork_goes_on_where_it_is():
    rows = iter(ahead(numbers().to_iterable_dataset(num_shards=2)))
    assert [row["number"] for row in itertools.islice(rows, 100)] == list(range(100))
    rest = list(range(100, N_ROWS))
    for _ in range(3):
        assert in_child(lambda: [row["number"] for row in rows]) == rest
    assert [row["number"] for row in rows] == rest


@pytest.mark.timeout(60)
def test_a_fork_inherits_no_lock_that_a_row_being_read_holds():
    lock, is_reading = threading.Lock(), threading.Event()

    def double_under_a_lock(batch):
        with lock:
            if BATCH in batch["number"]:
                is_reading.set()
                time.sleep(0.5)
        return double(batch)

    rows = iter(ahead(numbers().to_iterable_dataset(), double_under_a_lock))
    assert next(rows)["number"] == 0
    assert is_reading.wait(30)
    assert in_child(lambda: lock.acquire(timeout=5))
    assert [row["number"] for row in rows] == list(range(1, N_ROWS))


ENDING = """
import threading, time
import datasets
from hf_audio_cache.transform.prefetch import read_ahead

is_reading = threading.Event()

def read_slowly(batch):
    if 64 in batch["number"]:
        is_reading.set()
        time.sleep(0.3)
        print('"read to its end"', flush=True)
    return batch

stream = datasets.Dataset.from_dict({"number": list(range(300))}).to_iterable_dataset()
rows = iter(read_ahead(stream.map(read_slowly, batched=True, batch_size=64), 64))
next(rows)
assert is_reading.wait(30)
print('"the program is over"', flush=True)
"""


def test_a_process_that_ends_in_an_iteration_waits_for_the_row_that_is_being_read():
    assert data.run_program(ENDING) == "read to its end"


def test_without_a_thread_the_rows_are_read_all_the_same(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    stream = ahead(numbers().to_iterable_dataset(num_shards=2))
    assert with_states(stream) == with_states(doubled(numbers().to_iterable_dataset(num_shards=2)))


def test_a_datasets_of_other_internals_is_left_as_it_is(monkeypatch):
    plain = doubled(numbers().to_iterable_dataset())
    before = plain._ex_iterable

    with monkeypatch.context() as changed:
        changed.setattr(module, "_Examples", object)
        assert read_ahead(plain, BATCH)._ex_iterable is before
    with monkeypatch.context() as changed:
        changed.delattr(datasets.iterable_dataset._BaseExamplesIterable, "load_state_dict")
        assert read_ahead(plain, BATCH)._ex_iterable is before
        assert len(list(plain)) == N_ROWS
    with monkeypatch.context() as changed:
        changed.setattr(MappedExamplesIterable, "_init_state_dict", lambda examples: [])
        assert read_ahead(plain, BATCH)._ex_iterable is before
    with monkeypatch.context() as changed:
        changed.delattr(datasets.IterableDataset, "_prepare_ex_iterable_for_iteration")
        assert read_ahead(plain, BATCH)._ex_iterable is before
    assert read_ahead(plain, BATCH)._ex_iterable is not before

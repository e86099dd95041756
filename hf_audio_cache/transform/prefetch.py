"""Prefetching the rows of a stream in a thread: a far root answers while the consumer works.

`datasets` has no public interface for this. Its private parts are used in this module alone, as they are in releases
4.0 to 5.2. If another release has others, streams are not prefetched.
"""

from __future__ import annotations

import atexit
import copy
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import datasets

from ..support.process_local import ForkStep, at_fork

_Examples: Any = getattr(datasets.iterable_dataset, "_BaseExamplesIterable", object)
_USED = ("is_typed", "features", "num_shards", "iter_arrow", "shuffle_data_sources", "shard_data_sources")

_PATIENCE = 10.0  # seconds for which a fork, or the end of the process, waits for a row that is being read
_NAME = "hf-audio-cache-ahead"
_END = object()


def read_ahead(stream: datasets.IterableDataset, n_rows: int) -> datasets.IterableDataset:
    """Return the stream, its rows read ahead in a thread; the rows, their order and the stream's states are the same.

    The stream is mapped in batches of `n_rows`, and has no other user yet. Fewer than ``2 * n_rows`` are read ahead,
    since a batch is read whole.
    """
    examples = getattr(stream, "_ex_iterable", None)
    if hasattr(stream, "_prepare_ex_iterable_for_iteration") and _is_as_known(examples):
        stream._ex_iterable = ReadAheadExamples(examples, n_rows)
        stream._prepare_ex_iterable_for_iteration()  # makes the state that `state_dict` of the stream returns
    return stream


def _is_as_known(examples: Any) -> bool:
    """Return whether an examples iterable has the private parts that are used here; nothing is read."""
    if _Examples is object or not isinstance(examples, _Examples):
        return False
    try:
        own = _copy_of(examples)
        state = own._init_state_dict()
        own.load_state_dict(own.state_dict())
    except Exception:  # noqa: BLE001 - another release may raise anything
        return False
    return isinstance(state, dict) and all(hasattr(examples, name) for name in _USED)


class ReadAheadExamples(_Examples):  # type: ignore[misc]  # datasets has no types
    """An examples iterable of `datasets` that reads another one in a thread.

    Its state is that of the other one after the last row that the consumer got, so it can be loaded with or without
    prefetching. Each iteration has its own thread and its own copy of the other iterable.
    """

    def __init__(self, ex_iterable: Any, n_rows: int) -> None:
        super().__init__()
        self.ex_iterable = ex_iterable  # `datasets` follows pipelines by this name
        self.n_rows = n_rows

    def __iter__(self) -> Iterator[Any]:
        return self._ahead(iter, self.n_rows)

    @property
    def iter_arrow(self) -> Callable[[], Iterator[Any]] | None:
        """The same in Arrow tables of one batch each, if the stream has these."""
        return self._iter_arrow if self.ex_iterable.iter_arrow else None

    def _iter_arrow(self) -> Iterator[Any]:
        return self._ahead(lambda examples: examples.iter_arrow(), 1)

    def _ahead(self, begin: Callable[[Any], Iterator[Any]], n_items: int) -> Iterator[Any]:
        given_out = self._state_dict
        reader = _Reader(_own(self.ex_iterable, given_out), begin, n_items)
        try:
            while True:
                item, state = reader.get()
                if given_out is not None:
                    given_out.update(state)  # in place: the states of enclosing iterables contain it
                if item is _END:
                    return
                yield item
        finally:
            reader.stop()

    def _init_state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.ex_iterable._init_state_dict()
        self._state_dict = state
        return state

    @property
    def is_typed(self) -> bool:
        return bool(self.ex_iterable.is_typed)

    @property
    def features(self) -> datasets.Features | None:
        return self.ex_iterable.features

    @property
    def num_shards(self) -> int:
        return int(self.ex_iterable.num_shards)

    def shuffle_data_sources(self, *args: Any, **kwargs: Any) -> ReadAheadExamples:
        return ReadAheadExamples(self.ex_iterable.shuffle_data_sources(*args, **kwargs), self.n_rows)

    def shard_data_sources(self, *args: Any, **kwargs: Any) -> ReadAheadExamples:
        return ReadAheadExamples(self.ex_iterable.shard_data_sources(*args, **kwargs), self.n_rows)

    def reshard_data_sources(self) -> ReadAheadExamples:
        return ReadAheadExamples(self.ex_iterable.reshard_data_sources(), self.n_rows)


def _own(examples: Any, state: dict[str, Any] | None) -> Any:
    """Return a copy of an examples iterable at the given state or the beginning."""
    # Reading changes the state of each part of a pipeline: two threads that read the same parts would skip rows.
    own = _copy_of(examples)
    own._init_state_dict()
    if state is not None:
        own.load_state_dict(copy.deepcopy(state))
    return own


def _copy_of(examples: Any) -> Any:
    copied = copy.copy(examples)
    if hasattr(copied, "ex_iterable"):
        copied.ex_iterable = _copy_of(copied.ex_iterable)
    if hasattr(copied, "ex_iterables"):
        copied.ex_iterables = [_copy_of(part) for part in copied.ex_iterables]
    return copied


class _Reader:
    """A thread that reads an examples iterable while fewer than `n_items` wait to be taken."""

    def __init__(self, examples: Any, begin: Callable[[Any], Iterator[Any]], n_items: int) -> None:
        self._examples = examples
        self._iterator = begin(examples)
        self._room = threading.Semaphore(n_items)
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._is_stopped = False
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name=_NAME, daemon=True)
        self.reading = threading.RLock()  # a thread that forks while it reads acquires it twice
        _readers.add(self)
        try:
            self._thread.start()
        except RuntimeError:  # no thread can start: the process ends, or has too many
            self._thread = None

    def get(self) -> tuple[Any, dict[str, Any]]:
        """Return the next item and the state after it, or raise the error of reading it."""
        if self._thread is None and self._results.empty():
            return self._read()
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        if self._thread is not None:
            self._room.release()
        return result[0], result[1]

    def stop(self) -> None:
        """Let the thread end after the row that it reads now."""
        self._is_stopped = True
        if self._thread is not None:
            self._room.release()

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._thread is not None:
            self._thread.join(_PATIENCE)

    def go_on_without_thread(self) -> None:
        """Read without a thread in a forked child: it has none, and inherits a lock that nobody releases."""
        self._thread = None
        self.reading = threading.RLock()

    def _run(self) -> None:
        while True:
            self._room.acquire()
            with self.reading:
                if self._is_stopped:
                    return
                try:
                    result: Any = self._read()
                except BaseException as exc:  # noqa: BLE001 - raised where the row is asked for
                    result = exc
                self._results.put(result)
            if isinstance(result, BaseException) or result[0] is _END:
                return

    def _read(self) -> tuple[Any, dict[str, Any]]:
        return next(self._iterator, _END), self._examples.state_dict()


# A forked child would inherit the locks that a thread holds while it reads. A process that ends while its threads run
# may crash in a library that they use. So both wait for the row that is being read.

_readers: weakref.WeakSet[_Reader] = weakref.WeakSet()
_held = threading.local()  # locks held during a fork, of the thread that forks


def _hold_before_fork() -> None:
    _held.locks = [reader.reading for reader in list(_readers) if reader.reading.acquire(timeout=_PATIENCE)]


def _go_on_in_parent() -> None:
    for lock in _held.locks:
        lock.release()
    del _held.locks


def _go_on_in_child() -> None:
    for reader in list(_readers):
        reader.go_on_without_thread()
    del _held.locks


at_fork(ForkStep.ROWS_AHEAD, before=_hold_before_fork, in_parent=_go_on_in_parent, in_child=_go_on_in_child)


@atexit.register
def _end() -> None:
    for reader in list(_readers):
        reader.stop()
    for reader in list(_readers):
        reader.join()

"""What every store must do, as tests that each store's own module inherits."""

from __future__ import annotations

import itertools
import random
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from hf_audio_cache.errors import InvalidNameError
from hf_audio_cache.stores import Store

BAD_NAMES = ["", "/", "/etc/passwd", "..", "../x", "a/../x", "a/..", ".", "./x", "a/./x", "a//x", "a/", "/x", "a\\x"]
BAD_NAMES += ["a b", "a\n", "a\0", "ä", "~x/$HOME", "s3://x", "C:x", "*", "a/x?y", "a#b", "%2e%2e/x"]
GOOD_NAMES = ["name", "ab/name.npz", "a/b/c/d", ".hidden", "-x", "A_1.b-c"]
CONTENTS = [b"", b"\0", bytes(range(256)) * 40, b"\r\n\x1a\n", b"content", b"\xff\xfe"]
# What there is of a/b/x, a/bc, a/x, ab, ab2/x and b.
BY_PREFIX = {
    "": {"a/b/x", "a/bc", "a/x", "ab", "ab2/x", "b"},
    "a": {"a/b/x", "a/bc", "a/x", "ab", "ab2/x"},
    "a/": {"a/b/x", "a/bc", "a/x"},
    "a/b": {"a/b/x", "a/bc"},
    "a/b/": {"a/b/x"},
    "ab": {"ab", "ab2/x"},
    "ab2/x": {"ab2/x"},
    "c": set(),
    "ab/": set(),
}


class StoreContract:
    """What `Store` promises, for a subclass to show of its own store.

    A subclass names the store in a fixture `store`, new and empty, and says how to look at its objects behind its
    back, where they are no files of a folder: each test prepares or inspects through those, so that a store cannot be
    wrong twice and seem right.
    """

    # How long `test_a_store_behaves_as_a_dict` may go on; a far store needs longer for each step.
    max_examples = 50

    def open_again(self, store: Store) -> Store:
        """Return another store object on the root of `store`."""
        raise NotImplementedError

    def write_raw(self, store: Store, name: str, content: bytes) -> None:
        """Put an object where `store` keeps its objects, without `store`."""
        path = Path(store.location(), name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def read_raw(self, store: Store) -> dict[str, bytes]:
        """Return all that lies where `store` keeps its objects, without `store`."""
        return files_under(Path(store.location()))

    def test_making_a_store_creates_nothing(self, store):
        assert self.read_raw(store) == {}

    def test_looking_creates_nothing(self, store):
        assert store.get("ab/name") is None
        assert store.get_many([]) == []
        assert store.get_many(["ab/name", "cd/name"]) == [None, None]
        assert not store.exists("ab/name")
        assert list(store.names()) == []
        assert store.delete(["ab/name"]) == {}
        store.location("ab/name")
        store.child("folder")
        assert self.read_raw(store) == {}

    def test_what_is_put_is_there_byte_for_byte(self, store):
        objects = dict(zip(GOOD_NAMES, CONTENTS, strict=True))
        for name, content in objects.items():
            store.put(name, content)
            assert store.get(name) == content
        assert self.read_raw(store) == objects

    def test_an_object_of_some_megabytes_is_whole(self, store):
        content = random.Random(0).randbytes(5_000_000)
        store.put("big", content)
        assert self.read_raw(store) == {"big": content}
        assert store.get("big") == content

    def test_what_another_wrote_is_read(self, store):
        self.write_raw(store, "ab/name", b"content")
        assert store.get("ab/name") == b"content"
        assert store.exists("ab/name")
        assert list(store.names()) == ["ab/name"]

    def test_a_put_replaces(self, store):
        self.write_raw(store, "ab/name", b"a longer old content")
        store.put("ab/name", b"new")
        assert self.read_raw(store) == {"ab/name": b"new"}

    def test_many_are_put_at_once(self, store):
        objects = {f"{i:02x}/name": bytes([i]) * i for i in range(40)}
        assert store.put_many(objects) == {}
        assert self.read_raw(store) == objects

    def test_many_are_read_in_the_order_asked_for(self, store):
        for name in "abc":
            self.write_raw(store, f"x/{name}", name.encode())
        names = ["x/c", "x/missing", "x/a", "x/c", "missing/b"]
        assert store.get_many(names) == [b"c", None, b"a", b"c", None]
        assert store.exists_many(names) == [True, False, True, True, False]

    def test_the_ends_of_many_are_their_last_bytes(self, store):
        for name in ("x/long", "x/short", "x/empty"):
            self.write_raw(store, name, {"x/long": b"0123456789", "x/short": b"89"}.get(name, b""))
        names = ["x/short", "x/missing", "x/long", "x/empty"]
        assert store.ends_many(names, 3) == [b"89", None, b"789", b""]

    def test_ranges_are_parts_of_objects(self, store):
        self.write_raw(store, "x/object", b"0123456789")
        ranges = [("x/object", 2, 3), ("x/missing", 0, 4), ("x/object", 0, 10), ("x/object", 7, 30), ("x/object", 2, 3)]
        assert store.get_ranges(ranges) == [b"234", None, b"0123456789", b"789", b"234"]
        assert store.get_ranges([]) == []

    def test_a_folder_is_no_object(self, store):
        self.write_raw(store, "ab/name", b"content")
        assert not store.exists("ab")

    def test_delete_takes_the_named_ones_only(self, store):
        for name in ("ab/x", "ab/y", "abc", "cd/x"):
            self.write_raw(store, name, b"content")
        assert store.delete(["ab/x", "cd/x", "missing", "ab/x"]) == {}
        assert self.read_raw(store).keys() == {"ab/y", "abc"}

    def test_names_are_those_that_start_with_the_prefix(self, store):
        for name in BY_PREFIX[""]:
            self.write_raw(store, name, b"content")
        assert {prefix: sorted(store.names(prefix)) for prefix in BY_PREFIX} == {
            prefix: sorted(names) for prefix, names in BY_PREFIX.items()
        }

    def test_a_child_is_the_store_of_a_folder(self, store):
        child = store.child("features")
        child.put("ab/name", b"content")
        assert self.read_raw(store) == {"features/ab/name": b"content"}
        assert list(child.names()) == ["ab/name"]
        assert store.get("features/ab/name") == b"content"
        assert str(child.location("ab/name")) == str(store.location("features/ab/name"))

    def test_another_object_on_the_same_root_sees_it(self, store):
        store.put("ab/name", b"content")
        assert self.open_again(store).get("ab/name") == b"content"

    def test_a_name_that_could_leave_the_root_is_refused(self, store):
        calls = [
            store.get,
            lambda name: store.get_many(["good", name]),
            lambda name: store.put(name, b"content"),
            store.exists,
            lambda name: store.delete([name]),
            store.child,
        ]
        for name, call in itertools.product(BAD_NAMES, calls):
            with pytest.raises(InvalidNameError, match="must be a relative path") as caught:
                call(name)
            assert caught.value.name == name
        assert self.read_raw(store) == {}

    def test_a_bad_name_is_refused_before_anything_is_written(self, store):
        with pytest.raises(InvalidNameError):
            store.put_many({"good": b"content", "../bad": b"content"})
        assert self.read_raw(store) == {}

    def test_readers_get_whole_objects_while_writers_replace_them(self, store):
        contents = {bytes([i]) * (200_000 + i) for i in range(8)}
        store.put("ab/name", min(contents))
        done = threading.Event()
        seen, errors = set(), []

        def write(content):
            other = self.open_again(store)
            while not done.is_set():
                errors.extend(other.put_many({"ab/name": content}).values())

        writers = [threading.Thread(target=write, args=[content]) for content in contents]
        for writer in writers:
            writer.start()
        try:
            started = time.monotonic()
            # Longer where the writers of a far store first have to connect.
            while time.monotonic() < started + (0.4 if len(seen) > 1 else 20):
                seen.add(store.get("ab/name"))
                assert list(store.names("ab/name")) == ["ab/name"]
        finally:
            done.set()
            for writer in writers:
                writer.join()
        assert errors == []
        assert len(seen) > 1
        assert seen <= contents
        assert self.read_raw(store).keys() == {"ab/name"}

    def test_a_store_behaves_as_a_dict(self, store):
        contract = self
        numbers = itertools.count()
        names = st.sampled_from(["a", "b", "ab/x", "ab/y", "cd/x", "cd/ef/x"])
        contents = st.binary(max_size=50)

        class StoreAndDict(RuleBasedStateMachine):
            def __init__(self):
                super().__init__()
                self.store = store.child(f"run{next(numbers)}")
                self.expected = {}

            @rule(objects=st.dictionaries(names, contents, max_size=4))
            def put(self, objects):
                assert self.store.put_many(objects) == {}
                self.expected.update(objects)

            @rule(name=names, content=contents)
            def write_behind_its_back(self, name, content):
                contract.write_raw(self.store, name, content)
                self.expected[name] = content

            @rule(wanted=st.lists(names, max_size=5))
            def get(self, wanted):
                assert self.store.get_many(wanted) == [self.expected.get(name) for name in wanted]

            @rule(wanted=st.lists(names, max_size=5))
            def exists(self, wanted):
                assert self.store.exists_many(wanted) == [name in self.expected for name in wanted]

            @rule(wanted=st.lists(names, max_size=3))
            def delete(self, wanted):
                assert self.store.delete(wanted) == {}
                for name in wanted:
                    self.expected.pop(name, None)

            @rule(prefix=st.sampled_from(["", "a", "ab", "ab/", "cd/", "cd/ef/x", "z"]))
            def list(self, prefix):
                assert sorted(self.store.names(prefix)) == sorted(n for n in self.expected if n.startswith(prefix))

            @rule()
            def open_again(self):
                self.store = contract.open_again(self.store)

            @invariant()
            def nothing_else_is_there(self):
                assert contract.read_raw(self.store) == self.expected

        bounded = settings(
            max_examples=self.max_examples,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(StoreAndDict, settings=bounded)


def files_under(folder: Path) -> dict[str, bytes]:
    """Return every file under `folder`, those of unfinished writers too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

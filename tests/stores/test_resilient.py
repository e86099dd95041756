"""Stores that fail: when they are asked again, when they are left alone, and what is said of it."""

from __future__ import annotations

import logging
import pickle
import random
import threading
import time

import pytest
from children import in_child
from scripted_store import ScriptedStore, denied, down, fine, kinds
from store_contract import StoreContract

from hf_audio_cache.errors import InvalidNameError, StoreError
from hf_audio_cache.stores import RUN_GOES_ON, LocalStore, StoredObject
from hf_audio_cache.stores.circuit_breaker import CircuitBreaker
from hf_audio_cache.stores.resilient import ResilientStore

LOGGER = "hf_audio_cache.stores.resilient"


class TestResilientStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return ResilientStore(LocalStore(tmp_path / "root"))

    def open_again(self, store):
        return ResilientStore(LocalStore(store.location()))


@pytest.fixture
def far():
    return ScriptedStore()


@pytest.fixture
def store(far):
    return ResilientStore(far, clock=far.clock, sleep=far.sleep)


def open_circuit(store, far):
    """Let the server hang once, which is reason enough."""
    far.fails, far.seconds = down, 5.0
    store.get_many(["x/hangs"])
    far.fails, far.seconds = fine, 0.01
    far.requests.clear()


# Asking again ---------------------------------------------------------------------------------------------------------


def failing_times(times, kind, names="abc"):
    """Return a script in which each of `names` fails so many times."""
    left = dict.fromkeys(names, times)

    def fails(action, name):
        left[name] = left.get(name, 0) - 1
        return kind if left[name] >= 0 else None

    return fails


@pytest.mark.parametrize("kind", ["throttled", "unreachable"])
def test_only_what_failed_is_asked_for_again(store, far, kind):
    far.objects = {"a": b"A", "b": b"B", "c": b"C"}
    far.fails = failing_times(1, kind, names="b")
    assert store.get_many(["a", "b", "c", "b", "missing"]) == [b"A", b"B", b"C", b"B", None]
    assert far.requests == [("get", ["a", "b", "c", "missing"]), ("get", ["b"])]


def test_only_what_failed_is_put_and_deleted_again(store, far):
    far.fails = failing_times(1, "throttled", names="b")
    assert store.put_many({"a": b"A", "b": b"B"}) == {}
    assert far.objects == {"a": b"A", "b": b"B"}
    far.fails = failing_times(1, "unreachable", names="b")
    assert store.delete(name for name in "ab") == {}
    assert far.requests == [("put", ["a", "b"]), ("put", ["b"]), ("delete", ["a", "b"]), ("delete", ["b"])]


@pytest.mark.parametrize(("kind", "most"), [("throttled", 5), ("unreachable", 3), ("", 1)])
@pytest.mark.parametrize("action", ["get", "put", "delete"])
def test_it_is_asked_a_bounded_number_of_times(store, far, action, kind, most):
    far.objects = {"good": b""}
    far.fails = lambda action, name: kind if name == "bad" else None
    if action == "get":
        [_, error] = store.get_many(["good", "bad"])
    elif action == "put":
        [error] = store.put_many({"good": b"", "bad": b""}).values()
    else:
        [error] = store.delete(["good", "bad"]).values()
    assert (error.name, error.kind) == ("bad", kind)
    assert len(far.requests) == most
    assert len(far.slept) == most - 1


def test_waiting_is_random_short_and_growing(store, far):
    far.objects = {"good": b""}
    far.fails = lambda action, name: "throttled" if name == "bad" else None
    before = random.getstate()
    for _ in range(200):
        store.get_many(["good", "bad"])
    assert random.getstate() == before  # the user's own generator does not advance
    for attempt, longest in enumerate([0.1, 0.2, 0.4, 0.8]):
        waited = far.slept[attempt::4]
        assert len(waited) == 200
        assert 0 <= min(waited) < 0.2 * longest
        assert 0.8 * longest < max(waited) <= longest


def test_a_batch_that_timed_out_is_not_asked_for_again(store, far):
    far.fails, far.seconds = down, 5.0
    assert kinds(store.get_many(["a", "b"])) == ["unreachable", "unreachable"]
    assert far.requests == [("get", ["a", "b"])]
    assert far.slept == []


def test_a_slow_batch_that_was_answered_in_part_is(store, far):
    far.objects, far.seconds = {"a": b"A", "b": b"B"}, 5.0
    far.fails = failing_times(1, "unreachable", names="b")
    assert store.get_many(["a", "b"]) == [b"A", b"B"]


def test_an_empty_call_asks_nothing(store, far):
    assert store.get_many([]) == []
    assert store.put_many({}) == {}
    assert store.exists_many([]) == []
    assert store.delete([]) == {}
    assert far.requests == []


# Resting --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.01, 0.3, 1.9, 2.1, 5.0])
@pytest.mark.parametrize("action", ["get", "put", "mixed"])
def test_a_server_that_is_gone_is_noticed_within_ten_seconds(store, far, action, seconds):
    far.fails, far.seconds = down, seconds
    began = far.now
    for i in range(100):
        if action == "put" or (action == "mixed" and i % 2):
            store.put_many({"a": b"", "b": b""})
        else:
            store.get_many(["a", "b"])
    assert far.now - began < 10
    assert len(far.requests) <= 4


@pytest.mark.parametrize("seconds", [0.01, 5.0])
def test_a_server_that_is_gone_in_the_middle_of_a_batch_is_noticed(store, far, seconds):
    far.objects, far.seconds = {"a": b"A", "b": b"B"}, seconds
    alive = ["a"]
    far.fails = lambda action, name: None if name in alive else "unreachable"
    began = far.now
    store.get_many(["a", "b"])
    alive.clear()
    for _ in range(100):
        store.get_many(["a", "b"])
    assert far.now - began <= 11
    assert len(far.requests) <= 5


def test_an_object_that_the_server_stumbles_over_opens_no_circuit(store, far):
    far.objects = {"good": b"", "bad": b""}
    far.fails = lambda action, name: "unreachable" if name == "bad" else None
    for _ in range(20):
        assert kinds(store.get_many(["bad"])) == ["unreachable"]
        assert kinds(store.get_many(["good"])) == [b""]
        assert kinds(store.get_many(["good", "bad"])) == [b"", "unreachable"]
        assert kinds(store.get_many(["good"])) == [b""]


def test_throttling_alone_opens_the_circuit_only_after_two_batches(store, far):
    far.fails = lambda action, name: "throttled"
    assert kinds([*store.get_many(["a"]), *store.get_many(["a"]), *store.get_many(["a"])]) == [
        *("throttled", "throttled", "circuit open")
    ]
    assert len(far.requests) == 10


def test_errors_that_are_no_troubles_open_no_circuit(store, far):
    far.fails = lambda action, name: ""
    for _ in range(50):
        assert kinds(store.get_many(["a"])) == [""]


def test_while_its_circuit_is_open_every_call_is_answered_at_once(store, far):
    open_circuit(store, far)
    names = [f"ab/{i}" for i in range(1000)]
    began = time.perf_counter()
    answers = store.get_many(names)
    failed = store.put_many(dict.fromkeys(names, b""))
    known = store.exists_many(names)
    deleted = store.delete(names)
    assert time.perf_counter() - began < 10  # 4,000 waits would take longer
    assert kinds(answers) == kinds(failed.values()) == kinds(deleted.values()) == ["circuit open"] * 1000
    assert [error.name for error in answers] == list(failed) == list(deleted) == names
    assert known == [False] * 1000
    assert far.requests == []
    says = r"^far://bucket/ failed before, and is not asked until \d\d:\d\d:\d\d: far://bucket/ does not answer \(could"
    with pytest.raises(StoreError, match=says):
        store.get("ab/0")


def test_while_its_circuit_is_open_bad_names_are_still_refused(store, far):
    open_circuit(store, far)
    for call in (
        lambda: store.get_many(["good", "../bad"]),
        lambda: store.put_many({"../bad": b""}),
        lambda: store.exists_many(["../bad"]),
        lambda: store.delete(["../bad"]),
    ):
        with pytest.raises(InvalidNameError):
            call()


def test_a_listing_is_passed_on_also_while_its_circuit_is_open(store, far):
    open_circuit(store, far)
    far.objects = {"a": b"A"}
    assert list(store.scan()) == [StoredObject("a", 1, 0.0)]
    far.fails = down
    with pytest.raises(StoreError, match="could not scan"):
        list(store.names())


def test_pauses_grow_and_an_answer_ends_them(store, far, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    open_circuit(store, far)
    far.fails = down
    for seconds in (30, 60, 120, 240, 300, 300):
        far.now += seconds - 0.1
        assert kinds(store.get_many(["a"])) == ["circuit open"]
        assert far.requests == []
        far.now += 0.2
        assert kinds(store.get_many(["a", "b"])) == ["unreachable", "unreachable"]
        assert far.requests == [("get", ["a", "b"])]  # a trial is one request
        far.requests.clear()
    far.now += 301
    far.fails = fine
    assert store.get_many(["a"]) == store.get_many(["a"]) == [None]
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", *["INFO"] * 7]
    assert caplog.messages[0].startswith("far://bucket/ does not answer (could not get x/hangs: unreachable); no more")
    assert f"asking it for 30 s. {RUN_GOES_ON} Check" in caplog.messages[0]
    assert caplog.messages[-1] == "far://bucket/ answers again"
    open_circuit(store, far)  # from the beginning
    far.now += 31
    assert store.get_many(["a"]) == [None]


@pytest.mark.parametrize("call", ["get", "put", "delete", "exists"])
def test_any_call_may_be_the_trial(store, far, call):
    open_circuit(store, far)
    far.now += 31
    if call == "get":
        store.get("a")
    elif call == "put":
        store.put("a", b"A")
    elif call == "delete":
        store.delete(["a"])
    else:
        assert not store.exists("a")
    assert kinds(store.get_many(["b"])) == [None]


def test_a_trial_that_does_not_end_is_followed_by_another(store, far):
    open_circuit(store, far)

    def interrupt(action, name):
        raise KeyboardInterrupt

    far.fails = interrupt
    far.now += 31
    with pytest.raises(KeyboardInterrupt):
        store.get("a")
    far.fails = fine
    assert kinds(store.get_many(["a"])) == ["circuit open"]
    far.now += 31
    assert store.get_many(["a"]) == [None]


@pytest.mark.parametrize("outcome", ["unreachable", None])
def test_what_was_asked_before_a_pause_neither_ends_nor_lengthens_it(far, store, outcome):
    """Several threads find out one after the other; one of them still got its answer."""

    def find_out_meanwhile(action, name):
        open_circuit(store, far)
        return outcome

    far.fails = find_out_meanwhile
    assert kinds(store.get_many(["a"])) == [outcome]
    far.now += 29
    assert kinds(store.get_many(["a"])) == ["circuit open"]
    far.now += 2
    assert store.get_many(["a"]) == [None]


def test_one_thread_alone_makes_the_trial(store, far):
    open_circuit(store, far)
    far.now += 31
    all_ready, answered = threading.Barrier(17), threading.Event()
    answers = []

    def wait(action, name):
        answered.wait(10)

    far.fails = wait

    def read():
        all_ready.wait()
        answers.extend(kinds(store.get_many(["a"])))

    threads = [threading.Thread(target=read) for _ in range(16)]
    for thread in threads:
        thread.start()
    all_ready.wait()
    while len(answers) < 15:
        time.sleep(0.001)
    answered.set()
    for thread in threads:
        thread.join()
    assert len(far.requests) == 1
    assert answers == [*["circuit open"] * 15, None]


def test_of_two_that_come_at_the_same_moment_one_makes_the_trial():
    answers = []

    def clock():
        if not answers:
            answers.append("")  # before the other reads the clock
            answers[0] = breaker.refusal()
        return 31.0

    breaker = CircuitBreaker(lambda: 0.0)
    breaker.failed("reason", 0.0, 1)
    breaker._clock = clock
    answers.append(breaker.refusal())
    assert [answer is None for answer in answers] == [True, False]


def test_children_share_what_is_known(store, far):
    child = store.child("features")
    open_circuit(child, far)
    assert kinds(store.get_many(["a"])) == ["circuit open"]
    assert kinds(store.child("waveforms").get_many(["a"])) == ["circuit open"]
    assert child.location("a") == store.location("a")


def ask_after_fork(store, far):
    paused = kinds(store.get_many(["a"]))
    far.now += 31
    return paused, kinds(store.get_many(["a"]))


def test_a_forked_child_knows_what_its_parent_knew(store, far):
    open_circuit(store, far)
    assert in_child(ask_after_fork, store, far) == (["circuit open"], [None])
    assert kinds(store.get_many(["a"])) == ["circuit open"]  # and tells nobody


def test_a_fork_in_a_trial_waits_for_no_thread(store, far):
    open_circuit(store, far)
    far.now += 31
    results = []

    def fork(action, name):
        far.fails = fine
        results.append(in_child(ask_after_fork, store, far))

    far.fails = fork
    assert store.get_many(["a"]) == [None]
    assert results == [(["circuit open"], [None])]


def test_it_is_not_pickled(store):
    with pytest.raises(TypeError, match="open its root again"):
        pickle.dumps(store)


# What `exists_many` cannot say ----------------------------------------------------------------------------------------


def test_a_hanging_server_is_noticed_by_looking_alone(store, far):
    far.fails, far.seconds = down, 5.0
    for _ in range(10):
        assert store.exists_many(["a", "b"]) == [False, False]
    assert far.requests == [("exists", ["a", "b"]), ("get", ["a"])]


def test_what_was_not_found_is_read_only_in_doubt(store, far):
    store.exists_many(["a", "b"])
    assert far.requests == [("exists", ["a", "b"])]
    far.fails = down
    store.get_many(["a"])
    far.requests.clear()
    store.exists_many(["a", "b"])
    assert far.requests == [("exists", ["a", "b"]), ("get", ["a"])]


# Denied ---------------------------------------------------------------------------------------------------------------


def test_without_the_right_to_list_a_denied_read_is_a_miss(store, far, caplog):
    """As S3 answers: an absent object is denied, one that is there is read."""
    far.fails = lambda action, name: "denied" if action == "get" and name not in far.objects else None
    assert store.get_many(["a", "b"]) == [None, None]
    assert store.put_many({"a": b"A"}) == {}
    for i in range(100):
        assert store.get_many(["a", f"b{i}"]) == [b"A", None]
        assert store.get_many([f"c{i}"]) == [None]
        far.now += 100
    assert caplog.messages == []


def test_a_warm_cache_that_is_only_read_needs_no_right_to_list(store, far, caplog):
    far.objects = {"a": b"A"}
    far.fails = lambda action, name: "denied" if action == "put" or name not in far.objects else None
    assert store.get_many(["a", "b"]) == [b"A", None]
    assert kinds(store.put_many({"b": b"B"}).values()) == ["denied"]
    for i in range(100):
        assert store.get_many([f"c{i}"]) == [None]
    assert "exists" not in dict(far.requests)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0] == (
        "far://bucket/ denied writing (could not put b: denied); no more writing for 30 s. The run goes on, and "
        "computes what is not found (with strict=True it ends). Check which credentials are used, and that they allow "
        "writing there."
    )


def test_a_store_that_tells_absence_means_what_it_denies(store, far, caplog):
    assert store.get_many(["a"]) == [None]
    far.fails = denied("get")
    assert kinds(store.get_many(["a", "b"])) == ["denied", "denied"]
    assert kinds(store.get_many(["a"])) == ["circuit open"]
    assert caplog.messages[0].startswith("far://bucket/ denied reading (could not get a: denied); no more reading for")
    assert store.put_many({"a": b"A"}) == {}  # the circuit is open for reading alone


def test_where_everything_is_denied_little_is_asked(store, far, caplog):
    far.fails = denied("get", "put", "exists", "delete")
    assert store.get_many(["a"]) == [None]  # nothing is known yet
    for i in range(100):
        store.put_many({f"a{i}": b""})
        store.get_many([f"b{i}"])
        store.exists_many([f"b{i}"])
    assert [action for action, _ in far.requests if action != "exists"] == ["get", "put", "get"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "denied writing" in caplog.messages[0]
    assert "denied reading" in caplog.messages[1]


def test_reads_that_are_all_denied_are_doubted_after_a_while(store, far, caplog):
    far.fails = denied("get")
    answers = [kinds(store.get_many([f"a{i}", f"b{i}"])) for i in range(50)]
    assert answers == [[None, None]] * 8 + [["denied", "denied"]] + [["circuit open", "circuit open"]] * 41
    assert len(caplog.messages) == 1
    far.now += 31
    store.put_many({"a": b"A"})  # which shows that the credentials are good
    assert store.get_many(["b"]) == store.get_many(["c"]) == [None]


def test_credentials_that_expire_are_noticed(store, far, caplog):
    far.objects = {"a": b"A"}
    far.fails = lambda action, name: "denied" if name not in far.objects else None
    assert store.get_many(["a", "b"]) == [b"A", None]
    far.fails = denied("get", "exists")
    far.requests.clear()
    answers = []
    for i in range(100):
        far.now += 10
        answers += kinds(store.get_many([f"c{i}"]))
    assert "circuit open" in answers
    assert [names for action, names in far.requests if action == "exists"] == [["a"]]
    assert "denied reading" in caplog.messages[0]


def test_a_signature_that_is_refused_may_be_the_fault_of_the_clock(store, far, caplog):
    far.fails = lambda action, name: "unauthenticated"
    store.get_many(["a"])
    assert "Check this machine's clock and the credentials" in caplog.messages[0]


def test_the_client_is_made_anew_after_a_denial_and_once_in_a_pause(far, caplog):
    renewed = []
    far.renew = lambda: renewed.append(far.now) or True
    store = ResilientStore(far, clock=far.clock, sleep=far.sleep)
    far.fails = denied("put")
    far.seconds = 0
    assert kinds(store.put_many({"a": b"A", "b": b"B"}).values()) == ["denied", "denied"]
    assert far.requests == [("put", ["a", "b"])] * 2
    for seconds in (0, 20, 11):  # after 31 s it is tried again
        far.now += seconds
        store.put_many({"a": b"A"})
    assert renewed == [1000, 1031]
    far.now += 61
    far.fails = lambda action, name: "unauthenticated" if name == "a" else None
    far.requests.clear()
    for _ in range(10):  # one that is denied among others
        assert kinds(store.put_many({"a": b"A", "b": b"B"}).values()) == ["unauthenticated"]
    assert renewed == [1000, 1031, 1092]
    assert far.requests == [("put", ["a", "b"])] * 10
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_denied_deletion_stops_no_writing(store, far):
    far.fails = denied("delete")
    assert kinds(store.delete(["a"]).values()) == ["denied"]
    assert kinds(store.delete(["a"]).values()) == ["circuit open"]
    assert store.put_many({"a": b"A"}) == {}
    assert store.get_many(["a"]) == [b"A"]


def test_permission_that_is_given_later_is_noticed(store, far, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    far.fails = denied("put")
    store.put_many({"a": b"A"})
    far.fails = fine
    far.now += 31
    assert store.put_many({"a": b"A"}) == {}
    assert caplog.messages[-1] == "far://bucket/ allows writing again"


def test_permission_that_is_given_later_is_noticed_by_looking_alone(store, far):
    store.get("a")
    far.fails = denied("get")
    store.get_many(["a"])
    far.now += 31
    assert not store.exists("a")
    assert kinds(store.get_many(["a"])) == ["circuit open"]
    far.fails = fine
    far.now += 61
    assert not store.exists("a")
    assert store.get_many(["a"]) == [None]


def test_a_server_that_denies_answers(store, far):
    open_circuit(store, far)
    far.now += 31
    far.fails = denied("put")
    store.put_many({"a": b"A"})
    assert store.get_many(["a"]) == [None]


def test_who_is_denied_takes_no_trial_from_others(store, far):
    far.fails = denied("put")
    store.put_many({"a": b"A"})
    far.now += 31
    store.put_many({"a": b"A"})
    open_circuit(store, far)
    far.now += 31
    assert kinds(store.put_many({"a": b"A"}).values()) == ["circuit open"]
    assert store.get_many(["a"]) == [None]


def test_it_says_what_it_would_refuse_and_takes_no_trial_for_that(store, far):
    assert store.refuse_puts(["a"]) == {}
    open_circuit(store, far)
    far.requests.clear()
    assert kinds(store.child("waveforms").refuse_puts(["a", "b"]).values()) == ["circuit open", "circuit open"]
    assert far.requests == []
    far.now += 31
    assert store.refuse_puts(["a"]) == {}
    far.fails = fine
    assert store.put_many({"a": b"A"}) == {}


def test_a_bucket_that_is_not_there_is_said_so_once(store, far, caplog):
    far.fails = lambda action, name: "no bucket"
    assert kinds(store.get_many(["a", "b"])) == ["no bucket", "no bucket"]
    for _ in range(100):
        assert kinds([*store.get_many(["a"]), *store.put_many({"a": b""}).values()]) == ["circuit open", "circuit open"]
    assert far.requests == [("get", ["a", "b"])]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(
        "far://bucket/ is in no bucket (could not get a: no bucket); no more asking it"
    )
    assert "no bucket is ever created" in caplog.messages[0]

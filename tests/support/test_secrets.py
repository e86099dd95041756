"""A secret is in the processes that were given it, and in nothing that they write, show or send."""

from __future__ import annotations

import base64
import copy
import hashlib
import importlib
import importlib.util
import multiprocessing
import pickle
import threading
from typing import Any

import pytest
from children import in_child

from hf_audio_cache.support.secrets import Secret

SECRET = b"never-to-be-seen-0f1e2d3c4b5a"


def seal(secret: bytes = SECRET) -> Secret[bytes]:
    return Secret(secret, secret)


def shows(content: bytes | str, secret: bytes = SECRET) -> bool:
    """Return whether the secret is to be found, as it is or in another coding."""
    found = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    forms = [secret, secret.hex().encode(), base64.b64encode(secret)[:-4], secret.decode().encode("utf-16-le")]
    return any(form in found for form in forms)


def test_the_search_finds_a_secret():
    for content in (b"x" + SECRET, SECRET.hex(), base64.b64encode(SECRET), repr([SECRET])):
        assert shows(content)
    assert not shows(b"never")


# In one process -------------------------------------------------------------------------------------------------------


def test_the_secret_is_there_for_those_who_ask():
    assert seal().value == SECRET
    assert Secret((1, 2), b"material").value == (1, 2)


def test_nothing_shows_the_secret():
    sealed = seal()
    for text in (repr(sealed), str(sealed), repr(vars(sealed)), repr([sealed]), f"{sealed}", repr(sealed.__reduce__())):
        assert not shows(text)
    assert repr(sealed) == f"Secret({sealed.token[:8]})"


def test_equal_secrets_are_equal_and_others_are_not():
    one, other = seal(), seal(SECRET + b"!")
    assert one == seal()
    assert hash(one) == hash(seal())
    assert one.token == seal().token
    assert pickle.dumps(one) == pickle.dumps(seal())
    assert one != other
    assert one.token != other.token
    assert one != SECRET
    assert len({one, seal(), other}) == 2


def test_a_token_is_no_plain_hash_of_the_secret():
    token = seal().token
    assert len(bytes.fromhex(token)) == 32
    for name in ("sha256", "sha3_256", "blake2s"):
        assert hashlib.new(name, SECRET).hexdigest() != token


PICKLERS = ["pickle", "dill", "cloudpickle"]


@pytest.mark.parametrize("pickler", PICKLERS)
def test_a_pickle_holds_a_token_and_finds_the_secret_again(pickler):
    if importlib.util.find_spec(pickler) is None:
        pytest.skip(f"{pickler} is not installed")
    module = importlib.import_module(pickler)
    sealed = seal()
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        dumped = module.dumps({"key": [sealed]}, protocol=protocol)
        assert not shows(dumped)
        [again] = module.loads(dumped)["key"]
        assert again == sealed
        assert again.value == SECRET


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_is_sealed_too(duplicate):
    again = duplicate(seal())
    assert again.value == SECRET
    assert not shows(pickle.dumps(again))


# Other processes ------------------------------------------------------------------------------------------------------


def test_a_forked_process_has_the_secret_of_a_pickle_made_before_or_after():
    before = pickle.dumps(seal())
    assert in_child(lambda: pickle.loads(before).value) == SECRET
    sealed = seal()
    assert in_child(lambda: sealed.value) == SECRET
    assert in_child(lambda: in_child_of_a_child(before)) == SECRET


def in_child_of_a_child(dumped: bytes) -> bytes:
    multiprocessing.current_process()._config["daemon"] = False
    return in_child(lambda: pickle.loads(dumped).value)


def test_what_a_forked_process_seals_stays_there():
    dumped = in_child(lambda: pickle.dumps(seal(b"made in the child, and nowhere else")))
    assert not shows(dumped, b"made in the child, and nowhere else")
    assert pickle.loads(dumped).value is None
    assert pickle.loads(dumped).token == seal(b"made in the child, and nowhere else").token


def test_what_is_not_known_becomes_known_when_it_is_sealed_here():
    dumped = in_child(lambda: pickle.dumps(seal(b"first made in a child")))
    unknown = pickle.loads(dumped)
    assert unknown.value is None
    assert not shows(pickle.dumps(unknown), b"first made in a child")
    seal(b"first made in a child")
    assert unknown.value == b"first made in a child"


ELSEWHERE = """
import json, pickle, sys
sealed = pickle.loads(bytes.fromhex(sys.argv[1]))
again = pickle.loads(pickle.dumps(sealed))
print(json.dumps([sealed.value, again.value, repr(sealed), sealed == again]))
"""


def test_an_unrelated_process_gets_the_token_alone():
    import audio_datasets as data  # not at the start: each process that is spawned here would import it

    sealed = seal()
    assert data.run_program(ELSEWHERE, pickle.dumps(sealed).hex()) == [None, None, repr(sealed), True]


def look(sealed: Any, receiver: Any = None) -> Any:
    """What a worker sees: the secret of its argument, and that of a pickle that comes later."""
    later = None if receiver is None else pickle.loads(receiver.recv_bytes())
    return [sealed.value, None if later is None else later.value, pickle.dumps(sealed)]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_started_process_gets_the_secret_and_then_knows_it(method):
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    with receiver, sender:
        sender.send_bytes(pickle.dumps(seal()))
        in_argument, in_later_pickle, dumped = in_child(look, seal(), receiver, method=method)
    assert in_argument == in_later_pickle == SECRET
    assert not shows(dumped)


def test_a_process_that_multiprocess_spawns_gets_the_secret():
    """`datasets` starts its workers by this copy of the standard library's module."""
    multiprocess = importlib.import_module("multiprocess")
    context = multiprocess.get_context("spawn")
    with context.Pool(1, initializer=remember, initargs=(seal(),)) as pool:
        assert pool.apply(recall) == SECRET


REMEMBERED: list[Secret[bytes]] = []


def remember(sealed: Secret[bytes]) -> None:
    REMEMBERED.append(sealed)


def recall() -> bytes | None:
    return REMEMBERED[-1].value


def test_a_pool_has_the_secret_by_its_initializer_and_not_by_its_tasks():
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, initializer=remember, initargs=(seal(),)) as pool:
        assert pool.apply(look, (seal(),))[0] == SECRET
    with context.Pool(1) as pool:
        assert pool.apply(look, (seal(),))[0] is None


class Spy:
    """Pickles what it is given in another thread while it is itself pickled for a process that starts."""

    def __init__(self, sealed: Secret[bytes]) -> None:
        self.sealed = sealed
        self.seen: list[bytes] = []

    def __reduce__(self) -> Any:
        thread = threading.Thread(target=lambda: self.seen.append(pickle.dumps(self.sealed)))
        thread.start()
        thread.join()
        self.seen.append(pickle.dumps([self.sealed]))
        return str, ()


def test_what_another_thread_pickles_while_a_process_starts_has_no_secret():
    spy = Spy(seal())
    assert in_child(str, spy, method="spawn") == ""
    in_another_thread, in_this_one = spy.seen
    assert not shows(in_another_thread)
    assert shows(in_this_one)  # which goes to the process that starts; else this test would show nothing


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("this cannot be sent")


def test_after_a_process_that_could_not_be_started_pickles_have_no_secret():
    process = multiprocessing.get_context("spawn").Process(target=look, args=(seal(), Unpicklable()))
    with pytest.raises(RuntimeError, match="this cannot be sent"):
        process.start()
    assert not shows(pickle.dumps(seal()))

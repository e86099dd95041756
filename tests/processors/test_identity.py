"""The identity of a processor: what of its state changes it, and above all what doesn't."""

from __future__ import annotations

import copy
import enum
import functools
import io
import json
import logging
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import audio_datasets as data
import extractors
import numpy as np
import pytest

from hf_audio_cache import CachedFeatures, processor_sha256
from hf_audio_cache.errors import UnfingerprintableProcessorError
from hf_audio_cache.processors.identity import SCHEME, Fingerprinter


def identity_of(processor, **processor_kwargs):
    return Fingerprinter(processor, processor_kwargs).identity()


# What counts --------------------------------------------------------------------------------------------------------


def test_classes_count():
    shas = {processor_sha256(extractors.make(name)) for name in extractors.constructible()}
    assert len(shas) == len(extractors.constructible())


def test_arguments_of_the_call_count():
    extractor = extractors.make("Wav2Vec2")
    kwargs = [{}, {"padding": "max_length"}, {"padding": True}, {"max_length": 16000}, {"max_length": 16001}]
    assert len({processor_sha256(extractor, processor_kwargs=one) for one in kwargs}) == len(kwargs)
    assert processor_sha256(extractor, processor_kwargs={}) == processor_sha256(extractor)
    both = {"max_length": 16000, "padding": True}
    assert processor_sha256(extractor, processor_kwargs=both) == processor_sha256(
        extractor, processor_kwargs=dict(reversed(both.items()))
    )
    assert identity_of(extractor, **both).description["call"] == both


def test_arguments_of_the_call_that_do_not_show_their_state_are_refused():
    with pytest.raises(
        UnfingerprintableProcessorError,
        match=r"A change of processor_kwargs\.steps could not be noticed, so nothing was cached: it is a builtins\.",
    ):
        processor_sha256(extractors.make("Wav2Vec2"), processor_kwargs={"steps": (x for x in ())})


def test_the_identity_is_the_sha_of_its_readable_form():
    identity = identity_of(extractors.make("Wav2Vec2"))
    assert set(identity.description) == {"class", "state", "call", "code", "scheme"}
    assert identity.scheme == SCHEME
    assert identity.description["class"].endswith("feature_extraction_wav2vec2.Wav2Vec2FeatureExtractor")
    assert identity.description["state"]["sampling_rate"] == 16000
    assert identity == type(identity).of(json.loads(json.dumps(identity.description)))


def test_a_change_between_two_batches_takes_effect_at_once(sentences, tmp_path):
    extractor = extractors.make("Wav2Vec2")
    cached_features = CachedFeatures(extractor, tmp_path)
    cells = data.columns(sentences[:2])["audio"]
    before = cached_features({"audio": cells})
    shas = [cached_features.processor_sha]
    extractor.do_normalize = False
    after = cached_features({"audio": cells})
    shas.append(cached_features.processor_sha)
    assert len(set(shas)) == 2
    for row, clip in enumerate(sentences[:2]):
        data.assert_same_bits(after["input_values"][row], data.expected_features(extractor, clip)["input_values"])
        assert before["input_values"][row].tobytes() != after["input_values"][row].tobytes()
    assert cached_features.stats.computed == 4
    assert cached_features.stats.hits == 0
    extractor.do_normalize = True
    again = cached_features({"audio": cells})
    assert [row.tobytes() for row in again["input_values"]] == [row.tobytes() for row in before["input_values"]]
    assert cached_features.stats.hits == 2
    assert sorted(path.name for path in (tmp_path / "processors").iterdir()) == sorted(f"{sha}.json" for sha in shas)


# The canonical form -------------------------------------------------------------------------------------------------


class Window(enum.Enum):
    HANN = "hann"
    HAMMING = "hamming"


class Mode(str, enum.Enum):
    FAST = "fast"


class Part:
    """An object that an extractor holds."""

    def __init__(self, **state):
        vars(self).update(state)


class OtherPart(Part):
    """Another class with the same state."""


class Unhashable(type):
    def __eq__(cls, other):
        return cls is other


class Unwilling:
    def __reduce__(self):
        raise ValueError("never")


class Slotted:
    __slots__ = ("floor",)

    def __init__(self, floor):
        self.floor = floor


class PartlySlotted(Part, Slotted):
    """Has both a dict and slots."""


def scaled(waveform, by=2.0):
    return waveform * by


def another(waveform):
    return waveform + 1.0


def closure(factor):
    def scale(waveform):
        return waveform * factor

    return scale


def partly_slotted(floor):
    part = PartlySlotted(kind="mel")
    part.floor = floor
    return part


def lambda_of(factor):
    return lambda waveform: waveform * factor


def padded(filling):
    """Return a long double with these bytes in its padding, where it has some."""
    memory = np.full(16, filling, np.uint8)
    memory[:10] = np.frombuffer(np.longdouble(1.5).tobytes(), np.uint8)[:10]
    return memory.view(np.longdouble) if np.finfo(np.longdouble).nmant == 63 else np.longdouble([1.5])


def masked(mask):
    return np.ma.MaskedArray(np.ones(3, np.float32), mask)


def nested(levels, value):
    found = [value]
    for _ in range(levels):
        found = [found]
    return found


def cycle(value):
    ring = [value]
    ring.append({"ring": ring})
    return ring


def mutual(value):
    one, other = Part(value=value), Part()
    one.other, other.other = other, one
    return one


# Pairs of attributes that are two different processors.
DIFFERENT = {
    "numbers": (1.0, 1.0000000000000002),
    "zeros of two signs": (0.0, -0.0),
    "not a number": (float("nan"), float("inf")),
    "infinities": (float("inf"), float("-inf")),
    "a number and its digits": (1, "1"),
    "nothing and zero": (None, 0),
    "nothing and its name": (None, "None"),
    "large integers": (2**53, 2**53 + 1),
    "larger integers": (10**40, 10**40 + 1),
    "a number and NumPy's, by which float32 becomes float64": (0.97, np.float64(0.97)),
    "NumPy's numbers of two types": (np.float32(0.5), np.float64(0.5)),
    "strings": ("hann", "Hann"),
    "bytes": (b"a", b"b"),
    "bytes and strings": (b"a", "a"),
    "paths": (Path("a"), Path("b")),
    "members of enums": (Window.HANN, Window.HAMMING),
    "a member and its value": (Mode.FAST, "other"),
    "order": ([1, 2], [2, 1]),
    "nesting": ([[1], [2]], [[1, 2]]),
    "sets": ({1, 2}, {1, 3}),
    "a set and a list": ({1, 2}, [1, 2]),
    "keys": ({"a": 1}, {"b": 1}),
    "the order of a dict, as of stages": ({"gain": 1, "off": 2}, {"off": 2, "gain": 1}),
    "a key that is a number and its digits": ({1: 0}, {"1": 0}),
    "a key that is a number and its description": ({1: 0}, {"#1": 0}),
    "arrays of two dtypes": (np.zeros(4, np.float32), np.zeros(4, np.int32)),
    "arrays of two shapes": (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)),
    "one bit of an array": (np.float32([0.0]), np.float32([-0.0])),
    "byte orders": (np.array([1, 2], "<i4"), np.array([1, 2], "<i4").view(">i4")),
    "fields": (np.zeros(1, [("a", "i4"), ("b", "i4")]), np.zeros(1, [("b", "i4"), ("a", "i4")])),
    "memory orders": (np.ones((2, 3)), np.ones((2, 3), order="F")),
    "long doubles": (np.longdouble(1), np.longdouble(1) + np.finfo(np.longdouble).eps),
    "arrays of long doubles": (np.ones(2, np.longdouble), np.ones(2, np.longdouble) + np.finfo(np.longdouble).eps),
    "0-d arrays of objects": (np.array({"a": 1}, object), np.array({"a": 2}, object)),
    "deep lists": (nested(3000, 1), nested(3000, 2)),
    "how deep lists are": (nested(20, 1), nested(21, 1)),
    "cycles": (cycle(1), cycle(2)),
    "objects that hold each other": (mutual(1), mutual(2)),
    "generators of random numbers": (np.random.default_rng(0), np.random.default_rng(1)),
    "NumPy functions made of ones in Python": (np.frompyfunc(abs, 1, 1), np.frompyfunc(lambda x: x, 1, 1)),
    "masks": (masked([True, False, False]), masked([False, True, False])),
    "an array and a list": (np.array([1.0, 2.0]), [1.0, 2.0]),
    "objects in an array": (np.array([1, "a"], object), np.array([2, "a"], object)),
    "states of objects": (Part(n=1), Part(n=2)),
    "classes of objects": (Part(n=1), OtherPart(n=1)),
    "slots": (Slotted(1e-10), Slotted(1e-9)),
    "slots beside a dict": (partly_slotted(1e-10), partly_slotted(1e-9)),
    "functions": (scaled, another),
    "closures": (closure(1.0), closure(2.0)),
    "closures of lambdas": (lambda_of(1.0), lambda_of(2.0)),
    "lambdas": (lambda x: x + 1, lambda x: x + 2),
    "partials": (functools.partial(scaled, by=1.0), functools.partial(scaled, by=2.0)),
    "partials of other functions": (functools.partial(scaled), functools.partial(another)),
    "library functions": (np.hanning, np.hamming),
    "functions without source": (np.log10, np.log2),
    "built-in functions": (len, sum),
    "classes": (Part, Slotted),
    "dtypes": (np.dtype("float32"), np.dtype("float64")),
    "types of numbers": (np.float32, np.float64),
    "a dict that looks like a number": (float("inf"), {"float": "inf"}),
    "a dict that looks like a set": ({1}, {"set": [1]}),
    "a dict that looks like bytes": (Window.HANN, {"enum": f"{__name__}.Window", "name": "HANN"}),
}


def sha_with(value):
    extractor = extractors.make("Wav2Vec2")
    extractor.extra = value
    return processor_sha256(extractor)


@pytest.mark.parametrize("case", DIFFERENT)
def test_two_values_are_two_processors(case):
    one, other = DIFFERENT[case]
    assert sha_with(one) != sha_with(other)
    if case != "deep lists":  # which `copy` cannot copy
        assert sha_with(one) == sha_with(copy.deepcopy(one))


EQUAL = {
    "integers and floats": (2, 2.0),
    "zeros": (0, 0.0),
    "lists and tuples": ([1, (2,)], (1, [2])),
    "not a number": (float("nan"), -float("nan")),
    "the order of a set": ({"a", "b", "c"}, {"c", "b", "a"}),
    "the order of a set of functions": ({scaled, another, len}, {len, another, scaled}),
    "sets": ({1, 2}, frozenset({2, 1})),
    "contiguous and strided": (np.arange(4.0), np.arange(8.0).reshape(4, 2)[:, 0] / 2),
    "empty arrays": (np.zeros((0, 3)), np.zeros((0, 3))),
    "closures": (closure(1.0), closure(1.0)),
    "partials": (functools.partial(scaled, by=2.0), functools.partial(scaled, by=2.0)),
    "objects": (Part(a=1, b=[2]), Part(b=[2], a=1)),
    "a shared part and two": ([part := Part(n=1), part], [Part(n=1), Part(n=1)]),
    "long doubles, of which some bytes are never written": (padded(0), padded(255)),
}


@pytest.mark.parametrize("case", EQUAL)
def test_two_ways_to_write_a_value_are_one_processor(case):
    one, other = EQUAL[case]
    assert sha_with(one) == sha_with(other)


@pytest.mark.torch
def test_tensors_count_by_their_content():
    import torch

    tensors = [
        torch.zeros(4),
        torch.zeros(4, dtype=torch.float64),
        torch.zeros(4, dtype=torch.bfloat16),
        torch.zeros(4, dtype=torch.float16),
        torch.zeros(4, dtype=torch.bool),
        torch.zeros(2, 2),
        torch.ones(4),
        torch.tensor(1.0),
        torch.zeros(0),
        torch.zeros(4, dtype=torch.complex64),
        torch.tensor([1 + 1j]),
        torch.tensor([1 + 1j]).conj(),
        torch.float32,
        torch.float64,
        torch.device("cpu"),
        torch.nn.Linear(2, 2),
    ]
    assert len({sha_with(tensor) for tensor in tensors}) == len(tensors)
    assert sha_with(torch.ones(2, requires_grad=True)) == sha_with(torch.nn.Parameter(torch.ones(2)).detach())
    turned = torch.arange(6.0).reshape(2, 3).T
    assert sha_with(turned) != sha_with(turned.contiguous())  # it may be computed with in another order
    assert sha_with(copy.deepcopy(turned)) == sha_with(turned)
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    sha = sha_with(module)
    assert sha_with(copy.deepcopy(module)) == sha
    with torch.no_grad():
        module[0].weight[0, 0] += 1
    assert sha_with(module) != sha


@pytest.mark.torch
def test_tensors_without_plain_content_are_refused():
    import torch

    with pytest.raises(UnfingerprintableProcessorError, match=r"processor\.extra"):
        sha_with(torch.eye(2).to_sparse())


REFUSED = {
    "a generator": (
        lambda: (x for x in ()),
        "processor.extra could not be noticed, so nothing was cached: it is a builtins.generator, and its state cannot",
    ),
    "deep within": (
        lambda: {"a": [Part(steps=iter(x for x in ()))]},
        "processor.extra.a[0].steps could not be noticed, so nothing was cached: it is a",
    ),
    "an element of a set": (
        lambda: {(x for x in ())},
        "processor.extra{} could not be noticed, so nothing was cached: it is a builtins.generator",
    ),
    "a key": (
        lambda: {(x for x in ()): 3},
        "processor.extra key could not be noticed, so nothing was cached: it is a builtins.generator",
    ),
    "an array of objects": (
        lambda: np.array([(x for x in ())], object),
        "processor.extra[0] could not be noticed, so nothing was cached: it is a",
    ),
    "in a closure": (
        lambda: closure(x for x in ()),
        "scale.factor could not be noticed, so nothing was cached: it is a builtins.generator",
    ),
    "what each thread has of its own": (
        threading.local,
        "processor.extra could not be noticed, so nothing was cached: it is a _thread._local",
    ),
    "a connection": (
        lambda: sqlite3.connect(":memory:"),
        "processor.extra could not be noticed, so nothing was cached: it is a sqlite3.Connection",
    ),
    "an object of a class without a hash": (
        lambda: Unhashable("A", (), {})(),
        "Changes of the processor Wav2Vec2FeatureExtractor could not be noticed, so nothing was cached: looking",
    ),
    "an object that refuses to be pickled": (Unwilling, "Unwilling, and its state cannot be seen (never)"),
}


@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_show_its_state_is_refused(case):
    make, message = REFUSED[case]
    with pytest.raises(UnfingerprintableProcessorError) as error:
        sha_with(make())
    assert message in str(error.value)
    assert error.value.path in str(error.value)
    assert "could not be noticed, so nothing was cached" in str(error.value)
    assert 'Pass identity="my-front-end-v1" to CachedFeatures' in str(error.value)
    assert "0x" not in str(error.value)


BY_TYPE = {
    "locks": (threading.Lock, threading.Lock),
    "pools": (lambda: ThreadPoolExecutor(1), lambda: ThreadPoolExecutor(2)),
    "locks that are held again and again": (threading.RLock, threading.RLock),
    "open files": (lambda: open(__file__), lambda: open(os.devnull)),  # noqa: SIM115
    "loggers": (lambda: logging.getLogger("a"), lambda: logging.getLogger("b")),
}


@pytest.mark.parametrize("case", BY_TYPE)
def test_what_only_serves_the_program_counts_by_its_type(case):
    one, other = (make() for make in BY_TYPE[case])
    try:
        assert sha_with(one) == sha_with(other)
        assert sha_with(one) != sha_with(None)
    finally:
        for value in (one, other):
            if isinstance(value, io.IOBase):
                value.close()


def test_a_refusal_comes_with_the_first_word(tmp_path):
    extractor = extractors.make("Wav2Vec2")
    extractor.steps = (x for x in ())
    with pytest.raises(UnfingerprintableProcessorError, match=r"processor\.steps"):
        CachedFeatures(extractor, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_nested_extractors_count():
    shas = set()
    for padding_value in (0.0, 1.0):
        extractor = extractors.make("Wav2Vec2")
        extractor.part = extractors.make("SeamlessM4T", padding_value=padding_value)
        shas.add(processor_sha256(extractor))
        extractor.part.processor_class = "SomeProcessor"
        shas.add(processor_sha256(extractor))
    assert len(shas) == 2


# The backend --------------------------------------------------------------------------------------------------------

DESCRIPTIONS = """
import json, sys, extractors
from hf_audio_cache.processors.identity import Fingerprinter
descriptions = {name: Fingerprinter(extractors.make(name), {}).identity().description for name in sys.argv[1:]}
print(json.dumps([descriptions, "torch" in sys.modules]))
"""


@pytest.mark.torch
def test_torch_counts_where_it_computes():
    names = ("Whisper", "MossTranscribeDiarize", "Wav2Vec2", "Encodec", "SpeechT5")
    with_torch = json.loads(json.dumps({name: identity_of(extractors.make(name)).description for name in names}))
    without, has_torch = data.run_program(DESCRIPTIONS, *names, has_torch=False)
    assert not has_torch
    assert with_torch["Whisper"] != without["Whisper"]
    assert with_torch["Whisper"]["backends"] == {"is_torch_available": True}
    assert without["Whisper"]["backends"] == {"is_torch_available": False}
    assert with_torch["Whisper"]["state"] == without["Whisper"]["state"]
    assert with_torch["MossTranscribeDiarize"] != without["MossTranscribeDiarize"]
    for name in ("Wav2Vec2", "Encodec", "SpeechT5"):
        assert with_torch[name] == without[name], name

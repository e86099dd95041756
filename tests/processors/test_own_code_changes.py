"""A front end of one's own that is changed in place has another identity at once, and the old one when it is undone."""

from __future__ import annotations

import array
import builtins
import collections
import concurrent.futures
import enum
import functools
import io
import sys
import time
import types
import weakref

import numpy as np
import pytest

from hf_audio_cache import CachedFeatures, processor_sha256
from hf_audio_cache.errors import UnfingerprintableProcessorError
from hf_audio_cache.processors.identity import Fingerprinter


class Part:
    """An object that is held."""

    gain = 1

    def __init__(self, **state):
        vars(self).update(state)

    def method(self):
        return 1

    @property
    def size(self):
        return 1

    @classmethod
    def make(cls):
        return cls()


class Child(Part):
    """Of a derived class."""


class Other(Part):
    """Of another one."""

    gain = 1


class Slotted:
    __slots__ = ("__private", "floor", "unset")

    def __init__(self, floor):
        self.floor = self.__private = floor


class Meta(type):
    limit = 1


class WithMeta(metaclass=Meta):
    pass


class Mode(enum.Enum):
    FAST = 1


class Count:
    def __init__(self, owner, name):
        self.owner, self.name = owner, name


def function(x, y=None, *, z=None):
    return x


@functools.singledispatch
def by_type(x):
    return x


def closure(value):
    def inner():
        return value

    return inner


def set_cell(inner, value):
    inner.__closure__[0].cell_contents = value


GAIN = 1
TABLE = {"a": [1]}
ARRAY = np.zeros(4)
helpers = types.ModuleType("own_helpers")
sys.modules["own_helpers"] = helpers
exec("N = 1\ndef f(x): return x\nclass A:\n    def g(self): return 1", vars(helpers))


class FrontEnd:
    """What is looked at."""

    sampling_rate = 16_000

    def __init__(self, held=None):
        self.held = held

    def __call__(self, raw_speech, sampling_rate=None):
        used = (
            GAIN,
            TABLE,
            ARRAY,
            function,
            by_type,
            Mode,
            WithMeta,
            Child,
            abs,
            helpers.f,
            helpers.N,
            helpers.A().g(),
        )
        return {"y": [raw_speech[0][: len(used)]]}


# What is held, and how it is changed in place.
STATE = {
    "an item is appended": (lambda: [1], lambda held: held.append(2)),
    "an item is another one of the same value": (lambda: [1], lambda held: held.__setitem__(0, 1.0)),
    "an item of a list in a tuple": (lambda: ([1],), lambda held: held[0].append(2)),
    "an item of a dict": (lambda: {"a": 1}, lambda held: held.update(a=2)),
    "a new item of a dict": (lambda: {"a": 1}, lambda held: held.update(b=1)),
    "a name of a dict": (lambda: {"a": 1}, lambda held: held.__setitem__("b", held.pop("a"))),
    "the order of a dict": (lambda: {"a": 1, "b": 1}, lambda held: held.__setitem__("a", held.pop("a"))),
    "a list in a dict in a list": (lambda: [{"a": [1]}], lambda held: held[0]["a"].append(2)),
    "an item of a set": (lambda: {1}, lambda held: held.add(2)),
    "an item of a set of objects": (lambda: {Part(a=1)}, lambda held: setattr(next(iter(held)), "a", 2)),
    "an item of a defaultdict": (lambda: collections.defaultdict(list, a=[1]), lambda held: held["a"].append(2)),
    "the order of an OrderedDict": (lambda: collections.OrderedDict(a=1, b=2), lambda held: held.move_to_end("a")),
    "the default of a defaultdict": (
        lambda: collections.defaultdict(list),
        lambda held: setattr(held, "default_factory", dict),
    ),
    "a function in an object of a library": (
        lambda: np.vectorize(function),
        lambda held: setattr(held, "pyfunc", closure(1)),
    ),
    "an item of a deque": (lambda: collections.deque([1]), lambda held: held.append(2)),
    "an item of a list in a deque": (lambda: collections.deque([[1]]), lambda held: held[0].append(2)),
    "a count": (lambda: collections.Counter("a"), lambda held: held.update("a")),
    "an item of a UserDict": (lambda: collections.UserDict(a=1), lambda held: held.update(a=2)),
    "an item of a UserList": (lambda: collections.UserList([1]), lambda held: held.append(2)),
    "an item of a ChainMap": (lambda: collections.ChainMap({"a": 1}), lambda held: held.update(a=2)),
    "what is behind a proxy": (lambda: types.MappingProxyType(TABLE), lambda held: None),
    "an attribute of a namespace": (lambda: types.SimpleNamespace(a=1), lambda held: setattr(held, "a", 2)),
    "an attribute": (lambda: Part(a=1), lambda held: setattr(held, "a", 2)),
    "a new attribute": (lambda: Part(a=1), lambda held: setattr(held, "b", 2)),
    "an attribute that hides the class's": (lambda: Part(), lambda held: setattr(held, "gain", 1.0)),
    "an attribute is gone": (lambda: Part(a=1, b=2), lambda held: delattr(held, "b")),
    "an attribute of a part's part": (lambda: Part(a=Part(b=1)), lambda held: setattr(held.a, "b", 2)),
    "the class of an object": (lambda: Part(), lambda held: setattr(held, "__class__", Other)),
    "a slot": (lambda: Slotted(1), lambda held: setattr(held, "floor", 2)),
    "a private slot": (lambda: Slotted(1), lambda held: setattr(held, "_Slotted__private", 2)),
    "a slot that was not set": (lambda: Slotted(1), lambda held: setattr(held, "unset", 2)),
    "an element of an array": (lambda: np.zeros(4), lambda held: held.__setitem__(3, 1)),
    "the sign of an element": (lambda: np.zeros(4), lambda held: np.negative(held, out=held)),
    "an array through another one": (lambda: np.zeros((4, 4)), lambda held: held.T[1].fill(1)),
    "an array through what it shows": (lambda: np.zeros(8)[::2], lambda held: held.base.fill(1)),
    "the shape of an array": (lambda: np.zeros(4), lambda held: held.resize((2, 2), refcheck=False)),
    "an array in an array of objects": (lambda: np.array([np.zeros(2), None], object), lambda held: held[0].fill(1)),
    "a field of an array": (lambda: np.zeros(2, [("a", "i4")]), lambda held: held["a"].fill(1)),
    "a mask": (lambda: np.ma.array([1, 2], mask=[0, 0]), lambda held: held.mask.fill(True)),
    "a bytearray": (lambda: bytearray(b"a"), lambda held: held.append(1)),
    "an array of Python's": (lambda: array.array("i", [1]), lambda held: held.append(1)),
    "a file in memory": (lambda: io.BytesIO(b"a"), lambda held: held.write(b"b")),
    "an iterator": (lambda: iter([1, 2]), next),
    "a random generator": (lambda: np.random.default_rng(0), lambda held: held.normal()),
    "a random generator of Python's": (lambda: __import__("random").Random(0), lambda held: held.random()),
    "arguments of a partial": (
        lambda: functools.partial(function, 1),
        lambda held: held.__setstate__((function, (2,), {}, None)),
    ),
    "keywords of a partial": (lambda: functools.partial(function, z=1), lambda held: held.keywords.update(z=2)),
    "a list in a partial": (lambda: functools.partial(function, [1]), lambda held: held.args[0].append(2)),
    "a list in a default": (lambda: closure([1]), lambda held: held.__closure__[0].cell_contents.append(2)),
    "a closure": (lambda: closure(1), lambda held: set_cell(held, 2)),
    "an attribute of a function": (lambda: closure(1), lambda held: setattr(held, "a", 1)),
    "the defaults of a function": (lambda: lambda x=1: x, lambda held: setattr(held, "__defaults__", (2,))),
    "the code of a function": (lambda: lambda x: x, lambda held: setattr(held, "__code__", (lambda x: x + 1).__code__)),
    "the object of a method": (lambda: Part(a=1).method, lambda held: setattr(held.__self__, "a", 2)),
    "the list of a method": (lambda: [1].index, lambda held: held.__self__.append(2)),
    "what a weak reference is to": (
        lambda: KEPT.__setitem__(0, Part()) or weakref.ref(KEPT[0]),
        lambda held: setattr(held(), "a", 1),
    ),
    "a list of its own": (lambda: type("A", (list,), {})([1]), lambda held: held.append(2)),
    "an attribute of a list of its own": (lambda: type("A", (list,), {})([1]), lambda held: setattr(held, "a", 2)),
    "an item of a list in a list of its own": (lambda: type("A", (list,), {})([[1]]), lambda held: held[0].append(2)),
    "a deep list": (lambda: nested(100), lambda held: deepest(held).append(2)),
    "a cycle": (lambda: ring(), lambda held: held[0].append(2)),
}
KEPT = {}


def nested(levels):
    found = [1]
    for _ in range(levels):
        found = [found]
    return found


def deepest(held):
    while isinstance(held[0], list):
        held = held[0]
    return held


def ring():
    found = [[1]]
    found.append(found)
    return found


@pytest.mark.parametrize("name", STATE)
def test_a_change_in_place_counts_at_once(name, monkeypatch):
    make, change = STATE[name]
    if name == "what is behind a proxy":
        monkeypatch.setitem(TABLE, "b", 1)
        make, change = (lambda: types.MappingProxyType(TABLE)), (lambda held: TABLE.update(b=2))
    held = make()
    front_end = FrontEnd(held)
    fingerprinter = Fingerprinter(front_end, {})
    sha = fingerprinter.identity().sha
    assert fingerprinter.identity().sha == sha
    change(held)
    assert processor_sha256(front_end) != sha, "a new fingerprinter"
    assert fingerprinter.identity().sha != sha, "one that was asked before"


@pytest.mark.torch
@pytest.mark.parametrize(
    "change",
    {
        "an element": lambda module: module.weight.data.__setitem__((0, 0), 9),
        "behind torch's back": lambda module: module.weight.data.add_(1),
        "through NumPy": lambda module: module.weight.detach().numpy().fill(2),
        "a buffer": lambda module: module.window.fill_(2),
        "an attribute": lambda module: setattr(module, "gain", 2),
        "a weight": lambda module: setattr(module, "weight", type(module.weight)(module.weight.data + 1)),
        "training": lambda module: module.train(),
        "a hook": lambda module: module.register_forward_hook(lambda *a: None),
        "a layer": lambda module: module.add_module("layer", type(module)(1, 1)),
        "the type": lambda module: module.double(),
    }.items(),
    ids=lambda change: change[0],
)
def test_a_change_of_a_torch_module_counts_at_once(change):
    import torch

    module = torch.nn.Linear(2, 2).eval()
    module.register_buffer("window", torch.ones(4))
    front_end = FrontEnd(module)
    fingerprinter = Fingerprinter(front_end, {})
    sha = fingerprinter.identity().sha
    change[1](module)
    assert processor_sha256(front_end) != sha
    assert fingerprinter.identity().sha != sha


@pytest.mark.torch
def test_weights_that_a_module_computes_from_others_count():
    import torch

    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2))  # refuses to be pickled
    front_end = FrontEnd(layer)
    fingerprinter = Fingerprinter(front_end, {})
    sha = fingerprinter.identity().sha
    layer.parametrizations.weight.original0.data.add_(1)
    assert fingerprinter.identity().sha != sha


@pytest.mark.torch
def test_hooks_count_and_not_how_many_were_registered_before():
    import torch

    def with_hook(hook):
        module = torch.nn.Identity()
        module.register_forward_hook(hook)  # under a number that all modules of a process share
        return processor_sha256(FrontEnd(module))

    assert with_hook(function) == with_hook(function) != with_hook(closure)


# What of a module, class or function is changed, and to what.
PLACES = {
    "a global": (sys.modules[__name__], "GAIN", 2),
    "a global of another type": (sys.modules[__name__], "GAIN", 1.0),
    "a global that is a function": (sys.modules[__name__], "function", lambda x: 1),
    "a global that hides a function of Python's": (sys.modules[__name__], "abs", lambda x: 1),
    "a function of Python's": (builtins, "abs", lambda x: 1),
    "an attribute of the class": (FrontEnd, "sampling_rate", 16_000.0),
    "a new method": (FrontEnd, "new", lambda self: 1),
    "the call": (FrontEnd, "__call__", lambda self, raw_speech, sampling_rate=None: {"y": raw_speech}),
    "an attribute of a parent": (Part, "gain", 2),
    "a method of a parent": (Part, "method", lambda self: 2),
    "a property": (Part, "size", property(lambda self: 2)),
    "a class method": (Part, "make", classmethod(lambda cls: 1)),
    "the code of a class method": (Part.make.__func__, "__code__", (lambda cls: 1).__code__),
    "a new attribute of a class": (Child, "gain", 1),
    "an attribute of a metaclass": (Meta, "limit", 2),
    "an attribute of a member": (Mode.FAST, "limit", 2),
    "the value of a member": (Mode.FAST, "_value_", 2),
    "a default": (function, "__defaults__", (1,)),
    "a keyword's default": (function, "__kwdefaults__", {"z": 1}),
    "the code of a function": (function, "__code__", (lambda x, y=None, *, z=None: y).__code__),
    "an attribute of a function": (function, "a", 1),
    "a function of a module": (helpers, "f", lambda x: 1),
    "a constant of a module": (helpers, "N", 2),
    "a method of a class of a module": (helpers.A, "g", lambda self: 2),
    "another function of a module": (helpers, "new", eval("lambda x: 1", vars(helpers))),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_patch_counts_at_once_and_no_longer_than_it_lasts(name, monkeypatch):
    place, attribute, value = PLACES[name]
    front_end = FrontEnd()
    fingerprinter = Fingerprinter(front_end, {})
    sha = fingerprinter.identity().sha
    with monkeypatch.context() as patching:
        patching.setattr(place, attribute, value, raising=False)
        assert fingerprinter.identity().sha != sha, "one that was asked before"
        assert processor_sha256(front_end) != sha, "a new fingerprinter"
    assert fingerprinter.identity().sha == sha
    assert processor_sha256(front_end) == sha


def test_other_parents_of_a_class_count_at_once():
    front_end = FrontEnd()
    fingerprinter = Fingerprinter(front_end, {})
    sha = fingerprinter.identity().sha
    Child.__bases__ = (Other,)
    try:
        assert fingerprinter.identity().sha != sha
        assert processor_sha256(front_end) != sha
    finally:
        Child.__bases__ = (Part,)
    assert fingerprinter.identity().sha == sha


def test_a_function_of_a_new_type_counts_at_once():
    front_end = FrontEnd()
    fingerprinter = Fingerprinter(front_end, {})
    sha = fingerprinter.identity().sha
    by_type.register(type("A", (), {}), lambda x: 1)
    assert fingerprinter.identity().sha != sha
    assert processor_sha256(front_end) == fingerprinter.identity().sha


def test_arguments_of_the_call_count_with_their_code_at_once():
    kwargs = {"window": closure([1])}
    fingerprinter = Fingerprinter(FrontEnd(), kwargs)
    shas = {fingerprinter.identity().sha}
    set_cell(kwargs["window"], [2])
    shas.add(fingerprinter.identity().sha)
    kwargs["window"].__closure__[0].cell_contents.append(3)
    shas.add(fingerprinter.identity().sha)
    kwargs["window"].__code__ = closure(1).__code__.replace(co_name="other")
    shas.add(fingerprinter.identity().sha)
    kwargs["new"] = 1
    shas.add(fingerprinter.identity().sha)
    assert len(shas) == 5


# What a call itself does ----------------------------------------------------------------------------------------------


class Lazy(FrontEnd):
    """It makes its window when it is called first."""

    def __init__(self):
        self.window = None

    def __call__(self, raw_speech, sampling_rate=None):
        if self.window is None:
            self.window = np.hanning(400)
        return {"y": [raw_speech[0][:400] * self.window[: len(raw_speech[0])]]}


MEMO = {}


class WithMemo(FrontEnd):
    """It keeps a table in its module."""

    def __call__(self, raw_speech, sampling_rate=None):
        if sampling_rate not in MEMO:
            MEMO[sampling_rate] = np.ones(8)
        return {"y": [raw_speech[0][:8] * MEMO[sampling_rate]]}


class Again(FrontEnd):
    """It makes the same array anew in each call."""

    def __call__(self, raw_speech, sampling_rate=None):
        self.window = np.ones(8)
        return {"y": [raw_speech[0][:8] * self.window]}


class Property(FrontEnd):
    @functools.cached_property
    def window(self):
        return np.ones(8)

    def __call__(self, raw_speech, sampling_rate=None):
        return {"y": [raw_speech[0][:8] * self.window]}


class Importing(FrontEnd):
    def __call__(self, raw_speech, sampling_rate=None):
        import wave

        return {"y": [raw_speech[0][:8] * len(wave.__name__)]}


@pytest.mark.parametrize("kind", [Lazy, WithMemo, Again, Property, Importing])
def test_what_a_first_call_makes_changes_nothing(kind, tmp_path):
    MEMO.clear()
    front_end = kind()
    cached_features = CachedFeatures(front_end, tmp_path)
    sha = cached_features.processor_sha
    for seconds in (1.0, 2.0):
        array_of = np.linspace(-1, 1, int(seconds * 16_000), dtype=np.float32)
        cached_features({"audio": {"array": array_of, "sampling_rate": 16_000}})
        assert cached_features.processor_sha == sha
        assert processor_sha256(front_end) == sha
        assert processor_sha256(kind()) == sha
    assert cached_features.stats.computed == 2


class Remembering(FrontEnd):
    """It keeps what it computes of its attribute, by itself and by a number."""

    gain = 1

    @functools.cache  # noqa: B019 - it keeps what it is of, as front ends do
    def of_self(self):
        return self.gain

    @staticmethod
    @functools.lru_cache(maxsize=4)
    def of_number(number):
        return TABLE["a"][0] * number

    def __call__(self, raw_speech, sampling_rate=None):
        return {"y": [raw_speech[0] * self.of_self() * self.of_number(1)]}


def test_what_an_lru_cache_kept_and_no_longer_fits_is_forgotten(monkeypatch):
    """Otherwise values that an earlier state left in the cache would be stored under the new identity."""
    clip = [np.ones(4, np.float32)]
    front_end = Remembering()
    fingerprinter = Fingerprinter(front_end, {})
    shas = [fingerprinter.identity().sha]
    assert front_end(clip)["y"][0][0] == 1
    front_end.gain = 2
    monkeypatch.setitem(TABLE, "a", [3])
    shas.append(fingerprinter.identity().sha)
    assert front_end(clip)["y"][0][0] == 6
    front_end.gain = 1
    shas.append(processor_sha256(front_end))
    assert front_end(clip)["y"][0][0] == 3
    assert len(set(shas)) == 3


class Counting(FrontEnd):
    def __init__(self):
        self.calls = 0

    def __call__(self, raw_speech, sampling_rate=None):
        self.calls += 1
        return {"y": raw_speech}


class Noting(FrontEnd):
    """It keeps something of each clip."""

    def __call__(self, raw_speech, sampling_rate=None):
        self.last = len(raw_speech[0])
        return {"y": raw_speech}


class OfEachLength(FrontEnd):
    def __init__(self):
        self.windows = {}

    def __call__(self, raw_speech, sampling_rate=None):
        window = self.windows.setdefault(len(raw_speech[0]), np.hanning(len(raw_speech[0])))
        return {"y": [raw_speech[0] * window]}


class Drawing(FrontEnd):
    def __init__(self):
        self.part = Part(generator=np.random.default_rng(0))

    def __call__(self, raw_speech, sampling_rate=None):
        return {"y": [raw_speech[0] + self.part.generator.normal()]}


@pytest.mark.parametrize(
    ("kind", "path"),
    [(Counting, "calls"), (Noting, "last"), (OfEachLength, "windows"), (Drawing, r"part\.generator: ")],
)
def test_one_that_each_call_changes_is_refused_by_the_attribute(kind, path, tmp_path):
    with pytest.raises(UnfingerprintableProcessorError, match=rf"changes it, .* What changes: {path}") as error:
        CachedFeatures(kind(), tmp_path / "root")
    assert 'pass identity="my-front-end-v1"' in str(error.value)
    assert not (tmp_path / "root").exists()


class LeavingOut(OfEachLength):
    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "windows"}


def test_a_cache_of_each_clip_that_pickling_leaves_out_does_not_count():
    front_end = LeavingOut()
    shas = {processor_sha256(front_end) for _ in range(3)}
    front_end([np.ones(400, np.float32)])
    assert {*shas, processor_sha256(front_end), processor_sha256(LeavingOut())} == shas
    assert len(shas) == 1


class OfProcess(FrontEnd):
    def __init__(self):
        super().__init__()
        self.process = time.perf_counter_ns()
        self.folder, self.made = f"/tmp/{self.process}", self.process / 2

    def __getstate__(self):
        return {}

    def __call__(self, raw_speech, sampling_rate=None):
        assert self.process
        assert self.folder
        assert self.made
        return super().__call__(raw_speech, sampling_rate)


def test_what_belongs_to_a_process_and_pickling_leaves_out_does_not_count():
    assert processor_sha256(OfProcess()) == processor_sha256(OfProcess())


def test_a_front_end_that_fails_on_made_up_sound_has_an_identity():
    class Failing(FrontEnd):
        def __call__(self, raw_speech, sampling_rate=None):
            raise ValueError("too short")

    assert len(processor_sha256(Failing())) == 64


def test_the_made_up_sound_has_the_rate_of_the_front_end():
    rates = []

    class Noting:
        def __call__(self, raw_speech, sampling_rate=None):
            rates.append((len(raw_speech[0]), sampling_rate))
            del rates[1:]  # as far as it can, it is as it was
            return {"y": raw_speech}

    processor_sha256(Noting(), sampling_rate=8_000)
    assert rates == [(8_000, 8_000)]


def test_a_pickling_hook_that_fails_later_is_a_refusal():
    class Part:
        fails = False

        def __reduce__(self):
            if self.fails:
                raise ValueError("not now")
            return (Part, ())

    part = Part()
    fingerprinter = Fingerprinter(FrontEnd(part), {})
    sha = fingerprinter.identity().sha
    part.fails = True
    with pytest.raises(UnfingerprintableProcessorError, match="not now"):
        fingerprinter.identity()
    del part.fails
    assert fingerprinter.identity().sha == sha


def test_four_threads_on_one_front_end():
    front_end = Lazy()
    fingerprinter = Fingerprinter(front_end, {})

    def work(number):
        front_end([np.ones(100 * (number + 1), np.float32)])
        return fingerprinter.identity().sha

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(work, range(64)))) == 1


# What is not refused, and changes nothing -----------------------------------------------------------------------------


def test_describing_runs_no_code_of_ones_own_but_the_pickling_hooks():
    ran = []

    class Guarded:
        def __getattr__(self, name):
            ran.append(name)
            raise AttributeError(name)

        def __eq__(self, other):
            ran.append("==")
            return True

        def __hash__(self):
            return 1

        def __len__(self):
            ran.append("len")
            return 0

        def __repr__(self):
            ran.append("repr")
            return "Guarded()"

        @property
        def dangerous(self):
            ran.append("property")

    def is_ready_available():
        ran.append("available")

    class Holding(FrontEnd):
        def __call__(self, raw_speech, sampling_rate=None):
            return {"y": raw_speech, **({"z": is_ready_available} if sampling_rate == 1 else {})}

    assert len(processor_sha256(Holding([Guarded(), {Guarded(): Guarded()}]))) == 64
    assert ran == [] or sys.version_info < (3, 11)  # Python 3.10 asks the object itself for `__getstate__`


def test_globals_that_are_not_loaded_do_not_count(monkeypatch):
    """As in a notebook: files, data frames and counters have names that are locals and attributes elsewhere."""
    sha = processor_sha256(FrontEnd())
    for name in ("raw_speech", "self", "held", "used", "sampling_rate", "f"):
        monkeypatch.setattr(sys.modules[__name__], name, (x for x in ()), raising=False)
    assert processor_sha256(FrontEnd()) == sha


def test_a_logger_and_a_lock_do_not_matter():
    import logging
    import threading

    one, other = (FrontEnd(Part(logger=logging.getLogger(name), lock=threading.Lock())) for name in "ab")
    assert processor_sha256(one) == processor_sha256(other)


LAZY_MODULES = {
    "a function": "held = {'k': 2}\ndef __getattr__(name):\n    return held[name]\n",
    "a class": """
import sys, types
held = {'k': 2}
class Lazy(types.ModuleType):
    def __getattr__(self, name):
        if name in self.__dict__['held']:
            return self.__dict__['held'][name]
        raise AttributeError(name)
sys.modules[__name__].__class__ = Lazy
""",
}


@pytest.mark.parametrize("kind", LAZY_MODULES)
def test_what_a_module_gives_by_getattr_counts_at_once(kind, tmp_path, monkeypatch):
    (tmp_path / "given.py").write_text(LAZY_MODULES[kind])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "given", raising=False)

    class P:
        def __call__(self, raw, sampling_rate=None):
            from given import k

            return {"y": raw[0] * k}

    fingerprinter = Fingerprinter(P(), {})
    before = fingerprinter.identity()
    monkeypatch.setitem(sys.modules["given"].held, "k", 3)
    assert fingerprinter.identity() != before


@pytest.mark.torch
def test_autocast_counts_where_torch_computes():
    import torch

    fingerprinter = Fingerprinter(torch.nn.Linear(4, 2), {})
    before = fingerprinter.identity()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fingerprinter.identity() != before
    assert fingerprinter.identity() == before

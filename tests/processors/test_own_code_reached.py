"""What a call reaches in code of one's own: an edit of it is another identity, however it is reached."""

from __future__ import annotations

import importlib
import sys
import textwrap

import pytest

from hf_audio_cache.processors.identity import Fingerprinter, processor_sha256

# Sources of a front end, and beside them one of a module `own_helpers`; the edit makes a 3.0 of each 2.0.
HELPERS = "def scaled(frames): return frames * 2.0"


def front_end(expression: str, *before: str, members: str = "") -> str:
    """Return the source of a module whose front end returns `expression`."""
    body = textwrap.indent(textwrap.dedent(members).strip(), "    ")
    return "\n".join(
        [
            *map(textwrap.dedent, before),
            "class FrontEnd:",
            body,
            "    def __call__(self, frames):",
            f"        {expression}",
        ]
    )


OF_GAIN = "return 2.0 if name == 'gain' else object.__getattribute__(self, name)"
BY_SYNTAX = {
    "an operator": ("K * frames", "def __mul__(self, other): return other * 2.0"),
    "an operator from the right": ("frames * K", "def __rmul__(self, other): return other * 2.0"),
    "an item": ("K[0]", "def __getitem__(self, number): return 2.0"),
    "an attribute": ("K.gain", f"def __getattr__(self, name): {OF_GAIN}"),
    "any attribute": ("K.gain", f"def __getattribute__(self, name): {OF_GAIN}"),
    "a context": ("contextlib.ExitStack().enter_context(K)", "def __enter__(self): return 2.0"),
    "iteration": ("list(K)", "def __iter__(self): yield 2.0"),
    "a truth value": ("1 if K else 2", "def __bool__(self): return frames > 2.0"),
    "a length": ("len(K)", "def __len__(self): return int(2.0)"),
    "a number": ("float(K)", "def __float__(self): return 2.0"),
    "a comparison": ("K == frames", "def __eq__(self, other): return 2.0"),
    "an array": ("np.asarray(K)", "def __array__(self, dtype=None, copy=None): return 2.0"),
}


def by_syntax(expression: str, method: str, holder: str) -> str:
    """Return a front end that uses an object by syntax: its own, one of the module, one it makes or holds."""
    helper = f"import contextlib\nimport numpy as np\nclass Helper:\n    {method}"
    held = "def __init__(self): self.held = Helper()"
    return {
        "itself": front_end(f"return {expression.replace('K', 'self')}", helper, members=method),
        "of the module": front_end(f"return {expression}", helper, "K = Helper()"),
        "made": front_end(f"return {expression.replace('K', 'Helper()')}", helper),
        "held": front_end(f"return {expression.replace('K', 'self.held')}", helper, members=held),
        "inherited": front_end(f"return {expression}", helper, "class Child(Helper): pass", "K = Child()"),
    }[holder]


AS_VALUES = {
    "getattr of a module": front_end("return getattr(own_helpers, 'scaled')(frames)", "import own_helpers"),
    "another name of a module": front_end("h = own_helpers; return h.scaled(frames)", "import own_helpers"),
    "a module as an argument": front_end(
        "return use(own_helpers, frames)", "import own_helpers", "def use(module, frames): return module.scaled(frames)"
    ),
    "a module in a dict": front_end(
        "return TABLE['h'].scaled(frames)", "import own_helpers", "TABLE = {'h': own_helpers}"
    ),
    "a module that is held": front_end(
        "return self.h.scaled(frames)", "import own_helpers", members="def __init__(self): self.h = own_helpers"
    ),
    "a module in the class": front_end("return self.h.scaled(frames)", "import own_helpers", members="h = own_helpers"),
    "a local import": front_end("import own_helpers as h; return h.scaled(frames)"),
    "vars of a module": front_end("return vars(own_helpers)['scaled'](frames)", "import own_helpers"),
    "all names of a module": front_end("return scaled(frames)", "from own_helpers import *"),
}

CONSTANTS = {
    "a field of a dataclass": front_end(
        "return frames * Settings().gain",
        "from dataclasses import dataclass",
        """
        @dataclass
        class Settings:
            gain: float = 2.0
        """,
    ),
    "a field of a named tuple": front_end(
        "return frames * Settings().gain",
        "from typing import NamedTuple",
        """
        class Settings(NamedTuple):
            gain: float = 2.0
        """,
    ),
    "a constant of a metaclass": front_end(
        "return frames * Settings.gain",
        """
        class Meta(type):
            gain = 2.0
        class Settings(metaclass=Meta): pass
        """,
    ),
    "a function's attribute": front_end(
        "return scaled(frames)", "def scaled(frames): return frames * scaled.gain", "scaled.gain = 2.0"
    ),
    "an argument of a decorator": front_end(
        "return scaled(frames)",
        """
        def times(gain):
            def decorate(function):
                def wrapper(frames): return function(frames) * gain
                return wrapper
            return decorate
        @times(2.0)
        def scaled(frames): return frames
        """,
    ),
    "a complex number": front_end("return frames * K", "K = 2.0j"),
    "a range": front_end("return frames[list(K)]", "K = range(int(2.0))"),
    "a slice": front_end("return frames[K]", "K = slice(int(2.0))"),
    "a decimal number": front_end("return frames * float(K)", "from decimal import Decimal", "K = Decimal('2.0')"),
    "a duration": front_end(
        "return frames * K.total_seconds()", "from datetime import timedelta", "K = timedelta(seconds=2.0)"
    ),
    "a pattern": front_end("return K.sub('', 'x')", "import re", "K = re.compile('2.0')"),
    "a queue": front_end("return frames * K[0]", "from collections import deque", "K = deque([2.0])"),
}

# What a call runs lies in an object of another class; `outer` calls `inner`, which the edit changes.
FUNCTIONS = """
    def inner(frames): return frames * 2.0
    def outer(frames): return inner(frames)
"""
HELD = {
    "a function in a library's object": front_end(
        "return K(frames)", "import numpy as np", FUNCTIONS, "K = np.vectorize(outer)"
    ),
    "one in an object that is held": front_end(
        "return self.k(frames)",
        "import numpy as np",
        FUNCTIONS,
        members="def __init__(self): self.k = np.vectorize(outer)",
    ),
    "one behind a method of such an object": front_end(
        "return K(frames)", "import numpy as np", FUNCTIONS, "K = np.vectorize(outer).__call__"
    ),
    "the default of a dict": front_end(
        "return K[0](frames)", "from collections import defaultdict", FUNCTIONS, "K = defaultdict(lambda: outer)"
    ),
    "a function in a queue": front_end(
        "return K[0](frames)", "from collections import deque", FUNCTIONS, "K = deque([outer])"
    ),
    "a function in a list of another class": front_end(
        "return K[0](frames)", "from collections import UserList", FUNCTIONS, "K = UserList([outer])"
    ),
    "a function in a namespace": front_end(
        "return K.f(frames)", "from types import SimpleNamespace", FUNCTIONS, "K = SimpleNamespace(f=outer)"
    ),
    "a class behind a generic alias": front_end(
        "return K().scaled(frames)",
        """
        from typing import Generic, TypeVar
        T = TypeVar("T")
        class Scaler(Generic[T]):
            def scaled(self, frames): return frames * 2.0
        K = Scaler[int]
        """,
    ),
    "a method of an enum": front_end(
        "return Kind.ONE.scaled(frames)",
        """
        import enum
        class Kind(enum.Enum):
            ONE = 1
            def scaled(self, frames): return frames * 2.0
        """,
    ),
    "the value of a descriptor": front_end(
        "return frames * self.gain",
        """
        class Constant:
            def __init__(self, value): self.value = value
            def __get__(self, owner, kind=None): return self.value
        """,
        members="gain = Constant(2.0)",
    ),
    "the value of a callable object of the class": front_end(
        "return self.scaled(frames)",
        """
        class Scaled:
            def __init__(self, gain): self.gain = gain
            def __call__(self, frames): return frames * self.gain
        """,
        members="scaled = Scaled(2.0)",
    ),
    "the value of an object that decorates a method": front_end(
        "return self.scaled(frames)",
        """
        import functools
        class Scaled:
            def __init__(self, function, gain):
                functools.update_wrapper(self, function)
                self.function, self.gain = function, gain
            def __get__(self, owner, kind=None): return functools.partial(self, owner)
            def __call__(self, owner, frames): return self.function(owner, frames) * self.gain
        def scaled(self, frames): return frames
        """,
        members="scaled = Scaled(scaled, 2.0)",
    ),
    "the code of such an object": front_end(
        "return self.scaled(frames)",
        """
        import functools
        class Scaled:
            def __init__(self, function): functools.update_wrapper(self, function); self.function = function
            def __get__(self, owner, kind=None): return functools.partial(self, owner)
            def __call__(self, owner, frames): return self.function(owner, frames) * 2.0
        """,
        members="""
        @Scaled
        def scaled(self, frames): return frames
        """,
    ),
    "what is wrapped around a function of a library": front_end(
        "return louder(frames)",
        """
        import functools
        import numpy as np
        def times(function):
            @functools.wraps(function)
            def wrapper(frames): return function(frames) * 2.0
            return wrapper
        louder = times(np.hanning)
        """,
    ),
    "the object of a bound method": front_end(
        "return scaled(frames)",
        """
        class Scaler:
            def __init__(self, gain): self.gain = gain
            def scaled(self, frames): return frames * self.gain
        scaled = Scaler(2.0).scaled
        """,
    ),
    "the object of a method that is Python's": front_end("return frames * K(0)", "K = {0: 2.0}.get"),
    "an argument of a partial method": front_end(
        "return self.scaled(frames)",
        "import functools",
        members="""
        def by(self, gain, frames): return frames * gain
        scaled = functools.partialmethod(by, 2.0)
        """,
    ),
    "a method that is chosen by type": front_end(
        "return self.scaled(frames)",
        "import functools",
        members="""
        @functools.singledispatchmethod
        def scaled(self, frames): return frames
        @scaled.register
        def of_floats(self, frames: float): return frames * 2.0
        """,
    ),
}

# Names of what is not one's own: which of them it is.
CHOICES = {
    "a function of Python's": (front_end("return pool(frames)", "pool = max"), "max", "min"),
    "one that is imported": (front_end("return log(frames[0])", "from math import log10 as log"), "log10", "log2"),
    "a class of Python's": (front_end("return kind(frames[0])", "kind = int"), "= int", "= float"),
    "a library": (front_end("return xp.sin(frames[0])", "import math as xp"), "math", "cmath"),
    "the library behind np": (front_end("return np.fft(frames)", "import numpy.fft as np"), "numpy.fft", "numpy"),
    "a value of another type": (
        front_end("return frames * day.year", "from datetime import date", "day = date(2002, 1, 1)"),
        "2002",
        "2003",
    ),
}


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """``imported(source, helpers)``: the front end of a module, beside `own_helpers`, each time imported anew."""
    folders = iter(range(100))

    def imported(source, helpers=""):
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        for name, text in {"own_front_end": source, "own_helpers": helpers}.items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(folder)
        importlib.invalidate_caches()
        return importlib.import_module("own_front_end").FrontEnd()

    return imported


def check(imported, source, helpers=""):
    """Check that an edit of either source is another identity, and that the same source is the same."""
    sha = processor_sha256(imported(source, helpers))
    assert processor_sha256(imported(f"# moved\n\n{source}", f"# moved\n\n{helpers}")) == sha
    edited = source.replace("2.0", "3.0"), helpers.replace("2.0", "3.0")
    assert edited != (source, helpers)
    assert processor_sha256(imported(*edited)) != sha


@pytest.mark.parametrize("holder", ["itself", "of the module", "made", "held", "inherited"])
@pytest.mark.parametrize("name", BY_SYNTAX)
def test_a_method_that_runs_by_syntax_counts(name, holder, imported):
    check(imported, by_syntax(*BY_SYNTAX[name], holder))


@pytest.mark.parametrize("name", AS_VALUES)
def test_a_module_that_is_used_under_another_name_counts(name, imported):
    check(imported, AS_VALUES[name], HELPERS)


@pytest.mark.parametrize("name", CHOICES)
def test_what_a_name_of_a_library_stands_for_counts(name, imported):
    source, before, after = CHOICES[name]
    assert before in source
    assert processor_sha256(imported(source)) != processor_sha256(imported(source.replace(before, after)))


@pytest.mark.parametrize("name", HELD)
def test_what_another_object_holds_counts(name, imported):
    check(imported, HELD[name])


@pytest.mark.torch
def test_a_layer_of_ones_own_among_those_of_torch_counts(imported):
    layer = """
    import torch
    class Scaled(torch.nn.Module):
        def forward(self, frames): return frames * 2.0
    """
    members = "def __init__(self): self.layers = torch.nn.Sequential(torch.nn.Identity(), Scaled())"
    check(imported, front_end("return self.layers(frames)", layer, members=members))


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_value_that_is_looked_up_counts(name, imported):
    check(imported, CONSTANTS[name])


@pytest.mark.parametrize("line", ["from numpy.random import randn", "from random import gauss as randn"])
def test_a_random_function_that_is_not_called_is_no_reason_to_refuse(line, imported):
    source = front_end("return frames + randn() if self.dither else frames", line, members="dither = 0.0")
    assert processor_sha256(imported(source)) == processor_sha256(imported(source))


def test_the_log_is_no_constant(imported):
    source = front_end("info('2.0'); return frames", "import logging", "info = logging.getLogger('own').info")
    assert processor_sha256(imported(source)) == processor_sha256(imported(source))


PATCHES = {
    "a module that is used whole": (
        AS_VALUES["a module as an argument"],
        lambda front: setattr(front.own_helpers, "scaled", lambda frames: frames),
    ),
    "an enum": (
        HELD["a method of an enum"],
        lambda front: setattr(front.Kind, "scaled", lambda self, frames: frames),
    ),
    "an object of a library": (
        HELD["a function in a library's object"],
        lambda front: setattr(front.K, "pyfunc", lambda frames: frames),
    ),
    "a function in such an object": (
        HELD["a function in a library's object"],
        lambda front: setattr(front, "inner", lambda frames: frames),
    ),
    "a descriptor": (
        HELD["the value of a descriptor"],
        lambda front: setattr(vars(front.FrontEnd)["gain"], "value", 3.0),
    ),
    "the object of a bound method": (
        HELD["the object of a bound method"],
        lambda front: setattr(front.scaled.__self__, "gain", 3.0),
    ),
}


@pytest.mark.parametrize("name", PATCHES)
def test_a_patch_counts_at_once(name, imported):
    source, patch = PATCHES[name]
    made = imported(source, HELPERS)
    fingerprinter = Fingerprinter(made, {})
    sha = fingerprinter.identity().sha
    patch(sys.modules["own_front_end"])
    assert fingerprinter.identity().sha != sha, "one that was asked before"
    assert processor_sha256(made) != sha, "a new fingerprinter"


def test_a_method_that_runs_by_syntax_counts_without_source_too():
    source, shas = by_syntax("len(K)", "def __len__(self): return int(2.0)", "held"), []
    for gain in ("2.0", "3.0"):
        namespace = {"__name__": "__main__"}
        exec(source.replace("2.0", gain), namespace)
        shas.append(processor_sha256(namespace["FrontEnd"]()))
    assert shas[0] != shas[1]


def test_code_without_source_that_looks_into_a_module_counts(imported):
    imported("class FrontEnd: pass", HELPERS)
    shas = []
    for helpers in (HELPERS, HELPERS.replace("2.0", "3.0")):
        imported("class FrontEnd: pass", helpers)
        namespace = {"__name__": "__main__"}
        exec(front_end("return own_helpers.scaled(frames)", "import own_helpers"), namespace)
        shas.append(processor_sha256(namespace["FrontEnd"]()))
    assert shas[0] != shas[1]

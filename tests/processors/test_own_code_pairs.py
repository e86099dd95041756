# ruff: noqa: E501 - a line is a case
"""Pairs of front ends of one's own that compute different things, over ways to hold state and ways to reach code.

Each is a module that is imported from a folder of its own; `VALUE` is 2 in one of a pair and 3 in the other. The module's
name is another one each time, and its lines are moved, neither of which counts.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import textwrap

import numpy as np
import pytest

from hf_audio_cache import processor_sha256

HEAD = """
import abc, array, asyncio, collections, concurrent.futures, contextlib, dataclasses, datetime, decimal, enum
import fractions, functools, importlib, inspect, io, itertools, logging, math, operator, pathlib, queue, re, threading, types
import typing, uuid, weakref
import numpy as np
"""

# fmt: off
# Ways to hold a number: what makes `held`, and the expression that gives the number back.
STATE = {
    "an int": ("held = VALUE", "held"),
    "a float": ("held = VALUE.5", "held"),
    "a float in the place of an int": ("held = [1, 1.0][VALUE - 2]", "(1 if type(held) is int else 2)"),
    "a list in the place of a tuple": ("held = [(1,), [1]][VALUE - 2]", "(1 if type(held) is list else 2)"),
    "a bool in the place of an int": ("held = [1, True][VALUE - 2]", "(1 if held is True else 2)"),
    "a complex number": ("held = VALUE + 1j", "held.real"),
    "a large int": ("held = 10 ** 400 + VALUE", "held % 10"),
    "a str": ("held = 'VALUE'", "int(held)"),
    "bytes": ("held = b'VALUE'", "int(held)"),
    "a bytearray": ("held = bytearray(b'VALUE')", "int(bytes(held))"),
    "a list": ("held = [0, [VALUE]]", "held[1][0]"),
    "a tuple": ("held = (0, (VALUE,))", "held[1][0]"),
    "a dict": ("held = {'a': {'b': VALUE}}", "held['a']['b']"),
    "the order of a dict": ("held = [{2: 0, 3: 0}, {3: 0, 2: 0}][VALUE - 2]", "next(iter(held))"),
    "a key": ("held = {VALUE: 0}", "max(held)"),
    "a set": ("held = {VALUE}", "max(held)"),
    "a frozenset": ("held = frozenset({VALUE})", "max(held)"),
    "a defaultdict": ("held = collections.defaultdict(lambda: VALUE)", "held.get('a', held.default_factory())"),
    "an OrderedDict": ("held = collections.OrderedDict(a=VALUE)", "held['a']"),
    "a Counter": ("held = collections.Counter(a=VALUE)", "held['a']"),
    "a deque": ("held = collections.deque([VALUE])", "held[0]"),
    "the length of a deque": ("held = collections.deque([0], maxlen=VALUE)", "held.maxlen"),
    "a UserDict": ("held = collections.UserDict(a=VALUE)", "held['a']"),
    "a UserList": ("held = collections.UserList([VALUE])", "held[0]"),
    "a ChainMap": ("held = collections.ChainMap({}, {'a': VALUE})", "held['a']"),
    "a mapping proxy": ("held = types.MappingProxyType({'a': VALUE})", "held['a']"),
    "a namespace": ("held = types.SimpleNamespace(a=VALUE)", "held.a"),
    "an array": ("held = np.full(3, VALUE)", "int(held[0])"),
    "the type of an array": ("held = np.zeros(3, 'fV'.replace('V', '48'[VALUE - 2]))", "held.dtype.itemsize"),
    "the memory order of an array": ("held = np.ones((2, 3), order='CF'[VALUE - 2])", "held.strides[0] / 8"),
    "a 0-d array": ("held = np.array(VALUE)", "int(held)"),
    "a number of NumPy's": ("held = np.float32(VALUE)", "float(held)"),
    "a masked array": ("held = np.ma.array([2, 3], mask=[VALUE == 3, VALUE == 2])", "int(held.sum())"),
    "a structured array": ("held = np.array([(VALUE,)], [('a', 'i4')])", "int(held['a'][0])"),
    "an array of objects": ("held = np.array([[VALUE]], object)", "held[0, 0]"),
    "a dtype": ("held = np.dtype('fV'.replace('V', '48'[VALUE - 2]))", "held.itemsize"),
    "a polynomial": ("held = np.poly1d([VALUE])", "int(held(0))"),
    "an array of Python's": ("held = array.array('i', [VALUE])", "held[0]"),
    "a file in memory": ("held = io.BytesIO(b'VALUE')", "int(held.getvalue())"),
    "a decimal number": ("held = decimal.Decimal(VALUE)", "int(held)"),
    "a fraction": ("held = fractions.Fraction(VALUE)", "int(held)"),
    "a date": ("held = datetime.date(200VALUE, 1, 1)", "held.year - 2000"),
    "a duration": ("held = datetime.timedelta(VALUE)", "held.days"),
    "a range": ("held = range(VALUE)", "len(held)"),
    "a slice": ("held = slice(VALUE)", "held.stop"),
    "a pattern": ("held = re.compile('VALUE')", "int(held.pattern)"),
    "a path": ("held = pathlib.Path('VALUE')", "int(held.name)"),
    "a UUID": ("held = uuid.UUID(int=VALUE)", "held.int"),
    "an iterator": ("held = iter([VALUE, VALUE])", "held.__reduce__()[1][0][0]"),
    "a cycle of lists": ("held = [VALUE]\nheld.append(held)", "held[1][1][0]"),
    "a deep list": ("held = VALUE\nfor _ in range(300): held = [held]", "depth(held)[0]"),
    "a partial": ("held = functools.partial(int, 'VALUE')", "held()"),
    "a keyword of a partial": ("held = functools.partial(dict, a=VALUE)", "held()['a']"),
    "a getter": ("held = operator.itemgetter(VALUE)", "held(range(9))"),
    "a caller": ("held = operator.methodcaller('index', VALUE)", "held(range(9))"),
    "an object": ("class A: pass\nheld = A(); held.a = VALUE", "held.a"),
    "an object of a class with a dict": ("class A: pass\nheld = A(); vars(held)['a b'] = VALUE", "vars(held)['a b']"),
    "an object in an object": ("class A: pass\nheld = A(); held.a = A(); held.a.a = VALUE", "held.a.a"),
    "objects that hold each other": ("class A: pass\nheld = A(); held.a = A(); held.a.a = held; held.a.b = VALUE", "held.a.a.a.b"),
    "slots": ("class A: __slots__ = 'a',\nheld = A(); held.a = VALUE", "held.a"),
    "private slots": ("class A:\n    __slots__ = ('__a',)\n    def __init__(self): self.__a = VALUE\n    def get(self): return self.__a\nheld = A()", "held.get()"),
    "slots of a parent": ("class B: __slots__ = 'a',\nclass A(B): pass\nheld = A(); held.a = VALUE", "held.a"),
    "slots of a class with a dict of its own": ("class A:\n    __slots__ = 'a',\n    @property\n    def __dict__(self): raise RuntimeError\nheld = A(); held.a = VALUE", "held.a"),
    "a private attribute": ("class A:\n    def __init__(self): self.__a = VALUE\nheld = A()", "held._A__a"),
    "a dataclass": ("@dataclasses.dataclass\nclass A:\n    a: int\nheld = A(VALUE)", "held.a"),
    "a default of a dataclass": ("@dataclasses.dataclass\nclass A:\n    a: int = VALUE\nheld = A", "held().a"),
    "a default factory": ("@dataclasses.dataclass\nclass A:\n    a: int = dataclasses.field(default_factory=lambda: VALUE)\nheld = A", "held().a"),
    "a frozen dataclass with slots": ("@dataclasses.dataclass(frozen=True, slots=True)\nclass A:\n    a: int\nheld = A(VALUE)", "held.a"),
    "metadata of a dataclass": (
        "@dataclasses.dataclass\nclass A:\n    a: int = dataclasses.field(default=0, metadata={'a': VALUE})\nheld = A()",
        "dataclasses.fields(held)[0].metadata['a']",
    ),
    "a NamedTuple": ("class A(typing.NamedTuple):\n    a: int\nheld = A(VALUE)", "held.a"),
    "a default of a NamedTuple": ("class A(typing.NamedTuple):\n    a: int = VALUE\nheld = A", "held().a"),
    "a namedtuple": ("A = collections.namedtuple('A', 'a')\nheld = A(VALUE)", "held.a"),
    "the fields of a namedtuple": ("A = collections.namedtuple('A', ['b a', 'a b'][VALUE - 2])\nheld = A(2, 3)", "held.a"),
    "a list of one's own": ("class A(list): pass\nheld = A([VALUE])", "held[0]"),
    "an attribute of a list": ("class A(list): pass\nheld = A(); held.a = VALUE", "held.a"),
    "a dict of one's own": ("class A(dict): pass\nheld = A(a=VALUE)", "held['a']"),
    "a set of one's own": ("class A(set): pass\nheld = A([VALUE])", "max(held)"),
    "a float of one's own": ("class A(float): pass\nheld = A(VALUE)", "int(held)"),
    "an attribute of a float": ("class A(float): pass\nheld = A(); held.a = VALUE", "held.a"),
    "a str of one's own": ("class A(str): pass\nheld = A('VALUE')", "int(held)"),
    "an array of one's own": ("class A(np.ndarray): pass\nheld = np.full(2, VALUE).view(A)", "int(held[0])"),
    "an attribute of an array": ("class A(np.ndarray): pass\nheld = np.ones(2).view(A); held.a = VALUE", "held.a"),
    "a member of an enum": ("class A(enum.Enum):\n    TWO = 2\n    THREE = 3\nheld = A(VALUE)", "held.value"),
    "the value of a member": ("class A(enum.Enum):\n    ONE = VALUE\nheld = A.ONE", "held.value"),
    "an attribute of a member": ("class A(enum.Enum):\n    ONE = 1\n    def __init__(self, a): self.a = VALUE\nheld = A.ONE", "held.a"),
    "flags": ("class A(enum.Flag):\n    A = 1\n    B = 2\n    C = 4\nheld = A.A | [A.B, A.C][VALUE - 2]", "held.value"),
    "an attribute of a class": ("class A: a = VALUE\nheld = A", "held.a"),
    "an attribute of a parent": ("class B: a = VALUE\nclass A(B): pass\nheld = A", "held.a"),
    "the order of parents": ("class B: a = 2\nclass C: a = 3\nclass A(*[(B, C), (C, B)][VALUE - 2]): pass\nheld = A", "held.a"),
    "an attribute of a metaclass": ("class M(type): a = VALUE\nclass A(metaclass=M): pass\nheld = A", "held.a"),
    "a class made by type": ("held = type('A', (), {'a': VALUE})", "held.a"),
    "a class made by exec": ("scope = {}\nexec('class A: a = VALUE', scope)\nheld = scope['A']", "held.a"),
    "a closure": ("def make(a):\n    return lambda: a\nheld = make(VALUE)", "held()"),
    "a closure in a closure": ("def make(a):\n    return lambda: (lambda: a)()\nheld = make(VALUE)", "held()"),
    "an attribute of an object in a closure": ("class A: pass\nx = A(); x.a = VALUE\ndef make(b):\n    return lambda: b.a\nheld = make(x)", "held()"),
    "a default": ("held = lambda a=VALUE: a", "held()"),
    "a keyword's default": ("def held(*, a=VALUE): return a", "held()"),
    "an attribute of a function": ("def held(): return held.a\nheld.a = VALUE", "held()"),
    "a bound method": ("class A:\n    def get(self): return self.a\nx = A(); x.a = VALUE\nheld = x.get", "held()"),
    "a method of a dict": ("held = {'a': VALUE}.get", "held('a')"),
    "which of two lambdas": ("held = [lambda: 2, lambda: 3][VALUE - 2]", "held()"),
    "which of two functions of a library": ("held = [max, min][VALUE - 2]", "held(2, 3)"),
    "which of two classes of Python's": ("held = [int, float][VALUE - 2]", "(1 if held is int else 2)"),
    "which of two libraries": ("import math, cmath\nheld = [math, cmath][VALUE - 2]", "len(held.__name__)"),
    "a property": ("class A:\n    @property\n    def a(self): return VALUE\nheld = A()", "held.a"),
    "a setter": (
        "class A:\n    @property\n    def a(self): return 0\n    @a.setter\n    def a(self, b): self.b = b + VALUE\nheld = A",
        "(lambda x: setattr(x, 'a', 0) or x.b)(held())",
    ),
    "a property of a class of one's own": ("class Prop(property): pass\nclass A:\n    a = Prop(lambda self: VALUE)\nheld = A()", "held.a"),
    "an attribute of such a property": ("class Prop(property): pass\nclass A:\n    a = Prop(lambda self: A.__dict__['a'].b)\nA.__dict__['a'].b = VALUE\nheld = A()", "held.a"),
    "an attribute of an enum's class": ("class A(enum.Enum):\n    ONE = 1\nA.table = {1: VALUE}\nheld = A.ONE", "type(held).table[1]"),
    "which of two marks": ("A, B = object(), object()\nheld = [A, B][VALUE - 2]", "(1 if held is A else 2 if held is B else 0)"),
    "a code object": ("held = compile('VALUE', 'x', 'eval')", "eval(held)"),
    "an annotation that is read": ("def f(x: 'VALUE'): pass\nheld = f", "int(held.__annotations__['x'])"),
    "an annotation of a class that is read": ("class A:\n    a: typing.Annotated[int, VALUE]\nheld = A", "typing.get_type_hints(held, include_extras=True)['a'].__metadata__[0]"),
    "a docstring of a class that is read": ("class A:\n    'VALUE'\nheld = A", "int(held.__doc__)"),
    "a class of a module": ("import sys\nclass M(types.ModuleType):\n    @property\n    def a(self): return VALUE\nheld = M('own_made')", "held.a"),
    "a cached property": ("class A:\n    @functools.cached_property\n    def a(self): return VALUE\nheld = A()", "held.a"),
    "a cached property that no longer fits": ("class A:\n    @functools.cached_property\n    def a(self): return self.b\nheld = A(); held.b = VALUE; held.a; held.b = 3", "held.a"),
    "a memo that no longer fits": ("B = VALUE\nMEMO = {}\ndef held():\n    return MEMO.setdefault(0, B)\nheld()\nB = 3", "held()"),
    "a descriptor": ("class D:\n    def __init__(self, a): self.a = a\n    def __get__(self, owner, kind=None): return self.a\nclass A: a = D(VALUE)\nheld = A()", "held.a"),
    "a descriptor that keeps values of objects": (
        "class D:\n    def __init__(self): self.all = weakref.WeakKeyDictionary()\n"
        "    def __get__(self, owner, kind=None): return self.all[owner]\n"
        "    def __set__(self, owner, a): self.all[owner] = a\nclass A: a = D()\nheld = A(); held.a = VALUE",
        "held.a",
    ),
    "a weak reference": ("class A: pass\nx = A(); x.a = VALUE\nheld = weakref.ref(x)", "held().a"),
    "a proxy": ("class A:\n    def __init__(self, b): self.b = b\n    def __getattr__(self, name): return self.b[name]\nheld = A({'a': VALUE})", "held.a"),
    "an attribute of transformers' bookkeeping": ("class A: pass\nheld = A(); held.processor_class = VALUE", "held.processor_class"),
    "what a pickling hook keeps": ("class A:\n    def __init__(self, a): self.a = a\n    def __reduce__(self): return A, (self.a,)\nheld = A(VALUE)", "held.a"),
    "what a state of one's own keeps": ("class A:\n    def __getstate__(self): return [self.a]\nheld = A(); held.a = VALUE", "held.a"),
    "an object with a name in its module": ("class A:\n    def __reduce__(self): return 'held'\nheld = A(); held.a = VALUE", "held.a"),
    "a dispatch by type": ("@functools.singledispatch\ndef held(x): return 0\n@held.register\ndef _(x: int): return VALUE", "held(1)"),
    "a dispatch of a method by type": (
        "class A:\n    @functools.singledispatchmethod\n    def a(self, x): return 0\n    @a.register\n    def _(self, x: int): return VALUE\nheld = A()",
        "held.a(1)",
    ),
    "a method with an argument": ("class A:\n    def b(self, a): return a\n    a = functools.partialmethod(b, VALUE)\nheld = A()", "held.a()"),
    "a generic alias": ("T = typing.TypeVar('T')\nclass A(typing.Generic[T]): a = VALUE\nheld = A[int]", "held.a"),
    "a vectorized function": ("held = np.vectorize(lambda x: VALUE)", "int(held(1))"),
    # Classes that are not where they say.
    "a default of a dataclass that a function made": ("held = dataclasses.make_dataclass('A', [('a', int, dataclasses.field(default=VALUE))])", "held().a"),
    "a class that a function of Python's made": ("held = types.new_class('A', (), {}, lambda members: members.update(a=VALUE))", "held.a"),
    "a class that says it is a library's": ("class A: a = VALUE\nA.__module__ = 'numpy'\nheld = A", "held.a"),
    "a namedtuple that says it is a library's": ("held = collections.namedtuple('A', 'a', defaults=[VALUE], module='numpy')", "held().a"),
    # What one's own class adds to one that counts by its type or its content.
    "a thread of one's own": ("class A(threading.Thread): a = VALUE\nheld = A()", "held.a"),
    "an attribute of a thread": ("class A(threading.Thread): pass\nheld = A(); held.a = VALUE", "held.a"),
    "a logger of one's own": ("class A(logging.LoggerAdapter):\n    def a(self): return VALUE\nheld = A(logging.getLogger('a'), {})", "held.a()"),
    "a pool of one's own": ("class A(concurrent.futures.Executor):\n    def submit(self, f): return f() * VALUE\nheld = A()", "held.submit(lambda: 1)"),
    "a file of one's own": ("class A(io.RawIOBase):\n    def readall(self): return b'VALUE'\nheld = A()", "int(held.readall())"),
    "an attribute of a weak reference": ("class A: pass\nclass R(weakref.ref): pass\nx = A(); held = R(x); held.a = VALUE", "held.a"),
    # Parts of values.
    "a dtype of arrays": ("held = np.dtype(('f4', ((2, 3), (3, 2))[VALUE - 2]))", "held.shape[0]"),
    "the type in a dtype of arrays": ("held = np.dtype((['f4', 'f8'][VALUE - 2], [(4,), (2,)][VALUE - 2]))", "held.base.itemsize"),
    "offsets in a dtype": ("held = np.dtype({'names': ['a'], 'formats': ['i4'], 'offsets': [VALUE * 4]})", "held.fields['a'][1]"),
    "metadata of a dtype": ("held = np.dtype('f4', metadata={'a': VALUE})", "held.metadata['a']"),
    "the sign of what is not a number": ("held = [math.nan, -math.nan][VALUE - 2]", "math.copysign(1, held)"),
    "the bits of what is not a number": ("held = np.array([0x7FC00000 + VALUE], np.uint32).view(np.float32)[0]", "held.tobytes()[0]"),
    "the byte order of an array": ("held = np.ones(1, ['<f4', '>f4'][VALUE - 2])", "held.tobytes()[0]"),
    "the position in a file in memory": ("held = io.BytesIO(b'23'); held.seek(VALUE - 2)", "held.tell()"),
    "flags of a pattern": ("held = re.compile('a', [0, re.I][VALUE - 2])", "(2 if held.match('A') else 1)"),
    "a key that is True": ("held = [{1: 0}, {True: 0}][VALUE - 2]", "(1 if True is next(iter(held)) else 2)"),
    "the sign of a key": ("held = [{0.0: 0}, {-0.0: 0}][VALUE - 2]", "math.copysign(1, next(iter(held)))"),
    "a frozenset of tuples": ("held = frozenset({(1, VALUE), (0, 0)})", "max(held)[1]"),
    "a queue": ("held = queue.Queue(); held.put(VALUE)", "held.queue[0]"),
    "a context of decimal numbers": ("held = decimal.Context(prec=VALUE)", "float(held.divide(1, 3))"),
    "a function of a loop": ("held = [(lambda n: lambda: n)(n) for n in range(5)][VALUE]", "held()"),
    "which of two slots": ("class A: __slots__ = ('a', 'b')\nx = A(); x.a = 2; x.b = 3\nheld = [A.a, A.b][VALUE - 2]", "held.__get__(x)"),
    "the memory order of an array of objects": ("held = np.array([[2, 3], [2, 5]], object, order='CF'[VALUE - 2])", "held.ravel('K')[1]"),
    # What says how an object is written, where it is used.
    "a docstring of an object": ("class A: pass\nheld = A(); held.__doc__ = 'VALUE'", "int(held.__doc__)"),
    "a module that an object says": ("class A: pass\nheld = A(); held.__module__ = 'VALUE'", "int(held.__module__)"),
    "the name of a function": ("def held(): pass\nheld.__name__ = 'fVALUE'", "int(held.__name__[1])"),
    "what a generic parent was given": (
        "T = typing.TypeVar('T')\nclass B(typing.Generic[T]): pass\nclass held(B[typing.Literal[VALUE]]): pass",
        "typing.get_args(typing.get_args(held.__orig_bases__[0])[0])[0]",
    ),
    "what an enum makes of an unknown value": (
        "class held(enum.Enum):\n    TWO = 2\n    THREE = 3\n    @classmethod\n    def _missing_(cls, value): return cls(VALUE)",
        "held(9).value",
    ),
    "a random generator": ("held = np.random.RandomState(VALUE)", "held.get_state()[1][0]"),
    "a class in a function": ("def make():\n    class A: a = VALUE\n    return A\nheld = make()", "held.a"),
    "an abstract class": ("class B(abc.ABC):\n    @abc.abstractmethod\n    def a(self): ...\nclass A(B):\n    def a(self): return VALUE\nheld = A()", "held.a()"),
    "the sign of what is not a number in a complex one": ("held = [complex(math.nan, 0), complex(-math.nan, 0)][VALUE - 2]", "math.copysign(1, held.real)"),
    "a class that is registered": ("class B(abc.ABC): pass\nclass A: pass\nclass C: pass\nB.register([A, C][VALUE - 2])\nheld = A()", "(1 if isinstance(held, B) else 2)"),
    "an attribute of a dispatch by type": ("@functools.singledispatch\ndef held(x): return 0\nheld.a = VALUE", "held.a"),
    "an attribute of a function with a cache": ("@functools.lru_cache\ndef held(x): return 0\nheld.a = VALUE", "held.a"),
    "an object of a class that has any attribute": ("class M(type):\n    def __getattr__(cls, name): return 7\nclass A(metaclass=M): pass\nheld = A(); held.a = VALUE", "held.a"),
    "a function that pickling leaves out": ("class A:\n    def __getstate__(self): return {n: v for n, v in vars(self).items() if n != 'a'}\nheld = A(); held.a = lambda: VALUE", "held.a()"),
    "an attribute that a pickling hook does not know": ("class A:\n    def __reduce__(self): return A, ()\nheld = A(); held.a = np.full(2, VALUE)", "held.a[0]"),
    "which of two marks of a class": ("class A:\n    B = object()\n    C = object()\nheld = [A.B, A.C][VALUE - 2]", "(1 if held is A.B else 2)"),
    "an annotation of a full specification": ("def held(x: 'VALUE'): pass", "int(inspect.getfullargspec(held).annotations['x'])"),
    "the name of a class": ("class A: pass\nA.__name__ = 'AVALUE'\nheld = A", "int(held.__name__[1])"),
    "the order of attributes": ("class A: pass\nheld = A(); vars(held).update([{'a': 2, 'b': 3}, {'b': 3, 'a': 2}][VALUE - 2])", "[*vars(held).values()][0]"),
    "the order of members": ("held = type('A', (), [{'a': 2, 'b': 3}, {'b': 3, 'a': 2}][VALUE - 2])", "[n for _, n in held.__dict__.items() if type(n) is int][0]"),
    "a frozen class of attrs, in whose hash is that of its name": ("import attrs\n@attrs.frozen\nclass A:\n    a: int\nheld = A(VALUE)", "held.a"),
    "a hash of one's own": ("class A:\n    def __hash__(self): return VALUE\nheld = A()", "hash(held)"),
    "the globals of its module": ("held = globals()\nk = VALUE", "held['k']"),
    "the globals of its module, by attributes": ("class A: pass\nheld = A(); vars(held).update(b=[vars(importlib.sys.modules[__name__])])\nk = VALUE", "held.b[0]['k']"),
    "the order of attributes, by their names": ("held = types.SimpleNamespace(**[{'a': 2, 'b': 3}, {'b': 3, 'a': 2}][VALUE - 2])", "[getattr(held, n) for n in vars(held)][0]"),
    "the order of attributes, by a function": ("held = types.SimpleNamespace(**[{'a': 2, 'b': 3}, {'b': 3, 'a': 2}][VALUE - 2])\ndef first(names): return next(iter(names))", "getattr(held, first(held.__dict__))"),
    "the order of attributes in a text": ("held = types.SimpleNamespace(**[{'a': 2, 'b': 3}, {'b': 3, 'a': 2}][VALUE - 2])\nimport json", "int(json.dumps(held, default=vars)[6])"),
    "the order of members, by their names": ("held = type('A', (), [{'a': 2, 'b': 3}, {'b': 3, 'a': 2}][VALUE - 2])", "[getattr(held, n) for n in held.__dict__ if n in 'ab'][0]"),
    "a default that msgspec keeps": ("import msgspec\nclass A(msgspec.Struct):\n    a: int = VALUE\nheld = A", "held().a"),
    "a protocol": ("class A(typing.Protocol):\n    a: int = VALUE\nclass B(A): pass\nheld = B()", "held.a"),
}

# Where `held` is kept: what `P` is, in which `GET` becomes the expression above.
KEPT = {
    "a global": "class P:\n    CALL return {'y': raw[0] * GET}\np = P()",
    "an attribute": "class P:\n    def __init__(self): self.held = held\n    CALL held = self.held; return {'y': raw[0] * GET}\np = P()",
    "an attribute of the class": "class P:\n    held = [held]\n    CALL held = self.held[0]; return {'y': raw[0] * GET}\np = P()",
    "a default": "class P:\n    def __call__(self, raw, sampling_rate=None, held=held): return {'y': raw[0] * GET}\np = P()",
    "a closure": "def make(held):\n    class P:\n        CALL return {'y': raw[0] * GET}\n    return P()\np = make(held)",
    "a partial": "def f(held, raw, sampling_rate=None): return {'y': raw[0] * GET}\np = functools.partial(f, held)",
}

DECORATOR = (
    "class A:\n    def __init__(self, f, n=0): functools.update_wrapper(self, f); self.f, self.n = f, n\n"
    "    def __get__(self, owner, kind=None): return functools.partial(self, owner)\n"
    "    def __call__(self, owner, x): return self.f(owner, x) * self.n"
)

# Ways to reach a function: before `P`, members of it, and what its call returns. The number stands in the function.
REACHED = {
    "a list of subclasses": ("class B: pass\nclass A(B):\n    def f(self, x): return x * VALUE", "", "B.__subclasses__()[0]().f(x)"),
    "the call": ("", "", "x * VALUE"),
    "a method": ("", "def f(self, x): return x * VALUE", "self.f(x)"),
    "a private method": ("", "def __f(self, x): return x * VALUE", "self.__f(x)"),
    "a static method": ("", "@staticmethod\n    def f(x): return x * VALUE", "self.f(x)"),
    "a class method": ("", "@classmethod\n    def f(cls, x): return x * VALUE", "self.f(x)"),
    "type(self)": ("", "def f(self, x): return x * VALUE", "type(self).f(self, x)"),
    "self.__class__": ("", "def f(self, x): return x * VALUE", "self.__class__.f(self, x)"),
    "a method by a name that is made": ("", "def f_one(self, x): return x * VALUE", "getattr(self, 'f_' + 'one')(x)"),
    "a function": ("def f(x): return x * VALUE", "", "f(x)"),
    "a function in a function": ("def f(x):\n    def g(y): return y * VALUE\n    return g(x)", "", "f(x)"),
    "a function that another calls": ("def g(x): return x * VALUE\ndef f(x): return g(x)", "", "f(x)"),
    "functions that call each other": ("def f(x, n=2): return x if n == 0 else g(x, n - 1)\ndef g(x, n): return f(x, n) * VALUE", "", "f(x)"),
    "a lambda": ("f = lambda x: x * VALUE", "", "f(x)"),
    "a lambda of several on a line": ("f, g = lambda x: x * VALUE, lambda x: x", "", "f(x) + g(x)"),
    "a list of functions": ("F = [len, lambda x: x * VALUE]", "", "F[1](x)"),
    "a dict of functions": ("F = {}\ndef f(x): return x * VALUE\nF['f'] = f", "", "F['f'](x)"),
    "a registry by a decorator": ("F = {}\ndef register(f):\n    F[f.__name__] = f\n    return f\n@register\ndef one(x): return x * VALUE", "", "F['one'](x)"),
    "a set of functions": ("F = {lambda x: x * VALUE}", "", "[f(x) for f in F][0]"),
    "a decorator": ("def by(f):\n    @functools.wraps(f)\n    def g(*a): return f(*a) * VALUE\n    return g\n@by\ndef f(x): return x", "", "f(x)"),
    "a decorator without wraps": ("def by(f):\n    def g(*a): return f(*a)\n    return g\n@by\ndef f(x): return x * VALUE", "", "f(x)"),
    "a decorator's argument": (
        "def by(n):\n    def with_f(f):\n        def g(*a): return f(*a) * n\n        return g\n    return with_f\n@by(VALUE)\ndef f(x): return x",
        "",
        "f(x)",
    ),
    "a decorator that is a class": ("class By:\n    def __init__(self, f): self.f = f\n    def __call__(self, x): return self.f(x) * VALUE\n@By\ndef f(x): return x", "", "f(x)"),
    "a context manager of a library's": ("@contextlib.contextmanager\ndef c(x): yield x * VALUE", "def f(self, x):\n        with c(x) as y: return y", "self.f(x)"),
    "a context manager": ("class C:\n    def __enter__(self): return VALUE\n    def __exit__(self, *a): pass", "def f(self, x):\n        with C() as n: return x * n", "self.f(x)"),
    "an lru_cache": ("@functools.lru_cache\ndef n(): return VALUE", "", "x * n()"),
    "an lru_cache of arguments": ("@functools.lru_cache(maxsize=8)\ndef n(a): return a * VALUE", "", "x * n(1)"),
    "a parent's method": ("class B:\n    def f(self, x): return x * VALUE", "", "self.f(x)", "B"),
    "a grandparent's method": ("class C:\n    def f(self, x): return x * VALUE\nclass B(C): pass", "", "self.f(x)", "B"),
    "super()": ("class B:\n    def f(self, x): return x * VALUE", "def f(self, x): return 0", "super().f(x)", "B"),
    "super(P, self)": ("class B:\n    def f(self, x): return x * VALUE", "def f(self, x): return 0", "super(P, self).f(x)", "B"),
    "a name for super()": (
        "class B:\n    def f(self, x): return x * VALUE",
        "def f(self, x): return 0\n    def g(self, x):\n        s = super()\n        return s.f(x)",
        "self.g(x)",
        "B",
    ),
    "a parent by its name": ("class B:\n    def f(self, x): return x * VALUE", "def f(self, x): return 0", "B.f(self, x)", "B"),
    "a mixin": ("class A:\n    def f(self, x): return x * VALUE\nclass B:\n    def f(self, x): return x", "", "self.f(x)", "A, B"),
    "a property": ("", "@property\n    def n(self): return VALUE", "x * self.n"),
    "an operator": ("class A:\n    def __mul__(self, x): return x * VALUE\nA = A()", "", "A * x"),
    "an item": ("class A:\n    def __getitem__(self, n): return VALUE\nA = A()", "", "x * A[0]"),
    "iteration": ("class A:\n    def __iter__(self): yield VALUE", "", "x * list(A())[0]"),
    "a length": ("class A:\n    def __len__(self): return VALUE", "", "x * len(A())"),
    "a call of an object": ("class A:\n    def __call__(self, x): return x * VALUE\nf = A()", "", "f(x)"),
    "a call of a class": ("class A:\n    def __new__(cls, x): return x * VALUE", "", "A(x)"),
    "a call of a metaclass": ("class M(type):\n    def __call__(cls, x): return x * VALUE\nclass A(metaclass=M): pass", "", "A(x)"),
    "a hook of subclasses": ("class B:\n    def __init_subclass__(cls): cls.n = VALUE\nclass A(B): pass", "", "x * A.n"),
    "a missing attribute": ("", "def __getattr__(self, name): return VALUE if name == 'n' else object.__getattribute__(self, name)", "x * self.n"),
    "any attribute": ("class A:\n    def __getattribute__(self, name): return VALUE", "", "x * A().n"),
    "a module's missing attribute": ("def __getattr__(name): return VALUE\nimport sys\nme = sys.modules[__name__]", "", "x * me.n"),
    "a generator": ("def g(x):\n    yield x * VALUE", "", "next(g(x))"),
    "a comprehension": ("", "", "[y * VALUE for y in [x]][0]"),
    "a coroutine": ("async def f(x): return x * VALUE", "", "run(f(x))"),
    "a match": ("def f(x):\n    match x.ndim:\n        case 1: return x * VALUE\n        case _: return x", "", "f(x)"),
    "a match of a class": ("class A:\n    __match_args__ = ('a', 'b')[VALUE - 2:]\n    a = 2\n    b = 3\ndef f(x):\n    match A():\n        case A(n): return x * n", "", "f(x)"),
    "a walrus": ("", "", "(n := VALUE) * x"),
    "eval": ("def f(x): return x * VALUE", "", "eval('f(x)')"),
    "globals()": ("def f(x): return x * VALUE", "", "globals()['f'](x)"),
    "a constant in globals()": ("N = VALUE", "", "x * globals()['N']"),
    "a lambda that was made by eval": ("f = eval('lambda x: x * VALUE')", "", "f(x)"),
    "a function made by exec": ("exec('def f(x): return x * VALUE')", "", "f(x)"),
    "functools.reduce": ("def f(a, b): return a * VALUE", "", "functools.reduce(f, [x, 0])"),
    "map": ("def f(a): return a * VALUE", "", "list(map(f, [x]))[0]"),
    "a method of an enum": ("class A(enum.Enum):\n    ONE = 1\n    def f(self, x): return x * VALUE", "", "A.ONE.f(x)"),
    "a static method of an enum": ("class A(enum.Enum):\n    ONE = 1\n    @staticmethod\n    def f(x): return x * VALUE", "", "A.f(x)"),
    "a method that is patched in": ("", "pass", "self.f(x)", "", "p.f = lambda x: x * VALUE"),
    "a method that is patched into the class": ("", "pass", "self.f(x)", "", "P.f = lambda self, x: x * VALUE"),
    "a default of the call": ("", "def f(self, x, n=VALUE): return x * n", "self.f(x)"),
    "a global that is set by a function": ("N = 0\ndef f():\n    global N\n    N = VALUE\nf()", "", "x * N"),
    "a docstring that is used": ("def f():\n    'VALUE'", "", "x * int(f.__doc__)"),
    "an operator from the right": ("class A:\n    def __rmul__(self, x): return x * VALUE", "", "x[0].item() * A()"),
    "a truth value": ("class A:\n    def __bool__(self): return VALUE > 2", "", "x * (1 if A() else 2)"),
    "a number": ("class A:\n    def __float__(self): return float(VALUE)", "", "x * float(A())"),
    "a comparison": ("class A:\n    def __eq__(self, other): return VALUE", "", "x * (A() == 0)"),
    "an array": ("class A:\n    def __array__(self, dtype=None, copy=None): return np.array(VALUE)", "", "x * np.asarray(A())"),
    "a context that a library enters": ("class C:\n    def __enter__(self): return VALUE\n    def __exit__(self, *a): pass", "", "x * contextlib.ExitStack().enter_context(C())"),
    "a callable object of the class": ("class A:\n    def __init__(self, n): self.n = n\n    def __call__(self, x): return x * self.n", "f = A(VALUE)", "self.f(x)"),
    "an object that decorates a method": (DECORATOR.replace("* self.n", "* VALUE"), "@A\n    def f(self, x): return x", "self.f(x)"),
    "what such an object holds": (DECORATOR, "def f(self, x): return x\n    f = A(f, VALUE)", "self.f(x)"),
    "what is wrapped around a function of a library": ("def by(f):\n    @functools.wraps(f)\n    def g(x): return f(x) * VALUE\n    return g\nf = by(np.abs)", "", "f(x)"),
    "a function in a deque": ("F = collections.deque([lambda x: x * VALUE])", "", "F[0](x)"),
    "a function in a UserList": ("F = collections.UserList([lambda x: x * VALUE])", "", "F[0](x)"),
    "a function in a namespace": ("F = types.SimpleNamespace(f=lambda x: x * VALUE)", "", "F.f(x)"),
    "a function in an object of a library": ("def g(x): return x * VALUE\nf = np.vectorize(lambda x: g(x))", "", "f(x)"),
    "one behind a method of it": ("def g(x): return x * VALUE\nf = np.vectorize(lambda x: g(x)).__call__", "", "f(x)"),
}

# The same with a second file: its text, how it is imported before `P`, and what the call returns.
HELPERS = {
    "a made name of a module of a package": ("", "NAME = 'part'", "x * importlib.import_module(f'own_package.{NAME}').N"),
    "a missing attribute": ("T = {'n': VALUE}\ndef __getattr__(name): return T[name]", "import helpers", "x * helpers.n"),
    "a constant in a format": ("N = VALUE", "import helpers", "x * int('{0.N}'.format(helpers))"),
    "a function": ("def f(x): return x * VALUE", "from helpers import f", "f(x)"),
    "all functions": ("def f(x): return x * VALUE", "from helpers import *", "f(x)"),
    "a module": ("def f(x): return x * VALUE", "import helpers", "helpers.f(x)"),
    "a module by another name": ("def f(x): return x * VALUE", "import helpers as h", "h.f(x)"),
    "a module by a name of its own": ("def f(x): return x * VALUE", "import helpers", "(h := helpers).f(x)"),
    "a module as an argument": ("def f(x): return x * VALUE", "import helpers\ndef use(h, x): return h.f(x)", "use(helpers, x)"),
    "a module in a dict": ("def f(x): return x * VALUE", "import helpers\nM = {'h': helpers}", "M['h'].f(x)"),
    "a module that is held": ("def f(x): return x * VALUE", "import helpers\nclass A:\n    def __init__(self): self.h = helpers\nA = A()", "A.h.f(x)"),
    "a module in a class": ("def f(x): return x * VALUE", "import helpers\nclass A: h = helpers", "A.h.f(x)"),
    "getattr of a module": ("def f(x): return x * VALUE", "import helpers", "getattr(helpers, 'f')(x)"),
    "a made name of a module": ("def f_one(x): return x * VALUE", "import helpers", "getattr(helpers, 'f_' + 'one')(x)"),
    "a made name of a constant": ("N_ONE = VALUE", "import helpers", "x * getattr(helpers, 'N_' + 'one'.upper())"),
    "getattr by another name": ("class A: pass\nN = A(); N.a = VALUE", "import helpers\nlook = getattr", "x * look(helpers, 'n'.upper()).a"),
    "vars of a module": ("def f(x): return x * VALUE", "import helpers", "vars(helpers)['f'](x)"),
    "__dict__ of a module": ("def f(x): return x * VALUE", "import helpers", "helpers.__dict__['f'](x)"),
    "a getter of a module": ("def f(x): return x * VALUE", "import helpers", "operator.attrgetter('f')(helpers)(x)"),
    "sys.modules": ("def f(x): return x * VALUE", "import helpers, sys", "sys.modules['helpers'].f(x)"),
    "sys.modules by a name in a list": ("def f(x): return x * VALUE", "import helpers, sys\nNAMES = ['helpers']", "sys.modules[NAMES[0]].f(x)"),
    "resolve_name": ("def f(x): return x * VALUE", "import pkgutil", "pkgutil.resolve_name('helpers:f')(x)"),
    "a constant": ("N = VALUE", "import helpers", "x * helpers.N"),
    "an array": ("import numpy as np\nN = np.full(2, VALUE)", "import helpers", "x * helpers.N[0]"),
    "an object": ("class A:\n    def __init__(self): self.a = VALUE\nA = A()", "import helpers", "x * helpers.A.a"),
    "a class": ("class A:\n    def f(self, x): return x * VALUE", "import helpers", "helpers.A().f(x)"),
    "a constant that a function uses": ("N = VALUE\ndef f(x): return x * N", "import helpers", "helpers.f(x)"),
    "an import in the call": ("def f(x): return x * VALUE", "", "__import__('helpers').f(x)"),
    "getattr_static": ("k = VALUE", "import helpers", "x * inspect.getattr_static(helpers, chr(107))"),
    "getmodule": ("", "k = VALUE", "x * inspect.getmodule(P).k"),
    "the globals of a frame": ("", "k = VALUE", "x * inspect.stack()[0].frame.f_globals['k']"),
    "sys by another module": ("", "k = VALUE", "x * importlib.sys.modules[P.__module__].k"),
    "builtins of its own": ("", "scope = {'__builtins__': {'k': VALUE}}\nexec('def f(x): return x * k', scope)\ng = scope['f']\ndel scope", "g(x)"),
    "import_module in the call": ("def f(x): return x * VALUE", "", "importlib.import_module('helpers').f(x)"),
    "a getter that is held": ("N = VALUE", "import helpers\nG = operator.attrgetter('N')", "x * G(helpers)"),
    "a format that is held": ("N = VALUE", "import helpers\nF = '{0.N}'", "x * int(F.format(helpers))"),
    "a caller that is held": ("N = VALUE\ndef f(): return F()\ndef F(): return N", "import helpers\nG = operator.methodcaller('f')", "x * G(helpers)"),
    "a made name of a number of NumPy's": ("import numpy as np\nN_ONE = np.float32(VALUE)", "import helpers", "x * getattr(helpers, 'n_one'.upper())"),
    "a made name of a partial": ("import functools\nN_ONE = functools.partial(int, 'VALUE')", "import helpers", "x * getattr(helpers, 'n_one'.upper())()"),
    "a made name of a deque": ("import collections\nN_ONE = collections.deque([VALUE])", "import helpers", "x * getattr(helpers, 'n_one'.upper())[0]"),
    "the order of a module": ("exec(['A = 2\\nB = 3', 'B = 3\\nA = 2'][VALUE - 2])", "import helpers", "x * [getattr(helpers, n) for n in vars(helpers) if n in 'AB'][0]"),
    "getmembers of a module": ("import numpy as np\nN = np.int64(VALUE)", "import helpers, inspect", "x * dict(inspect.getmembers(helpers))['n'.upper()]"),
    "an import by a name that is held": ("def f(x): return x * VALUE", "NAME = 'helpers'", "importlib.import_module(NAME).f(x)"),
    "an import by another name": ("N = VALUE", "from importlib import import_module as load\nNAME = 'helpers'", "x * load(NAME).N"),
    "a partial of an import": ("N = VALUE", "load = functools.partial(importlib.import_module, 'helpers')", "x * load().N"),
    "a module that is run": ("N = VALUE", "import runpy\nNAME = 'helpers'", "x * runpy.run_module(NAME)['N']"),
    "a module that is located": ("def f(x): return x * VALUE", "import pydoc\nNAME = 'helpers.f'", "pydoc.locate(NAME)(x)"),
    "a module that is loaded by its specification": (
        "N = VALUE",
        "import importlib.util as util\ndef load():\n    spec = util.find_spec('helpers')\n"
        "    module = util.module_from_spec(spec)\n    spec.loader.exec_module(module)\n    return module",
        "x * load().N",
    ),
    "an import by an attribute": ("N = VALUE", "class A: pass\nA = A(); A.name = 'helpers'", "x * importlib.import_module(A.name).N"),
    "an import by a part of a text": (
        "def f(x): return x * VALUE",
        "CONFIG = {'target': 'helpers.f'}\ndef find(text):\n    module, _, name = text.rpartition('.')\n"
        "    return getattr(importlib.import_module(module), name)",
        "find(CONFIG['target'])(x)",
    ),
    "an import in a function": ("def f(x): return x * VALUE", "def use(x):\n    import helpers\n    return helpers.f(x)", "use(x)"),
    "from an import in a function": ("def f(x): return x * VALUE", "def use(x):\n    from helpers import f\n    return f(x)", "use(x)"),
    "an import of a module in a package": ("", "def use(x):\n    import own_package.part\n    return own_package.f(x)", "use(x)"),
    "an import in a branch that has not run": (
        "def f(x): return x * VALUE",
        "def use(x):\n    if len(x) > 10**6:\n        from helpers import f\n        return f(x)\n    return x",
        "use(x)",
    ),
}

# With torch: before `P`, and what its call returns.
TORCH = {
    "a layer among those of torch": ("class L(torch.nn.Module):\n    def forward(self, x): return x * VALUE\nf = torch.nn.Sequential(torch.nn.Identity(), L())", "f(x)"),
    "a layer that torch derived another from": (
        "class L(torch.nn.Linear):\n    def forward(self, x): return x * VALUE\nf = L(1, 1, False)\n"
        "torch.nn.init.ones_(f.weight)\n"
        "torch.nn.utils.parametrize.register_parametrization(f, 'weight', torch.nn.Identity())",
        "f(x)",
    ),
    "what computes a weight": (
        "class W(torch.nn.Module):\n    def forward(self, w): return w * 0 + VALUE\nf = torch.nn.Linear(1, 1, False)\n"
        "torch.nn.init.ones_(f.weight)\n"
        "torch.nn.utils.parametrize.register_parametrization(f, 'weight', W())",
        "x * f.weight.item()",
    ),
    "a function of a layer": (
        "class L(torch.nn.Module):\n    def __init__(self, f): super().__init__(); self.f = f\n"
        "    def forward(self, x): return self.f(x)\nf = L(lambda x: x * VALUE)",
        "f(x)",
    ),
    "a hook": ("f = torch.nn.Identity()\nf.register_forward_pre_hook(lambda f, x: (x[0] * VALUE,))", "f(x)"),
    "an operation with a gradient": ("class F(torch.autograd.Function):\n    @staticmethod\n    def forward(c, x): return x * VALUE", "F.apply(torch.from_numpy(x)).numpy()"),
    "a buffer that is not saved": ("f = torch.nn.Identity()\nf.register_buffer('n', torch.tensor(VALUE), persistent=False)", "x * f.n.item()"),
    "an attribute of a tensor": ("t = torch.ones(2)\nt.gain = VALUE", "x * t.gain"),
    "a class of a tensor": ("class T(torch.Tensor): gain = VALUE\nt = torch.ones(2).as_subclass(T)", "x * t.gain"),
    "a method of a weight": ("class W(torch.nn.Parameter):\n    def f(self, x): return x * VALUE\nw = W(torch.ones(2))", "w.f(x)"),
    "the seed of a generator": ("g = torch.Generator()\ng.manual_seed(VALUE)", "x * g.initial_seed()"),
}
# fmt: on

NUMBERS = itertools.count()


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """``imported(source, value, helpers)``: the front end of a module, each time a new one with other line numbers."""

    def imported(source, value, helpers=""):
        number = next(NUMBERS)
        folder = tmp_path / str(number)
        folder.mkdir()
        moved = "\n" * (number % 3)
        files = {"own_package/__init__": "def f(x): return x * VALUE", "own_package/part": "N = VALUE"}
        (folder / "own_package").mkdir()
        for name, text in {f"own_{number}": HEAD + source, "helpers": helpers, **files}.items():
            text = text.replace("CALL", "def __call__(self, raw, sampling_rate=None):").replace("VALUE", str(value))
            (folder / f"{name}.py").write_text(moved + text, encoding="utf-8")
        for name in ("helpers", "own_package", "own_package.part"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(folder)
        importlib.invalidate_caches()
        return importlib.import_module(f"own_{number}").p

    return imported


def check(imported, source, helpers=""):
    """Check that two front ends that compute different things have two identities, and the same one has one."""
    x = np.ones(4, np.float32)
    shas, outputs = [], []
    for value in (2, 2, 3):
        front_end = imported(source, value, helpers)
        shas.append(processor_sha256(front_end))
        outputs.append(np.asarray(front_end([x])["y"]).tobytes())
    assert processor_sha256(front_end) == shas[2], "after it was called"
    assert shas[0] == shas[1]
    assert shas[0] != shas[2]
    if "10**6" not in source:  # what is in a branch for long clips does not show
        assert outputs[0] == outputs[1] != outputs[2]


@pytest.mark.parametrize("name", STATE)
def test_state_of_any_kind_counts(name, imported):
    """In each place where it may be kept, in turn."""
    make, expression = STATE[name]
    places = list(KEPT)
    place = places[list(STATE).index(name) % len(places)]
    deep = "def depth(x):\n    while type(x) is list: x = x[0]\n    return [x]\n" if "depth" in expression else ""
    check(imported, deep + make + "\n" + KEPT[place].replace("GET", f"({expression})"))


@pytest.mark.parametrize("place", KEPT)
@pytest.mark.parametrize("name", ["an array", "a dict", "an object", "a closure", "a bound method", "private slots"])
def test_state_counts_wherever_it_is_kept(name, place, imported):
    make, expression = STATE[name]
    check(imported, make + "\n" + KEPT[place].replace("GET", f"({expression})"))


@pytest.mark.parametrize("name", REACHED)
def test_code_counts_however_it_is_reached(name, imported):
    check(imported, reached(*REACHED[name]))


def test_a_method_counts_that_runs_by_syntax_of_code_without_source():
    shas = []
    for length in ("2", "3"):
        source = reached("class A:\n    def __len__(self): return VALUE", "", "x * len(A())")
        namespace = {"__name__": "__main__"}
        exec(source.replace("CALL", "def __call__(self, raw, sampling_rate=None):").replace("VALUE", length), namespace)
        shas.append(processor_sha256(namespace["p"]))
    assert shas[0] != shas[1]


def test_code_without_source_that_looks_into_a_module_counts(imported):
    shas = []
    for value in (2, 3):
        imported("p = 0", value, "def f(x): return x * VALUE")
        namespace = {"__name__": "__main__"}
        exec("import helpers\nclass P:\n    def __call__(self, raw): return helpers.f(raw[0])", namespace)
        shas.append(processor_sha256(namespace["P"]()))
    assert shas[0] != shas[1]


@pytest.mark.torch
@pytest.mark.parametrize("name", TORCH)
def test_what_is_held_in_torchs_objects_counts(name, imported):
    before, expression = TORCH[name]
    check(imported, reached(f"import torch\n{before}", "", expression))


@pytest.mark.torch
def test_a_layer_of_transformers_that_torch_calls_counts(monkeypatch):
    import torch
    from transformers.models.encodec import modeling_encodec

    class FrontEnd:
        layer = modeling_encodec.EncodecEncoder.__new__(modeling_encodec.EncodecEncoder)

        def __call__(self, raw_speech, sampling_rate=None):
            return {"y": [self.layer(raw_speech[0])]}

    torch.nn.Module.__init__(FrontEnd.layer)
    sha = processor_sha256(FrontEnd())
    monkeypatch.setattr(modeling_encodec.EncodecEncoder, "forward", lambda self, x: x)
    assert processor_sha256(FrontEnd()) != sha


@pytest.mark.parametrize(
    ("before", "expression"),
    [
        ("from numpy.random import randn", "x + randn() if len(x) > 9 else x"),
        ("from random import gauss", "x + gauss() if len(x) > 9 else x"),
        ("import logging\ninfo = logging.getLogger('own').info", "(info('2'), x)[1]"),
    ],
    ids=["a function that draws and is not called", "another", "a log"],
)
def test_what_has_a_state_of_the_program_is_no_reason_to_refuse(before, expression, imported):
    shas = {processor_sha256(imported(reached(before, "", expression), 2)) for _ in range(2)}
    assert len(shas) == 1


def reached(before, members, expression, parents="", after=""):
    run = (
        "def run(c):\n    try: c.send(None)\n    except StopIteration as stop: return stop.value\n"
        if "run(" in expression
        else ""
    )
    return "\n".join(
        [
            run + before,
            f"class P({parents}):",
            textwrap.indent(members, "    ", lambda line: not line.startswith("    ")),
            f"    CALL x = raw[0]; return {{'y': {expression}}}",
            "p = P()",
            after,
        ]
    )


@pytest.mark.parametrize("name", HELPERS)
def test_code_of_another_file_counts_however_it_is_imported(name, imported):
    helpers, before, expression = HELPERS[name]
    check(imported, reached(before, "", expression), helpers)

"""The identity of a processor's code: which edits change it, and which don't."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import linecache
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from hf_audio_cache.processors.identity import Fingerprinter, processor_sha256

# A front end with its helpers in modules of one package, and every way to reach code and constants.
FRONT_END = '''
"""A front end."""
import functools
import numpy as np
from . import windows
from .windows import window
from .parts import Base, Helper, MEL, POWER, describe

FLOOR = 1e-10
SETTINGS = {"scale": 2.0, "steps": [1, 2]}
PAIRS = {("a", 1): 0.5}
SCALES = np.array([1.0, 2.0])


def scaled(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args) * 3.0
    return wrapper


class Counted:
    """A decorator that is a class."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *args):
        return self.function(*args) + 4.0


def first_call_deep(frames):
    return second_call_deep(frames) + first_call_deep.offset


first_call_deep.offset = 43.0


def second_call_deep(frames):
    return frames * 5.0


def third_hand(extractor, frames):
    return extractor.reached_from_a_function(frames)


@Counted
def counted(frames):
    return frames * 6.0


@functools.singledispatch
def by_type(frames):
    return frames * 44.0


@by_type.register
def of_arrays(frames: np.ndarray):
    return frames * 45.0


class FrontEnd(Base):
    """It makes spectrograms."""

    sampling_rate = 16000
    offset = 7.0

    def __init__(self, n_fft=400):
        self.n_fft = n_fft
        self.helper = Helper()
        self.helpers = [Helper()]
        self.helper_class = Helper

    def __call__(self, raw_speech, sampling_rate=None, return_tensors=None, floor=1e-10):
        # frames of the clip
        frames = raw_speech[0][: self.n_fft] * window(self.n_fft)
        frames = frames * windows.other_window(self.n_fft)
        frames = self.prepare(frames) + self.property + self.static(frames)
        frames = frames + self.make(frames) + self.decorated(frames) + first_call_deep(frames)
        frames = frames + third_hand(self, frames) + counted(frames)
        frames = frames + self.__private(frames) + getattr(self, "_dispatch_" + "one")(frames)
        frames = frames + type(self).offset_of_type + self.__class__.offset_of_class + self.offset
        part = self.helper
        frames = frames + part.aliased(frames) + self.helper.direct(frames)
        for held in self.helpers:
            frames = frames + held.listed(frames)
        frames = frames + self.helper_class().held(frames) + Helper().made(frames) + MEL.at_module(frames) + MEL(frames)
        frames = frames + by_type(frames) + POWER + SCALES[0] + PAIRS["a", 1] + describe(frames)
        spectrum = np.abs(np.fft.rfft(frames)) ** 2 * SETTINGS["scale"]

        def nested(values):
            return np.log10(np.maximum(values, FLOOR) + floor)

        def last(values, base=(lambda x: x + 8.0)):
            return base(values)

        return {"input_features": [last(nested(spectrum)).astype(np.float32)]}

    @property
    def property(self):
        return 9.0

    @staticmethod
    def static(frames):
        return frames * 11.0

    @classmethod
    def make(cls, frames):
        return frames * 12.0

    @scaled
    def decorated(self, frames):
        return frames * 13.0

    def __private(self, frames):
        return frames * 14.0

    def _dispatch_one(self, frames):
        return frames * 15.0

    def reached_from_a_function(self, frames):
        return frames * 16.0

    offset_of_type = 17.0
    offset_of_class = 18.0

    def save_pretrained(self, folder):
        return f"saved to {folder}"

    @classmethod
    def from_pretrained(cls, folder):
        return cls(400)
'''
WINDOWS = """
import numpy as np


def window(length):
    return np.hanning(length) + 21.0


def other_window(length):
    return np.hamming(length) + 22.0


def unused(length):
    return np.ones(length) + 23.0
"""
PARTS = '''
import enum

import front_end_utils


class Base:
    """The parent."""

    def prepare(self, frames):
        return super().__repr__() and self.prepare_more(frames) * 31.0

    def prepare_more(self, frames):
        return frames * 32.0


class Helper:
    """An object that a call makes, or that is held."""

    def aliased(self, frames):
        return frames * 33.0

    def direct(self, frames):
        return frames * 34.0

    def listed(self, frames):
        return frames * 35.0

    def held(self, frames):
        return frames * 36.0

    def made(self, frames):
        return frames * 37.0


class Mel:
    scale = 38.0

    def at_module(self, frames):
        return frames * 39.0

    def __call__(self, frames):
        return frames * 40.0 * self.scale


MEL = Mel()
POWER = 41.0


class Kind(enum.Enum):
    ONE = 42.0


def describe(frames):
    return front_end_utils.log(frames) * Kind.ONE.value
'''
UTILS = """
def log(frames):
    return frames * 51.0
"""


class Sources:
    """The source of the front end, which an edit changes."""

    def __init__(self):
        self.files = {
            "front_end/__init__.py": "",
            "front_end/front.py": FRONT_END,
            "front_end/windows.py": WINDOWS,
            "front_end/parts.py": PARTS,
            "front_end_utils.py": UTILS,
        }

    def edited(self, before, after):
        places = [name for name, source in self.files.items() if before in source]
        assert len(places) == 1, (before, places)
        assert self.files[places[0]].count(before) == 1, before
        self.files[places[0]] = self.files[places[0]].replace(before, after)
        return self

    def write(self, folder):
        for name, source in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return folder


@pytest.fixture
def identity(tmp_path, monkeypatch):
    """``identity(sources)``: that of the front end, imported anew from these sources."""
    folders = iter(range(100))

    def identity(sources):
        return Fingerprinter(front_end(sources), {}).identity()

    def front_end(sources):
        folder = sources.write(tmp_path / str(next(folders)))
        for name in [name for name in sys.modules if name.partition(".")[0] in ("front_end", "front_end_utils")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(folder)
        importlib.invalidate_caches()
        return importlib.import_module("front_end.front").FrontEnd()

    identity.front_end = front_end
    return identity


def test_the_same_code_elsewhere_is_the_same(identity):
    assert identity(Sources()) == identity(Sources())


def test_the_front_end_runs(identity):
    outputs = identity.front_end(Sources())([np.ones(400, np.float32)])
    assert outputs["input_features"][0].shape == (201,)


EDITS = {
    "a window function": ("np.hanning(length) + 21.0", "np.blackman(length) + 21.0"),
    "a function of a module of the package": ("+ 22.0", "+ 22.5"),
    "the log floor": ("FLOOR = 1e-10", "FLOOR = 1e-9"),
    "a default value": ("floor=1e-10", "floor=1e-9"),
    "a default value of a nested function": ("x + 8.0", "x + 8.5"),
    "a nested function": ("np.log10(np", "np.log(np"),
    "a constant of a dict": ('"scale": 2.0', '"scale": 2.5'),
    "a constant of a dict with pairs as keys": ('("a", 1): 0.5', '("a", 1): 0.6'),
    "a constant of an array": ("np.array([1.0, 2.0])", "np.array([1.5, 2.0])"),
    "an imported constant": ("POWER = 41.0", "POWER = 41.5"),
    "a constant of the class": ("offset = 7.0", "offset = 7.5"),
    "a constant by type(self)": ("= 17.0", "= 17.5"),
    "a constant by self.__class__": ("= 18.0", "= 18.5"),
    "a property": ("return 9.0", "return 9.5"),
    "a static method": ("* 11.0", "* 11.5"),
    "a class method": ("* 12.0", "* 12.5"),
    "a decorated method": ("* 13.0", "* 13.5"),
    "a decorator": ("* 3.0", "* 3.5"),
    "a decorator that is a class": ("+ 4.0", "+ 4.5"),
    "what such a decorator decorates": ("* 6.0", "* 6.5"),
    "an attribute of a function": ("offset = 43.0", "offset = 43.5"),
    "a function by type": ("* 44.0", "* 44.5"),
    "a function of another type": ("* 45.0", "* 45.5"),
    "the type of such a function": ("frames: np.ndarray", "frames: list"),
    "a private method": ("* 14.0", "* 14.5"),
    "a method found by its name": ("* 15.0", "* 15.5"),
    "a method that a function calls": ("* 16.0", "* 16.5"),
    "a function two calls deep": ("* 5.0", "* 5.5"),
    "a method of the parent": ("* 31.0", "* 31.5"),
    "a method of the parent two calls deep": ("* 32.0", "* 32.5"),
    "a method of a part under another name": ("* 33.0", "* 33.5"),
    "a method of a part": ("* 34.0", "* 34.5"),
    "a method of a part in a list": ("* 35.0", "* 35.5"),
    "a method of an object whose class is held": ("* 36.0", "* 36.5"),
    "a method of an object that the call makes": ("* 37.0", "* 37.5"),
    "a class constant of an object of the module": ("scale = 38.0", "scale = 38.5"),
    "a method of an object of the module": ("* 39.0", "* 39.5"),
    "a call of an object of the module": ("* 40.0", "* 40.5"),
    "a member of an enum": ("ONE = 42.0", "ONE = 42.5"),
    "a function of the user's next module": ("* 51.0", "* 51.5"),
    "an operator": ("** 2 * S", "** 3 * S"),
    "an order of statements": (
        "spectrum = np.abs(np.fft.rfft(frames)) ** 2",
        "spectrum = np.fft.rfft(frames).real ** 2",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_what_a_call_runs_changes_the_identity(edit, identity):
    assert identity(Sources()).sha != identity(Sources().edited(*EDITS[edit])).sha


WRITTEN_OTHERWISE = {
    "a comment": ("# frames of the clip", "# other words"),
    "no comment": ("        # frames of the clip\n", ""),
    "a docstring of a class": ('"""It makes spectrograms."""', '"""Other words."""'),
    "a docstring of a function": (
        "    return second_call_deep(frames)",
        '    """A docstring."""\n    return second_call_deep(frames)',
    ),
    "a docstring of a module": ('"""A front end."""', '"""Other words."""'),
    "line breaks": ("return frames * 5.0", "return (\n        frames\n        * 5.0\n    )"),
    "blank lines": ("    return frames * 5.0", "\n\n    return frames * 5.0\n\n\n"),
    "annotations": (
        "def second_call_deep(frames):",
        "def second_call_deep(frames: float) -> 'np.ndarray':",
    ),
    "an annotation with a class of the package": (
        "def second_call_deep(frames):",
        "def second_call_deep(frames: Helper):",
    ),
    "an annotation with a constant": (
        "def second_call_deep(frames):",
        "def second_call_deep(frames: FLOOR_TYPE = 0.0):",
    ),
    "an annotated variable": ("frames = raw_speech[0]", "frames: np.ndarray = raw_speech[0]"),
    "a bare annotation": ("    return frames * 5.0", "    result: float\n    return frames * 5.0"),
    "parentheses": ("return frames * 5.0", "return ((frames) * (5.0))"),
    "quotes": ('SETTINGS["scale"]', "SETTINGS['scale']"),
    "how a number is written": ("return frames * 5.0", "return frames * 5_0e-1"),
}

# No call runs these; that no call can, nobody knows.
TAKEN_WHOLE = {
    "another function of a module that is used": ("+ 23.0", "+ 23.5"),
    "a new function in it": ("def unused(length):", "def another(x):\n    return x\n\n\ndef unused(length):"),
    "another method": ("saved to", "kept at"),
    "another class method": ("return cls(400)", "return cls(401)"),
    "the constructor": ("self.n_fft = n_fft", "self.n_fft = n_fft + 0"),
}


@pytest.mark.parametrize("edit", TAKEN_WHOLE)
def test_own_code_is_taken_whole(edit, identity):
    assert identity(Sources()).sha != identity(Sources().edited(*TAKEN_WHOLE[edit])).sha


@pytest.mark.parametrize("edit", WRITTEN_OTHERWISE)
def test_an_edit_that_changes_nothing_keeps_the_identity(edit, identity):
    before, after = WRITTEN_OTHERWISE[edit]
    plain = Sources()
    if edit == "an annotation with a constant":
        plain.edited("def second_call_deep(frames):", "def second_call_deep(frames=0.0):")
        plain.edited("FLOOR = 1e-10", "FLOOR = 1e-10\nFLOOR_TYPE = 60.0")
        before = "def second_call_deep(frames=0.0):"
        changed = Sources().edited("FLOOR = 1e-10", "FLOOR = 1e-10\nFLOOR_TYPE = 60.0")
        changed.edited("def second_call_deep(frames):", after)
    else:
        changed = Sources().edited(before, after)
    assert identity(plain).description == identity(changed).description


def with_cached_property():
    sources = Sources().edited(
        "    @property\n    def property(self):",
        "    @functools.cached_property\n    def cached(self):\n        return 10.0\n\n"
        "    @property\n    def property(self):",
    )
    return sources.edited("self.prepare(frames) +", "self.prepare(frames) + self.cached +")


def with_descriptor():
    descriptor = "class Constant:\n    def __get__(self, instance, owner):\n        return 10.0\n\n\n"
    sources = Sources().edited("class FrontEnd(Base):", descriptor + "class FrontEnd(Base):")
    sources.edited("    offset = 7.0", "    offset = 7.0\n    described = Constant()")
    return sources.edited("self.prepare(frames) +", "self.prepare(frames) + self.described +")


def test_an_edited_descriptor_changes_the_identity(identity):
    assert identity(with_descriptor()).sha != identity(with_descriptor().edited("return 10.0", "return 10.5")).sha


def test_an_edited_cached_property_changes_the_identity(identity):
    plain = identity(with_cached_property())
    assert identity(with_cached_property().edited("return 10.0", "return 10.5")).sha != plain.sha
    documented = with_cached_property().edited("return 10.0", '"""A docstring."""\n        return 10.0')
    assert identity(documented) == plain


def test_using_a_cached_property_keeps_the_identity(identity):
    front_end = identity.front_end(with_cached_property())
    sha = processor_sha256(front_end)
    assert front_end.cached == 10.0
    assert processor_sha256(front_end) == sha


# The edited copy of an extractor of transformers ----------------------------------------------------------------------


def copy_of_whisper(folder, *edits):
    """Write Whisper's module as a package of its own, with edits, and return where it can be imported from."""
    transformers = Path(importlib.util.find_spec("transformers").origin).parent
    source = (transformers / "models/whisper/feature_extraction_whisper.py").read_text(encoding="utf-8")
    audio = (transformers / "audio_utils.py").read_text(encoding="utf-8")
    source = source.replace("from ...audio_utils", "from .audio_utils").replace(
        "from ... import", "from transformers import"
    )
    files = {"extraction.py": source.replace("from ...", "from transformers."), "audio_utils.py": audio}
    files["audio_utils.py"] = audio.replace("from .utils", "from transformers.utils")
    for before, after in edits:
        [name] = [name for name, text in files.items() if before in text]
        files[name] = files[name].replace(before, after)
    package = folder / "whisper_copy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    for name, text in files.items():
        (package / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def whisper_sha(tmp_path, monkeypatch):
    folders = iter(range(100))

    def sha(*edits):
        folder = copy_of_whisper(tmp_path / str(next(folders)), *edits)
        for name in [name for name in sys.modules if name.partition(".")[0] == "whisper_copy"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(folder)
        importlib.invalidate_caches()
        return processor_sha256(importlib.import_module("whisper_copy.extraction").WhisperFeatureExtractor())

    return sha


@pytest.mark.parametrize(
    "edit",
    [
        ('window_function(self.n_fft, "hann")', 'window_function(self.n_fft, "hamming")'),
        ("torch.hann_window(", "torch.hamming_window("),
        ("min=1e-10", "min=1e-9"),
        ("log_spec.max() - 8.0", "log_spec.max() - 7.0"),
        ("mel_floor: float = 1e-10", "mel_floor: float = 1e-9"),
        ("np.hanning(length)", "np.blackman(length)"),
        ("x_vec / np.sqrt(x_vec.var() + 1e-7)", "x_vec"),
    ],
)
def test_an_edited_copy_of_an_extractor_is_another_processor(edit, whisper_sha):
    if edit[0].startswith("x_vec"):
        edit = ("(x - x.mean()) / np.sqrt(x.var() + 1e-7)", "(x - x.mean())")
    assert whisper_sha(edit) != whisper_sha()


@pytest.mark.skipif(
    importlib.metadata.version("transformers").startswith("4."), reason="the edits are of transformers 5's source"
)
def test_a_reformatted_copy_of_an_extractor_is_the_same(whisper_sha):
    edits = [
        ("        log_spec_batch = []\n", "        # a comment\n        log_spec_batch = [\n        ]\n"),
        ("Compute the log-mel spectrogram", "Computes the log-mel spectrogram"),
        (
            "def _torch_extract_fbank_features(self, waveform: np.ndarray,",
            "def _torch_extract_fbank_features(self, waveform,",
        ),
        ('log_mel="log10",', "log_mel=('log10'),"),
    ]
    assert whisper_sha(*edits) == whisper_sha()


# Changes in one process -----------------------------------------------------------------------------------------------


PATCHES = {
    "a method": ("front:FrontEnd.make", classmethod(lambda cls, frames: frames)),
    "a method that is inherited": ("front:FrontEnd.prepare", lambda self, frames: frames),
    "a method of the parent": ("parts:Base.prepare", lambda self, frames: frames),
    "a function": ("front:first_call_deep", lambda frames: frames),
    "a function two calls deep": ("front:second_call_deep", lambda frames: frames),
    "a function of a module": ("windows:other_window", lambda length: 1.0),
    "a constant": ("front:FLOOR", 1e-9),
    "an imported constant": ("front:POWER", 2.0),
    "a constant of the class": ("front:FrontEnd.offset", 2.0),
    "a property": ("front:FrontEnd.property", property(lambda self: 1.0)),
    "the call itself": ("front:FrontEnd.__call__", lambda self, raw_speech: {}),
    "default values": ("front:FrontEnd.__call__.__defaults__", (None, None, 1e-9)),
    "the code of a function": ("front:second_call_deep.__code__", (lambda frames: frames).__code__),
    "the code of a method": ("front:FrontEnd.make.__func__.__code__", (lambda cls, frames: frames).__code__),
    "an attribute of a function": ("front:first_call_deep.offset", 2.0),
    "a name that Python has": ("front:type", lambda value: value.__class__),
}


@pytest.mark.parametrize("patch", PATCHES)
def test_a_patch_counts_at_once_and_no_longer_than_it_lasts(patch, identity, monkeypatch):
    front_end = identity.front_end(Sources())
    fingerprinter = Fingerprinter(front_end, {})
    sha = fingerprinter.identity().sha
    place, value = PATCHES[patch]
    module, _, path = place.partition(":")
    owner = importlib.import_module(f"front_end.{module}")
    *owners, name = path.split(".")
    for part in owners:
        owner = getattr(owner, part)
    with monkeypatch.context() as patching:
        patching.setattr(owner, name, value, raising=False)
        assert processor_sha256(front_end) != sha, "a new fingerprinter"
        assert fingerprinter.identity().sha != sha, "one that was asked before"
    assert fingerprinter.identity().sha == sha
    assert processor_sha256(front_end) == sha


@pytest.mark.parametrize(
    "change",
    [
        lambda front: front.SETTINGS.update(scale=3.0),
        lambda front: front.SETTINGS["steps"].append(3),
        lambda front: front.SCALES.fill(4.0),
        lambda front: setattr(front.MEL, "scale", 5.0),
        lambda front: front.by_type.register(list, lambda frames: frames),
        lambda front: front.by_type.register(np.ndarray, lambda frames: frames),
    ],
    ids=["a dict", "a list in it", "an array", "an object", "a function of a new type", "a function of a known type"],
)
def test_a_constant_changed_in_place_counts_at_once(change, identity):
    front_end = identity.front_end(Sources())
    fingerprinter = Fingerprinter(front_end, {})
    sha = fingerprinter.identity().sha
    change(sys.modules["front_end.front"])
    assert processor_sha256(front_end) != sha, "a new fingerprinter"
    assert fingerprinter.identity().sha != sha, "one that was asked before"


@pytest.mark.parametrize(
    "change",
    [
        lambda function: function.__kwdefaults__.update(scale=2.0),
        lambda function: function.__kwdefaults__["steps"].append(2),
        lambda function: function.__defaults__[0].append(3),
    ],
    ids=["a name", "a list of a name", "a list of a place"],
)
def test_a_default_value_changed_in_place_counts_at_once(change, identity):
    parameters = "frames, weights=[3], *, steps=[1], scale=1.0"
    front_end = identity.front_end(
        Sources().edited("def second_call_deep(frames):", f"def second_call_deep({parameters}):")
    )
    fingerprinter = Fingerprinter(front_end, {})
    sha = fingerprinter.identity().sha
    change(sys.modules["front_end.front"].second_call_deep)
    assert processor_sha256(front_end) != sha, "a new fingerprinter"
    assert fingerprinter.identity().sha != sha, "one that was asked before"


AUTORELOADING = """
import json, os, sys
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
import numpy as np
from hf_audio_cache import CachedFeatures

folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
helper = folder / "own_helper.py"
helper.write_text("def scaled(waveform): return waveform * 2.0")
os.utime(helper, (1_000_000_000, 1_000_000_000))
(folder / "own_front_end.py").write_text('''
from own_helper import scaled

class FrontEnd:
    sampling_rate = 16000
    def __call__(self, raw_speech, sampling_rate):
        return {"input_features": [scaled(waveform) for waveform in raw_speech]}
''')
shell = InteractiveShell.instance()
shell.run_cell("%load_ext autoreload\\n%autoreload 2")
shell.run_cell("from own_front_end import FrontEnd")
cached_features = CachedFeatures(shell.user_ns["FrontEnd"](), folder / "root", features="always")
example = {"audio": {"array": np.ones(1600, np.float32), "sampling_rate": 16000}}
found = [cached_features(example)["input_features"][0]]
helper.write_text("def scaled(waveform): return waveform * 3.0")
shell.run_cell("None")
found.append(cached_features(example)["input_features"][0])
print(json.dumps([float(number) for number in found]))
"""


def test_a_function_that_ipython_reloads_in_place_counts_at_once(tmp_path):
    pytest.importorskip("IPython", reason="IPython comes with ipykernel, for the notebooks")
    assert run(["-c", AUTORELOADING, tmp_path]) == [2.0, 3.0]


@pytest.mark.parametrize("edit", ["a function two calls deep", "a default value", "a decorator"])
def test_a_file_edited_after_its_import_says_nothing_of_the_code_that_runs(edit, identity, tmp_path):
    front_end = identity.front_end(Sources())
    old = processor_sha256(front_end)
    Sources().edited(*EDITS[edit]).write(Path(sys.modules["front_end"].__file__).parent.parent)
    linecache.checkcache()
    running = processor_sha256(front_end)
    new = identity(Sources().edited(*EDITS[edit])).sha
    assert old != new
    assert running != new


def test_a_table_of_functions_that_use_it(tmp_path, monkeypatch):
    source = """
    TABLE = {}


    def twice(frames):
        return TABLE["once"](frames) * 2.0


    def once(frames):
        return frames if frames else TABLE["twice"](frames)


    TABLE.update(once=once, twice=twice)


    class FrontEnd:
        def __call__(self, frames):
            return TABLE["twice"](frames)
    """
    shas = set()
    for number, text in enumerate([source, source.replace("2.0", "2.5")]):
        name = f"front_end_table_{number}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        code = describe(importlib.import_module(name).FrontEnd())
        shas.add(json.dumps(code).replace(name, "front_end_table"))
    assert len(shas) == 2


def describe(called):
    return Fingerprinter(called, {}).identity().description["code"]


def test_members_of_an_enum_have_no_addresses(tmp_path, monkeypatch):
    source = """
    import enum
    import functools


    def hann(length):
        return length


    class Window(enum.Enum):
        HANN = functools.partial(hann)
        OTHER = object()


    class FrontEnd:
        def __call__(self, frames):
            return Window.HANN.value(frames)
    """
    (tmp_path / "front_end_enum.py").write_text(textwrap.dedent(source), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert "0x" not in json.dumps(describe(importlib.import_module("front_end_enum").FrontEnd()))


# Classes without source, and other processes --------------------------------------------------------------------------

NOTEBOOK_CLASS = """
import numpy as np

WORDS = frozenset({"alpha", "beta", "gamma", "delta", "epsilon"})
FACTOR = 1.0

def scale(frames):
    return frames * 2.0

class FrontEnd:
    sampling_rate = 16000

    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, raw_speech, sampling_rate=None, return_tensors=None):
        assert "beta" in {"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"}
        return {"input_features": [(scale(raw_speech[0]) * self.factor * FACTOR).astype(np.float32)]}
"""


def executed(source, name="executed_module"):
    namespace = {"__name__": name}
    exec(compile(source, "<executed>", "exec"), namespace)
    return namespace["FrontEnd"]


def test_a_class_without_source_goes_by_its_bytecode():
    code = describe(executed(NOTEBOOK_CLASS)())
    assert describe(executed(NOTEBOOK_CLASS)()) == code
    for before, after in (("* 2.0", "* 3.0"), ("FACTOR = 1.0", "FACTOR = 2.0"), ("raw_speech[0]", "raw_speech[-1]")):
        assert describe(executed(NOTEBOOK_CLASS.replace(before, after))()) != code
    assert "0x" not in json.dumps(code)


def test_a_class_in_a_notebook_is_the_same_wherever_its_cell_stands():
    """As IPython does: each cell is a file of `linecache`."""
    codes = []
    for number, source in enumerate(
        [NOTEBOOK_CLASS, f"\n# moved\n{NOTEBOOK_CLASS}", NOTEBOOK_CLASS.replace("2.0", "3.0")]
    ):
        file_name = f"<ipython-input-{number}>"
        linecache.cache[file_name] = (len(source), None, source.splitlines(keepends=True), file_name)
        namespace = {"__name__": "notebook"}
        exec(compile(source, file_name, "exec"), namespace)
        codes.append(describe(namespace["FrontEnd"]()))
    assert codes[0] == codes[1] != codes[2]
    assert codes[0] == describe(executed(NOTEBOOK_CLASS)())


IDENTITY_OF_THE_PROGRAM = """
import json
from hf_audio_cache.processors.identity import Fingerprinter
print(json.dumps(Fingerprinter(FrontEnd(), {}).identity().description))
"""


def run(arguments, **environment):
    child = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return json.loads(child.stdout.splitlines()[-1])


def test_a_class_given_to_python_on_the_command_line_has_one_identity():
    program = NOTEBOOK_CLASS + IDENTITY_OF_THE_PROGRAM
    seeds = [run(["-c", program], PYTHONHASHSEED=seed) for seed in ("1", "2", "3")]
    assert seeds[0] == seeds[1] == seeds[2]
    assert run(["-c", program.replace("* 2.0", "* 3.0")]) != seeds[0]


SPAWNING = """
import json, multiprocessing, pickle, sys
from concurrent.futures import ProcessPoolExecutor
from hf_audio_cache import CachedFeatures

def sha(cached_features):
    return cached_features.processor_sha

if __name__ == "__main__":
    how, root = sys.argv[1:]
    cached_features = CachedFeatures(FrontEnd(), root, features="always")
    if how == "multiprocessing":
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            child = pool.apply(sha, (cached_features,))
    elif how == "multiprocess":
        import multiprocess
        with multiprocess.get_context("spawn").Pool(1) as pool:
            child = pool.apply(sha, (cached_features,))
    else:
        import subprocess, dill
        pickled = dill.dumps(cached_features, recurse=True)  # otherwise it does not run there
        program = "import sys, dill; print(dill.loads(sys.stdin.buffer.read()).processor_sha)"
        child = subprocess.run([sys.executable, "-c", program], input=pickled, capture_output=True, check=True)
        child = child.stdout.decode().split()[-1]
    print(json.dumps([cached_features.processor_sha, child]))
"""


@pytest.mark.parametrize("how", ["multiprocessing", "multiprocess", "dill, recurse"])
def test_a_class_of_the_program_has_one_identity_in_spawned_processes(how, tmp_path):
    script = tmp_path / "program.py"
    shas = []
    for source in (NOTEBOOK_CLASS, NOTEBOOK_CLASS.replace("* 2.0", "* 3.0")):
        script.write_text(source + SPAWNING, encoding="utf-8")
        parent, child = run([script, how, tmp_path / "root"])
        assert parent == child
        shas.append(parent)
    assert shas[0] != shas[1]


def test_a_class_on_the_command_line_has_one_identity_by_dill(tmp_path):
    parent, child = run(["-c", NOTEBOOK_CLASS + SPAWNING, "dill, recurse", tmp_path / "root"])
    assert parent == child


def test_cloudpickle_carries_the_identity_of_a_class(tmp_path):
    pytest.importorskip("cloudpickle")
    program = """
import cloudpickle, json, subprocess, sys
from hf_audio_cache import CachedFeatures
cached_features = CachedFeatures(FrontEnd(), sys.argv[1], features="always")
program = "import sys, pickle; print(pickle.loads(sys.stdin.buffer.read()).processor_sha)"
child = subprocess.run([sys.executable, "-c", program], input=cloudpickle.dumps(cached_features), capture_output=True)
print(json.dumps([cached_features.processor_sha, child.stdout.decode().strip()]))
"""
    script = tmp_path / "program.py"
    script.write_text(NOTEBOOK_CLASS + program, encoding="utf-8")
    parent, child = run([script, tmp_path / "root"])
    assert parent == child

"""The identity of a processor's code: which edits change it, and which don't."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import linecache
import os
import pickle
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import numpy as np
import pytest
from children import python_path

from hf_audio_cache.processors.identity import Fingerprinter, processor_sha256

# A front end with its helpers in modules of one package.
FRONT_END = '''
"""A front end."""
import functools
import numpy as np
from . import windows

FLOOR = 1e-10


def first(frames):
    return second(frames)


def second(frames):
    return frames * 5.0


@functools.singledispatch
def by_type(frames):
    return frames * 44.0


@by_type.register
def of_arrays(frames: np.ndarray):
    return frames * 45.0


class FrontEnd:
    """It makes spectrograms."""

    sampling_rate = 16000

    def __init__(self, n_fft=400):
        self.n_fft = n_fft

    def __call__(self, raw_speech, sampling_rate=None, return_tensors=None, floor=1e-10):
        # frames of the clip
        frames = raw_speech[0][: self.n_fft] * windows.window(self.n_fft)
        spectrum = np.abs(np.fft.rfft(by_type(first(frames)))) ** 2

        def nested(values, base=(lambda x: x + 8.0)):
            return base(np.log10(np.maximum(values, FLOOR) + floor))

        return {"input_features": [nested(spectrum).astype(np.float32)]}

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


def unused(length):
    return np.ones(length) + 23.0
"""


def edited(*edits):
    """Return the files of the front end, each text of an edit, which stands there once, replaced by another."""
    files = {"front_end/__init__.py": "", "front_end/front.py": FRONT_END, "front_end/windows.py": WINDOWS}
    for before, after in edits:
        [name] = [name for name, source in files.items() if before in source]
        assert files[name].count(before) == 1, before
        files[name] = files[name].replace(before, after)
    return files


def write(files, folder):
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


@pytest.fixture
def front_end(tmp_path, monkeypatch):
    """``front_end(*edits)``: the front end, imported anew from its sources with these edits."""
    folders = iter(range(100))

    def front_end(*edits):
        folder = tmp_path / str(next(folders))
        write(edited(*edits), folder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "front_end"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(folder)
        importlib.invalidate_caches()
        return importlib.import_module("front_end.front").FrontEnd()

    return front_end


def test_the_same_code_elsewhere_is_the_same(front_end):
    assert Fingerprinter(front_end(), {}).identity() == Fingerprinter(front_end(), {}).identity()
    assert front_end()([np.ones(400, np.float32)])["input_features"][0].shape == (201,)


# What no call runs counts too; that no call can, nobody knows. (test_own_code_pairs.py has the ways to reach code.)
EDITS = {
    "a function of a module of the package": ("np.hanning(length) + 21.0", "np.blackman(length) + 21.0"),
    "a default value": ("floor=1e-10", "floor=1e-9"),
    "a default value of a nested function": ("x + 8.0", "x + 8.5"),
    "a nested function": ("np.log10(np", "np.log(np"),
    "a function of another type": ("* 45.0", "* 45.5"),
    "the type of such a function": ("frames: np.ndarray", "frames: list"),
    "a function two calls deep": ("* 5.0", "* 5.5"),
    "an operator": (" ** 2", " ** 3"),
    "another function of a module that is used": ("+ 23.0", "+ 23.5"),
    "a new function in it": ("def unused(length):", "def another(x):\n    return x\n\n\ndef unused(length):"),
    "another method": ("saved to", "kept at"),
    "another class method": ("return cls(400)", "return cls(401)"),
    "the constructor": ("self.n_fft = n_fft", "self.n_fft = n_fft + 0"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_changes_the_identity(edit, front_end):
    assert processor_sha256(front_end()) != processor_sha256(front_end(EDITS[edit]))


WRITTEN_OTHERWISE = {
    "a comment": ("# frames of the clip", "# other words"),
    "no comment": ("        # frames of the clip\n", ""),
    "a docstring of a class": ('"""It makes spectrograms."""', '"""Other words."""'),
    "a docstring of a function": ("    return second(frames)", '    """A docstring."""\n    return second(frames)'),
    "a docstring of a module": ('"""A front end."""', '"""Other words."""'),
    "line breaks": ("return frames * 5.0", "return (\n        frames\n        * 5.0\n    )"),
    "blank lines": ("    return frames * 5.0", "\n\n    return frames * 5.0\n\n\n"),
    "annotations": ("def second(frames):", "def second(frames: float) -> 'np.ndarray':"),
    "an annotation that is a function": ("def second(frames):", "def second(frames: windows.window):"),
    "an annotated variable": ("frames = raw_speech[0]", "frames: np.ndarray = raw_speech[0]"),
    "a bare annotation": ("    return frames * 5.0", "    result: float\n    return frames * 5.0"),
    "parentheses": ("return frames * 5.0", "return ((frames) * (5.0))"),
    "quotes": ('{"input_features":', "{'input_features':"),
    "how a number is written": ("return frames * 5.0", "return frames * 5_0e-1"),
}


@pytest.mark.parametrize("edit", WRITTEN_OTHERWISE)
def test_an_edit_that_changes_nothing_keeps_the_identity(edit, front_end):
    one, other = front_end(), front_end(WRITTEN_OTHERWISE[edit])
    assert Fingerprinter(one, {}).identity().description == Fingerprinter(other, {}).identity().description


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


# Changes in one process (test_own_code_changes.py has more) ---------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda function: function.__kwdefaults__.update(scale=2.0),
        lambda function: function.__kwdefaults__["steps"].append(2),
        lambda function: function.__defaults__[0].append(3),
    ],
    ids=["a name", "a list of a name", "a list of a place"],
)
def test_a_default_value_changed_in_place_counts_at_once(change, front_end):
    changed = front_end(("def second(frames):", "def second(frames, weights=[3], *, steps=[1], scale=1.0):"))
    fingerprinter = Fingerprinter(changed, {})
    sha = fingerprinter.identity().sha
    change(sys.modules["front_end.front"].second)
    assert processor_sha256(changed) != sha, "a new fingerprinter"
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


@pytest.mark.parametrize("edit", ["a function two calls deep", "a default value"])
def test_a_file_edited_after_its_import_says_nothing_of_the_code_that_runs(edit, front_end):
    loaded = front_end()
    old = processor_sha256(loaded)
    write(edited(EDITS[edit]), Path(sys.modules["front_end"].__file__).parent.parent)
    linecache.checkcache()
    assert old != processor_sha256(front_end(EDITS[edit])) != processor_sha256(loaded)


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


def run(arguments, **environment):
    child = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": python_path(has_torch=False), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return json.loads(child.stdout.splitlines()[-1])


SPAWNING = """
import json, multiprocessing, pickle, subprocess, sys
from hf_audio_cache import CachedFeatures

def sha(cached_features):
    return cached_features.processor_sha

def in_a_pool(cached_features, library):
    with library.get_context("spawn").Pool(1) as pool:
        return pool.apply(sha, (cached_features,))

def by(library, pickled):
    program = f"import sys, {library}; print({library}.loads(sys.stdin.buffer.read()).processor_sha)"
    child = subprocess.run([sys.executable, "-c", program], input=pickled, capture_output=True, check=True)
    return child.stdout.decode().split()[-1]

def in_pools(cached_features):
    import multiprocess
    return [in_a_pool(cached_features, library) for library in (multiprocessing, multiprocess)]

def by_dill(cached_features):
    import dill
    return [by("dill", dill.dumps(cached_features, recurse=True))]  # otherwise it does not run there

def by_cloudpickle(cached_features):
    import cloudpickle
    return [by("pickle", cloudpickle.dumps(cached_features))]

if __name__ == "__main__":
    root, *ways = sys.argv[1:]
    cached_features = CachedFeatures(FrontEnd(), root, features="always")
    print(json.dumps([sha(cached_features), *[found for way in ways for found in globals()[way](cached_features)]]))
"""


def test_a_class_of_the_program_has_one_identity_in_each_process_and_by_each_pickler(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(NOTEBOOK_CLASS + SPAWNING, encoding="utf-8")
    ways = ("in_pools", "by_dill", "by_cloudpickle")
    found = run([script, tmp_path / "root", *ways], PYTHONHASHSEED="1")
    assert len(found) == 5
    # On the command line it has no file.
    found += run(["-c", NOTEBOOK_CLASS + SPAWNING, tmp_path / "root", "by_dill"], PYTHONHASHSEED="2")
    assert len(set(found)) == 1


def test_a_function_of_numbas_is_its_code_and_options_without_the_number_that_pickling_gives_it():
    def dispatcher(function, **options):
        members = {"py_func": staticmethod(function), "targetoptions": options, "locals": {}, "overloads": {}}
        members |= {"_can_compile": True, "__reduce__": lambda self: (str, (uuid.uuid4().hex,))}
        return type("Dispatcher", (), members | {"__module__": "numba.core.dispatcher"})()

    class FrontEnd:
        def __init__(self, function):
            self.function = function

        def __call__(self, raw_speech, sampling_rate=None):
            return {"y": raw_speech}

    first = processor_sha256(FrontEnd(dispatcher(len)))
    assert processor_sha256(FrontEnd(dispatcher(len))) == first
    assert processor_sha256(FrontEnd(dispatcher(max))) != first
    assert processor_sha256(FrontEnd(dispatcher(len, fastmath=True))) != first


def test_a_function_of_joblibs_is_its_code_without_the_folder_where_it_keeps_results(tmp_path):
    class MemorizedFunc:
        def __init__(self, func, location, ignore=()):
            self.func, self.ignore, self.store_backend = func, list(ignore), location

        def __call__(self, raw_speech):
            return self.func(raw_speech)

    MemorizedFunc.__module__ = "joblib.memory"

    class FrontEnd:
        def __init__(self, function):
            self.function = function

        def __call__(self, raw_speech, sampling_rate=None):
            return {"y": self.function(raw_speech)}

    def double(raw_speech):
        return [raw_speech[0] * 2]

    first = processor_sha256(FrontEnd(MemorizedFunc(double, tmp_path)))
    assert processor_sha256(FrontEnd(MemorizedFunc(double, tmp_path / "elsewhere"))) == first
    assert processor_sha256(FrontEnd(MemorizedFunc(double, tmp_path, ["raw_speech"]))) != first
    assert processor_sha256(FrontEnd(MemorizedFunc(list, tmp_path))) != first


def test_where_the_code_lies_that_torch_fx_traced_does_not_count():
    torch = pytest.importorskip("torch", reason="some environments have none")

    class FrontEnd:
        def __init__(self, file):
            self.traced = torch.fx.symbolic_trace(torch.nn.Linear(4, 4, bias=False).requires_grad_(False))
            self.traced.weight.fill_(1)
            self.traced.graph._co_fields = {"co_name": "forward", "co_filename": file, "co_firstlineno": 1}

        def __call__(self, raw_speech, sampling_rate=None):
            return {"y": [self.traced(torch.from_numpy(raw_speech[0][:4]))]}

    assert processor_sha256(FrontEnd("/one/front_end.py")) == processor_sha256(FrontEnd("/two/front_end.py"))


def test_what_transformers_cannot_import_here_is_no_reason_to_refuse(monkeypatch):
    from transformers import audio_utils

    made = {}
    code = "def optional(x):\n    from .no_such_module import step\n    return step(x)"
    exec(code, vars(audio_utils), made)
    monkeypatch.setattr(audio_utils, "optional", made["optional"], raising=False)

    class FrontEnd:
        def __call__(self, raw_speech, sampling_rate=None):
            return {"y": raw_speech if len(raw_speech) else audio_utils.optional(raw_speech)}

    assert processor_sha256(FrontEnd()) == processor_sha256(FrontEnd())


def test_a_module_that_torch_compiles_is_the_same_after_pickling():
    torch = pytest.importorskip("torch", reason="some environments have none")

    class FrontEnd:
        def __init__(self, layer):
            self.layer = layer

        def __call__(self, raw_speech, sampling_rate=None):
            return {"y": raw_speech if len(raw_speech) else self.layer(raw_speech)}

    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    compiled = torch.compile(layer, backend="eager")
    first = processor_sha256(FrontEnd(compiled))
    assert processor_sha256(FrontEnd(pickle.loads(pickle.dumps(compiled)))) == first
    layer.weight += 1
    assert processor_sha256(FrontEnd(compiled)) != first

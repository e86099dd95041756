"""Whose code it is: by where it lies, and never by its name alone."""

from __future__ import annotations

import importlib
import importlib.util
import json
import py_compile
import runpy
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

from hf_audio_cache import processor_sha256
from hf_audio_cache.processors.identity import Fingerprinter
from hf_audio_cache.processors.ownership import Owner, owner_of, owner_of_module

FRONT_END = """
import {module} as helper
class FrontEnd:
    def __call__(self, raw_speech, sampling_rate=None):
        return {{"y": [helper.f(raw_speech[0])]}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to import from; what was imported from it is forgotten at the end."""
    before = dict(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    importlib.invalidate_caches()


def fresh(name):
    for known in [known for known in sys.modules if known.partition(".")[0] == name.partition(".")[0]]:
        del sys.modules[known]
    return importlib.import_module(name)


LIBRARIES = [np.hanning, np.log10, np.ndarray, json.dumps, json.JSONDecoder, types.SimpleNamespace, pytest.fixture]
LIBRARIES = [value for value in LIBRARIES if isinstance(value, (type, types.FunctionType))]


@pytest.mark.parametrize("value", LIBRARIES, ids=lambda value: value.__qualname__)
def test_what_is_installed_is_a_library(value):
    assert owner_of(value) is Owner.LIBRARY


@pytest.mark.parametrize("name", ["numpy", "json", "sys", "pytest", "hf_audio_cache", "hf_audio_cache.processors.code"])
def test_modules_that_are_installed_are_libraries(name):
    importlib.import_module(name)
    assert owner_of_module(name) is Owner.LIBRARY


def test_transformers_is_followed():
    assert owner_of_module("transformers") is Owner.FOLLOWED


@pytest.mark.parametrize("name", ["chunk", "wave", "statistics", "signal", "audioop", "my_helpers"])
def test_a_file_of_ones_own_counts_whatever_its_name(name, folder, monkeypatch):
    shas = set()
    for gain in (2, 3):
        place = folder / str(gain)
        files = {f"{name}.py": f"def f(x): return x * {gain}", "own_front_end.py": FRONT_END.format(module=name)}
        write(place, files)
        monkeypatch.syspath_prepend(place)
        monkeypatch.delitem(sys.modules, name, raising=False)
        shas.add(processor_sha256(fresh("own_front_end").FrontEnd()))
        assert owner_of_module(name) is Owner.OWN
    assert len(shas) == 2


def test_a_package_without_an_init_is_ones_own(folder):
    write(folder, {"namespace/part.py": "def f(x): return x"})
    assert owner_of(fresh("namespace.part").f) is Owner.OWN
    assert owner_of_module("namespace") is Owner.OWN


@pytest.mark.parametrize("place", ["target", "a folder/of packages"])
def test_what_pip_put_into_a_folder_of_its_own_is_a_library(place, folder, monkeypatch):
    """As with ``pip install --target``: its code is not read, however much there is."""
    target = folder / place
    files = {
        "biglib/__init__.py": "from .deep import f",
        "biglib/deep.py": "import threading\nLOCAL = threading.local()\ndef f(x): return x, LOCAL",
        "onefile.py": "def f(x): return x",
        "biglib-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: biglib\nVersion: 1.0\n",
        "biglib-1.0.dist-info/RECORD": "biglib/__init__.py,,\nbiglib/deep.py,,\nonefile.py,,\n",
    }
    write(target, files)
    monkeypatch.syspath_prepend(target)
    for name in ("biglib", "biglib.deep", "onefile"):
        assert owner_of(fresh(name).f) is Owner.LIBRARY
    write(folder, {"own_front_end.py": FRONT_END.format(module="biglib")})
    code = Fingerprinter(fresh("own_front_end").FrontEnd(), {}).identity().description["code"]
    assert code["FrontEnd.__call__"]["globals"] == {"helper": {"module": "biglib"}}


USES = {
    "a function": ("from .util import f", "f(w[0])"),
    "a function of a module": ("from . import util", "util.f(w[0])"),
    "a module by its full name": ("import ourlab.util", "ourlab.util.f(w[0])"),
    "a value of a module": ("from . import util", "w[0] * util.GAIN"),
    "an import in the call": ("", "__import__('ourlab.util').util.f(w[0])"),
    "a class with defaults": ("from .util import Settings", "w[0] * Settings().gain"),
    "a method that a module shares": ("from . import util", "util.louder(w[0])"),
    "a parent": ("from .util import Parent", "super().__call__(w)"),
}
UTIL = """
from typing import NamedTuple
GAIN = {gain}
def f(x): return x * {gain}
class Settings(NamedTuple):
    gain: int = {gain}
class Parent:
    def __call__(self, w): return w[0] * {gain}
class Volume:
    def louder(self, x): return x * {gain}
louder = Volume().louder
"""


@pytest.mark.parametrize("use", USES)
def test_the_installed_package_of_a_front_end_is_as_ones_own(use, folder, monkeypatch):
    """A package of a laboratory, in an image of a container: the next image may have other code of the same version."""
    imported, returned = USES[use]
    front_end = f"""
{imported}
class FrontEnd({"Parent" if use == "a parent" else ""}):
    sampling_rate = 16000
    def __call__(self, w, sampling_rate): return {{"x": [{returned}]}}
"""
    shas = []
    for place, gain in (("one", 2), ("two", 3), ("checkout", 2)):
        files = {
            "ourlab/__init__.py": "from .front import FrontEnd",
            "ourlab/front.py": front_end,
            "ourlab/util.py": UTIL.format(gain=gain),
        }
        if place != "checkout":
            record = "".join(f"{name},,\n" for name in files)
            metadata = "Metadata-Version: 2.1\nName: ourlab\nVersion: 1.0\n"
            files |= {"ourlab-1.0.dist-info/METADATA": metadata, "ourlab-1.0.dist-info/RECORD": record}
        write(folder / place, files)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder / place)
            shas.append(processor_sha256(fresh("ourlab").FrontEnd()))
            assert owner_of_module("ourlab") is (Owner.OWN if place == "checkout" else Owner.LIBRARY)
    assert shas[0] != shas[1]
    assert shas[0] == shas[2]


def test_a_checkout_with_its_metadata_beside_it_is_ones_own(folder):
    """As after ``pip install -e`` or a build: the sources are what is edited."""
    files = {
        "mylib/__init__.py": "def f(x): return x",
        "mylib.egg-info/PKG-INFO": "Metadata-Version: 2.1\nName: mylib\nVersion: 1.0\n",
        "mylib.egg-info/SOURCES.txt": "mylib/__init__.py\n",
    }
    write(folder, files)
    assert owner_of(fresh("mylib").f) is Owner.OWN


def test_a_class_that_is_not_where_it_says_goes_by_its_functions():
    scope = {}
    exec("class G:\n    def f(self): return 1", scope)
    assert scope["G"].__module__ == "builtins"
    assert owner_of(scope["G"]) is Owner.OWN
    exec("class G: gain = 1", scope)
    assert owner_of(scope["G"]) is Owner.OWN


def test_a_function_that_says_it_is_a_librarys_is_ones_own():
    import functools

    @functools.wraps(np.hanning)
    def louder(n):
        return np.hanning(n) * 2

    assert owner_of(louder) is Owner.OWN


REMOTE = """
from .helpers import scaled
class FrontEnd:
    sampling_rate = 16000
    def __call__(self, raw_speech, sampling_rate=None):
        return {"y": [scaled(raw_speech[0])]}
"""


def test_remote_code_is_one_wherever_it_was_put(folder):
    """transformers copies ``trust_remote_code`` classes into a folder named after the repository and its revision."""
    shas = {}
    for repository, gain in (("org_hyphen_a/0123", 2), ("fork/4567", 2), ("edited/89ab", 3)):
        package = f"transformers_modules/{repository}"
        files = {
            f"{package}/{name}.py": text for name, text in (("fe", REMOTE), ("helpers", "def scaled(x): return x"))
        }
        files[f"{package}/helpers.py"] = f"def scaled(x): return x * {gain}"
        write(folder, files)
        module = fresh(package.replace("/", ".") + ".fe")
        shas[repository] = processor_sha256(module.FrontEnd())
    assert shas["org_hyphen_a/0123"] == shas["fork/4567"] != shas["edited/89ab"]


PROGRAM = """
import sys
import numpy as np
GAIN = 2
def scaled(x): return x * GAIN
class FrontEnd:
    sampling_rate = 16000
    def __call__(self, raw_speech, sampling_rate=None): return {"y": [scaled(raw_speech[0])]}
if __name__ == "__main__":
    from hf_audio_cache import processor_sha256
    print(processor_sha256(FrontEnd()))
"""


def test_a_program_and_its_import_are_one(folder, capsys):
    write(folder, {"prog.py": PROGRAM, "pkg/__init__.py": "", "pkg/prog.py": PROGRAM})
    for path in ("prog.py", "pkg/prog.py"):
        runpy.run_path(str(folder / path), run_name="__main__")
    for name in ("prog", "pkg.prog"):  # as Python itself does for its option -m
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    child = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    shas = {*capsys.readouterr().out.split(), *child.stdout.split(), processor_sha256(fresh("prog").FrontEnd())}
    assert len(shas) == 1


VOLATILE = """
import logging, random, threading, time
import numpy as np
START = time.time()
RNG = np.random.default_rng()
GENERATOR = (number for number in range(3))
LOCAL = threading.local()
MEMO = {}
log = logging.getLogger(__name__)
def elapsed(): return time.time() - START
def augment(x): return x + RNG.normal()
def threads(): return LOCAL, next(GENERATOR)
def f(x): return x * 2
"""


@pytest.mark.parametrize(
    "way",
    [
        "helper.f(x)",
        "getattr(helper, 'f')(x)",
        "(h := helper).f(x)",
        "helper.f(getattr(self, 'ga' + 'in', 1) * x)",
        "helper.f(x) if vars(self) is not None else 0",
        "helper.f(x) if self.__dict__ is not None else 0",
        "helper.f(x) if [m for m in getattr(self, 'modules', list)()] == [] else 0",
    ],
)
def test_what_stands_beside_in_a_module_makes_no_difference(way, folder):
    """A start time, an unseeded generator or an open thing must not make another identity in each run."""
    write(folder, {"helper.py": VOLATILE})
    source = FRONT_END.format(module="helper").replace("helper.f(raw_speech[0])", way.replace("x)", "raw_speech[0])"))
    write(folder, {"own_front_end.py": source})
    shas = set()
    for _ in range(2):
        fresh("helper")
        shas.add(processor_sha256(fresh("own_front_end").FrontEnd()))
    assert len(shas) == 1


@pytest.mark.parametrize("edit", ["def f(x): return x * 2", "def augment(x): return x + RNG.normal()"])
def test_the_code_of_a_module_counts_whole(edit, folder):
    shas = set()
    for text in (VOLATILE, VOLATILE.replace(edit, edit + " + 1")):
        write(folder, {"helper.py": text, "own_front_end.py": FRONT_END.format(module="helper")})
        sys.modules.pop("helper", None)
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        shas.add(processor_sha256(fresh("own_front_end").FrontEnd()))
        sys.dont_write_bytecode = before
    assert len(shas) == 2


LAZY = """
class FrontEnd:
    def __call__(self, raw_speech, sampling_rate=None):
        if len(raw_speech[0]) > 10**6:
            from lazy_part import f
            return {"y": [f(raw_speech[0])]}
        return {"y": raw_speech}
"""


def test_what_is_imported_later_counts_as_files_with_what_they_import_and_is_not_imported(folder, monkeypatch):
    shas = set()
    for number, gain in enumerate((2, 2, 3)):
        place = folder / str(number)
        files = {
            "own_front_end.py": LAZY,
            "lazy_part.py": "from lazy_pkg.deep import g\nraise SystemExit\ndef f(x): return g(x)",
            "lazy_pkg/__init__.py": "raise SystemExit",
            "lazy_pkg/deep.py": "from . import deeper",
            "lazy_pkg/deeper.py": f"def g(x): return x * {gain}",
        }
        write(place, files)
        monkeypatch.syspath_prepend(place)
        identity = Fingerprinter(fresh("own_front_end").FrontEnd(), {}).identity()
        shas.add(identity.sha)
        [imported] = identity.description["code"]["FrontEnd.__call__"]["globals"].values()
        assert {name for name, _ in imported["dict"]} == {"lazy_part", "lazy_pkg", "lazy_pkg.deep", "lazy_pkg.deeper"}
    assert not {"lazy_part", "lazy_pkg"} & sys.modules.keys()
    assert len(shas) == 2


def compiled(folder, text):
    write(folder, {"later.py": text})
    py_compile.compile(str(folder / "later.py"), str(folder / "later.pyc"), doraise=True)
    (folder / "later.py").unlink()


def zipped(folder, text):
    with zipfile.ZipFile(folder / "later.zip", "w") as archive:
        archive.writestr("later.py", text)
    sys.path.insert(0, str(folder / "later.zip"))


def found(folder, text):
    """Put a finder of modules before the others, as some editable installations do."""
    write(folder / "elsewhere", {"later.py": text})
    path = folder / "elsewhere" / "later.py"

    class Finder:
        @staticmethod
        def find_spec(name, path_of_parent=None, target=None):
            return importlib.util.spec_from_file_location(name, path) if name == "later" else None

    sys.meta_path.insert(0, Finder)


LATER = {
    "a made name": ("importlib.import_module(f'own_later.{KIND}')", "own_later/later.py"),
    "a made relative name": ("importlib.import_module('.' + KIND, __package__)", "own_later/later.py"),
    "a relative name": ("importlib.import_module('.later', __package__)", "own_later/later.py"),
    "a part of a package without an init": ("__import__('spaces.deep.later')", "spaces/deep/later.py"),
    "the init of its package": ("__import__('around.later')", "around/__init__.py"),
    "a compiled module": ("__import__('later')", compiled),
    "a module in an archive": ("__import__('later')", zipped),
    "what a finder finds": ("__import__('later')", found),
}


@pytest.mark.parametrize("name", LATER)
def test_what_is_imported_later_counts_wherever_it_is_found(name, folder, monkeypatch):
    how, put = LATER[name]
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    shas = []
    for gain in (2, 2, 3):
        monkeypatch.setattr(sys, "path", [*sys.path])
        place = folder / str(len(shas))
        front_end = f"import importlib\nKIND = 'later'\n{LAZY.replace('from lazy_part import f', 'f = ' + how)}"
        write(place, {"own_later/__init__.py": "", "own_later/front.py": front_end, "around/later.py": ""})
        text = f"def f(x): return x * {gain}"
        put(place, text) if callable(put) else write(place, {put: text})
        sys.path.insert(0, str(place))
        shas.append(processor_sha256(fresh("own_later.front").FrontEnd()))
    assert shas[0] == shas[1] != shas[2]

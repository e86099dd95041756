"""Whose code a module, a function or a class is: one's own, transformers' or a library's, by where it lies."""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import itertools
import os
import pkgutil
import site
import sys
import sysconfig
import types
from typing import Any

from .code import read_code

# The names of the running program, in its own process and in those that it spawns.
_MAIN = ("__main__", "__mp_main__")
_IS_ON_THE_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE, as of each class that Python makes
_MADE_IN_C = (types.MethodDescriptorType, types.WrapperDescriptorType, types.GetSetDescriptorType)


class Owner(enum.Enum):
    """Whose code it is: one's own counts whole, what a call reaches of transformers', and of a library the name."""

    OWN = "own"
    FOLLOWED = "followed"
    LIBRARY = "library"


@functools.lru_cache(maxsize=1)
def _library_folders() -> tuple[str, ...]:
    folders = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(os.path.realpath(folder) + os.sep for folder in folders if folder)


def is_in(name: str, package: str) -> bool:
    """Return whether a module is a package or lies inside of it. Nothing lies inside of the package ""."""
    return name == package or (package != "" and name.startswith(f"{package}."))


@functools.lru_cache(maxsize=4096)
def owner_of_file(path: str, name: str) -> Owner:
    """Return whose file it is; `name` is that of its module."""
    path, top = os.path.realpath(path), name.partition(".")[0]
    if path.startswith(_library_folders()):
        return Owner.LIBRARY
    folder = os.path.dirname(path) if os.path.basename(path).startswith("__init__.") else path
    for _ in range(name.count(".") + 1):  # up to the folder that the top-level module is in
        folder = os.path.dirname(folder)
    return Owner.LIBRARY if top in _installed_in(folder) else Owner.OWN


@functools.lru_cache(maxsize=256)
def _installed_in(folder: str) -> frozenset[str]:
    """Return the top-level modules that ``pip install --target`` put into a folder; a checkout has no RECORD."""
    records = (dist.read_text("RECORD") or "" for dist in importlib.metadata.distributions(path=[folder]))
    lines = (line for record in records for line in record.splitlines())
    return frozenset(line.partition(",")[0].partition("/")[0].removesuffix(".py") for line in lines)


def owner_of_module(name: str, package: str = "") -> Owner:
    """Return whose a module is that has been imported; an installed `package` is one's own here."""
    top, module = name.partition(".")[0], sys.modules.get(name)
    if name in _MAIN or is_in(name, package):
        return Owner.OWN
    if top in ("transformers", "hf_audio_cache"):  # wherever they lie: they cannot be anything else
        return Owner.FOLLOWED if top == "transformers" else Owner.LIBRARY
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if file is not None:
        return owner_of_file(file, name)
    return Owner.LIBRARY if top in sys.stdlib_module_names or top in sys.builtin_module_names else Owner.OWN


def owner_of(value: Any, package: str = "") -> Owner:
    """Return whose a function or a class is; an installed `package` is one's own here."""
    if isinstance(value, types.FunctionType):
        name = str(value.__globals__.get("__name__"))
        module, file = sys.modules.get(name), value.__code__.co_filename
        if name in _MAIN or (module is not None and vars(module) is value.__globals__):
            return owner_of_module(name, package)
        return owner_of_file(file, name) if os.path.isfile(file) and not is_in(name, package) else Owner.OWN
    name = value.__module__
    if not isinstance(name, str) or is_made_in_c(value):
        return Owner.LIBRARY
    # A class that is not where it says was made by a function, perhaps of one's own classes or values.
    return owner_of_module(name, package) if is_found(value) else Owner.OWN


def package_of(kind: type) -> str:
    """Return the installed package that a class is of: the first on the way to it that is no mere namespace."""
    modules = itertools.accumulate(kind.__module__.split("."), "{}.{}".format)
    return next(name for name in modules if getattr(sys.modules.get(name), "__file__", None) or name == kind.__module__)


def is_made_in_c(kind: type) -> bool:
    """Return whether a class is an extension's: its own methods are no functions of Python's."""
    members = (member for name, member in vars(kind).items() if name not in ("__dict__", "__weakref__"))
    return not kind.__flags__ & _IS_ON_THE_HEAP or any(
        type(member) in _MADE_IN_C and member.__objclass__ is kind for member in members
    )


def is_found(value: Any) -> bool:
    """Return whether a function or a class is what its module has under its qualified name."""
    found: Any = sys.modules.get(getattr(value, "__module__", None) or "")
    for part in value.__qualname__.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return getattr(found, "__func__", found) is value


def label_of(value: Any, owner: Owner) -> str:
    """Return what a function or class is called: one's own without its module, which may lie anywhere."""
    name = str(value.__qualname__)
    return name if owner is Owner.OWN else f"{value.__module__}.{name}"


def file_digest(name: str, names: tuple[str, ...], own_package: str) -> Any:
    """Return digests of a module of one's own that is not imported yet, and of those that it imports in turn.

    Nothing is imported. None for a library's module, and for one that is not there.
    """
    found: dict[str, str] = {}
    pending = [name, *(f"{name}.{each}" for each in names)]
    while pending:
        name = pending.pop()
        pending += {name.rpartition(".")[0]} - {""}  # its package runs first
        spec = None if name in found else _spec_of(name)
        code = None if spec is None else _code_in(spec, own_package)
        if spec is None or code is None:
            continue
        if isinstance(code, bytes):
            found[name] = hashlib.sha256(code).hexdigest()
            continue
        read = read_code(code)
        found[name] = read.digest
        package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
        for imported, level, each in read.imports:
            with contextlib.suppress(ImportError):
                full = importlib.util.resolve_name("." * level + imported, package) if level else imported
                pending += [full, *(f"{full}.{one}" for one in each)]
    return dict(sorted(found.items())) or None


def _code_in(spec: importlib.machinery.ModuleSpec, own_package: str) -> types.CodeType | bytes | None:
    """Return the code of a module of one's own, or its source where that is no Python."""
    path, loader = str(spec.origin), spec.loader
    if not spec.has_location or not _is_own(spec, own_package):
        return None
    if not path.endswith(".py") or not os.path.isfile(path):  # compiled, or in an archive
        code = loader.get_code(spec.name) if loader is not None and hasattr(loader, "get_code") else None
        return code if isinstance(code, types.CodeType) else None
    with open(path, "rb") as file:
        source = file.read()
    try:
        return compile(source, "<imported>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return source


def _is_own(spec: importlib.machinery.ModuleSpec, package: str) -> bool:
    if is_in(spec.name, package):
        return True
    folders = [os.path.join(folder, "__init__.py") for folder in spec.submodule_search_locations or ()]
    places = [spec.origin] if spec.has_location else folders
    return any(owner_of_file(str(place), spec.name) is Owner.OWN for place in places)


def _spec_of(name: str) -> importlib.machinery.ModuleSpec | None:
    """Return where a module is found, without importing any of its parents."""
    spec, folders = None, None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        spec = _found_in(".".join(parts[:end]), folders)
        if spec is None or (end < len(parts) and spec.submodule_search_locations is None):
            return None
        folders = [*(spec.submodule_search_locations or ())]
    return spec


def _found_in(name: str, folders: list[str] | None) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        with contextlib.suppress(Exception):
            if spec := finder.find_spec(name, folders):
                return spec
    # Python finds a package without `__init__` only after its parent was imported.
    within = [os.path.join(folder, name.rpartition(".")[2]) for folder in folders or ()]
    if not any(map(os.path.isdir, within)):
        return None
    spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [folder for folder in within if os.path.isdir(folder)]
    return spec


def modules_in(package: str, own_package: str) -> list[str]:
    """Return the names of all modules in a package of one's own, without importing any."""
    spec = _spec_of(package)
    found = []
    if spec is not None and _is_own(spec, own_package):
        for module in pkgutil.iter_modules(spec.submodule_search_locations):
            found += [name := f"{package}.{module.name}", *(modules_in(name, own_package) if module.ispkg else ())]
    return found

"""A system without what only POSIX, or only Linux, has: a part of the suite runs so.

    python tests/bare_os.py [tests/cache/test_caches.py …]

takes these away, where the system has them, before the package is imported, and runs pytest: forks and what is called
at them, files that are opened relative to a folder, links that are not followed, `fcntl`, `os.getuid`, `os.pread`, and
the processors that a process may use. The libraries are imported before: they know other ways where they are told that
the system is another one. What stays is Linux all the same: names that only Windows refuses, its locks on open files,
and file systems that tell no case are not tried.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import shutil
import sys
from pathlib import Path
from typing import Any

_GONE = ("fork", "forkpty", "getuid", "geteuid", "getgid", "pread", "register_at_fork", "sched_getaffinity")
_GONE += ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "ST_RDONLY")
_BY_FOLDER = ("access", "chmod", "link", "mkdir", "open", "remove", "rename", "replace", "rmdir", "stat", "symlink")
_BY_FOLDER += ("unlink", "utime")

# What is run where nothing else is named: stores, entries, the forms of the main job, upkeep.
_HERE = Path(__file__).parent
_PART = ["stores/test_local.py::TestLocalStore", "cache/test_caches.py", "pipeline/test_feature_pipeline.py"]
_PART += ["transform/test_rows.py"]
_LEFT_OUT = "not servers and not torchcodec"
_FORKED = "not (worker or process or two or fork or kill or far or survive or lying)"


def import_libraries() -> None:
    """Import what others would import on another system."""
    for name in ("datasets", "soundfile", "soxr", "numcodecs.blosc", "transformers.audio_utils", "torch"):
        with contextlib.suppress(ImportError):  # torch is not everywhere
            importlib.import_module(name)


def take_away() -> None:
    """Take it away from this process."""
    shutil._use_fd_functions = False  # type: ignore[attr-defined]  # decided when it was imported
    for name in _GONE:
        if hasattr(os, name):
            delattr(os, name)
    for name in ("fcntl", "resource"):
        sys.modules[name] = None  # type: ignore[assignment]  # importing it is an error then
    os.supports_dir_fd.clear()
    os.supports_fd.clear()
    for name in _BY_FOLDER:
        setattr(os, name, _without_folders(getattr(os, name)))
    os.scandir, os.listdir = _of_paths(os.scandir), _of_paths(os.listdir)


def _without_folders(call: Any) -> Any:
    def checked(*arguments: Any, **named: Any) -> Any:
        if any(named.get(name) is not None for name in ("dir_fd", "src_dir_fd", "dst_dir_fd")):
            raise NotImplementedError("this system opens nothing relative to a folder")
        return call(*arguments, **named)

    return checked


def _of_paths(call: Any) -> Any:
    def checked(path: Any = ".") -> Any:
        if isinstance(path, int):
            raise TypeError("this system lists no open folder")
        return call(path)

    return checked


if __name__ == "__main__":
    import pytest

    import_libraries()
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        plugin.load()

    if sys.platform == "linux":
        user = os.getuid
        take_away()
        os.getuid = user  # pytest names its folder by it
        from hf_audio_cache.stores import folders

        assert not folders.HAS_DESCRIPTORS
    part = sys.argv[1:] or [str(_HERE / name) for name in _PART]
    ignored = ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
    sys.exit(pytest.main([*ignored, "-p", "no:cacheprovider", "-q", "-m", _LEFT_OUT, "-k", _FORKED, *part]))

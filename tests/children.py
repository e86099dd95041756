"""Running part of a test in a process of its own, whose limits, user and death are its own too."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parent
# On the path of a Python that starts, its `sitecustomize` hides torch. transformers imports torch at the first call of
# any extractor, which takes a process as long as all the rest.
_WITHOUT_TORCH = _TESTS / "without_torch"


def python_path(*, has_torch: bool) -> str:
    """Return a PYTHONPATH by which a child imports what tests do: their helpers, and test modules that are loaded."""
    own = [path for path in sys.path if Path(path).is_relative_to(_TESTS)]
    paths = [*([] if has_torch else [str(_WITHOUT_TORCH)]), *own, os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, paths))


def start_child(function: Callable[..., Any], *arguments: Any, method: str = "fork") -> Any:
    """Return a started process that calls `function`; a forked one begins at once, with all that is imported here."""
    process = multiprocessing.get_context(method).Process(target=_begin, args=(function, *arguments), daemon=True)
    process.start()
    return process


def _begin(function: Callable[..., Any], *arguments: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which Ray catches in a process that was a driver once
    function(*arguments)


def _send(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sender.send(function(*arguments))


def in_child(function: Callable[..., Any], *arguments: Any, method: str = "fork") -> Any:
    """Return what `function` returns in a process of its own."""
    receiver, sender = multiprocessing.get_context(method).Pipe(duplex=False)
    with receiver, sender:
        process = start_child(_send, sender, function, arguments, method=method)
        sender.close()
        try:
            result = receiver.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"the child returned nothing, and ended with {process.exitcode}") from None
        process.join()
    if process.exitcode:
        raise RuntimeError(f"the child ended with {process.exitcode}")
    return result


def become_nobody() -> None:
    """Give up root, who may read and write anywhere."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@contextlib.contextmanager
def no_more_open_files() -> Iterator[None]:
    """Let this process open no file, for a time."""
    for descriptor in range(3):  # which are taken; the limit is one of numbers, so none comes free when others close
        os.fstat(descriptor)
    import resource  # which is not everywhere

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

"""Running a command: errors in one line, Ctrl-C, confirmation, and what is shown meanwhile."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

import typer

from .messages import in_flags, shown_log
from .options import in_groups, with_options_of_groups

ReportT = TypeVar("ReportT")


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Report errors of the user or of a store in one line with exit code 2, and Ctrl-C with exit code 130.

    The groups of options that a command takes are handed to it as such.
    """

    def run(**options: Any) -> Any:
        from ..errors import HfAudioCacheError, StoreError

        is_interrupted = threading.Event()
        try:
            with _interruptible(is_interrupted), shown_log():
                return command(**in_groups(command, options))
        except BrokenPipeError:
            raise  # the reader of the output has closed it; click handles that
        except (Exception, KeyboardInterrupt) as exc:
            # `datasets` raises an error of its own where workers are interrupted.
            if is_interrupted.is_set() or isinstance(exc, KeyboardInterrupt):
                typer.echo("Interrupted; what was finished until now stays.", err=True)
                raise typer.Exit(130) from None
            if not isinstance(exc, (HfAudioCacheError, ValueError, OSError, TypeError)):
                raise
            said = in_flags(str(exc))
            if isinstance(exc, StoreError) and exc.kind == "unreachable":
                from ..stores import CHECK_NETWORK

                said = f"{said.rstrip('.')}. {CHECK_NETWORK}."
            typer.echo(f"Error: {said}", err=True)
            raise typer.Exit(2) from None

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    signature = with_options_of_groups(command)
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    run.__signature__ = signature  # type: ignore[attr-defined]  # what typer reads
    return run


@contextlib.contextmanager
def _interruptible(is_interrupted: threading.Event) -> Iterator[None]:
    """Let Ctrl-C end a command even while Python ignores exceptions, and leave workers to it."""
    owner = os.getpid()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker, which the command ends
            return
        # Python ignores exceptions in the callbacks through which libsndfile reads, where the clip would seem to end,
        # and in `__del__`: the interrupt is delayed until these return.
        while frame is not None:
            if frame.f_code.co_name.startswith("vio_") or frame.f_code.co_name == "__del__":
                threading.Timer(0.01, _thread.interrupt_main).start()
                return
            frame = frame.f_back
        is_interrupted.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone may say what a signal does
        yield
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def plan_confirm_run(
    plan: Callable[[], ReportT],
    run: Callable[[], ReportT],
    question: Callable[[ReportT], str],
    *,
    yes: bool,
    dry_run: bool = False,
) -> ReportT:
    """Report what would be deleted, ask, and delete. All commands that delete use this.

    Raises typer.Abort if the answer is no; ValueError if there is no terminal to ask on.
    """
    if yes and not dry_run:
        return run()
    planned = plan()
    if dry_run:
        return planned
    if sys.stdin is None or not sys.stdin.isatty():  # None where it is closed
        raise ValueError("nothing deleted: there is no terminal to confirm on. Pass -y.")
    typer.confirm(question(planned), abort=True, err=True)
    return run()


@contextlib.contextmanager
def progress(message: str) -> Iterator[Callable[[int, int | None], None] | None]:
    """Show a message, and how much of the work is done, on a terminal; yield what shows it, None without one."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from ..support.progress import watched

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as shown:
        task = shown.add_task(message, total=None)

        def show(done: int, total: int | None) -> None:
            shown.update(task, completed=done, total=total)

        with watched(show):
            yield show


@contextlib.contextmanager
def waiting(message: str) -> Iterator[None]:
    """Show a message and a spinner, on a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(message):
        yield

"""What the commands share: options, error handling, confirmation."""

from __future__ import annotations

import _thread
import contextlib
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

import typer

if TYPE_CHECKING:
    from ..cache.root import CacheRoot

__all__ = [
    "AudioColumnOption",
    "AutoResampleOption",
    "CapOption",
    "ChannelsOption",
    "DataDirOption",
    "DryRunOption",
    "LongerOption",
    "NearOption",
    "NonfiniteOption",
    "ProcessorOption",
    "RateOption",
    "RootOption",
    "SigningKeyFileOption",
    "SplitOption",
    "StorageOptions",
    "SubsetOption",
    "TruncatedOption",
    "WaveformsOption",
    "YesOption",
    "guarded",
    "plan_confirm_run",
    "root_of",
    "waiting",
]

F = TypeVar("F", bound=Callable[..., Any])
ReportT = TypeVar("ReportT")

RootOption = Annotated[
    Optional[str],  # noqa: UP045 - see hf_audio_cache.cli
    typer.Option("--root", help="Directory or URL of the cache; the default is that of CachedFeatures."),
]
StorageOptions = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--storage-option", metavar="KEY=VALUE", help="Option of the root's fsspec filesystem. Repeat for more."
    ),
]
SigningKeyFileOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--signing-key-file", help="File with the keys of a signed root."),
]
NearOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--near", metavar="DIR", help="Directory of near tiers, if CacheRoot(near=DIR) is used in Python."),
]
ProcessorOption = Annotated[
    str, typer.Option("--processor", metavar="ID_OR_DIR", help="Hub name or directory, as for from_pretrained.")
]
SplitOption = Annotated[Optional[str], typer.Option("--split", help="One split; by default all of them.")]  # noqa: UP045
SubsetOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--subset", help="Configuration of a dataset on the Hub."),
]
AudioColumnOption = Annotated[str, typer.Option("--audio-column", help="Column that holds the audio.")]
RateOption = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--sampling-rate", help="In Hz. Needed only if the processor has none."),
]
CapOption = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--max-length-seconds", help="Cap on the length of a clip; part of the key."),
]
AutoResampleOption = Annotated[
    bool, typer.Option("--auto-resample", help="Resample clips at other rates; part of the key.")
]
ChannelsOption = Annotated[
    str, typer.Option("--channels", help="mean, all, or the number of one, from 0 on; part of the key.")
]
LongerOption = Annotated[
    str, typer.Option("--longer", help="With a cap: cut longer clips, or make them an error (bad clips).")
]
TruncatedOption = Annotated[
    str, typer.Option("--truncated", help="Files that lack some of their audio: error (bad clips) or accept.")
]
NonfiniteOption = Annotated[
    str, typer.Option("--nonfinite", help="Features with NaN or infinity: error (bad clips) or keep; part of the key.")
]
DataDirOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--data-dir", metavar="DIR", help="Folder from which relative paths of audio files start."),
]
WaveformsOption = Annotated[
    str, typer.Option("--waveforms", help="Store waveforms: auto (if that saves time), always or never.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only report what would be deleted.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")]


def root_of(
    root: str | None,
    storage_options: list[str] | None = None,
    signing_key_file: Path | None = None,
    *,
    exists: bool = False,
    read_only: bool = False,
    near: str | None = None,
) -> CacheRoot:
    """Return the root that options describe.

    Parameters
    ----------
    root
        A path or a URL; None for the default one.
    storage_options
        ``KEY=VALUE`` each. A value that begins with ``{`` or ``[``, and ``true`` or ``false``, are JSON; anything else
        is text.
    signing_key_file
        File with the signing keys of a signed root.
    exists
        Whether a local root must exist. Otherwise a mistyped name would be reported as an empty cache.
    read_only
        Whether nothing is to be written.
    near
        Directory of the near tiers; None for the default one.
    """
    from ..cache.root import CacheRoot

    if exists and root and "://" not in root and "::" not in root and not os.path.isdir(os.path.expanduser(root)):
        raise ValueError(f"no cache found at {root}; nothing was read or deleted. Check --root.")
    options: dict[str, Any] = {}
    for option in storage_options or ():
        name, separator, value = option.partition("=")
        if not separator or not name:
            raise ValueError(f"expected --storage-option KEY=VALUE, and found no '=' in the option {name[:20]!r}")
        try:
            options[name] = json.loads(value) if value[:1] in ("{", "[") or value in ("true", "false") else value
        except ValueError:
            raise ValueError(f"expected JSON in --storage-option {name}=…, since it begins with a bracket") from None
    return CacheRoot(
        root or None,
        storage_options=options,
        near=near or "auto",
        signing_key=signing_key_file,
        read_only=read_only,
    )


def guarded(command: F) -> F:
    """Report errors of the user or of a store in one line with exit code 2, and Ctrl-C with exit code 130."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        from ..errors import HfAudioCacheError

        try:
            with _interruptible():
                return command(*args, **kwargs)
        except BrokenPipeError:
            raise  # the reader of the output has closed it; click handles that
        except KeyboardInterrupt:
            typer.echo("Interrupted; what was finished until now stays.", err=True)
            raise typer.Exit(130) from None
        except (HfAudioCacheError, ValueError, OSError, TypeError) as exc:
            typer.echo(f"Error: {exc}", err=True)
            raise typer.Exit(2) from None

    return run  # type: ignore[return-value]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a command even while Python ignores exceptions.

    It ignores them in the callbacks through which libsndfile reads, where the clip would seem to end, and in
    ``__del__``. The interrupt is delayed until these return.
    """

    def interrupt(signum: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_name.startswith("vio_") or frame.f_code.co_name == "__del__":
                threading.Timer(0.01, _thread.interrupt_main).start()
                return
            frame = frame.f_back
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
    run: Callable[[ReportT | None], ReportT],
    question: Callable[[ReportT], str],
    *,
    yes: bool,
    dry_run: bool = False,
) -> ReportT:
    """Report what would be deleted, ask, and delete. All commands that delete use this.

    Parameters
    ----------
    plan
        Returns what would be deleted.
    run
        Deletes it, and returns what was deleted. It gets the plan, or None with ``-y``, which needs none.
    question
        What to ask about a plan.
    yes
        Whether not to ask.
    dry_run
        Whether to plan only.

    Raises
    ------
    typer.Abort
        If the answer is no.
    ValueError
        If there is no terminal to ask on.
    """
    if yes and not dry_run:
        return run(None)
    planned = plan()
    if dry_run:
        return planned
    if not sys.stdin.isatty():
        raise ValueError("nothing deleted: there is no terminal to confirm on. Pass -y.")
    typer.confirm(question(planned), abort=True, err=True)
    return run(planned)


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

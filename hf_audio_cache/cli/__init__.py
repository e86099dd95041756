"""The command line, ``hf-audio-cache``.

Exit codes: 0 if all is well, 1 if something was found (damage, bad clips, a miss, a difference), 2 if nothing could be
done. Results go to the standard output, everything else to the standard error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from . import clean, fill, operate, processors, show, transfer
from .output import Format, FormatOption, show_report
from .registry import Group, add_command

__all__ = ["app"]

app = typer.Typer(
    cls=Group, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hf_audio_cache {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Keep audio features and waveforms so that nothing is decoded or extracted twice."""
    # transformers would say on import, in each process, that it has not found PyTorch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def demo(
    audio: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with your own audio files.", exists=True, file_okay=False)
    ] = None,
    clips: Annotated[int, typer.Option(metavar="N", help="Maximum number of clips.", min=20)] = 600,
    form: FormatOption = Format.table,
) -> None:
    """Cache the features of real speech, cold and then warm, and show the times.

    Everything is deleted afterwards. Example:

        hf-audio-cache demo --audio ~/my-recordings
    """
    from .demo import run_demo  # what it needs takes seconds to import, and --help should not

    show_report(run_demo(audio, clips), form)


for _command in (
    *(fill.warm, fill.estimate, show.usage, show.ls, show.explain, show.show, operate.config, operate.stats),
    *(operate.runs, clean.verify, clean.pack, clean.prune, clean.clear, clean.rm, transfer.export, demo),
):
    add_command(app, _command)
add_command(app, transfer.import_, "import")
app.add_typer(processors.processors, name="processors")

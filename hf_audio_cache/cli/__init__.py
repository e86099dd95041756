"""The command line, ``hf-audio-cache``.

Exit codes: 0 if all is well, 1 if something was found (damage, bad clips, a miss, a difference), 2 if nothing could be
done. Results go to the standard output, everything else to the standard error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from . import clean, fill, show, transfer
from .output import Format, FormatOption, show_report

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich")
for _module in (fill, show, clean, transfer):
    _module.add_to(app)


@app.callback()
def main() -> None:
    """Keep audio features and waveforms so that nothing is decoded or extracted twice."""


@app.command()
def demo(
    # typer reads annotations at run time, where Python 3.10's unions of strings cannot be read by its oldest release
    audio: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with your own audio files.", exists=True, file_okay=False),
    ] = None,
    clips: Annotated[int, typer.Option(help="Maximum number of clips.", min=20)] = 600,
    form: FormatOption = Format.table,
) -> None:
    """Cache the features of real speech, cold and then warm, and show the times.

    Everything is deleted afterwards. Example:

        hf-audio-cache demo --audio ~/my-recordings
    """
    from .demo import run_demo  # what it needs takes seconds to import, and --help should not

    show_report(run_demo(audio, clips), form)

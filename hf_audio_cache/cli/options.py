"""Options that commands share, and what they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from ..cache.root import CacheRoot

RootOption = Annotated[
    Optional[str],  # noqa: UP045 - see hf_audio_cache.cli
    typer.Option("--root", metavar="DIR_OR_URL", help="Where the cache is; `config` shows the default."),
]
StorageOptions = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--storage-option", metavar="KEY=VALUE", help="Option of the root's fsspec filesystem. Repeat for more."
    ),
]
AudioStorageOptions = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--audio-storage-option",
        metavar="KEY=VALUE",
        help="Option of the filesystem of audio at URLs. Repeat for more.",
    ),
]
SigningKeyFileOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--signing-key-file", metavar="FILE", help="Keys of a signed root."),
]
NearOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--near", metavar="DIR", help="Where the near tiers are, as CacheRoot(near=DIR) says in Python."),
]
ProcessorOption = Annotated[
    str, typer.Option("--processor", metavar="ID_OR_DIR", help="Hub name or directory, as for from_pretrained.")
]
SplitOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--split", metavar="NAME", help="One split; by default all of them."),
]
SubsetOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--subset", metavar="NAME", help="Configuration of a dataset on the Hub."),
]
AudioColumnOption = Annotated[str, typer.Option("--audio-column", metavar="NAME", help="Column that holds the audio.")]
RateOption = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--sampling-rate", metavar="HZ", help="Needed only if the processor has none."),
]
CapOption = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--max-length-seconds", metavar="SECONDS", help="Cap on the length of a clip; part of the key."),
]
AutoResampleOption = Annotated[
    bool, typer.Option("--auto-resample", help="Resample clips at other rates; part of the key.")
]
ChannelsOption = Annotated[
    str,
    typer.Option("--channels", metavar="WHICH", help="mean, all, or the number of one, from 0 on; part of the key."),
]
LongerOption = Annotated[
    str,
    typer.Option("--longer", metavar="WHAT", help="With a cap: cut longer clips, or make them an error (bad clips)."),
]
TruncatedOption = Annotated[
    str,
    typer.Option(
        "--truncated", metavar="WHAT", help="Files that lack some of their audio: error (bad clips) or accept."
    ),
]
NonfiniteOption = Annotated[
    str,
    typer.Option(
        "--nonfinite", metavar="WHAT", help="Features with NaN or infinity: error (bad clips) or keep; part of the key."
    ),
]
DataDirOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--data-dir", metavar="DIR", help="Folder from which relative paths of audio files start."),
]
WaveformsOption = Annotated[
    str,
    typer.Option("--waveforms", metavar="WHEN", help="Store waveforms: auto (if that saves time), always or never."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only report what would be deleted.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")]


def root_of(
    root: str | None,
    storage_options: list[str] | None = None,
    signing_key_file: Path | None = None,
    *,
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
    read_only
        Whether nothing is to be written.
    near
        Directory of the near tiers; None for the default one.
    """
    from ..cache.root import CacheRoot

    return CacheRoot(
        root or None,
        storage_options=options_of(storage_options, "--storage-option"),
        near=near or "auto",
        signing_key=signing_key_file,
        read_only=read_only,
    )


def options_of(given: list[str] | None, flag: str) -> dict[str, Any]:
    """Return the options that were given as ``KEY=VALUE`` by a flag."""
    options: dict[str, Any] = {}
    for option in given or ():
        name, separator, value = option.partition("=")
        if not separator or not name:
            raise ValueError(f"expected {flag} KEY=VALUE, and found no '=' in the option {name[:20]!r}")
        try:
            options[name] = json.loads(value) if value[:1] in ("{", "[") or value in ("true", "false") else value
        except ValueError:
            raise ValueError(f"expected JSON in {flag} {name}=…, since it begins with a bracket") from None
    return options

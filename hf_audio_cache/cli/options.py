"""Options that several commands share, and what they stand for. A command's module has those of it alone."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import typer

if TYPE_CHECKING:
    from ..cache.root import CacheRoot

AudioStorageOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--audio-storage-option",
        metavar="KEY=VALUE",
        help="Option of the filesystem of audio at URLs. Repeat for more.",
    ),
]
ProcessorOption = Annotated[
    str, typer.Option("--processor", metavar="ID_OR_DIR", help="Hub name or directory, as for from_pretrained.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only report what would be deleted.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")]


@dataclass(frozen=True)
class RootOptions:
    """Where the cache is. A command that takes such a group has an option for each of its fields."""

    root: Annotated[
        str | None, typer.Option("--root", metavar="DIR_OR_URL", help="Where the cache is; `config` shows the default.")
    ] = None
    storage_option: Annotated[
        list[str] | None,
        typer.Option(
            "--storage-option", metavar="KEY=VALUE", help="Option of the root's fsspec filesystem. Repeat for more."
        ),
    ] = None
    near: Annotated[
        str | None,
        typer.Option("--near", metavar="DIR", help="Where the near tiers are, as CacheRoot(near=DIR) says in Python."),
    ] = None

    def open(self, *, read_only: bool = False) -> CacheRoot:
        """Return the root."""
        from ..cache.root import CacheRoot

        return CacheRoot(self.root, read_only=read_only, **self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of `CacheRoot` that these are."""
        return {
            "storage_options": options_of(self.storage_option, "--storage-option"),
            "near": "auto" if self.near is None else self.near,
        }


@dataclass(frozen=True)
class SignedRootOptions(RootOptions):
    """Where the cache is, with its signing keys."""

    signing_key_file: Annotated[
        Path | None, typer.Option("--signing-key-file", metavar="FILE", help="Keys of a signed root.")
    ] = None

    @property
    def settings(self) -> dict[str, Any]:
        """Those settings, with the keys."""
        return {**super().settings, "signing_key": self.signing_key_file}


@dataclass(frozen=True)
class DatasetOptions:
    """Where the audio of a dataset is."""

    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="One split; by default all of them."),
    ] = None
    subset: Annotated[
        str | None, typer.Option("--subset", metavar="NAME", help="Configuration of a dataset on the Hub.")
    ] = None
    audio_column: Annotated[
        str, typer.Option("--audio-column", metavar="NAME", help="Column that holds the audio.")
    ] = "audio"
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Folder from which relative paths of audio files start."),
    ] = None
    audio_storage_option: AudioStorageOptions = None

    @property
    def source(self) -> dict[str, Any]:
        """What to load of a dataset."""
        return {"split": self.split, "subset": self.subset, "audio_column": self.audio_column}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of `CachedFeatures` that these are."""
        return {
            "audio_column": self.audio_column,
            "data_dir": None if self.data_dir is None else str(self.data_dir),
            "audio_storage_options": options_of(self.audio_storage_option, "--audio-storage-option"),
        }


@dataclass(frozen=True)
class KeyOptions:
    """The settings of `CachedFeatures` that are part of the key."""

    sampling_rate: Annotated[
        int | None, typer.Option("--sampling-rate", metavar="HZ", help="Needed only if the processor has none.")
    ] = None
    max_length_seconds: Annotated[
        float | None,
        typer.Option("--max-length-seconds", metavar="SECONDS", help="Cap on the length of a clip; part of the key."),
    ] = None
    auto_resample: Annotated[
        bool, typer.Option("--auto-resample", help="Resample clips at other rates; part of the key.")
    ] = False
    channels: Annotated[
        str,
        typer.Option(
            "--channels", metavar="WHICH", help="mean, all, or the number of one, from 0 on; part of the key."
        ),
    ] = "mean"
    nonfinite: Annotated[
        str,
        typer.Option(
            "--nonfinite",
            metavar="WHAT",
            help="Features with NaN or infinity: error (bad clips) or keep; part of the key.",
        ),
    ] = "error"

    @property
    def settings(self) -> dict[str, Any]:
        """Those settings."""
        channels = int(self.channels) if self.channels.isdecimal() else self.channels
        return {**vars(self), "channels": channels}


@dataclass(frozen=True)
class FillOptions(KeyOptions):
    """The settings of `CachedFeatures` for filling a cache."""

    longer: Annotated[
        str,
        typer.Option(
            "--longer", metavar="WHAT", help="With a cap: cut longer clips, or make them an error (bad clips)."
        ),
    ] = "cut"
    truncated: Annotated[
        str,
        typer.Option(
            "--truncated", metavar="WHAT", help="Files that lack some of their audio: error (bad clips) or accept."
        ),
    ] = "error"
    waveforms: Annotated[
        str,
        typer.Option(
            "--waveforms", metavar="WHEN", help="Store waveforms: auto (if that saves time), always or never."
        ),
    ] = "auto"


def with_options_of_groups(command: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a command, with a parameter for each field of the groups of options that it takes."""
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        kind = parameter.annotation
        of_fields = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=of_fields[each.name]
            )
            for each in fields(kind)
        ]
    return inspect.Signature(parameters)


def in_groups(command: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a command by its parameters: those of each group together."""
    made: dict[str, Any] = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if is_dataclass(kind := parameter.annotation):
            made[name] = cast(Any, kind)(**{each.name: options.pop(each.name) for each in fields(kind)})
    return {**options, **made}


def options_of(given: list[str] | None, flag: str) -> dict[str, Any]:
    """Return the options that were given as ``KEY=VALUE`` by a flag.

    A value that begins with ``{`` or ``[``, and ``true`` or ``false``, are JSON; anything else is text.
    """
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

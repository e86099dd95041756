"""Messages in the words of the command line: flags instead of arguments, and one line for one problem."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping

import typer

_FLAGS = {
    **{name: f"--{name.replace('_', '-')}" for name in ("audio_column", "data_dir", "auto_resample", "sampling_rate")},
    **{name: f"--{name.replace('_', '-')}" for name in ("max_length_seconds", "channels", "longer", "truncated")},
    **{name: f"--{name}" for name in ("nonfinite", "waveforms", "near", "root")},
    "storage_options": "--storage-option",
    "audio_storage_options": "--audio-storage-option",
    "signing_key": "--signing-key-file",
}
_LIMITS = {"cache": "--cache", "keep_free": "--keep-free", "pack_bytes": "--pack-size"}
_ARGUMENT = re.compile(rf'(CachedFeatures\(…, )?\b({"|".join(_FLAGS)})=(True|False|"[^"]*"|{{…}}|…|\w*)(?(1)\))')
_SUBJECT = re.compile(rf"\b({'|'.join(_FLAGS.keys() - {'root'} | _LIMITS.keys())})(?= must be | is for )")
_NONE = re.compile(r" \(or None[^)]*\)")
_PLACES = re.compile(r"\b\d[\d.,]*(?! ?Hz)")  # numbers that differ from clip to clip


def in_flags(message: str) -> str:
    """Return a message with the flags that stand for its Python arguments."""

    def flag(match: re.Match[str]) -> str:
        value = match[3].strip('"')
        if value == "False":
            return f"no {_FLAGS[match[2]]}"
        return _FLAGS[match[2]] if value in ("", "True", "…", "{…}") else f"{_FLAGS[match[2]]} {value}"

    message = _SUBJECT.sub(lambda match: (_FLAGS | _LIMITS)[match[1]], _NONE.sub("", message))
    return _ARGUMENT.sub(flag, message)


class _Shown(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from ..stores import RUN_GOES_ON

        if record.name != "hf_audio_cache.transform.references":  # which counts bad clips, as the report does
            typer.echo(in_flags(record.getMessage().replace(f" {RUN_GOES_ON}", "")), err=True)


@contextlib.contextmanager
def shown_log() -> Iterator[None]:
    """Print the warnings of the package on the standard error."""
    handler, logger = _Shown(logging.WARNING), logging.getLogger("hf_audio_cache")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def problems(bad_clips: Iterable[Mapping[str, str]]) -> list[tuple[int, str, str]]:
    """Return each problem once: of how many clips it is, what it is, and the first of them; the most frequent first."""
    found: dict[tuple[str, str], tuple[int, str, str]] = {}
    for clip in bad_clips:
        name = clip["clip"]
        reason = clip["reason"].replace(f" in {name!r}", "").replace(repr(name), "a clip")
        reason = reason.replace(name, "…") if name else reason
        kind = (clip["error"], _PLACES.sub("", reason))
        count, said, first = found.get(kind, (0, reason, name))
        found[kind] = (count + 1, said, first)
    return sorted(found.values(), key=lambda problem: -problem[0])

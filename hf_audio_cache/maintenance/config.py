"""The settings of a root on this machine, and where each of them comes from."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ..cache.root import CacheRoot
from ..cache.signing import FILE_VARIABLE, KEY_VARIABLE
from ..stores import near_limit
from ..support.paths import hashes_path
from ..support.units import format_size


@dataclass(frozen=True)
class Setting:
    """One setting: its value, and what says so."""

    name: str
    value: str
    source: str


def settings_of(root: CacheRoot, given: Collection[str]) -> list[Setting]:
    """Return the settings of a root without contacting it. `given` are the names of those that the user passed."""
    return [Setting(name, value, "given here" if name in given else source) for name, value, source in _settings(root)]


def _settings(root: CacheRoot) -> Iterator[tuple[str, str, str]]:
    yield "root", root.url, _source("HF_AUDIO_CACHE", "HF_HOME")
    near = root.near_path
    yield "near tier", near or "none", _source("HF_AUDIO_CACHE_NEAR", "HF_HOME") if near else "the root is near"
    if near:
        yield "near tier: at most", format_size(root.near_max_bytes or near_limit(near)), "a tenth of its disk"
    hashes = hashes_path()
    named = "HF_AUDIO_CACHE_HASHES" in os.environ  # set to nothing, it says that there are none
    yield "hashes of files", hashes or "none", "$HF_AUDIO_CACHE_HASHES" if named else _source("HF_HOME")
    signed = next((name for name in (KEY_VARIABLE, FILE_VARIABLE) if os.environ.get(name)), "")
    yield "signed", "yes" if root.signing_keys is not None else "no", f"${signed}" if signed else "default"
    yield "storage options", "given" if root.secret is not None else "none", "default"
    connect, read = root.timeouts
    yield "time-outs", f"{connect:g} s to connect, {read:g} s an object", "default"
    yield "compression", root.compression or "none", "default"


def _source(*variables: str) -> str:
    """Return the first of these variables that is set, else that it is the default."""
    return next((f"${name}" for name in variables if os.environ.get(name)), "default")

"""The names of all files under a root, spelt in this module alone.

==================================================================  ==================================================
name                                                                content
==================================================================  ==================================================
``features/<ab>/<blob>.<processor[:12]>.<rate>.<cap>[…].npz``       the features of a clip
``waveforms/<ab>/<blob>.<rate>.<cap>[…].wav.npz``                   its waveform
``processors/<processor>.json``                                     the manifest of a processor
``access/<YYYY-MM-DD>/<run>-<process>-<number>.gz``                 which entries a process used on a day
``runs/<run>/<processor[:12]>.json``, ``runs/<run>/references.json``  what a run was
``runs/<run>/figures-<machine>.json``                               hits, misses, … of a run on one machine so far
``packs/<32 digits>.tar``, ``.index``, ``.deleted``                 many entries, where they are, which are deleted
``CACHEDIR.TAG``                                                    tells backup programs to leave the folder out
==================================================================  ==================================================

``<ab>`` are the first two digits of ``<blob>``. ``[…]`` is ``.rs`` where resampling was allowed, and then ``.ch0``,
``.ch1``, … for one channel or ``.chall`` for all of them, where it is not their mean. A file that a writer has not
finished is called ``.<name>.<pid>-<8 digits>.tmp``, in the same folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

from ..audio.channels import Channels
from ..stores.folders import finished_name
from ..stores.packs.names import is_pack_file

FEATURES, WAVEFORMS, PROCESSORS, ACCESS, RUNS = "features", "waveforms", "processors", "access", "runs"

TAG_NAME = "CACHEDIR.TAG"  # https://bford.info/cachedir/
TAG = b"""Signature: 8a477f597d28d172789f06886806bc55
# This directory holds audio features and waveforms that hf_audio_cache can compute again.
"""

_ENTRY = re.compile(
    rf"((?P<features>{FEATURES})|{WAVEFORMS})/(?P<shard>[0-9a-f]{{2}})/(?P<blob_sha>(?P=shard)[0-9a-f]{{62}})"
    r"(?(features)\.(?P<processor>[0-9a-f]{12}))\.(?P<rate>[1-9][0-9]*)\.(?P<cap>[0-9]+)(?P<resampled>\.rs)?"
    r"(?:\.ch(?P<channels>all|0|[1-9][0-9]{0,3}))?"
    r"(?(features)|\.wav)\.npz"
)
_LIKE_ENTRY = re.compile(rf"({FEATURES}|{WAVEFORMS})/[0-9a-f]{{2}}/[0-9a-z.]{{70,140}}")
_MANIFEST = re.compile(rf"{PROCESSORS}/(?P<sha>[0-9a-f]{{64}})\.json")
_RUN = r"(?P<run>[0-9]{8}T[0-9]{6}-[0-9a-f]{8})"
_ACCESS = re.compile(rf"{ACCESS}/(?P<day>[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})/{_RUN}-[0-9a-f]{{12}}-[0-9]+\.gz")
_RUN_RECORD = re.compile(rf"{RUNS}/{_RUN}/(?:[0-9a-f]{{12}}|references)\.json")
_FIGURES = re.compile(rf"{RUNS}/{_RUN}/figures-[0-9a-f]{{12}}\.json")


@dataclass(frozen=True)
class EntryName:
    """What the name of an entry says."""

    cache: str  # "features" or "waveforms"
    blob_sha: str  # sha256 of the clip's encoded bytes
    processor: str  # the first twelve digits of the processor's sha; "" for a waveform
    sampling_rate: int
    max_length_ms: int  # 0 for no cap
    auto_resample: bool
    channels: Channels = "mean"


@dataclass(frozen=True)
class RecordName:
    """What the name of a record says: its run and, in the access log, its day."""

    run: str
    day: str | None


def entry_name(
    blob_sha: str,
    sampling_rate: int,
    max_length_ms: int,
    *,
    auto_resample: bool,
    channels: Channels,
    processor_sha: str | None = None,
) -> str:
    """Return the name of an entry inside its cache's folder; without a processor that of a waveform."""
    processor = "" if processor_sha is None else f".{processor_sha[:12]}"
    resampled = ".rs" if auto_resample else ""
    mixed = "" if channels == "mean" else f".ch{channels}"
    waveform = ".wav" if processor_sha is None else ""
    return f"{blob_sha[:2]}/{blob_sha}{processor}.{sampling_rate}.{max_length_ms}{resampled}{mixed}{waveform}.npz"


def parse_entry_name(name: str) -> EntryName | None:
    """Return what a name under the root says of an entry; None if it is not that of a finished entry."""
    match = _ENTRY.fullmatch(name)
    if match is None:
        return None
    channels = match["channels"] or "mean"
    return EntryName(
        match["features"] or WAVEFORMS,
        match["blob_sha"],
        match["processor"] or "",
        int(match["rate"]),
        int(match["cap"]),
        match["resampled"] is not None,
        cast(Channels, int(channels) if channels.isdecimal() else channels),
    )


def is_entry(name: str) -> bool:
    """Return whether a name under the root is that of a finished entry."""
    return _ENTRY.fullmatch(name) is not None


def is_like_entry(name: str) -> bool:
    """Return whether a name may be that of an entry, of this version or of a later one with more in its name."""
    return _LIKE_ENTRY.fullmatch(name) is not None


def manifest_name(processor_sha: str) -> str:
    """Return the name of a processor's manifest under the root."""
    return f"{PROCESSORS}/{processor_sha}.json"


def parse_manifest_name(name: str) -> str | None:
    """Return the processor's sha; None if the name is not that of a manifest."""
    match = _MANIFEST.fullmatch(name)
    return None if match is None else match["sha"]


def access_name(day: str, run: str, process: str, number: int) -> str:
    """Return the name of a record in the access log; `process` are twelve digits."""
    return f"{ACCESS}/{day}/{run}-{process}-{number}.gz"


def run_name(run: str, processor_sha: str | None) -> str:
    """Return the name of the record of a run: of one processor, or None for one that only follows references."""
    return f"{RUNS}/{run}/{'references' if processor_sha is None else processor_sha[:12]}.json"


def figures_name(run: str, machine: str) -> str:
    """Return the name of the figures of a run on one machine, which twelve digits stand for."""
    return f"{RUNS}/{run}/figures-{machine}.json"


def parse_figures_name(name: str) -> str | None:
    """Return the run whose figures are under this name; None for another name."""
    match = _FIGURES.fullmatch(name)
    return None if match is None else match["run"]


def parse_record_name(name: str) -> RecordName | None:
    """Return what the name of a finished record says, of the access log or of a run; None for another name."""
    match = _ACCESS.fullmatch(name) or _RUN_RECORD.fullmatch(name)
    return None if match is None else RecordName(match["run"], match.groupdict().get("day"))


def is_ours(name: str) -> bool:
    """Return whether a name under the root is one that this package gives, finished or not."""
    name = finished_name(name)
    is_single = name == TAG_NAME or _MANIFEST.fullmatch(name) is not None or is_pack_file(name)
    return is_single or is_entry(name) or (parse_record_name(name) or parse_figures_name(name)) is not None

"""Counting what a cache does, and adding up the processes that use one object; `access_records` has past runs.

Worker processes never hand their objects back, and may be killed. So each process counts into a small file of its own
that is mapped into memory (what was counted is in the page cache at once, whatever happens to the process), all in one
directory; `Counters.total` adds the files up.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import platform
import secrets
import shutil
import struct
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..support.process_local import ProcessLocal, finalize_here
from ..support.report import Report, Table
from ..support.units import format_seconds, format_size

_MAX_BAD_CLIPS = 100_000  # that a process keeps a record of; beyond it counts only
_BAD_CLIPS_SUFFIX = ".bad-clips"


@dataclass(frozen=True, repr=False)
class Stats(Report):
    """What a cache did; two of them can be subtracted to get what happened between.

    Parameters
    ----------
    hits, misses
        Features that were, or were not, in the cache when they were asked for; each distinct clip of a batch counts
        once.
    waveform_hits, waveform_misses
        Of the misses: clips whose decoded waveform was, or was not, in the cache. Of `CachedWaveforms`: of all clips.
    decodes, computed
        Clips that were decoded; clips that went through the processor.
    bad_clips
        Clips that gave no features, because their bytes cannot be had or decoded; each row counts.
    bad_entries
        Entries that were damaged, or another key's: each is a miss, and replaced.
    unsigned_entries
        Entries of a signed root that none of the keys signed: each is a miss, and replaced.
    unknown_versions
        Entries that a later release wrote, in a version of the format that this one does not know: each is a miss, and
        stays.
    read_errors, write_errors
        Objects that the store could not read (each is a miss) or write (computed, but not kept).
    bytes_read, bytes_written
        Bytes of entries, as stored.
    seconds_computing
        Time spent in decoding and in the processor.
    seconds_saved
        What the hits once took to compute, as their entries say, less the time it took to read them.
    """

    hits: int = 0
    misses: int = 0
    waveform_hits: int = 0
    waveform_misses: int = 0
    decodes: int = 0
    computed: int = 0
    bad_clips: int = 0
    bad_entries: int = 0
    unsigned_entries: int = 0
    unknown_versions: int = 0
    read_errors: int = 0
    write_errors: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds_computing: float = 0.0
    seconds_saved: float = 0.0

    def __sub__(self, earlier: Stats) -> Stats:
        before, after = asdict(earlier), asdict(self)
        return Stats(**{name: after[name] - before[name] for name in after})

    def __add__(self, other: Stats) -> Stats:
        return Stats(**{name: value + getattr(other, name) for name, value in asdict(self).items()})

    @property
    def hit_rate(self) -> float:
        """Share of the distinct clips whose features were in the cache; 0.0 before the first.

        Where no features were asked for, as by `CachedWaveforms`, the share of those whose waveform was.
        """
        if self.hits + self.misses:
            return self.hits / (self.hits + self.misses)
        return self.waveform_hits / max(self.waveform_hits + self.waveform_misses, 1)

    def tables(self) -> list[Table]:
        rows = []
        for name, value in self.to_dict().items():
            show = (
                format_size if name.startswith("bytes") else format_seconds if name.startswith("sec") else "{:,}".format
            )
            rows.append((name.replace("_", " "), show(value)))
        return [Table("stats", (), [*rows, ("hit rate", f"{self.hit_rate:.1%}")])]

    def __repr__(self) -> str:
        figures = (f"{name}={round(value, 3):,}" for name, value in self.to_dict().items() if value)
        return f"Stats({', '.join(figures)})"


# One float64 for each figure: exact for whole numbers up to 2**53.
_INDEX = {field.name: index for index, field in enumerate(fields(Stats))}
_FILE = struct.Struct(f"{len(_INDEX)}d")


@dataclass(frozen=True)
class BadClip:
    """A clip that gave no features.

    Attributes
    ----------
    clip
        What messages call it: its path where it has one.
    error
        The class of the error, such as ``"AudioDecodeError"``.
    reason
        Its message.
    """

    clip: str
    error: str
    reason: str


class Counters:
    """The figures of `Stats`, shared by the processes that a pickle or a fork of this object reaches.

    `directory` is where the processes keep their files; "" for nowhere, which leaves each process its own figures. By
    default it is a new one among the system's temporary files, which is named now, made at the first count, and removed
    with the object that named it. Where there is no place for temporary files each process has its own figures only:
    counting must not end a run.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._own: ProcessLocal[_OwnFigures] = ProcessLocal()
        self.directory = directory
        if directory is None:
            with contextlib.suppress(FileNotFoundError):
                self.directory = os.path.join(tempfile.gettempdir(), f"hf-audio-cache-{secrets.token_hex(8)}")
                finalize_here(self, shutil.rmtree, self.directory, True)

    def __reduce__(self) -> tuple[Any, tuple[str | None, str]]:
        return _counters_from, (self.directory, platform.node())

    def add(self, **counts: float) -> None:
        """Add to the figures of these names."""
        self._of_process().add(counts)

    def _of_process(self) -> _OwnFigures:
        return self._own.get(lambda: _OwnFigures(self.directory))

    def add_bad_clip(self, clip: BadClip) -> None:
        """Count a clip that gave no features, and keep what is known of it."""
        self.add(bad_clips=1)
        self._of_process().add_bad_clip(clip)

    def bad_clips(self) -> list[BadClip]:
        """Return the clips that gave no features, in all processes so far, each once."""
        own = self._own.peek()
        found: dict[BadClip, None] = dict(own.bad_clips) if own is not None else {}
        with contextlib.suppress(OSError), os.scandir(self.directory or os.devnull) as files:
            for file in files:
                if file.name.endswith(_BAD_CLIPS_SUFFIX):
                    with contextlib.suppress(OSError), open(file.path, encoding="utf-8") as lines:
                        # The last line of a process that was killed may be a part of one.
                        found.update((BadClip(*json.loads(line)), None) for line in lines if line.endswith("]\n"))
        return list(found)

    @property
    def token(self) -> str | None:
        """Twelve digits that these processes share; None if each has its own figures."""
        return hashlib.sha256(self.directory.encode()).hexdigest()[:12] if self.directory else None

    def total(self) -> Stats:
        """Return the sum over all processes so far."""
        own = self._own.peek()
        blocks = [] if own is None else [bytes(own.memory)]
        with contextlib.suppress(OSError), os.scandir(self.directory or os.devnull) as files:
            for file in files:
                if (own is None or file.name != own.name) and not file.name.endswith(_BAD_CLIPS_SUFFIX):
                    with contextlib.suppress(OSError), open(file.path, "rb") as opened:
                        blocks.append(opened.read())
        sums = [0.0] * len(_INDEX)
        for block in blocks:
            if len(block) == _FILE.size:  # a process that was killed while it made its file has counted nothing
                sums = [total + figure for total, figure in zip(sums, _FILE.unpack(block), strict=True)]
        figures: dict[str, Any] = {
            field.name: total if field.type == "float" else int(total)
            for field, total in zip(fields(Stats), sums, strict=True)
        }
        return Stats(**figures)


class _OwnFigures:
    """What one process counts, in a file of its own; without a directory, in its memory."""

    def __init__(self, directory: str | None) -> None:
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.memory: mmap.mmap | bytearray = bytearray(_FILE.size)
        self._lock = threading.Lock()
        self.bad_clips: dict[BadClip, None] = {}
        self._directory = directory
        if directory:
            with contextlib.suppress(OSError):
                os.makedirs(directory, mode=0o700, exist_ok=True)
                with open(os.path.join(directory, self.name), "xb+") as file:
                    # Written, and not only made as long: on a full disk this fails here, and not at the first count,
                    # where it would be a SIGBUS.
                    file.write(self.memory)
                    file.flush()
                    self.memory = mmap.mmap(file.fileno(), _FILE.size)
        self._figures = memoryview(self.memory).cast("d")

    def add(self, counts: Mapping[str, float]) -> None:
        with self._lock:
            for name, count in counts.items():
                if count:
                    self._figures[_INDEX[name]] += count

    def add_bad_clip(self, clip: BadClip) -> None:
        with self._lock:
            if clip in self.bad_clips or len(self.bad_clips) >= _MAX_BAD_CLIPS:
                return
            self.bad_clips[clip] = None
        if self._directory:
            path = os.path.join(self._directory, self.name + _BAD_CLIPS_SUFFIX)
            with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps([clip.clip, clip.error, clip.reason]) + "\n")


def _counters_from(directory: str | None, machine: str) -> Counters:
    """Return the counters of a pickle; on another machine, whose files nobody here adds up, those of this process."""
    return Counters(directory if machine == platform.node() else "")

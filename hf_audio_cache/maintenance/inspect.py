"""What one entry holds, in words and as a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.channels import in_words
from ..cache.entry import open_entry
from ..cache.open_root import OpenRoot
from ..cache.root import CacheRoot
from ..errors import HfAudioCacheError
from ..support.report import Report, Table
from ..support.units import format_seconds, format_size
from .listing import ListedEntry, find_entries
from .processors import processor_names
from .verify import check_object


@dataclass(frozen=True, repr=False)
class InspectedEntry(Report):
    """What an entry holds."""

    name: str  # under the root
    listed: ListedEntry  # what its name says, and its size
    # The processor's class, or the name that the user gave a function; "" where that is not known.
    processor_name: str = ""
    # Each output: dtype and shape, and of numbers the smallest, the mean and the largest.
    outputs: dict[str, str] = field(default_factory=dict)
    compute_seconds: float = 0.0
    problem: str = ""
    values: dict[str, Any] = field(default_factory=dict, compare=False)  # the outputs themselves

    def to_dict(self) -> dict[str, Any]:
        """Return what is known of the entry as JSON values, without its arrays."""
        own = ("processor_name", "outputs", "compute_seconds", "problem")
        return self.listed.to_dict() | {name: getattr(self, name) for name in own}

    def tables(self) -> list[Table]:
        listed = self.listed
        facts = [
            ("cache", listed.cache),
            ("clip (sha256)", listed.blob_sha),
            ("processor", f"{listed.processor} {self.processor_name}".strip() or "none"),
            ("rate", f"{listed.sampling_rate:,} Hz{in_words(listed.channels)}"),
            ("cap", f"{listed.max_length_ms / 1000:g} s" if listed.max_length_ms else "none"),
            ("resampled where needed", "yes" if listed.auto_resample else "no"),
            ("size", format_size(listed.n_bytes)),
            ("took to compute", format_seconds(self.compute_seconds)),
            *((f"output {name}", text) for name, text in self.outputs.items()),
            ("state", f"not readable: {self.problem}" if self.problem else "good"),
        ]
        return [Table(self.name, (), facts)]


def inspect_entries(root: str | os.PathLike[str] | CacheRoot, what: str) -> list[InspectedEntry]:
    """Return what the entries hold that a name, or at least 8 digits of a clip's sha256, stands for.

    Raises ValueError if it stands for nothing; StoreError if the root cannot be read.
    """
    opened = OpenRoot.for_maintenance(root)
    names = processor_names(opened.store)
    entries = find_entries(opened.store, [what])
    return [_inspect(opened, entry, names.get(entry.processor, "")) for entry in entries]


def _inspect(root: OpenRoot, entry: ListedEntry, processor_name: str) -> InspectedEntry:
    content = root.store.get(entry.name)
    problem: HfAudioCacheError | str | None = "it was deleted meanwhile"
    if content is not None:
        problem = check_object(root, entry.name, content)
    if content is None or problem is not None:
        return InspectedEntry(entry.name, entry, processor_name, problem=str(problem))
    opened = open_entry(content, None)
    values = opened.read_all()
    outputs = {name: _describe(value) for name, value in values.items()}
    return InspectedEntry(entry.name, entry, processor_name, outputs, opened.compute_seconds, "", values)


def _describe(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return f"JSON {str(value)[:60]}"
    form = f"{value.dtype} {value.shape}"
    if not value.size or value.dtype.kind not in "iuf":
        return form
    return f"{form}, {value.min():.4g} to {value.max():.4g}, mean {value.mean(dtype=np.float64):.4g}"


def plot_entry(entry: InspectedEntry, path: Path) -> None:
    """Draw an entry into a PNG file: a waveform over its seconds, features as a picture or a line.

    Raises ValueError if it is not readable, or has no array of one or two axes, or matplotlib is not installed.
    """
    if entry.problem:
        raise ValueError(f"Nothing was drawn: the entry {entry.name} is not readable: {entry.problem}.")
    drawable = {
        name: value
        for name, value in entry.values.items()
        if isinstance(value, np.ndarray) and value.ndim in (1, 2) and value.size and value.dtype.kind in "iuf"
    }
    if not drawable:
        raise ValueError(f"Nothing was drawn: no array of {entry.name} has one or two axes. It has {entry.outputs}.")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError(
            "Nothing was drawn: matplotlib is not installed. Install it: pip install 'hf_audio_cache[plot]'"
        ) from None
    name, values = max(drawable.items(), key=lambda item: item[1].size)
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    title = entry.processor_name or "waveform"
    axes.set_title(f"{title}, clip {entry.listed.blob_sha[:12]}: {name} {values.dtype} {values.shape}")
    if entry.listed.cache == "waveforms":
        n_samples, rate = values.shape[-1], entry.listed.sampling_rate
        axes.plot(np.arange(n_samples) / rate, values.T, linewidth=0.5)  # a line for each channel
        axes.set(xlabel="time (s)", ylabel="amplitude", xlim=(0, n_samples / rate))
    elif values.ndim == 1:
        axes.plot(values, linewidth=0.5)
        axes.set(xlabel="index", ylabel="value")
    else:
        picture = values.T if values.shape[0] > values.shape[1] else values  # time along the longer axis
        drawn = axes.imshow(picture, origin="lower", aspect="auto", interpolation="nearest")
        axes.set(xlabel="frame", ylabel="feature")
        figure.colorbar(drawn, ax=axes, label="value")
    figure.savefig(path, format="png", dpi=120)

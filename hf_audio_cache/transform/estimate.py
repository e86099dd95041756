"""Size and time of caching a dataset, estimated from a sample."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cache.open_root import OpenRoot
from ..cache.root import CacheRoot
from ..errors import AudioError
from ..pipeline.feature_pipeline import FeaturePipeline
from ..pipeline.waveforms import decode
from ..support.report import Report, Table
from ..support.units import format_seconds, format_size
from .audio_rows import audio_rows, encoded_sizes

_PAYS = 1.5  # a smaller speed-up is not worth the disk
_MIN_LINE = 8  # fewer clips do not determine a straight line


@dataclass(frozen=True, repr=False)
class Estimate(Report):
    """Size and time of caching a dataset; all times are those of one process.

    Attributes
    ----------
    n_rows
        Rows of the dataset. Duplicates count each, although a clip is cached once.
    n_sample
        Rows that were measured, spread over the sizes of all.
    n_sample_bad, n_sample_cached, n_sample_cached_waveforms
        Of these, rows without features, and rows whose features or waveforms are in the cache.
    features_bytes, waveforms_bytes
        Size of the entries of all rows. Waveforms that are decoded as fast as an entry is read are not stored.
    seconds_reading_audio, seconds_decoding, seconds_extracting, seconds_storing
        Time that a first run spends on all rows.
    seconds_reading_waveforms, seconds_reading_features
        Time to read all entries from a local disk, without the round trips of a far root. Waveforms that are not
        stored are decoded again.
    """

    n_rows: int
    n_sample: int
    n_sample_bad: int = 0
    n_sample_cached: int = 0
    n_sample_cached_waveforms: int = 0
    features_bytes: int = 0
    waveforms_bytes: int = 0
    seconds_reading_audio: float = 0.0
    seconds_decoding: float = 0.0
    seconds_extracting: float = 0.0
    seconds_storing: float = 0.0
    seconds_reading_waveforms: float = 0.0
    seconds_reading_features: float = 0.0

    @property
    def seconds_uncached(self) -> float:
        """Time of each pass without a cache."""
        return self.seconds_reading_audio + self.seconds_decoding + self.seconds_extracting

    @property
    def seconds_first_run(self) -> float:
        """Time of a run that finds nothing in the cache."""
        return self.seconds_uncached + self.seconds_storing

    @property
    def seconds_with_waveforms(self) -> float:
        """Time of a pass that finds waveforms alone."""
        return self.seconds_reading_audio + self.seconds_reading_waveforms + self.seconds_extracting

    @property
    def seconds_with_features(self) -> float:
        """Time of a pass that finds all features."""
        return self.seconds_reading_audio + self.seconds_reading_features

    @property
    def features_pay(self) -> bool:
        """Whether reading features is clearly faster than extracting them from cached waveforms."""
        return self.seconds_with_waveforms >= _PAYS * self.seconds_with_features

    @property
    def waveforms_pay(self) -> bool:
        """Whether reading waveforms is clearly faster than decoding."""
        return self.seconds_uncached >= _PAYS * self.seconds_with_waveforms

    @property
    def verdict(self) -> str:
        """The conclusion, in a sentence."""
        if not self.n_sample - self.n_sample_bad:
            return "No row of the sample has features: there is nothing to compare."
        if self.features_pay:
            factor = self.seconds_uncached / max(self.seconds_with_features, 1e-9)
            return f"Caching pays: a pass over cached features is {factor:.1f} times as fast as one without a cache."
        if self.waveforms_pay:
            return (
                "Cached waveforms pay: extracting these features from them takes hardly longer than reading features."
            )
        return "Caching does not pay: decoding and extracting take hardly longer than reading."

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate and all that is derived from it as JSON values."""
        derived = (name for name, value in vars(Estimate).items() if isinstance(value, property))
        return {**super().to_dict(), **{name: getattr(self, name) for name in derived}}

    def tables(self) -> list[Table]:
        share = f"{self.n_sample_cached} of {self.n_sample} rows"
        waveforms = f"{self.n_sample_cached_waveforms} of {self.n_sample} rows"
        figures = [
            ("rows", f"{self.n_rows:,}"),
            ("rows of the sample", f"{self.n_sample:,}"),
            ("cached already, of the sample", share),
            ("waveforms cached already, of the sample", waveforms),
            ("bad, of the sample", f"{self.n_sample_bad:,}"),
            ("features of all rows", format_size(self.features_bytes)),
            ("waveforms of all rows", format_size(self.waveforms_bytes)),
        ]
        first = (
            ("reading audio", self.seconds_reading_audio),
            ("decoding", self.seconds_decoding),
            ("extracting", self.seconds_extracting),
            ("storing", self.seconds_storing),
            ("first run, all of it", self.seconds_first_run),
        )
        passes = (
            ("without a cache", self.seconds_uncached),
            ("from cached waveforms", self.seconds_with_waveforms),
            ("from cached features", self.seconds_with_features),
        )
        return [
            Table("estimate", (), figures),
            Table("a first run, in one process", (), [(name, format_seconds(value)) for name, value in first]),
            Table("each pass, in one process", (), [(name, format_seconds(value)) for name, value in passes]),
            Table("", (), [(self.verdict,)]),
        ]


def estimate(pipeline: FeaturePipeline, dataset: Any, *, sample: int) -> Estimate:
    """Return what caching a dataset will take; see `CachedFeatures.estimate`."""
    if sample < 1:
        raise ValueError(f"sample must be at least 1 row, not {sample!r}; nothing was computed.")
    column, data_dir = pipeline.settings.audio_column, pipeline.settings.data_dir
    rows = audio_rows(dataset, column)
    sizes = encoded_sizes(rows, column, data_dir)
    n_sample = min(sample, len(rows))
    # Evenly over the sizes, so that large clips are sampled as often as they occur.
    chosen = np.argsort(sizes, kind="stable")[((np.arange(n_sample) + 0.5) * len(rows) / max(n_sample, 1)).astype(int)]
    with tempfile.TemporaryDirectory(prefix="hf-audio-cache-estimate-") as folder:
        measured = _Measurement(pipeline, Path(folder))
        lines = [measured.measure(lambda row=row: rows[int(row)][column]) for row in chosen]
    good = [(size, line) for size, line in zip(sizes[chosen], lines, strict=True) if line is not None]
    totals = {
        name: _extrapolated(np.array([size for size, _ in good]), np.array([line[name] for _, line in good]), sizes)
        for name in (each.name for each in fields(Estimate))
        if name.startswith(("features_", "waveforms_", "seconds_"))
    }
    return Estimate(
        n_rows=len(rows),
        n_sample=n_sample,
        n_sample_bad=len(lines) - len(good),
        n_sample_cached=measured.n_cached,
        n_sample_cached_waveforms=measured.n_cached_waveforms,
        features_bytes=round(totals.pop("features_bytes")),
        waveforms_bytes=round(totals.pop("waveforms_bytes")),
        **totals,
    )


class _Measurement:
    """Takes clips through all steps, with entries in a temporary directory."""

    def __init__(self, pipeline: FeaturePipeline, folder: Path) -> None:
        self._pipeline = pipeline
        self._identity = pipeline.identity()
        like = pipeline.root.root
        root = CacheRoot(folder, strict=True, signing_key=like.signing_keys, compression=like.compression)
        self._features, self._waveforms = OpenRoot(root).uncounted()
        self._is_warm = False
        self.n_cached = 0
        self.n_cached_waveforms = 0

    def measure(self, read_cell: Any) -> Mapping[str, float] | None:
        """Return the figures of one clip; None for one without features."""
        pipeline, steps = self._pipeline, _Steps()
        try:
            [source] = pipeline.audio_reader.read([read_cell()])
            if isinstance(source, AudioError):
                return None
            steps.done("seconds_reading_audio")
            key = pipeline.key(source.blob_sha, self._identity)
            self.n_cached += pipeline.audio_cache.exists(key)
            self.n_cached_waveforms += pipeline.waveform_cache.exists(key.waveform_key())
            steps.skip()
            waveform = decode(source, pipeline.settings.waveform)
            steps.done("seconds_decoding")
            if not self._is_warm:  # the first call of an extractor takes longer, and is checked by a second one
                pipeline.extraction.extract(waveform.samples, source.clip, self._identity.sha)
                self._is_warm = True
                steps.skip()
            outputs = pipeline.extraction.extract(waveform.samples, source.clip, self._identity.sha)
            steps.done("seconds_extracting")
        except AudioError:
            return None
        is_kept = pipeline.waveforms.is_stored(source)
        steps.skip()
        self._features.store_many({key: outputs}, length=waveform.length)
        if is_kept:
            self._waveforms.store_many({key.waveform_key(): {"waveform": waveform.samples}}, length=waveform.length)
        steps.done("seconds_storing")
        self._features.get_all(key)
        steps.done("seconds_reading_features")
        if is_kept:
            self._waveforms.get(key.waveform_key())
        else:
            decode(source, pipeline.settings.waveform)
        steps.done("seconds_reading_waveforms")
        n_bytes = Path(self._features.path_for(key)).stat().st_size
        n_waveform_bytes = Path(self._waveforms.path_for(key.waveform_key())).stat().st_size if is_kept else 0
        return {**steps.seconds, "features_bytes": n_bytes, "waveforms_bytes": n_waveform_bytes}


class _Steps:
    """A stopwatch that is read after each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def done(self, name: str) -> None:
        self.seconds[name] = time.perf_counter() - self._since
        self.skip()

    def skip(self) -> None:
        self._since = time.perf_counter()


def _extrapolated(sizes: npt.NDArray[Any], values: npt.NDArray[Any], all_sizes: npt.NDArray[Any]) -> float:
    """Return the sum over all rows of a figure known for a sample, by a line over their sizes, or else by its mean."""
    if not len(values):
        return 0.0
    if len(values) >= _MIN_LINE and np.ptp(sizes) > 0:
        slope, at_zero = np.polyfit(sizes, values, 1)
        if slope > 0 and at_zero + slope * all_sizes.min() >= 0:
            return float(at_zero * len(all_sizes) + slope * all_sizes.sum())
    return float(values.mean() * len(all_sizes))

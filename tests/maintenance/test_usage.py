"""`usage` counts what is there; tables show it."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections import Counter
from pathlib import Path

import audio_datasets as data
import fsspec
import numpy as np
import pytest
from full_roots import cached_by_all, contents

from hf_audio_cache import AudioCache, CacheRoot, Usage, usage
from hf_audio_cache.support.report import Table


def truth(root: Path) -> tuple[Counter[str], Counter[str]]:
    """Return entries and bytes by what follows the clip in their names, by the file system's account."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for path in root.glob("*/??/*.npz"):
        kind = f"{path.parent.parent.name}{path.name[64:]}"
        count[kind] += 1
        size[kind] += path.stat().st_size
    return count, size


def kind_of(line) -> str:
    processor = f".{line.processor}" if line.processor else ""
    end = "npz" if line.processor else "wav.npz"
    return f"{line.cache}{processor}.{line.sampling_rate}.{line.max_length_ms}{'.rs' * line.auto_resample}.{end}"


def test_an_empty_root_has_nothing(tmp_path):
    assert usage(tmp_path) == Usage(str(tmp_path), ages=usage(tmp_path).ages)
    assert set(usage(tmp_path).ages.values()) == {(0, 0)}
    assert usage(tmp_path).compression_ratio is None
    assert usage(tmp_path, sample=0).n_sample == 0
    for wrong in (-1, None, "all"):
        with pytest.raises(ValueError, match=f"sample must be a number of at least 0, not {wrong!r}; nothing was cou"):
            usage(tmp_path, sample=wrong)


def test_entries_are_counted_by_processor_rate_and_cap(root, clips):
    cached = cached_by_all(root, max_length_seconds=0.5)[0]
    cached({"audio": data.columns(clips[:2])["audio"]})
    cached.pipeline.access_log.finish()
    report = usage(root)
    count, size = truth(root)
    assert {kind_of(line): line.n_entries for line in report.lines} == count
    assert {kind_of(line): line.n_bytes for line in report.lines} == size
    assert (report.n_entries, report.n_bytes) == (sum(count.values()), sum(size.values()))
    assert [line.n_bytes for line in report.lines] == sorted(size.values(), reverse=True)
    names = {line.processor: line.name for line in report.lines}
    assert sorted(names.values()) == ["", "SeamlessM4TFeatureExtractor", "Wav2Vec2FeatureExtractor", "energy-v1"]
    others = [path for path in root.rglob("*") if path.is_file() and not path.match("*/??/*.npz")]
    assert (report.n_other, report.n_other_bytes) == (len(others), sum(path.stat().st_size for path in others))
    assert report.ages["less than a day"] == (report.n_entries, report.n_bytes)


def test_the_age_is_that_of_the_file(root):
    day = 86_400
    paths = sorted(root.glob("features/??/*.npz"))
    for path, days in zip(paths, (0, 3, 20, 60, 365), strict=False):
        os.utime(path, (time.time() - days * day - 60,) * 2)
    report = usage(root)
    assert [count for count, _ in report.ages.values()] == [report.n_entries - 4, 1, 1, 1, 1]
    assert report.ages["more than 90 days"] == (1, paths[4].stat().st_size)


def test_the_ratio_is_that_of_the_arrays(tmp_path):
    cache = AudioCache(CacheRoot(tmp_path / "features", compression="blosc"))
    arrays = [np.zeros((80, 100 * number), np.float32) for number in range(1, 6)]
    for number, array in enumerate(arrays):
        cache.put(_key(number), array)
    report = usage(tmp_path)
    stored = sum(path.stat().st_size for path in tmp_path.rglob("*.npz"))
    assert (report.n_sample, report.sample_bytes) == (5, stored)
    assert report.sample_decoded_bytes == sum(array.nbytes for array in arrays)
    assert report.compression_ratio == report.sample_decoded_bytes / stored
    assert usage(tmp_path, sample=2).n_sample == 2
    assert usage(tmp_path, sample=0).compression_ratio is None
    damaged = next(iter(tmp_path.rglob("*.npz")))
    damaged.write_bytes(b"no entry")
    assert usage(tmp_path).n_sample == 4


def _key(number: int):
    from hf_audio_cache import AudioCacheKey

    return AudioCacheKey(f"{number:064x}", "0" * 64, 16000, 0)


def test_every_entry_is_as_likely_in_the_sample_whatever_the_order_of_the_listing():
    from hf_audio_cache.maintenance.usage import _sample

    names = [str(number) for number in range(10_000)]
    numbers = [int(name) for name in _sample(names, 200)]
    assert _sample(reversed(names), 200) == _sample(names, 200)
    assert len(set(numbers)) == 200
    assert 4000 < np.mean(numbers) < 6000
    left = iter(names)
    assert _sample(left, 0) == []
    assert next(left, None) is None


def test_a_far_root_is_counted_as_a_folder_is(root):
    fsspec.filesystem("memory").pipe({f"/usage/root/{name}": content for name, content in contents(root).items()})
    far = usage(CacheRoot("memory://usage/root", near=None))
    assert dataclasses.replace(far, root=str(root)) == usage(root)


def test_a_report_shows_itself_and_is_json(root):
    report = usage(root)
    text, page = repr(report), report._repr_html_()
    for line in report.lines:
        assert line.processor in text
        assert f"<td>{line.processor}</td>" in page
    assert "all entries" in text
    assert f"(of a sample of {report.n_sample} entries)" in text
    assert json.loads(json.dumps(report.to_dict()))["n_entries"] == report.n_entries


def test_cells_are_text_in_html():
    page = Table("<b>", ("a",), [("<script>alert(1)</script>",)]).to_html()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<caption>&lt;b&gt;</caption>" in page
    assert Table("t", ("name", "n"), [("a", "1"), ("bb", "20")]).to_text() == "t\n  name   n\n  a      1\n  bb    20"

"""`processors`: which there are, and how two differ."""

from __future__ import annotations

from command_line import run, run_json
from full_roots import cached_by_all


def test_processors_are_listed_and_compared(root):
    caches = cached_by_all(root)
    found = {one["sha"]: one["name"] for one in run_json("processors", "list", "--root", root)}
    assert found == {
        caches[0].processor_sha: "Wav2Vec2FeatureExtractor",
        caches[1].processor_sha: "SeamlessM4TFeatureExtractor",
        caches[2].processor_sha: "energy-v1",
    }
    shas = [cached_features.processor_sha for cached_features in caches]
    report = run_json("processors", "diff", shas[0][:8], shas[1], "--root", root, code=1)
    assert (report["old"], report["new"]) == (shas[0], shas[1])
    assert any(line.startswith("class: ") for line in report["differences"])
    text = run("processors", "diff", shas[0], shas[1], "--root", root, code=1).out
    assert text.startswith(f"{shas[0][:12]} -> {shas[1][:12]}\n  ")
    assert "\n  class:" in text
    assert run("processors", "diff", shas[0][:8], shas[0], "--root", root, "-q").lines == []
    for bad in ("0" * 12, "xyz", ""):
        assert "0 processors under " in run("processors", "diff", shas[0], bad, "--root", root, code=2).err

"""`processors`: which there are, and how two differ."""

from __future__ import annotations

from command_line import run, run_json
from full_roots import RATE, cached_by_all, energy

from hf_audio_cache import CachedFeatures


def test_a_name_that_the_user_gave_is_whole(root, clips):
    named = CachedFeatures(energy, root, identity="my-mel-v1.2", sampling_rate=RATE, features="always")
    named(str(clips[0]))
    named.pipeline.access_log.finish()
    assert "my-mel-v1.2" in {one["name"] for one in run_json("processors", "--root", root)}
    assert len(run("prune", "--processor", "my-mel-v1.2", "--root", root, "-y", "-q").lines) == 1


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

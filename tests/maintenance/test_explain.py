"""Why a clip hits or misses, in words; and the manifests that the words come from."""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import json

import extractors
import pytest

from hf_audio_cache import CachedFeatures
from hf_audio_cache.cache.processor_manifest import Manifest, manifest_name, read_manifest
from hf_audio_cache.errors import AudioSourceError, StoreError
from hf_audio_cache.maintenance.explain import explain_difference, explain_key
from hf_audio_cache.processors.identity import SCHEME, Fingerprinter, ProcessorIdentity
from hf_audio_cache.processors.output_specs import OutputSpec
from hf_audio_cache.stores import Store, open_store

RATE = 16000
CELL = {"audio": extractors.cell(1.0, RATE)}
CLIP = "speech-1s-16000.wav"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def cached(root, **changes):
    return CachedFeatures(extractors.make("SeamlessM4T", **changes), root)


def contents(root):
    """Return all files under a root, by name: their bytes and times."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_size)
        for path in root.rglob("*")
        if path.is_file()
    }


def explain(cached_features, example=CELL):
    """Return an explanation, and check that nothing was changed, nor counted."""
    gc.collect()  # a transform that is no more writes its last record of use
    there = cached_features.root.exists()
    before, stats = (contents(cached_features.root) if there else None), cached_features.stats
    explanation = cached_features.explain(example)
    assert cached_features.root.exists() == there
    assert (contents(cached_features.root) if there else None) == before
    assert cached_features.stats == stats
    assert explanation.clip == CLIP
    assert str(explanation).splitlines() == [
        f"{CLIP}: {explanation.status}",
        *(f"  {reason}" for reason in explanation.reasons),
    ]
    as_json = json.loads(json.dumps(explanation.to_dict()))
    assert as_json["status"] == explanation.status
    assert as_json["key"]["processor_sha"] == cached_features.processor_sha
    return explanation


def entry(root, folder="features"):
    [path] = (root / folder).rglob("*.npz")
    return path


# Each status ----------------------------------------------------------------------------------------------------------


def test_never_seen(root):
    explanation = explain(cached(root))
    assert explanation.status == "never seen"
    assert explanation.reasons == ("Nothing of it is there.",)


def test_hit(root):
    cached_features = cached(root)
    cached_features(CELL)
    explanation = explain(cached_features)
    assert explanation.status == "hit"
    assert explanation.reasons == ()
    assert str(explanation) == f"{CLIP}: hit"
    assert explanation.key.blob_sha == hashlib.sha256(CELL["audio"]["bytes"]).hexdigest()


def test_an_example_can_be_its_audio_alone(root):
    cached_features = cached(root)
    cached_features(CELL)
    for example in (CELL["audio"], {**CELL, "text": "words"}, CELL["audio"]["bytes"]):
        assert cached_features.explain(example).status == "hit"


def test_never_seen_where_the_waveform_is(root):
    cached_features = cached(root)
    cached_features(CELL)
    entry(root).unlink()
    explanation = explain(cached_features)
    assert explanation.status == "never seen"
    assert explanation.reasons == ("Its waveform is there: only the processor has to run.",)


def test_another_processor_by_its_attributes(root):
    there = cached(root)
    there(CELL)
    explanation = explain(cached(root, stride=3, padding_value=1.0))
    assert explanation.status == "other processor"
    assert explanation.reasons == (
        f"It is there for processor {there.processor_sha[:12]}. From that one to this:",
        "- padding_value: 0 -> 1",
        "- stride: 2 -> 3",
    )


def test_another_processor_by_its_arrays_and_call(root):
    there = cached(root)
    there(CELL)
    changed = extractors.make("SeamlessM4T")
    changed.window = changed.window * 2
    explanation = explain(CachedFeatures(changed, root, processor_kwargs={"padding": "max_length", "max_length": 300}))
    heading, *differences = explanation.reasons
    assert heading.startswith(f"It is there for processor {there.processor_sha[:12]}.")
    assert differences[:2] == [
        "- processor_kwargs.max_length: (none) -> 300",
        "- processor_kwargs.padding: (none) -> 'max_length'",
    ]
    assert differences[2].startswith("- window: float64 array of shape (400,), digest ")
    assert " -> float64 array of shape (400,), digest " in differences[2]
    assert len(differences) == 3


def test_another_processor_by_its_class(root):
    cached(root)(CELL)
    explanation = explain(CachedFeatures(extractors.make("Wav2Vec2"), root))
    assert explanation.status == "other processor"
    [line] = [reason for reason in explanation.reasons if reason.startswith("- class: ")]
    assert line.endswith(
        "SeamlessM4TFeatureExtractor' -> 'transformers.models.wav2vec2.feature_extraction_wav2vec2."
        "Wav2Vec2FeatureExtractor'"
    )


def test_several_other_processors(root):
    """The nearest one is told in full, three others in a line each, and the rest are counted."""
    far = [cached(root, stride=stride, padding_value=1.0, return_attention_mask=False) for stride in (1, 4, 5, 6)]
    middle, near = cached(root, stride=2, padding_value=1.0), cached(root, stride=2)
    for cached_features in (*far, near, middle):
        cached_features(CELL)
    explanation = explain(cached(root, stride=3))
    assert explanation.status == "other processor"
    assert explanation.reasons[:3] == (
        f"It is there for processor {near.processor_sha[:12]}. From that one to this:",
        "- stride: 2 -> 3",
        f"It is also there for processor {middle.processor_sha[:12]} (2 differences).",
    )
    first, second = sorted(one.processor_sha[:12] for one in far)[:2]
    assert explanation.reasons[3:] == (
        f"It is also there for processor {first} (3 differences).",
        f"It is also there for processor {second} (3 differences).",
        "And for 2 more.",
    )


def described_as(root, there, manifest):
    """Let another manifest describe the processor of the one entry; return the sha that it has then."""
    sha = ProcessorIdentity.of(manifest["identity"]).sha
    (root / manifest_name(there.processor_sha)).unlink()
    (root / manifest_name(sha)).write_text(json.dumps({**manifest, "processor_sha": sha}))
    found = entry(root)
    found.rename(found.with_name(found.name.replace(there.processor_sha[:12], sha[:12])))
    return sha


def test_a_processor_that_another_scheme_described(root):
    there = cached(root)
    there(CELL)
    older = json.loads((root / manifest_name(there.processor_sha)).read_bytes())
    del older["identity"]["scheme"]  # as before there were versions of it
    assert ProcessorIdentity.of(older["identity"]).scheme == 1
    sha = described_as(root, there, older)
    [reason] = explain(there).reasons
    assert reason == f"It is there for processor {sha[:12]}, described by another scheme (version 1, now {SCHEME})."


def test_a_processor_whose_code_another_release_changed(root):
    there = cached(root)
    there(CELL)
    older = json.loads((root / manifest_name(there.processor_sha)).read_bytes())
    older["identity"]["code"]["transformers.audio_utils.spectrogram"]["code"] = "a" * 64
    now, older["versions"]["transformers"] = older["versions"]["transformers"], "4.0"
    sha = described_as(root, there, older)
    assert explain(there).reasons == (
        f"It is there for processor {sha[:12]}. From that one to this:",
        f"- the code of transformers.audio_utils.spectrogram changed, 4.0 -> {now}",
    )


def test_another_processor_without_a_manifest(root):
    there = cached(root)
    there(CELL)
    path, asking = root / manifest_name(there.processor_sha), cached(root, stride=3)
    of_another = path.read_bytes().replace(b'"processor_sha": "', b'"processor_sha": "0')
    for damaged in (b"[]", of_another, None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        explanation = explain(asking)
        assert explanation.status == "other processor"
        assert explanation.reasons == (
            f"It is there for processor {there.processor_sha[:12]}, of which there is no manifest.",
        )


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"max_length_seconds": 0.5}, "16000 Hz, a cap of 0.5 s, auto_resample=False"),
        ({"auto_resample": True}, "16000 Hz, no cap, auto_resample=True"),
    ],
)
def test_other_settings(settings, asked, root):
    cached(root)(CELL)
    explanation = explain(CachedFeatures(extractors.make("SeamlessM4T"), root, **settings))
    assert explanation.status == "other settings"
    assert explanation.reasons == (f"It is there with 16000 Hz, no cap, auto_resample=False; {asked} was asked for.",)


def test_the_same_processor_with_other_settings_is_nearer_than_another_processor(root):
    CachedFeatures(extractors.make("SeamlessM4T"), root, auto_resample=True)(CELL)
    cached(root, stride=3)(CELL)
    explanation = explain(cached(root))
    assert explanation.status == "other settings"
    assert explanation.reasons == (
        "It is there with 16000 Hz, no cap, auto_resample=True; 16000 Hz, no cap, auto_resample=False was asked for.",
    )


def test_another_processor_with_other_settings_is_said_to_be_that(root):
    CachedFeatures(extractors.make("SeamlessM4T"), root, auto_resample=True)(CELL)
    explanation = explain(cached(root, stride=3))
    assert explanation.status == "other settings"
    assert explanation.reasons[0].startswith("It is there for another processor with 16000 Hz, no cap, auto_resample=T")


def test_another_rate(root):
    cached_features = cached(root)
    cached_features(CELL)
    path = entry(root)
    path.rename(path.with_name(path.name.replace(".16000.", ".44100.")))
    key = dataclasses.replace(explain(cached_features).key, sample_rate=8000)
    explanation = explain_key(open_store(root), key, Fingerprinter(cached_features.processor, {}).identity(), CLIP)
    assert explanation.status == "other settings"
    assert explanation.reasons == (
        "It is there with 44100 Hz, no cap, auto_resample=False; 8000 Hz, no cap, auto_resample=False was asked for.",
    )


def test_a_bad_entry(root):
    cached_features = cached(root)
    cached_features(CELL)
    path = entry(root)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2])
    explanation = explain(cached_features)
    assert explanation.status == "bad entry"
    [reason] = explanation.reasons
    assert reason.startswith("The entry is there, but ")
    assert reason.endswith(". It is replaced when it is read.")
    cached_features(CELL)
    assert explain(cached_features).status == "hit"


def test_unreadable(root, monkeypatch):
    cached_features = cached(root)
    cached_features(CELL)

    def fail(store, name):
        raise StoreError(f"could not read {name}: Permission denied", name=name)

    monkeypatch.setattr(Store, "get", fail)
    explanation = cached_features.explain(CELL)
    assert explanation.status == "unreadable"
    assert explanation.reasons[0].startswith("could not read ")
    assert explanation.reasons[0].endswith("Permission denied.")


def test_a_clip_without_audio_is_an_error(root):
    with pytest.raises(AudioSourceError):
        cached(root).explain({"audio": None})
    assert not root.exists()


def test_a_file_that_is_no_entry_is_passed_over(root):
    cached_features = cached(root)
    cached_features(CELL)
    path = entry(root)
    path.rename(path.with_name(path.name.replace(".16000.", ".16k.")))
    assert explain(cached_features).status == "never seen"


# Differences between two manifests ------------------------------------------------------------------------------------


@functools.cache
def described() -> str:
    """Return the description of a processor, as JSON."""
    return json.dumps(Fingerprinter(extractors.make("Wav2Vec2"), {}).identity().description)


def manifest(versions=None, **changes):
    description = json.loads(described())
    for path, value in changes.items():
        *parts, name = path.split("__")
        part = description
        for one in parts:
            part = part.setdefault(one, {})
        part[name] = value
    return Manifest(ProcessorIdentity.of(description), {}, versions or {"python": "3.11.7", "transformers": "5.22.0"})


def with_code(name, **content):
    there = manifest()
    description = json.loads(json.dumps(there.identity.description))
    description["code"][name] = content
    return dataclasses.replace(there, identity=ProcessorIdentity.of(description))


def test_code_of_another_release():
    there = with_code("transformers.audio_utils.spectrogram", code="a" * 64)
    wanted = with_code("transformers.audio_utils.spectrogram", code="b" * 64)
    wanted = dataclasses.replace(wanted, versions={"transformers": "5.23.0"})
    assert explain_difference(there, wanted) == [
        "the code of transformers.audio_utils.spectrogram changed, 5.22.0 -> 5.23.0"
    ]


def test_code_of_a_package_without_a_known_release():
    there, wanted = with_code("mel", code="a" * 64), with_code("mel", code="b" * 64)
    assert explain_difference(there, wanted) == ["the code of mel changed"]


def test_code_that_came_and_went():
    there, wanted = with_code("old", code="a" * 64), with_code("new", code="a" * 64)
    assert explain_difference(there, wanted) == ["old is not reached any more", "new is reached now"]


def test_globals_and_backends():
    there, wanted = with_code("mel", globals={"FLOOR": 1e-10}), with_code("mel", globals={"FLOOR": 1e-9})
    assert explain_difference(there, wanted) == ["mel.FLOOR: 1e-10 -> 1e-09"]
    there, wanted = manifest(backends__is_torch_available=True), manifest(backends__is_torch_available=False)
    assert explain_difference(there, wanted) == ["is_torch_available: True -> False"]


def test_attributes():
    for before, after, words in (
        (80, 128, "feature_size: 80 -> 128"),
        (None, 128, "feature_size: None -> 128"),
        (True, 1, "feature_size: True -> 1"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "feature_size.a.b: 1 -> 2"),
        ([1, 2], [1, 3], "feature_size: [1, 2] -> [1, 3]"),
        ("hann", "povey", "feature_size: 'hann' -> 'povey'"),
    ):
        differences = explain_difference(manifest(state__feature_size=before), manifest(state__feature_size=after))
        assert [difference.replace("(none)", "None") for difference in differences] == [words]


def test_named_functions():
    there = Manifest(ProcessorIdentity.of({"identity": "mel-v1", "call": {}}), {}, {})
    wanted = Manifest(ProcessorIdentity.of({"identity": "mel-v2", "call": {"n": 1}}), {}, {})
    assert explain_difference(there, wanted) == ["processor_kwargs.n: (none) -> 1", "identity: 'mel-v1' -> 'mel-v2'"]


def test_other_schemes_are_not_compared():
    [said] = explain_difference(manifest(scheme=1), manifest())
    assert said == f"another scheme: version 1 -> {SCHEME}; they cannot be compared"


def test_no_difference():
    assert explain_difference(manifest(), manifest({"python": "3.13.0"})) == ["no difference: they are one processor"]


def test_every_difference_of_two_identities_is_told():
    """Where two identities differ, there is something to say."""
    shas = set()
    for value in (True, 1, "1", None, 0, False, {"float": "nan"}, [], {}, {"set": []}):
        one = manifest(state__feature_size=value)
        shas.add(one.identity.sha)
        for other in (True, 1, "1", None, 0, False, {"float": "nan"}, [], {}, {"set": []}):
            two = manifest(state__feature_size=other)
            is_one = explain_difference(one, two) == ["no difference: they are one processor"]
            assert is_one == (one.identity.sha == two.identity.sha), (value, other)
    assert len(shas) == 10


# Manifests ------------------------------------------------------------------------------------------------------------


def test_a_manifest_is_readable_sorted_and_written_once(root):
    cached_features = cached(root)
    cached_features(CELL)
    [path] = (root / "processors").iterdir()
    assert path.name == f"{cached_features.processor_sha}.json"
    content = path.read_bytes()
    found = json.loads(content)
    assert content == (json.dumps(found, indent=1, sort_keys=True) + "\n").encode()
    assert found["processor_sha"] == cached_features.processor_sha
    assert found["identity"]["state"]["stride"] == 2
    assert found["identity"]["state"]["window"].keys() == {"array", "shape", "xxh3_128"}
    assert "transformers.audio_utils.spectrogram" in found["identity"]["code"]
    assert found["identity"]["scheme"] == SCHEME
    assert {"python", "hf_audio_cache", "transformers", "numpy"} <= found["versions"].keys()
    assert [output["name"] for output in found["outputs"]] == ["input_features", "attention_mask"]
    assert found["outputs"][0]["shape"] == [None, 160]
    assert found["outputs"][0]["dtype"] == "float32"
    before = contents(root / "processors")
    cached_features({"audio": extractors.cell(2.0, RATE)})
    cached(root)({"audio": extractors.cell(3.0, RATE)})
    assert contents(root / "processors") == before


def test_two_manifests_differ_in_a_line(root):
    cached(root)(CELL)
    cached(root, stride=3)(CELL)
    texts = [path.read_text(encoding="utf-8").splitlines() for path in (root / "processors").iterdir()]
    assert len(texts) == 2
    assert len(texts[0]) == len(texts[1])
    different = [a.strip() for a, b in zip(*texts, strict=True) if a != b]
    assert {line.partition(":")[0] for line in different} >= {'"stride"', '"processor_sha"'}
    assert len(different) <= 4


def test_a_manifest_is_read_back(root):
    cached_features = cached(root)
    cached_features(CELL)
    read = read_manifest(open_store(root), cached_features.processor_sha)
    assert read is not None
    assert read.identity == Fingerprinter(cached_features.processor, {}).identity()
    assert read.outputs["input_features"] == OutputSpec("float32", (None, 160))
    assert read.to_bytes() == (root / manifest_name(cached_features.processor_sha)).read_bytes()


def test_a_manifest_that_is_none_is_passed_over_and_replaced(root):
    cached_features = cached(root)
    path = root / manifest_name(cached_features.processor_sha)
    path.parent.mkdir(parents=True)
    for content in (b"", b"{}", b"[]", b"null", b'"text"', b"\xff", b'{"processor_sha": "x"}', b"[1", b"3"):
        path.write_bytes(content)
        assert read_manifest(open_store(root), cached_features.processor_sha) is None
    cached_features(CELL)
    assert read_manifest(open_store(root), cached_features.processor_sha) is not None
    changed = json.loads(path.read_text(encoding="utf-8"))
    changed["identity"]["state"]["stride"] = 7  # that of another processor
    path.write_text(json.dumps(changed), encoding="utf-8")
    assert read_manifest(open_store(root), cached_features.processor_sha) is None


def test_explain_key_needs_no_transform(root):
    cached_features = cached(root)
    cached_features(CELL)
    identity = Fingerprinter(cached_features.processor, {}).identity()
    key = explain(cached_features).key
    assert explain_key(open_store(root), key, identity, "a name").clip == "a name"
    other = dataclasses.replace(key, blob_sha="0" * 64)
    assert explain_key(open_store(root), other, identity, "b").reasons == ("Nothing of it is there.",)
    never = explain_key(open_store(root), other.waveform_key(), None, "c")
    assert never.status == "never seen"
    assert never.reasons[0].startswith("Nothing of it is there. (16-bit WAVs")
    assert never.to_text() == f"c: never seen\n  {never.reasons[0]}"

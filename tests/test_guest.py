"""Being a good guest of `datasets`: pickles, hashes, forks, and what an import and a construction leave alone."""

from __future__ import annotations

import importlib.util
import inspect
import pickle
import tempfile
import types

import audio_datasets as data
import numpy as np
import pytest
from datasets.fingerprint import Hasher

import hf_audio_cache
from hf_audio_cache import CachedFeatures, CacheRoot


@pytest.fixture
def batch(clips):
    return {"audio": data.columns(clips)["audio"]}


# The package


def test_all_is_what_there_is():
    names = {
        name
        for name, value in vars(hf_audio_cache).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name != "annotations"
    }
    assert names | {"__version__"} == set(hf_audio_cache.__all__)
    assert hf_audio_cache.__all__ == sorted(hf_audio_cache.__all__)
    assert all(inspect.getdoc(getattr(hf_audio_cache, name)) for name in names)


IMPORT = """
import json, os, sys
before = set(os.listdir("."))
import hf_audio_cache
heavy = [name for name in ("torch", "transformers", "torchcodec", "tensorflow", "jax") if name in sys.modules]
print(json.dumps([heavy, sorted(set(os.listdir(".")) - before)]))
"""


def test_import_brings_neither_torch_nor_transformers():
    assert data.run_program(IMPORT) == [[], []]


def test_construction_creates_nothing(make_processor, tmp_path, monkeypatch):
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("HF_AUDIO_CACHE", str(tmp_path / "default"))
    for cached_features in (
        CachedFeatures(make_processor("wav2vec2")),
        CachedFeatures(make_processor("wav2vec2"), tmp_path / "root"),
    ):
        repr(cached_features)
        assert cached_features.stats.to_dict()["hits"] == 0
        assert cached_features.processor_sha
        Hasher.hash(cached_features)
        pickle.loads(pickle.dumps(cached_features))
        assert cached_features.audio_cache.root.parent == cached_features.root
        assert cached_features.waveform_cache.stats.bytes_read == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tmp"]
    assert list(scratch.iterdir()) == []


# Pickles


@pytest.mark.parametrize("pickler", ["pickle", "dill", "cloudpickle"])
def test_a_copy_by_pickle_is_the_same_transform(pickler, make_processor, batch, tmp_path):
    if importlib.util.find_spec(pickler) is None:
        pytest.skip(f"{pickler} is not installed")
    module = importlib.import_module(pickler)
    cached_features = CachedFeatures(
        make_processor("seamless_m4t"),
        CacheRoot(tmp_path / "root", compression=None),
        max_length_seconds=2.5,
        auto_resample=True,
        processor_kwargs={"padding": True},
        output_names={"attention_mask": "mask"},
        on_error="null",
    )
    before = cached_features(batch)
    copy = module.loads(module.dumps(cached_features))
    assert repr(copy) == repr(cached_features)
    assert Hasher.hash(copy) == Hasher.hash(cached_features)
    after = copy(batch)
    assert list(after) == ["input_features", "mask"]
    for name in before:
        for array, again in zip(before[name], after[name], strict=True):
            data.assert_same_bits(again, array)
    assert copy.audio_cache.compression is None
    assert copy({"audio": [None]}) == {"input_features": [None], "mask": [None]}
    # They count together.
    assert (cached_features.stats.computed, cached_features.stats.hits, cached_features.stats.bad_clips) == (8, 8, 1)
    assert copy.stats == cached_features.stats


# Hashes


FRESH = """
import json, sys
import audio_datasets, configs, datasets, speech
from datasets.fingerprint import Hasher
from hf_audio_cache import CachedFeatures, CacheRoot
from transformers import AutoFeatureExtractor

scratch, saved, *roots = sys.argv[1:]
cells = audio_datasets.columns(audio_datasets.shortest(speech.clips("prompts"), 2))["audio"]
hashes = {}
for name in ("whisper_tiny", "seamless_m4t"):
    extractor = configs.make_processor(name)
    transform = CachedFeatures(extractor, scratch + "/root", auto_resample=True)
    found = {"fresh": Hasher.hash(transform)}
    transform({"audio": cells})
    found["used"] = Hasher.hash(transform)
    extractor.save_pretrained(scratch + "/" + name)
    loaded = AutoFeatureExtractor.from_pretrained(scratch + "/" + name)
    found["loaded"] = Hasher.hash(CachedFeatures(loaded, scratch + "/root", auto_resample=True))
    found["another root"] = Hasher.hash(CachedFeatures(extractor, scratch + "/other", auto_resample=True))
    found["uncompressed"] = Hasher.hash(
        CachedFeatures(extractor, CacheRoot(scratch + "/root", compression=None), auto_resample=True))
    hashes[name] = found

def prepare(batch):
    batch.update(transform(batch))
    batch["length"] = [len(text) for text in batch["text"]]
    return batch

hashes["function"] = {"": Hasher.hash(prepare)}

ds = datasets.load_from_disk(saved)
maps = []
for root in roots:
    transform = CachedFeatures(configs.make_processor("wav2vec2"), root, auto_resample=True, features="always")
    files = [ds.map(transform).cache_files, ds.map(prepare, batched=True).cache_files]
    files.append(ds.map(transform, num_proc=2, remove_columns="audio").cache_files)
    files.append(transform.map(ds).cache_files)
    attached = transform.attach(ds)
    maps.append({"files": files, "stats": transform.stats.to_dict(), "attached": attached._fingerprint})
print(json.dumps([hashes, maps]))
"""


@pytest.fixture(scope="module")
def two_processes(clips, tmp_path_factory):
    """The hashes in two fresh processes, one after the other, and the maps: the second's over another root too."""
    folder = tmp_path_factory.mktemp("fresh")
    data.saved(clips, folder / "saved")
    (folder / "elsewhere").mkdir()
    first = (folder, folder / "saved", folder / "root")
    second = (folder / "elsewhere", folder / "saved", folder / "root", folder / "another-root")
    return [
        data.run_program(FRESH, *arguments, has_torch=False, PYTHONHASHSEED=seed)
        for arguments, seed in ((first, "1"), (second, "2"))
    ]


def test_the_hash_depends_on_what_decides_the_output_alone(two_processes):
    (first, _), (second, _) = two_processes
    for hashes in first.values():
        assert len(set(hashes.values())) == 1
    assert len({next(iter(hashes.values())) for hashes in first.values()}) == 3
    assert second == first


def test_datasets_finds_its_own_cache_again_in_a_fresh_process(two_processes):
    (_, [first]), (_, [again, elsewhere]) = two_processes
    assert (first["stats"]["computed"], first["stats"]["hits"]) == (8, 24)
    # Nothing is asked of the cache again, wherever that is; only references name their root.
    assert set(again["stats"].values()) == {0}
    assert again["files"] == first["files"]
    assert again["attached"] == first["attached"]
    assert elsewhere["files"][:3] == first["files"][:3]
    assert elsewhere["files"][3] != first["files"][3]
    assert (elsewhere["stats"]["computed"], elsewhere["stats"]["hits"]) == (8, 0)


def test_the_hash_changes_with_whatever_changes_the_output(make_processor, tmp_path):
    extractor = make_processor("whisper_tiny")
    settings = [
        {},
        {"processor_kwargs": {"return_attention_mask": True}},
        {"processor_kwargs": {"do_normalize": True}},
        {"max_length_seconds": 3},
        {"max_length_seconds": 3.001},
        {"auto_resample": True},
        {"output_names": {"input_features": "x"}},
        {"audio_column": "sound"},
        {"on_error": "null"},
    ]
    hashes = [Hasher.hash(CachedFeatures(extractor, tmp_path, **each)) for each in settings]
    hashes.append(Hasher.hash(CachedFeatures(make_processor("whisper_large_v3"), tmp_path)))
    hashes.append(Hasher.hash(CachedFeatures(make_processor("whisper_tiny", dither=0.1), tmp_path)))
    assert len(set(hashes)) == len(hashes)

    cached_features = CachedFeatures(extractor, tmp_path)
    assert Hasher.hash(cached_features) == hashes[0]
    extractor.mel_filters = extractor.mel_filters * np.float32(1.001)
    assert Hasher.hash(cached_features) not in hashes


def test_a_dict_of_settings_in_another_order_has_the_same_hash(make_processor, tmp_path):
    extractor = make_processor("seamless_m4t")
    names = {"input_features": "x", "attention_mask": "y"}
    kwargs = {"padding": True, "pad_to_multiple_of": 2}
    first = CachedFeatures(extractor, tmp_path, output_names=names, processor_kwargs=kwargs)
    second = CachedFeatures(
        extractor, tmp_path, output_names=dict(reversed(names.items())), processor_kwargs=dict(reversed(kwargs.items()))
    )
    assert first.processor_sha == second.processor_sha
    assert Hasher.hash(first) == Hasher.hash(second)


WITHOUT_HOOK = """
import json, sys
import datasets
import datasets.utils._dill
del datasets.utils._dill.pklregister
import audio_datasets, configs, speech
from datasets.fingerprint import Hasher
from hf_audio_cache import CachedFeatures

scratch, = sys.argv[1:]
clips = audio_datasets.shortest(speech.clips("prompts"), 4)
extractor = configs.make_processor("wav2vec2")
cached_features = CachedFeatures(extractor, scratch + "/root", auto_resample=True, features="always")
hashes = [Hasher.hash(cached_features)]
ds = audio_datasets.saved(clips, scratch + "/saved")
expected = [audio_datasets.expected_features(extractor, clip, auto_resample=True) for clip in clips]
audio_datasets.assert_stored(ds.map(cached_features), expected)
assert cached_features.stats.computed == 4
hashes.append(Hasher.hash(cached_features))
audio_datasets.assert_stored(ds.map(cached_features, num_proc=2, load_from_cache_file=False), expected)
audio_datasets.assert_rows(list(cached_features.map(ds)), expected)
audio_datasets.assert_rows(list(cached_features.attach(ds)), expected)
other = CachedFeatures(extractor, scratch + "/other", auto_resample=True, features="always")
hashes.append(Hasher.hash(cached_features))
print(json.dumps({"hashes": hashes, "other": Hasher.hash(other), "computed": cached_features.stats.computed}))
"""


# More than ten seconds on a busy machine: two fresh processes, one after the other, import what extracts.
def test_a_release_without_the_hook_works_with_the_root_in_the_hash(tmp_path):
    first = data.run_program(WITHOUT_HOOK, tmp_path, has_torch=False, PYTHONHASHSEED="1")
    assert first["computed"] == 4
    assert len(set(first["hashes"])) == 1
    assert first["other"] not in first["hashes"]
    for folder in ("root", "saved"):
        (tmp_path / folder).rename(tmp_path / f"{folder}-before")
    again = data.run_program(WITHOUT_HOOK, tmp_path, has_torch=False, PYTHONHASHSEED="2")
    assert again["hashes"] == first["hashes"]


# Forks


AFTER_TORCH = """
import json, sys
import torch
import audio_datasets, configs, speech
from hf_audio_cache import CachedFeatures
from torch.utils.data import DataLoader

torch.set_num_threads(2)
clips = audio_datasets.shortest(speech.clips("prompts"), 8)
whisper = configs.make_processor("whisper_tiny", chunk_length=5)
expected = [audio_datasets.expected_features(whisper, clip, auto_resample=True) for clip in clips]
(torch.rand(1000, 1000) @ torch.rand(1000, 1000)).sum()
ds = audio_datasets.in_memory(clips)
seen = []

# The cache is used in the parent, too; each of these is cold in the workers.
for number, processes in enumerate((1, 2)):
    cached_features = CachedFeatures(whisper, f"{sys.argv[1]}/{number}", auto_resample=True)
    audio_datasets.assert_rows([cached_features({"audio": ds[0]["audio"]})], expected[:1])
    mapped = ds.map(cached_features, num_proc=processes, features=cached_features.features(ds.features))
    audio_datasets.assert_stored(mapped, expected)
    seen.append(cached_features.stats.computed)

cached_features = CachedFeatures(whisper, sys.argv[1] + "/references", auto_resample=True)
audio_datasets.assert_rows(list(cached_features.map(ds, num_proc=2)), expected)
seen.append(cached_features.stats.computed)

cached_features = CachedFeatures(whisper, sys.argv[1] + "/loader", auto_resample=True)
audio_datasets.assert_rows([cached_features({"audio": ds[0]["audio"]})], expected[:1])
loader = DataLoader(cached_features.attach(ds), batch_size=2, num_workers=2, collate_fn=list)
audio_datasets.assert_rows([row for batch in loader for row in batch], expected)
seen.append(cached_features.stats.computed)
print(json.dumps([seen, torch.get_num_threads()]))
"""


@pytest.mark.torch
@pytest.mark.timeout(120)
def test_workers_end_after_a_use_of_torch_in_the_parent(tmp_path):
    seen, threads = data.run_program(AFTER_TORCH, tmp_path, timeout=60)
    assert seen == [8, 8, 8, 8]
    assert threads == 2  # the parent's own threads are left alone

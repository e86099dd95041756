"""The main job, end to end on real speech: right to the bit, and never computed twice."""

from __future__ import annotations

import importlib.util
import random
from dataclasses import dataclass
from typing import Any

import audio_datasets as data
import configs
import datasets
import numpy as np
import pytest
import speech
from crossed import crossed

from hf_audio_cache import CachedFeatures, CacheRoot

N_CLIPS = 50


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread():
    """Extraction has the same bits on one thread of torch, and takes less of a machine that others use too."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    torch = importlib.import_module("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def real_clips(prompts, letters, sentences):
    """50 clips of at most 8 s, no two alike: 8 kHz WAV, 16 kHz WAV, OGG at several rates, mono and stereo."""
    some_letters = letters[:: len(letters) // 20][:20]
    clips = [*sentences, *some_letters, *data.shortest(prompts, 20)]
    assert len({data.sha256(clip) for clip in clips}) == len(clips) == N_CLIPS
    random.Random(0).shuffle(clips)
    return clips


# 1. Bit for bit


@dataclass
class Case:
    """An extractor, a dataset of real clips, and what it must make of each, alone."""

    extractor: Any
    dataset: datasets.Dataset
    expected: list[dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def case(request, real_clips):
    extractor = configs.make_processor(request.param)
    # Those not named here pad each clip to 10 or 30 s, which takes them as long as Wav2Vec2 for ten.
    clips = real_clips[: {"wav2vec2": N_CLIPS, "seamless_m4t": 25}.get(request.param, 12)]
    expected = [data.expected_features(extractor, clip, auto_resample=True) for clip in clips]
    return Case(extractor, data.in_memory(clips), expected)


def through_map(case, cached_features):
    features = cached_features.features(datasets.Features())
    mapped = case.dataset.map(
        cached_features,
        batched=True,
        batch_size=10,
        writer_batch_size=10,
        features=features,
        remove_columns=case.dataset.column_names,
        load_from_cache_file=False,
    )
    data.assert_stored(mapped, case.expected)


def through_references(case, cached_features):
    mapped = cached_features.map(case.dataset, load_from_cache_file=False)
    data.assert_rows(mapped.remove_columns("audio"), case.expected)


def through_attach(case, cached_features):
    attached = cached_features.attach(case.dataset, remove_columns="audio")
    for start in range(0, len(case.expected), 10):
        batch = attached[start : start + 10]
        for name in case.expected[0]:
            for array, outputs in zip(batch[name], case.expected[start : start + 10], strict=True):
                data.assert_same_bits(array, outputs[name])


FORMS = (through_map, through_references, through_attach)


# Every extractor in one form, and one that has two outputs in every form.
@pytest.mark.parametrize(
    ("case", "form", "compression"),
    [
        ("whisper_tiny", through_references, "blosc"),
        pytest.param("whisper_large_v3", through_references, "blosc", marks=[pytest.mark.torch, pytest.mark.long]),
        ("wav2vec2", through_references, None),
        pytest.param("ast", through_references, "blosc", marks=pytest.mark.torch),  # transformers pads it with torch
        pytest.param("clap_unfused", through_references, None, marks=pytest.mark.long),
        *crossed(["seamless_m4t"], FORMS, ["blosc", None]),
    ],
    indirect=["case"],
)
def test_every_array_is_what_the_extractor_gives_alone(case, form, compression, tmp_path):
    cached_features = CachedFeatures(case.extractor, CacheRoot(tmp_path, compression=compression), auto_resample=True)
    form(case, cached_features)
    cold = cached_features.stats
    assert (cold.computed, cold.decodes) == (len(case.expected), len(case.expected))
    for read in FORMS if form is through_attach else (form,):
        read(case, cached_features)
    warm = cached_features.stats - cold
    assert (warm.misses, warm.computed, warm.decodes, warm.bytes_written) == (0, 0, 0, 0)
    assert warm.hits >= len(case.expected)


# 2. A second run


SECOND_RUN = """
import json, sys
import audio_datasets, configs, datasets, soundfile
from hf_audio_cache import CachedFeatures

parquet, root = sys.argv[1:]
extractor = configs.make_processor("wav2vec2")
ds = datasets.load_dataset("parquet", data_files=parquet, split="train", cache_dir=parquet + "-cache")

def refuse(*args, **kwargs):
    raise AssertionError("soundfile was called")

soundfile.SoundFile.__init__ = soundfile.read = refuse
called = type(extractor).__call__.__code__

def watch(frame, event, argument):  # a patched method would be another processor
    if event == "call" and frame.f_code is called:
        raise AssertionError("the extractor was called")

def through_map(cached_features):
    features = cached_features.features(ds.features)
    return ds.map(cached_features, features=features, remove_columns=["audio"]).with_format("numpy")

forms = {
    "map": through_map,
    "references": lambda cached_features: cached_features.map(ds, remove_columns="audio"),
    "attach": lambda cached_features: cached_features.attach(ds, remove_columns="audio"),
}
found = {}
sys.setprofile(watch)
for form, apply in forms.items():
    cached_features = CachedFeatures(extractor, root, auto_resample=True, features="always")
    digests = [audio_datasets.digest(row["input_values"]) for row in apply(cached_features)]
    found[form] = [digests, cached_features.stats.to_dict(), cached_features.stats.hit_rate]
try:
    extractor([[0.0] * 16000])
except AssertionError:
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def warm_root(real_clips, tmp_path_factory):
    """What a first run left behind."""
    root = tmp_path_factory.mktemp("wav2vec2")
    cached_features = CachedFeatures(configs.make_processor("wav2vec2"), root, auto_resample=True, features="always")
    cached_features({"audio": data.columns(real_clips)["audio"]})
    return root


def test_a_second_run_decodes_and_extracts_nothing(real_clips, warm_root, tmp_path):
    clips, extractor = real_clips[:15], configs.make_processor("wav2vec2")
    parquet = data.parquet_file(clips, tmp_path / "clips.parquet")
    found = data.run_program(SECOND_RUN, parquet, warm_root, has_torch=False, PYTHONHASHSEED="7")
    expected = [data.expected_features(extractor, clip, auto_resample=True)["input_values"] for clip in clips]
    assert set(found) == {"map", "references", "attach"}
    for digests, stats, hit_rate in found.values():
        assert digests == [data.digest(array) for array in expected]
        assert hit_rate == 1.0
        assert (stats["hits"], stats["misses"], stats["decodes"], stats["computed"]) == (len(clips), 0, 0, 0)


# 3. The same clips elsewhere


def renamed(clips, folder):
    rows = [{"bytes": clip.read_bytes(), "path": f"clip-{index}.bin"} for index, clip in enumerate(clips)]
    return data.of_cells(rows)


ELSEWHERE = {
    "renamed": renamed,
    "shuffled": lambda clips, folder: data.in_memory(clips).shuffle(seed=4),
    "a subset": lambda clips, folder: data.in_memory(clips).select(range(0, N_CLIPS, 3)),
    "files moved to another folder": lambda clips, folder: data.of_paths(data.copies(clips, folder)),
    "parquet": data.from_parquet,
    "parquet stream": lambda clips, folder: data.from_parquet(clips, folder, streaming=True),
    "save_to_disk": data.saved,
    "tar": lambda clips, folder: data.tar_stream(data.tar_file(clips, folder / "clips.tar")),
    "audiofolder": data.audio_folder,
}


@pytest.mark.parametrize(
    "place",
    [pytest.param(place, marks=pytest.mark.torchcodec) if place == "audiofolder" else place for place in ELSEWHERE],
)
def test_the_same_clips_elsewhere_all_hit(place, real_clips, warm_root, tmp_path):
    cached_features = CachedFeatures(configs.make_processor("wav2vec2"), warm_root, auto_resample=True)
    dataset = ELSEWHERE[place](real_clips, tmp_path / "data")
    if isinstance(dataset, datasets.IterableDataset):
        n_rows = sum(1 for _ in cached_features.attach(dataset))
    else:
        n_rows = len(cached_features.map(dataset))
    assert n_rows == (17 if place == "a subset" else N_CLIPS)
    stats = cached_features.stats
    assert (stats.hits, stats.misses, stats.decodes, stats.computed) == (n_rows, 0, 0, 0)


@pytest.mark.torchcodec
def test_the_same_clips_as_webdataset_all_hit(prompts, tmp_path):
    clips = data.shortest(prompts, 50)
    cached_features = CachedFeatures(configs.make_processor("wav2vec2"), tmp_path / "root", auto_resample=True)
    cached_features({"audio": data.columns(clips)["audio"]})
    for streaming in (True, False):
        dataset = data.web_archive(clips, tmp_path / "clips.tar", streaming=streaming).rename_column("wav", "audio")
        rows = list(cached_features.attach(dataset))
        assert [row["json"]["n"] for row in rows] == list(range(50))
    assert (cached_features.stats.computed, cached_features.stats.hits) == (50, 100)


@pytest.mark.parametrize("form", ["map", "references", "attach"])
def test_of_a_version_with_new_rows_just_those_are_computed(form, real_clips, tmp_path):
    cached_features = CachedFeatures(configs.make_processor("wav2vec2"), tmp_path / "root", auto_resample=True)
    cached_features({"audio": data.columns(real_clips[:19])["audio"]})
    before = cached_features.stats
    version_2 = data.from_parquet(real_clips[:20], tmp_path / "data").shuffle(seed=2)
    if form == "map":
        version_2.map(cached_features, batched=True)
    elif form == "references":
        cached_features.map(version_2)
    else:
        cached_features.attach(version_2, remove_columns="audio")[:]["input_values"]
    stats = cached_features.stats - before
    assert (stats.hits, stats.misses, stats.decodes, stats.computed) == (19, 1, 1, 1)


# 4. References are small


def test_554_prompts_take_under_100_bytes_a_row_in_arrow(tmp_path):
    prompts = speech.clips("prompts")
    cached_features = CachedFeatures(configs.make_processor("wav2vec2"), tmp_path / "root", auto_resample=True)
    dataset = data.saved(prompts, tmp_path / "saved")
    before = set((tmp_path / "saved").iterdir())
    mapped = cached_features.map(dataset)
    assert len(mapped) == 554
    column = mapped.data.column("input_values")
    assert column.nbytes / 554 < 100
    written = sum(path.stat().st_size for path in set((tmp_path / "saved").iterdir()) - before)
    assert 0 < written / 554 < 100
    assert cached_features.stats.computed == 554
    assert sum(row["input_values"].nbytes for row in mapped.select(range(5))) > 5 * 4 * 16000 * 0.3

"""Ray Data's pipelines: `CachedFeatures` as a function and as a class, in each form of a batch."""

from __future__ import annotations

import sys
import types
import uuid
from typing import Any

import audio_datasets as data
import configs
import numpy as np
import pyarrow as pa
import pytest
from audio_files import decode_audio
from crossed import crossed

from hf_audio_cache import CachedFeatures, CachedWaveforms
from hf_audio_cache.transform.ray_batches import tensor

ray = pytest.importorskip("ray", reason="Ray is in the main environment alone")

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

RATE = 16_000


N_CLIPS = 9
EXTRACTORS = ("seamless_m4t", "wav2vec2")


@pytest.fixture
def extractor(request):
    return configs.make_processor(request.param)


def expected(extractor: Any, clips: Any) -> list[dict[str, np.ndarray]]:
    return [data.expected_features(extractor, clip, auto_resample=True) for clip in clips]


def rows_of(dataset: Any) -> list[dict[str, Any]]:
    """Return the rows, in the order of their numbers, as NumPy has them."""
    rows = [
        {name: column[row] for name, column in batch.items()}
        for batch in dataset.iter_batches(batch_size=None, batch_format="numpy")
        for row in range(len(batch["number"]))
    ]
    return sorted(rows, key=lambda row: row["number"])


def assert_features(rows: Any, outputs: Any) -> None:
    for row, features in zip(rows, outputs, strict=True):
        for name, array in features.items():
            data.assert_same_bits(np.asarray(row[name]), array)


# The first takes up to half a minute: the workers that Ray starts for it import what extracts, each for itself.
@pytest.mark.parametrize(
    ("extractor", "batch_format"), crossed(EXTRACTORS, ["numpy", "pyarrow", "default", None]), indirect=["extractor"]
)
def test_it_is_a_function_for_map_batches(batch_format, extractor, clips, cluster, tmp_path):
    cached_features = CachedFeatures(extractor, tmp_path, auto_resample=True, features="always")
    source = ray.data.from_arrow(data.pa_table(clips)).repartition(3)
    made = source.map_batches(cached_features, batch_size=4, batch_format=batch_format).materialize()
    rows = rows_of(made)
    assert_features(rows, expected(extractor, clips))
    assert [row["text"] for row in rows] == [clip.stem for clip in clips]  # as Ray Data takes whole batches
    assert [row["audio"]["bytes"] for row in rows] == [clip.read_bytes() for clip in clips]
    assert (cached_features.stats.computed, cached_features.stats.hits) == (9, 0)  # in processes of this machine
    again = source.map_batches(cached_features, batch_size=4, batch_format=batch_format)
    assert_features(rows_of(again), expected(extractor, clips))
    assert (cached_features.stats.computed, cached_features.stats.hits) == (9, 9)


def test_tensor_columns_come_of_a_table(clips, cluster, tmp_path):
    extractor = configs.make_processor("seamless_m4t")
    cached_features = CachedFeatures(extractor, tmp_path, auto_resample=True, features="always")
    source = ray.data.from_arrow(data.pa_table(clips))
    made = source.map_batches(cached_features, batch_format="pyarrow").materialize()
    types = dict(zip(made.schema().names, made.schema().types, strict=True))
    assert isinstance(types["input_features"], ray.data.extensions.ArrowVariableShapedTensorType)
    assert types["text"] == pa.string()
    one = source.limit(1).map_batches(cached_features, batch_format="pyarrow").materialize()
    types = dict(zip(one.schema().names, one.schema().types, strict=True))
    assert types["input_features"] in ray.data.extensions.get_arrow_extension_tensor_types() or isinstance(
        types["input_features"], ray.data.extensions.get_arrow_extension_tensor_types()
    )


@pytest.mark.parametrize("extractor", ["seamless_m4t"], indirect=True)
def test_it_is_a_callable_class_for_actors(extractor, clips, cluster, tmp_path):
    made = ray.data.from_arrow(data.pa_table(clips)).map_batches(
        CachedFeatures,
        fn_constructor_args=(extractor, tmp_path),
        fn_constructor_kwargs={"auto_resample": True, "features": "always"},
        batch_size=4,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    assert_features(rows_of(made), expected(extractor, clips))


@pytest.mark.parametrize("extractor", ["seamless_m4t"], indirect=True)
def test_it_is_a_function_for_rows(extractor, clips, cluster, tmp_path):
    cached_features = CachedFeatures(extractor, tmp_path, auto_resample=True, features="always")
    made = ray.data.from_arrow(data.pa_table(clips)).map(cached_features)
    rows = rows_of(made)
    assert_features(rows, expected(extractor, clips))
    assert [row["text"] for row in rows] == [clip.stem for clip in clips]


@pytest.mark.parametrize(
    ("extractor", "batch_format"), crossed(EXTRACTORS, ["numpy", "pyarrow"]), indirect=["extractor"]
)
def test_bad_clips(batch_format, extractor, clips, cluster, tmp_path):
    rows = data.columns(clips)
    bad = (0, 4, 5)
    for row in bad:
        rows["audio"][row] = {"bytes": b"no audio", "path": f"bad{row}.wav"}
    source = ray.data.from_arrow(pa.Table.from_pydict(rows))
    good = [clip for row, clip in enumerate(clips) if row not in bad]
    settings: dict[str, Any] = {"auto_resample": True, "features": "always"}

    skips = CachedFeatures(extractor, tmp_path, on_error="skip", **settings)
    # The first batch of two is bad in all its rows.
    kept = rows_of(source.map_batches(skips, batch_size=1, batch_format=batch_format))
    assert [row["text"] for row in kept] == [clip.stem for clip in good]
    assert_features(kept, expected(extractor, good))

    nulls = CachedFeatures(extractor, tmp_path, on_error="null", reason_column="reason", **settings)
    for batch_size in (1, 9):
        found = rows_of(source.map_batches(nulls, batch_size=batch_size, batch_format=batch_format))
        assert [row["reason"] != "" for row in found] == [row in bad for row in range(9)]
        assert_features([found[row] for row in range(9) if row not in bad], expected(extractor, good))
        for row in bad:  # a tensor column has no nulls
            for name, array in expected(extractor, good)[0].items():
                assert (found[row][name].size, found[row][name].ndim) == (0, array.ndim)
    assert {clip.clip for clip in nulls.bad_clips} == {f"bad{row}.wav" for row in bad}

    raises = CachedFeatures(extractor, tmp_path, **settings)
    with pytest.raises(Exception, match=r"bad0\.wav"):
        source.map_batches(raises, batch_format=batch_format).materialize()


@pytest.mark.parametrize("batch_format", ["numpy", "pyarrow"])
def test_several_clips_in_a_row(batch_format, clips, cluster, tmp_path):
    cells = data.columns(clips)["audio"]
    source = ray.data.from_arrow(
        pa.table({"audio": [cells[0:2], cells[2:5], [], cells[5:]], "number": list(range(4))})
    ).repartition(2)
    extractor = configs.make_processor("seamless_m4t")
    cached_features = CachedFeatures(
        extractor, tmp_path, auto_resample=True, features="always", length_column="input_length"
    )
    rows = rows_of(source.map_batches(cached_features, batch_size=2, batch_format=batch_format))
    assert [len(row["input_features"]) for row in rows] == [2, 3, 0, 4]
    features = [np.stack([*each]) for row in rows for each in row["input_features"]]  # Arrow has rows of a matrix
    for found, outputs in zip(features, expected(extractor, clips), strict=True):
        data.assert_same_bits(found, outputs["input_features"])
    waveforms = [decode_audio(clip.read_bytes(), sampling_rate=RATE, auto_resample=True) for clip in clips]
    assert [length for row in rows for length in row["input_length"]] == [len(each) for each in waveforms]


@pytest.mark.parametrize("batch_format", ["numpy", "pyarrow"])
def test_waveforms(batch_format, clips, cluster, tmp_path):
    source = ray.data.from_arrow(data.pa_table(clips)).repartition(3)
    waveforms = [decode_audio(clip.read_bytes(), sampling_rate=RATE, auto_resample=True) for clip in clips]
    settings: dict[str, Any] = {"sampling_rate": RATE, "auto_resample": True}
    plain = CachedWaveforms(tmp_path, **settings)
    rows = rows_of(source.map_batches(plain, batch_size=4, batch_format=batch_format))
    assert {row["audio"]["sampling_rate"] for row in rows} == {RATE}
    assert_features([row["audio"] for row in rows], [{"array": waveform} for waveform in waveforms])
    arrays = CachedWaveforms(tmp_path, array_column="waveform", length_column="input_length", **settings)
    rows = rows_of(source.map_batches(arrays, batch_size=4, batch_format=batch_format))
    assert_features(rows, [{"waveform": waveform} for waveform in waveforms])
    assert [row["input_length"] for row in rows] == [len(waveform) for waveform in waveforms]
    assert [row["audio"]["bytes"] for row in rows] == [clip.read_bytes() for clip in clips]


def test_pandas_is_refused_by_the_name_of_the_setting(clips, cluster, tmp_path):
    cached_features = CachedFeatures(configs.make_processor("seamless_m4t"), tmp_path)
    source = ray.data.from_arrow(data.pa_table(clips))
    with pytest.raises(Exception, match='Use batch_format="numpy" or "pyarrow"'):
        source.map_batches(cached_features, batch_format="pandas").materialize()


def test_scalars_stay_as_they_are_also_beside_a_bad_clip():
    """As an array of its own kind, a clip without one would have whatever number was in the memory."""
    lengths = [np.array(3), None, np.array(5)]
    column = tensor(lengths, lambda: pytest.fail("it needs no form: there are values"))
    assert isinstance(column, list)
    assert all(found is given for found, given in zip(column, lengths, strict=True))


@pytest.mark.parametrize("form", ["huggingface", pytest.param("parquet", marks=pytest.mark.long), "binary"])
def test_sources(form, clips, cluster, tmp_path):
    extractor = configs.make_processor("wav2vec2")
    settings: dict[str, Any] = {"auto_resample": True, "features": "always"}
    if form == "huggingface":
        source = ray.data.from_huggingface(data.from_parquet(clips, tmp_path))
    elif form == "parquet":
        source = ray.data.read_parquet(str(data.parquet_file(clips, tmp_path / "clips.parquet")))
    else:
        data.copies(clips, tmp_path / "clips")
        source = ray.data.read_binary_files(str(tmp_path / "clips"), include_paths=True)
        settings["audio_column"] = "bytes"
    cached_features = CachedFeatures(extractor, tmp_path / "root", **settings)
    batches = source.map_batches(cached_features).iter_batches(batch_size=None, batch_format="numpy")
    found = {array.tobytes() for batch in batches for array in batch["input_values"]}
    assert found == {outputs["input_values"].tobytes() for outputs in expected(extractor, clips)}
    assert (cached_features.stats.computed, cached_features.stats.hits) == (9, 0)


def test_a_processor_class_of_a_notebook(clips, cluster, tmp_path):
    """Such a class is in no file, and is sent as it is."""
    notebook = types.ModuleType(f"notebook_{uuid.uuid4().hex}")
    sys.modules[notebook.__name__] = notebook
    source = (
        "from transformers import Wav2Vec2FeatureExtractor\n"
        "class Louder(Wav2Vec2FeatureExtractor):\n"
        "    def __call__(self, raw_speech, **kwargs):\n"
        "        return super().__call__([2 * each for each in raw_speech], **kwargs)\n"
    )
    exec(source, vars(notebook))  # as a kernel does
    ray.cloudpickle.register_pickle_by_value(notebook)
    extractor = notebook.Louder(do_normalize=False)
    cached_features = CachedFeatures(extractor, tmp_path, auto_resample=True, features="always")
    rows = ray.data.from_arrow(data.pa_table(clips))
    assert_features(rows_of(rows.map_batches(cached_features)), expected(extractor, clips))
    assert cached_features.stats.computed == 9
    here = cached_features(data.columns(clips))  # under the same identity
    assert_features([{"input_values": array} for array in here["input_values"]], expected(extractor, clips))
    assert (cached_features.stats.computed, cached_features.stats.hits) == (9, 9)


def test_datasets_in_a_task_of_ray_is_served_as_anywhere(clips, cluster, tmp_path):
    cached_features = CachedFeatures(
        configs.make_processor("wav2vec2"), tmp_path, auto_resample=True, features="always"
    )

    rows_in = data.in_memory(clips)

    @ray.remote
    def columns_of(form: str) -> list[str]:
        import ray.data  # noqa: F401 - as in a worker of Ray Train

        rows = rows_in.with_format(form)
        return list(cached_features(rows[:2])) if form == "numpy" else cached_features(rows[:2]).column_names

    assert ray.get(columns_of.remote("numpy")) == ["input_values"]
    assert ray.get(columns_of.remote("arrow")) == ["audio", "text", "number", "input_values"]

"""Outputs that no entry can hold are returned as computed, and never end a run; references to them are refused."""

from __future__ import annotations

import logging
import pickle

import audio_datasets as data
import datasets
import numpy as np
import pytest
from crossed import crossed

from hf_audio_cache import CachedFeatures
from hf_audio_cache.errors import AudioExtractionError, ProcessorError, UnstorableOutputError
from hf_audio_cache.processors.extractor import extract


class Front:
    """A front end's own object, which JSON has no form for."""

    def __init__(self, n):
        self.n = n

    def __eq__(self, other):
        return isinstance(other, Front) and self.n == other.n

    __hash__ = None


def ragged(waveform):
    array = np.empty(2, object)
    array[:] = [waveform[:2].copy(), waveform[:3].copy()]
    return array


UNSTORABLE = {
    "strings": lambda waveform: {"x": np.array(["a", str(len(waveform))])},
    "datetimes": lambda waveform: {"x": np.array([0, len(waveform)], "datetime64[ms]")},
    "structured": lambda waveform: {"x": np.array([(1, 2.5), (len(waveform), 0)], [("start", "i4"), ("energy", "f4")])},
    "objects": lambda waveform: {"x": ragged(waveform)},
    "masked": lambda waveform: {"x": np.ma.masked_array(waveform[:4].copy(), [True, False, False, True])},
    "name": lambda waveform: {"mel/16k": waveform[:4].copy()},
    "long JSON": lambda waveform: {"x": "w" * (2_000_000 + len(waveform))},
    "deep JSON": lambda waveform: {"x": deep()},
    "many outputs": lambda waveform: {f"output_{number:04}": np.array(number) for number in range(1500)},
    "own object": lambda waveform: {"x": Front(len(waveform)), "y": waveform[:4].copy()},
    "keys that are numbers": lambda waveform: {"x": {"n": [{0: len(waveform), "0": 5}]}},
    "set": lambda waveform: {"x": {len(waveform), 5}},
}
TO_DATASETS = ["strings", "datetimes", "name", "long JSON"]  # that `datasets` has a type for, too


def deep():
    value = ["end"]
    for _ in range(300):
        value = [value]
    return value


def is_same(found, wanted):
    if isinstance(wanted, np.ndarray):
        assert isinstance(found, np.ma.MaskedArray) == isinstance(wanted, np.ma.MaskedArray)
        assert found.dtype == wanted.dtype
        return pickle.dumps(np.asarray(found).tolist()) == pickle.dumps(np.asarray(wanted).tolist())
    return found == wanted


def make(kind, root, **settings):
    def front_end(waveform, sampling_rate):
        return UNSTORABLE[kind](waveform)

    return CachedFeatures(front_end, root, identity=kind, sampling_rate=8000, **settings)


def entries(root):
    return list((root / "features").rglob("*.npz"))


N_CLIPS = 3


@pytest.fixture
def wanted(clips):
    def of(kind):
        return [UNSTORABLE[kind](data.decode_audio(clip.read_bytes(), sampling_rate=8000)) for clip in clips]

    return of


@pytest.mark.parametrize("kind", UNSTORABLE)
def test_the_callable_returns_them_as_computed_and_warns_once(kind, clips, wanted, tmp_path, caplog):
    cached_features, cells = make(kind, tmp_path), data.columns(clips)["audio"]
    caplog.set_level(logging.WARNING, "hf_audio_cache")
    for _ in range(2):
        batch = cached_features({"audio": [*cells, cells[0]]})
        rows = [cached_features({"audio": cell}) for cell in cells]
        for index, outputs in enumerate([*wanted(kind), wanted(kind)[0]]):
            for name, value in outputs.items():
                assert is_same(batch[name][index], value)
                assert index == 3 or is_same(rows[index][name], value)
    assert (cached_features.stats.computed, cached_features.stats.hits, cached_features.bad_clips) == (12, 0, [])
    assert entries(tmp_path) == []
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{kind}: features are not cached but computed each time: ")


@pytest.mark.parametrize("kind", TO_DATASETS)
def test_map_and_attach_go_on(kind, clips, wanted, tmp_path):
    dataset, cached_features = data.in_memory(clips), make(kind, tmp_path)
    [name] = wanted(kind)[0]
    for form in (
        dataset.map(cached_features, batched=True, num_proc=2 if kind == "strings" else None),
        dataset.map(cached_features),
        dataset.with_format("arrow").map(cached_features, batched=True).with_format(None),
        cached_features.attach(dataset),
        cached_features.attach(dataset.to_iterable_dataset()),
        dataset.to_iterable_dataset().map(cached_features),
    ):
        rows = [np.asarray(row[name]).tolist() for row in form]
        assert [str(row) for row in rows] == [str(np.asarray(outputs[name]).tolist()) for outputs in wanted(kind)]
    assert entries(tmp_path) == []
    assert cached_features.stats.computed == 18


@pytest.mark.parametrize(("kind", "on_error"), crossed([*UNSTORABLE], ["raise", "null", "skip"]))
def test_references_are_refused_before_the_first_row(kind, on_error, clips, tmp_path):
    cached_features = make(kind, tmp_path, on_error=on_error)
    with pytest.raises(UnstorableOutputError, match=r"^no entry can hold the outputs of .* references need entries"):
        cached_features.map(data.in_memory(clips))
    assert (cached_features.stats.computed, cached_features.bad_clips, entries(tmp_path)) == (0, [], [])


class OfWaveforms:
    sampling_rate = 8000

    def __call__(self, raw_speech, sampling_rate):
        return {"x": raw_speech + 1.0}


@pytest.mark.parametrize(
    ("front_end", "kwargs", "said"),
    [
        (OfWaveforms(), {}, r"outputs\. It is called as a feature extractor is: .* \(TypeError: can only conc"),
        ("wav2vec2", {"padding": "longst"}, r"outputs\. Correct processor_kwargs \(ValueError: longst is not a"),
    ],
)
def test_what_fails_on_made_up_clips_says_why(front_end, kwargs, said, clips, make_processor, tmp_path):
    front_end = make_processor(front_end) if isinstance(front_end, str) else front_end
    cached_features = CachedFeatures(front_end, tmp_path, auto_resample=True, processor_kwargs=kwargs)
    with pytest.raises(ProcessorError, match=said):
        cached_features.map(data.in_memory(clips))


def long_for_long_clips(waveform, sampling_rate):
    return {"words": "w" * (10 if len(waveform) < 100_000 else 2_000_000)}


def test_a_clip_whose_features_no_entry_can_hold_is_a_bad_clip_of_a_map(clips, tmp_path):
    """Its form does not show on the made-up clip of a second."""
    long = np.tile(data.decode_audio(clips[0].read_bytes(), sampling_rate=8000), 99)[:120_000]
    cells = [*data.columns(clips)["audio"], {"array": long.tolist(), "sampling_rate": 8000, "bytes": None}]
    features = {"array": datasets.List(datasets.Value("float32")), "sampling_rate": datasets.Value("int64")}
    features |= {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    dataset = datasets.Dataset.from_list(
        [{"audio": {**dict.fromkeys(features), **cell}} for cell in cells],
        features=datasets.Features({"audio": features}),
    )

    def cached(on_error):
        settings = {"identity": "words", "sampling_rate": 8000, "on_error": on_error}
        return CachedFeatures(long_for_long_clips, tmp_path, **settings)

    with pytest.raises(AudioExtractionError, match=r"no entry can hold the features of .*, and a reference needs one"):
        cached("raise").map(dataset)
    cached_features = cached("null")
    rows = cached_features.map(dataset)
    assert [row["words"] and len(row["words"]) for row in rows] == [10, 10, 10, None]
    assert [clip.error for clip in cached_features.bad_clips] == ["AudioExtractionError"]
    assert len(cached("skip").map(dataset)) == len(entries(tmp_path)) == 3
    assert [len(words) for words in cached("raise")({"audio": cells})["words"]] == [10, 10, 10, 2_000_000]


# What has an exact form is stored


def tensors():
    import torch

    thirds = torch.arange(1, 7).reshape(2, 3) / 3
    return {
        "bfloat16": (thirds.bfloat16(), thirds.bfloat16().float().numpy()),
        "float8": (thirds.to(torch.float8_e4m3fn), thirds.to(torch.float8_e4m3fn).float().numpy()),
        "list of tensors": ([thirds, thirds + 1], np.stack([thirds.numpy(), thirds.numpy() + 1])),
        "list of bfloat16": ([thirds.bfloat16(), thirds.bfloat16()], np.stack([thirds.bfloat16().float().numpy()] * 2)),
        "list of two lengths": ([thirds[0], thirds[1, :2]], [thirds[0].tolist(), thirds[1, :2].tolist()]),
        "conjugate": ((thirds + 1j).conj(), (thirds.numpy() - np.complex64(1j))),
        "sparse": (thirds.to_sparse(), thirds.numpy()),
    }


STORABLE = {
    "list of arrays": lambda: ([np.float32([1, 2]), np.float32([3, 4])], np.float32([[1, 2], [3, 4]])),
    "bytes": lambda: (b"codes\x00", np.frombuffer(b"codes\x00", np.uint8)),
    "one byte": lambda: (b"c", np.uint8([99])),
    "bytearray": lambda: (bytearray(b"codes"), np.frombuffer(b"codes", np.uint8)),
    "complex": lambda: (1 + 2j, np.array(1 + 2j)),
    "NaN": lambda: (float("nan"), np.array(np.nan)),
    "-inf": lambda: (float("-inf"), np.array(-np.inf)),
    **{
        name: pytest.param(name, marks=pytest.mark.torch)
        for name in (
            "bfloat16",
            "float8",
            "list of tensors",
            "list of bfloat16",
            "list of two lengths",
            "conjugate",
            "sparse",
        )
    },
}


@pytest.mark.parametrize(
    "kind", [value if not callable(value) else name for name, value in STORABLE.items()], ids=list(STORABLE)
)
def test_what_has_an_exact_form_is_stored_in_it(kind, clips, tmp_path):
    value, form = STORABLE[kind]() if callable(STORABLE[kind]) else tensors()[kind]
    settings = {"identity": kind, "sampling_rate": 8000, "nonfinite": "keep"}
    cached_features = CachedFeatures(lambda waveform, sampling_rate: {"x": value}, tmp_path, **settings)
    cell = data.columns(clips)["audio"][0]
    for _ in range(2):
        found = cached_features({"audio": cell})["x"]
        if isinstance(form, np.ndarray):
            assert isinstance(found, (np.ndarray, np.generic))
            assert (found.dtype, found.shape, found.tobytes()) == (form.dtype, form.shape, form.tobytes())
        else:
            assert found == form
    assert (cached_features.stats.computed, cached_features.stats.hits, len(entries(tmp_path))) == (1, 1, 1)
    [row] = cached_features.map(data.in_memory(clips[:1]))
    assert np.asarray(row["x"], object).tolist() == np.asarray(form, object).tolist() or kind == "NaN"


@pytest.mark.parametrize("kind", ["NaN", "-inf"])
def test_a_number_that_is_not_finite_is_an_error_by_default(kind, clips, tmp_path):
    value, _ = STORABLE[kind]()
    cached_features = CachedFeatures(lambda waveform, rate: {"x": value}, tmp_path, identity=kind, sampling_rate=8000)
    with pytest.raises(AudioExtractionError, match=r"'x' of .* has 1 of 1 values that are not finite"):
        cached_features({"audio": data.columns(clips)["audio"][0]})


class Loudest:
    """A front end that divides by the largest sample it has met."""

    sampling_rate = 8000

    def __init__(self):
        self.peak = 0.0

    def __call__(self, raw, sampling_rate=None):
        self.peak = max(self.peak, float(np.abs(raw[0]).max()))
        return {"x": raw[0] / np.float32(self.peak)}


def of_level(level):
    return {"array": np.full(8000, level, np.float32), "sampling_rate": 8000}


def test_what_depends_on_the_clips_before_is_returned_and_not_stored(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = CachedFeatures(Loudest(), tmp_path)({"audio": [of_level(0.9), of_level(0.5)]})["x"]
    assert [array[0] for array in found] == [1.0, np.float32(0.5) / np.float32(0.9)]
    assert entries(tmp_path) == []
    assert "calls of Loudest change it. " in caplog.text
    assert 'pass identity="my-mel-v1". What changed: ' in caplog.text
    assert "peak" in caplog.text
    assert CachedFeatures(Loudest(), tmp_path)({"audio": of_level(0.5)})["x"][0] == 1.0


def test_references_to_what_depends_on_the_clips_before_are_refused(tmp_path):
    dataset = datasets.Dataset.from_dict({"audio": [of_level(0.9), of_level(0.5)]})
    with pytest.raises(ProcessorError, match=r"the processor changed during the map: .*peak"):
        CachedFeatures(Loudest(), tmp_path).map(dataset)


@pytest.mark.parametrize(("held", "expected"), [("text", "text"), ((1, [2]), [1, [2]]), (Front(3), Front(3))])
def test_an_array_of_one_object_is_what_it_holds(held, expected):
    batch = np.empty(1, object)
    batch[0] = held
    assert extract(lambda waveforms: {"x": batch}, np.zeros(8, np.float32), 8000, {}) == {"x": expected}

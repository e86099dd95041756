from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from hf_audio_cache import CachedFeatures
from hf_audio_cache.errors import AudioExtractionError, ProcessorError
from hf_audio_cache.processors.extractor import audio_part, extract, processor_sampling_rate

WAVEFORM = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)


class Extractor:
    """Returns the outputs that it was made with, and keeps what it was called with."""

    sampling_rate = 16000

    def __init__(self, **outputs):
        self.outputs = outputs

    def __call__(self, *arguments, **settings):
        self.arguments, self.settings = arguments, settings
        return self.outputs


def outputs_of(**outputs):
    return extract(Extractor(**outputs), WAVEFORM, 16000, {})


def is_same(a, b):
    return type(a) is np.ndarray and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# The audio part of a processor ----------------------------------------------------------------------------------------


PART = Extractor()


@pytest.mark.parametrize(
    "processor",
    [
        PART,
        SimpleNamespace(feature_extractor=PART, tokenizer=object()),
        SimpleNamespace(audio_processor=PART),
        SimpleNamespace(audio_processor=PART, feature_extractor=Extractor()),
        SimpleNamespace(audio_processor=None, feature_extractor=PART),
    ],
    ids=lambda value: ", ".join(vars(value)),
)
def test_the_audio_part_is_the_audio_processor_or_the_feature_extractor_or_all(processor):
    assert audio_part(processor) is PART


@pytest.mark.parametrize(
    "processor",
    [None, 5, "openai/whisper-tiny", object(), SimpleNamespace(feature_extractor=5), Extractor, [Extractor()]],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_called_is_no_processor(processor):
    with pytest.raises(ProcessorError, match=r"Not a feature extractor, nor a processor .* Nothing was computed"):
        audio_part(processor)


# Its rate -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "asked_for", "rate"),
    [(16000, None, 16000), (48000, 48000, 48000), (None, 8000, 8000), (16000.0, None, 16000)],
)
def test_the_rate_is_the_processors_or_the_callers(own, asked_for, rate):
    extractor = Extractor()
    extractor.sampling_rate = own
    assert processor_sampling_rate(extractor, asked_for) == rate
    assert processor_sampling_rate(SimpleNamespace(feature_extractor=extractor), asked_for) == rate
    assert type(processor_sampling_rate(extractor, asked_for)) is int


def test_a_rate_that_nobody_says_is_an_error():
    extractor = Extractor()
    extractor.sampling_rate = None
    with pytest.raises(ProcessorError, match=r"Extractor does not say its sampling rate.*Pass sampling_rate= in Hz"):
        processor_sampling_rate(extractor)


def test_two_rates_that_contradict_each_other_are_an_error(make_processor):
    with pytest.raises(ProcessorError, match="takes waveforms at 16000 Hz, and sampling_rate=8000 was passed"):
        processor_sampling_rate(make_processor("whisper_tiny"), 8000)


@pytest.mark.parametrize("rate", ["16 kHz", 0, -16000, 16000.5, True, float("nan")], ids=repr)
def test_a_rate_that_is_none_is_an_error(rate):
    extractor = Extractor()
    extractor.sampling_rate = None
    with pytest.raises((ProcessorError, ValueError), match="sampling_rate"):
        processor_sampling_rate(extractor, rate)


# The call -------------------------------------------------------------------------------------------------------------


def test_a_clip_goes_in_as_a_batch_of_one():
    extractor = Extractor(input_features=np.zeros((1, 80, 3)))
    extract(extractor, WAVEFORM, 16000, {})
    [[waveform]] = extractor.arguments
    assert waveform is not WAVEFORM  # which an extractor that works in place would spoil
    assert np.array_equal(waveform, WAVEFORM)
    assert extractor.settings == {"sampling_rate": 16000, "return_tensors": "np"}


def test_further_arguments_are_handed_on_and_win():
    extractor = Extractor(input_features=np.zeros((1, 80, 3)))
    extract(extractor, WAVEFORM, 16000, {"padding": "longest", "return_tensors": "pt"})
    assert extractor.settings == {"sampling_rate": 16000, "return_tensors": "pt", "padding": "longest"}


def test_an_extractor_is_not_given_arguments_that_it_does_not_take():
    class Plain(Extractor):
        def __call__(self, audio, padding=True):
            self.settings = {"padding": padding}
            return {"input_features": np.zeros((1, 80, 3))}

    extractor = Plain()
    extract(extractor, WAVEFORM, 16000, {"padding": False})
    assert extractor.settings == {"padding": False}


@pytest.mark.parametrize("name", ["whisper_tiny", "seamless_m4t", "wav2vec2_spanish"])
def test_real_features_are_those_of_the_clip_alone(make_processor, sentences, name):
    waveform, rate = soundfile.read(sentences[1], dtype="float32")
    extractor = make_processor(name)
    outputs = extract(extractor, waveform, rate, {})
    expected = extractor([waveform], sampling_rate=rate, return_tensors="np")
    assert list(outputs) == list(expected)
    for output, value in expected.items():
        assert is_same(outputs[output], value[0])
        assert outputs[output].flags.c_contiguous


def test_processor_kwargs_change_what_comes_out(make_processor, sentences):
    waveform, rate = soundfile.read(sentences[1], dtype="float32")
    extractor = make_processor("whisper_tiny")
    outputs = extract(extractor, waveform, rate, {"return_attention_mask": True, "padding": "longest"})
    n_frames = -(-len(waveform) // 160)
    assert list(outputs) == ["input_features", "attention_mask"]
    assert outputs["attention_mask"].ndim == 1
    assert abs(outputs["input_features"].shape[1] - n_frames) <= 1


# The outputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 80, 30), (1, 7), (1, 1, 4, 64), (1, 1)])
def test_the_batch_axis_is_taken_off(shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert is_same(outputs_of(x=array)["x"], array[0])


def test_one_number_for_a_clip_becomes_a_0_d_array():
    assert is_same(outputs_of(n=np.array([7]))["n"], np.array(7))
    assert is_same(outputs_of(n=np.array(7))["n"], np.array(7))
    assert is_same(outputs_of(n=np.float32(7))["n"], np.array(7, np.float32))


@pytest.mark.parametrize("shape", [(3, 80, 30), (2,), (0, 80)])
def test_several_rows_of_one_clip_are_all_kept(shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert is_same(outputs_of(x=array)["x"], array)


def test_a_list_of_one_is_a_batch_too():
    array = np.arange(6, dtype=np.float32).reshape(1, 6)
    assert is_same(outputs_of(x=[array])["x"], array)
    assert is_same(outputs_of(x=(array[0],))["x"], array[0])
    assert is_same(outputs_of(x=[np.int64(3)])["x"], np.array(3))


def test_arrays_come_out_c_contiguous():
    array = np.asfortranarray(np.arange(12.0).reshape(1, 3, 4))
    again = outputs_of(x=array)["x"]
    assert is_same(again, array[0])
    assert again.flags.c_contiguous


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([[0, 1, 2]], [0, 1, 2]),
        ([188], 188),
        ([[[0, 5], [5, 9]]], [[0, 5], [5, 9]]),
        ([1, 2], [1, 2]),
        ([np.int64(5), np.int64(6)], [5, 6]),
        ([{"start": np.float32(0.5), "text": "a"}], {"start": 0.5, "text": "a"}),
        ("name", "name"),
        (None, None),
        (True, True),
        ([(1, 2)], [1, 2]),
    ],
)
def test_what_is_no_array_becomes_json(value, expected):
    again = outputs_of(x=value)["x"]
    assert again == expected
    assert type(again) is type(expected)


def test_rows_of_different_length_in_a_list_keep_their_numbers():
    rows = [np.array([0.5, 0.25], np.float32), np.array([1.0], np.float32)]
    assert outputs_of(x=rows)["x"] == [[0.5, 0.25], [1.0]]


def test_what_nobody_can_store_stays_what_it_is():
    ragged = np.empty(2, object)
    ragged[:] = [np.zeros(3), np.zeros(4)]
    for value in (ragged, [ragged]):
        found = outputs_of(x=value)["x"]
        assert found.dtype == object
        assert [array.tolist() for array in found] == [array.tolist() for array in ragged]
        assert found[0] is not ragged[0]
    plain = object()
    for value, kept in (({1, 2}, {1, 2}), ([plain], None), ([{1}, {2}], [{1}, {2}])):
        found = outputs_of(x=value)["x"]
        assert type(found) is object if kept is None else found == kept


@pytest.mark.parametrize(
    "returned", [None, np.zeros((1, 3)), [np.zeros(3)], (), {}], ids=lambda value: type(value).__name__
)
def test_outputs_without_names_are_an_error(returned):
    extractor = Extractor()
    extractor.outputs = returned
    with pytest.raises(ProcessorError, match=r"Extractor returned .*, and must return a dict of outputs by name"):
        extract(extractor, WAVEFORM, 16000, {})


# What an extractor asks for -------------------------------------------------------------------------------------------


class TensorsAlone(Extractor):
    """Knows one form of tensors, and says so, as OmniASR's does."""

    def __call__(self, waveforms, return_tensors=None):
        if return_tensors != "pt":
            raise ValueError("TensorsAlone only supports `return_tensors='pt'`.")
        waveforms[0][:] = 0  # a second call must not see it
        return self.outputs


def test_an_extractor_that_refuses_arrays_is_asked_for_tensors():
    assert extract(TensorsAlone(x=np.zeros((1, 3))), WAVEFORM, 16000, {}).keys() == {"x"}
    with pytest.raises(ValueError, match="only supports"):
        extract(TensorsAlone(), WAVEFORM, 16000, {"return_tensors": "tf"})


def failing(exception, **attributes):
    """Return an extractor that raises an exception when it is called; its class has these attributes."""

    def call(self, waveforms, **settings):
        raise exception

    return type("Failing", (), {"__call__": call, **attributes})()


@pytest.mark.parametrize(
    ("extractor", "library"),
    [
        (failing(ModuleNotFoundError("No module named 'no_such_torch'", name="no_such_torch.nn")), "no_such_torch"),
        (failing(NameError("name 'F' is not defined"), __backends=("no_such_torch", "numpy")), "no_such_torch"),
        (failing(NameError("name 'F' is not defined"), __module__="front_ends"), "no_such_torch"),
    ],
    ids=["import", "backends", "guard"],
)
def test_a_library_that_is_not_installed_is_named(extractor, library, monkeypatch):
    front_ends = SimpleNamespace(is_no_such_torch_available=None, is_numpy_available=None, is_speech_available=None)
    monkeypatch.setitem(sys.modules, "front_ends", front_ends)
    with pytest.raises(ProcessorError, match=rf"^Failing needs {library}, .* Install it: pip install {library}\. "):
        extract(extractor, WAVEFORM, 16000, {})


@pytest.mark.parametrize("exception", [NameError("name 'wavform' is not defined"), ImportError("cannot import name")])
def test_a_mistake_in_an_extractor_is_no_library(exception):
    with pytest.raises(type(exception)):
        extract(failing(exception), WAVEFORM, 16000, {})


# Torch ----------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_torch_tensors_become_arrays():
    import torch

    array = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    outputs = outputs_of(
        x=torch.from_numpy(array),
        y=torch.from_numpy(array).requires_grad_(),
        z=[torch.tensor([1, 2])],
        t=torch.from_numpy(array).transpose(1, 2),
        n=torch.tensor([5]),
    )
    assert is_same(outputs["x"], array[0])
    assert is_same(outputs["y"], array[0])
    assert is_same(outputs["z"], np.array([1, 2]))
    assert is_same(outputs["t"], array[0].T)
    assert outputs["t"].flags.c_contiguous
    assert is_same(outputs["n"], np.array(5))


@pytest.mark.torch
def test_features_asked_for_as_tensors_are_the_same(make_processor, sentences):
    waveform, rate = soundfile.read(sentences[1], dtype="float32")
    extractor = make_processor("whisper_tiny")
    as_arrays = extract(extractor, waveform, rate, {})
    as_tensors = extract(extractor, waveform, rate, {"return_tensors": "pt"})
    assert is_same(as_tensors["input_features"], as_arrays["input_features"])


class WithoutDefault:
    """An object whose `__getattr__` raises KeyError for a missing attribute."""

    def __init__(self):
        self.__dict__["table"] = {"gain": 2}

    def __getattr__(self, name):
        return self.table[name]

    def __call__(self, raw_speech, sampling_rate=None):
        return {"y": [raw_speech[0][:4] * self.gain]}


def test_a_front_end_whose_missing_attributes_are_errors_of_another_kind_is_served(tmp_path):
    cached_features = CachedFeatures(WithoutDefault(), tmp_path, sampling_rate=16_000)
    [row] = cached_features({"audio": [{"array": np.ones(1600, np.float32), "sampling_rate": 16_000}]})["y"]
    assert row.tolist() == [2.0] * 4


@pytest.mark.torch
@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_module_of_torch_is_called_with_the_arguments_of_its_forward(is_compiled, tmp_path):
    import torch

    class Scaled(torch.nn.Module):
        sampling_rate = 16_000

        def __init__(self):
            super().__init__()
            self.register_buffer("gain", torch.full((4,), 2.0))

        def forward(self, raw_speech, sampling_rate=None):
            return {"y": [(torch.from_numpy(raw_speech[0][:4]) * self.gain).numpy()]}

    front_end = torch.compile(Scaled(), backend="eager") if is_compiled else Scaled()
    cached_features = CachedFeatures(front_end, tmp_path)
    [row] = cached_features({"audio": [{"array": np.ones(1600, np.float32), "sampling_rate": 16_000}]})["y"]
    assert row.tolist() == [2.0] * 4


def test_a_front_end_that_takes_a_waveform_is_told_how_it_is_called(tmp_path):
    class Mel:
        def __call__(self, waveform):
            return {"y": waveform.reshape(-1, 160)}

    cached_features = CachedFeatures(Mel(), tmp_path, sampling_rate=16_000)
    clip = {"audio": {"array": np.ones(1600, np.float32), "sampling_rate": 16_000}}
    with pytest.raises(AudioExtractionError, match=r"with a list of one waveform.*CachedFeatures\(lambda waveform"):
        cached_features(clip)

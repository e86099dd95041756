"""The stand-in for a feature extractor: it returns the bits that the extractor returns."""

from __future__ import annotations

import copy
import functools
import pickle
import sys
import warnings

import configs
import extractors
import numpy as np
import pytest
from children import in_child
from datasets.fingerprint import Hasher

from hf_audio_cache import CachedFeatures, processor_sha256
from hf_audio_cache.errors import ProcessorError
from hf_audio_cache.processors import determinism

RATE = 16_000
SECONDS = ((0.4, 0.61, 0.4), (0.5, 0.33, 0.72))

SHAPES = {
    "bare": lambda clips: clips[0],
    "one": lambda clips: clips[:1],
    "two": lambda clips: clips[:2],
    "four in a tuple, one of them twice": lambda clips: (*clips, clips[0]),
    "of one length": lambda clips: [clip[:4000] for clip in clips],
    "one array": lambda clips: np.stack([clip[:4000] for clip in clips[:2]]),
    "float64": lambda clips: [clip.astype(np.float64) / 3 for clip in clips],
    "bare float64": lambda clips: clips[0].astype(np.float64) / 3,
    "numbers": lambda clips: clips[0][:3000].tolist(),
    "lists of numbers": lambda clips: [clip[:3000].tolist() for clip in clips[:2]],
    "read-only": lambda clips: [np.frombuffer(clip.tobytes(), np.float32) for clip in clips],
    # These go to the extractor.
    "stereo": lambda clips: [np.stack([clips[0][:4000], clips[1][:4000]], axis=1)],
    "channels first": lambda clips: np.stack([clips[0][:4000], clips[1][:4000]])[None],
    "float16": lambda clips: [clip.astype(np.float16) for clip in clips],
    "int16": lambda clips: [(clip * 32767).astype(np.int16) for clip in clips],
    "big-endian": lambda clips: [clip.astype(">f4") for clip in clips],
    "strided": lambda clips: [np.stack([clip, clip], axis=1)[:, 0] for clip in clips],
    "a NaN": lambda clips: [np.where(np.arange(clip.size) == 50, np.float32("nan"), clip) for clip in clips],
    "no clips": lambda clips: [],
    "an empty clip": lambda clips: [clips[0], clips[0][:0]],
    "no audio": lambda clips: None,
}
ANSWERED_SHAPES = set(list(SHAPES)[:11])

CALLS = {
    "default": {},
    "longest": {"padding": True},
    "longest, mask": {"padding": "longest", "return_attention_mask": True},
    "longest, no mask": {"padding": "longest", "return_attention_mask": False},
    "longest, truncated": {"padding": True, "truncation": True, "max_length": 8000, "return_attention_mask": True},
    "multiple": {"padding": True, "return_attention_mask": True, "pad_to_multiple_of": 64},
    "odd multiple": {"padding": True, "return_attention_mask": True, "pad_to_multiple_of": 3},
    "no multiple": {"padding": True, "return_attention_mask": True, "pad_to_multiple_of": None},
    "unpadded": {"padding": False},
    "max_length": {"padding": "max_length", "max_length": 9000, "truncation": True},
    "max_length, mask": {
        "padding": "max_length",
        "max_length": 9000,
        "truncation": True,
        "return_attention_mask": True,
    },
    "max_length, uncut": {"padding": "max_length", "max_length": 9000, "truncation": False},
    "normalised": {"do_normalize": True},
    "device": {"device": "cpu"},
    "no rate": {"sampling_rate": None},
    "other rate": {"sampling_rate": 22_050},
    "unknown": {"foreign": 3},
    "fusion": {"truncation": "fusion"},
}
OFTEN = {"default", "max_length", "max_length, mask", "max_length, uncut", "device", "no rate"}
MASKED = {"longest, mask", "longest, truncated", "multiple", "odd multiple", "no multiple"}
OF_PADDING = {"default", "longest", "longest, no mask", "max_length", "max_length, mask", *MASKED}
OF_FEW = {"default", "longest", "no rate", "unknown", "fusion"}
# By extractor: the form of tensors, the calls, and those of them that the cache answers for two clips of two lengths.
ANSWERED = {
    "whisper_tiny": ("np", {*CALLS}, {*OFTEN, "normalised", "fusion"}),
    "qwen2_audio": (None, OF_FEW, {"default", "no rate", "fusion"}),
    "wav2vec2": (None, {*CALLS}, {*OFTEN, *MASKED, "unpadded", "normalised"} - {"max_length, uncut"}),
    "hubert": (None, {*CALLS}, {*OFTEN, *MASKED, "longest", "unpadded", "normalised"}),
    "seamless_m4t": (None, OF_FEW, {"default", "longest", "no rate"}),
    "w2v_bert": ("np", OF_PADDING, OF_PADDING - {"odd multiple", "no multiple"}),
    "ast": (None, OF_FEW, OF_FEW - {"unknown"}),
    "clap_unfused": (None, OF_FEW, {"default", "longest", "no rate"}),
}


# What these pad each clip to takes most of their time, and makes no difference here.
SHORT = {
    "whisper_tiny": {"chunk_length": 2},
    "qwen2_audio": {"chunk_length": 2},
    "clap_unfused": {"max_length_s": 1},
}


def short_extractor(name):
    return configs.make_processor(name, **SHORT.get(name, {}))


def outcome(call, *args, **kwargs):
    """What a call returns, or how it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call(*args, **kwargs)
        except Exception as exc:  # noqa: BLE001 - whatever an extractor raises
            return type(exc), str(exc)


def flat(value):
    """All that tells two results apart."""
    if hasattr(value, "keys"):
        return type(value), [(name, flat(value[name])) for name in value.keys()]  # noqa: SIM118 - of a BatchFeature
    if isinstance(value, (list, tuple)):
        return type(value), [flat(item) for item in value]
    if hasattr(value, "detach"):
        return "tensor", flat(value.numpy())
    if isinstance(value, np.ndarray) and value.dtype == object:
        return value.shape, flat(list(value))
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes()
    return type(value), repr(value)


def clips_of(extractor, number):
    """Three short clips, other ones for each number."""
    rate = getattr(extractor, "sampling_rate", RATE)
    speech = extractors.clip(3, rate)[int(number * 0.1 * rate) :]
    return [speech[: int(seconds * rate)] for seconds in SECONDS[number]]


def seed(number):
    np.random.seed(number)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(number)


def compare(real, stand_in, calls, audio_of, **kwargs):
    """Compare batches of other clips, the last of them again; return whether that asked the extractor."""
    kwargs = {"sampling_rate": getattr(real, "sampling_rate", RATE), **kwargs}
    if "max_length" in kwargs and hasattr(real, "stride"):
        kwargs["max_length"] //= 160  # frames, and not samples
    kwargs = {name: value for name, value in kwargs.items() if value is not None or name != "sampling_rate"}
    for number in (0, 1, 1):
        clips = clips_of(real, number)
        seed(number)
        expected = flat(outcome(real, audio_of(clips), **kwargs))
        calls.clear()
        seed(number)
        found = outcome(stand_in, audio_of(clips), **kwargs)
        assert flat(found) == expected
        for value in dict(found).values() if hasattr(found, "keys") else ():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                value[...] = 5  # which the next batch must not show
    return bool(calls)


@pytest.fixture
def make(tmp_path, request):
    def make(processor, **settings):
        return CachedFeatures(processor, tmp_path / "root", features="always", **settings)

    return make


@pytest.mark.parametrize("name", configs.parameters(*ANSWERED))
def test_each_call_gives_what_the_extractor_gives(name, make, calls):
    tensors, called, expected = ANSWERED[name]
    real = short_extractor(name)
    stand_in = make(short_extractor(name)).feature_extractor()
    answered = {
        call
        for call in called
        if not compare(real, stand_in, calls, SHAPES["two"], return_tensors=tensors, **CALLS[call])
    }
    assert sorted(answered) == sorted(expected)


@pytest.mark.parametrize("name", ["wav2vec2", "whisper_tiny", "w2v_bert"])
def test_each_form_of_audio_gives_what_the_extractor_gives(name, make, calls):
    real = short_extractor(name)
    stand_in = make(short_extractor(name)).feature_extractor()
    answered = {shape for shape, audio_of in SHAPES.items() if not compare(real, stand_in, calls, audio_of)}
    assert sorted(answered) == sorted(ANSWERED_SHAPES)


# One clip: if its outputs are arrays, and its arguments known. Gemma 4 refuses a bare array.
_UNANSWERED = {"CohereAsr": {"bare", "one"}, "Gemma4Audio": {"bare"}, "UnivNet": {"bare", "one"}}


@pytest.mark.parametrize("name", sorted({*extractors.names()} - {"AST", "Clap", "SeamlessM4T", "Wav2Vec2", "Whisper"}))
def test_of_other_extractors_a_clip_alone_is_answered(name, make, calls):
    real = extractors.make_or_skip(name)
    kwargs = extractors.PROCESSOR_KWARGS.get(name, {})
    cached_features = make(extractors.make(name), sampling_rate=getattr(real, "sampling_rate", RATE))
    stand_in = cached_features.feature_extractor()
    answered = {
        shape for shape in ("bare", "one", "two") if not compare(real, stand_in, calls, SHAPES[shape], **kwargs)
    }
    assert answered == {"bare", "one"} - _UNANSWERED.get(name, set())


@pytest.fixture
def whisper():
    return short_extractor("whisper_tiny")


def test_it_passes_for_the_extractor(whisper, make, tmp_path):
    cached_features = make(whisper)
    stand_in = cached_features.feature_extractor()
    assert isinstance(stand_in, type(whisper))
    assert vars(stand_in) is vars(whisper)
    assert (repr(stand_in), stand_in.to_json_string()) == (repr(whisper), whisper.to_json_string())
    assert processor_sha256(stand_in) == processor_sha256(whisper) == make(stand_in).processor_sha
    assert make(stand_in).feature_extractor().__reduce_ex__(4)[1][0].extractor is whisper
    stand_in.save_pretrained(tmp_path / "stand-in")
    whisper.save_pretrained(tmp_path / "real")
    name = "preprocessor_config.json"
    assert (tmp_path / "stand-in" / name).read_text() == (tmp_path / "real" / name).read_text()
    loaded = type(stand_in).from_pretrained(tmp_path / "stand-in")
    assert type(loaded) is type(whisper)
    assert Hasher.hash(stand_in) == Hasher.hash(CachedFeatures(whisper, tmp_path / "other").feature_extractor())


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda stand_in: pickle.loads(pickle.dumps(stand_in))])
def test_a_copy_has_its_own_attributes_and_answers_from_the_same_cache(copied, whisper, make):
    cached_features = make(whisper)
    stand_in, [clip, *_] = cached_features.feature_extractor(), clips_of(whisper, 0)
    before = flat(stand_in([clip], sampling_rate=RATE, return_tensors="np"))
    other = copied(stand_in)
    assert flat(other([clip], sampling_rate=RATE, return_tensors="np")) == before
    assert (cached_features.stats.computed, cached_features.stats.hits) == (1, 1)
    other.padding_value = 0.25
    found = flat(other([clip], sampling_rate=RATE, return_tensors="np"))
    assert found == flat(copied(other)([clip], sampling_rate=RATE, return_tensors="np")) != before
    assert flat(stand_in([clip], sampling_rate=RATE, return_tensors="np")) == before
    whisper.padding_value = 0.25
    assert flat(stand_in([clip], sampling_rate=RATE, return_tensors="np")) == found


def test_after_a_difference_the_extractor_is_called_for_good_and_that_is_said_once(
    whisper, make, monkeypatch, warnings_logged
):
    real = type(whisper).__call__

    @functools.wraps(real)
    def of_another_release(self, audio, **kwargs):
        found = real(self, audio, **kwargs)
        found["input_features"] = found["input_features"] - np.float32(len(audio))
        return found

    monkeypatch.setattr(type(whisper), "__call__", of_another_release)
    cached_features = make(whisper)
    stand_in = cached_features.feature_extractor()
    for number in (0, 1, 1):
        clips = clips_of(whisper, number)
        found = flat(stand_in(clips, sampling_rate=RATE, return_tensors="np"))
        assert found == flat(whisper(clips, sampling_rate=RATE, return_tensors="np"))
    assert cached_features.stats.computed == 2  # of the first batch, which has one clip twice
    [said] = warnings_logged()
    assert "A call of WhisperFeatureExtractor is not answered from the cache" in said
    assert "it gives a batch other features than each of its clips" in said


# By what a call differs from those before it: what an extractor might do otherwise for that alone, and such a call.
OTHER_FORMS = {
    "state": (lambda self, audio: self.is_other, lambda clips: clips),
    "container": (lambda self, audio: isinstance(audio, tuple), tuple),
    "number": (lambda self, audio: isinstance(audio, list) and len(audio) > 3, lambda clips: clips * 2),
    "lengths": (
        lambda self, audio: isinstance(audio, list) and len(audio) == 2 and audio[0].size == audio[1].size,
        lambda clips: [clip[:4000] for clip in clips],
    ),
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_a_call_of_another_form_is_compared_again(form, whisper, make, monkeypatch, calls):
    real, (is_other, changed) = type(whisper).__call__, OTHER_FORMS[form]

    @functools.wraps(real)
    def of_another_release(self, audio, **kwargs):
        found = real(self, audio, **kwargs)
        found["input_features"] = found["input_features"] + np.float32(is_other(self, audio) and len(audio))
        return found

    monkeypatch.setattr(type(whisper), "__call__", of_another_release)
    whisper.is_other = False
    stand_in = make(whisper).feature_extractor()
    for number in (0, 1):
        stand_in(clips_of(whisper, number)[:2], sampling_rate=RATE, return_tensors="np")
    assert len(calls) == 1
    whisper.is_other = form == "state"
    for number in (0, 1, 1):
        clips = changed(clips_of(whisper, number)[:2])
        found = flat(stand_in(clips, sampling_rate=RATE, return_tensors="np"))
        assert found == flat(whisper(clips, sampling_rate=RATE, return_tensors="np"))


@pytest.mark.parametrize("broken", ["random", "full", "method"])
def test_what_the_cache_cannot_answer_the_extractor_does(broken, whisper, make, tmp_path, warnings_logged, monkeypatch):
    # Threads that other tests left draw nothing; where one might, a draw that was tried is not given back.
    monkeypatch.setattr(determinism, "_is_alone", lambda: True)
    other = short_extractor("whisper_tiny")
    if broken == "random":
        whisper.dither = other.dither = 1e-3
    elif broken == "method":  # who knows what it does in a batch
        for each in (whisper, other):
            each.zero_mean_unit_var_norm = None
            each.pad = functools.partial(type(each).pad, each)
    else:
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "features").write_text("no folder")
    stand_in = make(whisper).feature_extractor()
    for number in (0, 1, 1):
        clips = clips_of(whisper, number)
        seed(3)
        expected = flat(other(clips, sampling_rate=RATE, return_tensors="np"))
        seed(3)
        assert flat(stand_in(clips, sampling_rate=RATE, return_tensors="np")) == expected
    said = [message for message in warnings_logged() if "is not answered from the cache" in message]
    assert len(said) == (broken != "full")


def test_a_function_has_no_stand_in(make):
    cached_features = make(lambda waveform, rate: waveform, identity="mine", sampling_rate=RATE)
    with pytest.raises(ProcessorError, match=r"a feature extractor, of which a stand-in can be made, and got mine\."):
        cached_features.feature_extractor()


def test_workers_share_what_was_compared(whisper, make, calls):
    stand_in = make(whisper).feature_extractor()
    batches = [clips_of(whisper, number)[:2] for number in (0, 1)]

    def epoch():
        for clips in batches:
            stand_in(clips, sampling_rate=RATE, return_tensors="np")
        return len(calls)

    assert in_child(epoch) > 0
    assert in_child(epoch) == 0

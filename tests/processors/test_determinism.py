"""Processors whose output is random: refused, with the cause and the remedy, and nothing of them stored."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import random
import sys
import threading
import types
from functools import partial

import extractors
import numpy as np
import pytest

from hf_audio_cache import CachedFeatures
from hf_audio_cache.errors import AudioExtractionError, RandomOutputError
from hf_audio_cache.processors.determinism import extract_repeatable
from hf_audio_cache.processors.extractor import extract

RATE = 16000


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """The threads that other modules' servers and clients have left in this process are none of this one's."""
    left = set(threading.enumerate()) - {threading.current_thread()}
    enumerate_all = threading.enumerate
    monkeypatch.setattr(threading, "enumerate", lambda: [one for one in enumerate_all() if one not in left])


def stored(root):
    """Return the names of all features under a root."""
    return sorted(path.name for path in (root / "features").rglob("*.npz")) if root.exists() else []


def cells(*seconds, rate=RATE):
    return {"audio": [extractors.cell(one, rate) for one in seconds]}


def refusal(cached_features, examples):
    with pytest.raises(RandomOutputError) as error:
        cached_features(examples)
    assert stored(cached_features.root) == []
    assert error.value.clip in str(error.value)
    message = str(error.value)
    assert "is random: for" in message
    assert "Every epoch would read the same draw from a cache." in message
    return message


class Generators:
    """The state of the generators that a process shares, to be compared."""

    def __init__(self):
        self.python = random.getstate()
        self.numpy = np.random.get_state()
        self.torch = sys.modules["torch"].get_rng_state().numpy().copy() if "torch" in sys.modules else None

    def __eq__(self, other):
        same_numpy = all(np.array_equal(a, b) for a, b in zip(self.numpy, other.numpy, strict=True))
        return self.python == other.python and same_numpy and np.array_equal(self.torch, other.torch)

    __hash__ = None


@pytest.fixture(autouse=True)
def _generators_in_some_state():
    """Not where a fresh seed would put them: with a drawn Gaussian in store, and in the midst of the block."""
    before = np.random.get_state()
    np.random.seed(7)
    np.random.normal(size=3)
    random.seed(7)
    random.gauss(0, 1)
    yield
    np.random.set_state(before)


def drawing_from(draw):
    def function(waveform, sampling_rate):
        return waveform + np.float32(draw())

    return function


def own_generator(waveform, sampling_rate):
    return waveform + np.random.default_rng().normal(size=1).astype(np.float32)


def plain(waveform, sampling_rate):
    return waveform * np.float32(2)


def cached(function, root, **settings):
    return CachedFeatures(function, root, identity="my-front-end-v1", sampling_rate=RATE, **settings)


# The extractors that are random ---------------------------------------------------------------------------------------


def test_dither_is_refused(tmp_path):
    extractor = extractors.make("Whisper", dither=1e-5)
    before = Generators()
    message = refusal(CachedFeatures(extractor, tmp_path / "root"), cells(1.0))
    source = "torch's generator" if importlib.util.find_spec("torch") else "numpy.random"
    assert message.startswith("WhisperFeatureExtractor is random: for speech-1s-16000.wav, it drew from ")
    assert f"it drew from {source}. Every epoch" in message
    assert "It adds noise (dither=1e-05): set its dither to 0.0. " in message
    assert Generators() == before
    extractor.dither = 0.0
    assert CachedFeatures(extractor, tmp_path / "root")(cells(1.0))["input_features"][0].shape == (80, 3000)


@pytest.mark.torch
@pytest.mark.parametrize("truncation", ["rand_trunc", "fusion"])
def test_random_crops_are_refused_and_clips_without_them_are_not(truncation, tmp_path):
    extractor = extractors.make("Clap", truncation=truncation)
    cached_features = CachedFeatures(extractor, tmp_path / "root")
    before = Generators()
    message = refusal(cached_features, cells(14.0, rate=48000))
    assert "it drew from numpy.random" in message
    assert f"It takes random crops of longer clips (truncation={truncation!r}): pass max_length_seconds=10." in message
    assert Generators() == before
    assert len(cached_features(cells(1.0, rate=48000))["input_features"]) == 1
    assert len(stored(tmp_path / "root")) == 1
    assert Generators() == before
    capped = CachedFeatures(extractor, tmp_path / "root", max_length_seconds=10)
    assert len(capped(cells(14.0, rate=48000))["input_features"]) == 1


@pytest.mark.torch
def test_a_refused_clip_leaves_the_others(tmp_path):
    cached_features = CachedFeatures(extractors.make("Clap"), tmp_path / "root")
    with pytest.raises(RandomOutputError, match=r"is random: for speech-14s-48000\.wav, it drew"):
        cached_features(cells(1.0, 14.0, 2.0, rate=48000))
    assert len(stored(tmp_path / "root")) == 2


def test_noise_of_a_generator_of_its_own_is_refused(tmp_path):
    extractor = extractors.make("UnivNet")
    before = Generators()
    message = refusal(CachedFeatures(extractor, tmp_path / "root"), cells(1.0, rate=24000))
    assert "a second call gave another 'noise_sequence'" in message
    assert (
        'It returns noise for a vocoder: pass processor_kwargs={"return_noise": False}, and draw it in training.'
        in message
    )
    quiet = CachedFeatures(extractor, tmp_path / "root", processor_kwargs={"return_noise": False})
    assert list(quiet(cells(1.0, rate=24000))) == ["input_features", "padding_mask"]
    assert Generators() == before


# Functions that are random --------------------------------------------------------------------------------------------

SHARED = {
    "Python's random": random.random,
    "numpy.random": np.random.rand,
    "numpy.random, by the stored Gaussian": np.random.normal,
    "torch's generator": lambda: sys.modules["torch"].rand(1).item(),
}


@pytest.mark.parametrize(
    "source", [pytest.param(name, marks=[pytest.mark.torch] if "torch" in name else []) for name in SHARED]
)
def test_a_function_that_draws_is_refused_and_the_draw_is_given_back(source, tmp_path):
    if "torch" in source:
        __import__("torch")
    before = Generators()
    message = refusal(cached(drawing_from(SHARED[source]), tmp_path / "root"), cells(1.0))
    assert message.startswith("my-front-end-v1 is random: ")
    assert f"it drew from {source.partition(',')[0]}. Every epoch" in message
    assert "Augment after the features are read, or leave it out of the processor. " in message
    assert Generators() == before


def test_a_draw_from_another_generator_in_the_place_of_numpys_shows(tmp_path):
    usual = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        before = np.random.get_state(legacy=False)
        message = refusal(cached(drawing_from(np.random.rand), tmp_path / "root"), cells(1.0))
        assert "it drew from numpy.random" in message
        assert np.random.get_state(legacy=False) == before
        assert cached(lambda waveform, sampling_rate: waveform, tmp_path / "other")(cells(1.0))
    finally:
        np.random.set_bit_generator(usual)


def test_a_function_with_a_generator_of_its_own_is_refused(tmp_path):
    before = Generators()
    cached_features = cached(own_generator, tmp_path / "root")
    for _ in range(2):  # not the first time alone
        message = refusal(cached_features, cells(1.0))
        assert "a second call gave another 'input_features'" in message
    assert Generators() == before


def test_names_of_outputs_that_come_and_go_are_refused(tmp_path):
    calls = iter(range(100))

    def function(waveform, sampling_rate):
        return {"input_features": waveform, **({"extra": waveform} if next(calls) % 2 else {})}

    assert "a second call gave another 'extra'" in refusal(cached(function, tmp_path / "root"), cells(1.0))


def test_a_draw_in_the_second_call_alone_is_refused_too():
    calls = iter(range(100))

    def function(waveforms, sampling_rate):
        if next(calls) == 1:
            np.random.rand()
        return {"input_features": waveforms}

    before = Generators()
    with pytest.raises(RandomOutputError, match="it drew from numpy"):
        extract_repeatable(
            partial(extract, function, np.zeros(3, np.float32), RATE, {}), function, clip="a.wav", twice=True
        )
    assert Generators() == before


def test_an_output_that_is_not_a_number_is_the_same_each_time(tmp_path):
    def function(waveform, sampling_rate):
        return waveform * np.float32("nan")

    rows = cached(function, tmp_path / "root", nonfinite="keep")(cells(1.0))
    assert np.isnan(rows["input_features"][0]).all()


def test_a_failing_processor_gives_its_draws_back(tmp_path):
    def function(waveform, sampling_rate):
        np.random.rand(5)
        random.random()
        raise ValueError("no")

    before = Generators()
    with pytest.raises(AudioExtractionError, match="ValueError: no; nothing was stored"):
        cached(function, tmp_path / "root")(cells(1.0))
    assert Generators() == before


def test_refused_clips_can_be_null(tmp_path):
    def function(waveform, sampling_rate):
        return waveform + np.float32(np.random.rand()) if len(waveform) > RATE else waveform

    cached_features = cached(function, tmp_path / "root", on_error="null")
    rows = cached_features(cells(2.0, 1.0, 3.0))["input_features"]
    assert [row is None for row in rows] == [True, False, True]
    assert rows[1].tobytes() == extractors.clip(1.0, RATE).tobytes()
    assert len(stored(tmp_path / "root")) == 1
    assert cached_features.stats.bad_clips == 2


# Nobody else's draws are touched --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Whisper", "Wav2Vec2"])
def test_computing_leaves_the_generators_alone(name, tmp_path):
    cached_features = CachedFeatures(extractors.make(name), tmp_path / "root")
    before = Generators()
    for _ in range(2):
        cached_features(cells(1.0, 2.0))
        assert Generators() == before
    drawn = (random.random(), np.random.rand())
    cached_features(cells(3.0))
    after = Generators()
    assert drawn != (random.random(), np.random.rand())
    assert Generators() != after


def test_trying_a_random_processor_out_leaves_the_generators_alone(tmp_path):
    before = Generators()
    for extractor in (extractors.make("Clap"), extractors.make("Whisper", dither=1e-5)):
        assert "input_features" in CachedFeatures(extractor, tmp_path).pipeline.extraction.probe()
    assert Generators() == before


def test_which_clips_are_computed_twice(tmp_path):
    """The first, each that is longer than any before, and the 2nd, 4th, 8th and so on."""
    lengths = []

    def function(waveform, sampling_rate):
        lengths.append(len(waveform) / RATE)
        return waveform

    cached_features = cached(function, tmp_path / "root")
    cached_features(cells(1.0))
    assert lengths == [1, 41, 1, 1]  # before it, made-up clips, for the form of the outputs
    lengths.clear()
    cached_features(cells(0.5, 0.6, 0.7, 0.8, 2.0, 0.9, 1.1, 1.2, 3.0))
    assert lengths == [0.5, 0.5, 0.6, 0.7, 0.7, 0.8, 2.0, 2.0, 0.9, 1.1, 1.1, 1.2, 3.0, 3.0]


def test_a_random_part_of_long_clips_only_is_noticed(tmp_path):
    generator = np.random.default_rng(0)

    def function(waveform, sampling_rate):
        start = generator.integers(len(waveform) - RATE) if len(waveform) > RATE else 0
        return waveform[start : start + RATE]

    cached_features = cached(function, tmp_path / "root")
    cached_features(cells(0.5, 0.6, 0.7))
    with pytest.raises(RandomOutputError, match="a second call gave another"):
        cached_features(cells(3.0))


class WorksInPlace:
    """An extractor that changes the samples it is given, and returns them."""

    sampling_rate = 16_000

    def __call__(self, raw_speech, sampling_rate=None):
        for samples in raw_speech:
            samples *= 0.5
        return {"input_values": raw_speech}


def test_an_extractor_that_works_in_place_spoils_nothing(tmp_path):
    cached_features = CachedFeatures(WorksInPlace(), tmp_path)
    samples = np.linspace(-1, 1, 1600, dtype=np.float32)
    cell = {"array": samples.copy(), "sampling_rate": 16_000}
    for _ in range(2):
        assert np.array_equal(cached_features({"audio": cell})["input_values"], samples * np.float32(0.5))


def test_a_buffer_that_is_used_again_is_copied(tmp_path):
    buffer = np.zeros(80, np.float32)

    def last(waveform, sampling_rate):
        buffer[:] = waveform[-80:]
        return buffer

    cached_features = CachedFeatures(last, tmp_path, identity="last", sampling_rate=16_000)
    clips = [np.full(100, value, np.float32) for value in (0.1, 0.2, 0.3)]
    cells = [{"array": clip, "sampling_rate": 16_000} for clip in clips]
    for _ in range(2):
        arrays = cached_features({"audio": cells})["input_features"]
        assert [float(array[0]) for array in arrays] == [float(clip[0]) for clip in clips]


def test_a_thread_that_draws_beside_it_is_left_alone(tmp_path):

    stop = threading.Event()
    drawn = []

    def draw():
        while not stop.is_set():
            drawn.append(np.random.random())

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        cached_features = CachedFeatures(WorksInPlace(), tmp_path)
        for value in range(1, 6):
            clip = np.full(1600, value / 10, np.float32)
            cached_features({"audio": {"array": clip, "sampling_rate": 16_000}})
    finally:
        stop.set()
        thread.join()
    assert cached_features.stats.computed == 5
    assert len(set(drawn)) == len(drawn)


def test_torch_that_another_thread_is_importing_is_left_alone(tmp_path, monkeypatch):
    half = types.ModuleType("torch")
    half.__spec__ = importlib.machinery.ModuleSpec("torch", None)
    half.__spec__._initializing = True
    monkeypatch.setitem(sys.modules, "torch", half)
    settings = {"identity": "first", "sampling_rate": RATE}
    [[found]] = CachedFeatures(lambda waveform, rate: waveform[:9], tmp_path, **settings)(cells(1.0)).values()
    assert found.shape == (9,)

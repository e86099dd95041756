"""One processor has one identity: however it is come by, however Python is run, and in every process."""

from __future__ import annotations

import copy
import functools
import json
import os
import pickle
import subprocess
import sys

import audio_datasets as data
import dill
import extractors
import pytest
from children import python_path
from crossed import crossed
from test_identity import DIFFERENT, identity_of
from transformers import Wav2Vec2FeatureExtractor

from hf_audio_cache import processor_sha256
from hf_audio_cache.processors.extractor import audio_part
from hf_audio_cache.processors.identity import Fingerprinter


@pytest.mark.parametrize("name", extractors.names())
def test_one_processor_has_one_identity_however_it_is_come_by(name, tmp_path):
    extractor = extractors.make_or_skip(name)
    identity = identity_of(extractor)
    assert processor_sha256(extractor) == identity.sha
    assert processor_sha256(extractors.make(name)) == identity.sha
    assert processor_sha256(copy.deepcopy(extractor)) == identity.sha
    assert processor_sha256(copy.copy(extractor)) == identity.sha
    assert processor_sha256(pickle.loads(pickle.dumps(extractor))) == identity.sha
    assert processor_sha256(dill.loads(dill.dumps(extractor))) == identity.sha
    for folder in ("one", "another/place"):
        extractor.save_pretrained(tmp_path / folder)
        loaded = type(extractor).from_pretrained(tmp_path / folder)
        assert identity_of(loaded).description == identity.description
    extractors.call(extractor, extractors.clip(1.0, extractor.sampling_rate))
    assert processor_sha256(extractor) == identity.sha
    assert "0x" not in json.dumps(identity.description)


class Processor:
    """What a processor is to an extractor: its owner, beside a tokenizer."""

    def __init__(self, name, extractor):
        setattr(self, name, extractor)
        self.tokenizer = object()


@pytest.mark.parametrize(("name", "part"), crossed(extractors.names(), ["feature_extractor", "audio_processor"]))
def test_an_extractor_has_one_identity_alone_and_in_its_processor(name, part):
    extractor = extractors.make_or_skip(name)
    assert processor_sha256(Processor(part, extractor)) == processor_sha256(extractor)


class Wrapped(Processor):
    """A processor of one's own. It is called itself, and not the extractor that it holds."""

    def __call__(self, raw_speech, sampling_rate=None):
        return {"input_values": [raw_speech[0] * 2]}


class Proxy:
    """A wrapper that hands on whatever it does not have."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.__dict__["inner"], name)

    def __call__(self, raw_speech, **kwargs):
        return {"input_values": [raw_speech[0] * 2]}


@pytest.mark.parametrize(
    "make", [lambda part: Wrapped("feature_extractor", part), lambda part: Proxy(Processor("feature_extractor", part))]
)
def test_a_wrapper_with_a_call_of_its_own_is_not_taken_apart(make):
    inner = extractors.make("Wav2Vec2")
    assert processor_sha256(make(inner)) != processor_sha256(inner)
    assert audio_part(make(inner)).__class__ in (Wrapped, Proxy)


def test_a_processor_of_transformers_is_taken_apart_unless_its_call_is_not_theirs():
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Processor

    class Mine(Wav2Vec2Processor):
        def __call__(self, raw_speech, sampling_rate=None, **kwargs):
            return {"input_values": [raw_speech[0] * 2]}

    extractor = Wav2Vec2FeatureExtractor()
    for kind, is_taken_apart in ((Wav2Vec2Processor, True), (Mine, False)):
        processor = kind.__new__(kind)
        processor.feature_extractor = extractor
        assert (audio_part(processor) is extractor) == is_taken_apart


def test_a_decorator_of_transformers_takes_no_call_of_ones_own_away():
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Processor
    from transformers.utils.deprecation import deprecate_kwarg

    class Mine(Wav2Vec2Processor):
        @deprecate_kwarg("speech", version="99.0.0", new_name="raw_speech")
        def __call__(self, raw_speech, sampling_rate=None, **kwargs):
            return {"input_values": [raw_speech[0] * 2]}

    class Theirs(Wav2Vec2Processor):
        __call__ = deprecate_kwarg("speech", version="99.0.0", new_name="audio")(Wav2Vec2Processor.__call__)

    class Around(Wav2Vec2Processor):
        @functools.wraps(Wav2Vec2Processor.__call__)
        def __call__(self, raw_speech, sampling_rate=None, **kwargs):
            return {"input_values": [raw_speech[0] * 2]}

    extractor = Wav2Vec2FeatureExtractor()
    for kind, is_taken_apart in ((Mine, False), (Theirs, True), (Around, False)):
        processor = kind.__new__(kind)
        processor.feature_extractor = extractor
        assert (audio_part(processor) is extractor) == is_taken_apart


def test_a_processor_that_hands_audio_on_by_a_method_of_its_own_is_not_taken_apart():
    from transformers import ProcessorMixin, Wav2Vec2FeatureExtractor

    class Theirs(ProcessorMixin):
        def replace_audio_token(self, audio_inputs, audio_idx, **kwargs):
            return "<audio>"  # which is text

    class Louder(Theirs):
        def _process_audio(self, audio, **kwargs):
            return self.feature_extractor([each * 2 for each in audio], **kwargs), []

    extractor = Wav2Vec2FeatureExtractor()
    theirs, louder, patched = (kind.__new__(kind) for kind in (Theirs, Louder, Theirs))
    patched._process_audio = lambda audio, **kwargs: ({"input_values": audio}, [])
    for processor in (theirs, louder, patched):
        processor.feature_extractor = extractor
        assert (audio_part(processor) is extractor) == (processor is theirs)


def test_the_audio_processor_goes_before_the_feature_extractor():
    processor = Processor("feature_extractor", extractors.make("Wav2Vec2"))
    processor.audio_processor = extractors.make("SeamlessM4T")
    assert processor_sha256(processor) == processor_sha256(extractors.make("SeamlessM4T"))


@pytest.mark.parametrize("name", extractors.names())
def test_integers_are_floats_and_tuples_are_lists(name):
    extractor = extractors.make_or_skip(name)
    sha = processor_sha256(extractor)
    changed = []
    for attribute, value in vars(extractor).items():
        if type(value) is int:
            setattr(extractor, attribute, float(value))
        elif type(value) is float and value.is_integer():
            setattr(extractor, attribute, int(value))
        elif isinstance(value, list):
            setattr(extractor, attribute, tuple(value))
        elif isinstance(value, tuple):
            setattr(extractor, attribute, list(value))
        else:
            continue
        changed.append(attribute)
        assert processor_sha256(extractor) == sha, attribute
    assert "padding_value" in changed


@pytest.mark.parametrize(
    "attribute", ["feature_extractor_type", "processor_class", "name_or_path", "_name_or_path", "_auto_class"]
)
def test_bookkeeping_does_not_count(attribute):
    extractor = extractors.make("Wav2Vec2")
    sha = processor_sha256(extractor)
    setattr(extractor, attribute, "/somewhere/else")
    assert processor_sha256(extractor) == sha


@pytest.mark.parametrize("name", ["whisper_tiny", "wav2vec2", "seamless_m4t"])
def test_a_published_configuration_gives_what_its_arguments_give(name, make_processor, processor_directory):
    made = make_processor(name)
    assert processor_sha256(type(made).from_pretrained(processor_directory(name))) == processor_sha256(made)


IDENTITY_OF_SPEECHT5 = """
import json, extractors
from hf_audio_cache import processor_sha256
print(json.dumps(processor_sha256(extractors.make("SpeechT5"))))
"""


def test_how_python_is_run_changes_nothing():
    program = [sys.executable, "-OO", "-s", "-X", "dev", "-W", "ignore", "-c", IDENTITY_OF_SPEECHT5]
    environment = {**os.environ, "PYTHONPATH": python_path(has_torch=False)}
    child = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout.splitlines()[-1]) == processor_sha256(extractors.make("SpeechT5"))


class Louder(Wav2Vec2FeatureExtractor):
    """An extractor of one's own that is saved and loaded as transformers' are."""

    def __init__(self, gains=(1, 2), note=(1, 2), **kwargs):
        super().__init__(**kwargs)
        self.gains, self.note = gains, note

    def __call__(self, raw_speech, **kwargs):
        return super().__call__([samples * self.gains[0] for samples in raw_speech], **kwargs)


def test_a_derived_extractor_is_one_when_saved_and_loaded_but_for_what_its_code_uses(tmp_path):
    one = Louder(gains=[1, 2])
    sha = processor_sha256(one)
    one.save_pretrained(tmp_path)
    loaded = Louder.from_pretrained(tmp_path)
    assert (type(loaded.note), hasattr(loaded, "feature_extractor_type")) == (list, True)
    assert processor_sha256(loaded) == sha
    assert processor_sha256(Louder(gains=(1, 2))) != sha
    assert processor_sha256(Louder(gains=[1.0, 2])) != sha


@pytest.mark.torch
@pytest.mark.parametrize(
    ("change", "undo"),
    [
        (
            lambda torch: torch.set_float32_matmul_precision("medium"),
            lambda torch: torch.set_float32_matmul_precision("highest"),
        ),
        (lambda torch: torch.set_default_dtype(torch.float64), lambda torch: torch.set_default_dtype(torch.float32)),
    ],
    ids=["float32_matmul_precision", "default_dtype"],
)
def test_settings_of_torch_count_where_it_computes(change, undo):
    import torch

    names = ("Whisper", "Wav2Vec2")
    fingerprinters = {name: Fingerprinter(extractors.make(name), {}) for name in names}
    before = {name: fingerprinters[name].identity() for name in names}
    change(torch)
    try:
        after = {name: fingerprinters[name].identity() for name in names}
    finally:
        undo(torch)
    assert after["Whisper"].sha != before["Whisper"].sha
    assert set(after["Whisper"].description) - set(before["Whisper"].description) == {"torch"}
    assert after["Wav2Vec2"] == before["Wav2Vec2"]
    assert fingerprinters["Whisper"].identity() == before["Whisper"]


def descriptions():
    """Return how all extractors are described, and one value of each case of `DIFFERENT`."""
    made = {name: identity_of(extractor).description for name, extractor in extractors.constructible().items()}
    extractor = extractors.make("Wav2Vec2")
    fingerprinter = Fingerprinter(extractor, {})

    def described_with(value):
        extractor.extra = value
        try:
            return fingerprinter.identity().description
        except (RecursionError, TypeError) as exc:  # other tests tell whether it may
            return str(exc)

    return [made, [described_with(value) for value, _ in DIFFERENT.values()]]


# More than ten seconds on a busy machine: a fresh process imports all libraries, and both describe each case.
def test_another_interpreter_finds_the_same_without_addresses_in_another_order_of_hashing():
    program = "import json, test_equal_identities as tests; print(json.dumps(tests.descriptions()))"
    made, values = data.run_program(program, timeout=280, PYTHONHASHSEED="1")
    made_here, values_here = json.loads(json.dumps(descriptions()))
    assert len(made) >= 20
    assert made == made_here
    assert "0x" not in json.dumps(values)
    for case, there, here in zip(DIFFERENT, values, values_here, strict=True):
        assert there == here, case

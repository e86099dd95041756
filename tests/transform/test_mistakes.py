"""What people pass by mistake, and what they are told."""

from __future__ import annotations

import logging
import re

import audio_datasets as data
import datasets
import extractors
import numpy as np
import pytest

from hf_audio_cache import CachedFeatures
from hf_audio_cache.errors import AudioColumnError, ProcessorError
from hf_audio_cache.transform import cached_array

N_CLIPS = 3


@pytest.fixture
def cached_features(make_processor, tmp_path):
    return CachedFeatures(make_processor("wav2vec2"), tmp_path, auto_resample=True)


# In the place of a processor


def tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))


def config():
    from transformers import Wav2Vec2Config

    return Wav2Vec2Config()


def image_processor():
    from transformers.image_processing_utils import BaseImageProcessor

    return type("ViTImageProcessor", (BaseImageProcessor,), {"__module__": "transformers.models.vit"})()


def model():
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    small |= {"num_conv_pos_embedding_groups": 1, "num_conv_pos_embeddings": 2}
    return Wav2Vec2Model(
        Wav2Vec2Config(**small, conv_dim=[8], conv_kernel=[3], conv_stride=[2], num_feat_extract_layers=1)
    )


RETURNED = "Pass what AutoFeatureExtractor.from_pretrained or AutoProcessor.from_pretrained returns."
NAMED = "Pass AutoFeatureExtractor.from_pretrained(name), with the name of the model."


@pytest.mark.parametrize(
    ("make", "found", "remedy"),
    [
        (tokenizer, r"a \w+: a tokenizer, which takes text", NAMED),
        (config, "a Wav2Vec2Config: a configuration", NAMED),
        (image_processor, "a ViTImageProcessor: an image processor", NAMED),
        pytest.param(model, "a Wav2Vec2Model: a model, which takes the features", NAMED, marks=pytest.mark.torch),
        (
            lambda: extractors.extractor_class("Wav2Vec2"),
            "the class Wav2Vec2FeatureExtractor, not an object of it",
            "Pass Wav2Vec2FeatureExtractor.from_pretrained(name).",
        ),
        (
            lambda: "openai/whisper-tiny",
            "the name 'openai/whisper-tiny'",
            "Pass AutoFeatureExtractor.from_pretrained('openai/whisper-tiny').",
        ),
        (lambda: {"a": "b" * 500}, "\\{'a': 'b{193}…", RETURNED),
        (lambda: None, "None", RETURNED),
    ],
)
def test_what_is_no_processor_is_told_what_it_is(make, found, remedy, tmp_path):
    with pytest.raises(ProcessorError) as caught:
        CachedFeatures(make(), tmp_path)
    expected = "Not a feature extractor, nor a processor that has one as audio_processor or feature_extractor: "
    assert re.fullmatch(expected + found + r"\. " + re.escape(remedy) + " Nothing was computed.", str(caught.value))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "takes_audio"),
    [
        (lambda self, *args, **kwargs: {"input_values": [args[0][0] * 2]}, True),
        (lambda self, wav, sampling_rate=None, **kwargs: {"input_values": [wav[0] * 2]}, True),
        (lambda self, images=None, text=None, **kwargs: {}, False),
    ],
    ids=["any", "wav", "images"],
)
def test_a_processor_of_a_repository_is_taken_for_what_its_call_takes(call, takes_audio, tmp_path):
    from transformers import ProcessorMixin

    kind = type("Theirs", (ProcessorMixin,), {"__call__": call, "__module__": "transformers_modules.team.model"})
    processor = kind.__new__(kind)
    if not takes_audio:
        with pytest.raises(ProcessorError, match="a Theirs: a processor without an audio part"):
            CachedFeatures(processor, tmp_path, identity="theirs", sampling_rate=8000)
        return
    cached_features = CachedFeatures(processor, tmp_path, identity="theirs", sampling_rate=8000)
    waveform = np.linspace(-1, 1, 100, dtype=np.float32)
    found = cached_features({"audio": {"array": waveform, "sampling_rate": 8000}})
    np.testing.assert_array_equal(found["input_values"], waveform * 2)


def test_a_processor_whose_feature_extractor_is_none_has_no_audio_part(make_processor, tmp_path):
    from transformers import Qwen2AudioProcessor

    processor = Qwen2AudioProcessor(make_processor("qwen2_audio"), tokenizer())
    processor.feature_extractor = None
    with pytest.raises(ProcessorError, match="a Qwen2AudioProcessor: a processor without an audio part"):
        CachedFeatures(processor, tmp_path)
    assert not any(tmp_path.iterdir())


def test_arguments_that_only_the_processor_around_an_extractor_knows_are_an_error(make_processor, tmp_path):
    from transformers import WhisperProcessor

    processor = WhisperProcessor(make_processor("whisper_tiny"), tokenizer())
    for each in (processor, processor.feature_extractor):
        with pytest.raises(ProcessorError, match=r"WhisperFeatureExtractor, which ignores 'audio_kwargs'.* as proc"):
            CachedFeatures(each, tmp_path, processor_kwargs={"audio_kwargs": {"return_attention_mask": True}})
    assert not any(tmp_path.iterdir())


def test_a_front_end_of_one_s_own_may_take_such_arguments(tmp_path):
    class FrontEnd:
        sampling_rate = 8000

        def __call__(self, raw_speech, **kwargs):
            return {"input_values": [raw_speech[0] * kwargs["audio_kwargs"]["gain"]]}

    cached_features = CachedFeatures(FrontEnd(), tmp_path, processor_kwargs={"audio_kwargs": {"gain": 2}})
    found = cached_features({"audio": {"array": np.ones(100, np.float32), "sampling_rate": 8000}})
    assert set(found["input_values"]) == {2}


def test_a_model_of_one_s_own_as_a_front_end_is_none_of_these(tmp_path):
    class FrontEnd:
        sampling_rate = 8000

        def __call__(self, raw_speech, sampling_rate=None):
            return {"loudness": [np.abs(np.asarray(raw_speech[0])).mean()]}

    kind = type("PreTrainedModel", (FrontEnd,), {})
    CachedFeatures(kind(), tmp_path)


# In the place of an example


OF_A_STREAM = "cached_features.attach(ds) or ds.map(cached_features)"
OF_A_DATASET = f"cached_features.map(ds), {OF_A_STREAM}"


@pytest.mark.parametrize(
    ("whole", "name", "forms"),
    [
        (lambda ds: ds, "Dataset", OF_A_DATASET),
        (lambda ds: datasets.DatasetDict(train=ds), "DatasetDict", OF_A_DATASET),
        (lambda ds: ds.to_iterable_dataset(), "IterableDataset", OF_A_STREAM),
        (lambda ds: ds.to_iterable_dataset()["audio"], "IterableColumn", OF_A_STREAM),
    ],
)
def test_a_whole_dataset_is_told_its_forms(whole, name, forms, cached_features, clips):
    with pytest.raises(TypeError) as caught:
        cached_features(whole(data.in_memory(clips)))
    assert str(caught.value) == (
        f"a whole {name} was given to cached_features, which is called with an example or a batch. Use {forms}. "
        "Nothing was computed."
    )
    assert cached_features.stats.misses == 0


# Of what came out


@pytest.mark.parametrize(
    "argument",
    [{"batched": True}, {"with_indices": True}, {"features": None}, {"drop_last_batch": True}, {"fn_kwargs": {"a": 1}}],
    ids=str,
)
@pytest.mark.parametrize("called", ["map", "materialize"])
def test_an_argument_that_map_sets_itself_is_named(called, argument, cached_features, clips):
    with pytest.raises(TypeError, match=f"^Leave out {next(iter(argument))}=: cached_features.{called} sets it itself"):
        getattr(cached_features, called)(data.in_memory(clips), **argument)


@pytest.mark.parametrize("called", ["map", "materialize"])
@pytest.mark.parametrize("name", ["on_error", "audio_column", "num_porc"])
def test_an_argument_that_map_does_not_know_is_named(name, called, cached_features, clips):
    with pytest.raises(
        TypeError, match=rf"does not know {name}=\. What decides on features is said when CachedFeatures"
    ):
        getattr(cached_features, called)(data.in_memory(clips), **{name: 1})
    assert cached_features.stats.misses == 0


def test_an_attached_dataset_says_why_it_has_no_column_of_features(make_processor, clips, tmp_path):
    cached_features = CachedFeatures(
        make_processor("wav2vec2"), tmp_path, auto_resample=True, length_column="input_length"
    )
    attached = cached_features.attach(data.in_memory(clips))
    for name in ("input_values", "input_length"):
        with pytest.raises(AudioColumnError) as caught:
            attached[name]
        assert str(caught.value) == (
            f"the column '{name}' is made when a row is read, and the dataset has no such column. Take it from rows, "
            f"as in attached[0]['{name}'] or attached[:8]['{name}']; or use cached_features.map(ds), which makes a "
            "column. Nothing was computed."
        )
    assert cached_features.stats.misses == 0
    assert list(attached["text"]) == [clip.stem for clip in clips]
    with pytest.raises(ValueError, match="Column 'nope' doesn't exist"):
        attached["nope"]
    assert len(attached[:2]["input_values"]) == 2
    # What is made of it works as ever.
    assert attached.select([2])[0]["text"] == clips[2].stem
    assert attached.with_format(None)[0].keys() == {"audio", "text", "number"}
    with pytest.raises(ValueError, match="Column 'input_values' doesn't exist"):
        attached.with_format(None)["input_values"]


def test_an_attached_dataset_becomes_no_stream_and_no_folder(cached_features, clips, tmp_path):
    attached = cached_features.attach(data.in_memory(clips))
    with pytest.raises(ProcessorError, match=r"Make the stream first: cached_features\.attach\("):
        attached.to_iterable_dataset(num_shards=2)
    with pytest.raises(ProcessorError, match=r"Save the dataset before attach"):
        attached.save_to_disk(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    attached.with_format(None).save_to_disk(tmp_path / "saved")
    assert len(list(attached.with_format("numpy").to_iterable_dataset())) == len(clips)


@pytest.mark.parametrize("batched", [True, False])
def test_references_that_a_function_looks_at_are_warned_of(batched, cached_features, clips, caplog):
    references = cached_features.map(data.in_memory(clips))
    cached_array._warn_of_lists.cache_clear()

    def look(rows):
        arrays = rows["input_values"]
        return {"n": [len(array) for array in arrays] if batched else len(arrays)}

    with caplog.at_level(logging.WARNING):
        touched = references.map(look, batched=batched)
    assert isinstance(touched.features["input_values"], datasets.List)
    [message] = [record.getMessage() for record in caplog.records if "looked at references" in record.getMessage()]
    assert message.startswith("A mapped function has looked at references to 'input_values', so that datasets writes")
    caplog.clear()
    untouched = references.map(lambda text: {"n": len(text)}, input_columns=["text"])
    assert type(untouched.features["input_values"]).__name__ == "CachedArray"
    assert "looked at references" not in caplog.text

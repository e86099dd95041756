"""Processors of multimodal models with the stand-in in the place of their feature extractor, and a public collator."""

from __future__ import annotations

import importlib

import pytest
from test_stand_in import RATE, flat

from hf_audio_cache import CachedFeatures

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

_SPECIAL = {
    **{"audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"},
    **{"image_token": "<|IMAGE|>", "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>"},
    "video_token": "<|VIDEO|>",
}


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ("<unk>", "<pad>", "what", "is", "said", "user", "assistant", "system")
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", extra_special_tokens=_SPECIAL
    )


def processor_of(name, make_processor):
    """Return a processor without a model's files, and the text that it takes for a clip."""
    transformers = importlib.import_module("transformers")
    extractor = make_processor("qwen2_audio" if name.startswith("Qwen") else "whisper_tiny")
    arguments = {"feature_extractor": extractor, "tokenizer": tokenizer()}
    if name == "Qwen2_5OmniProcessor":
        # Its parts for pictures need torchvision.
        kind = type(name, (transformers.Qwen2_5OmniProcessor,), {"check_argument_for_proper_class": lambda *_: None})
        return kind(image_processor=None, video_processor=None, **arguments)
    return getattr(transformers, name)(**arguments)


@pytest.fixture(scope="module")
def rows(sentences):
    """Eight sentences, and what is asked of each."""
    import soundfile

    arrays = [soundfile.read(path, dtype="float32")[0] for path in sentences[:8]]
    return [{"audio": {"array": array, "sampling_rate": RATE}, "text": "<|AUDIO|> what is said"} for array in arrays]


@pytest.mark.parametrize("name", ["Qwen2AudioProcessor", "Qwen2_5OmniProcessor"])
def test_a_collator_gets_the_same_tensors_and_extracts_nothing_in_the_second_epoch(
    name, rows, calls, make_processor, tmp_path
):
    def collate(processor):
        def collator(batch):
            return processor(
                text=[row["text"] for row in batch],
                audio=[row["audio"]["array"] for row in batch],
                sampling_rate=RATE,
                return_tensors="pt",
                padding=True,
            )

        return collator

    plain, processor = processor_of(name, make_processor), processor_of(name, make_processor)
    cached_features = CachedFeatures(processor, tmp_path / "root", features="always")
    processor.feature_extractor = cached_features.feature_extractor()
    for epoch in range(2):
        generators = [torch.Generator().manual_seed(epoch) for _ in range(2)]
        loaders = [
            torch.utils.data.DataLoader(rows, 3, shuffle=True, generator=generator, collate_fn=collate(each))
            for each, generator in zip((plain, processor), generators, strict=True)
        ]
        before = cached_features.stats
        calls.clear()
        for expected, found in zip(*loaders, strict=True):
            assert {"input_ids", "input_features", "feature_attention_mask"} <= found.keys()
            assert flat(found) == flat(expected)
        done = cached_features.stats - before
        assert (done.computed, done.hits) == ((8, 0), (0, 8))[epoch]
        assert not (epoch and calls)


def test_a_processor_with_the_stand_in_is_saved_as_without(make_processor, tmp_path):
    processor = processor_of("Qwen2AudioProcessor", make_processor)
    processor.save_pretrained(tmp_path / "plain")
    processor.feature_extractor = CachedFeatures(processor, tmp_path / "root").feature_extractor()
    processor.save_pretrained(tmp_path / "with")
    names = {path.name for path in (tmp_path / "plain").iterdir()}
    assert names == {path.name for path in (tmp_path / "with").iterdir()}
    for name in names:
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_whispers_processor_and_the_call_of_voxtral(rows, calls, make_processor, tmp_path):
    plain, processor = (processor_of("WhisperProcessor", make_processor) for _ in range(2))
    cached_features = CachedFeatures(processor, tmp_path / "root", features="always")
    processor.feature_extractor = cached_features.feature_extractor()
    # As VoxtralProcessor calls its extractor, one clip at a time.
    voxtral = {"padding": True, "truncation": False, "pad_to_multiple_of": 480_000, "return_tensors": "pt"}
    for _ in range(2):
        calls.clear()
        for row in rows[:3]:
            audio, text = row["audio"], "what is said"
            expected = plain(audio["array"], sampling_rate=RATE, text=text)
            assert flat(processor(audio["array"], sampling_rate=RATE, text=text)) == flat(expected)
            expected = plain.feature_extractor(audio["array"], sampling_rate=RATE, **voxtral)
            assert flat(processor.feature_extractor(audio["array"], sampling_rate=RATE, **voxtral)) == flat(expected)
    assert not calls

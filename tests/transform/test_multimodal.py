"""Processors of multimodal models with the stand-in in the place of their feature extractor, and a public collator."""

from __future__ import annotations

import importlib

import datasets
import numpy as np
import pytest
import soundfile
from test_stand_in import RATE, flat

from hf_audio_cache import CachedFeatures, CachedWaveforms, CacheRoot

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


def test_chat_messages_with_audio_parts(calls, make_processor, sentences, tmp_path):
    def turn(number, *parts):
        audio = [{"type": "audio", "audio": str(path), "text": None} for path in parts]
        return {"role": "user", "content": [*audio, {"type": "text", "audio": None, "text": f"what is said {number}"}]}

    chats = [
        [turn(0, *sentences[:2])],
        [turn(1, sentences[2]), turn(2, sentences[3])],
        [turn(3, sentences[0])],
        [turn(4)],
    ]
    dataset = datasets.Dataset.from_dict({"messages": chats})

    def audio_parts(example):
        contents = [message["content"] for message in example["messages"]]
        return {"audio": [part["audio"] for content in contents for part in content if part["type"] == "audio"]}

    def without_nulls(messages):  # Arrow gives each part the keys of all
        parts = [[{k: v for k, v in part.items() if v is not None} for part in each["content"]] for each in messages]
        return [{**each, "content": content} for each, content in zip(messages, parts, strict=True)]

    def collator(processor):
        def collate(batch):
            texts = [processor.apply_chat_template(without_nulls(row["messages"]), tokenize=False) for row in batch]
            clips = [clip["array"] for row in batch for clip in row["audio"]]
            return processor(text=texts, audio=clips, sampling_rate=RATE, return_tensors="pt", padding=True)

        return collate

    root = CacheRoot(tmp_path / "root")
    dataset = dataset.map(audio_parts)
    plain, processor = (processor_of("Qwen2AudioProcessor", make_processor) for _ in range(2))
    cached_features = CachedFeatures(processor, root, features="always")
    processor.feature_extractor = cached_features.feature_extractor()
    rows = CachedWaveforms(root, sampling_rate=RATE).attach(dataset)
    decoded = [
        {
            "messages": row["messages"],
            "audio": [{"array": soundfile.read(path, dtype="float32")[0]} for path in row["audio"]],
        }
        for row in dataset
    ]
    for epoch in range(2):
        calls.clear()
        for start in (0, 2):
            expected = collator(plain)(decoded[start : start + 2])
            found = collator(processor)([rows[row] for row in range(start, start + 2)])
            assert flat(found) == flat(expected)
        assert not (epoch and calls)
    assert cached_features.stats.computed == 4

    # Without a waveform: the features of each row, in the order of its audio parts.
    lists = CachedFeatures(
        make_processor("qwen2_audio"),
        root,
        processor_kwargs={"return_attention_mask": True},
        output_names={"attention_mask": "feature_attention_mask"},
    ).map(dataset)
    features = torch.tensor(np.concatenate([row["input_features"] for row in lists if row["audio"]]))
    clips = [clip["array"] for row in decoded for clip in row["audio"]]
    wanted = plain.feature_extractor(clips, sampling_rate=RATE, return_attention_mask=True, return_tensors="pt")
    assert torch.equal(features, wanted["input_features"])
    assert [len(row["feature_attention_mask"]) for row in lists] == [2, 2, 1, 0]

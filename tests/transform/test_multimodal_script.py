"""A Qwen2-Audio training script in the shape of public ones: with the cache, in each form, it trains the same."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import configs
import datasets
import numpy as np
import pytest
import soundfile
import soxr
from test_training_scripts import RATE, is_in_range, rows_of_speech, train

from hf_audio_cache import CachedFeatures, CachedWaveforms

pytestmark = pytest.mark.torch

QUESTION = "What is said?"
SECONDS = 4  # of audio that the model takes; Qwen2-Audio itself takes 30
MASK = "feature_attention_mask"


def make_processor() -> Any:
    """Return Qwen2-Audio's processor, for shorter clips and with a tokenizer of bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2AudioProcessor

    letters = ["<unk>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = {"audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
    return Qwen2AudioProcessor(
        feature_extractor=configs.make_processor("qwen2_audio", chunk_length=SECONDS),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", extra_special_tokens=special
        ),
    )


class Script:
    """The script, and what of it the cache replaces: the processor's extractor, or what makes a batch of rows."""

    def __init__(self) -> None:
        self.processor = make_processor()
        # transformers 5.24 drops the lengths as unused before it groups by them.
        self.arguments = {
            **{"train_sampling_strategy": "group_by_length", "length_column_name": "input_length"},
            "remove_unused_columns": False,
        }
        self.batch_of: Callable[..., Any] = functools.partial(
            batch_of_audio, waveform_of=lambda row: decode(row["audio"])
        )
        self.cached: Any = None  # what counts the extractions

    def model(self) -> Any:
        """Return Qwen2-Audio's model in small: one layer of each kind."""
        import transformers

        tokenizer = self.processor.tokenizer
        audio = transformers.Qwen2AudioEncoderConfig(
            **{"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16},
            max_source_positions=SECONDS * 50,
        )
        text = transformers.Qwen2Config(
            **{"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
            **{"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": tokenizer.pad_token_id},
        )
        config = transformers.Qwen2AudioConfig(
            audio_config=audio, text_config=text, audio_token_index=self.audio_token_id()
        )
        return transformers.Qwen2AudioForConditionalGeneration(config)

    def audio_token_id(self) -> int:
        return self.processor.tokenizer.convert_tokens_to_ids("<|AUDIO|>")

    def collator(self) -> Callable[..., Any]:
        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            batch = dict(self.batch_of(self.processor, rows))
            ids = batch["input_ids"]
            is_unlearnt = (ids == self.processor.tokenizer.pad_token_id) | (ids == self.audio_token_id())
            return {**batch, "labels": ids.masked_fill(is_unlearnt, -100)}

        return collate

    def stand_in(self, root: Any, waveform_of: Callable[..., Any] = lambda row: row["audio"]["array"]) -> None:
        """Answer the processor's calls of its extractor from the cache."""
        self.cached = CachedFeatures(self.processor, root, features="always")
        self.processor.feature_extractor = self.cached.feature_extractor()
        self.batch_of = functools.partial(batch_of_audio, waveform_of=waveform_of)


def batch_of_audio(processor: Any, rows: list[dict[str, Any]], *, waveform_of: Callable[[Any], Any]) -> Any:
    """Collate as public scripts do."""
    texts, waveforms = [row["chat"] for row in rows], [waveform_of(row) for row in rows]
    return processor(text=texts, audio=waveforms, sampling_rate=RATE, return_tensors="pt", padding=True)


def batch_of_features(processor: Any, rows: list[dict[str, Any]]) -> Any:
    """Collate features: the text gets as many audio tokens as the processor would put there."""
    import torch

    inputs = {name: torch.tensor(np.stack([row[name] for row in rows])) for name in ("input_features", MASK)}
    lengths = [(((int(mask.sum()) - 1) // 2 + 1) - 2) // 2 + 1 for mask in inputs[MASK]]
    token = processor.audio_token
    texts = [row["chat"].replace(token, token * length) for row, length in zip(rows, lengths, strict=True)]
    return {**processor.tokenizer(texts, padding=True, return_tensors="pt"), **inputs}


def decode(cell: dict[str, Any]) -> np.ndarray:
    """Return a clip's waveform, as scripts load it; `datasets` would need torchcodec to decode."""
    samples, rate = soundfile.read(io.BytesIO(cell["bytes"]), dtype="float32")
    return samples if rate == RATE else soxr.resample(samples, rate, RATE, quality="HQ")


def chat_of(text: str, template: str) -> dict[str, str]:
    """Return a question about the clip, and its transcript, as text."""
    content = [{"type": "audio", "audio_url": "clip"}, {"type": "text", "text": QUESTION}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": text}]
    return {"chat": make_processor().apply_chat_template(messages, chat_template=template, tokenize=False)}


def add_chats(rows: Any, script: Script) -> Any:
    arguments = {"template": script.processor.chat_template}
    return rows.map(chat_of, input_columns=["text"], remove_columns="text", fn_kwargs=arguments)


def short_ones(rows: Any) -> Any:
    return rows.filter(is_in_range, input_columns=["input_length"])


def without_cache(script: Script, rows: Any, root: Any) -> Any:
    rows = rows.map(lambda row: {"input_length": len(decode(row["audio"]))}, num_proc=2)
    return add_chats(short_ones(rows), script)


def waveforms(root: Any, **settings: Any) -> CachedWaveforms:
    settings = {"length_column": "input_length", **settings}
    return CachedWaveforms(root, sampling_rate=RATE, auto_resample=True, **settings)


def mapped_waveforms(script: Script, rows: Any, root: Any) -> Any:
    script.stand_in(root)
    return add_chats(short_ones(waveforms(root).map(rows, num_proc=2)), script)


def called_waveforms(script: Script, rows: Any, root: Any) -> Any:
    def prepare_dataset(batch: dict[str, Any], cached_waveforms: CachedWaveforms) -> dict[str, Any]:
        return {**cached_waveforms(batch)}

    script.stand_in(root, lambda row: np.asarray(row["waveform"], "float32"))
    prepare = functools.partial(prepare_dataset, cached_waveforms=waveforms(root, array_column="waveform"))
    rows = rows.map(prepare, remove_columns="audio", num_proc=2)
    return add_chats(short_ones(rows), script)


def attached_waveforms(script: Script, rows: Any, root: Any) -> Any:
    script.stand_in(root)
    lengths = waveforms(root).map(rows).select_columns("input_length")
    rows = datasets.concatenate_datasets([rows, lengths], axis=1)
    return waveforms(root, length_column=None).attach(add_chats(short_ones(rows), script))


def mapped_features(script: Script, rows: Any, root: Any) -> Any:
    script.batch_of = batch_of_features
    script.cached = CachedFeatures(
        *(script.processor.feature_extractor, root),
        auto_resample=True,
        length_column="input_length",
        processor_kwargs={"return_attention_mask": True},
        output_names={"attention_mask": MASK},
    )
    rows = script.cached.map(rows, remove_columns="audio", num_proc=2)
    return add_chats(short_ones(rows), script)


FORMS = (mapped_waveforms, called_waveforms, attached_waveforms, mapped_features)


@pytest.fixture(scope="module")
def rows(sentences, prompts):
    return rows_of_speech(sentences, prompts)


def train_two_epochs(form: Callable[..., Any], rows: Any, root: Any, out: Any) -> Any:
    """Train; return the losses and the sha256 of the weights, and how many clips were extracted in each epoch."""
    from transformers import TrainerCallback

    script, extracted = Script(), []

    class Count(TrainerCallback):
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            extracted.append(script.cached.stats.computed if script.cached else 0)

    dataset = form(script, rows, root)
    prepared = script.cached.stats.computed if script.cached else 0
    arguments = {"max_steps": -1, "num_train_epochs": 2}
    trained = train(script, dataset, out, arguments, callbacks=[Count()])
    return trained, [prepared, *np.diff([prepared, *extracted])]


@pytest.fixture(scope="module")
def trained_without(rows, tmp_path_factory):
    return train_two_epochs(without_cache, rows, None, tmp_path_factory.mktemp("out"))[0]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_qwen2_audio_trains_the_same(form, rows, trained_without, tmp_path, calls):
    n_trained = sum(is_in_range(len(decode(cell))) for cell in rows["audio"])
    assert 8 < n_trained < len(rows)
    cold = [len(rows), 0, 0] if form is mapped_features else [0, n_trained, 0]
    for extracted in (cold, [0, 0, 0]):
        calls.clear()
        assert train_two_epochs(form, rows, tmp_path / "root", tmp_path / "out") == (trained_without, extracted)
        # The stand-in compares the first batch with its extractor's, and answers all others.
        assert len(calls) == (form is not mapped_features)

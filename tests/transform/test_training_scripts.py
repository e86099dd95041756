"""Training scripts in the shape of public ones: with the cache, in each form, they train the same as without it."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import soxr
from children import python_path
from crossed import crossed

from hf_audio_cache import CachedFeatures

pytestmark = pytest.mark.torch

RATE = 16_000
LONGEST = 2.5  # seconds, of the filter of long clips
STEPS = 4


@dataclass(frozen=True)
class Script:
    """One script: its model and extractor, the columns that it trains on, and how rows become a batch."""

    extractor: Callable[[], Any]
    model: Callable[[], Any]
    names: tuple[str, ...]
    arguments: dict[str, Any]

    def cached(self, root: Any, **settings: Any) -> CachedFeatures:
        kwargs = {"return_attention_mask": True} if "attention_mask" in self.names else None
        return CachedFeatures(
            self.extractor(),
            root,
            auto_resample=True,
            processor_kwargs=kwargs,
            **{"length_column": "input_length", **settings},
        )

    def collator(self) -> Callable[..., dict[str, Any]]:
        return functools.partial(collate, self.extractor(), names=self.names)


def whisper() -> Script:
    """Whisper, seq2seq, with SpecAugment under an attention mask; features of one length."""
    import transformers

    config = transformers.WhisperConfig(
        **{"vocab_size": 128, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_source_positions": 200},
        **{"encoder_attention_heads": 1, "decoder_attention_heads": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
        **{"apply_spec_augment": True, "mask_time_prob": 0.3, "mask_feature_prob": 0.2, "mask_feature_length": 4},
    )
    return Script(
        extractor=functools.partial(transformers.WhisperFeatureExtractor, chunk_length=4),
        model=lambda: transformers.WhisperForConditionalGeneration(config),
        names=("input_features", "attention_mask"),
        arguments={},
    )


def ctc() -> Script:
    """Wav2Vec2, CTC: waveforms of many lengths, in batches of like ones."""
    import transformers

    config = transformers.Wav2Vec2Config(
        **{"vocab_size": 128, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "pad_token_id": 0},
        **{"intermediate_size": 16, "conv_dim": (8, 8), "conv_stride": (10, 16), "conv_kernel": (20, 16)},
        **{"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "mask_time_length": 2},
        **{"ctc_zero_infinity": True, "num_feat_extract_layers": 2},
    )
    return Script(
        extractor=functools.partial(transformers.Wav2Vec2FeatureExtractor, return_attention_mask=True),
        model=lambda: transformers.Wav2Vec2ForCTC(config),
        names=("input_values",),
        # transformers 5.24 drops the lengths as unused before it groups by them.
        arguments={
            **{"train_sampling_strategy": "group_by_length", "length_column_name": "input_length"},
            "remove_unused_columns": False,
        },
    )


SCRIPTS = {"whisper": whisper, "ctc": ctc}


def labels_of(text: str) -> list[int]:
    return [1, *text.encode()[:16], 2]


def padded_labels(rows: list[dict[str, Any]]) -> Any:
    import torch

    labels = [torch.tensor(row["labels"]) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)


def collate(extractor: Any, rows: list[dict[str, Any]], *, names: tuple[str, ...]) -> dict[str, Any]:
    inputs = [{name: row[name] for name in names} for row in rows]
    return {**extractor.pad(inputs, padding=True, return_tensors="pt"), "labels": padded_labels(rows)}


def train(script: Any, dataset: Any, folder: Any, arguments: dict[str, Any], **others: Any) -> tuple[list[float], str]:
    """Train; return the losses, and the sha256 of the weights at the end."""
    import transformers
    from transformers.trainer_utils import set_seed

    set_seed(0)
    trainer = transformers.Trainer(
        model=script.model(),
        args=transformers.TrainingArguments(
            output_dir=str(folder),
            **{"per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 1e-2},
            **{"use_cpu": True, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "seed": 0},
            **{"max_steps": STEPS, **script.arguments, **arguments},
        ),
        train_dataset=dataset,
        data_collator=script.collator(),
        **others,
    )
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    weights = hashlib.sha256()
    for tensor in trainer.model.state_dict().values():
        weights.update(tensor.numpy().tobytes())
    assert len(losses) == trainer.state.max_steps
    assert all(map(np.isfinite, losses))
    return losses, weights.hexdigest()


def is_in_range(input_length: int) -> bool:
    return input_length < LONGEST * RATE


def prepare_as_it_was(batch: dict[str, Any], extractor: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """What public scripts do: decode, extract, and say the length; `datasets` would need torchcodec to decode."""
    samples, rate = soundfile.read(io.BytesIO(batch["audio"]["bytes"]), dtype="float32")
    samples = samples if rate == RATE else soxr.resample(samples, rate, RATE, quality="HQ")
    kwargs = {"return_attention_mask": True} if "attention_mask" in names else {}
    inputs = extractor(samples, sampling_rate=RATE, **kwargs)
    return {
        **{name: inputs[name][0] for name in names},
        "input_length": len(samples),
        "labels": labels_of(batch["text"]),
    }


def prepare_with_the_cache(batch: dict[str, Any], cached_features: CachedFeatures) -> dict[str, Any]:
    return {**cached_features(batch), "labels": labels_of(batch["text"])}


def add_labels(text: str) -> dict[str, Any]:
    return {"labels": labels_of(text)}


def without_cache(script: Script, rows: Any, root: Any) -> tuple[Any, dict[str, Any]]:
    prepare = functools.partial(prepare_as_it_was, extractor=script.extractor(), names=script.names)
    mapped = rows.map(prepare, remove_columns=rows.column_names)
    return mapped.filter(is_in_range, input_columns=["input_length"]), {}


def callable_in_two_processes(script: Script, rows: Any, root: Any) -> tuple[Any, dict[str, Any]]:
    prepare = functools.partial(prepare_with_the_cache, cached_features=script.cached(root))
    mapped = rows.map(prepare, remove_columns=rows.column_names, num_proc=2)
    return mapped.filter(is_in_range, input_columns=["input_length"]), {}


def references(script: Script, rows: Any, root: Any) -> tuple[Any, dict[str, Any]]:
    mapped = script.cached(root).map(rows, remove_columns="audio")
    mapped = mapped.filter(is_in_range, input_columns=["input_length"])
    return mapped.map(add_labels, input_columns=["text"], remove_columns="text"), {}


def references_by_two_read_in_batches(script: Script, rows: Any, root: Any) -> tuple[Any, dict[str, Any]]:
    mapped = script.cached(root).map(rows, num_proc=2)
    mapped = mapped.filter(is_in_range, input_columns=["input_length"])
    mapped = mapped.map(add_labels, input_columns=["text"])
    return script.cached(root).attach(mapped, remove_columns=["audio"]), {"remove_unused_columns": False}


def attached(script: Script, rows: Any, root: Any) -> tuple[Any, dict[str, Any]]:
    cached_features = script.cached(root)
    rows = rows.map(add_labels, input_columns=["text"])
    lengths = cached_features.map(rows).select_columns("input_length")
    rows = datasets.concatenate_datasets([rows, lengths], axis=1)
    rows = rows.filter(is_in_range, input_columns=["input_length"])
    late = script.cached(root, length_column=None)
    return late.attach(rows, remove_columns=["audio", "text"]), {"remove_unused_columns": False}


FORMS = (callable_in_two_processes, references, references_by_two_read_in_batches, attached)


def rows_of_speech(sentences: list[Path], prompts: list[Path]) -> datasets.Dataset:
    """Return twenty clips at 16 and 8 kHz, some too long."""
    clips = [*sentences, *prompts[::40]][:20]
    seconds = [soundfile.info(clip).duration for clip in clips]
    assert 12 <= sum(length < LONGEST for length in seconds) < len(clips)
    cells = [{"bytes": clip.read_bytes(), "path": clip.name} for clip in clips]
    dataset = datasets.Dataset.from_dict({"audio": cells, "text": [clip.stem for clip in clips]})
    return dataset.cast_column("audio", datasets.Audio(decode=False))


@pytest.fixture(scope="module")
def rows(sentences, prompts):
    return rows_of_speech(sentences, prompts)


@pytest.fixture(scope="module")
def trained_without(rows, tmp_path_factory):
    """``trained_without(name)``: losses and weights of a script without the cache."""

    @functools.cache
    def train_script(name: str) -> tuple[list[float], str]:
        script, folder = SCRIPTS[name](), tmp_path_factory.mktemp(name)
        dataset, arguments = without_cache(script, rows, None)
        return train(script, dataset, folder, arguments)

    return train_script


@pytest.mark.parametrize(("name", "form"), crossed([*SCRIPTS], FORMS))
def test_a_script_trains_the_same(name, form, rows, trained_without, tmp_path):
    script = SCRIPTS[name]()
    for _ in range(2):  # cold, then warm
        dataset, arguments = form(script, rows, tmp_path / "root")
        assert train(script, dataset, tmp_path / "out", arguments) == trained_without(name)


def without_cache_streamed(script: Script, stream: Any, root: Any) -> Any:
    prepare = functools.partial(prepare_as_it_was, extractor=script.extractor(), names=script.names)
    return stream.map(prepare, remove_columns=["audio", "text"])


def called_on_the_stream(script: Script, stream: Any, root: Any) -> Any:
    prepare = functools.partial(prepare_with_the_cache, cached_features=script.cached(root))
    return stream.map(prepare, remove_columns=["audio", "text"])


def attached_to_the_stream(script: Script, stream: Any, root: Any) -> Any:
    stream = script.cached(root).attach(stream, remove_columns=["audio"])
    return stream.map(lambda row: {**row, **add_labels(row["text"])}, remove_columns="text")


def train_stream(form: Callable[..., Any], rows: Any, root: Any, folder: Any) -> tuple[list[float], str]:
    script = whisper()
    stream = rows.to_iterable_dataset(num_shards=2).shuffle(seed=7, buffer_size=6)
    stream = form(script, stream, root).filter(lambda row: is_in_range(row["input_length"]))
    return train(script, stream, folder, {"remove_unused_columns": False})


@pytest.mark.parametrize("form", [called_on_the_stream, attached_to_the_stream], ids=lambda form: form.__name__)
def test_a_streaming_script_trains_the_same(form, rows, tmp_path):
    expected = train_stream(without_cache_streamed, rows, None, tmp_path / "out")
    for _ in range(2):
        assert train_stream(form, rows, tmp_path / "root", tmp_path / "out") == expected


@pytest.mark.parametrize("n_read", [3, 9])
def test_a_stream_is_resumed_with_its_lengths(n_read, rows, tmp_path):
    script, found = whisper(), {}
    for name, stop in (("whole", None), ("begun", n_read)):
        stream = attached_to_the_stream(script, rows.to_iterable_dataset(num_shards=2), tmp_path / "root")
        found[name] = [row["input_length"] for row in stream.take(stop or len(rows))]
    stream = attached_to_the_stream(script, rows.to_iterable_dataset(num_shards=2), tmp_path / "root")
    for number, _ in enumerate(stream, start=1):
        if number == n_read:
            state = stream.state_dict()
            break
    again = attached_to_the_stream(script, rows.to_iterable_dataset(num_shards=2), tmp_path / "root")
    again.load_state_dict(state)
    assert found["begun"] + [row["input_length"] for row in again] == found["whole"]
    assert sorted(found["whole"]) == sorted(
        round(soundfile.info(io.BytesIO(cell["bytes"])).duration * RATE) for cell in rows["audio"]
    )


def train_rank(folder: str) -> None:
    """Train without the cache and with references, as one rank of two; print what came of it."""
    import torch

    rows = datasets.load_from_disk(f"{folder}/rows")
    found = []
    for form in (without_cache, references_by_two_read_in_batches):
        dataset, arguments = form(whisper(), rows, f"{folder}/root")
        found.append(train(whisper(), dataset, f"{folder}/out", {**arguments, "ddp_backend": "gloo"}))
        assert torch.distributed.get_world_size() == 2
    assert found[0] == found[1]
    sys.stdout.write(f"\n{found[0][1]}\n")


# More than ten seconds on a busy machine: two fresh processes import what trains.
def test_two_ranks_train_the_same(rows, tmp_path):
    rows.save_to_disk(tmp_path / "rows")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "import sys, test_training_scripts as scripts; scripts.train_rank(sys.argv[1])"
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    where["PYTHONPATH"] = python_path(has_torch=True)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=200)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert len({output.splitlines()[-1] for output in outputs}) == 1

"""The Python of README and docs runs, page by page and in order, as far as what it needs is installed."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import audio_datasets as data
import configs
import datasets
import pytest
from transformers import AutoFeatureExtractor

from hf_audio_cache import CachedFeatures, CachedWaveforms, CacheRoot

CHECKOUT = Path(__file__).resolve().parent.parent
SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HAS_TORCH = importlib.util.find_spec("torch") is not None
OF_TORCH = re.compile(r"torch|Trainer|return_tensors=\"pt\"|arguments\.")
RAY = (pytest.mark.ray, pytest.mark.filterwarnings("default"))
PAGES = [
    pytest.param(page.relative_to(CHECKOUT).as_posix(), marks=RAY if page.name == "ray.md" else ())
    for page in (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")))
    if SNIPPET.search(page.read_text("utf-8"))
]


@pytest.fixture(params=PAGES)
def page(request):
    """A page with Python in it; for Ray's, the cluster, which starts before the working directory is another one."""
    if request.param == "docs/ray.md":
        request.getfixturevalue("cluster")
    return request.param


@pytest.fixture
def workspace(page, prompts, tmp_path, monkeypatch):
    """The clips of a folder in which the names on the Hub and the buckets that the pages use are folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_AUDIO_CACHE", str(tmp_path / "default-root"))
    write_whisper(Path("openai/whisper-tiny"))
    clips = data.shortest(prompts, 40)[-4:]
    for folder in map(Path, ("team/corpus", "bucket/clips")):
        folder.mkdir(parents=True)
        data.in_memory(clips, decode=True).to_parquet(folder / "train.parquet")
    data.copies(clips, Path("recordings"))
    for root in ("bucket/audio-cache", "data/audio-cache"):
        CachedWaveforms(root, sampling_rate=16_000, auto_resample=True)(str(clips[0]))
    return clips


def write_whisper(folder: Path) -> None:
    """Write what `from_pretrained` loads: Whisper's processor with a vocabulary of bytes, and a tiny model."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import WhisperProcessor, WhisperTokenizer

    words = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|translate|>", "<|notimestamps|>")
    vocabulary = {word: number for number, word in enumerate([*sorted(ByteLevel.alphabet()), *words])}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], pad_token="<|endoftext|>")
    WhisperProcessor(configs.make_processor("whisper_tiny"), tokenizer).save_pretrained(folder)
    if HAS_TORCH:
        from transformers import WhisperConfig, WhisperForConditionalGeneration

        tiny = dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 16)
        tiny |= dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads"), 1)
        tiny |= {"decoder_attention_heads": 1, "vocab_size": len(vocabulary), "decoder_start_token_id": 257}
        tiny |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 256)
        WhisperForConditionalGeneration(WhisperConfig(**tiny)).save_pretrained(folder)


def given(clips: list[Path], processor: Any) -> dict[str, Any]:
    """Return what the pages take as there: a dataset, a processor, and what comes of them."""
    cached_features = CachedFeatures(processor, auto_resample=True)
    return {
        "cached_features": cached_features,
        "datasets": datasets,
        "ds": data.in_memory(clips, decode=True),
        "pathlib": pathlib,
        "paths": [str(clip) for clip in clips],
        "input_features": next(iter(data.expected_features(processor, clips[0], auto_resample=True).values())),
        "blob_sha": data.sha256(clips[0]),
        "processor": processor,
        "processor_sha": cached_features.processor_sha,
        "rank": 0,
        "tokenizer": lambda texts: SimpleNamespace(input_ids=[[*text.encode()] for text in texts]),
        "world_size": 1,
        **{kind.__name__: kind for kind in (CachedFeatures, CachedWaveforms, CacheRoot)},
    }


# The warnings are what `datasets` and torch say of themselves and of this machine.
@pytest.mark.filterwarnings("ignore:Specifying null_placement in SortOptions:FutureWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_the_python_of_a_page_runs(page, workspace, tmp_path):
    text = (CHECKOUT / page).read_text("utf-8")
    if page == "docs/ray.md":
        # The workers have no torch, without which Whisper is another processor.
        names = {**given(workspace, configs.make_processor("wav2vec2")), "ray": sys.modules["ray"]}
    else:
        names = given(workspace, AutoFeatureExtractor.from_pretrained("openai/whisper-tiny"))
    if HAS_TORCH:
        import torch

        names |= {"torch": torch, "collate": list}
    for snippet in SNIPPET.finditer(text):
        code = re.sub(r'"(s3:/)?/(?=\w)', f'"{tmp_path}/', snippet[1]).replace("{…}", "{}")
        if HAS_TORCH or not OF_TORCH.search(code):
            line = text.count("\n", 0, snippet.start(1))
            exec(compile("\n" * line + code, str(CHECKOUT / page), "exec"), names)

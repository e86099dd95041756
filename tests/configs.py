"""The published configurations of well-known audio processors, and extractors built from them.

Each is the ``preprocessor_config.json`` of a model on the Hub, without its `mel_filters`, which transformers computes
from the rest and ignores in the file. The comments say how sure a transcription is.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

# Where transformers defines each class. By module path, since without torch transformers' own namespace has
# a dummy in the place of CLAP's.
_MODULES = {
    "ASTFeatureExtractor": "audio_spectrogram_transformer.feature_extraction_audio_spectrogram_transformer",
    "ClapFeatureExtractor": "clap.feature_extraction_clap",
    "SeamlessM4TFeatureExtractor": "seamless_m4t.feature_extraction_seamless_m4t",
    "SpeechT5FeatureExtractor": "speecht5.feature_extraction_speecht5",
    "Wav2Vec2FeatureExtractor": "wav2vec2.feature_extraction_wav2vec2",
    "WhisperFeatureExtractor": "whisper.feature_extraction_whisper",
}

_CLAP = {
    "chunk_length_s": 10,
    "feature_extractor_type": "ClapFeatureExtractor",
    "feature_size": 64,
    "fft_window_size": 1024,
    "frequency_max": 14000,
    "frequency_min": 50,
    "hop_length": 480,
    "max_length_s": 10,
    "n_fft": 1024,
    "nb_frequency_bins": 513,
    "nb_max_frames": 1000,
    "nb_max_samples": 480000,
    "padding": "repeatpad",
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "ClapProcessor",
    "return_attention_mask": False,
    "sampling_rate": 48000,
    "top_db": None,
}

_WHISPER = {
    "chunk_length": 30,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480000,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "WhisperProcessor",
    "return_attention_mask": False,
    "sampling_rate": 16000,
}

CONFIGS: dict[str, dict[str, Any]] = {
    # MIT/ast-finetuned-audioset-10-10-0.4593: lengths, rate, mean and std as in public copies; the rest are defaults.
    "ast": {
        "do_normalize": True,
        "feature_extractor_type": "ASTFeatureExtractor",
        "feature_size": 1,
        "max_length": 1024,
        "mean": -4.2677393,
        "num_mel_bins": 128,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": 16000,
        "std": 4.5689974,
    },
    # laion/clap-htsat-fused, revision 365dea6: the released keys.
    "clap_fused": {**_CLAP, "truncation": "fusion"},
    # laion/clap-htsat-unfused: as fused, but for the truncation, as two public copies have it.
    "clap_unfused": {**_CLAP, "truncation": "rand_trunc"},
    # facebook/hubert-large-ls960-ft: class, rate and normalisation are certain, the mask and the padding less so.
    # The integer padding value is meant: 0 and 0.0 pad alike.
    "hubert": {
        "do_normalize": True,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0,
        "return_attention_mask": True,
        "sampling_rate": 16000,
    },
    # Qwen/Qwen2-Audio-7B-Instruct: the file as quoted in full in public.
    "qwen2_audio": {
        **_WHISPER,
        "feature_size": 128,
        "nb_max_frames": 3000,
        "processor_class": "Qwen2AudioProcessor",
        "return_attention_mask": True,
    },
    # facebook/seamless-m4t-v2-large: the values are certain; the list of some 100 `language_code`s is left out.
    "seamless_m4t": {
        "feature_extractor_type": "SeamlessM4TFeatureExtractor",
        "feature_size": 80,
        "num_mel_bins": 80,
        "padding_side": "right",
        "padding_value": 0.0,
        "processor_class": "SeamlessM4TProcessor",
        "return_attention_mask": True,
        "sampling_rate": 16000,
        "stride": 2,
    },
    # microsoft/speecht5_asr: verbatim from a copy of speecht5_vc, which is believed to share it.
    "speecht5": {
        "do_normalize": False,
        "feature_extractor_type": "SpeechT5FeatureExtractor",
        "feature_size": 1,
        "fmax": 7600,
        "fmin": 80,
        "frame_signal_scale": 1.0,
        "hop_length": 16,
        "mel_floor": 1e-10,
        "n_fft": 1024,
        "n_freqs": 513,
        "num_mel_bins": 80,
        "padding_side": "right",
        "padding_value": 0.0,
        "processor_class": "SpeechT5Processor",
        "reduction_factor": 2,
        "return_attention_mask": True,
        "sample_size": 1024,
        "sample_stride": 256,
        "sampling_rate": 16000,
        "win_function": "hann_window",
        "win_length": 64,
    },
    # facebook/w2v-bert-2.0: as two public docstrings print it. It pads with 1.
    "w2v_bert": {
        "feature_extractor_type": "SeamlessM4TFeatureExtractor",
        "feature_size": 80,
        "num_mel_bins": 80,
        "padding_side": "right",
        "padding_value": 1,
        "return_attention_mask": True,
        "sampling_rate": 16000,
        "stride": 2,
    },
    # facebook/wav2vec2-base-960h: as transformers' documentation prints it, and three public copies.
    "wav2vec2": {
        "do_normalize": True,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": 16000,
    },
    # somosnlp/wav2vec2-spanish: verbatim. As above, but with the attention mask.
    "wav2vec2_spanish": {
        "do_normalize": True,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": 16000,
    },
    # openai/whisper-base as a public copy has it, verbatim: `nb_max_frame` and `num_mel_bins` are keys that
    # the class does not know, and keeps.
    "whisper_base_wild": {
        **_WHISPER,
        "feature_size": 80,
        "nb_max_frame": 3000,
        "num_mel_bins": 80,
        "return_attention_mask": True,
    },
    # openai/whisper-large-v3: 128 mel bins.
    "whisper_large_v3": {**_WHISPER, "feature_size": 128, "nb_max_frames": 3000},
    # openai/whisper-tiny: 80 mel bins, as five public copies have it.
    "whisper_tiny": {**_WHISPER, "feature_size": 80, "nb_max_frames": 3000},
}


# AST pads with torch, whatever computed its features.
NEEDS_TORCH = frozenset({"ast"})


def parameters(*names: str) -> list[Any]:
    """Return `names`, or all, for ``pytest.mark.parametrize``, with the marker `torch` where one needs it."""
    return [
        pytest.param(name, marks=[pytest.mark.torch] if name in NEEDS_TORCH else [])
        for name in names or sorted(CONFIGS)
    ]


def make_processor(name: str, **changes: Any) -> Any:
    """Return a new feature extractor of the configuration `name`, with `changes` to it."""
    config = {**CONFIGS[name], **changes}
    config.pop("processor_class", None)
    class_name = config.pop("feature_extractor_type")
    module = importlib.import_module(f"transformers.models.{_MODULES[class_name]}")
    return getattr(module, class_name)(**config)


def write_config(name: str, directory: Path) -> Path:
    """Write the configuration `name` as a model directory that ``from_pretrained`` loads; return `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(CONFIGS[name], indent=2, sort_keys=True)
    (directory / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")
    return directory

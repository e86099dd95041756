"""When a call for several clips gives each the features that it has alone: known for transformers' own extractors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

# Of which calls for several clips were compared with calls for each: by what they read of a call, and no others.
_WELL_KNOWN = {
    "ASTFeatureExtractor": "audio_spectrogram_transformer.feature_extraction_audio_spectrogram_transformer",
    "ClapFeatureExtractor": "clap.feature_extraction_clap",
    "SeamlessM4TFeatureExtractor": "seamless_m4t.feature_extraction_seamless_m4t",
    "Wav2Vec2FeatureExtractor": "wav2vec2.feature_extraction_wav2vec2",
    "WhisperFeatureExtractor": "whisper.feature_extraction_whisper",
}


def is_well_known(extractor: Any) -> bool:
    """Return whether it is one of these classes itself, and no method of the object was replaced."""
    kind = type(extractor)
    is_listed = kind.__module__ == f"transformers.models.{_WELL_KNOWN.get(kind.__name__)}"
    return is_listed and not any(callable(value) for value in vars(extractor).values())


def casts_to_float32(extractor: Any) -> bool:
    """Return whether samples become float32 before anything is computed of them."""
    return is_well_known(extractor) and type(extractor).__name__ != "ClapFeatureExtractor"


def clips_stand_alone(extractor: Any, arguments: Mapping[str, Any]) -> bool:
    """Return whether each clip of a batch has the bits that it has alone, apart from padding.

    That is so where all clips are padded to one fixed length, and where they are padded after they were normalised.
    """
    if not is_well_known(extractor):
        return False
    kind = type(extractor).__name__
    if kind == "ASTFeatureExtractor":  # pads and cuts to a length of its own
        return True
    if kind == "ClapFeatureExtractor":  # so does CLAP's; "fusion" draws one clip of the batch
        truncation: str = arguments.get("truncation") or extractor.truncation
        return truncation != "fusion"
    if _padding(extractor, arguments) == "max_length":
        return True
    if kind == "Wav2Vec2FeatureExtractor" and is_unpadded(extractor, arguments):
        return True
    if not is_padded_to_longest(extractor, arguments) or extractor.padding_side != "right":
        return False
    if kind == "Wav2Vec2FeatureExtractor":  # normalises each clip where a mask shows it, else the padded one
        mask = arguments.get("return_attention_mask")
        return not extractor.do_normalize or bool(extractor.return_attention_mask if mask is None else mask)
    if kind == "SeamlessM4TFeatureExtractor":  # joins frames after it has padded
        multiple = arguments.get("pad_to_multiple_of", _default(extractor, "pad_to_multiple_of"))
        return bool(multiple) and multiple % extractor.stride == 0
    return False


def is_unpadded(extractor: Any, arguments: Mapping[str, Any]) -> bool:
    """Return whether the clips of a batch keep their lengths."""
    return _padding(extractor, arguments) in (False, "do_not_pad")


def is_padded_to_longest(extractor: Any, arguments: Mapping[str, Any]) -> bool:
    """Return whether the clips of a batch are brought to the length of the longest."""
    return _padding(extractor, arguments) in (True, "longest")


def _padding(extractor: Any, arguments: Mapping[str, Any]) -> Any:
    return arguments.get("padding", _default(extractor, "padding"))


def _default(extractor: Any, argument: str) -> Any:
    parameter = inspect.signature(type(extractor).__call__).parameters.get(argument)
    return None if parameter is None else parameter.default

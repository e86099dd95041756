"""In which batches a clip has the bits that it has alone, by rule; `test_stand_in.py` compares the bits themselves."""

from __future__ import annotations

import configs
import pytest

from hf_audio_cache.processors.batch_rules import clips_stand_alone

LONGEST = {"padding": True}
MASKED = {**LONGEST, "return_attention_mask": True}


@pytest.mark.parametrize(
    ("name", "changes", "arguments", "expected"),
    [
        ("whisper_tiny", {}, {}, True),  # by default padded to 30 s
        ("whisper_tiny", {}, LONGEST, False),
        ("wav2vec2", {}, {}, True),  # not padded
        ("wav2vec2", {}, LONGEST, False),  # normalised with its padding
        ("wav2vec2", {}, MASKED, True),
        ("wav2vec2", {"padding_side": "left"}, MASKED, False),
        ("wav2vec2", {"do_normalize": False}, LONGEST, True),
        ("wav2vec2", {"return_attention_mask": True}, LONGEST, True),
        ("wav2vec2", {"return_attention_mask": True}, {**LONGEST, "return_attention_mask": False}, False),
        ("seamless_m4t", {}, {}, True),
        ("seamless_m4t", {}, {"pad_to_multiple_of": 3}, False),  # frames are joined by two
        ("clap_fused", {}, {}, False),
        ("clap_unfused", {}, {}, True),
        ("clap_unfused", {}, {"truncation": "fusion"}, False),
        ("speecht5", {}, {}, False),  # of a class that nobody compared
    ],
)
def test_batches_of_which_each_clip_is_answered(name, changes, arguments, expected):
    assert clips_stand_alone(configs.make_processor(name, **changes), arguments) is expected


def test_an_extractor_with_a_method_of_its_own_is_not_known():
    extractor = configs.make_processor("whisper_tiny")
    extractor.pad = extractor.pad
    assert not clips_stand_alone(extractor, {})


def test_a_subclass_is_not_known():
    class Own(type(configs.make_processor("whisper_tiny"))):
        pass

    assert not clips_stand_alone(Own(), {})

"""Settings: one value makes both keys, feeds the decoder, is pickled and hashed."""

import dataclasses
import pickle

import pytest

from hf_audio_cache import AudioCacheKey, CachedFeatures, WaveformCacheKey
from hf_audio_cache.pipeline import FeatureSettings, WaveformSettings
from hf_audio_cache.support.secrets import secret_options

BLOB, PROCESSOR = "ab" * 32, "cd" * 32


@pytest.mark.parametrize(
    ("settings", "features", "waveform"),
    [
        (WaveformSettings(16_000), "cdcdcdcdcdcd.16000.0.npz", "16000.0.wav.npz"),
        (WaveformSettings(8_000, 1_500), "cdcdcdcdcdcd.8000.1500.npz", "8000.1500.wav.npz"),
        (WaveformSettings(16_000, 0, True), "cdcdcdcdcdcd.16000.0.rs.npz", "16000.0.rs.wav.npz"),
        (WaveformSettings(16_000, 0, True, 3), "cdcdcdcdcdcd.16000.0.rs.ch3.npz", "16000.0.rs.ch3.wav.npz"),
        (WaveformSettings(16_000, 0, channels="all"), "cdcdcdcdcdcd.16000.0.chall.npz", "16000.0.chall.wav.npz"),
        (WaveformSettings(16_000, 9, longer="error"), "cdcdcdcdcdcd.16000.9.npz", "16000.9.wav.npz"),
        (WaveformSettings(16_000, truncated="accept"), "cdcdcdcdcdcd.16000.0.npz", "16000.0.wav.npz"),
    ],
)
def test_both_keys_come_from_the_settings(settings, features, waveform):
    assert settings.features_key(BLOB, PROCESSOR).name() == f"ab/{BLOB}.{features}"
    assert settings.waveform_key(BLOB).name() == f"ab/{BLOB}.{waveform}"
    assert settings.features_key(BLOB, PROCESSOR).waveform_key() == settings.waveform_key(BLOB)
    assert isinstance(settings.features_key(BLOB, PROCESSOR), AudioCacheKey)
    assert isinstance(settings.waveform_key(BLOB), WaveformCacheKey)


def test_settings_cannot_be_changed_by_their_caller():
    names = {"input_values": "speech"}
    settings = FeatureSettings(WaveformSettings(16_000), output_names=names)
    names["input_values"] = "sound"
    assert settings.output_names == {"input_values": "speech"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.on_error = "skip"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"on_error": "ignore"}, 'on_error must be "raise", "null" or "skip"'),
        ({"reason_column": "reason"}, 'reason_column needs on_error="null"'),
        ({"reason_column": "audio", "on_error": "null"}, "reason_column must be a name of its own"),
        ({"length_column": "audio"}, "length_column must be a name of its own"),
        ({"length_column": ""}, "length_column must be a name of its own"),
        ({"dtype": "float32"}, 'dtype must be "float16", "bfloat16" or None, not '),
        ({"nonfinite": "drop"}, 'nonfinite must be "error" or "keep", not '),
        ({"features": "sometimes"}, 'features must be "auto", "always" or "never"'),
        ({"waveforms": "sometimes"}, 'waveforms must be "auto", "always" or "never"'),
        ({"audio_column": None}, "audio_column must be the name of a column, not None"),
        ({"output_names": ["input_values"]}, "output_names must be a dict"),
        ({"processor_kwargs": "padding"}, "processor_kwargs must be a dict"),
    ],
)
def test_an_invalid_setting_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        FeatureSettings(WaveformSettings(16_000), **wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampling_rate": "16k"}, "sampling_rate must be an integer of at least 1"),
        ({"longer": "skip"}, 'longer must be "cut" or "error", not \'skip\''),
        ({"longer": "error"}, 'longer="error" needs max_length_seconds='),
        ({"truncated": True}, 'truncated must be "error" or "accept", not True'),
    ],
)
def test_an_invalid_setting_of_waveforms_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        WaveformSettings(**{"sampling_rate": 16_000, **wrong})


def test_a_pickle_has_every_setting(make_processor, tmp_path):
    given = {
        "audio_column": "sound",
        "output_names": {"input_values": "speech"},
        "on_error": "null",
        "reason_column": "reason",
        "length_column": "input_length",
        "data_dir": "/data/clips",
        "audio_storage_options": {"s3": {"key": "k"}},
        "processor_kwargs": {"padding": False},
        "dtype": "float16",
        "nonfinite": "keep",
        "features": "always",
        "waveforms": "never",
    }
    waveform = {"auto_resample": True, "channels": 1, "longer": "error", "truncated": "accept"}
    made = CachedFeatures(make_processor("wav2vec2"), tmp_path, max_length_seconds=1.5, **waveform, **given)
    given["audio_storage_options"] = secret_options(given["audio_storage_options"])
    assert made.settings == FeatureSettings(WaveformSettings(16_000, 1_500, **waveform), **given)
    left = FeatureSettings(WaveformSettings(16_000))
    assert not [name for name in vars(left) if getattr(left, name) == getattr(made.settings, name)]  # none is forgotten
    assert pickle.loads(pickle.dumps(made)).settings == made.settings


def test_settings_that_change_no_result_do_not_enter_the_hash():
    common = FeatureSettings(WaveformSettings(16_000))
    stored = dataclasses.replace(common, features="never", waveforms="always")
    assert stored.form_of_results() == common.form_of_results()
    for changed in (
        dataclasses.replace(common, audio_column="sound"),
        dataclasses.replace(common, output_names={"a": "b"}),
        dataclasses.replace(common, on_error="skip"),
        dataclasses.replace(common, on_error="null", reason_column="reason"),
        dataclasses.replace(common, waveform=WaveformSettings(8_000)),
        dataclasses.replace(common, waveform=WaveformSettings(16_000, 1)),
        dataclasses.replace(common, waveform=WaveformSettings(16_000, 0, True)),
        dataclasses.replace(common, waveform=WaveformSettings(16_000, channels=0)),
        dataclasses.replace(common, waveform=WaveformSettings(16_000, truncated="accept")),
        dataclasses.replace(common, length_column="input_length"),
    ):
        assert changed.form_of_results() != common.form_of_results()

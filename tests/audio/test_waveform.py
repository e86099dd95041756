"""Arrays that are decoded already: one scale, mono, resampled and capped like files."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soxr
from audio_files import assert_same_bits, decode_audio, encode

from hf_audio_cache.audio import waveform as waveforms
from hf_audio_cache.audio.request import Request
from hf_audio_cache.errors import AudioDecodeError, SamplingRateError


def to_waveform(samples: npt.NDArray[Any], source_rate: int, **settings: Any) -> npt.NDArray[np.float32]:
    return waveforms.to_waveform(samples, source_rate, Request(**settings)).samples


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4", ">i4", "<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("rate", [16000, 8000])
def test_decoded_arrays_have_one_scale(sentence: npt.NDArray[np.int16], dtype: str, rate: int) -> None:
    full_scale = {"i2": 1, "i4": 65536}.get(dtype[1:], 1 / 32768)
    samples = (sentence.astype(np.float64) * full_scale).astype(dtype)
    expected = (sentence / 32768).astype(np.float16 if dtype == "<f2" else np.float32).astype(np.float32)
    if rate != 16000:
        expected = soxr.resample(expected, 16000, rate, quality="HQ")
    assert_same_bits(to_waveform(samples, 16000, sampling_rate=rate, auto_resample=True), expected)


def test_bytes_and_array_of_a_clip_are_one_waveform(stereo: npt.NDArray[np.int16]) -> None:
    encoded = encode(stereo, 16000, "WAV")
    settings: dict[str, Any] = {"sampling_rate": 11025, "auto_resample": True, "max_length_ms": 2500}
    waveform = decode_audio(encoded, **settings)
    assert len(waveform) == 2500 * 11025 // 1000
    for samples in (stereo, np.ascontiguousarray(stereo.T), (stereo / 32768).astype(np.float64)):
        assert_same_bits(to_waveform(samples, 16000, **settings), waveform)


@pytest.mark.parametrize("shape", [(4000, 1), (1, 4000), (33, 32), (32, 33)])
def test_the_shorter_axis_has_the_channels(sentence: npt.NDArray[np.int16], shape: tuple[int, int]) -> None:
    samples = sentence[: shape[0] * shape[1]].reshape(shape) / 32768
    waveform = to_waveform(samples, 16000, sampling_rate=16000)
    assert waveform.shape == (max(shape),)
    assert np.allclose(waveform, samples.mean(axis=int(np.argmin(shape))), atol=1e-7)


@pytest.mark.parametrize("shape", [(), (2, 2), (40, 40), (33, 34), (2, 3, 4)])
def test_a_shape_that_does_not_show_its_channels_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(AudioDecodeError, match=r"It cannot be used\. Pass shape") as caught:
        to_waveform(np.ones(shape, np.float32), 16000, sampling_rate=16000, clip="row 3")
    assert caught.value.cause == f"an array of shape {shape}, which does not show what its channels are"
    assert caught.value.n_bytes == 4 * int(np.prod(shape))
    assert caught.value.clip == "row 3"


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int64", "bool", "complex64", "object", "U3", "M8[s]"])
def test_a_dtype_without_a_scale_is_named(dtype: str) -> None:
    with pytest.raises(
        AudioDecodeError, match="Pass float32 between -1 and 1, or int16 or int32 of full scale"
    ) as caught:
        to_waveform(np.zeros(100, dtype), 16000, sampling_rate=16000)
    assert caught.value.cause == f"an array of dtype {np.dtype(dtype)}"


@pytest.mark.parametrize("shape", [(0,), (0, 2), (2, 0)])
def test_an_empty_array(shape: tuple[int, ...]) -> None:
    with pytest.raises(AudioDecodeError) as caught:
        to_waveform(np.zeros(shape, np.float32), 16000, sampling_rate=16000)
    assert caught.value.cause == "no samples"
    assert "in a clip without a name (0 bytes)" in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_an_array_with_a_sample_that_is_no_float32(sentence: npt.NDArray[np.int16], value: float) -> None:
    samples = np.stack([sentence / 32768, sentence / 32768], axis=1)
    samples[123, 1] = value
    with pytest.raises(AudioDecodeError) as caught:
        to_waveform(samples, 16000, sampling_rate=16000)
    assert caught.value.cause == f"a sample that is {np.float32(value) if value != 1e39 else 'inf'} (frame 123)"


def test_an_array_at_another_rate() -> None:
    with pytest.raises(SamplingRateError, match="Expected 16000 Hz, found 0 Hz in a clip without a name") as caught:
        to_waveform(np.ones(100, np.float32), 0, sampling_rate=16000)
    assert (caught.value.expected, caught.value.actual) == (16000, 0)


def test_an_array_too_short_to_be_resampled() -> None:
    with pytest.raises(AudioDecodeError) as caught:
        to_waveform(np.ones(1, np.float32), 48000, sampling_rate=8000, auto_resample=True)
    assert caught.value.cause == "too short or too loud a clip to be resampled to 8000 Hz"


def test_the_waveform_is_an_array_of_its_own() -> None:
    samples = np.linspace(-1, 1, 1000, dtype=np.float32)
    waveform = to_waveform(samples, 16000, sampling_rate=16000, max_length_ms=10)
    waveform[:] = 0
    assert samples[0] == -1
    assert waveform.base is None

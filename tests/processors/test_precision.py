"""Features rounded to half the bits."""

import fractions
import math

import numpy as np
import pytest

from hf_audio_cache.errors import ProcessorError
from hf_audio_cache.processors.precision import rounded

SPECIAL = [0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1e-40, 65504.0, np.inf, -np.inf, np.nan]


def bits(array):
    return np.asarray(array, np.float32).view(np.uint32).tolist()


def test_ties_go_to_even_and_what_is_special_stays():
    [result] = rounded({"x": np.array(SPECIAL, np.float32)}, "bfloat16").values()
    expected = [0.0, -0.0, 1.0, 1.0, 1 + 2**-6, -1.0, 2.0**-133, 65536.0, np.inf, -np.inf, np.nan]
    assert result.dtype == np.float32
    assert bits(result[:7]) == [number & 0xFFFF0000 for number in bits(result[:7])]
    np.testing.assert_array_equal(result, np.array(expected, np.float32))
    assert bits(result[1]) == [0x80000000] or bits(result[1]) == 0x80000000


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_it_is_what_torch_makes_of_the_same_numbers(dtype):
    import torch

    numbers = np.random.default_rng(0).integers(0, 1 << 32, 1_000_000, np.uint32).view(np.float32)
    numbers = numbers[np.isfinite(numbers) & (np.abs(numbers) < (65504 if dtype == "float16" else 3e38))]
    [result] = rounded({"x": numbers}, dtype).values()
    expected = torch.from_numpy(numbers).to(getattr(torch, dtype)).to(torch.float32).numpy()
    assert bits(result.astype(np.float32)) == bits(expected)
    assert result.dtype == ("float16" if dtype == "float16" else "float32")


# Just beside the middle of two neighbours, where float32 cannot tell, and rounds to the middle.
BESIDE = [
    1 + 2**-8 + 2**-40,
    1 + 3 * 2**-8 - 2**-40,
    -1 - 2**-8 - 2**-40,
    2**-134 + 2**-160,
    1 + 2**-8,
    3.38e38 - 1e20,
    0.1,
]
BESIDE_HALF = [1 + 2**-11 + 2**-40, 1 + 3 * 2**-11 - 2**-40, -1 - 2**-11 - 2**-40, 2**-25 + 2**-60, 65519.99999, 0.1]


def nearest(number, bits, least):
    """Return the nearest number with so many bits after the first, ties to even, in whole multiples of `least`."""
    exponent = max(math.frexp(number)[1] - 1, math.frexp(least)[1] - 1 + bits)
    unit = fractions.Fraction(2) ** (exponent - bits)
    return float(round(fractions.Fraction(number) / unit) * unit)  # of a Fraction round() gives the even one


@pytest.mark.parametrize("kind", [np.float64, np.longdouble])
def test_wider_numbers_are_rounded_once(kind):
    random = np.random.default_rng(1).standard_normal(2000) * 10.0 ** np.random.default_rng(2).integers(-7, 5, 2000)
    for dtype, bits, least, beside in (("bfloat16", 7, 2**-133, BESIDE), ("float16", 10, 2**-24, BESIDE_HALF)):
        numbers = np.array([*beside, *random[np.abs(random) < 60000]], np.float64)
        [result] = rounded({"x": numbers.astype(kind)}, dtype).values()
        assert result.astype(np.float64).tolist() == [nearest(number, bits, least) for number in numbers.tolist()]
        [special] = rounded({"x": np.array([np.nan, np.inf, -np.inf, -0.0, 0.0], kind)}, dtype).values()
        np.testing.assert_array_equal(special, np.float32([np.nan, np.inf, -np.inf, -0.0, 0.0]))
        assert np.signbit(special[3])
        [scalar] = rounded({"x": np.array(0.1, kind)}, dtype).values()
        assert scalar.shape == ()


def test_masks_and_values_stay_as_they_are():
    outputs = {"mask": np.arange(3, dtype=np.int32), "flag": np.array([True]), "sizes": [1, 2]}
    result = rounded(outputs, "float16")
    assert result["mask"] is outputs["mask"]
    assert result["flag"] is outputs["flag"]
    assert result["sizes"] == [1, 2]
    assert rounded({"x": np.float64([0.1])}, "float16")["x"].dtype == np.float16


def test_none_changes_nothing():
    array = np.float64([0.1])
    assert rounded({"x": array}, None)["x"] is array


@pytest.mark.parametrize(("dtype", "number"), [("float16", 65520.0), ("bfloat16", 3.4e38)])
def test_a_number_that_would_become_infinite_is_refused(dtype, number):
    with pytest.raises(ProcessorError, match=r"'x' has values of up to .*cannot hold; nothing was stored"):
        rounded({"x": np.array([1.0, -number], np.float32)}, dtype)

"""Vectors in fewer bytes, against plain Python loops over float64 numbers."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cptk import quantization
from cptk.quantization import Calibration, calibrate, code_shape, dequantize, quantize

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 19))
VECTORS = hnp.arrays(np.float32, SIZES, elements=st.floats(-4, 4, width=32))


def int8_by_loops(vectors, low, high):
    """The nearest of 256 steps, a number at a time; `round` takes the even one of two."""
    found = []
    for vector in vectors.astype(float):
        row = []
        for value, least, most in zip(vector, low.astype(float), high.astype(float), strict=True):
            step = (most - least) / 255
            row.append(max(0, min(255, round((value - least) / step) if step else 0)) - 128)
        found.append(row)
    return np.array(found)


@given(VECTORS, VECTORS)
def test_int8_is_the_nearest_step_and_at_most_half_a_step_away(sample, other):
    calibration = calibrate(sample)
    width = sample.shape[1]
    vectors = np.resize(other, (len(other), width))
    codes = quantize(vectors, "int8", calibration)
    assert codes.dtype == np.int8
    np.testing.assert_array_equal(codes, int8_by_loops(vectors, *calibration))
    back = dequantize(codes, "int8", calibration, width)
    assert back.dtype == np.float32
    cut = np.clip(vectors, calibration.low, calibration.high)
    half = (calibration.high.astype(float) - calibration.low) / 255 / 2
    assert (np.abs(back - cut.astype(float)) <= half + 1e-6).all()


@given(VECTORS)
def test_bits_stand_in_the_order_of_packbits_and_come_back_as_signs(vectors):
    codes = quantize(vectors, "binary")
    dim = vectors.shape[1]
    for row, packed in zip(vectors, codes, strict=True):
        text = "".join("1" if value > 0 else "0" for value in row).ljust(8 * len(packed), "0")
        assert [int(text[i : i + 8], 2) for i in range(0, len(text), 8)] == packed.tolist()
    back = dequantize(codes, "binary", None, dim)
    np.testing.assert_array_equal(back > 0, vectors > 0)
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, rtol=1e-6)


@given(VECTORS)
def test_float16_rounds_and_float32_stays(vectors):
    assert quantize(vectors, "float32") is vectors
    halves = quantize(vectors, "float16")
    assert halves.dtype == np.float16
    np.testing.assert_allclose(
        dequantize(halves, "float16", None, vectors.shape[1]), vectors, rtol=2**-11, atol=2**-24
    )


def test_many_rows_are_done_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 7)).astype(np.float32)
    calibration = calibrate(vectors)
    whole = quantize(vectors, "int8", calibration)
    back = dequantize(whole, "int8", calibration, 7)
    monkeypatch.setattr(quantization, "_BLOCK", 30)
    np.testing.assert_array_equal(quantize(vectors, "int8", calibration), whole)
    np.testing.assert_array_equal(dequantize(whole, "int8", calibration, 7), back)


def test_cosine_to_float32_of_unit_vectors():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 384))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    calibration = calibrate(vectors)
    # sqrt(2 / pi) is the cosine of a normal vector and of its signs.
    least = {"float16": 0.999999, "int8": 0.9998, "binary": math.sqrt(2 / math.pi) - 0.02}
    for dtype, cosine in least.items():
        known = calibration if dtype == "int8" else None
        back = dequantize(quantize(vectors, dtype, known), dtype, known, 384)
        found = (back * vectors).sum(axis=1) / np.linalg.norm(back, axis=1)
        assert found.mean() > cosine
        assert code_shape(dtype, 384)[1] == {"binary": 48}.get(dtype, 384)


def test_equal_numbers_in_a_dimension_come_back():
    vectors = np.array([[0.3, 1.0], [0.3, -1.0]], np.float32)
    calibration = calibrate(vectors)
    np.testing.assert_array_equal(
        dequantize(quantize(vectors, "int8", calibration), "int8", calibration, 2), vectors
    )


def test_a_calibration_survives_json_to_the_last_bit():
    vectors = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32) * 1e-3
    calibration = calibrate(vectors)
    again = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    for part, other in zip(calibration, again, strict=True):
        np.testing.assert_array_equal(part, other)
        assert other.dtype == np.float32


BAD = [
    (None, TypeError, "real numbers"),
    ("text", TypeError, "real numbers"),
    ([["a"]], TypeError, "real numbers"),
    ([[1.0], [1.0, 2.0]], TypeError, "real numbers"),
    ([[True]], TypeError, "real numbers"),
    ([1.0, 2.0], ValueError, "shape"),
    (np.zeros((2, 0)), ValueError, "shape"),
    ([[0.0], [np.nan]], ValueError, "Vector 1 is not"),
    ([[1e300]], ValueError, "Vector 0 is not"),
]


@pytest.mark.parametrize(("vectors", "error", "says"), BAD)
def test_bad_vectors(vectors, error, says):
    for call in (calibrate, lambda x: quantize(x, "binary")):
        with pytest.raises(error, match=says):
            call(vectors)


def test_other_bad_input():
    vectors = np.ones((2, 3), np.float32)
    calibration = calibrate(vectors)
    with pytest.raises(ValueError, match="empty"):
        calibrate(np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"one of \['float32', .*Received: 'int4'"):
        quantize(vectors, "int4")
    with pytest.raises(ValueError, match="int8 needs a `calibration`"):
        quantize(vectors, "int8")
    with pytest.raises(TypeError, match="what `calibrate` returns"):
        quantize(vectors, "int8", {"low": 1})
    with pytest.raises(ValueError, match=r"of 3 dimensions.*one of 2"):
        quantize(vectors, "int8", calibrate(vectors[:, :2]))
    with pytest.raises(ValueError, match=r"up to 65,504 for float16\. Received: 70000"):
        quantize([[7e4]], "float16")
    codes = quantize(vectors, "int8", calibration)
    for wrong, dim in [(codes, 4), (codes.astype(np.uint8), 3), (codes[0], 3)]:
        with pytest.raises(ValueError, match=r"should be int8 of shape \(n, "):
            dequantize(wrong, "int8", calibration, dim)
    with pytest.raises(ValueError, match=r"uint8 of shape \(n, 2\)"):
        dequantize(quantize(vectors, "binary"), "binary", None, 9)
    with pytest.raises(TypeError, match="`dim` should be an integer"):
        dequantize(codes, "int8", calibration, 3.0)


@pytest.mark.parametrize(
    "content",
    [
        {"low": [0.0], "high": [-1.0]},
        {"low": [0.0], "high": [1.0, 2.0]},
        {"low": [], "high": []},
        {"low": ["a"], "high": ["b"]},
        {"low": [float("nan")], "high": [1.0]},
        {"low": 0.0, "high": 1.0},
    ],
)
def test_a_damaged_calibration(content):
    with pytest.raises(ValueError, match="above that in `high`"):
        Calibration.from_json(content)


@pytest.mark.parametrize("content", [None, [], {"low": [0.0]}, "low"])
def test_what_is_no_calibration(content):
    with pytest.raises(TypeError, match="what `calibrate` returns"):
        Calibration.from_json(content)

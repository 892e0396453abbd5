"""What is left over behind whole vectors: every length of a row, number of columns and samples."""

import numpy as np
import options
import pytest
from agreement import assert_agreement, assert_like_oracle
from data import DTYPES, HALVES, problem

KINDS = [*DTYPES, *HALVES]
LENGTHS = [*range(1, 71), 127, 129, 255, 257, 511, 513, 1023, 1025]
OPTIONS = {
    "none": (None, "none", False),
    "weights": ("real", "none", False),
    "activation": (None, "leaky", False),
    "all": ("mask", "relu", True),
}


def assert_with_options(shape, dtype, names, seed=0):
    """Forward and backward pass near the oracle, with options of these names."""
    settings = options.settings(shape, *names, dtype=dtype)
    assert_agreement(*problem(shape, dtype, seed=seed), **settings)


each_kind = pytest.mark.parametrize("dtype", KINDS, ids=lambda d: np.dtype(d).name)
each_option = pytest.mark.parametrize("names", OPTIONS.values(), ids=OPTIONS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length_of_a_row(dtype):
    for length in LENGTHS:
        assert_like_oracle(*problem((5, 3, length), dtype, seed=length))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_columns(dtype):
    for columns in [*range(1, 71), *range(1000, 1101, 7), 2049]:
        assert_like_oracle(*problem((9, columns), dtype, seed=columns))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_samples(dtype):
    for samples in [*range(2, 40), 63, 64, 65, 127, 128, 129]:
        assert_like_oracle(*problem((samples, 5), dtype, seed=samples))
        assert_like_oracle(*problem((samples, 3, 6), dtype, seed=samples))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 2, 7, 15, 49, 63, 65, 70, 196, 783, 785, 2047])
def test_tails_of_large_batches(length, dtype):
    channels = 5 if length > 70 else 33
    samples = 70_000 // (channels * length) + 3
    assert_like_oracle(*problem((samples, channels, length), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 200_003), (1, 3, 70_001), (200_003, 1), (70_001, 3), (2, 40_001), (2, 40_001, 1)],
)
def test_lopsided_shapes(shape, dtype):
    assert_like_oracle(*problem(shape, dtype))


@each_kind
@each_option
def test_every_length_of_a_row_with_options(names, dtype):
    for length in LENGTHS:
        assert_with_options((5, 3, length), dtype, names, length)


@each_kind
@each_option
def test_every_number_of_columns_with_options(names, dtype):
    for columns in [*range(1, 71), *range(1000, 1101, 7), 2049]:
        assert_with_options((9, columns), dtype, names, columns)


@each_kind
@each_option
def test_every_number_of_samples_with_options(names, dtype):
    for samples in [*range(2, 40), 63, 64, 65, 127, 128, 129]:
        assert_with_options((samples, 5), dtype, names, samples)
        assert_with_options((samples, 3, 6), dtype, names, samples)


@pytest.mark.usefixtures("stores")
@each_kind
@each_option
@pytest.mark.parametrize("length", [1, 7, 49, 65, 196, 785, 2047])
def test_tails_of_large_batches_with_options(length, names, dtype):
    channels = 5 if length > 70 else 33
    samples = 70_000 // (channels * length) + 3
    assert_with_options((samples, channels, length), dtype, names)


@pytest.mark.usefixtures("stores")
@each_kind
@each_option
@pytest.mark.parametrize("shape", [(1, 1, 200_003), (200_003, 1), (70_001, 3), (2, 40_001)])
def test_lopsided_shapes_with_options(shape, names, dtype):
    assert_with_options(shape, dtype, names)

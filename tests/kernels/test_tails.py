"""What is left over behind whole vectors: every length of a row, number of columns and samples."""

import pytest
from agreement import assert_like_oracle
from data import DTYPES, problem


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length_of_a_row(dtype):
    for length in [*range(1, 71), 127, 129, 255, 257, 511, 513, 1023, 1025]:
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

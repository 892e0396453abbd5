"""BatchNorm1d, 2d and 3d: PyTorch's checks of rank and its words."""

import numpy as np
import pytest
import reference
from data import normals

from fastbn import BatchNorm, BatchNorm1d, BatchNorm2d, BatchNorm3d


@pytest.mark.parametrize(
    ("layer", "rank", "message"),
    [
        (BatchNorm1d, 4, r"expected 2D or 3D input \(got 4D input\)"),
        (BatchNorm1d, 1, r"expected 2D or 3D input \(got 1D input\)"),
        (BatchNorm2d, 3, r"expected 4D input \(got 3D input\)"),
        (BatchNorm2d, 5, r"expected 4D input \(got 5D input\)"),
        (BatchNorm3d, 4, r"expected 5D input \(got 4D input\)"),
    ],
)
def test_rank_errors(layer, rank, message):
    bn = layer(3)
    with pytest.raises(ValueError, match=message):
        bn(np.zeros((3,) * rank))
    assert bn.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("layer", "rank"), [(BatchNorm1d, 2), (BatchNorm1d, 3), (BatchNorm2d, 4), (BatchNorm3d, 5)]
)
def test_ranks_accepted(layer, rank):
    x = normals((3,) * rank)
    np.testing.assert_allclose(layer(3)(x), reference.forward(x), atol=1e-13)


@pytest.mark.parametrize(("layer", "rank"), [(BatchNorm1d, 3), (BatchNorm2d, 4), (BatchNorm3d, 5)])
def test_arguments_are_those_of_batch_norm(layer, rank):
    bn = layer(4, 1e-3, 0.5, False, channel_axis=-1, dtype=np.float64)
    assert isinstance(bn, BatchNorm)
    x = normals((3,) * (rank - 1) + (4,))
    np.testing.assert_allclose(bn(x), reference.forward(x, eps=1e-3, channel_axis=-1), atol=1e-13)
    np.testing.assert_allclose(
        bn.running_mean, 0.5 * reference.statistics(x, -1)[0], rtol=1e-12, atol=1e-14
    )
    assert layer.__name__ in repr(bn)

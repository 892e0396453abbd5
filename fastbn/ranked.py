"""`BatchNorm` for inputs of one rank, with PyTorch's checks."""

import numpy as np

from .layers import BatchNorm


class BatchNorm1d(BatchNorm):
    """`BatchNorm` for (N, C) and (N, C, L) only, with PyTorch's check.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> fastbn.BatchNorm1d(3)(np.ones((2, 3), np.float32)).shape
    (2, 3)
    """

    _ranks: tuple[int, ...] = (2, 3)

    def _check_rank(self, x: np.ndarray) -> None:
        if x.ndim not in self._ranks:
            expected = " or ".join(f"{rank}D" for rank in self._ranks)
            raise ValueError(f"expected {expected} input (got {x.ndim}D input)")


class BatchNorm2d(BatchNorm1d):
    """`BatchNorm` for (N, C, H, W) only, with PyTorch's check.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> fastbn.BatchNorm2d(3)(np.ones((2, 3, 4, 4), np.float32)).shape
    (2, 3, 4, 4)
    """

    _ranks = (4,)


class BatchNorm3d(BatchNorm1d):
    """`BatchNorm` for (N, C, D, H, W) only, with PyTorch's check.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> fastbn.BatchNorm3d(3)(np.ones((2, 3, 4, 4, 4), np.float32)).shape
    (2, 3, 4, 4, 4)
    """

    _ranks = (5,)

"""The layers: parameters, running statistics and mode; no arithmetic of their own."""

from typing import Any

import numpy as np

from ._arrays import validate
from ._arrays.options import SLOPE, check_activation
from ._kernels import passes
from ._runtime import errors
from .functional import PARAMETERS, Saved, backward, forward_any
from .stats import move_running_stats


class BatchNorm:
    """Batch normalization with parameters, running statistics and gradients.

    Parameters
    ----------
    num_features : int or None
        Number of channels; None takes it from the first input.
    eps : float, default 1e-5
        Added to the variance.
    momentum : float or None, default 0.1
        Weight of the **new** value in the running statistics; None is the cumulative average.
    affine : bool, default True
        Whether to have a weight and a bias.
    track_running_stats : bool, default True
        Without running statistics, evaluation uses those of the batch.
    channel_axis : int, default 1
        Statistics run over all other axes.
    dtype : dtype, default float32
        float32 or float64, of parameters and running statistics.
    activation : {None, "relu", "leaky_relu"}
        Applied to the output.
    negative_slope : float, default 0.01
        Of leaky_relu below 0, at least 0.
    nonfinite : {"propagate", "skip", "raise"}
        What a training call does to the running statistics if any mean or variance of the batch is
        NaN or infinite: take it, leave everything as it is, or raise `FloatingPointError`.

    Attributes
    ----------
    weight, bias, weight_grad, bias_grad : ndarray, shape (C,), or None
    residual_grad : ndarray or None
        Gradient with respect to the residual of the last call that `backward` was called for.
    running_mean, running_var : ndarray, shape (C,), or None
        The variance is the unbiased one.
    num_batches_tracked : int
    training : bool
    saved : Saved or None
        What the last call left for `backward`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or range.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.BatchNorm(2, dtype=np.float64)
    >>> y = bn(np.array([[1.0, 10.0], [3.0, 30.0]]))
    >>> bn.running_mean, bn.running_var
    (array([0.2, 2. ]), array([ 1.1, 20.9]))
    >>> dx = bn.backward(np.ones((2, 2)))
    >>> bn.bias_grad
    array([2., 2.])
    >>> bn.eval()(np.zeros((1, 2))).shape
    (1, 2)
    """

    def __init__(
        self,
        num_features: int | None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        channel_axis: int = 1,
        dtype=np.float32,
        activation: str | None = None,
        negative_slope: float = SLOPE,
        nonfinite: str = "propagate",
    ):
        if num_features is not None:
            num_features = errors.whole("num_features", num_features, 1)
        if momentum is not None:
            momentum = errors.number("momentum", momentum)
        errors.choice("nonfinite", nonfinite, ("propagate", "skip", "raise"))
        self.num_features = num_features
        self.eps = errors.number("eps", eps, 0.0)
        self.momentum = momentum
        self.affine, self.track_running_stats = bool(affine), bool(track_running_stats)
        self.channel_axis = errors.integer("channel_axis", channel_axis)
        self.dtype = validate.parameter_dtype("dtype", dtype)
        self.activation, self.negative_slope = check_activation(activation, negative_slope)
        self.nonfinite = nonfinite
        self.training = True
        self.saved: Saved | None = None
        self.num_batches_tracked = 0
        self.weight: np.ndarray | None = None
        self.bias: np.ndarray | None = None
        self.weight_grad: np.ndarray | None = None
        self.bias_grad: np.ndarray | None = None
        self.residual_grad: np.ndarray | None = None
        self.running_mean: np.ndarray | None = None
        self.running_var: np.ndarray | None = None
        if num_features is not None:
            self._allocate(num_features)

    def _allocate(self, channels: int) -> None:
        self.num_features = errors.whole("num_features", channels, 1)
        if self.affine:
            self.weight, self.bias = (np.ones(channels, self.dtype), np.zeros(channels, self.dtype))
            self.weight_grad = np.zeros(channels, self.dtype)
            self.bias_grad = np.zeros(channels, self.dtype)
        if self.track_running_stats:
            self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the running variance to 1 and the count of batches to 0."""
        self.num_batches_tracked = 0
        if self.track_running_stats and self.num_features is not None:
            self.running_mean = np.zeros(self.num_features, self.dtype)
            self.running_var = np.ones(self.num_features, self.dtype)

    def train(self, mode: bool = True) -> "BatchNorm":
        """Use and record the statistics of each batch; returns the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> "BatchNorm":
        """Use the running statistics; returns the layer."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Set the gradients of the parameters to 0."""
        for grad in (self.weight_grad, self.bias_grad):
            if grad is not None:
                grad[...] = 0

    def _check_rank(self, x: np.ndarray) -> None:
        """What `BatchNorm1d` and its siblings narrow down."""

    def _check_channels(self, x: np.ndarray) -> int:
        channels = x.shape[validate.axis(self.channel_axis, x.shape)]
        if channels != self.num_features and self.num_features is not None:
            name = "running_mean" if self.track_running_stats else "weight"
            raise ValueError(f"{name} should contain {channels} elements not {self.num_features}")
        return channels

    def __call__(self, x, *, residual=None, weights=None, update: bool = True) -> np.ndarray:
        """Normalise a batch.

        Parameters
        ----------
        x : array_like
            At least 2-D, with `num_features` channels.
        residual : array_like, optional
            Of x's shape: added before the activation. `backward` leaves its gradient in
            `residual_grad`.
        weights : array_like, optional
            How much each sample and position counts in the statistics of a batch: see `forward`.
        update : bool, default True
            Whether a training call moves the running statistics and counts the batch.

        Returns
        -------
        ndarray
            Of x's shape, dtype (float64 for integers) and memory order.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            If `x` does not fit, or a batch is not finite with ``nonfinite="raise"``; the layer is
            left as it was.
        """
        x = validate.array("x", x)
        self._check_rank(x)
        channels = self._check_channels(x)
        if self.num_features is None:
            return self._first_call(x, channels, residual, weights, update)
        mean, var = self.running_mean, self.running_var
        own = self.training or not self.track_running_stats
        records = self.training and self.track_running_stats and update
        # Attributes may have been replaced by hand. Nothing is changed until nothing can fail.
        ordinary = records and validate.running_pair(mean, var, channels)
        stats = None if own else (mean, var)
        options: Any = None
        if residual is not None or weights is not None or self.activation is not None:
            options = weights, residual, self.activation, self.negative_slope
        settings = self.weight, self.bias, self.eps, self.channel_axis, stats, options
        y, saved = forward_any(x, *settings, None, 2, PARAMETERS)
        if records:
            given, tracked = self.momentum, self.num_batches_tracked + 1
            momentum = 1.0 / tracked if given is None else errors.number("momentum", given)
            if move_running_stats(
                mean, var, ordinary, saved.buffer, saved.count, momentum, 1.0, self.nonfinite
            ):
                self.num_batches_tracked = tracked
        self.saved = saved
        return y

    def _first_call(self, x: np.ndarray, channels: int, residual, weights, update) -> np.ndarray:
        """Take the number of features from `x`, unless the call fails."""
        before = dict(vars(self))
        try:
            self._allocate(channels)
            return self(x, residual=residual, weights=weights, update=update)
        except Exception:
            vars(self).update(before)
            raise

    def backward(self, dy) -> np.ndarray:
        """Gradient with respect to the last input; those of the parameters are accumulated.

        Parameters
        ----------
        dy : array_like
            Gradient with respect to the last output.

        Returns
        -------
        ndarray
            Of the input's shape.

        Raises
        ------
        RuntimeError
            Before the first call of the layer.
        TypeError, ValueError
            If `dy` does not fit; nothing is changed.
        """
        saved = self.saved
        if saved is None:
            raise RuntimeError("backward was called before forward: call the layer first")
        layout, totals = saved.layout, (self.weight_grad, self.bias_grad)
        dx, *grads, self.residual_grad = backward(dy, saved, needs=(True, *[self.affine] * 2))
        ordinary = self.affine and validate.ordinary_pair(*totals, layout.channels)
        if ordinary and self.dtype is layout.compute:
            passes.add(*totals, *grads)
            return dx
        with np.errstate(all="ignore"):  # an overflow that raised would leave one of them behind
            for total, grad in zip(totals, grads, strict=True):
                if total is not None and grad is not None:
                    total += grad.astype(self.dtype, copy=False)
        return dx

    def _state(self) -> dict[str, Any]:
        """The arrays of the layer by PyTorch's names."""
        arrays: dict[str, Any] = {}
        if self.affine:
            arrays |= {"weight": self.weight, "bias": self.bias}
        if self.track_running_stats:
            arrays |= {"running_mean": self.running_mean, "running_var": self.running_var}
        return arrays

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the parameters and running statistics, under PyTorch's keys.

        Raises
        ------
        RuntimeError
            If the number of features is not known yet.
        """
        if self.num_features is None:
            raise RuntimeError("state_dict of a layer that has not seen its number of features")
        state = {name: value.copy() for name, value in self._state().items()}
        if self.track_running_stats:
            state["num_batches_tracked"] = np.array(self.num_batches_tracked, np.int64)
        return state

    def load_state_dict(self, state) -> None:
        """Take parameters and running statistics from a mapping, such as PyTorch's.

        Parameters
        ----------
        state : mapping
            Of the keys that `state_dict` gives; values are converted and copied. Without
            ``num_batches_tracked``, as in checkpoints from before PyTorch 0.4.1, the count stays.

        Raises
        ------
        KeyError
            If a key is missing or unknown.
        TypeError, ValueError
            If a value is of the wrong kind or shape; nothing is changed.
        """
        if not hasattr(state, "keys"):
            raise TypeError(f"state should be a mapping, got {type(state).__name__}")
        vectors, given = sorted(self._state()), set(state)
        counts = {"num_batches_tracked"} if self.track_running_stats else set()
        if missing := sorted(set(vectors) - given):
            raise KeyError(f"state is missing {', '.join(missing)}")
        if unknown := sorted(map(str, given - counts - set(vectors))):
            raise KeyError(f"state has unknown keys {', '.join(unknown)}")
        channels = self.num_features
        if channels is None and vectors:
            channels = validate.array(vectors[0], state[vectors[0]]).size
        new = {
            name: np.array(validate.vector(name, state[name], channels or 0), self.dtype)
            for name in vectors
        }
        count = self.num_batches_tracked
        for name in counts & given:
            count = errors.whole(name, validate.scalar(name, state[name]), 0)
        if self.num_features is None and channels is not None:
            self._allocate(channels)
        for name, value in new.items():
            getattr(self, name)[...] = value
        self.num_batches_tracked = count

    def __repr__(self) -> str:
        applied = "" if self.activation is None else f", activation={self.activation!r}"
        return (
            f"{type(self).__name__}({self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, track_running_stats={self.track_running_stats}{applied})"
        )


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

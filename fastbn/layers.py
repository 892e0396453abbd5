"""The layers: parameters, running statistics and mode; no arithmetic of their own."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ._arrays import validate
from ._arrays.options import SLOPE, check_activation
from ._kernels import passes
from ._runtime import errors
from .conventions import EPS, MOMENTUM, convention_of
from .functional import PARAMETERS, Saved, forward_any
from .population import population_stats
from .stats import Stats, move_running_stats
from .variants import Groups, Renormed, forward_groups, forward_renormed, gradients


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
    channel_axis : int or tuple of int, default 1
        Statistics run over all other axes. Of several axes, each combination is a feature, in the
        axes' order: parameters and running statistics are flat.
    dtype : dtype, default float32
        float32 or float64, of parameters and running statistics.
    bias : bool, default True
        With `affine`: whether to have a bias beside the weight.
    activation : {None, "relu", "leaky_relu"}
        Applied to the output.
    negative_slope : float, default 0.01
        Of leaky_relu below 0, at least 0.
    nonfinite : {"propagate", "skip", "raise"}
        What a training call does to the running statistics if any mean or variance of the batch is
        NaN or infinite: take it, leave everything as it is, or raise `FloatingPointError`.
    virtual_batch_size : int, optional
        Ghost batch norm: in training, so many consecutive samples at a time (along the first axis
        that is not one of features) are normalised by their own statistics. The last group may be
        smaller; one of a single value per channel joins the group before. The running statistics
        are moved once a call, by those of the whole batch.
    convention : {"torch", "keras", "flax", "onnx", "chainer", "cs231n"}
        Whose defaults of `eps` and `momentum`, sense of `momentum`, and running variance to follow:
        see Notes.

    Attributes
    ----------
    weight, bias, weight_grad, bias_grad : ndarray, shape (C,), or None
    residual_grad : ndarray or None
        Gradient with respect to the residual of the last call that `backward` was called for.
    running_mean, running_var : ndarray, shape (C,), or None
        The variance is the unbiased one, or what the convention has.
    num_batches_tracked : int
    training : bool
    saved : Saved, Groups, Renormed or None
        What the last call left for `backward`; ``saved.stats`` are the statistics used.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or range.

    Notes
    -----
    Ioffe & Szegedy (2015); ghost batch norm: Hoffer, Hubara & Soudry (2017). The conventions:

    ========  =====  ========  ==============  ================  ============
    name      eps    momentum  weighs the      running variance  first values
    ========  =====  ========  ==============  ================  ============
    torch     1e-5   0.1       **new** value   unbiased          0 and 1
    keras     1e-3   0.99      **old** value   population        0 and 1
    flax      1e-5   0.99      **old** value   population        0 and 1
    onnx      1e-5   0.9       **old** value   population        0 and 1
    chainer   2e-5   0.9       **old** value   unbiased          0 and 1
    cs231n    1e-5   0.9       **old** value   population        0 and 0
    ========  =====  ========  ==============  ================  ============

    An `eps` or `momentum` given by hand is read in the convention's sense, and `momentum` None is
    the cumulative average in all. A single value per channel in training is an error in "torch";
    the others give the bias. Those are PyTorch 2.13, Keras 3, Flax 0.12 (linen and nnx), ONNX
    operator set 15 and Chainer 7.

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

    _has_own_way = False  # of normalising a batch in training

    def __init__(
        self,
        num_features: int | None,
        eps: float = EPS,
        momentum: float | None = MOMENTUM,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        channel_axis: int | tuple[int, ...] = 1,
        dtype=np.float32,
        bias: bool = True,
        activation: str | None = None,
        negative_slope: float = SLOPE,
        nonfinite: str = "propagate",
        virtual_batch_size: int | None = None,
        convention: str = "torch",
    ):
        self._rules = rules = convention_of(convention)
        eps = rules.eps if eps is EPS else errors.number("eps", eps, 0.0)
        if momentum is not None:
            momentum = errors.number(
                "momentum", rules.momentum if momentum is MOMENTUM else momentum
            )
        if num_features is not None:
            num_features = errors.whole("num_features", num_features, 1)
        if virtual_batch_size is not None:
            virtual_batch_size = errors.whole("virtual_batch_size", virtual_batch_size, 1)
        errors.choice("nonfinite", nonfinite, ("propagate", "skip", "raise"))
        self.num_features = num_features
        self.eps, self.momentum, self.convention = eps, momentum, convention
        self.virtual_batch_size = virtual_batch_size
        self.affine, self.track_running_stats = bool(affine), bool(track_running_stats)
        self._has_bias = self.affine and bool(bias)
        self.channel_axis = validate.channel_axis(channel_axis)
        self.dtype = validate.parameter_dtype("dtype", dtype)
        self.activation, self.negative_slope = check_activation(activation, negative_slope)
        self.nonfinite = nonfinite
        self.training = True
        self.saved: Saved | Groups | Renormed | None = None
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
            self.weight = np.ones(channels, self.dtype)
            self.weight_grad = np.zeros(channels, self.dtype)
        if self._has_bias:
            self.bias = np.zeros(channels, self.dtype)
            self.bias_grad = np.zeros(channels, self.dtype)
        if self.track_running_stats:
            self.reset_running_stats()

    def reset_running_stats(self) -> None:
        """Set the running statistics to their first values, and the count of batches to 0.

        Those are a mean of 0 and a variance of 1; in the convention "cs231n" one of 0.
        """
        self.num_batches_tracked = 0
        if self.track_running_stats and self.num_features is not None:
            self.running_mean = np.zeros(self.num_features, self.dtype)
            self.running_var = np.full(self.num_features, self._rules.first_var, self.dtype)

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
        axis = self.channel_axis
        if type(axis) is int and -x.ndim <= axis < x.ndim > 1:  # the ordinary case
            channels = x.shape[axis]
        else:
            axes = validate.axes(validate.channel_axis(axis), x.shape)
            channels = math.prod(x.shape[i] for i in axes)
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
            return self._after_allocation(
                channels, lambda: self(x, residual=residual, weights=weights, update=update)
            )
        mean, var = self.running_mean, self.running_var
        own = self.training or not self.track_running_stats
        records = self.training and self.track_running_stats and update
        # Attributes may have been replaced by hand. Nothing is changed until nothing can fail.
        ordinary = records and validate.running_pair(mean, var, channels)
        stats = None if own else (mean, var)
        options: Any = None
        if residual is not None or weights is not None or self.activation is not None:
            options = weights, residual, self.activation, self.negative_slope
        if self.virtual_batch_size is not None and self.training:
            y, saved = self._normalise_groups(x, options)
        else:
            y, saved = self._normalise(x, options, None, stats)
        if records:
            self._record(ordinary, saved.buffer, saved.count)
        self.saved = saved
        return y

    def _normalise_groups(self, x: np.ndarray, options) -> tuple[np.ndarray, Any]:
        """Normalise groups of samples by their own statistics."""
        size = errors.whole("virtual_batch_size", self.virtual_batch_size, 1)
        parameters = None if self._has_own_way else (self.weight, self.bias, self.eps)
        given = x, self.channel_axis, options, self._rules.minimum
        return forward_groups(self._normalise, parameters, size, *given)

    def _normalise(self, x: np.ndarray, options, out, stats=None) -> tuple[np.ndarray, Any]:
        """Normalise by statistics, or by those of x: what `BatchRenorm` does its own way."""
        settings = self.weight, self.bias, self.eps, self.channel_axis, stats, options
        return forward_any(x, *settings, out, self._rules.minimum, PARAMETERS)

    def _record(self, ordinary: bool, batch, count: float) -> None:
        """Move the running statistics towards those of a batch, whose mean and m2 are given."""
        tracked, rules = self.num_batches_tracked + 1, self._rules
        weight = rules.new_weight(self.momentum, tracked)
        running = self.running_mean, self.running_var
        if move_running_stats(*running, ordinary, batch, count, weight, rules.ddof, self.nonfinite):
            self.num_batches_tracked = tracked

    def update(self, stats: Stats, replace: bool = False) -> None:
        """Commit statistics by hand, as a training call commits those of its batch.

        Parameters
        ----------
        stats : Stats
            Of a batch or of a population. Empty ones change nothing.
        replace : bool, default False
            Put them in place of the running statistics instead of moving those by `momentum`; the
            count of batches then stays.

        Raises
        ------
        TypeError, ValueError, RuntimeError, FloatingPointError
            If `stats` do not fit, the layer keeps no running statistics, or they are not finite
            with ``nonfinite="raise"``; the layer is left as it was.

        Notes
        -----
        Ioffe & Szegedy (2015), algorithm 2, replaces them by those of the training set.

        Examples
        --------
        >>> import numpy as np
        >>> import fastbn
        >>> bn = fastbn.BatchNorm(1)
        >>> bn.update(fastbn.batch_stats(np.array([[1.0], [3.0]])), replace=True)
        >>> bn.running_mean, bn.running_var
        (array([2.], dtype=float32), array([2.], dtype=float32))
        """
        if not isinstance(stats, Stats):
            raise TypeError(f"stats should be a Stats, got {type(stats).__name__}")
        self._commit(stats, replace)

    def _commit(self, stats: Stats, replace: bool, prior: float = 0.0) -> None:
        """Move the running statistics, or replace them; they count for ``prior`` values then."""
        if not self.track_running_stats:
            raise RuntimeError("the layer has no running statistics: track_running_stats is False")
        channels = stats.mean.size
        if self.num_features is None:
            self._after_allocation(channels, lambda: self._commit(stats, replace, prior))
            return
        if channels != self.num_features:
            raise ValueError(f"stats should have {self.num_features} channels, got {channels}")
        mean: Any = self.running_mean
        var: Any = self.running_var
        validate.running_pair(mean, var, channels)
        if not replace:
            self._record(False, (stats.mean, stats.m2), stats.count)
            return
        if prior > 0.0:
            with np.errstate(all="ignore"):
                stats += Stats(prior, mean, prior * np.asarray(var, np.float64))
        batch, ddof = (stats.mean, stats.m2), self._rules.ddof
        move_running_stats(mean, var, False, batch, stats.count, None, ddof, self.nonfinite)

    def adapt(self, batches: Iterable, *, prior: float = 0.0) -> None:
        """Take the running statistics of other data, such as that of a test (AdaBN).

        Parameters
        ----------
        batches : iterable of array_like, or of (array_like, weights)
            Inputs of this layer, of any sizes: see `population_stats`. Where several layers adapt,
            those of a later one come from earlier ones that have adapted.
        prior : float, default 0
            How many values the running statistics of before count for; 0 forgets them.

        Raises
        ------
        TypeError, ValueError, RuntimeError, FloatingPointError
            As `population_stats` and `update` do; the layer is left as it was.

        Notes
        -----
        Li, Wang, Shi, Liu & Hou (2016). The new statistics are those of `batches`, merged with
        ``Stats(prior, running_mean, prior * running_var)``. Empty batches change nothing.

        Examples
        --------
        >>> import numpy as np
        >>> import fastbn
        >>> bn = fastbn.BatchNorm(1)
        >>> bn.adapt([np.array([[1.0], [3.0]]), np.array([[5.0], [7.0]])])
        >>> bn.running_mean
        array([4.], dtype=float32)
        """
        prior = errors.number("prior", prior, 0.0)
        if math.isinf(prior):
            raise ValueError("prior should be finite, got inf")
        stats = population_stats(batches, channel_axis=self.channel_axis)
        if stats.count > 0.0:
            self._commit(stats, True, prior)

    def _after_allocation(self, channels: int, call: Callable) -> Any:
        """Take the number of features, now that it is known, unless the call fails."""
        before = dict(vars(self))
        try:
            self._allocate(channels)
            return call()
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
        needs = True, self.affine, self._has_bias
        dx, *grads, self.residual_grad = gradients(dy, saved, needs)
        if len(layout.axes) > 1:
            grads = [grad if grad is None else grad.reshape(-1) for grad in grads]
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
            arrays["weight"] = self.weight
        if self._has_bias:
            arrays["bias"] = self.bias
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
        applied = "" if self._has_bias or not self.affine else ", bias=False"
        for name in ("activation", "virtual_batch_size"):
            value = getattr(self, name)
            applied += "" if value is None else f", {name}={value!r}"
        applied += "" if self.convention == "torch" else f", convention={self.convention!r}"
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


class BatchRenorm(BatchNorm):
    """Batch renormalization: a batch norm whose training output is that of its evaluation, nearly.

    In training, ``y = (xhat * r + d) * weight + bias``, where ``r = sigma_batch / sigma`` and ``d =
    (mean_batch - mean) / sigma`` undo what tells the statistics of the batch from the running ones
    of before the call, as far as their limits allow. For small batches, or such that are not drawn
    at random.

    Parameters
    ----------
    num_features : int or None
        Number of channels; None takes it from the first input.
    rmax : float, default 3.0
        r is from ``1 / rmax`` to `rmax`, at least 1; 1 leaves batches scaled as they are.
    dmax : float, default 5.0
        d is from ``-dmax`` to `dmax`, at least 0; 0 leaves them where they are. Both limits may be
        changed between calls: Ioffe begins with 1 and 0, which is batch norm.
    eps, momentum, affine, track_running_stats, **others
        As of `BatchNorm`; `track_running_stats` has to be True.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or range.

    Notes
    -----
    Ioffe (2017). r and d are constants to the backward pass. ``sigma = sqrt(running_var + eps)``:
    we average the variance, not sigma as that article does. Evaluation is that of `BatchNorm`. Of a
    single value per channel, where the convention allows it, xhat is 0, and d still counts.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbn
    >>> bn = fastbn.BatchRenorm(1, eps=0.0, dtype=np.float64)
    >>> bn(np.array([[1.0], [3.0]])).ravel()  # the running mean is 0, the variance 1
    array([1., 3.])
    """

    _has_own_way = True

    def __init__(
        self,
        num_features: int | None,
        eps: float = EPS,
        momentum: float | None = MOMENTUM,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        rmax: float = 3.0,
        dmax: float = 5.0,
        **others,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **others)
        self.rmax, self.dmax = rmax, dmax
        self._limits()
        if not self.track_running_stats:
            raise ValueError("track_running_stats should be True: BatchRenorm needs the statistics")

    def _limits(self) -> tuple[float, float]:
        """The attributes, which may have been replaced by hand."""
        return errors.number("rmax", self.rmax, 1.0), errors.number("dmax", self.dmax, 0.0)

    def _normalise(self, x: np.ndarray, options, out, stats=None) -> tuple[np.ndarray, Any]:
        if stats is not None:
            return super()._normalise(x, options, out, stats)
        if x.size == self.num_features and self._rules.minimum > 1:
            raise validate.single_value(x.shape)
        running, limits = (self.running_mean, self.running_var), self._limits()
        given = (self.weight, self.bias), running, limits, self.eps, self.channel_axis
        return forward_renormed(x, *given, options, out)

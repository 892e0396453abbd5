"""One batch norm over the batches of several processes, which MPI calls ranks."""

import copy
from functools import cache, reduce
from typing import Any, NamedTuple

import numpy as np

import fastbn
from fastbn.conventions import EPS, MOMENTUM

try:
    import mpi4py as _mpi4py  # noqa: F401 - apart from its MPI, which may be missing, too
except ImportError as error:
    raise ImportError(
        "fastbn.adapters.mpi needs mpi4py and an MPI: pip install 'fastbn[mpi]'"
    ) from error
try:
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:
    raise ImportError(
        "fastbn.adapters.mpi needs an MPI that mpi4py can load: pip install 'fastbn[mpi]' brings "
        f"one. mpi4py said: {error}"
    ) from error

__all__ = ["SyncBatchNorm"]

HEAD = 192  # bytes of a message before its values: whether the rank is well, and a few words
SETTINGS = 512  # the same of a constructor's message, which is words only
AGREED = ["num_features", "eps", "momentum", "affine", "track_running_stats"]
AGREED += ["activation", "negative_slope", "nonfinite", "convention"]


class SyncBatchNorm(fastbn.BatchNorm):
    """`fastbn.BatchNorm` of a batch that lies in parts on several ranks.

    Outputs, running statistics and the gradient of the input are those of the whole batch. Parts
    may differ in size. A part may be empty.

    Parameters
    ----------
    num_features : int or None
        Number of channels. None takes the number from the first training input.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks that normalise together. None is ``MPI.COMM_WORLD``.
    eps, momentum, affine, track_running_stats, **others
        As of `BatchNorm`. In the default convention, `momentum` is the weight of the **new** value.
        All but `channel_axis` have to be the same on all ranks.
    virtual_batch_size : None
        Groups of samples need no other rank. `BatchNorm` has them.

    Attributes
    ----------
    comm : mpi4py.MPI.Intracomm
        A deep copy of the layer shares the communicator. A pickle can hold ``MPI.COMM_WORLD`` and
        ``MPI.COMM_SELF`` only.
    weight_grad, bias_grad : ndarray, shape (C,), or None
        Sums over the part of this rank. Their sum over all ranks is the gradient.
    running_mean, running_var : ndarray, shape (C,), or None
        The same bits on all ranks.
    saved : fastbn.Saved or None
        What the last call left for `backward`. ``saved.stats`` are those of the whole batch.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or range, or a setting differs between ranks. Of a wrong
        `comm` no other rank hears.
    RuntimeError
        If another rank failed. The message names that rank and repeats its error.

    Notes
    -----
    Each rank has to make the layer, to call the layer in training, and to call `backward`, in the
    same order as all others. Each of these is one message of all ranks to all (``Allgather``). The
    first training call of a layer without `num_features` has one more. Evaluation with running
    statistics sends nothing. Evaluation without them sends as much as training. A rank that is in
    evaluation leaves others waiting that train. So does a rank that ends with an error elsewhere:
    ``python -m mpi4py script.py`` then ends them all.

    Everything that can be wrong on one rank is checked before a message. The message says that its
    rank is not well. Then all ranks raise an error, and no rank's layer is changed. Input that is
    not empty has the same dtype on all ranks.

    `update`, `adapt`, `load_state_dict` and `reset_running_stats` change this rank's layer alone.

    Ioffe & Szegedy (2015). Statistics merge by the formula of Chan, Golub & LeVeque (1983), in the
    order of ranks and in float64. The gradient before an activation is computed anew in `backward`,
    from the input and the residual: as for `BatchNorm`, neither may change in between.

    Examples
    --------
    One rank alone. ``mpirun -n 4 python script.py`` starts four, whose batches are normalised as
    one:

    >>> import numpy as np
    >>> from mpi4py import MPI
    >>> from fastbn.adapters.mpi import SyncBatchNorm
    >>> bn = SyncBatchNorm(2, MPI.COMM_SELF, dtype=np.float64)
    >>> y = bn(np.array([[1.0, 10.0], [3.0, 30.0]]))
    >>> bn.running_mean, bn.running_var
    (array([0.2, 2. ]), array([ 1.1, 20.9]))
    >>> dx = bn.backward(np.ones((2, 2)))
    >>> bn.bias_grad  # of this rank's part: comm.allreduce(bn.bias_grad) is that of the batch
    array([2., 2.])
    """

    def __init__(
        self,
        num_features: int | None,
        comm: Any = None,
        eps: float = EPS,
        momentum: float | None = MOMENTUM,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        virtual_batch_size: None = None,
        **others,
    ):
        self.comm = _checked(MPI.COMM_WORLD if comm is None else comm)
        given = num_features, eps, momentum, affine, track_running_stats

        def settings():
            super(SyncBatchNorm, self).__init__(
                *given, virtual_batch_size=virtual_batch_size, **others
            )
            self._refuse(None)
            return self._settings(others.get("bias", True)), ()

        _exchange(self.comm, settings, 0, SETTINGS)
        self._agreed = self.num_features  # by all ranks; None: not yet

    def _settings(self, bias) -> str:
        """What ranks have to agree on."""
        found = {name: getattr(self, name) for name in AGREED}
        found |= {"dtype": self.dtype.name, "bias": self.affine and bool(bias)}
        return ", ".join(f"{name}={value}" for name, value in found.items())

    def _refuse(self, weights) -> None:
        """What `BatchNorm` has and ranks have not."""
        if self.virtual_batch_size is not None:
            raise ValueError(
                "virtual_batch_size should be None: groups of samples need no other rank, and "
                f"fastbn.BatchNorm has them; got {self.virtual_batch_size!r}"
            )
        if weights is not None:
            raise ValueError(
                "weights should be None: the gradient in two halves, between which ranks add up "
                "their sums, is that of values that all count 1"
            )

    def __call__(self, x, *, residual=None, weights=None, update: bool = True) -> np.ndarray:
        """Normalise a part of a batch by the statistics of the whole.

        Parameters
        ----------
        x : array_like
            At least 2-D, with `num_features` channels; perhaps of no samples.
        residual : array_like, optional
            Of x's shape: added before the activation.
        weights : None
            The gradient in two halves takes none.
        update : bool, default True
            Whether a training call moves the running statistics of this rank and counts the batch.

        Returns
        -------
        ndarray
            Of x's shape, dtype (float64 for integers) and memory order.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As `BatchNorm` does, or if dtypes or channels differ between ranks; no rank's layer is
            changed.
        RuntimeError
            If another rank failed; no rank's layer is changed.
        """
        if self.comm is None or not (self.training or not self.track_running_stats):
            self._refuse(weights)
            return super().__call__(x, residual=residual, update=update)
        part = cache(lambda: self._part(x, residual, weights, update))
        channels = self._agreed
        if channels is None:
            _exchange(self.comm, lambda: (f"num_features={part().layer.num_features}", ()), 0)
            channels = part().layer.num_features
        rows = _exchange(self.comm, lambda: (part().words, part().values), 2 + 4 * channels)
        y, layer = _normalised(*part()[:3], [fastbn.Stats.from_array(row) for row in rows], update)
        self.__dict__.update(vars(layer), _agreed=channels)
        return y

    def _part(self, x, residual, weights, update) -> "Part":
        """What this rank has to say; all of its errors.

        A copy of the layer, without a communicator, is tried on no values of this kind.
        """
        self._refuse(weights)
        stats = fastbn.batch_stats(x, channel_axis=self.channel_axis)
        x = np.asarray(x)
        if residual is not None and not isinstance(residual, np.ma.MaskedArray):
            residual = np.asarray(residual)
        if residual is not None and residual.shape != x.shape:
            raise ValueError(f"residual should have shape {x.shape}, got {residual.shape}")
        axes = self.channel_axis if isinstance(self.channel_axis, tuple) else (self.channel_axis,)
        layer = copy.copy(self)
        # The axis of length 0 comes last: all others may be those of channels.
        layer.comm, layer.channel_axis = None, tuple(axis % x.ndim for axis in axes)
        none, other = (a if a is None else a[..., None][..., :0] for a in (x, residual))
        dtype = layer(none, residual=other, update=update).dtype
        layer.comm, layer.channel_axis = self.comm, self.channel_axis
        if self._agreed not in (None, layer.num_features):
            raise ValueError(f"num_features should stay {self._agreed}, got {layer.num_features}")
        return Part(layer, x, residual, f"dtype={dtype}" if stats.count else "", stats.to_array())

    def backward(self, dy) -> np.ndarray:
        """Gradient with respect to the last input, through the statistics of all ranks.

        Those of the parameters are accumulated: the sums over this rank's part.

        Parameters
        ----------
        dy : array_like
            Gradient with respect to the last output of this rank.

        Returns
        -------
        ndarray
            Of the input's shape.

        Raises
        ------
        RuntimeError
            Before the first call of the layer, or if another rank failed; nothing is changed.
        TypeError, ValueError
            If `dy` does not fit; no rank's layer is changed.
        """
        saved, channels = self.saved, self._agreed
        evaluated = saved is not None and not isinstance(saved, Shared)
        if evaluated or channels is None:
            return super().backward(dy)
        mine = cache(lambda: self._sums(dy, saved))

        def message():
            sums = mine()[1]
            return "", np.concatenate((sums.sum_dy, sums.sum_dy_xhat))

        rows = _exchange(self.comm, message, 2 * channels)
        dy, sums = mine()
        with np.errstate(all="ignore"):
            total = fastbn.GradSums(*reduce(np.add, rows).reshape(2, -1))
            given = dy, saved.x, saved.stats, total, saved.weight
            dx = fastbn.backward_input(*given, **saved.given)
            for grad, new in ((self.weight_grad, sums.sum_dy_xhat), (self.bias_grad, sums.sum_dy)):
                if grad is not None:
                    grad += new.astype(self.dtype)
        self.residual_grad = dy if saved.has_residual else None
        return dx

    def __deepcopy__(self, memo):
        memo[id(self.comm)] = self.comm
        memo[id(self)] = made = copy.copy(self)
        made.__dict__.update(copy.deepcopy(vars(self), memo))
        return made

    def _sums(self, dy, saved) -> tuple[np.ndarray, fastbn.GradSums]:
        """The gradient before the activation, and its sums; all errors of this rank."""
        if saved is None:
            raise RuntimeError("backward was called before forward: call the layer first")
        for name in ("weight_grad", "bias_grad"):
            grad, shape = getattr(self, name), (self.num_features,)
            fits = isinstance(grad, np.ndarray) and grad.shape == shape and grad.dtype.kind == "f"
            if grad is not None and not (fits and grad.flags.writeable):
                raise ValueError(f"{name} should be a writable array of floats of shape {shape}")
        if saved.through is not None:
            dy = fastbn.backward(dy, saved.through, needs=(False, False, False)).dresidual
        return dy, fastbn.backward_sums(dy, saved.x, saved.stats, **saved.given)


class Shared(fastbn.Saved):
    """What `backward` needs of a pass by the statistics of all ranks.

    Attributes
    ----------
    given : dict
        The pass's eps and axis of channels.
    through : fastbn.Saved or None
        Of the same pass with fixed statistics: its gradient of the residual, which may be 0, is the
        one before the activation. None where there is neither.
    has_residual : bool
    """

    __slots__ = ("given", "has_residual", "through")


class Part(NamedTuple):
    """What a rank has of a batch, checked."""

    layer: SyncBatchNorm  # a copy, with channels
    x: np.ndarray
    residual: np.ndarray | None
    words: str
    values: np.ndarray


def _normalised(layer, x, residual, parts, update) -> tuple[np.ndarray, SyncBatchNorm]:
    """Normalise by the statistics of all parts, and leave the layer as that has to.

    What is wrong here is so on all ranks.
    """
    stats = fastbn.merge_stats(parts)
    if stats.count == 1.0 and layer.convention == "torch":
        raise ValueError(
            "Expected more than 1 value per channel when training, in all ranks together, got "
            f"input size {x.shape} in this one"
        )
    given = {"eps": layer.eps, "channel_axis": layer.channel_axis}
    more = {"activation": layer.activation}
    if layer.activation is not None:  # else nobody has looked at the slope
        more["negative_slope"] = layer.negative_slope
    of_x = x, stats, layer.weight, layer.bias
    y = fastbn.normalize(*of_x, **given, residual=residual, **more)
    saved = Shared.of(*of_x, **given, residual=residual, **more)
    saved.given, saved.through, saved.has_residual = given, None, residual is not None
    if residual is not None or layer.activation is not None:
        other = np.broadcast_to(x.dtype.type(0), x.shape) if residual is None else residual
        saved.through = fastbn.Saved.of(*of_x, **given, fixed=True, residual=other, **more)
    if layer.training and layer.track_running_stats and update:
        layer.update(stats)
    layer.saved = saved
    return y, layer


def _checked(comm):
    """A communicator of one group of ranks; no other rank hears of an error."""
    if not isinstance(comm, MPI.Comm):
        raise TypeError(f"comm should be a communicator of mpi4py, got {type(comm).__name__}")
    if comm == MPI.COMM_NULL or comm.Is_inter():
        kind = "MPI.COMM_NULL" if comm == MPI.COMM_NULL else "an intercommunicator"
        raise ValueError(f"comm should be an intracommunicator, got {kind}")
    return comm


def _exchange(comm, work, room: int, head: int = HEAD) -> np.ndarray:
    """Send what ``work()`` gives on each rank to all, in one message: values, (ranks, ``room``).

    It returns words, ``name=value, name=value``, on which ranks that say them have to agree, and
    so many values. What it raises on one rank is raised there, and all others raise who that was:
    so all ranks go on, or none does.
    """
    failure, message = None, np.zeros(head + 8 * room, np.uint8)
    received = np.empty((comm.size, message.size), np.uint8)
    try:
        words, values = work()
        message[head:].view(np.float64)[:] = values
    except Exception as error:
        failure, words = error, f"{type(error).__name__}: {error}"
    text = np.frombuffer(words.encode(errors="replace")[: message.size - 1], np.uint8)
    message[0], message[1 : 1 + text.size] = failure is None, text
    comm.Allgather(message, received)
    if failure is not None:
        raise failure
    if (ill := np.flatnonzero(received[:, 0] == 0)).size:
        words = _text(received[ill[0], 1:])
        raise RuntimeError(f"SyncBatchNorm failed on {_ranks(ill)} with {words}")
    _agree([_text(row) for row in received[:, 1:head]])
    return received[:, head:].view(np.float64)


def _agree(texts: list[str]) -> None:
    """An error where ranks name different values."""
    said: dict[str, dict[str, list[int]]] = {}
    for rank, text in enumerate(texts if len(set(texts)) > 1 else ()):
        for item in filter(None, text.split(", ")):
            name, _, value = item.partition("=")
            said.setdefault(name, {}).setdefault(value, []).append(rank)
    wrong = [
        f"{name} should be the same on all ranks, got "
        + ", ".join(f"{value} on {_ranks(ranks)}" for value, ranks in values.items())
        for name, values in said.items()
        if len(values) > 1
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


def _text(row: np.ndarray) -> str:
    """Words of a message: up to the first byte of 0."""
    return row.tobytes().partition(b"\0")[0].decode(errors="ignore")


def _ranks(found) -> str:
    """The first few, and how many more."""
    few = ", ".join(map(str, found[:8]))
    rest = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return f"rank{'s' if len(found) > 1 else ''} {few}{rest}"

"""One of the ranks that `test_mpi` starts: `mpirun -n 4 python mpi_ranks.py JOB FOLDER`.

It runs every case of a job and saves what each gave.
"""

import copy
import faulthandler
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from mpi4py import MPI

import fastbn
from fastbn.adapters.mpi import SyncBatchNorm

SIZE, SICK = 4, 2  # ranks; the one that does wrong
PARTS = (1, 0, 8, 11), (4, 6, 0, 1)  # samples of each rank, of a first and a second batch
LIMIT = 100  # seconds until a job that hangs says where
# Four ranks on two cores, as root: Open MPI's settings, which others do not read.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
DOUBLE, SINGLE = np.float64, np.float32
RELU, LEAKY = {"activation": "relu"}, {"activation": "leaky_relu", "negative_slope": 0.2}
# name: (shape but for the samples, dtype of x, whether there is a residual, options of the layer)
SETTINGS = {
    "rows": ((3,), DOUBLE, False, {}),
    "images": ((3, 5, 2), DOUBLE, False, {}),
    "channels last": ((5, 2, 3), DOUBLE, False, {"channel_axis": -1}),
    "two axes": ((3, 4, 2), DOUBLE, False, {"channel_axis": (1, 3)}),
    "float32": ((3, 5, 2), SINGLE, False, {"dtype": SINGLE}),
    "float32 far": ((3, 5), SINGLE, False, {"dtype": SINGLE}),
    "float16": ((3, 5), np.float16, False, {"dtype": SINGLE}),
    "bfloat16": ((3, 5), "bfloat16", False, {"dtype": SINGLE}),
    "integers": ((3, 5), np.int64, False, {}),
    "wider parameters": ((3, 5), SINGLE, False, {}),
    "residual": ((3, 5), DOUBLE, True, {}),
    "relu": ((3, 5), DOUBLE, False, RELU),
    "residual and relu": ((3, 5), DOUBLE, True, RELU),
    "residual and leaky": ((3, 5), SINGLE, True, {"dtype": SINGLE, **LEAKY}),
    "leaky, float16": ((3, 5), np.float16, False, {"dtype": SINGLE, **LEAKY}),
    "no affine": ((3, 5), DOUBLE, False, {"affine": False}),
    "no bias": ((3, 5), DOUBLE, False, {"bias": False}),
    "no running statistics": ((3, 5), DOUBLE, False, {"track_running_stats": False}),
    "no momentum": ((3, 5), DOUBLE, False, {"momentum": None}),
    "momentum and eps": ((3, 5), DOUBLE, False, {"momentum": 0.7, "eps": 0.3}),
    "keras": ((3, 5), DOUBLE, False, {"convention": "keras"}),
    "lazy": ((3, 5), DOUBLE, True, {"num_features": None}),
}


def typed(a, dtype):
    """An array in another type."""
    if dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    return a.astype(dtype)


def whole(name, step):
    """All ranks' input, gradient and residual: (x, dy, residual or None)."""
    tail, dtype, has_residual, _ = SETTINGS[name]
    rng = np.random.default_rng(step)
    x, dy, residual = rng.normal(size=(3, sum(PARTS[step]), *tail))
    x = (10 if name == "integers" else 1 + step) * x + (1e3 if name == "float32 far" else 2)
    of_output = DOUBLE if dtype is np.int64 else dtype
    return typed(x, dtype), typed(dy, of_output), typed(residual, dtype) if has_residual else None


def part(a, step, rank):
    """A rank's samples."""
    start = sum(PARTS[step][:rank])
    return a if a is None else a[start : start + PARTS[step][rank]]


def layer(kind, name):
    """A batch norm with parameters of its own."""
    tail, _, _, options = SETTINGS[name]
    axes = options.get("channel_axis", 1)
    shape = (0, *tail)
    channels = shape[axes] if isinstance(axes, int) else np.prod([shape[axis] for axis in axes])
    made = kind(**{"num_features": channels, "dtype": DOUBLE, **options})
    if made.weight is not None:
        made.weight[...] = np.resize([1.0, -2.0, 0.5, 3.0], channels)
    if made.bias is not None:
        made.bias[...] = np.resize([0.0, 1.0, -1.0], channels)
    return made


def two_steps(bn, batches):
    """What a batch norm gives for two batches, and for the first in evaluation."""
    found = []
    for x, dy, residual in [*batches, batches[0]]:
        bn.zero_grad()
        step = {"y": bn(x, residual=residual), "dx": bn.backward(dy)}
        step["residual_grad"] = bn.residual_grad
        for name in ("weight_grad", "bias_grad", "running_mean", "running_var"):
            step[name] = copy.copy(getattr(bn, name))
        step["tracked"] = bn.num_batches_tracked
        found.append(step)
        if len(found) == 2:
            bn.eval()
    return found


def settings(rank):
    """Each of `SETTINGS`."""
    return {name: setting(rank, name) for name in SETTINGS}


def setting(rank, name, kind=SyncBatchNorm):
    """One of them."""
    batches = [[part(a, step, rank) for a in whole(name, step)] for step in range(2)]
    return two_steps(layer(kind, name), batches)


def unsynchronised(rank):
    """One of them with a batch norm of each rank's own."""
    return setting(rank, "images", lambda **given: fastbn.BatchNorm(**given, convention="flax"))


WORDS = "all", "bcast", "gather", "reduce", "scatter", "send", "recv", "barrier", "scan"
called: list = []


class Counted(MPI.Intracomm):
    """A communicator that notes what is called, and the bytes that a rank sends."""

    def __getattribute__(self, name):
        if any(word in name.lower() for word in WORDS):
            method = super().__getattribute__(name)
            return lambda *given: called.append((name, given[0].nbytes)) or method(*given)
        return super().__getattribute__(name)


def messages(rank):
    """What is called by each of: the constructor, passes, passes of evaluation; a lazy layer."""
    found, comm = {}, Counted(MPI.COMM_WORLD)
    x, dy = np.random.default_rng(rank).normal(size=(2, rank, 3, 5))

    def note(what, call):
        called.clear()
        result = call()
        found[what] = list(called)
        return result

    bn = note("made", lambda: SyncBatchNorm(3, comm, dtype=DOUBLE))
    note("forward", lambda: bn(x))
    note("backward", lambda: bn.backward(dy))
    note("update=False", lambda: bn(x, update=False))
    bn.eval()
    if rank < 2:  # others need not take part
        note("evaluation", lambda: bn(x))
        note("its backward", lambda: bn.backward(dy))
    lazy = note("lazy made", lambda: SyncBatchNorm(None, comm, dtype=DOUBLE))
    note("lazy first", lambda: lazy(x))
    note("lazy second", lambda: lazy(x))
    return found


def few(rank):
    """Batches of one value in all, of one in each of two, of none; and by another convention."""
    found = []
    for rows, convention in (
        *(((1, 0, 0, 0), "torch"), ((1, 1, 0, 0), "torch"), ((0, 0, 0, 0), "torch")),
        ((1, 0, 0, 0), "keras"),
    ):
        bn = SyncBatchNorm(2, dtype=DOUBLE, convention=convention)
        x = np.full((rows[rank], 2), float(rank))
        try:
            y = bn(x)
            dx = bn.backward(x + 1.0)
            found.append((y, dx, bn.running_mean, bn.weight_grad, bn.num_batches_tracked))
        except ValueError as error:
            found.append(str(error))
    return found


def communicators(rank):
    """The mean that a layer sees of the ranks' numbers in each communicator."""
    means = {}
    split = MPI.COMM_WORLD.Split(rank % 2, -rank)
    for name, comm in (("world", None), ("self", MPI.COMM_SELF), ("split", split)):
        bn = SyncBatchNorm(1, comm, dtype=DOUBLE, momentum=1.0)
        bn(np.full((2, 1), float(rank)))
        means[name] = bn.running_mean.item()
    copied = copy.deepcopy(bn)
    copied(np.full((2, 1), 1.0 + rank))
    means["deep copy"] = copied.running_mean.item(), bn.running_mean.item()
    pickled = pickle.loads(pickle.dumps(SyncBatchNorm(1, dtype=DOUBLE, momentum=1.0)))
    pickled(np.full((2, 1), float(rank)))
    means["pickle"] = pickled.running_mean.item()
    means["pickle of a split"] = error_of(lambda: pickle.dumps(bn))
    half = MPI.COMM_WORLD.Split(rank % 2, rank)
    inter = half.Create_intercomm(0, MPI.COMM_WORLD, 1 - rank % 2)
    for name, comm in (("inter", inter), ("null", MPI.COMM_NULL), ("word", "world")):
        means[name] = error_of(lambda comm=comm: SyncBatchNorm(1, comm))
    return means


def known(rank):
    """Of a layer without channels, which one rank has loaded and one has evaluated: its mean."""
    bn = SyncBatchNorm(None, dtype=DOUBLE, momentum=1.0)
    if rank == 0:
        bn.load_state_dict(fastbn.BatchNorm(3).state_dict())
    if rank == 1:
        bn.eval()(X)
    bn.train()(X + rank)
    return bn.running_mean


def unused(rank):
    """Of a layer whose slope, which nothing uses, is wrong on one rank: its mean."""
    bn = SyncBatchNorm(3, dtype=DOUBLE, momentum=1.0)
    if rank == SICK:
        bn.negative_slope = -1.0
    bn(X + rank)
    return bn.running_mean


def twice(rank):
    """Used twice, and then asked for the gradient twice: how far that is from one process."""
    found = []
    for bn, cut in ((layer(SyncBatchNorm, "images"), part), (layer(alone, "images"), all_of)):
        first, second = ([cut(a, step, rank) for a in whole("images", step)] for step in range(2))
        bn(first[0]), bn(second[0])
        dx = bn.backward(second[1]), bn.backward(second[1])
        total = bn.weight_grad.copy()
        found.append((dx, MPI.COMM_WORLD.allreduce(total) if cut is part else total))
    (dx, grad), (other, other_grad) = found
    far = [np.abs(a - part(b, 1, rank)).max(initial=0.0) for a, b in zip(dx, other, strict=True)]
    return max(*far, np.abs(grad - other_grad).max())


def alone(**given):
    """A batch norm of one process."""
    return fastbn.BatchNorm(**given)


def all_of(a, step, rank):
    """All samples."""
    return a


def drawn(rng):
    """A random problem: (shape, samples of each rank, options of the layer, has a residual)."""
    rank = int(rng.integers(2, 5))
    tail = tuple(rng.integers(1, 5, rank - 1).tolist())
    rows = rng.multinomial(rng.integers(0, 20), rng.dirichlet([0.5] * SIZE)).tolist()
    axes = (rng.permutation(rank - 1) + 1)[: rng.integers(1, rank)].tolist()
    options = {
        "channel_axis": tuple(axis - rank * int(rng.integers(2)) for axis in axes),
        "momentum": rng.choice([None, 0.3]),
        "affine": bool(rng.integers(4)),
        "bias": bool(rng.integers(4)),
        "track_running_stats": bool(rng.integers(4)),
        "activation": rng.choice([None, "relu", "leaky_relu"]),
        "convention": rng.choice(["torch", "keras", "chainer"]),
    }
    return (tail, axes), rows, options, bool(rng.integers(2))


def splits(rank):
    """Random problems: how far the ranks are from one process, and what was drawn."""
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        (tail, axes), rows, options, has_residual = drawn(rng)
        x, dy, residual = rng.normal(size=(3, sum(rows), *tail)) * rng.choice([1.0, 100.0]) + 3.0
        mine = slice(sum(rows[:rank]), sum(rows[: rank + 1]))
        channels = int(np.prod([tail[axis - 1] for axis in axes]))
        pair = []
        for kind, cut in ((SyncBatchNorm, mine), (fastbn.BatchNorm, slice(None))):
            bn = kind(channels, dtype=DOUBLE, **options)
            for grads in (bn.weight, bn.bias):
                if grads is not None:
                    grads[...] = np.linspace(-1, 2, channels)
            given = (x[cut], dy[cut], residual[cut] if has_residual else None)
            pair.append(problem(bn, *given))
        found.append((apart(*pair, mine), (tail, rows, options, has_residual)))
    return found


def problem(bn, x, dy, residual):
    """Output and gradients of a problem, or the error's first words."""
    try:
        y = bn(x, residual=residual)
    except ValueError as error:
        return str(error)[:50]
    dx = bn.backward(dy)
    return bn, (y, dx, *([] if residual is None else [bn.residual_grad]))


def apart(found, expected, mine):
    """The largest distance of a rank's results from one process's; infinite of other errors."""
    if isinstance(found, str) or isinstance(expected, str):
        return 0.0 if found == expected else float("inf")
    (bn, arrays), (other, whole_arrays) = found, expected
    far = [np.abs(a - b[mine]).max(initial=0) for a, b in zip(arrays, whole_arrays, strict=True)]
    for name in ("weight_grad", "bias_grad", "running_mean", "running_var"):
        a, b = getattr(bn, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            a = MPI.COMM_WORLD.allreduce(a) if "grad" in name else a
            far.append(np.abs(a - b).max() / max(1.0, np.abs(b).max()))
    return max(*far, abs(bn.num_batches_tracked - other.num_batches_tracked))


def error_of(call):
    """(type, words, seconds) of the error of a call; None if there is none."""
    start = time.monotonic()
    try:
        call()
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - start
    return None


# What the sick rank does to its layer, its input or its options, and how that ends there.
X = np.arange(24.0).reshape(4, 3, 2)


def sets(**values):
    """Attributes that are replaced by hand."""
    return lambda bn: vars(bn).update(values) or (X, {})


def gives(x=X, **options):
    """Another input."""
    return lambda bn: (x, options)


def read_only(bn):
    """A running statistic that cannot be written."""
    bn.running_var = bn.running_var.copy()
    bn.running_var.setflags(write=False)
    return X, {}


FORWARD = {
    "one axis": (gives(X[0, 0]), "ValueError", "at least 2 dim"),
    "channels": (gives(np.ones((4, 5, 2))), "ValueError", "running_mean should contain 5"),
    "complex": (gives(X + 0j), "TypeError", "complex128"),
    "object": (gives(X.astype(object)), "TypeError", "object"),
    "masked": (gives(np.ma.masked_array(X)), "TypeError", "masked"),
    "ragged": (gives([[1.0], [2.0, 3.0]]), "ValueError", "x should be an array"),
    "weights": (gives(weights=np.ones((4, 2))), "ValueError", "weights should be None"),
    "residual": (gives(residual=X[:2]), "ValueError", "residual should have shape (4, 3, 2)"),
    "complex residual": (gives(residual=X + 0j), "TypeError", "complex128"),
    "masked residual": (gives(residual=np.ma.masked_array(X)), "TypeError", "masked"),
    "weight": (sets(weight=np.ones(4)), "ValueError", "weight should contain 3"),
    "bias": (sets(bias=np.ones(2)), "ValueError", "bias should contain 3"),
    "running mean": (sets(running_mean=np.ones(2)), "ValueError", "running_mean should contain"),
    "no running mean": (sets(running_mean=None), "TypeError", "running_mean should be a NumPy"),
    "read-only": (read_only, "ValueError", "writable"),
    "eps": (sets(eps=-1.0), "ValueError", "eps should be at least 0"),
    "momentum": (sets(momentum="fast"), "TypeError", "momentum should be a real number"),
    "channel axis": (sets(channel_axis=7), "AxisError", "channel_axis should be from"),
    "groups": (sets(virtual_batch_size=4), "ValueError", "virtual_batch_size should be None"),
    "number of channels": (
        lambda bn: (
            sets(num_features=5, affine=False, weight=None, bias=None)(bn)
            and sets(running_mean=np.zeros(5), running_var=np.ones(5))(bn)
            and (np.ones((4, 5, 2)), {})
        ),
        *("ValueError", "num_features should stay 3, got 5"),
    ),
}
BACKWARD = {
    "dy": (gives(X[:2]), "ValueError", "dy should have shape (4, 3, 2)"),
    "complex dy": (gives(X + 0j), "TypeError", "complex128"),
    "integer dy": (gives(X.astype(int)), "TypeError", "floating-point"),
    "before forward": (sets(saved=None), "RuntimeError", "before forward"),
    "weight_grad": (sets(weight_grad=np.ones(4)), "ValueError", "weight_grad should be a writ"),
    "bias_grad": (sets(bias_grad=[0.0] * 3), "ValueError", "bias_grad should be a writable"),
}
MADE = {
    "negative": ({"num_features": -1}, "ValueError", "num_features should be at least 1"),
    "groups": ({"virtual_batch_size": 4}, "ValueError", "virtual_batch_size should be None"),
    "no such argument": ({"axis": 3}, "TypeError", "axis"),
    "activation": ({"activation": "gelu"}, "ValueError", "activation should be None or one of"),
    "dtype": ({"dtype": "int32"}, "TypeError", "dtype should be float32 or float64"),
}
DIFFERENT = {
    "num_features": ({"num_features": 5}, "3 on ranks 0, 1, 3, 5 on rank 2"),
    "lazy": ({"num_features": None}, "num_features should be the same"),
    "eps": ({"eps": 1e-3}, "eps should be the same on all ranks, got 1e-05 on"),
    "momentum": ({"momentum": None}, "momentum should"),
    "affine": ({"affine": False}, "affine should"),
    "bias": ({"bias": False}, "bias should"),
    "track_running_stats": ({"track_running_stats": False}, "track_running_stats should"),
    "dtype": ({"dtype": DOUBLE}, "dtype should"),
    "activation": ({"activation": "relu"}, "activation should"),
    "negative_slope": ({"negative_slope": 0.5}, "negative_slope should"),
    "nonfinite": ({"nonfinite": "skip"}, "nonfinite should"),
    "convention": ({"convention": "keras"}, "convention should"),
}


def state(bn):
    """All that a call may change."""
    return copy.deepcopy(
        {k: v for k, v in vars(bn).items() if k not in ("comm", "saved")}
    ), bn.saved


def same(before, after):
    """Whether nothing has changed."""
    (a, saved), (b, other) = before, after
    return (
        saved is other and all(np.array_equal(a[key], b[key]) for key in a) and a.keys() == b.keys()
    )


def works(bn, rank):
    """Whether a layer does what it should after an error, forward and backward."""
    x = np.random.default_rng(1).normal(size=(8, 3, 2))
    alone, rows = fastbn.BatchNorm(3, dtype=DOUBLE), slice(2 * rank, 2 * rank + 2)
    y, dx = alone(x), alone.backward(x**2)
    near = np.allclose(bn(x[rows]), y[rows], atol=1e-9)
    return near and np.allclose(bn.backward(x[rows] ** 2), dx[rows], atol=1e-9)


def failed(bn, rank, call, change=None):
    """The error of a call on this rank, whether it left all as it was, whether all works then."""
    kept = dict(vars(bn))
    given = (X, {}) if change is None or rank != SICK else change(bn)
    before = state(bn)
    error = error_of(lambda: call(bn, *given))
    unchanged = same(before, state(bn))
    vars(bn).update(kept)
    return error, unchanged, works(bn, rank)


def forward_of(bn, x, options):
    return bn(x, **options)


def backward_of(bn, x, options):
    return bn.backward(x)


def sick_forward(rank):
    """One rank's bad input to a forward pass."""
    found = {}
    for name, (change, *_) in FORWARD.items():
        bn = SyncBatchNorm(3, dtype=DOUBLE)
        bn(X + rank)
        found[name] = failed(bn, rank, forward_of, change)
    return found


def sick_backward(rank):
    """One rank's bad input to a backward pass."""
    found = {}
    for name, (change, *_) in BACKWARD.items():
        bn = SyncBatchNorm(3, dtype=DOUBLE)
        bn(X + rank)
        bn.backward(X)
        found[name] = failed(bn, rank, backward_of, change)
    return found


def sick_lazy(rank):
    """A layer's first input: bad on one rank, or of other channels there."""
    found = {}
    for name, x in (("complex", X + 0j), ("channels", np.ones((4, 5, 2)))):
        bn = SyncBatchNorm(None, dtype=DOUBLE)
        found[name] = failed(bn, rank, forward_of, lambda bn, x=x: (x, {}))
    bn = SyncBatchNorm(None, dtype=DOUBLE, nonfinite="raise")
    found["nonfinite"] = failed(bn, rank, forward_of, lambda bn: (X * np.nan, {}))
    bn = SyncBatchNorm(None, dtype=DOUBLE)
    found["before"] = error_of(lambda: bn.backward(X)), bn.num_features is None, works(bn, rank)
    return found


def sick_made(rank):
    """Arguments of a constructor: bad on one rank; different there."""
    found = {}
    for name, options in [
        *((name, case[0]) for name, case in MADE.items()),
        *((f"{name} differs", case[0]) for name, case in DIFFERENT.items()),
    ]:
        given = {"num_features": 3, **(options if rank == SICK else {})}
        found[name] = error_of(lambda given=given: SyncBatchNorm(**given))
    return found


def wrong_together(rank):
    """Errors that follow from what all ranks have."""
    found = {}
    bn = SyncBatchNorm(3, dtype=DOUBLE)
    bn(X)
    single = X.astype(np.float32)
    found["dtype"] = failed(bn, rank, forward_of, lambda bn: (single, {}))
    bn = SyncBatchNorm(3, dtype=DOUBLE)
    few = np.ones((int(rank == 1), 3))
    found["one value"] = failed(bn, rank, lambda bn, *given: bn(few))
    bn = SyncBatchNorm(3, dtype=DOUBLE, nonfinite="raise")
    found["nonfinite"] = failed(bn, rank, forward_of, lambda bn: (X * np.nan, {}))
    bn = SyncBatchNorm(3, dtype=DOUBLE)
    empty = np.ones((0, 3), np.float16)  # which has nothing to say, so its dtype does not matter
    x = empty if rank == SICK else X[:, :, 0]
    y = bn(x)
    found["empty of another dtype"] = y.dtype.name, bn.running_mean.copy()
    return found


def hung(rank):
    """One rank does not take part."""
    bn = SyncBatchNorm(3, dtype=DOUBLE)
    if rank != SICK:
        bn(X)
    MPI.COMM_WORLD.Barrier()
    return "went on"


JOBS = {
    "right": [settings, unsynchronised, messages, few, communicators, known, unused, twice, splits],
    "wrong": [sick_forward, sick_backward, sick_lazy, sick_made, wrong_together],
    "hung": [hung],
}


def launcher():
    """What starts ranks: beside this Python, or on the path; None if there is nothing."""
    here = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    path = os.pathsep.join(here)
    return shutil.which("mpirun", path=path) or shutil.which("mpiexec", path=path)


def start(command, environment, seconds):
    """(exit code, output) of a command on four ranks; what hangs is killed with its children."""
    child = subprocess.Popen(
        [launcher(), "-n", str(SIZE), sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | environment | ENVIRONMENT,
        start_new_session=True,
    )
    try:
        output = child.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGTERM)  # which mpirun hands on to its ranks
        try:
            output = child.communicate(timeout=5)[0]
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            output = child.communicate()[0]
        return "timeout", output
    return child.returncode, output


def main():
    """Run a job."""
    job, folder, limit = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    faulthandler.dump_traceback_later(limit, exit=True)  # who hangs says where
    warnings.simplefilter("error")
    rank = MPI.COMM_WORLD.rank
    found = {case.__name__: case(rank) for case in JOBS[job]}
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()

"""The operators ``torch.ops.fastbn.*``: PyTorch's own checks of them, and of their derivatives."""

from contextlib import nullcontext

import pytest

torch = pytest.importorskip("torch")

from tensors import LAYOUTS, Looks, normals
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from fastbn.adapters import torch as adapter
from fastbn.adapters.torch import _operators as ops
from fastbn.adapters.torch._functional import fused

pytestmark = pytest.mark.usefixtures("one_torch_thread")

PLAIN, SHAPE = (None, None, 0.01), (4, 3, 5, 2)
LEAKY = "leaky_relu"


def leaf(shape, dtype=torch.float32, seed=0, layout="contiguous"):
    return LAYOUTS[layout](normals(shape, dtype, seed)).requires_grad_()


# --- what an operator is given --------------------------------------------------------------------


class Given:
    """Tensors of one call: an input, its statistics of either kind, and all that comes with it."""

    def __init__(
        self, dtype=torch.float32, own=None, layout="contiguous", vectors=True, residual=False,
        activation=None,
    ):  # fmt: skip
        own = own or dtype
        self.x, self.dy, self.ddx = (leaf(SHAPE, dtype, seed, layout) for seed in range(3))
        self.weight, self.bias, self.ddweight, self.ddbias = (
            leaf(3, own, seed) if vectors else None for seed in range(3, 7)
        )
        residual = leaf(SHAPE, dtype, 7, layout) if residual else None
        self.epilogue = residual, activation, 0.1
        with torch.no_grad():
            vectors = self.weight, self.bias, 1e-3, *self.epilogue
            self.stats = ops.forward(self.x, *vectors)[1]
        self.mean, self.var = normals(3, own, 8), normals(3, own, 9).abs() + 0.5


GIVEN = {
    "float32": {},
    "float64": {"dtype": torch.float64},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16, vectors of float32": {"dtype": torch.float16, "own": torch.float32},
    "no vectors": {"vectors": False},
    "channels last": {"layout": "channels_last"},
    "cropped": {"layout": "cropped_last"},
    "transposed": {"layout": "transposed"},
    "activation": {"activation": "relu"},
    "residual and activation": {"residual": True, "activation": LEAKY},
    "residual": {"residual": True, "layout": "channels_last"},
}
each_given = pytest.mark.parametrize("given", GIVEN, indirect=True)
PLAINLY = [name for name in GIVEN if "residual" not in name and "activation" not in name]
each_plain = pytest.mark.parametrize("given", PLAINLY, indirect=True)


@pytest.fixture
def given(request):
    return Given(**GIVEN[request.param])


@each_given
def test_forward(given):
    opcheck(ops.forward, (given.x, given.weight, given.bias, 1e-3, *given.epilogue))


@each_given
@pytest.mark.parametrize("fixed", [True, False], ids=["running", "of a batch"])
def test_normalize(given, fixed):
    stats = (given.mean, given.var) if fixed else (given.stats, None)
    opcheck(ops.normalize, (given.x, *stats, given.weight, given.bias, 1e-3, *given.epilogue))


@each_given
@pytest.mark.parametrize("fixed", [True, False], ids=["running", "of a batch"])
@pytest.mark.parametrize("needs", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=str)
def test_backward(given, fixed, needs):
    stats = (given.mean, given.var) if fixed else (given.stats, None)
    if given.weight is None:
        needs = True, False, False
    vectors = given.weight, given.bias, 1e-3, [bool(need) for need in needs]
    args = given.dy, given.x, *stats, *vectors, *given.epilogue
    plain = given.epilogue[0] is None and given.epilogue[1] is None
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    # There are no second derivatives of an epilogue.
    checks += ("test_aot_dispatch_dynamic",) if plain else ()
    opcheck(ops.backward, args, test_utils=checks)


@each_plain
@pytest.mark.parametrize("fixed", [True, False], ids=["running", "of a batch"])
def test_double_backward(given, fixed):
    stats = (given.mean, given.var) if fixed else (given.stats, None)
    for seconds in [(given.ddx, given.ddweight, given.ddbias), (given.ddx, None, None)]:
        tensors = [given.dy, given.x, *stats, given.weight]
        args = [t if t is None else t.detach() for t in (*tensors, *seconds)]
        opcheck(ops.double_backward, (*args[:5], 1e-3, *args[5:]))


@pytest.mark.parametrize("count", [None, torch.tensor(3)], ids=["uncounted", "counted"])
@pytest.mark.parametrize("momentum", [0.1, None])
@each_plain
def test_update_running_stats(given, momentum, count):
    opcheck(ops.update_running_stats, (given.mean, given.var, given.stats, momentum, count))


def test_they_are_pytorchs():
    for name in ("forward", "normalize", "update_running_stats", "backward", "double_backward"):
        assert getattr(torch.ops.fastbn, name).default is getattr(ops, name)._opoverload


# --- derivatives ----------------------------------------------------------------------------------

PATHS = {"direct": nullcontext, "dispatched": Looks}
each_path = pytest.mark.parametrize("path", PATHS)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
each_vectors = pytest.mark.parametrize(
    "vectors", [(True, True), (True, False), (False, True), (False, False)], ids=str
)
SMALL = [(4, 2), (2, 2, 3), (2, 2, 1, 2)]


def problem(shape, vectors=(True, True)):
    """x, weight and bias that need gradients, or None, and running statistics."""
    x, weight, bias = leaf(shape, torch.float64), *(leaf(2, torch.float64, i) for i in (1, 2))
    running = normals(2, torch.float64, 3), normals(2, torch.float64, 4).abs() + 0.5
    weight, bias = (v if has else None for v, has in zip((weight, bias), vectors, strict=True))
    return (x, weight, bias), running


@each_path
@each_mode
@each_vectors
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_first_and_second_derivatives(shape, vectors, training, path):
    given, running = problem(shape, vectors)
    needs = [value for value in given if value is not None]

    def call(*needs):
        values = iter(needs)
        x, weight, bias = (None if v is None else next(values) for v in given)
        return adapter.batch_norm(x, *running, weight, bias, training, 0.0, 0.1)

    with PATHS[path]():
        assert gradcheck(call, needs, check_batched_grad=path == "direct")
        assert gradgradcheck(call, needs)


@each_path
@each_mode
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "no_residual"])
@pytest.mark.parametrize("activation", ["relu", LEAKY, None])
def test_derivatives_of_an_epilogue(activation, residual, training, path):
    (x, weight, bias), running = problem((4, 2, 3))
    added = leaf(x.shape, torch.float64, 5) if residual else None

    def call(x, weight, bias, *added):
        own = added[0] if added else None
        return fused(x, *running, weight, bias, training, 0.0, 0.1, None, own, activation, 0.3)

    with PATHS[path]():
        assert gradcheck(call, (x, weight, bias, *([added] if residual else [])))


@each_path
def test_second_derivatives_of_an_epilogue_say_what_to_do(path):
    (x, weight, bias), running = problem((4, 2, 3))
    with PATHS[path]():
        y = fused(x, *running, weight, bias, True, 0.0, 0.1, None, None, "relu")
        (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match="convert"):
            dx.square().sum().backward()


@each_path
@each_mode
@pytest.mark.parametrize("kind", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"])
def test_derivatives_of_modules(kind, training, path):
    shape = {"BatchNorm1d": (4, 2), "BatchNorm3d": (2, 2, 1, 2, 2)}.get(kind, (2, 2, 1, 2))
    module = getattr(adapter, kind)(2, dtype=torch.float64).train(training)
    (x, weight, bias), _ = problem(shape)

    def call(x, weight, bias):
        given = {"weight": weight, "bias": bias}
        return torch.func.functional_call(module, given, (x,))

    with PATHS[path]():
        assert gradcheck(call, (x, weight, bias))
        assert gradgradcheck(call, (x, weight, bias))


# --- one arithmetic, two paths --------------------------------------------------------------------


def run(given, training, path, twice):
    """Output, gradients, second gradients and running statistics."""
    running = given.mean.clone(), given.var.clone()
    needs = [v for v in (given.x, given.weight, given.bias, given.epilogue[0]) if v is not None]
    with PATHS[path]():
        vectors = given.weight, given.bias
        y = fused(given.x, *running, *vectors, training, 0.3, 1e-3, None, *given.epilogue)
        grads = torch.autograd.grad(y, needs, given.dy.detach(), create_graph=twice)
        seconds = torch.autograd.grad(grads[0], needs[:2], given.ddx.detach()) if twice else ()
    return y, *grads, *seconds, *running


@each_given
@each_mode
def test_both_paths_have_the_same_bits_and_strides(given, training):
    twice = given.epilogue[:2] == (None, None) and given.weight is not None
    for first, second in zip(*(run(given, training, path, twice) for path in PATHS), strict=True):
        assert torch.equal(first, second)
        assert first.stride() == second.stride()

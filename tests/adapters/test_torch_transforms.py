"""torch.func: gradients, batches and ensembles of batch norms, as of PyTorch's own."""

import pytest

torch = pytest.importorskip("torch")

from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vmap
from torch.nn import functional

from fastbn.adapters.torch import BatchNorm2d, batch_norm

BATCH, C = 3, 4
MODES = ["train", "eval", "no weight"]


def numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def close(mine, theirs, scale=1.0):
    mine, theirs = ([a] if torch.is_tensor(a) else a for a in (mine, theirs))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11 * scale)


def normalized(function, mode):
    """A function of x and weight."""
    bias, mean, var = numbers(C, seed=1), numbers(C, seed=2), numbers(C, seed=3).square() + 0.1

    def call(x, weight):
        if mode == "eval":
            return function(x, mean, var, weight, bias, False)
        return function(x, None, None, None if mode == "no weight" else weight, bias, True)

    return call


def cubes(call):
    """A loss that has second derivatives, also with respect to weight."""
    return lambda x, weight: (call(x, weight) ** 3 * (1 + weight.sum())).sum()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "what",
    [
        lambda call: vmap(call),
        lambda call: vmap(grad(cubes(call), (0, 1))),
        lambda call: grad(lambda x, w: vmap(cubes(call))(x, w).sum(), (0, 1)),
        lambda call: vmap(
            grad(lambda x, w: grad(cubes(call))(x, w).square().sum(), (0, 1)),
        ),
        lambda call: vmap(jacrev(call)),
    ],
    ids=["vmap", "vmap grad", "grad vmap", "vmap grad grad", "vmap jacrev"],
)
def test_transforms_are_those_of_pytorchs_function(what, mode):
    x, weight = numbers(BATCH, 5, C, 2, 3), numbers(BATCH, C, seed=4)
    mine, theirs = (
        what(normalized(f, mode))(x, weight) for f in (batch_norm, functional.batch_norm)
    )
    close(mine, theirs, scale=1e4)


@pytest.mark.parametrize("dims", [(0, None), (2, None), (1, 1), (None, 0)])
def test_any_axis_may_be_that_of_the_batch(dims):
    x = numbers(*(5, C, 2), seed=5)
    x = x if dims[0] is None else torch.stack([x, x + x.square()], dims[0])
    weight = numbers(C, seed=6)
    weight = weight if dims[1] is None else torch.stack([weight, 2 * weight], dims[1])
    mine, theirs = (
        vmap(normalized(f, "train"), dims, out_dims=1)(x, weight)
        for f in (batch_norm, functional.batch_norm)
    )
    close(mine, theirs)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_an_ensemble_moves_the_running_statistics_of_each(momentum):
    def run(kind):
        modules = [kind(C, momentum=momentum).double() for _ in range(BATCH)]
        with torch.no_grad():
            for i, module in enumerate(modules):
                module.weight.add_(i)
                module.running_mean.add_(i)
        parameters, buffers = stack_module_state(modules)
        x = numbers(BATCH, 5, C, 2, 2, seed=7)
        call = vmap(lambda p, b, x: functional_call(modules[0], (p, b), (x,)))
        y = call(parameters, buffers, x)
        return y, *(buffers[name] for name in sorted(buffers))

    if momentum is None:  # PyTorch's reads a number out of a batch, and cannot
        each = [torch.nn.BatchNorm2d(C, momentum=None).double() for _ in range(BATCH)]
        for i, module in enumerate(each):
            module.running_mean.add_(i)
        x = numbers(BATCH, 5, C, 2, 2, seed=7)
        [module(part) for module, part in zip(each, x, strict=True)]
        close(run(BatchNorm2d)[2], torch.stack([module.running_mean for module in each]))
    else:
        close(run(BatchNorm2d), run(torch.nn.BatchNorm2d))


def test_running_statistics_of_the_whole_batch_are_refused():
    with pytest.raises(RuntimeError, match="running_var should have a batch axis"):
        vmap(BatchNorm2d(C).double())(numbers(BATCH, 5, C, 2, 2))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # PyTorch's own
@pytest.mark.parametrize("of", ["torch.func", "dual numbers"])
def test_derivatives_taken_forwards_are_pytorchs(of):
    x, v, weight = numbers(5, C, 2), numbers(5, C, 2, seed=8), numbers(C, seed=9)

    def run(function):
        call = normalized(function, "train")
        if of == "torch.func":
            return jvp(lambda x: call(x, weight), (x,), (v,))
        with torch.autograd.forward_ad.dual_level() as level:
            made = torch.autograd.forward_ad.make_dual(x, v, level=level)
            return torch.autograd.forward_ad.unpack_dual(call(made, weight))

    close(run(batch_norm), run(functional.batch_norm))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_forwards_over_backwards_is_pytorchs():
    x = numbers(5, C)
    mine, theirs = (
        hessian(lambda x: (f(x, None, None, training=True) ** 3).sum())(x)  # noqa: B023
        for f in (batch_norm, functional.batch_norm)
    )
    close(mine, theirs)


def test_third_derivatives_are_refused():
    x, call = numbers(5, C), lambda x: (batch_norm(x, None, None, training=True) ** 3).sum()
    twice = grad(lambda x: grad(call)(x).square().sum())
    with pytest.raises(NotImplementedError, match="third derivatives"):
        grad(lambda x: twice(x).sum())(x)
    x.requires_grad_()
    first = torch.autograd.grad(call(x), x, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), x, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="third derivatives"):
        second.sum().backward()

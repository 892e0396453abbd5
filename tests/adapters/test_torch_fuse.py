"""Batch norm with what follows it in one pass: what is fused, what not, and the same numbers."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from nets import SHAPE, Net, block, data, gradients, norm, same
from torch import fx, nn
from torch.nn import functional

from fastbn.adapters.torch import convert, revert


def report(fused):
    """What became of each batch norm, by name."""
    return [str(fusion) for fusion in fused.meta["fastbn"]]


def check(net, *expected, x=None, modes=(True, False)):
    """The report, and in both modes outputs, gradients and state as of the net itself."""
    x = data() if x is None else x
    for training in modes:
        eager = copy.deepcopy(net).train(training)
        fused = convert(copy.deepcopy(net).train(training), fuse=True)
        assert isinstance(fused, fx.GraphModule)
        assert list(fused.state_dict()) == list(net.state_dict())
        found = report(fused)
        assert len(found) == len(expected)
        for line, start in zip(found, expected, strict=True):
            assert line.startswith(start)
        assert not any(line.endswith("not fused, ") for line in found)
        same(gradients(fused, x), gradients(eager, x))
    return fused


# --- fused ----------------------------------------------------------------------------------------

RELU = "bn: fused with relu"
LEAKY = "bn: fused with leaky_relu"
SUM = "bn: fused with addition and relu"
ACTIVATIONS = {
    "module": (lambda net, x: net.relu(net.bn(x)), RELU),
    "function": (lambda net, x: functional.relu(net.bn(x)), RELU),
    "function in place": (lambda net, x: functional.relu(net.bn(x), inplace=True), RELU),
    "function, positional": (lambda net, x: functional.relu(net.bn(x), True), RELU),
    "torch.relu": (lambda net, x: torch.relu(net.bn(x)), RELU),
    "method": (lambda net, x: net.bn(x).relu(), RELU),
    "method in place": (lambda net, x: net.bn(x).relu_(), RELU),
    "leaky": (lambda net, x: functional.leaky_relu(net.bn(x)), LEAKY),
    "leaky, slope": (lambda net, x: functional.leaky_relu(net.bn(x), 0.3), LEAKY),
    "leaky, named": (lambda net, x: functional.leaky_relu(net.bn(x), negative_slope=0.3), LEAKY),
    "leaky, slope 0": (lambda net, x: functional.leaky_relu(net.bn(x), 0), LEAKY),
}
SUMS = {
    "a + b": lambda net, x: functional.relu(net.bn(net.conv(x)) + x),
    "b + a": lambda net, x: functional.relu(x + net.bn(net.conv(x))),
    "a += b": block,
    "torch.add": lambda net, x: torch.relu(torch.add(net.bn(net.conv(x)), x)),
    "method": lambda net, x: net.bn(net.conv(x)).add(x).relu(),
    "method in place": lambda net, x: net.bn(net.conv(x)).add_(x).relu_(),
    "without gradient": lambda net, x: functional.relu(net.bn(net.conv(x)) + x.detach()),
    "a constant": lambda net, x: functional.relu(net.bn(net.conv(x)) + torch.ones(5)),
    "broadcast": lambda net, x: functional.relu(net.bn(x) + x.mean((2, 3), keepdim=True)),
    "larger": lambda net, x: functional.relu(net.bn(x) + net.conv(x).unsqueeze(0)),
    "of other dtype": lambda net, x: functional.relu(net.bn(net.conv(x)) + x.double()),
    "a number": lambda net, x: functional.relu(net.bn(net.conv(x)) + x.shape[0]),
    "its own input": lambda net, x: functional.relu(net.bn(x) + x),
}


@pytest.mark.parametrize(("function", "expected"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activations(function, expected):
    check(Net(lambda net, x: net.other(function(net, x))), expected, "other: not fused")


@pytest.mark.parametrize("function", SUMS.values(), ids=SUMS)
def test_sums(function):
    check(Net(function), SUM)


def test_a_sum_in_place_keeps_its_dtype():
    def function(net, x):
        out = net.bn(net.conv(x))
        out += x.double()
        return functional.relu(out)

    fused = check(Net(function), SUM)
    assert fused(data()).dtype is torch.float32

    def outgrown(net, x):
        out = net.bn(x)
        out += net.conv(x).unsqueeze(0)
        return functional.relu(out)

    with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
        convert(Net(outgrown), fuse=True)(data())


def test_both_terms_are_batch_norms():
    def function(net, x):
        return functional.relu(net.bn(net.conv(x)) + net.other(x))

    check(Net(function), "bn: not fused", "other: fused with addition and relu")


def test_blocks_one_after_another():
    nets = [Net(block) for _ in range(3)]
    names = [f"{i}.{line}" for i in range(3) for line in [SUM]]
    check(nn.Sequential(*nets), *names)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_kinds(kind):
    shape = {nn.BatchNorm1d: (6, 3), nn.BatchNorm2d: SHAPE, nn.BatchNorm3d: (*SHAPE, 2)}[kind]
    net = nn.Sequential(norm(kind=kind), nn.ReLU(), norm(kind=kind, momentum=None), nn.LeakyReLU())
    check(net, "0: fused with relu", "2: fused with leaky_relu", x=data(shape))


def test_models_that_reuse_what_they_made():
    def function(net, x):  # DenseNet
        first = functional.relu(net.bn(x))
        second = functional.relu(net.other(torch.cat([first, x])))
        return torch.cat([second, first, x])

    check(Net(function), RELU, "other: fused with relu")


def test_dicts_and_nested_containers():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleDict({"a": nn.ModuleList([nn.Sequential(norm(), nn.ReLU())])})

        def forward(self, x, scale=2.0, *, shift=0.0):
            return {"y": self.parts["a"][0](x) * scale + shift, "x": (x, [x])}

    net = Nested()
    fused = convert(copy.deepcopy(net), fuse=True)
    assert report(fused) == ["parts.a.0.0: fused with relu"]
    found, expected = (n(data(), 3.0, shift=1.0) for n in (fused, net))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(fused(x=data()), net(data()))


# --- not fused ------------------------------------------------------------------------------------


@fx.wrap
def double_in_place(x):
    """A function that torch.fx does not look into."""
    x.mul_(2)
    return x


def two_readers(net, x):
    y = net.bn(x)
    return functional.relu(y) + y


def sum_has_two_readers(net, x):
    y = net.bn(net.conv(x)) + x
    return functional.relu(y) + y


def twice_the_same(net, x):
    y = net.bn(x)
    return functional.relu(y + y)


def scaled_sum(net, x):
    return functional.relu(torch.add(net.bn(net.conv(x)), x, alpha=2))


def added_to_another(net, x):
    identity = net.conv(x)
    identity += net.bn(x)
    return functional.relu(identity)


def dropout(net, x):
    return functional.relu(functional.dropout(net.bn(x), 0.0, True))


def changed_view(net, x):
    identity = net.conv(x)
    view, y = identity.view(-1), net.bn(x)
    view.mul_(2)
    return functional.relu(y + identity)


def changed_operator(net, x):
    identity = net.conv(x)
    view, y = identity.view(-1), net.bn(x)
    view *= 2
    return functional.relu(y + identity)


def changed_by_function(net, x):
    identity, y = net.conv(x) + 1, net.bn(x)
    functional.leaky_relu(identity, 0.1, True)
    return functional.relu(y + identity)


def changed_by_others(net, x):
    identity, y = net.conv(x) + 1, net.bn(x)
    double_in_place(identity)
    return functional.relu(y + identity)


def changed_by_module(net, x):
    identity, y = net.conv(x) + 1, net.bn(x)
    net.relu(identity)
    return functional.relu(y + identity)


def changed_output(net, x):
    y = net.bn(x)
    y[0].mul_(0)
    return functional.relu(y)


def changed_later(net, x):
    identity = net.conv(x) + 1
    y = functional.relu(net.bn(x) + identity)
    identity.mul_(2)
    return y + identity


def changed_buffer(net, x):
    y = net.bn(x)
    net.calls.add_(1)
    return functional.relu(y) + net.calls.sum()


def read_statistics(net, x):
    mean, y = net.bn.running_mean, net.bn(x)
    return functional.relu(y) * mean.sum()


UNFUSED = {
    "two readers": (two_readers, "its output has 2 readers"),
    "sum has two readers": (sum_has_two_readers, "its sum with x has 2 readers"),
    "y + y": (twice_the_same, "add follows it"),
    "scaled sum": (scaled_sum, "add follows it"),
    "identity += y": (added_to_another, "in_place follows it"),
    "dropout": (dropout, "dropout follows it"),
    "gelu": (lambda net, x: functional.gelu(net.bn(x)), "gelu follows it"),
    "nothing": (lambda net, x: net.bn(x), "output follows it"),
    "negative slope": (lambda net, x: functional.leaky_relu(net.bn(x), -0.5), "the slope of"),
    "changed view": (changed_view, "mul_ between it and relu writes in place"),
    "changed by an operator": (changed_operator, "in_place between it and relu writes"),
    "changed by a function": (changed_by_function, "leaky_relu between it and relu writes"),
    "changed by others": (changed_by_others, "double_in_place between it and relu writes"),
    "changed by a module": (changed_by_module, "relu between it and relu_1 writes in place"),
    "changed output": (changed_output, "its output has 2 readers"),
    "changed later": (changed_later, "mul_ writes in add, which it would keep"),
    "changed buffer": (changed_buffer, "add_ between it and relu writes in place"),
    "read statistics": (read_statistics, "bn_running_mean is read besides"),
}


@pytest.mark.parametrize(("function", "reason"), UNFUSED.values(), ids=UNFUSED)
def test_what_is_not_fused(function, reason):
    check(Net(function), f"bn: not fused, {reason}")


def test_calls_of_one_batch_norm_keep_their_order():
    def function(net, x):
        first, second = net.bn(x), net.bn(net.conv(x) * 3 + 1)
        return functional.relu(second) - functional.relu(first)

    check(Net(function), "bn: not fused, bn_2 between it and relu_1 has the same buffers", RELU)


def test_one_batch_norm_twice_in_a_sum():
    def function(net, x):
        return functional.relu(net.bn(x) + net.bn(net.conv(x)))

    check(Net(function), "bn: not fused", SUM)


def test_chained_sums():
    def function(net, x):
        return functional.relu(net.bn(net.conv(x)) + x + net.other(x))

    check(Net(function), "bn: not fused", "other: fused with addition and relu")


def test_hooks_and_derived_classes_are_not_fused():
    class Mine(nn.BatchNorm2d):
        pass

    net = nn.Sequential(norm(), nn.ReLU(), norm(), nn.ReLU(), norm(kind=Mine), nn.ReLU())
    calls = []
    net[0].register_forward_hook(lambda *_: calls.append("norm"))
    net[3].register_forward_hook(lambda *_: calls.append("relu"))
    fused = convert(net, fuse=True)
    reasons = (
        "0: not fused, it has hooks",
        "2: not fused, _3 has hooks",
        "4: not fused, it is a Mine",
    )
    assert report(fused) == list(reasons)
    fused(data())
    assert calls == ["norm", "relu"]


def test_numbers_that_change_keep_their_old_value():
    def function(net, x):
        count = before = x.shape[0]
        count += 1
        return functional.relu(net.bn(x)) * before + count

    check(Net(function), RELU)


# --- refused --------------------------------------------------------------------------------------


def on_values(net, x):
    return net.bn(x) if x.sum() > 0 else x


def on_training(net, x):
    return net.bn(x) * 2 if net.training else net.bn(x)


def constant_on_training(net, x):
    return net.bn(x) + (torch.ones(1) if net.training else torch.zeros(1))


def noise(net, x):
    return net.bn(x) + torch.randn(5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (on_values, "the same operations whatever its input, or fuse=False"),
        (on_training, r"should not depend on self\.training but in its modules, or fuse=False"),
        (constant_on_training, "should make the same tensors each time, or fuse=False"),
        (noise, "should make the same tensors each time, or fuse=False"),
    ],
)
def test_models_that_cannot_be_traced_are_refused(function, message):
    net = Net(function).eval()
    net.bn.train()
    with pytest.raises(ValueError, match=message):
        convert(net, fuse=True)
    assert [m.training for m in net.modules()] == [m is net.bn for m in net.modules()]
    assert net.bn.num_batches_tracked == 0


def test_a_bare_batch_norm_is_refused():
    with pytest.raises(ValueError, match="model should do the same operations"):
        convert(norm(), fuse=True)


def test_lazy_modules_are_refused():
    with pytest.raises(ValueError, match=r"should have seen an input before fuse=True, 0\.0 is"):
        convert(nn.Sequential(nn.Sequential(nn.LazyBatchNorm2d()), nn.ReLU()), fuse=True)


def test_a_train_of_its_own_is_refused():
    class Frozen(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[0].eval()
            return self

    with pytest.raises(ValueError, match=r"should not have a train\(\) of its own, or fuse=False"):
        convert(Frozen(norm(), nn.ReLU()), fuse=True)
    fused = convert(nn.Sequential(Frozen(norm(), nn.ReLU())), fuse=True).train()
    assert not fused.get_submodule("0.0").training


def test_hooks_on_what_is_traced_through_are_refused():
    for number, match in enumerate(("no hooks of its own", "hooks only on modules that are op")):
        net = nn.Sequential(nn.Sequential(norm(), nn.ReLU()))
        [net, net[0]][number].register_forward_hook(lambda *_: None)
        with pytest.raises(ValueError, match=match):
            convert(net, fuse=True)


# --- the graph module -----------------------------------------------------------------------------


def test_the_model_stays_as_it_is_and_shares_its_state():
    net = Net(block).eval()
    kinds = [type(m) for m in net.modules()]
    fused = convert(net, fuse=True)
    assert [type(m) for m in net.modules()] == kinds
    assert dict(net.named_parameters()).keys() == dict(fused.named_parameters()).keys()
    for name, tensor in net.state_dict(keep_vars=True).items():
        assert fused.state_dict(keep_vars=True)[name] is tensor
    fused.train()
    assert not any(m.training for m in net.modules())
    fused(data())
    assert net.bn.num_batches_tracked == 1
    fused.load_state_dict(Net(block).state_dict())
    assert net.bn.num_batches_tracked == 0


def test_modes():
    net = Net(block)
    fused = convert(net, fuse=True)
    net.eval(), fused.eval()
    torch.testing.assert_close(fused(data()), net(data()))
    before = net.bn.running_mean.clone()
    fused(data())
    assert torch.equal(net.bn.running_mean, before)
    fused.bn.train()
    fused(data())
    assert not torch.equal(net.bn.running_mean, before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_have_keys_constants_and_the_report(copied):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.unused = norm(), nn.ModuleList([nn.Linear(2, 2)])
            self.second = self.first
            self.register_buffer("hidden", torch.ones(2), persistent=False)
            self.register_buffer("calls", torch.zeros(1))
            self.register_parameter("nothing", None)

        def forward(self, x):
            self.calls.add_(1)
            return torch.relu(self.second(x)) * torch.arange(5.0)

    net = Whole()
    fused = convert(net, fuse=True)
    made = copied(copied(fused))
    assert list(made.state_dict()) == list(net.state_dict())
    assert report(made) == report(fused)
    assert report(made)[0].endswith(": fused with relu")
    assert made.hidden is not fused.hidden
    assert made.second is made.first
    torch.testing.assert_close(made(data()), fused(data()))
    assert made.calls == net.calls == 1


def test_fused_again_and_separated():
    net = Net(block)
    once = convert(net, fuse=True)
    again = convert(once, fuse=True)
    assert report(again) == ["bn: not fused, it is fused already"]
    same(gradients(again.eval(), data()), gradients(net.eval(), data()))
    assert revert(once) is once
    assert "fastbn" not in once.meta
    assert type(once.bn) is nn.BatchNorm2d
    assert "activation" not in once.code
    same(gradients(once.eval(), data()), gradients(net, data()))
    assert report(convert(once, fuse=True)) == [SUM]


# --- second derivatives ---------------------------------------------------------------------------


def twice_by_graph(f, x):
    (first,) = torch.autograd.grad(f(x), x, create_graph=True)
    first.pow(2).sum().backward()


TWICE = {
    "create_graph": twice_by_graph,
    "torch.func": lambda f, x: torch.func.grad(lambda x: torch.func.grad(f)(x).sum())(x),
    "jacrev": lambda f, x: torch.func.jacrev(torch.func.grad(f))(x),
    "gradgradcheck": lambda f, x: torch.autograd.gradgradcheck(f, (x,)),
    "hessian": torch.autograd.functional.hessian,
    "vhp": lambda f, x: torch.autograd.functional.vhp(f, x, x),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("route", TWICE.values(), ids=TWICE)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_second_derivatives_are_refused(route, residual, training):
    def function(net, x):
        return net.relu(net.bn(x) + x) if residual else net.relu(net.bn(x))

    net = Net(function)
    net.bn = norm(track_running_stats=not training)
    fused = convert(net.train(training).double(), fuse=True)
    x = data(dtype=torch.float64).requires_grad_()
    with pytest.raises(NotImplementedError, match="second derivatives of a batch norm that is fus"):
        route(lambda x: fused(x).pow(2).sum(), x)


def test_first_derivatives_in_torch_func():
    net = Net(block).eval().double()
    fused = convert(net, fuse=True)
    x = data(dtype=torch.float64)
    found, expected = (torch.func.grad(lambda x, n=n: n(x).pow(3).sum())(x) for n in (fused, net))
    torch.testing.assert_close(found, expected)

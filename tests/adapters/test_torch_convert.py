"""A model's batch norms, swapped and swapped back; PyTorch's tools on what comes of it."""

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")

from nets import SHAPE, Net, block, data, gradients, norm, same, small, trained, versions
from torch import nn
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import fastbn.adapters.torch as fast
from fastbn.adapters.torch import convert, revert

# PyTorch's own, at its first derivative in forward mode.
scripts = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def pair(training=True, *, dtype=torch.float32, **options):
    """PyTorch's batch norm and ours, of the same parameters."""
    made = norm(**options).train(training).to(dtype)
    return made, convert(copy.deepcopy(made))


def close(found, expected, tolerance=2e-5):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * 10)


# --- swapping -------------------------------------------------------------------------------------

KINDS = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm]


@pytest.mark.parametrize("kind", KINDS)
@each_mode
def test_a_batch_norm_keeps_what_it_has(kind, training):
    before = norm(kind=kind, eps=1e-3, momentum=0.3).train(training)
    before.note = "mine"
    model = nn.Sequential(before)
    assert convert(model) is model
    after = model[0]
    assert type(after) is getattr(fast, kind.__name__)
    if kind is not nn.SyncBatchNorm:  # which DistributedDataParallel refuses on CPUs
        assert isinstance(after, kind)
    assert after.weight is before.weight
    assert after.running_var is before.running_var
    assert (after.training, after.eps, after.momentum) == (training, 1e-3, 0.3)
    assert after.note == "mine"
    assert revert(model) is model
    assert type(model[0]) is kind
    assert vars(model[0]) == vars(before)


def test_a_bare_batch_norm_is_returned_and_not_changed():
    bare = norm()
    made = convert(bare)
    assert type(bare) is nn.BatchNorm2d
    assert type(made) is fast.BatchNorm2d
    assert made.weight is bare.weight
    assert type(revert(made)) is nn.BatchNorm2d


def test_hooks_run_and_their_handles_remove_them():
    model, seen = nn.Sequential(norm()), []
    handle = model[0].register_forward_hook(lambda *_: seen.append(1))
    convert(model)(data())
    assert seen == [1]
    handle.remove()
    model(data())
    assert seen == [1]


def test_a_module_in_several_places_stays_one():
    shared = norm()
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.ModuleList([shared]))})
    convert(model)
    assert model["a"] is model["b"][0] is model["b"][1][0]
    assert type(model["a"]) is fast.BatchNorm2d


def test_derived_classes_are_left_alone():
    class Mine(nn.BatchNorm2d):
        pass

    model = nn.Sequential(Mine(3), nn.InstanceNorm2d(3))
    assert [type(m) for m in convert(model)] == [Mine, nn.InstanceNorm2d]


def test_converting_twice_is_converting_once():
    model = convert(nn.Sequential(norm()))
    once = model[0]
    assert convert(model)[0] is once
    assert revert(revert(model)) is model


def test_lazy_ones_become_ours_at_their_first_input():
    model = convert(nn.Sequential(nn.LazyBatchNorm2d()))
    assert type(model[0]) is fast.LazyBatchNorm2d
    with pytest.raises(ValueError, match="should have seen an input before sync=True"):
        convert(model, sync=True)
    model(data())
    assert type(model[0]) is fast.BatchNorm2d
    assert type(revert(model)[0]) is nn.BatchNorm2d


@pytest.mark.parametrize("kind", KINDS[:3])
def test_synchronised_and_back(kind):
    model = convert(nn.Sequential(norm(kind=kind)), sync=True)
    assert type(model[0]) is fast.SyncBatchNorm
    assert type(revert(model)[0]) is kind
    assert not {"process_group", "_fastbn_before"} & vars(model[0]).keys()


def test_bad_models_are_refused():
    for function in (convert, revert):
        with pytest.raises(TypeError, match=r"model should be a torch\.nn\.Module, got int"):
            function(3)
    with pytest.raises(ValueError, match="fuse should be False with sync=True"):
        convert(nn.Sequential(norm()), sync=True, fuse=True)


# --- copies, files, dtypes ------------------------------------------------------------------------


def through_a_file(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": through_a_file,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("version", ["converted", "fused"])
def test_copies_compute_the_same_and_have_their_own_state(copied, version):
    net = versions(small())[version]
    made = copied(copied(net))
    assert list(made.state_dict()) == list(net.state_dict())
    before = made.state_dict()["1.running_mean"].clone()
    expected = gradients(net, data())
    assert torch.equal(made.state_dict()["1.running_mean"], before)
    same(gradients(made, data()), expected, 0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("version", ["converted", "fused"])
def test_models_change_their_dtype(dtype, version):
    nets = versions(small())
    tolerance = 1e-12 if dtype is torch.float64 else 0.1
    found, expected = (
        gradients(nets[name].to(dtype), data(dtype=dtype)) for name in (version, "eager")
    )
    same(found, expected, tolerance)


def test_frozen_parameters_get_no_gradient():
    nets = versions(small())
    for net in nets.values():
        getattr(net, "1").weight.requires_grad_(False)
        getattr(net, "4").requires_grad_(False)
    expected = gradients(nets["eager"], data())
    assert "d1.weight" not in expected
    assert "d1.bias" in expected
    for version in ("converted", "fused"):
        same(gradients(nets[version], data()), expected)


# --- the same numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["converted", "fused"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_fifteen_steps_of_descent(version, momentum):
    nets = versions(small(momentum=momentum))
    close(trained(nets[version]), trained(nets["eager"]), 1e-3)
    found, expected = nets[version].state_dict(), nets["eager"].state_dict()
    same(found, expected, 1e-3)
    for net in nets.values():
        net.eval()
    close(nets[version](data()), nets["eager"](data()), 1e-3)


@each_mode
def test_autocast(training):
    nets = versions(small().train(training))

    def forward(net):
        def call(x):
            with torch.autocast("cpu", torch.bfloat16):
                return net(x)

        return call

    expected = gradients(nets["eager"], data(), forward(nets["eager"]))
    assert expected["output"].dtype is torch.bfloat16
    for version in ("converted", "fused"):
        same(gradients(nets[version], data(), forward(nets[version])), expected, 0.02)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_checkpoints_move_running_statistics_as_pytorchs_do(use_reentrant, last):
    net = nn.Sequential(nn.Conv2d(3, 3, 3), norm(), *[nn.ReLU()] * (not last))

    def forward(net):
        return lambda x: checkpoint(net, x, use_reentrant=use_reentrant)

    nets = versions(net)
    expected = gradients(net, data(), forward(net))
    assert expected["1.num_batches_tracked"] == 2
    for version in ("converted", "fused"):
        same(gradients(nets[version], data(), forward(nets[version])), expected)


def test_parameters_with_strides():
    weight, bias = torch.ones(1).expand(3), data(6)[::2]
    results = []
    for function in (fast.batch_norm, functional.batch_norm):
        mean, var = torch.zeros(6)[::2], torch.ones(6)[::2]
        y = function(data(), mean, var, weight, bias, True)
        results.append((y, mean, var))
    close(*results)


# --- autograd -------------------------------------------------------------------------------------


@each_mode
def test_a_change_of_the_input_is_seen(training):
    for module in pair(training):
        x = data().requires_grad_() + 0
        y = module(x)
        x.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@each_mode
def test_outputs_may_be_changed_in_place(training):
    found, expected = (
        gradients(module, data(), lambda x, m=module: m(x).mul_(2).relu_())
        for module in reversed(pair(training))
    )
    same(found, expected)


def test_constants_of_a_backward_pass_are_those_of_its_forward_pass():
    _, ours = pair(training=False)
    expected = gradients(ours, data())
    x = data().requires_grad_()
    y = ours(x)
    ours.running_var.data.mul_(9)
    y.backward(data(SHAPE, seed=9))
    close(x.grad, expected["input"])


@each_mode
def test_a_graph_may_be_kept(training):
    grads = []
    for module in pair(training):
        x = data().requires_grad_()
        y = module(x) ** 2
        y.sum().backward(retain_graph=True)
        (y * data(seed=1)).sum().backward()
        grads.append(x.grad)
    close(*grads)


@pytest.mark.parametrize("back", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last])
@each_mode
def test_saved_tensors_may_come_back_laid_out_anew(given, back, training):
    def laid_out(tensor):
        return tensor.clone(memory_format=back) if tensor.dim() == 4 else tensor.clone()

    found = []
    for module in pair(training):
        x = data().to(memory_format=given).requires_grad_()
        with saved_tensors_hooks(laid_out, lambda tensor: tensor):
            y = module(x)
        y.backward(data(SHAPE, seed=9))
        found.append((x.grad, module.weight.grad))
    close(*found)


def test_negated_views():
    for dtype in (torch.float32, torch.bfloat16):
        theirs, ours = (functional.batch_norm, fast.batch_norm)
        found = []
        for function in (theirs, ours):
            x = data(dtype=dtype).requires_grad_()
            y = function(torch._neg_view(x), None, None, training=True)
            y.backward(torch._neg_view(data(SHAPE, seed=9, dtype=dtype)))
            found.append((y, x.grad))
        close(*found, 2e-2 if dtype is torch.bfloat16 else 2e-5)


@each_mode
def test_second_derivatives(training):
    _, ours = pair(training, dtype=torch.float64, track_running_stats=not training)
    x = data((3, 3, 2, 1), dtype=torch.float64).requires_grad_()
    parameters = ours.weight, ours.bias

    def function(x, weight, bias):
        state = {"weight": weight, "bias": bias}
        return torch.func.functional_call(ours, state, (x,))

    assert torch.autograd.gradcheck(function, (x, *parameters))
    assert torch.autograd.gradgradcheck(function, (x, *parameters))


def test_third_derivatives_are_refused():
    _, ours = pair(track_running_stats=False)
    x = data().requires_grad_()
    (first,) = torch.autograd.grad(ours(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(3).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        second.sum().backward()


def test_batches_of_gradients():
    found = []
    for module in pair():
        x = data().requires_grad_()
        dy = data((2, *SHAPE), seed=1)
        found += torch.autograd.grad(module(x), x, dy, is_grads_batched=True)
    close(*found)


# --- torch.func -----------------------------------------------------------------------------------


def cube(function):
    return lambda x: function(x).pow(3).sum()


def on_two(function):
    return lambda x: function(torch.stack([x, x**3]))


TRANSFORMS = {
    "grad": lambda f: torch.func.grad(cube(f)),
    "vjp": lambda f: lambda x: torch.func.vjp(f, x)[1](x)[0],
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (x**3,))[1],
    "jacrev": lambda f: torch.func.jacrev(f),
    "jacfwd": lambda f: torch.func.jacfwd(f),
    "grad of grad": lambda f: torch.func.grad(cube(torch.func.grad(cube(f)))),
    "hessian": lambda f: torch.func.hessian(cube(f)),
    "jacrev of jacrev": lambda f: torch.func.jacrev(torch.func.jacrev(cube(f))),
    "vmap": lambda f: lambda x: torch.vmap(f)(torch.stack([x, x**3])),
    "vmap of grad": lambda f: (
        lambda x: torch.vmap(torch.func.grad(cube(f)))(torch.stack([x, x**3]))
    ),
}


@scripts
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@each_mode
def test_transforms(transform, training):
    theirs, ours = pair(training, dtype=torch.float64, track_running_stats=not training)
    x = data((3, 3, 2, 1), dtype=torch.float64)
    expected = transform(theirs)(x)
    assert expected.abs().max() > 1e-5
    torch.testing.assert_close(transform(ours)(x), expected, rtol=1e-7, atol=1e-9)


def test_functional_call():
    theirs, ours = pair(training=False)
    given = {name: p.detach() * 2 for name, p in theirs.named_parameters()}

    def loss(module):
        return lambda p: torch.func.functional_call(module, p, (data(),)).pow(3).sum()

    close(torch.func.grad(loss(ours))(given), torch.func.grad(loss(theirs))(given), 1e-4)


def tangent(module, dual):
    """Of an output, in PyTorch's older forward mode."""
    x, weight = data(), module.weight.detach()
    with forward_ad.dual_level():
        if dual == "weight":
            weight = forward_ad.make_dual(weight, data(3))
        else:
            x = forward_ad.make_dual(x, data(seed=3))
        function = (
            fast.batch_norm if isinstance(module, fast.BatchNorm2d) else functional.batch_norm
        )
        y = function(x, None, None, weight, module.bias, True)
        return forward_ad.unpack_dual(y).tangent


@scripts
@pytest.mark.parametrize("dual", ["x", "weight"])
def test_forward_mode(dual):
    theirs, ours = pair()
    close(tangent(ours, dual), tangent(theirs, dual))


@scripts
@each_mode
def test_tangents_of_a_gradient_are_refused(training):
    _, ours = pair(training)
    x = data().requires_grad_()
    y = ours(x)
    for create_graph in (False, True):
        with forward_ad.dual_level():
            dy = forward_ad.make_dual(data(seed=1), data(seed=2))
            with pytest.raises(NotImplementedError, match="forward mode"):
                torch.autograd.grad(y, x, dy, retain_graph=True, create_graph=create_graph)


# --- tools that see operations --------------------------------------------------------------------


@pytest.mark.parametrize("pre_dispatch", [False, True])
@pytest.mark.parametrize("net", ["converted", "fused"])
def test_make_fx_records_the_operator(pre_dispatch, net):
    made = versions(Net(block).eval())[net]
    graph = make_fx(made, pre_dispatch=pre_dispatch)(data())
    assert torch.ops.fastbn.normalize.default in [node.target for node in graph.graph.nodes]
    close(graph(data(seed=1)), made(data(seed=1)))


def test_fake_tensors_have_the_shape_of_real_ones():
    _, ours = pair()
    real = ours(data().to(memory_format=torch.channels_last))
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = ours(mode.from_tensor(data().to(memory_format=torch.channels_last)))
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@each_mode
def test_jit_trace(training):
    theirs, ours = pair(training)
    traced = torch.jit.trace(ours, (data(),), check_trace=False)
    names = [node.kind() for node in traced.graph.nodes()]
    assert ("fastbn::forward" if training else "fastbn::normalize") in names
    theirs(data())
    close(traced(data(seed=1)), theirs(data(seed=1)))
    close(ours.running_var, theirs.running_var)


def test_operators_keep_pytorchs_rules():
    x, *vectors = data().requires_grad_(), torch.ones(3), torch.zeros(3)
    stats = torch.ops.fastbn.forward(x, *vectors, 1e-5, None, None, 0.0)[1].detach()
    fixed = torch.zeros(3), torch.ones(3)
    plain, fused = (None, None, 0.0), (data(seed=1), "relu", 0.0)
    needs = [True, True, False]
    given = {
        "forward": (x, *vectors, 1e-5, *plain),
        "normalize": (x, *fixed, *vectors, 1e-5, *fused),
        "update_running_stats": (*fixed, stats, None, torch.tensor(3)),
        "backward": (data(seed=2), x, stats, None, *vectors, 1e-5, needs, *plain),
        "double_backward": (data(), data(), stats, None, vectors[0], 1e-5, data(), None, None),
    }
    for name, arguments in given.items():
        operator = getattr(torch.ops.fastbn, name).default
        tests = "test_schema", "test_autograd_registration", "test_faketensor"
        torch.library.opcheck(operator, arguments, test_utils=tests)

"""PyTorch's modules with fastbn beneath: the same numbers, and all that PyTorch does with them."""

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")

from tensors import LAYOUTS, assert_near, normals, outcome
from torch import nn

from fastbn.adapters import torch as adapter
from fastbn.adapters.torch import _sync

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SHAPES = [(8, 5), (6, 5, 7), (4, 5, 6, 3), (3, 5, 4, 2, 3)]
DTYPES = [torch.float32, torch.float64]
KINDS = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]
AFFINE = {
    "affine": {},
    "no_bias": {"bias": False},
    "no_affine": {"affine": False},
}


def kind_of(shape):
    return KINDS[max(len(shape), 3) - 3]


def pair(kind, dtype=torch.float32, **options):
    """A module of fastbn, and PyTorch's in float64 of the same parameters and buffers."""
    mine = getattr(adapter, kind)(5, dtype=dtype, **options)
    with torch.no_grad():
        for seed, parameter in enumerate(mine.parameters()):
            parameter.copy_(normals(5, seed=seed + 90))
    theirs = getattr(nn, kind)(5, dtype=torch.float64, **options)
    theirs.load_state_dict(mine.state_dict())
    return mine, theirs


def assert_same_step(mine, theirs, x, dy):
    """One forward and backward pass: output, gradients and buffers."""
    mine_x, their_x = x.detach().requires_grad_(), x.detach().double().requires_grad_()
    y, expected = mine(mine_x), theirs(their_x)
    assert_near(y, expected, x.dtype)
    y.backward(dy)
    expected.backward(dy.double())
    assert_near(mine_x.grad, their_x.grad, x.dtype)
    for ours, parameter in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert_near(ours.grad, parameter.grad, ours.dtype)
    state, expected = mine.state_dict(), theirs.state_dict()
    assert list(state) == list(expected)
    for name, value in expected.items():
        if name == "num_batches_tracked":
            assert torch.equal(state[name], value)
        else:
            assert_near(state[name], value, state[name].dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [1e-5, 0.03])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("track", [True, False], ids=["tracked", "untracked"])
@pytest.mark.parametrize("affine", AFFINE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_two_steps_an_evaluation_and_a_frozen_step(shape, affine, track, momentum, eps, dtype):
    options = {"track_running_stats": track, "momentum": momentum, "eps": eps}
    mine, theirs = pair(kind_of(shape), dtype, **options, **AFFINE[affine])
    for seed in (0, 1):
        step = normals(shape, dtype, seed), normals(shape, dtype, seed + 2)
        assert_same_step(mine, theirs, *step)
    mine.eval(), theirs.eval()
    with torch.no_grad():
        assert_near(mine(step[0]), theirs(step[0].double()), dtype)
    assert_same_step(mine, theirs, *step)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mixed", [True, False], ids=["mixed", "alike"])
def test_16_bits(mixed, dtype, training):
    mine, theirs = pair("BatchNorm2d", torch.float32 if mixed else dtype)
    mine.train(training), theirs.train(training)
    assert_same_step(mine, theirs, *(normals((4, 5, 6, 3), dtype, seed) for seed in (0, 1)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layouts(shape, layout):
    mine, theirs = pair(kind_of(shape))
    lie = LAYOUTS[layout]
    assert_same_step(mine, theirs, lie(normals(shape)), lie(normals(shape, seed=1)))


@pytest.mark.parametrize("buffers", [True, False], ids=["buffers", "no_buffers"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("track", [True, False], ids=["tracked", "untracked"])
def test_tracking_is_asked_at_each_call(track, training, buffers):
    """As PyTorch's: buffers that are there and not tracked stay, and evaluate."""
    mine, theirs = pair("BatchNorm1d", torch.float64)
    for module in (mine, theirs):
        module.track_running_stats = track
        module.train(training)
        if not buffers:
            module.running_mean = module.running_var = None
    assert_same_step(mine, theirs, *(normals((6, 5, 7), torch.float64, seed) for seed in (0, 1)))


def test_an_average_over_batches_that_nobody_counts_stays():
    """Without num_batches_tracked, as PyTorch's."""
    mine, theirs = pair("BatchNorm1d", torch.float64, momentum=None)
    mine.num_batches_tracked = theirs.num_batches_tracked = None
    assert_same_step(mine, theirs, *(normals((6, 5), torch.float64, seed) for seed in (0, 1)))


# --- where fastbn's layers differ -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_counts(kind):
    shape = (0, 5, 2, 3, 4)[: KINDS.index(kind) + 3]
    mine, theirs = pair(kind, torch.float64)
    for _ in range(2):
        assert_same_step(mine, theirs, *(normals(shape, torch.float64, seed) for seed in (0, 1)))
    assert mine.num_batches_tracked == 2


REFUSED = {
    "eps of 0": ({"eps": 0.0}, (6, 5)),
    "eps below 0": ({"eps": -1.0}, (6, 5)),
    "one value": ({}, (1, 5)),
    "too few axes": ({}, (5,)),
    "too many axes": ({}, (6, 5, 2, 2)),
    "other channels": ({}, (6, 4)),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("why", REFUSED)
def test_refuses_what_pytorch_does_in_its_words(why, training):
    options, shape = REFUSED[why]
    results = []
    for module in (adapter.BatchNorm1d(5, **options), nn.BatchNorm1d(5, **options)):
        module.train(training)
        result = outcome(module, torch.ones(shape))
        if torch.is_tensor(result):
            result = result.tolist()
        results.append((result, int(module.num_batches_tracked)))
    assert results[0] == results[1]


def test_a_constant_channel_without_eps_is_not_a_number():
    x, modules = torch.tensor([[1.0, 2.0]]), [adapter.BatchNorm1d, nn.BatchNorm1d]
    made = [module(2, eps=0.0).eval() for module in modules]
    for module in made:
        module.running_var.zero_(), module.running_mean.fill_(1.0)
    mine, theirs = (module(x) for module in made)
    assert torch.equal(mine.isnan(), theirs.isnan())
    assert torch.equal(mine.nan_to_num(), theirs.nan_to_num())


# --- what PyTorch does with modules ---------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, *(f"Lazy{kind}" for kind in KINDS), "SyncBatchNorm"])
def test_they_are_pytorchs(kind):
    arguments = () if "Lazy" in kind else (5,)
    mine, theirs = getattr(adapter, kind)(*arguments), getattr(nn, kind)(*arguments)
    # DistributedDataParallel refuses all of that class on CPUs.
    base = nn.modules.batchnorm._BatchNorm if kind == "SyncBatchNorm" else type(theirs)
    assert isinstance(mine, base)
    assert repr(mine) == repr(theirs)
    assert list(mine.state_dict()) == list(theirs.state_dict())


def test_state_dicts_go_both_ways():
    mine, theirs = pair("BatchNorm2d", torch.float64)
    x = normals((4, 5, 3, 3), torch.float64)
    mine(x)
    theirs.load_state_dict(mine.state_dict())
    again = adapter.BatchNorm2d(5, dtype=torch.float64)
    again.load_state_dict(theirs.state_dict())
    assert torch.equal(again.eval()(x), mine.eval()(x))
    assert_near(mine(x), theirs.eval()(x), torch.float64)


def test_a_state_dict_of_before_batches_were_counted_loads():
    state = nn.BatchNorm1d(5).state_dict()
    del state["num_batches_tracked"]
    state._metadata[""]["version"] = 1
    module = adapter.BatchNorm1d(5)
    module.load_state_dict(state)
    assert module.num_batches_tracked == 0


def test_hooks_run():
    module, seen = adapter.BatchNorm1d(5), []
    module.register_forward_pre_hook(lambda m, args: seen.append(("before", args[0].shape)))
    module.register_forward_hook(lambda m, args, y: y * 2)
    module.register_full_backward_hook(lambda m, dx, dy: seen.append(("back", dx[0].shape)))
    x = normals((6, 5)).requires_grad_()
    y = module(x)
    y.sum().backward()
    assert seen == [("before", x.shape), ("back", x.shape)]
    assert torch.equal(y, 2 * module.forward(x))


def test_a_hook_of_a_parameter_runs():
    module, seen = adapter.BatchNorm1d(5), []
    module.weight.register_hook(lambda grad: seen.append(grad.shape))
    module(normals((6, 5))).sum().backward()
    assert seen == [(5,)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lazy_ones_are_initialised_by_their_first_input(shape):
    kind = kind_of(shape)
    module = getattr(adapter, f"Lazy{kind}")(eps=0.01, momentum=None)
    assert isinstance(module, nn.modules.lazy.LazyModuleMixin)
    module(normals(shape))
    assert type(module) is getattr(adapter, kind)
    expected = pair(kind, eps=0.01, momentum=None)[0]
    for parameter, value in zip(expected.parameters(), (1.0, 0.0), strict=True):
        nn.init.constant_(parameter, value)
    expected(normals(shape))
    for name, value in expected.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": saved_and_loaded,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", [*KINDS, "SyncBatchNorm"])
def test_copies(kind, how):
    shape = SHAPES[KINDS.index(kind) + 1 if kind in KINDS else 2]
    module = getattr(adapter, kind)(5)
    module(normals(shape))
    made = COPIES[how](module)
    assert type(made) is type(module)
    assert torch.equal(made(normals(shape, seed=1)), module(normals(shape, seed=1)))
    assert made.weight is not module.weight
    for name, value in module.state_dict().items():
        assert torch.equal(made.state_dict()[name], value), name


def test_a_saved_state_loads_as_weights_only():
    module, file = adapter.BatchNorm1d(5), io.BytesIO()
    module(normals((6, 5)))
    torch.save(module.state_dict(), file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["running_var"], module.running_var)


def test_fusion_into_convolutions_and_linear_layers():
    fusion = torch.nn.utils.fusion
    conv, x = nn.Conv2d(3, 5, 3).eval(), normals((2, 3, 6, 6))
    bn = pair("BatchNorm2d")[0]
    bn(conv(x))
    made = fusion.fuse_conv_bn_eval(conv, bn.eval())
    torch.testing.assert_close(made(x), bn(conv(x)), rtol=1e-5, atol=1e-5)
    linear, x = nn.Linear(3, 5).eval(), normals((8, 3))
    bn = pair("BatchNorm1d")[0]
    bn(linear(x))
    made = fusion.fuse_linear_bn_eval(linear, bn.eval())
    torch.testing.assert_close(made(x), bn(linear(x)), rtol=1e-5, atol=1e-5)


def test_a_change_of_the_input_before_the_backward_pass_is_noticed():
    module, x = adapter.BatchNorm1d(5), normals((6, 5))
    y = module(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_batch_between_a_frozen_pass_and_its_gradient_changes_nothing():
    module = pair("BatchNorm1d", torch.float64)[0]
    x, grads = normals((6, 5), torch.float64).requires_grad_(), []
    for between in (False, True):
        y = module.eval()(x)
        if between:
            module.train()(x)
        grads.append(torch.autograd.grad(y.square().sum(), (x, module.weight)))
    for first, second in zip(*grads, strict=True):
        assert torch.equal(first, second)


def test_the_graph_may_be_kept():
    module, x = pair("BatchNorm1d")[0], normals((6, 5)).requires_grad_()
    y = module(x).square().sum()
    first, second = (torch.autograd.grad(y, x, retain_graph=keep)[0] for keep in (True, False))
    assert torch.equal(first, second)
    assert first.any()


def test_inference_mode():
    mine, theirs = pair("BatchNorm2d")
    x = normals((4, 5, 6, 3))
    with torch.inference_mode():
        y = mine(x)
        assert y.is_inference()
        assert_near(y, theirs(x.double()), torch.float32)
    assert_near(mine.running_var, theirs.running_var, torch.float32)


# --- SyncBatchNorm in one process -----------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_sync_batch_norm_alone_is_a_batch_norm(training, shape):
    mine, theirs = pair(kind_of(shape))
    alone = adapter.SyncBatchNorm(5)
    alone.load_state_dict(mine.state_dict())
    mine.train(training), alone.train(training), theirs.train(training)
    x, dy = normals(shape), normals(shape, seed=1)
    assert torch.equal(alone(x), mine(x))  # evaluation is fastbn's, too
    theirs(x.double())
    assert_same_step(alone, theirs, x, dy)


def test_evaluation_asks_no_other_process(monkeypatch):
    monkeypatch.setattr(_sync, "group", lambda given: pytest.fail("asked for the others"))
    adapter.SyncBatchNorm(5).eval()(normals((4, 5)))


def test_pytorchs_own_conversion_takes_them():
    made = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(adapter.BatchNorm2d(5)))
    assert type(made[0]) is nn.SyncBatchNorm

"""`batch_norm` of tensors near the oracle, in PyTorch's memory formats; what PyTorch is left."""

import inspect

import numpy as np
import pytest
import reference
from agreement import HALVES, Oracle, compute_eps
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fastbn

torch = pytest.importorskip("torch")

from tensors import LAYOUTS, NUMPY, Looks, array, assert_near, normals, outcome
from torch.autograd import forward_ad
from torch.nn import functional

from fastbn.adapters.torch import batch_norm

pytestmark = pytest.mark.usefixtures("one_torch_thread")

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def vectors(channels, dtype, seed=0):
    """Running mean, running variance, weight and bias."""
    mean, var, weight, bias = (normals(channels, dtype, seed + i) for i in range(4))
    return [mean, var.abs() + 0.1, weight, bias]


# --- near the oracle, whatever the memory ---------------------------------------------------------


def assert_parameter(oracle, name, got, exact, terms):
    """A gradient of a parameter, rounded once to its dtype."""
    dtype = NUMPY[got.dtype]
    bound = 32 * oracle.unit * terms + (HALVES.get(dtype.name, 0.0) + 2e-38) * np.abs(exact)
    oracle.close(name, array(got), exact, bound + 1e-5 * (dtype.name in HALVES))


@st.composite
def problems(draw):
    """Tensors of a call, which of them need gradients, and whether it is training."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=5)))
    training = draw(st.booleans())
    assume(not training or np.prod(shape) > shape[1])
    dtype = draw(st.sampled_from(DTYPES))
    own = dtype if draw(st.booleans()) or dtype.itemsize != 2 else torch.float32
    seed = draw(st.integers(0, 99))
    x, dy = normals(shape, dtype, seed), normals(shape, dtype, seed + 50)
    mean, var, weight, bias = vectors(shape[1], own, seed)
    weight, bias = (v if draw(st.booleans()) else None for v in (weight, bias))
    if training and draw(st.booleans()):
        mean = var = None
    lie, lie_too = (LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))] for _ in range(2))
    needs = draw(st.lists(st.booleans(), min_size=3, max_size=3))
    return lie(x), lie_too(dy), mean, var, weight, bias, training, needs


@given(problems())
def test_outputs_and_gradients_in_every_memory(problem):
    x, dy, mean, var, weight, bias, training, needs = problem
    leaves = [
        None if value is None else value.requires_grad_(need)
        for value, need in zip((x, weight, bias), needs, strict=True)
    ]
    running = [None if value is None else value.clone() for value in (mean, var)]
    y = batch_norm(x, *running, weight, bias, training, 0.3)
    with torch.no_grad():
        moved = [None if value is None else value.clone() for value in (mean, var)]
        expected = functional.batch_norm(x, *moved, weight, bias, training, 0.3)
    assert (y.dtype, y.stride()) == (expected.dtype, expected.stride())
    stats = None if training else (array(mean).astype(float), array(var).astype(float))
    xs, dys = array(x), array(dy)
    oracle = Oracle(xs, array(weight), array(bias), stats=stats)
    oracle.check_output(array(y))
    if training and mean is not None:
        truth = reference.running(array(mean), array(var), xs, 0.3)
        for got, exact in zip(running, truth, strict=True):
            assert_near(got, torch.from_numpy(np.asarray(exact)), mean.dtype)
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    assert y.requires_grad == bool(wanted)
    if not wanted:
        return
    y.backward(dy)
    for leaf in leaves:
        assert leaf is None or (leaf.grad is not None) == leaf.requires_grad
    truth = reference.backward(dys, xs, array(weight), array(bias), stats=stats)
    terms = np.abs(reference.by_channel(dys, 1)) * (1 + oracle._xhat())
    terms = terms.sum(axis=1) * (1 + oracle.offset)
    for name, leaf in zip(("dweight", "dbias"), leaves[1:], strict=True):
        if leaf is not None and leaf.requires_grad:
            assert leaf.grad.dtype == leaf.dtype
            assert_parameter(oracle, name, leaf.grad, getattr(truth, name), terms)
    if x.requires_grad:
        grads = reference.Grads(array(x.grad), truth.dweight, truth.dbias, None)
        oracle.check_grads(dys, grads)


@st.composite
def strided(draw):
    """A tensor of 4 or 5 axes of any strides, also of overlapping memory."""
    dim = draw(st.integers(4, 5))
    shape = draw(st.lists(st.integers(1, 3), min_size=dim, max_size=dim))
    strides = draw(
        st.lists(st.sampled_from([0, 1, 2, 3, 4, 6, 9, 12, 18, 27]), min_size=dim, max_size=dim)
    )
    if draw(st.integers(0, 3)):  # dense or cropped, and any stride where there is one entry
        last, step = (1, *range(dim - 1, 1, -1), 0), 1
        crop = draw(st.booleans())
        for axis in last if draw(st.booleans()) else draw(st.permutations(range(dim))):
            if shape[axis] > 1 or draw(st.booleans()):
                strides[axis] = step
            step *= shape[axis] + (draw(st.integers(0, 1)) if crop else 0)
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return normals(reach + 1).as_strided(shape, strides)


@settings(max_examples=400)
@given(strided(), st.booleans())
def test_outputs_have_pytorchs_strides(x, training):
    assume(x.numel() > x.shape[1])
    given = *vectors(x.shape[1], torch.float32), training
    expected = functional.batch_norm(x, *given)
    assert batch_norm(x, *given).stride() == expected.stride()


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 5, 2)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_have_pytorchs_strides(layout, shape, training):
    strides = []
    for function in (functional.batch_norm, batch_norm):
        x = LAYOUTS[layout](normals(shape)).requires_grad_()
        y = function(x, *vectors(3, torch.float32), training)
        strides.append(torch.autograd.grad(y.square().sum(), x)[0].stride())
    assert strides[0] == strides[1]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_expanded_tensors(training):
    shape = (4, 3, 6, 2)
    x = normals((4, 3, 1, 1), torch.float64).expand(shape)
    mean, var, weight, bias = vectors(3, torch.float64)
    weight, bias = (v[:1].expand(3) for v in (weight, bias))
    results = []
    for function in (functional.batch_norm, batch_norm):
        leaf = x.detach().requires_grad_()
        y = function(leaf, mean, var, weight, bias, training)
        (dx,) = torch.autograd.grad(y, leaf, normals((), torch.float64).expand(shape))
        results.append((y, dx))
    for theirs, mine in zip(*results, strict=True):
        assert_near(mine, theirs, torch.float64)


def test_vectors_with_gaps_are_moved_where_they_are():
    memory = torch.zeros(2, 9, dtype=torch.float64)
    memory[1] = 1
    dense = memory[:, :3].clone()
    x = normals((6, 3), torch.float64)
    batch_norm(x, memory[0, ::3], memory[1, ::3], training=True)
    functional.batch_norm(x, dense[0], dense[1], training=True)
    for row in (0, 1):
        assert_near(memory[row, ::3], dense[row], torch.float64)
        assert (memory[row].reshape(3, 3)[:, 1:] == row).all()


@pytest.mark.parametrize("momentum", [-1.2, 0.0, 0.5, 2.0, float("inf")])
def test_any_momentum(momentum):
    x, results = normals((6, 3), torch.float64), []
    for function in (functional.batch_norm, batch_norm):
        mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
        function(x, mean, var, training=True, momentum=momentum)
        results.append(torch.stack([mean, var]))
    torch.testing.assert_close(results[1], results[0], equal_nan=True)


@pytest.mark.parametrize("eps", [1e-300, 1e-12, 0.5, 1e300, float("inf"), float("nan")])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_any_eps(training, eps):
    x, given = normals((6, 3), torch.float64), vectors(3, torch.float64)
    theirs, mine = (f(x, *given, training, 0.1, eps) for f in (functional.batch_norm, batch_norm))
    torch.testing.assert_close(mine, theirs, equal_nan=True)


def test_infinities_and_nans_stay_in_their_channels():
    x = normals((6, 3, 2))
    x[0, 0, 0], x[0, 1, 0] = float("nan"), float("inf")
    results = []
    for function in (functional.batch_norm, batch_norm):
        mean, var = torch.zeros(3), torch.ones(3)
        results.append((function(x, mean, var, training=True), mean, var))
    for theirs, mine in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True, rtol=1e-5, atol=1e-5)


def test_the_signature_is_pytorchs():
    mine, theirs = (inspect.signature(f).parameters for f in (batch_norm, functional.batch_norm))
    assert [(p.name, p.default, p.kind) for p in mine.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


def test_arithmetic_is_as_exact_as_fastbns():
    """A mean of 100, where PyTorch's float32 is off by units that nobody would accept here."""
    x = normals((64, 3, 8), torch.float32) + 99
    y, _ = fastbn.forward(x.numpy())
    assert np.array_equal(batch_norm(x, None, None, training=True).numpy(), y)
    unit = compute_eps(np.dtype(np.float32))
    assert np.abs(y - reference.forward(x.numpy())).max() < 32 * unit


@pytest.mark.parametrize("k", [1, 2, 1000])
def test_threads_are_no_more_than_pytorchs(k, monkeypatch):
    before, seen, real = fastbn.get_num_threads(), [], fastbn.forward

    def watched(*args, **kwargs):
        seen.append(fastbn.get_num_threads())
        return real(*args, **kwargs)

    monkeypatch.setattr(fastbn, "forward", watched)
    monkeypatch.setattr(torch, "get_num_threads", lambda: k)
    batch_norm(normals((6, 3)), None, None, training=True)
    assert seen == [min(k, before)]
    assert fastbn.get_num_threads() == before


# --- what PyTorch's tools see ---------------------------------------------------------------------


class Named(torch.Tensor):
    """A class of one's own."""


@pytest.mark.parametrize("which", range(5))
def test_tensors_of_other_classes_stay_so(which):
    x, given = normals((6, 3)), vectors(3, torch.float32)
    results = []
    for function in (functional.batch_norm, batch_norm):
        tensors = [x, *(v.clone() for v in given)]
        tensors[which] = tensors[which].as_subclass(Named)
        results.append(function(*tensors, training=False))
    assert type(results[0]) is type(results[1]) is Named
    assert_near(results[1].as_subclass(torch.Tensor), results[0].double(), torch.float32, 256)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_modes_see_the_operators(training):
    with Looks() as looks:
        batch_norm(normals((6, 3)), *vectors(3, torch.float32), training)
    names = ["forward", "update_running_stats"] if training else ["normalize"]
    assert [name for name in looks.seen if "norm" in name or "fastbn" in name] == [
        f"fastbn.{name}.default" for name in names
    ]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's own, at first use
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_forward_derivatives_are_pytorchs(training):
    x, tangent, results = normals((6, 3)), normals((6, 3), seed=1), []
    for function in (functional.batch_norm, batch_norm):

        def call(a, function=function):
            return function(a, *vectors(3, torch.float32), training)

        with forward_ad.dual_level():
            y = forward_ad.unpack_dual(call(forward_ad.make_dual(x, tangent))).tangent
        results.append((y, torch.func.jvp(call, (x,), (tangent,))[1]))
    for theirs, mine in zip(*results, strict=True):
        assert mine.any()
        torch.testing.assert_close(mine, theirs)


def test_gradients_of_many_outputs_at_once():
    results = []
    for function in (functional.batch_norm, batch_norm):
        x = normals((4, 3), torch.float64).requires_grad_()
        y = function(x, *vectors(3, torch.float64), True)
        many = normals((5, 4, 3), torch.float64, 1)
        results.append(torch.autograd.grad(y, x, many, is_grads_batched=True)[0])
    assert_near(results[1], results[0], torch.float64)


# --- what goes on to PyTorch ----------------------------------------------------------------------


@pytest.fixture
def theirs(monkeypatch):
    """What PyTorch's function was called with."""
    calls, real = [], functional.batch_norm

    def watched(*args, **kwargs):
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(functional, "batch_norm", watched)
    return calls


LEFT = {
    "meta": lambda: [torch.empty(4, 3, device="meta"), *(t.to("meta") for t in vectors3())],
    "meta, without vectors": lambda: [torch.empty(4, 3, device="meta"), None, None],
    "sparse": lambda: [normals((4, 3)).to_sparse(), *vectors3()],
    "quantised": lambda: [
        torch.quantize_per_tensor(normals((4, 3)), 0.1, 0, torch.quint8), *vectors3(),
    ],
    "complex": lambda: [normals((4, 3)).to(torch.complex64), *vectors3()],
    "integers": lambda: [torch.ones(4, 3, dtype=torch.int64), *vectors3()],
    "booleans": lambda: [torch.ones(4, 3, dtype=torch.bool), *vectors3()],
    "mkldnn": lambda: [normals((4, 3, 2, 2)).to_mkldnn(), *vectors3()],
    "nested": lambda: [torch.nested.nested_tensor([normals((3, 2))] * 2), *vectors3()],
    "one axis": lambda: [normals(3), *vectors3()],
    "no axis": lambda: [normals(()), *vectors3()],
    "no channels": lambda: [torch.empty(4, 0), None, None],
    "empty": lambda: [torch.empty(0, 3), *vectors3()],
    "other channels": lambda: [normals((4, 2)), *vectors3()],
    "weight on meta": lambda: [normals((4, 3)), None, None, torch.ones(3, device="meta")],
    "weight of two axes": lambda: [normals((4, 3)), *vectors3()[:2], torch.ones(1, 3)],
    "weight of other bits": lambda: [normals((4, 3)), *vectors3()[:2], torch.ones(3).double()],
    "vectors of other bits": lambda: [normals((4, 3)), *vectors(3, torch.float64)],
    "vectors of 16 bits": lambda: [normals((4, 3)), *vectors(3, torch.float16)],
    "vectors of other 16 bits": lambda: [normals((4, 3)).half(), *vectors(3, torch.bfloat16)],
    "vectors of two dtypes": lambda: [
        normals((4, 3)).half(), *vectors3()[:2], torch.ones(3).half(),
    ],
    "no running variance": lambda: [normals((4, 3)), vectors3()[0], None],
    "no running mean": lambda: [normals((4, 3)), None, vectors3()[1]],
    "a running mean with gradients": lambda: [
        normals((4, 3)), vectors3()[0].requires_grad_(), vectors3()[1],
    ],
}  # fmt: skip


def vectors3():
    return vectors(3, torch.float32)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantiz.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*quantiz.*:DeprecationWarning")
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("what", LEFT)
def test_goes_on_to_pytorch(what, training, theirs):
    expected, mine = (
        outcome(function, *LEFT[what](), training=training)
        for function in (functional.batch_norm, batch_norm)
    )
    assert len(theirs) == 2
    if not torch.is_tensor(expected):
        assert mine == expected
        return
    assert (mine.shape, mine.dtype, mine.layout) == (
        expected.shape,
        expected.dtype,
        expected.layout,
    )
    assert mine.device == expected.device
    if not mine.is_meta:
        assert torch.equal(mine.to_dense(), expected.to_dense())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_other_devices_go_on_to_pytorch(theirs):
    given = [t.cuda() for t in (normals((4, 3)), *vectors3())]
    assert batch_norm(*given).is_cuda
    assert len(theirs) == 1


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_else_does(dtype, training, theirs):
    for kind in {dtype, dtype if dtype.itemsize > 2 else torch.float32}:
        batch_norm(normals((4, 3, 2), dtype), *vectors(3, kind), training)
    assert not theirs


REFUSED = {
    "one value a channel": ([torch.ones(1, 3), None, None], {"training": True}),
    "no statistics": ([torch.ones(4, 3), None, None], {}),
    "eps of 0": ([torch.ones(4, 3), None, None], {"training": True, "eps": 0.0}),
    "eps below 0": ([torch.ones(4, 3), torch.zeros(3), torch.ones(3)], {"eps": -1e-5}),
    "words": ([torch.ones(4, 3), torch.zeros(3), torch.ones(3)], {"eps": "small"}),
    "a list": ([[[1.0, 2.0]], torch.zeros(2), torch.ones(2)], {}),
    "an array": ([np.ones((4, 3)), torch.zeros(3), torch.ones(3)], {}),
    "a weight that is a list": ([torch.ones(4, 3), torch.zeros(3), torch.ones(3), [1.0] * 3], {}),
    "a number for a weight": ([torch.ones(4, 3), torch.zeros(3), torch.ones(3), 1.0], {}),
    "momentum that is a word": (
        [torch.ones(4, 3), torch.zeros(3), torch.ones(3)], {"training": True, "momentum": "fast"},
    ),
    "no momentum": (
        [torch.ones(4, 3), torch.zeros(3), torch.ones(3)], {"training": True, "momentum": None},
    ),
    "training that is a number": ([torch.ones(4, 3), None, None], {"training": 1}),
    "no eps": ([torch.ones(4, 3), None, None], {"training": True, "eps": None}),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_refuses_in_pytorchs_words(why):
    args, kwargs = REFUSED[why]
    expected = outcome(functional.batch_norm, *args, **kwargs)
    assert isinstance(expected, tuple)
    assert outcome(batch_norm, *args, **kwargs) == expected

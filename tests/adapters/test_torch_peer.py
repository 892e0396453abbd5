"""PyTorch's own sample inputs and error inputs of batch norm, through the adapter."""

import importlib.util
import sys
from types import SimpleNamespace
from unittest import TestCase

import pytest

torch = pytest.importorskip("torch")

from tensors import assert_near, normals, outcome
from torch import nn

from fastbn.adapters import torch as adapter

pytestmark = pytest.mark.usefixtures("one_torch_thread")

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NAMES = ["nn.functional.batch_norm", "native_batch_norm"]
MODULES = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]


def internal(name):
    """A file of PyTorch's tests: of a package that it wants, no more is used than this class."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("expecttest") is None:
            patch.setitem(sys.modules, "expecttest", SimpleNamespace(TestCase=TestCase))
        return importlib.import_module(f"torch.testing._internal.{name}")


@pytest.fixture(scope="module")
def operators():
    found = internal("common_methods_invocations").op_db
    return {op.name: op for op in found if op.name in NAMES and not op.variant_test_name}


@pytest.fixture(scope="module")
def modules():
    found = internal("common_modules").module_db
    return {info.module_cls: info for info in found}


def copied(values, dtype=None):
    """Tensors of their own, and all else as it is."""
    return [
        v.detach().clone().to(dtype or v.dtype).requires_grad_(v.requires_grad)
        if torch.is_tensor(v)
        else v
        for v in values
    ]


def as_function(name, sample):
    """A sample's arguments in the order of `torch.nn.functional.batch_norm`'s."""
    if name == NAMES[0]:
        return [sample.input, *sample.args], dict(sample.kwargs)
    weight, bias, mean, var, training, momentum, eps = sample.args
    return [sample.input, mean, var, weight, bias, training, momentum, eps], {}


def gradient_of(y):
    """Of the same values in every dtype."""
    return normals(y.shape, torch.bfloat16).to(y.dtype)


def called(function, args, kwargs):
    """An output, and gradients or what has become of the arguments; or an error."""
    y = outcome(function, *args, **kwargs)
    if torch.is_tensor(y) and y.requires_grad:
        y.backward(gradient_of(y))
    return y, [t.grad if t.requires_grad else t for t in args if torch.is_tensor(t)]


def assert_same(args, kwargs, dtype):
    """The adapter's function and PyTorch's in float64."""
    mine, ours = called(adapter.batch_norm, copied(args), kwargs)
    given = copied(args, torch.float64)
    theirs, expected = called(nn.functional.batch_norm, given, kwargs)
    if not torch.is_tensor(theirs):
        assert mine == theirs
        return
    assert_near(mine, theirs, dtype, 256)
    for got, value in zip(ours, expected, strict=True):
        assert_near(got, value, dtype, 256)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("grads", [True, False], ids=["gradients", "no_gradients"])
@pytest.mark.parametrize("name", NAMES)
def test_samples(name, grads, dtype, operators):
    number = 0
    for sample in operators[name].reference_inputs("cpu", dtype, requires_grad=grads):
        assert_same(*as_function(name, sample), dtype)
        number += 1
    assert number >= 8


@pytest.mark.parametrize("name", NAMES)
def test_there_are_no_error_inputs_of_the_functions(name, operators):
    """If PyTorch gets some, they belong here."""
    assert operators[name].error_inputs_func is None


def built(module_input, kind, dtype):
    """A module of a class, by the arguments of PyTorch's test."""
    given = module_input.constructor_input
    return kind(*given.args, **given.kwargs, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", MODULES)
def test_module_inputs(kind, training, dtype, modules):
    info = modules[getattr(nn, kind)]
    cases = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=True, training=training
    )
    assert len(cases) >= 7
    for case in cases:
        (x,) = case.forward_input.args
        mine, theirs = (
            built(case, getattr(where, kind), kept)
            for where, kept in ((adapter, dtype), (nn, torch.float64))
        )
        steps = [step(module.train(training), x) for module in (mine, theirs)]
        for got, value in zip(*steps, strict=True):
            assert_near(got, value, dtype, 256)
        assert mine.num_batches_tracked == theirs.num_batches_tracked, case.desc


def step(module, x):
    """Output, gradients and running statistics of a module, in its dtype."""
    dtype = torch.float64 if type(module).__module__.startswith("torch.") else x.dtype
    (x,) = copied([x], dtype)
    y = module(x)
    y.backward(gradient_of(y))
    return y, x.grad, *(p.grad for p in module.parameters()), *list(module.buffers())[:2]


@pytest.mark.parametrize("kind", MODULES)
def test_module_error_inputs(kind, modules):
    info = modules[getattr(nn, kind)]
    cases = info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    )
    assert cases
    for case in cases:
        module = built(case.module_error_input, getattr(adapter, kind), torch.float32)
        with pytest.raises(case.error_type, match=case.error_regex) as mine:
            module(*case.module_error_input.forward_input.args)
        module = built(case.module_error_input, getattr(nn, kind), torch.float32)
        theirs = outcome(module, *case.module_error_input.forward_input.args)
        assert (mine.type, str(mine.value)) == theirs

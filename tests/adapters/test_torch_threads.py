"""PyTorch's threads and processes, and fastbn's beside them."""

import pytest

torch = pytest.importorskip("torch")

import numpy as np
from process import environment, needs_fork, run_to_end

import fastbn
from fastbn._runtime import threads
from fastbn.adapters.torch import BatchNorm2d

LARGE = 16, 65, 40, 40  # for a team

PRELUDE = """
import torch
import torch.multiprocessing as mp
from torch.utils.data import DataLoader, Dataset
from fastbn.adapters.torch import BatchNorm2d

X = torch.linspace(-3, 5, 16 * 65 * 8 * 8).reshape(16, 65, 8, 8)

def results(kind, x):
    bn, x = kind(65), x.detach().clone().requires_grad_()
    y = bn(x)
    y.backward(x.detach() ** 2)
    return y.detach(), x.grad, bn.weight.grad, bn.running_var

def right(x=X):
    pairs = zip(results(BatchNorm2d, x), results(torch.nn.BatchNorm2d, x))
    return all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs)

class Normalised(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return torch.tensor([right(X + i), torch.get_num_threads() == 1])

def work(queue, x):
    torch.set_num_threads(1)  # more, and PyTorch's own operations hang after a fork
    queue.put(right(x))

def test(method, workers=2):
    assert right()
    context = mp.get_context(method)
    queue, x = context.Queue(), X.clone().share_memory_()
    children = [context.Process(target=work, args=(queue, x)) for _ in range(workers)]
    for child in children: child.start()
    options = {"num_workers": workers, "multiprocessing_context": context, "timeout": 60}
    assert all(bool(batch.all()) for batch in DataLoader(Normalised(), batch_size=2, **options))
    assert all(queue.get(timeout=60) for _ in children)
    for child in children: child.join(30)
    assert all(child.exitcode == 0 for child in children)
    assert right()
"""


@pytest.fixture
def number(keep_threads, monkeypatch):
    """Calls the batch norm with so many threads of PyTorch: the number that a kernel got."""
    got, before, launch = [], torch.get_num_threads(), threads._launch

    def noted(parallel, count, args):
        got.append(count)
        launch(parallel, count, args)

    monkeypatch.setattr(threads, "_launch", noted)
    monkeypatch.setattr(threads, "_chosen", None)
    monkeypatch.setattr(threads.pace, "rests", lambda: False)
    monkeypatch.setattr(threads, "_default", lambda: 4)

    def call(of_torch, train=True):
        got.clear()
        torch.set_num_threads(of_torch)
        x = torch.ones(LARGE, requires_grad=True)
        y = BatchNorm2d(65).train(train)(x)
        assert torch.get_num_threads() == of_torch
        y.sum().backward()
        assert torch.get_num_threads() == of_torch
        return set(got)

    yield call
    torch.set_num_threads(before)


@pytest.mark.parametrize("train", [True, False])
def test_kernels_get_pytorchs_number_of_threads(number, train):
    assert number(1, train) == set()  # no team
    assert number(2, train) == {2}
    assert number(3, train) == {3}


def test_no_more_than_fastbns_own(number):
    assert number(8) == {4}


def test_what_fastbn_was_given_goes_before(number):
    fastbn.set_num_threads(3)
    assert number(1) == number(8) == {3}
    with fastbn.threads(2):
        assert number(1) == {2}
    assert number(1) == {3}


def test_other_calls_have_fastbns_number(number):
    number(1)
    assert fastbn.get_num_threads() == 4


def test_the_number_changes_no_bit(number):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=LARGE))
    outputs = []
    for k in (1, 2, 4):
        torch.set_num_threads(k)
        outputs.append(BatchNorm2d(65, dtype=torch.float64)(x))
    assert all(torch.equal(outputs[0], y) for y in outputs)


@needs_fork
@pytest.mark.parametrize("layer", ["default", "tbb", "workqueue"])
def test_forked_workers(layer):
    run_to_end(PRELUDE + 'test("fork")', timeout=100, **environment(layer))


def test_spawned_workers():
    run_to_end(PRELUDE + 'if __name__ == "__main__":\n    test("spawn", workers=1)', timeout=100)

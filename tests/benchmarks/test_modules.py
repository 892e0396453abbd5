"""The tables of modules and networks in PyTorch: every row is timed, and all sides compute one."""

from functools import partial
from math import isnan, nan

import numpy as np
import pytest

from benchmarks import measure, modules, networks

torch = pytest.importorskip("torch")
NOT_COMPILED = [side for side in networks.SIDES if side != "compiled"]
ROWS = {
    "small": (lambda: modules.small([(4, 8, 6, 6)]), 4),
    "large": (lambda: modules.large([(4, 8, 6, 6)]), 2 + 2),  # and the mean, and the least
    "networks": (lambda: modules.steps(["test"], NOT_COMPILED), 3),
}


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    small = partial(networks.resnet18, 10, 4), (2, 3, 32, 32)
    monkeypatch.setitem(networks.NETWORKS, "test", small)


@pytest.mark.parametrize("part", modules.PARTS)
@pytest.mark.parametrize("noisy", [False, True])
def test_every_row_is_timed(part, noisy, monkeypatch):
    pytest.importorskip("pandas")
    monkeypatch.setattr(measure, "TURN", 0)
    monkeypatch.setattr(modules, "quietly", lambda take: None if noisy else take())
    rows, count = ROWS[part]
    _, cells = modules.table(part, rows(), 0)
    assert len(cells) == count
    assert (cells == "noisy").to_numpy().any() == noisy
    assert (cells.iloc[0] == "noisy").all() == noisy


def test_cells_are_ratios_to_the_module_and_to_eager():
    times = {"module": 2.0, "torch.nn": 3.0, "functions": 1.8, "functions and Function": 1.9}
    (cells,) = modules.of_large("row", times).values()
    assert list(cells.values()) == [2e6, 0.9, 0.95, 1.5]
    (cells,) = modules.of_small("row", {"module": 4e-5, "torch.nn": 3e-5}).values()
    assert cells["more, us"] == pytest.approx(10)
    times = {"eager": 0.010, "fused": 0.007, "no batch norm": 0.006}
    cells = modules.of_steps("row", times)["row, fused"].values()
    assert list(cells) == pytest.approx([7, 0.7, 1, 0.25, 1 / 7])
    (cells,) = modules.of_small("row", {"module": nan, "torch.nn": nan}).values()
    assert all(map(isnan, cells.values()))


def test_a_side_that_computes_another_thing_is_not_timed():
    one, two = (lambda value=value: (np.array([value, 1.0]),) for value in (1.0, 1.01))
    modules.check("row", {"one": one, "same": one})
    with pytest.raises(AssertionError, match=r"row: two is off by 1\.0e-02"):
        modules.check("row", {"one": one, "two": two})


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_networks_have_all_their_batch_norms_converted_and_fused(name):
    from fastbn.adapters.torch import BatchNorm2d

    make, _ = networks.NETWORKS[name]
    eager, converted, fused, bare = (networks.made(make(), side) for side in NOT_COMPILED)
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in eager.modules())
    assert norms == {"ResNet-18": 20, "U-Net level": 6}[name]
    for network in (converted, fused):
        assert sum(isinstance(module, BatchNorm2d) for module in network.modules()) == norms
    not_fused = sum(not fusion.operations for fusion in fused.meta["fastbn"])
    assert not_fused == {"ResNet-18": 3, "U-Net level": 0}[name]  # those on the way past blocks
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in bare.modules())


def test_resnet18_is_torchvisions():
    """By its number of parameters, and by what a batch becomes on the way."""
    network = networks.resnet18()
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512
    assert network[:-3](torch.zeros(2, 3, 64, 64)).shape == (2, 512, 2, 2)


def test_a_step_leaves_the_weights():
    call = networks.step("test", "fused")
    assert call() == call()

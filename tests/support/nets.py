"""Networks to convert, and what a step of training does to them."""

import copy

import torch
from torch import nn
from torch.nn import functional

from fastbn.adapters.torch import convert

SHAPE = (4, 3, 6, 5)


def data(shape=SHAPE, *, seed=0, dtype=torch.float32):
    """Normal deviates."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def norm(channels=3, kind=nn.BatchNorm2d, **options):
    """A batch norm whose parameters and running statistics are not those it is born with."""
    made = kind(channels, **options)
    with torch.no_grad():
        for seed, tensor in enumerate((made.weight, made.bias, made.running_mean)):
            if tensor is not None:
                tensor.copy_(data(channels, seed=seed) * 0.5 + 0.7)
    return made


class Net(nn.Module):
    """A convolution and two batch norms, of which a function makes the forward pass."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.unused = nn.Parameter(torch.ones(2))
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn, self.other = norm(), norm()
        self.relu = nn.ReLU(inplace=True)
        self.register_buffer("calls", torch.zeros(3))
        with torch.no_grad():
            self.conv.weight.copy_(data((3, 3, 3, 3), seed=5) * 0.3)

    def forward(self, x):
        return self.function(self, x)


def block(net, x):
    """A ResNet's block."""
    out = net.bn(net.conv(x))
    out += x
    return net.relu(out)


def small(**options):
    """Convolutions, batch norms and a ReLU."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
    return nn.Sequential(first, norm(4, **options), nn.ReLU(), last, norm(2, **options))


def gradients(net, x, forward=None):
    """Output, gradients and state of a step of backpropagation; the net's gradients are fresh."""
    net.zero_grad()
    x = x.clone().requires_grad_()
    y = (net if forward is None else forward)(x)
    dy = data(y.shape, seed=9, dtype=y.dtype)
    y.backward(dy)
    found = {"output": y.detach(), "input": x.grad}
    found |= {f"d{name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return found | {name: value.clone() for name, value in net.state_dict().items()}


def same(found, expected, tolerance=2e-4):
    """The same names, dtypes, shapes and, up to rounding, values."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance * scale, msg=lambda m, n=name: n + m
        )


def trained(net, steps=15):
    """The losses of steps of gradient descent."""
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9), []
    for step in range(steps):
        optimizer.zero_grad()
        loss = functional.mse_loss(net(data(seed=step)), data(seed=100 + step)[:, :2])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def versions(net):
    """The net, and copies of it: converted, and fused."""
    converted, plain = convert(copy.deepcopy(net)), copy.deepcopy(net)
    return {"eager": net, "converted": converted, "fused": convert(plain, fuse=True)}

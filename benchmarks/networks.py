"""Networks of PyTorch's in which batch norm is timed: torchvision's ResNet-18, a level of a U-Net.

A step is a training step: gradients of a batch, and what the optimizer does with them. Its learning
rate is 0, so that every step computes the same.
"""

import copy
from contextlib import suppress
from types import SimpleNamespace

nn = SimpleNamespace(Module=object)
with suppress(ImportError):  # asv imports every file here
    import torch
    from torch import nn
    from torch.nn import functional


class Block(nn.Module):
    """ResNet-18's: two convolutions and a way past them."""

    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1:
            conv = nn.Conv2d(before, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class UNetLevel(nn.Module):
    """Two convolutions, half the size and two more, full size again beside the first, two more."""

    def __init__(self, before, width):
        super().__init__()
        self.left, self.below = twice(before, width), twice(width, 2 * width)
        self.down = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.right = twice(2 * width, width)

    def forward(self, x):
        left = self.left(x)
        return self.right(torch.cat([left, self.up(self.below(self.down(left)))], 1))


def twice(before, width):
    """Convolution, batch norm and ReLU, two times."""
    layers = []
    for channels in (before, width):
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def resnet18(classes=1000, width=64):
    """As torchvision has it."""
    conv = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    layers = [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)]
    before = width
    for k in range(4):
        after = width << k
        layers += [Block(before, after, 1 + (k > 0)), Block(after, after, 1)]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


NETWORKS = {  # by name: the network, and the shape of a batch
    "ResNet-18": (resnet18, (8, 3, 64, 64)),
    "U-Net level": (lambda: UNetLevel(32, 32), (2, 32, 96, 96)),
}
SIDES = ("eager", "converted", "fused", "compiled", "no batch norm")


def step(name, side):
    """The call of a training step; the same weights and batch on every side."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    network = made(make(), side)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)
    x = torch.randn(shape)

    def call():
        optimizer.zero_grad()
        y = network(x)
        loss = functional.mse_loss(y, torch.ones_like(y))
        loss.backward()
        optimizer.step()
        return (loss.detach(),)

    return call


def made(network, side):
    """The network as a side has it."""
    if side in ("converted", "fused"):
        from fastbn.adapters.torch import convert

        return convert(network, fuse=side == "fused")
    if side == "compiled":
        from .in_compiled import compiled

        return compiled(network)
    return without_batch_norm(network) if side == "no batch norm" else network


def without_batch_norm(network):
    """A copy whose batch norms do nothing."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return network

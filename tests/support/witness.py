"""Batch norm written in PyTorch's own operations in float64: autograd is a second witness."""

import numpy as np
import pytest
import reference


def autograd(
    dy, x, weight, bias, *, eps=1e-5, channel_axis=1, stats=None, weights=None, residual=None,
    activation=None, negative_slope=0.01,
):  # fmt: skip
    """The output, and `reference.Grads`."""
    torch = pytest.importorskip("torch")

    def leaf(a):
        return torch.from_numpy(np.array(a, np.float64, order="C")).requires_grad_()

    inputs = [leaf(a) for a in (x, weight, bias)]
    z = leaf(0.0 * dy if residual is None else residual)
    rows = inputs[0].movedim(channel_axis, 0).flatten(1)
    if stats is None:
        w = torch.from_numpy(reference.shared_weights(weights, x, channel_axis).copy())
        counted = rows[:, w > 0]
        w = w[w > 0]
        mean = (w * counted).sum(1) / w.sum()
        var = (w * (counted - mean[:, None]) ** 2).sum(1) / w.sum()
    else:
        mean, var = (torch.from_numpy(s) for s in stats)
    xhat = (rows - mean[:, None]) / torch.sqrt(var + eps)[:, None]
    rows = xhat * inputs[1][:, None] + inputs[2][:, None]
    y = rows.reshape(inputs[0].movedim(channel_axis, 0).shape).movedim(0, channel_axis) + z
    if activation == "relu":
        y = torch.nn.functional.relu(y)
    elif activation:
        y = torch.nn.functional.leaky_relu(y, negative_slope)
    y.backward(leaf(dy))
    grads = (a.grad.numpy() for a in (*inputs, z))
    return y.detach().numpy(), reference.Grads(*grads)

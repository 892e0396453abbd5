"""A multilayer perceptron in NumPy, with or without batch norm between its layers.

Each hidden layer computes `activation(norm(x @ W + b))`; the last one gives a score per class.
Everything is written by hand, forward and backward; `fastbn.BatchNorm` is one more layer with
the same two calls: `y = norm(x)` on the way up, `dx = norm.backward(dy)` on the way down.
"""

from itertools import pairwise

import numpy as np

import fastbn


def sigmoid(z):
    """Squash z into (0, 1)."""
    return 1 / (1 + np.exp(-z))


def sigmoid_gradient(a, da):
    """Gradient with respect to z, from the output a = sigmoid(z)."""
    return da * a * (1 - a)


def relu(z):
    """Negative values become 0."""
    return np.maximum(z, 0)


def relu_gradient(a, da):
    """Gradient with respect to z, from the output a = relu(z)."""
    return da * (a > 0)


ACTIVATIONS = {"sigmoid": (sigmoid, sigmoid_gradient), "ReLU": (relu, relu_gradient)}


def softmax_loss(scores, labels, count=None):
    """Mean cross-entropy of the softmax of the scores, and its gradient.

    ``count``: samples of the whole batch, of which these are a part; then it is their share.
    """
    rows, count = np.arange(len(labels)), len(labels) if count is None else count
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[rows, labels] + 1e-12).sum() / count
    p[rows, labels] -= 1
    return loss, p / count


class Network:
    """Layers of the given sizes; the initial weights are normal with deviation `weight_scale`."""

    def __init__(self, sizes, activation, weight_scale, batch_norm, rng):
        shapes = pairwise(sizes)
        self.weights = [weight_scale * rng.standard_normal(s, dtype=np.float32) for s in shapes]
        self.biases = [np.zeros(n, np.float32) for n in sizes[1:]]
        self.norms = [fastbn.BatchNorm(n) if batch_norm else None for n in sizes[1:-1]]
        self.activation, self.activation_gradient = ACTIVATIONS[activation]

    def train(self, x, labels, learning_rate):
        """One step of gradient descent on a batch; returns the loss before the step."""
        loss, gradients = self.gradients(x, labels)
        for layer, gradient in enumerate(gradients):
            self.step(layer, gradient, learning_rate)
        return loss

    def accuracy(self, x, labels):
        """Share of right answers; batch norm uses its running statistics."""
        return np.mean(self._forward(x, training=False).argmax(axis=1) == labels)

    def sums(self, x, training=False):
        """`x @ W + b` of each hidden layer: what its batch norm is given, or its activation.

        With `training`, batch norms normalise with the statistics of x, but do not record them.
        """
        self._forward(x, training, update=False)
        return self.summed

    def adapt(self, batches, **options):
        """`BatchNorm.adapt` of every layer, the lowest first.

        Each is given what the adapted layers below make of the batches, as it will be afterwards.
        """
        for w, b, norm in zip(self.weights, self.biases, self.norms, strict=False):
            batches = [x @ w + b for x in batches]
            norm.eval().adapt(batches, **options)
            batches = [self.activation(norm(z)) for z in batches]

    def gradients(self, x, labels, update=True, count=None):
        """The loss of a batch, and its gradients: a list per layer, in the order of `step`.

        ``count``: as of `softmax_loss`.
        """
        scores = self._forward(x, training=True, update=update)
        loss, dz = softmax_loss(scores, labels, count)
        gradients = []
        for i in reversed(range(len(self.weights))):
            of_norm = []
            if i < len(self.norms):
                dz = self.activation_gradient(self.inputs[i + 1], dz)
                dz, of_norm = self._through_norm(self.norms[i], dz)
            gradients.append([self.inputs[i].T @ dz, dz.sum(axis=0), *of_norm])
            if i > 0:
                dz = dz @ self.weights[i].T
        return loss, gradients[::-1]

    def step(self, layer, gradient, learning_rate):
        """Gradient descent of one layer: its weights and bias, and those of its batch norm."""
        parameters = [self.weights[layer], self.biases[layer]]
        if len(gradient) > 2:
            parameters += [self.norms[layer].weight, self.norms[layer].bias]
        for parameter, change in zip(parameters, gradient, strict=True):
            parameter -= learning_rate * change

    def _forward(self, x, training, update=True):
        self.inputs, self.summed = [x], []  # of each linear layer; what hidden ones sum up to
        for w, b, norm in zip(self.weights, self.biases, self.norms, strict=False):
            z = x @ w + b
            self.summed.append(z)
            if norm is not None:
                z = norm.train(training)(z, update=update)
            x = self.activation(z)
            self.inputs.append(x)
        return x @ self.weights[-1] + self.biases[-1]

    @staticmethod
    def _through_norm(norm, dz):
        if norm is None:
            return dz, []
        norm.zero_grad()
        dz = norm.backward(dz)
        return dz, [norm.weight_grad.copy(), norm.bias_grad.copy()]

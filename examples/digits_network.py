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


def softmax_loss(scores, labels):
    """Mean cross-entropy of the softmax of the scores, and its gradient."""
    rows = np.arange(len(labels))
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[rows, labels] + 1e-12).mean()
    p[rows, labels] -= 1
    return loss, p / len(labels)


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
        scores = self._forward(x, training=True)
        loss, dscores = softmax_loss(scores, labels)
        self._backward_and_update(dscores, learning_rate)
        return loss

    def accuracy(self, x, labels):
        """Share of right answers; batch norm uses its running statistics."""
        return np.mean(self._forward(x, training=False).argmax(axis=1) == labels)

    def _forward(self, x, training):
        self.inputs = [x]  # of each linear layer
        for w, b, norm in zip(self.weights, self.biases, self.norms, strict=False):
            z = x @ w + b
            if norm is not None:
                norm.training = training
                z = norm(z)
            x = self.activation(z)
            self.inputs.append(x)
        return x @ self.weights[-1] + self.biases[-1]

    def _backward_and_update(self, dz, learning_rate):
        for i in reversed(range(len(self.weights))):
            x = self.inputs[i]
            dw, db = x.T @ dz, dz.sum(axis=0)
            if i > 0:
                dz = self.activation_gradient(x, dz @ self.weights[i].T)
                if self.norms[i - 1] is not None:
                    dz = self._norm_backward(self.norms[i - 1], dz, learning_rate)
            self.weights[i] -= learning_rate * dw
            self.biases[i] -= learning_rate * db

    @staticmethod
    def _norm_backward(norm, dz, learning_rate):
        dz = norm.backward(dz)
        norm.weight -= learning_rate * norm.weight_grad
        norm.bias -= learning_rate * norm.bias_grad
        norm.zero_grad()
        return dz

"""Internal covariate shift: what each training step does to the layers of a network.

Two measures. How far a step moves the distribution of what a layer sums up, on the same scans
(`fastbn.covariate_shift`); and how far it turns a layer's gradient by moving the layers below
(Santurkar et al. 2018, definition 2.1). Three kinds of network: without batch norm, with it, and
with batch norm whose outputs are thrown off at random, so that the layers above see a shift that
batch norm has not taken away (after Santurkar et al. 2018, section 2.1).
"""

from dataclasses import dataclass, field

import numpy as np
from digits_network import Network

import fastbn

WITHOUT, WITH, NOISY = "without batch norm", "with batch norm", "with batch norm and noise"
WIDTH, DEPTH, BATCH = 100, 5, 100
PROBE = 500  # training scans that the distributions are measured on
LOOK_EVERY = 5  # steps between two looks at gradients and accuracy
# deviation of a unit's offset, and of the logarithm of its factor: about the least with which
# every layer above the first shifts more than without batch norm
NOISE = 0.35


class NoisyBatchNorm(fastbn.BatchNorm):
    """Batch norm; in training each unit of its output is then scaled and moved at random."""

    def shake(self, rng):
        """Draw new factors and offsets."""
        factor, self.offset = NOISE * rng.standard_normal((2, self.num_features), np.float32)
        self.factor = np.exp(factor)

    def __call__(self, x, **options):
        """The output of batch norm, thrown off while training."""
        y = super().__call__(x, **options)
        return y * self.factor + self.offset if self.training else y

    def backward(self, dy):
        """Gradient with respect to the input."""
        return super().backward(dy * self.factor)


@dataclass
class Watched:
    """One training: its setting, and what each step did to the layers."""

    network: str  # its activation
    weight_scale: float
    learning_rate: float
    side: str
    seed: int
    scores: list[list[float]] = field(default_factory=list)  # of each hidden layer, every step
    looks: list[int] = field(default_factory=list)  # the steps at which the rest was measured
    angles: list[list[float]] = field(default_factory=list)  # of each layer but the first, degrees
    accuracy: list[float] = field(default_factory=list)  # on the test scans, after the step


def new_network(activation, scale, batch_norm, rng):
    """A network of DEPTH hidden layers."""
    return Network((64, *[WIDTH] * DEPTH, 10), activation, np.float32(scale), batch_norm, rng)


def scores(stats, reference):
    """The median shift of each layer's channels; channels of infinite shift rank last."""
    shifts = map(fastbn.covariate_shift, stats, reference)
    return np.array([np.median(shift) for shift in shifts])


def watch(run, steps, training, test):
    """Train a network and write down what each step does to its layers."""
    x, labels = training
    rng, noise = np.random.default_rng(run.seed), np.random.default_rng(run.seed + 1000)
    network = new_network(run.network, run.weight_scale, run.side != WITHOUT, rng)
    if run.side == NOISY:
        network.norms = [NoisyBatchNorm(WIDTH) for _ in network.norms]
        shake(network, noise)
    rate, old = np.float32(run.learning_rate), sums_stats(network, x[:PROBE])
    for step in range(1, steps + 1):
        if run.side == NOISY:
            shake(network, noise)
        part = rng.choice(len(x), BATCH, replace=False)
        batch = x[part], labels[part], rate
        if step % LOOK_EVERY == 1:
            run.looks.append(step)
            run.angles.append(step_layer_by_layer(network, *batch))
            run.accuracy.append(network.accuracy(*test))
        else:
            network.train(*batch)
        new = sums_stats(network, x[:PROBE])
        run.scores.append(scores(new, old))
        old = new


def shake(network, rng):
    """New noise for every batch norm."""
    for norm in network.norms:
        norm.shake(rng)


def sums_stats(network, x):
    """Statistics of what each hidden layer sums up, as in training."""
    return [fastbn.batch_stats(z) for z in network.sums(x, training=True)]


def step_layer_by_layer(network, x, labels, rate):
    """One training step; how far it turns each layer's gradient by moving the layers below.

    The angles, in degrees, between a layer's gradients with the layers below as they were and
    after their part of the step.
    """
    _, before = network.gradients(x, labels)
    angles = []
    for layer, gradient in enumerate(before):
        if layer > 0:
            _, after = network.gradients(x, labels, update=False)
            a, b = (g[layer][0].astype(np.float64) for g in (before, after))
            cosine = np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))
            angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        network.step(layer, gradient, rate)
    return angles

"""A layer's life in any order of events, beside a model of it in plain NumPy."""

import copy
import pickle
import threading

import numpy as np
import pytest
import reference
from data import normals, snapshot
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import fastbn

SEEDS = st.integers(0, 50)
C = 3


def batch(seed):
    shape = (2 + seed % 7, C, 1 + seed % 4)
    return normals(shape, seed=seed, offset=seed % 5 - 2, scale=1 + seed % 3)


class Life(RuleBasedStateMachine):
    """Each rule does one thing to the layer and to what it should then be."""

    @initialize(
        momentum=st.sampled_from([0.1, 1.0, 0.0, None]), affine=st.booleans(), tracks=st.booleans()
    )
    def birth(self, momentum, affine, tracks):
        self.bn = fastbn.BatchNorm(C, 1e-3, momentum, affine, tracks, dtype=np.float64)
        self.momentum, self.affine, self.tracks = momentum, affine, tracks
        self.training, self.count, self.last, self.stale = True, 0, None, False
        self.weight, self.bias = np.ones(C), np.zeros(C)
        self.grads = [np.zeros(C), np.zeros(C)]
        self.mean, self.var = np.zeros(C), np.ones(C)

    @rule(seed=SEEDS, update=st.booleans(), elsewhere=st.booleans())
    def call(self, seed, update, elsewhere):
        x = batch(seed)
        stats = None if self.training or not self.tracks else (self.mean.copy(), self.var.copy())
        y = self.in_a_thread(lambda: self.bn(x, update=update), elsewhere)
        expected = reference.forward(x, self.weight, self.bias, eps=1e-3, stats=stats)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-11)
        self.last, self.stale = (x, self.weight, stats), False
        if self.training and self.tracks and update:
            self.count += 1
            factor = 1 / self.count if self.momentum is None else self.momentum
            self.mean, self.var = reference.running(self.mean, self.var, x, factor)

    def in_a_thread(self, call, really):
        if not really:
            return call()
        results = []
        thread = threading.Thread(target=lambda: results.append(call()))
        thread.start()
        thread.join()
        return results[0]

    # Between a forward pass and its backward pass, x and the parameters must not change.
    @precondition(lambda self: self.last is not None and not self.stale)
    @rule(seed=SEEDS)
    def backward(self, seed):
        x, weight, stats = self.last
        dy = normals(x.shape, seed=seed)
        dx, *grads = reference.backward(dy, x, weight, eps=1e-3, stats=stats)[:3]
        np.testing.assert_allclose(self.bn.backward(dy), dx, rtol=0, atol=1e-10)
        self.grads = [total + grad for total, grad in zip(self.grads, grads, strict=True)]

    @precondition(lambda self: self.last is None)
    @rule()
    def backward_too_early(self):
        with pytest.raises(RuntimeError, match="before forward"):
            self.bn.backward(batch(0))

    @rule()
    def zero_grad(self):
        self.bn.zero_grad()
        self.grads = [np.zeros(C), np.zeros(C)]

    @rule(mode=st.booleans())
    def train_or_eval(self, mode):
        assert (self.bn.train() if mode else self.bn.eval()) is self.bn
        self.training = mode

    @rule()
    def reset(self):
        self.bn.reset_running_stats()
        self.mean, self.var, self.count = np.zeros(C), np.ones(C), 0

    @precondition(lambda self: self.affine)
    @rule(seed=SEEDS)
    def learn(self, seed):
        step = normals(C, seed=seed, scale=0.1)
        self.bn.weight += step
        self.bn.bias -= step
        self.weight, self.bias, self.stale = self.weight + step, self.bias - step, True

    @rule(seed=SEEDS)
    def load(self, seed):
        rng = np.random.default_rng(seed)
        state = self.bn.state_dict()
        for name in set(state) - {"num_batches_tracked"}:
            state[name] = rng.uniform(0.5, 2, C)
            setattr(self, name.removeprefix("running_"), state[name].copy())
        self.stale = True
        if self.tracks:
            self.count = state["num_batches_tracked"] = seed
        self.bn.load_state_dict(state)
        for value in state.values():  # the layer has copies
            if isinstance(value, np.ndarray):
                value[:] = np.nan

    @rule()
    def look(self):
        for value in self.bn.state_dict().values():  # copies, not the layer's own
            value[...] = -7

    @rule(how=st.sampled_from(["pickle", "deepcopy", "state"]))
    def rebirth(self, how):
        old = self.bn
        if how == "pickle":
            self.bn = pickle.loads(pickle.dumps(old))
        elif how == "deepcopy":
            self.bn = copy.deepcopy(old)
        else:
            self.bn = fastbn.BatchNorm(
                C, 1e-3, self.momentum, self.affine, self.tracks, dtype=np.float64
            ).train(self.training)
            self.bn.load_state_dict(old.state_dict())
            self.last, self.grads = None, [np.zeros(C), np.zeros(C)]
        for name, value in vars(old).items():  # what the old one does is its own affair
            if isinstance(value, np.ndarray) and value.flags.writeable:
                value[...] = np.nan
                assert not np.isnan(getattr(self.bn, name)).any(), name

    @rule(
        bad=st.sampled_from(
            [np.zeros((4, C + 1)), np.zeros(C), np.zeros((4, C), complex), np.zeros((1, C))]
        )
    )
    def refuse(self, bad):
        if bad.shape == (1, C) and not self.training and self.tracks:
            return
        saved = self.bn.saved
        with pytest.raises((ValueError, TypeError)):
            self.bn(bad)
        assert self.bn.saved is saved

    @rule()
    def refuse_a_state(self):
        state = snapshot(self.bn) | {"gamma": np.ones(C)}
        with pytest.raises(KeyError, match="gamma"):
            self.bn.load_state_dict(state)
        if "bias" in state:
            del state["gamma"]
            state |= {"weight": np.full(C, 7.0), "bias": np.ones(C + 1)}
            with pytest.raises(ValueError, match="bias"):
                self.bn.load_state_dict(state)

    @invariant()
    def is_as_it_should_be(self):
        bn = self.bn
        assert bn.training == self.training
        pairs = []
        if self.affine:
            pairs += [(bn.weight, self.weight), (bn.bias, self.bias)]
            pairs += [(bn.weight_grad, self.grads[0]), (bn.bias_grad, self.grads[1])]
        if self.tracks:
            assert bn.num_batches_tracked == self.count
            pairs += [(bn.running_mean, self.mean), (bn.running_var, self.var)]
        for got, expected in pairs:
            np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30)

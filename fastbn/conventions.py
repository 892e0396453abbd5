"""What other systems mean by batch norm: defaults, and how running statistics move."""

from typing import NamedTuple

from ._runtime import errors

# The defaults of a signature. An argument that is the very same object was not given by hand: they
# are no constants of the code, which may be one object wherever they are written.
EPS, MOMENTUM = float("1e-5"), float("0.1")


class Convention(NamedTuple):
    """One system's batch norm."""

    eps: float
    momentum: float
    of_new: bool  # whether momentum is the weight of the new value, else of the old one
    ddof: float  # of the running variance: 1 is the unbiased one, 0 that of the population
    first_var: float  # with which the running variance begins
    minimum: int  # of values a channel in training, at least; of a single one, the output is bias

    def new_weight(self, momentum: float | None, tracked: int) -> float:
        """The weight of a batch, the so-many-th, in the running statistics."""
        if momentum is None:
            return 1.0 / tracked
        momentum = errors.number("momentum", momentum)
        return momentum if self.of_new else 1.0 - momentum


CONVENTIONS = {
    "torch": Convention(EPS, MOMENTUM, True, 1.0, 1.0, 2),
    "keras": Convention(1e-3, 0.99, False, 0.0, 1.0, 1),  # 3
    "flax": Convention(1e-5, 0.99, False, 0.0, 1.0, 1),  # linen and nnx
    "onnx": Convention(1e-5, 0.9, False, 0.0, 1.0, 1),  # operator sets 14 and 15, training_mode 1
    "chainer": Convention(2e-5, 0.9, False, 1.0, 1.0, 1),  # 7
    "cs231n": Convention(1e-5, 0.9, False, 0.0, 0.0, 1),
}


def convention_of(name: str) -> Convention:
    """A convention by its name."""
    errors.choice("convention", name, tuple(CONVENTIONS))
    return CONVENTIONS[name]

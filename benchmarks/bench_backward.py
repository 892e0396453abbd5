"""Time of the backward pass: gradients with respect to the input, weight and bias."""

from . import suite


class _Backward:
    operation = "backward"

    def time_backward(self, case, layout, dtype):
        self.run()


class ResNet50(_Backward, suite.ResNet50):
    """Every shape of ResNet-50 at 32 images."""


class Double(_Backward, suite.Double):
    """Some of them in double precision."""


class Networks(_Backward, suite.Networks):
    """Shapes of other networks, and odd ones."""


class Rows(_Backward, suite.Rows):
    """(N, D) data."""


class Small(_Backward, suite.Small):
    """A thousand small calls."""

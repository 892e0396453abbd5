"""Time of the forward pass in training: statistics of the batch, and its normalised values."""

from . import suite


class _Forward:
    operation = "forward"

    def time_forward(self, case, layout, dtype):
        self.run()


class ResNet50(_Forward, suite.ResNet50):
    """Every shape of ResNet-50 at 32 images."""


class Double(_Forward, suite.Double):
    """Some of them in double precision."""


class Networks(_Forward, suite.Networks):
    """Shapes of other networks, and odd ones."""


class Rows(_Forward, suite.Rows):
    """(N, D) data."""


class Small(_Forward, suite.Small):
    """A thousand small calls."""

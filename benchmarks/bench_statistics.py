"""Time of the mean and variance of each channel alone."""

from . import suite


class _Statistics:
    operation = "statistics"

    def time_statistics(self, case, layout, dtype):
        self.run()


class ResNet50(_Statistics, suite.ResNet50):
    """Every shape of ResNet-50 at 32 images."""


class Double(_Statistics, suite.Double):
    """Some of them in double precision."""


class Rows(_Statistics, suite.Rows):
    """(N, D) data."""


class Small(_Statistics, suite.Small):
    """A thousand small calls."""

"""Time of `batch_norm` in training: the batch's statistics move running ones."""

from . import suite


class _Training:
    operation = "training"

    def time_training(self, case, layout, dtype):
        self.run()


class Rows(_Training, suite.Rows):
    """(N, D) data."""


class Small(_Training, suite.Small):
    """A thousand small calls."""

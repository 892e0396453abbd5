"""Time of normalisation with running statistics."""

from . import suite


class _Evaluation:
    operation = "evaluation"

    def time_evaluation(self, case, layout, dtype):
        self.run()


class ResNet50(_Evaluation, suite.ResNet50):
    """Every shape of ResNet-50 at 32 images."""


class Double(_Evaluation, suite.Double):
    """Some of them in double precision."""


class Rows(_Evaluation, suite.Rows):
    """(N, D) data."""


class Small(_Evaluation, suite.Small):
    """A thousand small calls."""

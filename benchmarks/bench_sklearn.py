"""fastbn's StandardScaler and scikit-learn's own; n/a where scikit-learn is not installed.

asv's environments have no scikit-learn: run these in one that has, as those of PyTorch.
"""

from functools import lru_cache
from importlib.util import find_spec

ROWS = 200_000
TASKS = "fit", "fit and transform", "transform", "inverse_transform", "100 partial_fits"


@lru_cache(maxsize=1)
def ready(library, dtype):
    """Calls by task, after a first time that loads or compiles them."""
    if find_spec("sklearn") is None:
        raise NotImplementedError  # asv shows n/a
    from . import scaling

    found = scaling.calls(scaling.KINDS[library], scaling.data(ROWS, dtype, "C", ""))
    for call in found.values():
        call()
    return found


class Scaler:
    """Calls on an array of 200,000 rows and 50 columns."""

    params = (("fastbn", "scikit-learn"), ("float64", "float32"), TASKS)
    param_names = ("library", "dtype", "task")
    timeout = 300
    rounds = 2
    repeat = (3, 20, 2.0)  # least and most samples of a round, and its seconds

    def setup(self, library, dtype, task):
        """Prepare the call."""
        self.call = ready(library, dtype)[task]

    def time_call(self, *parameters):
        """A call that allocates its outputs."""
        self.call()

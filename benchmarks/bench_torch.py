"""fastbn's modules and PyTorch's own, eager and compiled; n/a where PyTorch is not installed.

asv's environments have no PyTorch (see asv.conf.json): run these in one that has, such as
`asv run --quick --bench bench_torch -E existing:$(which python) --set-commit-hash HASH`.
"""

from functools import lru_cache

from . import networks
from .cases import CASES, LAYOUTS, Data
from .libraries import MODULES, installed, prepared
from .measure import settle_allocator

SHAPES = tuple(c.name for c in CASES.values() if c.group == "resnet50" or c.name == "small-4x8x6x6")


@lru_cache(maxsize=1)
def ready(prepare, *arguments):
    """The call to be timed, after a first time that loads or compiles it."""
    if "PyTorch" not in installed():
        raise NotImplementedError  # asv shows n/a
    settle_allocator()
    call = prepare(*arguments)
    call()
    return call


def module(operation, library, case, layout):
    """A call of libraries.py."""
    return prepared(library, operation, Data(CASES[case], layout))


class Module:
    """Module calls in training, without and with their backward pass."""

    params = (tuple(MODULES), ("fastbn", "PyTorch", "torch.compile"), SHAPES, LAYOUTS)
    param_names = ("operation", "library", "case", "layout")
    timeout = 300
    rounds = 2
    repeat = (3, 20, 2.0)  # least and most samples of a round, and its seconds

    def setup(self, *parameters):
        """Prepare the call."""
        self.call = ready(module, *parameters)

    def time_call(self, *parameters):
        """A call that allocates its outputs."""
        self.call()


class TrainingStep:
    """A step of a network: forward, backward and the optimizer."""

    params = (tuple(networks.NETWORKS), networks.SIDES)
    param_names = ("network", "side")
    timeout = 600  # compiling

    def setup(self, *parameters):
        """Prepare the call."""
        self.call = ready(networks.step, *parameters)

    def time_step(self, *parameters):
        """A step on the same batch."""
        self.call()

"""Run the body of every benchmark once, on the smallest of its cases, in this process.

    python -m benchmarks.smoke

It shows that the suite works, and measures nothing. The tests run the same bodies.
"""

import inspect
from importlib import import_module
from itertools import product
from math import prod
from pathlib import Path

from .cases import CASES

KINDS = ("time_", "track_", "peakmem_")


def bodies():
    """(name, call) of every benchmark, for the smallest case and all layouts and dtypes."""
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        module = import_module(f".{path.stem}", __package__)
        for class_name, class_ in inspect.getmembers(module, inspect.isclass):
            if class_name.startswith("_") or class_.__module__ != module.__name__:
                continue
            for method in (name for name in dir(class_) if name.startswith(KINDS)):
                for parameters in smallest(class_.params):
                    name = ".".join((path.stem, class_name, method))
                    yield f"{name}({', '.join(parameters)})", body(class_, method, parameters)


def smallest(params):
    """The combinations of parameters with the case that has the fewest values."""
    cases, *others = params
    return product([min(cases, key=lambda name: prod(CASES[name].shape))], *others)


def body(class_, method, parameters):
    """A call that sets a benchmark up and runs it once."""

    def call():
        benchmark = class_()
        benchmark.setup(*parameters)
        return getattr(benchmark, method)(*parameters)

    return call


def main():
    """Run them, a line each."""
    for name, call in bodies():
        print(name, flush=True)
        call()


if __name__ == "__main__":
    main()

"""Run the body of every benchmark once, on the smallest of its cases, in this process.

    python -m benchmarks.smoke

It shows that the suite works, and measures nothing worth keeping. `.ci/run` runs it.
"""

import inspect
from functools import cache
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
                for parameters in smallest(getattr(class_, "params", ())):
                    name = ".".join((path.stem, class_name, method))
                    text = f"{name}({', '.join(map(str, parameters))})"
                    yield text, body(class_, method, parameters)


def smallest(params):
    """The combinations of parameters with the smallest case, or the first value of the first."""
    if not params:
        return [()]
    first, *others = params
    size = {name: prod(case.shape) for name, case in CASES.items()}
    return product([min(first, key=lambda value: size.get(value, 0))], *others)


def body(class_, method, parameters):
    """A call that sets a benchmark up and runs it once."""

    def call():
        benchmark = class_()
        arguments = *cached(class_), *parameters
        if hasattr(benchmark, "setup"):
            benchmark.setup(*arguments)
        return getattr(benchmark, method)(*arguments)

    return call


@cache
def cached(class_):
    """What asv computes once for a class, and gives to all of its benchmarks."""
    return [class_().setup_cache()] if hasattr(class_, "setup_cache") else []


def main():
    """Run them, a line each, with the values of those that have one."""
    for name, call in bodies():
        print(name, end="", flush=True)
        value = call()
        print("" if value is None else f": {value:.3g}", flush=True)


if __name__ == "__main__":
    main()

"""The body of every asv benchmark, once, on the smallest of its cases: does the suite work?"""

import inspect
from functools import cache
from importlib import import_module
from itertools import product
from pathlib import Path

import pytest

import benchmarks
from benchmarks.bench_time import Large
from benchmarks.cases import CASES, missing

FILES = sorted(path.stem for path in Path(benchmarks.__file__).parent.glob("bench_*.py"))
KINDS = ("time_", "track_", "peakmem_")


def classes():
    """The classes that asv finds."""
    for file in FILES:
        module = import_module(f"benchmarks.{file}")
        for _, class_ in inspect.getmembers(module, inspect.isclass):
            if class_.__module__ == module.__name__:
                yield class_


def combinations(class_):
    """The parameters for the smallest case, or the first mean, and all values of the others."""
    names, values = (getattr(class_, kind, ()) for kind in ("param_names", "params"))
    values = dict(zip(names, values, strict=True))
    if "case" in values:
        case = min((CASES[name] for name in values["case"]), key=lambda case: case.size)
        values |= {"case": [case.name], "layout": case.layouts}
    if "dtype" in values:
        values["dtype"] = [dtype for dtype in values["dtype"] if not missing(dtype)]
    if "mean" in values:
        values["mean"] = values["mean"][:1]
    for name in ("library", "side"):  # but those that compile for minutes
        if name in values:
            values[name] = [value for value in values[name] if "compile" not in value]
    return product(*values.values())


def bodies():
    """A parameter set for each benchmark and combination of its parameters."""
    for class_ in classes():
        for method in (name for name in dir(class_) if name.startswith(KINDS)):
            for parameters in combinations(class_):
                name = ".".join((class_.__name__, method, *map(str, parameters)))
                yield pytest.param(class_, method, parameters, id=name)


@cache
def cached(class_):
    """What asv computes once for a class, and gives to all of its benchmarks."""
    return [class_().setup_cache()] if hasattr(class_, "setup_cache") else []


@pytest.mark.parametrize(("class_", "method", "parameters"), list(bodies()))
def test_the_body_of_a_benchmark(class_, method, parameters):
    if class_.__module__.endswith("torch"):
        pytest.importorskip("torch")
    benchmark, arguments = class_(), (*cached(class_), *parameters)
    if hasattr(benchmark, "setup"):
        benchmark.setup(*arguments)
    value = getattr(benchmark, method)(*arguments)
    assert isinstance(value, float) if method.startswith("track_") else value is None


def test_every_file_has_benchmarks():
    assert FILES
    assert {class_.__module__.split(".")[-1] for class_ in classes()} == set(FILES)


def test_rows_in_a_second_layout_are_not_available():
    with pytest.raises(NotImplementedError):
        Large().setup("forward", "rows-256x1024", "channels_last", "float32")

"""What `import fastbn` costs: a program that has NumPy already, and one that has nothing."""

from process import run_python

CODE = """
from time import perf_counter
start = perf_counter()
import {first}
between = perf_counter()
import {second}
print(between - start, perf_counter() - between)
"""


def seconds(first, second):
    """The least that the two imports take, one after the other."""
    code = CODE.format(first=first, second=second)
    return map(min, zip(*(map(float, run_python(code).split()) for _ in range(5)), strict=True))


def test_import_costs_less_than_half_of_numpys():
    """12 ms, 10 of them Python's `logging` and thread pools; NumPy 38 (AMD EPYC, 2026-11)."""
    numpy, ours = seconds("numpy", "fastbn")
    assert ours < numpy / 2


def test_import_alone_costs_less_than_numpys_import_after_it():
    """14 ms and 36 (AMD EPYC, 2026-11)."""
    ours, numpy = seconds("fastbn", "numpy")
    assert ours < numpy

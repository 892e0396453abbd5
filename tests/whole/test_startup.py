"""What `import fastbn` costs a program that has NumPy already."""

from process import run_python

CODE = """
from time import perf_counter
start = perf_counter()
import numpy
between = perf_counter()
import fastbn
print(between - start, perf_counter() - between)
"""


def test_import_costs_a_third_of_numpys():
    """12 ms, 10 of them Python's `logging` and thread pools; NumPy 38 (AMD EPYC, 2026-11)."""
    times = [map(float, run_python(CODE).split()) for _ in range(5)]
    numpy, ours = map(min, zip(*times, strict=True))
    assert ours < numpy / 2

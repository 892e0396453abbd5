"""scikit-learn is imported by its adapter and by nothing else; what is missing is said."""

import pytest
from process import run_python

USED = """
import sys
import numpy as np
import fastbn

fastbn.population_stats([np.ones((3, 2))])
bn = fastbn.BatchNorm(2)
bn.backward(bn(np.ones((3, 2), np.float32)))
import fastbn.adapters
print([name for name in ("sklearn", "dask") if name in sys.modules])  # Numba imports SciPy
"""

ADAPTER = """
import sys
import numpy as np
from fastbn.adapters.sklearn import StandardScaler

StandardScaler().fit_transform(np.ones((3, 2)))
print([name for name in ("dask", "distributed") if name in sys.modules])
"""

WITHOUT = """
import sys

sys.modules["sklearn"] = None  # as if it were not installed
import fastbn
try:
    import fastbn.adapters.sklearn
except ImportError as error:
    print(error)
"""


def test_fastbn_does_not_import_scikit_learn():
    assert run_python(USED).strip() == "[]"


def test_its_adapter_does_not_import_dask():
    pytest.importorskip("sklearn")
    assert run_python(ADAPTER).strip() == "[]"


def test_what_is_missing_is_said():
    words = run_python(WITHOUT).strip()
    assert words.startswith("fastbn.adapters.sklearn needs scikit-learn 1.6 or newer: pip install")
    assert words.endswith("'fastbn[sklearn]'")

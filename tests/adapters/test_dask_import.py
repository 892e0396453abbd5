"""Dask is imported by its adapter and by nothing else; what is missing is said."""

import pytest
from process import run_python

pytest.importorskip("dask.array")

USED = """
import sys
import numpy as np
import fastbn

fastbn.population_stats([np.ones((3, 2))])
import fastbn.adapters
print([name for name in ("dask", "distributed", "xarray") if name in sys.modules])
"""

ADAPTER = """
import sys
import numpy as np
import dask.array as da

(da.ones((3, 2), chunks=2) + np.ones(2)).sum().compute()  # Dask looks for its neighbours itself
before = set(sys.modules)
from fastbn.adapters.dask import batch_norm

batch_norm(np.ones((3, 2))).compute()
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(new & {"distributed", "xarray", "pandas"}))
"""

WITHOUT = """
import sys

sys.modules["dask"] = None  # as if it were not installed
import fastbn
try:
    import fastbn.adapters.dask
except ImportError as error:
    print(error)
"""


def test_fastbn_does_not_import_dask():
    assert run_python(USED).strip() == "[]"


def test_its_adapter_imports_neither_distributed_nor_xarray():
    assert run_python(ADAPTER).strip() == "[]"


def test_what_is_missing_is_said():
    words = run_python(WITHOUT).strip()
    assert words == "fastbn.adapters.dask needs Dask: pip install 'fastbn[dask]'"


def test_query_planning_is_refused():
    code = WITHOUT.replace('sys.modules["dask"] = None', "")
    words = run_python(code, DASK_ARRAY__QUERY_PLANNING="True").strip()
    assert words.endswith("array.query-planning to be off")

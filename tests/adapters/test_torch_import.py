"""PyTorch is imported by its adapter and by nothing else; what is missing is said."""

import pytest
from process import run_python

torch = pytest.importorskip("torch")

USED = """
import sys
import numpy as np
import fastbn

bn = fastbn.BatchNorm2d(3)
bn.backward(bn(np.ones((2, 3, 4, 4), np.float32)))
fastbn.Saved, fastbn.threads, fastbn.config_info()
import fastbn.adapters
print([name for name in ("torch", "ml_dtypes") if name in sys.modules])
"""

WITHOUT = """
import sys

sys.modules[{name!r}] = None  # as if it were not installed
import fastbn
try:
    import fastbn.adapters.torch
except ImportError as error:
    print(error)
"""


def test_fastbn_does_not_import_pytorch():
    assert run_python(USED).strip() == "[]"


def test_its_adapter_does():
    code = "import sys, fastbn.adapters.torch; print('torch' in sys.modules)"
    assert run_python(code).strip() == "True"


@pytest.mark.parametrize("name", ["torch", "ml_dtypes"])
def test_what_is_missing_is_said(name):
    words = run_python(WITHOUT.format(name=name))
    assert words.strip().endswith("needs PyTorch and ml_dtypes: pip install 'fastbn[torch]'")

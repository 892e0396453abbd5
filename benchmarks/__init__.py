"""Benchmarks: the asv suite (bench_*.py), `python -m benchmarks.compare`, `.accuracy`, `.fused`."""

from importlib.util import find_spec
from pathlib import Path

# `from .measure import in_turn` finds fastbn/_bench/measure.py of this checkout: the fastbn that is
# installed may be an older one, which asv times, and has no such files.
_package = Path(__file__).resolve().parents[1] / "fastbn"
if not _package.exists():  # an sdist without it, whose tests are for the one that is installed
    _package = Path(find_spec("fastbn").origin).parent
__path__.append(str(_package / "_bench"))

"""Benchmarks: the asv suite (bench_*.py), `python -m benchmarks.compare`, `.accuracy`, `.fused`."""

from pathlib import Path

# `from .measure import in_turn` finds fastbn/_bench/measure.py of this checkout: the fastbn that is
# installed may be an older one, which asv times, and has no such files.
__path__.append(str(Path(__file__).resolve().parents[1] / "fastbn" / "_bench"))

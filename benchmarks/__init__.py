"""Benchmarks: the asv suite (bench_*.py), `python -m benchmarks.compare`, `.accuracy`, `.fused`."""

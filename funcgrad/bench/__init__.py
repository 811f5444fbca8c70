"""Benchmarks of funcgrad, each a module to run: `python -m funcgrad.bench.tracing`."""

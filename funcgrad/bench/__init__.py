"""Benchmarks of funcgrad, each a module to run, like `python -m funcgrad.bench.tracing`."""

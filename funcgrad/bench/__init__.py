"""Benchmarks: the cases of `funcgrad bench`, and closer looks like `funcgrad.bench.loops`."""

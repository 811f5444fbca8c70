"""Benchmarks: the cases of `funcgrad bench`, and in `scaling` what devices exchange."""

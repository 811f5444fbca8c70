"""A JAX function held against a torch function: run both, pair their arrays, judge, report."""

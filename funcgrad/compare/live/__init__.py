"""A JAX function compared with a torch function: run, pair, judge, report.

`parity.py` checks a call, and `comparison.py` runs these stages, each in files of its own:

1. run: `inputs.py`, `parameters.py` and `cotangents.py` make what both sides get; `torch_run.py`
   (with `capture.py`) and `jax_run.py` run them.
2. pair: `pairs.py` pairs the arrays that have one name.
3. judge: `judge.py` compares two arrays; `divergence.py` finds where the two sides part.
4. report: `report.py`.
"""

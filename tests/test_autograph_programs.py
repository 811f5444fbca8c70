"""`autograph` on random programs: each as plain Python runs it, or refused.

`FUNCGRAD_PROGRAMS=5000` runs so many; every night does.
"""

import os

import autograph_programs as programs
import jax
import pytest

COUNT = int(os.environ.get("FUNCGRAD_PROGRAMS", "32"))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, COUNT, 16))
def test_random_programs_are_right_or_refused(first):
    with jax.numpy_dtype_promotion("standard"):
        found = {seed: programs.outcome(seed) for seed in range(first, first + 16)}
    wrong = {k: v for k, v in found.items() if v not in ("right", "refused", "raises")}
    assert not wrong, "python tests/autograph_programs.py SEED shows one"
    assert "right" in found.values()


def test_programs_are_told_apart_from_wrong_ones():
    assert programs._difference({"a": 1.0}, {"a": 1.0}) == "right"
    assert programs._difference({"a": 1.0}, {"a": 1.1}).startswith("wrong: ['a'] is 1.0")
    assert programs._difference({"a": [1.0]}, {"a": [1.0, 2.0]}).startswith("wrong")
    for seed in range(40):
        compile(programs.Writer(seed).source(), "program", "exec")

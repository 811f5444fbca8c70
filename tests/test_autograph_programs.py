"""`autograph` on random programs: each as plain Python runs it, or refused."""

import autograph_programs as programs
import jax
import pytest

TOGETHER = 25


def holds(first):
    with jax.numpy_dtype_promotion("standard"):
        found = {seed: programs.outcome(seed) for seed in range(first, first + TOGETHER)}
    wrong = {k: v for k, v in found.items() if v not in ("right", "refused", "raises")}
    assert not wrong, "python tests/autograph_programs.py SEED shows one"
    assert "right" in found.values()


@pytest.mark.slow
def test_random_programs_are_right_or_refused():
    holds(0)


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(TOGETHER, 5000, TOGETHER))
def test_many_random_programs_are_right_or_refused(first):
    holds(first)


def test_programs_that_are_wrong_are_told_from_right_ones():
    assert programs.difference({"a": 1.0}, {"a": 1.0}) == "right"
    assert programs.difference({"a": 1.0}, {"a": 1.1}).startswith("wrong: ['a'] is 1.0")
    assert programs.difference({"a": [1.0]}, {"a": [1.0, 2.0]}).startswith("wrong")
    for seed in range(40):
        compile(programs.Writer(seed).source(), "program", "exec")

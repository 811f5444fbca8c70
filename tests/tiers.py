"""Which values of a parametrization the quick tier leaves to the whole suite."""

import pytest


def slow_but(quick, values):
    """`values` for `parametrize`, all marked slow but those for which `quick` is true."""
    calls = [value if type(value) is tuple else (value,) for value in values]
    marks = [() if quick(*call) else pytest.mark.slow for call in calls]
    return [pytest.param(*call, marks=mark) for call, mark in zip(calls, marks, strict=True)]

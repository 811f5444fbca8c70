"""Which values of a parametrization each tier leaves to a longer one."""

import pytest


def slow_but(quick, values):
    """`values` for `parametrize`, all marked slow but those for which `quick` is true."""
    calls = [value if type(value) is tuple else (value,) for value in values]
    marks = [() if quick(*call) else pytest.mark.slow for call in calls]
    return [pytest.param(*call, marks=mark) for call, mark in zip(calls, marks, strict=True)]


def one_in(count, values):
    """`values` for `parametrize`: one in `count` is slow, the others run every night."""
    marks = [
        pytest.mark.nightly if number % count else pytest.mark.slow for number in range(len(values))
    ]
    return [pytest.param(*value, marks=mark) for value, mark in zip(values, marks, strict=True)]

"""What each tier leaves to a longer one, and each JAX line to the other."""

import collections
import itertools
import zlib

import pytest


def slow_but(quick, values):
    """`values` for `parametrize`, all marked slow but those for which `quick` is true."""
    calls = [value if type(value) is tuple else (value,) for value in values]
    marks = [() if quick(*call) else pytest.mark.slow for call in calls]
    return [pytest.param(*call, marks=mark) for call, mark in zip(calls, marks, strict=True)]


def one_in(count, values):
    """`values` for `parametrize`: one in `count` is slow, the others run every night."""
    calls = [value if type(value) is tuple else (value,) for value in values]
    return _slow(calls, range(0, len(calls), count))


def pairs_of(*axes):
    """The product of `axes` for `parametrize`, of which most run every night.

    Slow are so many that any two values of different axes meet in one.
    """
    cells = [*itertools.product(*map(range, map(len, axes)))]
    pairs = {cell: [*itertools.combinations(enumerate(cell), 2)] for cell in cells}
    met, chosen = collections.Counter(), []
    new = lambda cell: sum(not met[pair] for pair in pairs[cell])
    while new(best := max(cells, key=lambda cell: (new(cell), -sum(met[p] for p in pairs[cell])))):
        met.update(pairs[best])
        chosen.append(cells.index(best))
    return _slow([*itertools.product(*axes)], chosen)


def _slow(calls, chosen):
    """All of them nightly but those at the chosen places, which are slow."""
    marks = [pytest.mark.nightly] * len(calls)
    for place in chosen:
        marks[place] = pytest.mark.slow
    return [pytest.param(*call, marks=mark) for call, mark in zip(calls, marks, strict=True)]


def other_half(half, items):
    """The cases of slow tests that `half`, "first" or "second", leaves to the other one.

    Every case is in one half, and every test with several cases in both; one without is run twice.
    Cases are drawn by their names: tests that share what they compute draw alike. What needs torch
    runs on one JAX line only, and so is not halved.
    """
    tests = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("torch"):
            tests[item.nodeid.partition("[")[0]].append(item)
    drawn = lambda item: zlib.crc32(item.nodeid.partition("[")[2].encode())
    start = ["second", "first"].index(half)
    several = [sorted(cases, key=drawn) for cases in tests.values() if len(cases) > 1]
    return {item for cases in several for item in cases[start::2]}

"""Guesses from the difference of two arrays what went wrong: a sign, an axis, a factor, a shape.

Each guess is tried out: the change is undone in the port's numbers and these are judged again. So
what is said is true of the numbers, if not always the reason for them.
"""

import math
from collections.abc import Callable, Iterator
from itertools import permutations

import numpy as np

from .values import Number, Value

_MOST_NUMBERS = 20_000  # beyond that only the place of the difference is told
_MOST_AXES = 4
_LEAST_FOR_FACTOR = 3  # any two single numbers have a ratio, so that one says nothing

Agrees = Callable[[Value, Value], bool]


def explain(recorded: Value, actual: Value, agrees: Agrees) -> str:
    """The change that would make the port's array agree, or nothing if no guess fits.

    Args:
        recorded: what PyTorch printed.
        actual: what the port printed, which differs.
        agrees: judges a changed port's array.

    >>> from funcgrad.compare import judge, parse
    >>> (one,), (other,) = parse("tensor([[1., 2.]])").values, parse("[[-1. -2.]]").values
    >>> explain(one, other, lambda a, b: judge(a, b).agrees)
    'ours is the recorded one with its sign flipped'
    """
    if recorded.elided or actual.elided or not 0 < len(actual.numbers) <= _MOST_NUMBERS:
        return ""
    if len(recorded.numbers) != len(actual.numbers) or {recorded.kind, actual.kind} & {"bool"}:
        return ""
    guesses = (_sign, _axes, _factor) if recorded.shape == actual.shape else (_axes, _reshaped)
    return next((said for guess in guesses for said in guess(recorded, actual, agrees)), "")


def _sign(recorded: Value, actual: Value, agrees: Agrees) -> Iterator[str]:
    pairs = list(zip(recorded.numbers, actual.numbers, strict=True))
    if all(_same_sign(ours, theirs) for theirs, ours in pairs):
        return
    if agrees(recorded, actual._replace(numbers=tuple(-n for n in actual.numbers))):
        yield "ours is the recorded one with its sign flipped"
        return
    flipped = tuple(ours if _same_sign(ours, theirs) else -ours for theirs, ours in pairs)
    count = sum(not _same_sign(ours, theirs) for theirs, ours in pairs)
    if count and agrees(recorded, actual._replace(numbers=flipped)):
        yield f"ours is the recorded one but for the sign of {count} of its numbers"


def _same_sign(one: Number, other: Number) -> bool:
    if isinstance(one, complex) or isinstance(other, complex):
        return abs(one - other) <= abs(one + other)
    return (one < 0) == (other < 0)


def _axes(recorded: Value, actual: Value, agrees: Agrees) -> Iterator[str]:
    shape = tuple(length or 0 for length in actual.shape)
    if not 2 <= len(shape) <= _MOST_AXES or math.prod(shape) != len(actual.numbers):
        return
    # As objects, since Python's integers may be longer than NumPy's.
    array = np.array(actual.numbers, dtype=object).reshape(shape)
    for order in permutations(range(len(shape))):
        moved = array.transpose(order)
        if moved.shape != recorded.shape or list(order) == sorted(order):
            continue
        if agrees(recorded, actual._replace(numbers=tuple(moved.flat), shape=moved.shape)):
            swap = [axis for axis, place in enumerate(order) if axis != place]
            if len(shape) == 2:
                yield "ours is the transpose of the recorded one"
            elif len(swap) == 2:
                yield f"ours is the recorded one with its axes {swap[0]} and {swap[1]} swapped"
            else:
                yield f"ours is the recorded one with its axes permuted; undo it with {order}"
            return


def _factor(recorded: Value, actual: Value, agrees: Agrees) -> Iterator[str]:
    if recorded.kind not in ("float", "int"):
        return
    try:
        pairs = [
            (float(a.real), float(b.real))
            for a, b in zip(recorded.numbers, actual.numbers, strict=True)
            if a and b
        ]
    except OverflowError:  # an integer longer than any float
        return
    if len(pairs) < _LEAST_FOR_FACTOR:
        return
    theirs, ours = max(pairs, key=lambda pair: abs(pair[0]))
    ratio = ours / theirs
    if not 0 < abs(ratio) < math.inf or abs(abs(ratio) - 1) < 1e-3:
        return
    if agrees(recorded, actual._replace(numbers=tuple(n / ratio for n in actual.numbers))):
        yield f"ours is the recorded one times {ratio:.4g}"


def _reshaped(recorded: Value, actual: Value, agrees: Agrees) -> Iterator[str]:
    if agrees(recorded, actual._replace(shape=recorded.shape)):
        yield "the numbers are the same, in the same order"

"""Finds where PyTorch and JAX part: the first value that differs, and the last gradient."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .judge import Difference
from .pairs import ArrayPair, JudgedPair
from .report import Divergence


def diverge(
    judged: Sequence[JudgedPair], sources: Sequence[set[int]]
) -> tuple[Divergence | None, Divergence | None]:
    """The first divergence of values, and the divergence of gradients nearest the output.

    Args:
        judged: the pairs in forward order.
        sources: for each captured tensor and output what it was computed from.
    """
    found = _occurrences(judged)
    forward = backward = None
    for one in found:
        if one.value is not None:
            near = tuple(other.name for other in found if other.at in sources[one.at])
            forward = Divergence(one.name, near, one.value)
            break
    for one in reversed(found):
        if one.grad is not None:
            users = (other for other in found if other.at >= 0 and one.at in sources[other.at])
            backward = Divergence(one.name, tuple(user.name for user in users), one.grad)
            break
    return forward, backward


class _Occurrence(NamedTuple):
    """One occurrence of a name.

    Attributes:
        name: `h[3]` for the fourth occurrence of `h`.
        at: the place of its captured tensor or output; of a leaf `-1 - place`.
        value: how the values compare, where this occurrence differs.
        grad: how the gradients compare, where this occurrence differs.
    """

    name: str
    at: int
    value: Difference | None
    grad: Difference | None


def _occurrences(judged: Sequence[JudgedPair]) -> list[_Occurrence]:
    """Every occurrence of every pair, in forward order."""
    places = [
        (place, order, row)
        for order, one in enumerate(judged)
        for row, place in enumerate(one.pair.places)
    ]
    return [_occurrence(judged[order], row, place) for place, order, row in sorted(places)]


def _occurrence(one: JudgedPair, row: int, place: float) -> _Occurrence:
    pair = one.pair
    name = f"{pair.name}[{row}]" if len(pair.places) > 1 else pair.name
    at = -1 - pair.where[1] if pair.where[0] == "leaf" else int(place)
    return _Occurrence(name, at, _wrong(one.value, pair, row), _wrong(one.grad, pair, row))


def _wrong(
    found: tuple[Difference, np.ndarray] | None, pair: ArrayPair, row: int
) -> Difference | None:
    """How value or gradient compare, where this occurrence differs."""
    if found is None or found[0].ok:
        return None
    difference, mask = found
    count = len(pair.places)
    if count == 1 or not pair.stacked or mask.size == 0:
        return difference
    rows = mask.reshape(max(count, mask.shape[0]), -1)  # nested loops have several axes
    mine = rows[row:] if row == count - 1 else rows[row : row + 1]
    return difference if mine.any() else None

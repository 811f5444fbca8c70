"""Lines up two sequences in which things were added or dropped: longest common subsequence.

Of all alignments that pair the most alike items, the one that pairs the most near items is taken,
and of those the earliest. Between two pairs, where as many items are left on one side as on the
other, these are paired in order: something changed its shape there. The rest faces nothing.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
Places = list[tuple[int | None, int | None]]

_MOST_PAIRS = 250_000  # entries of the table; beyond that the order decides


def line_up(
    left: Sequence[A],
    right: Sequence[B],
    alike: Callable[[A, B], bool],
    near: Callable[[A, B], bool],
) -> Places:
    """Pair the items of two sequences, without crossing.

    Args:
        left: one sequence.
        right: the other.
        alike: whether two items may belong together: they have one shape.
        near: whether two that are alike also agree; asked only to choose between alignments.

    Returns:
        Pairs of places in order; `None` stands where the other side has nothing.

    >>> line_up("abcd", "abd", str.__eq__, str.__eq__)
    [(0, 0), (1, 1), (2, None), (3, 2)]
    >>> line_up("abXd", "abYd", str.__eq__, str.__eq__)
    [(0, 0), (1, 1), (2, 2), (3, 3)]
    """
    if len(left) == len(right) and all(map(alike, left, right)):
        return [(place, place) for place in range(len(left))]

    def fits(i: int, j: int) -> bool:
        return alike(left[i], right[j]) and near(left[i], right[j])

    shorter = min(len(left), len(right))
    front = _run(shorter, lambda k: fits(k, k))
    back = _run(shorter - front, lambda k: fits(len(left) - 1 - k, len(right) - 1 - k))
    ends = len(left) - back, len(right) - back
    if (ends[0] - front) * (ends[1] - front) > _MOST_PAIRS:
        middle: Places = list(zip_longest(range(front, ends[0]), range(front, ends[1])))
    else:
        matched = _matched(left[front : ends[0]], right[front : ends[1]], alike, near)
        middle = _filled([(front + i, front + j) for i, j in matched], front, ends)
    return [
        *((k, k) for k in range(front)),
        *middle,
        *((ends[0] + k, ends[1] + k) for k in range(back)),
    ]


def _run(length: int, holds: Callable[[int], bool]) -> int:
    """How many of the first places in a row something holds for."""
    return next((place for place in range(length) if not holds(place)), length)


def _matched(
    left: Sequence[A],
    right: Sequence[B],
    alike: Callable[[A, B], bool],
    near: Callable[[A, B], bool],
) -> list[tuple[int, int]]:
    """The best pairs of alike items, by the table of best scores from each place to the end."""
    much = len(left) + len(right) + 1  # worth more than any number of near pairs
    worth = [[much + near(a, b) if alike(a, b) else 0 for b in right] for a in left]
    best = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i in reversed(range(len(left))):
        for j in reversed(range(len(right))):
            here = worth[i][j] and worth[i][j] + best[i + 1][j + 1]
            best[i][j] = max(here, best[i + 1][j], best[i][j + 1])
    pairs = []
    i = j = 0
    while i < len(left) and j < len(right):
        if worth[i][j] and best[i][j] == worth[i][j] + best[i + 1][j + 1]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _filled(matched: list[tuple[int, int]], start: int, ends: tuple[int, int]) -> Places:
    """The pairs with what lies between them."""
    filled: Places = []
    i = j = start
    for a, b in [*matched, ends]:
        if a - i == b - j:
            filled += zip(range(i, a), range(j, b), strict=True)
        else:
            filled += [(k, None) for k in range(i, a)]
            filled += [(None, k) for k in range(j, b)]
        if (a, b) != ends:
            filled.append((a, b))
        i, j = a + 1, b + 1
    return filled

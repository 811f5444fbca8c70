"""Lines up two sequences in which things were added or dropped: longest common subsequence.

Of all alignments that pair the most alike items, the one that pairs the most near items is taken,
and of those the earliest. Between two pairs, where as many items are left on one side as on the
other, these are paired in order: something changed its shape there. The rest faces nothing.

The table that this takes grows with the product of the lengths. Two long sequences are first cut
apart where they surely fit: where both ends agree, and at items of which each side has exactly one
(the anchors of a patience diff). So the work is n log n in the length, whatever the items are.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")
Places = list[tuple[int | None, int | None]]
_Cut = tuple[int, int]  # a place in the left sequence and one in the right

_MOST_PAIRS = 60_000  # entries of one table; in a stretch that is longer the order decides


def line_up(
    left: Sequence[A],
    right: Sequence[B],
    alike: Callable[[A, B], bool],
    near: Callable[[A, B], bool],
    key: Callable[[Any], Hashable] = lambda item: item,
) -> Places:
    """Pair the items of two sequences, without crossing.

    Args:
        left: one sequence.
        right: the other.
        alike: whether two items may belong together: they have one shape.
        near: whether two that are alike also agree; asked only to choose between alignments.
        key: what two items that are near usually have in common; asked only of long sequences.

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

    places: Places = []
    start = (0, 0)
    for end in [*_anchors(left, right, fits, key), (len(left), len(right))]:
        places += _between(left, right, start, end, alike, near)
        if end != (len(left), len(right)):
            places.append(end)
        start = end[0] + 1, end[1] + 1
    return places


def _anchors(
    left: Sequence[A], right: Sequence[B], fits: Callable[[int, int], bool], key: Any
) -> list[_Cut]:
    """Places that surely belong together, of sequences too long for one table."""
    shorter = min(len(left), len(right))
    front = _run(shorter, lambda k: fits(k, k))
    back = _run(shorter - front, lambda k: fits(len(left) - 1 - k, len(right) - 1 - k))
    ends = len(left) - back, len(right) - back
    inner: list[_Cut] = []
    if (ends[0] - front) * (ends[1] - front) > _MOST_PAIRS:
        theirs, ours = list(map(key, left[front : ends[0]])), list(map(key, right[front : ends[1]]))
        found = {*_only_ones(theirs, ours), *_only_ones(_in_twos(theirs), _in_twos(ours))}
        inner = [(front + i, front + j) for i, j in sorted(found)]
        inner = _rising([pair for pair in inner if fits(*pair)])
    return [
        *((k, k) for k in range(front)),
        *inner,
        *((ends[0] + k, ends[1] + k) for k in range(back)),
    ]


def _run(length: int, holds: Callable[[int], bool]) -> int:
    """How many of the first places in a row something holds for."""
    return next((place for place in range(length) if not holds(place)), length)


def _in_twos(items: list[Hashable]) -> list[Hashable]:
    """Each item with the one after it: what stands often may yet stand once before another."""
    return list(zip(items, [*items[1:], None], strict=True))


def _only_ones(left: list[Hashable], right: list[Hashable]) -> list[_Cut]:
    """The places of what stands exactly once on either side.

    >>> _only_ones(list("abca"), list("cba"))
    [(1, 1), (2, 0)]
    """
    counts = Counter(left), Counter(right)
    places = {item: place for place, item in enumerate(right)}
    return [
        (place, places[item])
        for place, item in enumerate(left)
        if counts[0][item] == counts[1][item] == 1
    ]


def _rising(pairs: list[_Cut]) -> list[_Cut]:
    """The most pairs that do not cross: a longest increasing subsequence of their second places.

    >>> _rising([(0, 5), (1, 1), (2, 2), (3, 0)])
    [(1, 1), (2, 2)]
    """
    last: list[int] = []  # the smallest end of a rising run of each length
    ends: list[int] = []  # the pair with that end
    before: list[int] = []
    for place, (_, right) in enumerate(pairs):
        length = bisect_left(last, right)
        before.append(ends[length - 1] if length else -1)
        last[length : length + 1], ends[length : length + 1] = [right], [place]
    found = []
    at = ends[-1] if ends else -1
    while at >= 0:
        found.append(pairs[at])
        at = before[at]
    return found[::-1]


def _between(
    left: Sequence[A],
    right: Sequence[B],
    start: _Cut,
    end: _Cut,
    alike: Callable[[A, B], bool],
    near: Callable[[A, B], bool],
) -> Places:
    """The pairs of one stretch of both sequences."""
    lefts, rights = range(start[0], end[0]), range(start[1], end[1])
    if not lefts or not rights or len(lefts) * len(rights) > _MOST_PAIRS:
        return list(zip_longest(lefts, rights))
    matched = _matched(left[start[0] : end[0]], right[start[1] : end[1]], alike, near)
    return _filled([(start[0] + i, start[1] + j) for i, j in matched], start, end)


def _matched(
    left: Sequence[A],
    right: Sequence[B],
    alike: Callable[[A, B], bool],
    near: Callable[[A, B], bool],
) -> list[_Cut]:
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


def _filled(matched: list[_Cut], start: _Cut, end: _Cut) -> Places:
    """The pairs with what lies between them."""
    filled: Places = []
    i, j = start
    for a, b in [*matched, end]:
        if a - i == b - j:
            filled += zip(range(i, a), range(j, b), strict=True)
        else:
            filled += [(k, None) for k in range(i, a)]
            filled += [(None, k) for k in range(j, b)]
        if (a, b) != end:
            filled.append((a, b))
        i, j = a + 1, b + 1
    return filled

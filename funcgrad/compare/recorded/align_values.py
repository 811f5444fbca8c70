"""Pairs the values of two cells."""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Sequence

from .judge import same_shape
from .sequence import line_up
from .values import Value, container_and_key

_WITHOUT_NUMBERS = {"none", "string", "dtype", "struct"}
_LOOKED_AT = 16  # numbers of a value that tell whether two values are near
_CLOSE = 1e-5


def pair_values(
    recorded: Sequence[Value], actual: Sequence[Value]
) -> list[tuple[Value | None, Value | None]]:
    """Line up the values of two cells; a value without a partner faces `None`.

    They are paired in order, and the items of dicts by key, where both sides have the same: JAX
    returns dicts with their keys sorted. Where one side has more, or shapes do not fit, the longest
    common subsequence of kinds and shapes decides. A `torch.Size([2, 3])` or a Python list faces
    single numbers with its own, one by one: JAX prints a shape as the tuple `(2, 3)`.

    Args:
        recorded: the values of the recording.
        actual: the values of the port.

    >>> from funcgrad.compare import parse
    >>> theirs, ours = (parse(text).values for text in ("torch.Size([2, 3])", "(2, 3)"))
    >>> [(one.numbers, other.numbers) for one, other in pair_values(theirs, ours)]
    [((2,), (2,)), ((3,), (3,))]
    """
    theirs, ours = _opened_to_face(recorded, _by_key(recorded, actual))
    places = line_up(theirs, ours, _alike, _near)
    return [(None if i is None else theirs[i], None if j is None else ours[j]) for i, j in places]


def alike_in_order(theirs: Sequence[Value], ours: Sequence[Value]) -> bool:
    """Whether two cells show values of the same shapes."""
    return len(theirs) == len(ours) and all(map(_same_form, theirs, _by_key(theirs, ours)))


def near_in_order(theirs: Sequence[Value], ours: Sequence[Value]) -> bool:
    """Whether the values of two cells that are alike also agree, as far as a short look tells."""
    return all(map(_near, theirs, _by_key(theirs, ours)))


def opened(values: Sequence[Value]) -> list[Value]:
    """Values with sizes and lists taken apart, since JAX prints a shape as a tuple."""
    return [one for value in values for one in (_numbers_of(value) if _is_list(value) else [value])]


def _by_key(theirs: Sequence[Value], ours: Sequence[Value]) -> Sequence[Value]:
    """Ours with the items of dicts in the recorded order, if they are under the same keys."""
    wanted, found = [_keys(value) for value in theirs], [_keys(value) for value in ours]
    order = list(filter(None, wanted))
    if order == list(filter(None, found)) or Counter(order) != Counter(filter(None, found)):
        return ours
    waiting: defaultdict[tuple[str, ...], deque[Value]] = defaultdict(deque)
    for value, keys in zip(ours, found, strict=True):
        waiting[keys].append(value)
    items = iter(order)
    return [waiting[next(items) if keys else ()].popleft() for keys in found]


def _keys(value: Value) -> tuple[str, ...]:
    """The keys of a value in its containers; empty where none of them is a dict."""
    path = [container_and_key(step) for step in value.path]
    in_dict = any("dict" in container.lower() for container, _ in path)
    return tuple(key for _, key in path) if in_dict else ()


def _opened_to_face(
    recorded: Sequence[Value], actual: Sequence[Value]
) -> tuple[list[Value], list[Value]]:
    """Both sides in order, with a list taken apart where it faces single numbers."""
    waiting = deque(recorded), deque(actual)
    taken: tuple[list[Value], list[Value]] = [], []
    while any(waiting):
        heads = [side[0] if side else None for side in waiting]
        for side, head, other in zip(waiting, heads, reversed(heads), strict=True):
            if head is not None and _opens_up(head, other):
                side.extendleft(reversed(_numbers_of(side.popleft())))
                break
        else:
            for side, values in zip(waiting, taken, strict=True):
                if side:
                    values.append(side.popleft())
    return taken


def _is_list(value: Value) -> bool:
    return value.form == "list" and not value.elided


def _opens_up(value: Value, other: Value | None) -> bool:
    """Whether to take a list of numbers apart, to face single ones."""
    if not _is_list(value) or not value.numbers:
        return _is_list(value)
    return other is not None and other.form != "list" and other.shape == () and bool(other.numbers)


def _numbers_of(value: Value) -> list[Value]:
    """The numbers of a list as single values."""
    kind = "int" if value.kind == "size" else value.kind
    return [
        value._replace(
            kind=kind, numbers=(number,), units=(unit,), shape=(), form="scalar", text=str(number)
        )
        for number, unit in zip(value.numbers, value.units, strict=True)
    ]


def _alike(one: Value, other: Value) -> bool:
    kinds = {one.kind, other.kind}
    return (len(kinds) == 1 or kinds == {"int", "size"}) and _same_form(one, other)


def _same_form(one: Value, other: Value) -> bool:
    """Whether two values have one shape, or are both none, a string, a dtype."""
    if {one.kind, other.kind} & _WITHOUT_NUMBERS:
        return one.kind == other.kind
    return same_shape(one.shape, other.shape)


def _near(one: Value, other: Value) -> bool:
    """Whether the first numbers of two values agree, about as `judge` would have it."""
    if not one.numbers and not other.numbers:
        return one.kind != "string" or one.text[1:-1] == other.text[1:-1]
    triples = zip(one.numbers[:_LOOKED_AT], other.numbers, one.units, strict=False)
    return all(_about(a, b, abs(unit)) for a, b, unit in triples)


def _about(one: complex, other: complex, unit: float) -> bool:
    try:
        apart, size = abs(one - other), max(abs(one), abs(other))
    except OverflowError:
        return one == other
    return apart <= unit + _CLOSE * size or math.isnan(apart)

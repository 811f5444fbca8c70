"""Pairs the values of two cells."""

import math
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from .judge import same_shape
from .sequence import line_up
from .values import Value, keys_in_dict

_WITHOUT_NUMBERS = {"none", "string", "dtype", "struct"}
_LOOKED_AT = 16  # numbers of a value that tell whether two values are near
_CLOSE = 1e-5
Rows = list[tuple[Value | None, Value | None]]


class _Item(NamedTuple):
    """What is paired as one: a single value, the items of a dict, or a tuple of integers.

    Attributes:
        kind: `value`, `dict` or `tuple`.
        values: the values that it consists of.
        whole: a single value, or a tuple as the list that it may stand for.
    """

    kind: str
    values: tuple[Value, ...]
    whole: Value | None = None


def pair_values(recorded: Sequence[Value], actual: Sequence[Value]) -> Rows:
    """Line up the values of two cells; a value without a partner faces `None`.

    They are paired in order, and the items of a dict by key: JAX returns dicts with their keys
    sorted. Where one side has more, or shapes do not fit, the longest common subsequence of kinds
    and shapes decides. A `torch.Size([2, 3])` faces the tuple `(2, 3)`, as which JAX prints a
    shape, number by number if it is as long, else as a whole; a Python list faces single numbers
    with its own.

    Args:
        recorded: the values of the recording.
        actual: the values of the port.

    >>> from funcgrad.compare import parse
    >>> theirs, ours = (parse(text).values for text in ("torch.Size([2, 3])", "(2, 3)"))
    >>> [(one.numbers, other.numbers) for one, other in pair_values(theirs, ours)]
    [((2,), (2,)), ((3,), (3,))]
    """
    theirs, ours = _items(recorded), _items(actual)
    rows: Rows = []
    alone: tuple[list[_Item], list[_Item]] = [], []
    for i, j in line_up(theirs, ours, _alike, _near, _item_key):
        if i is not None and j is not None:
            if any(alone):
                rows += _rows_alone(*alone)
                alone = [], []
            rows += _rows_of(theirs[i], ours[j])
        elif i is not None:
            alone[0].append(theirs[i])
        elif j is not None:
            alone[1].append(ours[j])
    return rows + _rows_alone(*alone)


def _items(values: Sequence[Value]) -> list[_Item]:
    """The values with those of each dict, and those of each tuple of integers, together."""
    found: list[_Item] = []
    for (prefix, kind), group in groupby(values, _belongs_to):
        together = tuple(group)
        if kind == "dict":
            found += (_Item("dict", one) for one in _until_a_key_returns(together))
        elif kind == "tuple" and len(prefix) > 1 and all(map(_is_integer, together)):
            found.append(_Item("tuple", together, _as_list(together)))
        else:
            found += (_Item("value", (value,), value) for value in together)
    return found


def _belongs_to(value: Value) -> tuple[tuple[Hashable, ...], str]:
    """The container in which a value is paired: the outermost dict, or the innermost tuple."""
    before, keys = keys_in_dict(value)
    if keys:
        return (value.root, *before), "dict"
    if value.path and value.path[-1].startswith("tuple["):
        return (value.root, *value.path[:-1], "tuple"), "tuple"
    return (), ""


def _until_a_key_returns(values: Sequence[Value]) -> Iterator[tuple[Value, ...]]:
    """The items of dicts that were printed one after the other, each dict by itself."""
    held: dict[tuple[str, ...], Value] = {}
    for value in values:
        _, keys = keys_in_dict(value)
        if keys in held:
            yield tuple(held.values())
            held = {}
        held[keys] = value
    yield tuple(held.values())


def _is_integer(value: Value) -> bool:
    return value.kind == "int" and value.form == "scalar" and value.dtype is None


def _as_list(values: Sequence[Value]) -> Value:
    """Single integers as one list of them."""
    numbers = tuple(number for value in values for number in value.numbers)
    text = f"({', '.join(value.text for value in values)}{',' if len(values) == 1 else ''})"
    return values[0]._replace(
        numbers=numbers, units=(0.0,) * len(numbers), shape=(len(numbers),), form="list", text=text
    )


def _alike(one: _Item, other: _Item) -> bool:
    if one.whole is None or other.whole is None:
        return one.kind == other.kind
    if "tuple" in (one.kind, other.kind) and "list" not in (one.whole.form, other.whole.form):
        return False
    if one.kind != other.kind and not (_is_list(one.whole) and _is_list(other.whole)):
        return False
    return _alike_values(one.whole, other.whole)


def _near(one: _Item, other: _Item) -> bool:
    if one.whole is not None and other.whole is not None:
        return _near_values(one.whole, other.whole)
    theirs, ours = (
        {keys_in_dict(value)[1]: value for value in item.values} for item in (one, other)
    )
    return theirs.keys() == ours.keys() and all(
        _same_form(value, ours[key]) and _near_values(value, ours[key])
        for key, value in theirs.items()
    )


def _item_key(item: _Item) -> Hashable:
    """What two items that are near usually have in common."""
    return tuple(map(value_key, item.values[:_LOOKED_AT]))


def value_key(value: Value) -> Hashable:
    """What two values that are near usually have in common: their shape and three digits."""
    if not value.numbers:
        return value.kind, value.text
    shown = value.numbers[:_LOOKED_AT]
    return value.shape, tuple(f"{number:.3g}" if _is_small(number) else "" for number in shown)


def _is_small(number: complex) -> bool:
    """Whether a number is no integer that is longer than any float."""
    return not isinstance(number, int) or -(2**63) < number < 2**63


def _rows_of(one: _Item, other: _Item) -> Rows:
    """The rows of two items that belong together."""
    if one.kind == other.kind == "dict":
        return _rows_by_key(one.values, other.values)
    if one.whole is None or other.whole is None or not _as_they_are(one, other):
        return _rows_in_order(one.values, other.values)
    if _is_nothing(one.whole) and _is_nothing(other.whole):
        return []
    return [(one.whole, other.whole)]


def _as_they_are(one: _Item, other: _Item) -> bool:
    """Whether two items face each other whole, and not number by number.

    A tuple and a list of one length do not: a report then has a row, and a name, for each number.
    Neither do a list and a single number.
    """
    assert one.whole is not None
    assert other.whole is not None
    lists = _is_list(one.whole), _is_list(other.whole)
    if one.kind == other.kind == "value":
        return not (any(lists) and () in (one.whole.shape, other.whole.shape))
    return all(lists) and len(one.whole.numbers) != len(other.whole.numbers)


def _rows_alone(theirs: Sequence[_Item], ours: Sequence[_Item]) -> Rows:
    """The rows of items of which none found its like on the other side."""
    left, right = ([value for item in side for value in item.values] for side in (theirs, ours))
    return _rows_in_order(
        [value for value in left if not _is_nothing(value)],
        [value for value in right if not _is_nothing(value)],
    )


def _rows_in_order(theirs: Sequence[Value], ours: Sequence[Value]) -> Rows:
    """The rows of single values, in which a list is taken apart to face numbers."""
    lists = set(map(_is_list, (*theirs, *ours)))
    if theirs and ours and len(lists) > 1:
        theirs, ours = opened(theirs), opened(ours)
    places = line_up(theirs, ours, _alike_values, _near_values, value_key)
    return [(None if i is None else theirs[i], None if j is None else ours[j]) for i, j in places]


def _rows_by_key(theirs: Sequence[Value], ours: Sequence[Value]) -> Rows:
    """The rows of two dicts: what has the same keys, then what is left of both, in order."""
    waiting: defaultdict[Hashable, deque[Value]] = defaultdict(deque)
    for value in ours:
        waiting[keys_in_dict(value)[1]].append(value)
    rows: Rows = []
    left = []
    for value in theirs:
        same = waiting[keys_in_dict(value)[1]]
        if same:
            rows.append((value, same.popleft()))
        else:
            left.append(value)
    return rows + _rows_in_order(left, [value for same in waiting.values() for value in same])


def alike_in_order(theirs: Sequence[Value], ours: Sequence[Value]) -> bool:
    """Whether two cells show values of the same shapes."""
    return len(theirs) == len(ours) and all(map(_same_form, theirs, _by_key(theirs, ours)))


def near_in_order(theirs: Sequence[Value], ours: Sequence[Value]) -> bool:
    """Whether the values of two cells that are alike also agree, as far as a short look tells."""
    return all(map(_near_values, theirs, _by_key(theirs, ours)))


def opened(values: Sequence[Value]) -> list[Value]:
    """Values with sizes and lists taken apart, since JAX prints a shape as a tuple."""
    return [one for value in values for one in (_numbers_of(value) if _is_list(value) else [value])]


def _by_key(theirs: Sequence[Value], ours: Sequence[Value]) -> Sequence[Value]:
    """Ours with the items of dicts in the recorded order, if they are under the same keys."""
    wanted, found = ([keys_in_dict(value)[1] for value in side] for side in (theirs, ours))
    order = list(filter(None, wanted))
    if order == list(filter(None, found)) or Counter(order) != Counter(filter(None, found)):
        return ours
    waiting: defaultdict[tuple[str, ...], deque[Value]] = defaultdict(deque)
    for value, keys in zip(ours, found, strict=True):
        waiting[keys].append(value)
    items = iter(order)
    return [waiting[next(items) if keys else ()].popleft() for keys in found]


def _is_list(value: Value) -> bool:
    return value.form == "list" and not value.elided


def _is_nothing(value: Value) -> bool:
    """Whether a value is an empty size; JAX prints `()` for it, in which nothing is read."""
    return _is_list(value) and not value.numbers


def _numbers_of(value: Value) -> list[Value]:
    """The numbers of a list as single values."""
    kind = "int" if value.kind == "size" else value.kind
    return [
        value._replace(
            kind=kind, numbers=(number,), units=(unit,), shape=(), form="scalar", text=str(number)
        )
        for number, unit in zip(value.numbers, value.units, strict=True)
    ]


def _alike_values(one: Value, other: Value) -> bool:
    kinds = {one.kind, other.kind}
    return (len(kinds) == 1 or kinds == {"int", "size"}) and _same_form(one, other)


def _same_form(one: Value, other: Value) -> bool:
    """Whether two values have one shape, or are both none, a string, a dtype."""
    if {one.kind, other.kind} & _WITHOUT_NUMBERS:
        return one.kind == other.kind
    return same_shape(one.shape, other.shape)


def _near_values(one: Value, other: Value) -> bool:
    """Whether the first numbers of two values agree, about as `judge` would have it."""
    if (one.kind == "bool") != (other.kind == "bool"):
        return False
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

"""Lines up what was recorded with what the port shows: cells with cells, values with values."""

import math
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .cells import Cell
from .judge import same_shape
from .sequence import Places, line_up
from .shown import shown
from .values import Value

_MARKER = re.compile(r"#\s*In\s*(\[\s*\d+\s*\](?:\s*(?:,|and|&)\s*(?:In\s*)?\[\s*\d+\s*\])*)\s*")
_TAG = re.compile(r"in[-_ ]?\[?(\d+)\]?", re.IGNORECASE)
_WITHOUT_NUMBERS = ("none", "string", "dtype", "struct")
_LOOKED_AT = 16  # numbers of a value that tell whether two values are near
_CLOSE = 1e-5


class Pair(NamedTuple):
    """Cells that belong together; several of a side are read as one after the other.

    Attributes:
        label: how the cells are called in a report: `In [18]`; what only the port has goes by its
            place in the file, `cell 7`.
        recorded: the cells of the recording; empty where only the port has something.
        port: the cells of the port; empty where it lacks them.
        mapped: whether the user's map made this pair.
    """

    label: str
    recorded: tuple[Cell, ...]
    port: tuple[Cell, ...]
    mapped: bool = False


def markers(cell: Cell) -> tuple[int, ...]:
    r"""The numbers of the recorded cells that a cell says it answers to.

    It says so in the comments at its top, `# In [16]` or `# In [18], [19]`, or with a tag
    `In[16]` or `in-16`.

    >>> markers(Cell(3, (), source="# In [16]: the input\nx")), markers(Cell(3, ()))
    ((16,), ())
    """
    found: list[int] = []
    for line in _comments(cell.source):
        match = _MARKER.match(line)
        if match:
            found += [int(number) for number in re.findall(r"\d+", match.group(1))]
    for tag in cell.tags:
        match = _TAG.fullmatch(tag.strip())
        if match:
            found.append(int(match.group(1)))
    return tuple(dict.fromkeys(found))


def _comments(source: str) -> Iterator[str]:
    """The comment lines at the top of a cell."""
    for line in source.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            return
        yield line.strip()


# --- cells ---------------------------------------------------------------------------------------


def pair_cells(
    recorded: Sequence[Cell],
    port: Sequence[Cell],
    mapping: Mapping[int, Sequence[int]] | None = None,
) -> list[Pair]:
    """Line up the cells that have outputs.

    A map decides first, then an explicit marker in a port's cell. In a port with markers a cell
    without one answers to nothing, unless the recording has markers of its own. What is left is
    paired by order; where cells were added or dropped, by the longest common subsequence of the
    shapes they show. Where both sides have the same numbers in another order, the numbers decide.

    Args:
        recorded: the cells of the recording.
        port: the cells of the port.
        mapping: for places of recorded cells the places of the port's cells that answer to them.

    Returns:
        One pair for each recorded cell, in its order, and after them the port's cells without a
        partner.

    >>> from funcgrad.compare import Output
    >>> shows = lambda place, text: Cell(None, (Output("result", text),), "", (), place)
    >>> recorded = [shows(1, "tensor([1., 2.])"), shows(2, "tensor(3.)"), shows(3, "None")]
    >>> port = [shows(1, "Array([1., 2.], dtype=float32)"), shows(4, "None")]
    >>> [(pair.label, [cell.place for cell in pair.port]) for pair in pair_cells(recorded, port)]
    [('cell 1', [1]), ('cell 2', []), ('cell 3', [4])]
    """
    order = {id(cell): place for place, cell in enumerate(recorded)}
    mapped, recorded, port = _by_map(recorded, port, mapping or {})
    recorded = [cell for cell in recorded if cell.outputs]
    port = [cell for cell in port if cell.outputs]
    both_marked = any(map(markers, recorded)) and any(map(markers, port))
    marked = _by_marker(recorded, port, both_marked)
    rest, loose = _left(recorded, port, marked)
    if marked and not both_marked:
        plain = [Pair(_label(cell), (cell,), ()) for cell in rest]
    else:
        plain = _by_number(rest, loose) or _by_order(rest, loose)
    _, loose = _left(rest, loose, plain)
    pairs = sorted([*mapped, *marked, *plain], key=lambda one: order[id(one.recorded[0])])
    return [*pairs, *(Pair(f"cell {cell.place}", (), (cell,)) for cell in loose)]


def _left(
    recorded: Iterable[Cell], port: Iterable[Cell], pairs: Sequence[Pair]
) -> tuple[list[Cell], list[Cell]]:
    """The cells of both sides that stand in no pair."""
    theirs = {id(cell) for one in pairs for cell in one.recorded}
    ours = {id(cell) for one in pairs for cell in one.port}
    return (
        [cell for cell in recorded if id(cell) not in theirs],
        [cell for cell in port if id(cell) not in ours],
    )


def _by_map(
    recorded: Sequence[Cell], port: Sequence[Cell], mapping: Mapping[int, Sequence[int]]
) -> tuple[list[Pair], Sequence[Cell], Sequence[Cell]]:
    """The pairs that the user's map makes, and the cells that it does not speak of."""
    keys = [mapping.get(one.place, ()) for one in recorded]
    pairs = []
    for places, answers in _together(keys, [(cell.place,) for cell in port]):
        cells = tuple(recorded[i] for i in places)
        label = ", ".join(map(_label, cells))
        pairs.append(Pair(label, cells, tuple(port[i] for i in answers), mapped=True))
    alone = [one for one in recorded if one.place in mapping and not mapping[one.place]]
    pairs += [Pair(_label(one), (one,), (), mapped=True) for one in alone]
    return pairs, *_left(recorded, port, pairs)


def _by_marker(recorded: Sequence[Cell], port: Sequence[Cell], both_marked: bool) -> list[Pair]:
    """The pairs that markers make."""
    if both_marked:
        keys = [markers(one) for one in recorded]
    else:
        keys = [() if one.number is None else (one.number,) for one in recorded]
    pairs = []
    for places, answers in _together(keys, [markers(cell) for cell in port]):
        label = _numbers_label(keys[i] for i in places)
        cells = tuple(recorded[i] for i in places)
        pairs.append(Pair(label, cells, tuple(port[i] for i in answers)))
    return pairs


def _numbers_label(numbers: Iterable[tuple[int, ...]]) -> str:
    distinct = dict.fromkeys(number for one in numbers for number in one)
    return "In " + ", ".join(f"[{number}]" for number in distinct)


def _together(
    theirs: Sequence[Sequence[int]], ours: Sequence[Sequence[int]]
) -> list[tuple[list[int], list[int]]]:
    """Places of items that share keys, directly or through others; both sides must be there.

    >>> _together([(1,), (2,), (3,)], [(1, 2), (2,), (9,)])
    [([0, 1], [0, 1])]
    """
    first: dict[int, int] = {}  # for each key a key that stands for all that belong together

    def root(key: int) -> int:
        while first.setdefault(key, key) != key:
            first[key] = key = first[first[key]]
        return key

    for keys in (*theirs, *ours):
        for key in keys[1:]:
            first[root(key)] = root(keys[0])
    groups: dict[int, tuple[list[int], list[int]]] = {}
    for side, items in enumerate((theirs, ours)):
        for place, keys in enumerate(items):
            if keys:
                groups.setdefault(root(keys[0]), ([], []))[side].append(place)
    return [group for group in groups.values() if all(group)]


def _by_number(recorded: list[Cell], port: list[Cell]) -> list[Pair]:
    """Pairs by number, if both sides have the same ones in another order; nothing otherwise."""
    numbers = [cell.number for cell in recorded]
    by_number = {cell.number: cell for cell in port}
    if None in by_number or len(set(numbers)) < len(numbers) or len(by_number) < len(port):
        return []
    if set(numbers) != set(by_number) or numbers == list(by_number):
        return []
    return [Pair(_label(cell), (cell,), (by_number[cell.number],)) for cell in recorded]


def _by_order(recorded: list[Cell], port: list[Cell]) -> list[Pair]:
    """A pair for each recorded cell, in order, by the shapes that the cells show."""
    theirs, ours = [[_opened(shown(cell).values) for cell in cells] for cells in (recorded, port)]
    return [
        Pair(_label(recorded[i]), (recorded[i],), () if j is None else (port[j],))
        for i, j in line_up(theirs, ours, _alike_all, _near_all)
        if i is not None
    ]


def _label(cell: Cell) -> str:
    return f"In [{cell.number}]" if cell.number is not None else f"cell {cell.place}"


def _opened(values: Sequence[Value]) -> list[Value]:
    """Values with sizes and lists taken apart, since JAX prints a shape as a tuple."""
    return [
        one
        for value in values
        for one in (_single(value) if value.form == "list" and not value.elided else [value])
    ]


def _alike_all(theirs: Sequence[Value], ours: Sequence[Value]) -> bool:
    return len(theirs) == len(ours) and all(map(_same_form, theirs, _by_key(theirs, ours)))


def _near_all(theirs: Sequence[Value], ours: Sequence[Value]) -> bool:
    return all(map(_near, theirs, _by_key(theirs, ours)))


def _same_form(one: Value, other: Value) -> bool:
    """Whether two values have one shape, or are both none, a string, a dtype."""
    if {one.kind, other.kind} & set(_WITHOUT_NUMBERS):
        return one.kind == other.kind
    return same_shape(one.shape, other.shape)


# --- values --------------------------------------------------------------------------------------


def pair_values(
    recorded: Sequence[Value], actual: Sequence[Value]
) -> list[tuple[Value | None, Value | None]]:
    """Line up the values of two cells; what is over on either side faces `None`.

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
    theirs, ours = _facing(recorded, _by_key(recorded, actual))
    places: Places = line_up(theirs, ours, _alike, _near)
    return [(None if i is None else theirs[i], None if j is None else ours[j]) for i, j in places]


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
    """Where in which containers a value stands; nothing where none of them is a dict."""
    steps = [step.partition("[") for step in value.path]
    return tuple(key for _, _, key in steps) if any("dict" in s[0].lower() for s in steps) else ()


def _facing(recorded: Sequence[Value], actual: Sequence[Value]) -> tuple[list[Value], list[Value]]:
    """Both sides in order, with a list taken apart where it faces single numbers."""
    waiting = deque(recorded), deque(actual)
    taken: tuple[list[Value], list[Value]] = [], []
    while any(waiting):
        heads = [side[0] if side else None for side in waiting]
        for side, head, other in zip(waiting, heads, reversed(heads), strict=True):
            if head is not None and _opens_up(head, other):
                side.extendleft(reversed(_single(side.popleft())))
                break
        else:
            for side, values in zip(waiting, taken, strict=True):
                if side:
                    values.append(side.popleft())
    return taken


def _opens_up(value: Value, other: Value | None) -> bool:
    """Whether to take a list of numbers apart, to face single ones."""
    if value.form != "list" or value.elided:
        return False
    if not value.numbers:
        return True
    return other is not None and other.form != "list" and other.shape == () and bool(other.numbers)


def _single(value: Value) -> list[Value]:
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

"""Pairs the cells of a recording with the cells of the port that answer to them."""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .align_values import alike_in_order, near_in_order, opened, value_key
from .cells import Cell
from .contents import contents_of
from .sequence import line_up
from .values import Value

_MARKER = re.compile(
    r"#\s*+In\s*+(\[\s*+\d++\s*+\](?:\s*+(?:,|and|&)\s*+(?:In\s*+)?+\[\s*+\d++\s*+\])*+)"
)
_TAG = re.compile(r"in[-_ ]?\[?(\d++)\]?", re.IGNORECASE)
_LOOKED_AT = 16  # values that tell whether two cells are near
_Keys = Sequence[Sequence[int]]


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
    tags = (_TAG.fullmatch(tag.strip()) for tag in cell.tags)
    found += [int(match.group(1)) for match in tags if match]
    return tuple(dict.fromkeys(found))


def _comments(source: str) -> Iterator[str]:
    """The comment lines at the top of a cell."""
    for line in source.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            return
        yield line.strip()


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
    mapped = _by_map(recorded, port, mapping or {})
    recorded, port = _without(recorded, port, mapped)
    recorded = [cell for cell in recorded if cell.outputs]
    port = [cell for cell in port if cell.outputs]
    both_marked = any(map(markers, recorded)) and any(map(markers, port))
    marked = _by_marker(recorded, port, both_marked)
    recorded, port = _without(recorded, port, marked)
    if marked and not both_marked:
        rest = [Pair(_label(cell), (cell,), ()) for cell in recorded]
    else:
        rest = _by_number(recorded, port) or _by_order(recorded, port)
    _, only_port = _without(recorded, port, rest)
    pairs = sorted([*mapped, *marked, *rest], key=lambda one: order[id(one.recorded[0])])
    return [*pairs, *(Pair(f"cell {cell.place}", (), (cell,)) for cell in only_port)]


def _without(
    recorded: Iterable[Cell], port: Iterable[Cell], pairs: Sequence[Pair]
) -> tuple[list[Cell], list[Cell]]:
    """The cells of both sides that stand in none of the pairs."""
    paired = {id(cell) for pair in pairs for cell in (*pair.recorded, *pair.port)}
    return (
        [cell for cell in recorded if id(cell) not in paired],
        [cell for cell in port if id(cell) not in paired],
    )


def _by_map(
    recorded: Sequence[Cell], port: Sequence[Cell], mapping: Mapping[int, Sequence[int]]
) -> list[Pair]:
    """The pairs that the user's map makes."""
    keys = [mapping.get(cell.place, ()) for cell in recorded]
    pairs = _by_keys(recorded, port, keys, [(cell.place,) for cell in port])
    pairs += [Pair("", (one,), ()) for one in recorded if mapping.get(one.place) == []]
    return [
        pair._replace(label=", ".join(map(_label, pair.recorded)), mapped=True) for pair in pairs
    ]


def _by_marker(recorded: Sequence[Cell], port: Sequence[Cell], both_marked: bool) -> list[Pair]:
    """The pairs that markers make."""

    def numbers(cell: Cell) -> tuple[int, ...]:
        if both_marked:
            return markers(cell)
        return () if cell.number is None else (cell.number,)

    pairs = _by_keys(recorded, port, list(map(numbers, recorded)), list(map(markers, port)))
    return [pair._replace(label=_numbers_label(map(numbers, pair.recorded))) for pair in pairs]


def _numbers_label(numbers: Iterable[tuple[int, ...]]) -> str:
    distinct = dict.fromkeys(number for one in numbers for number in one)
    return "In " + ", ".join(f"[{number}]" for number in distinct)


def _by_keys(
    recorded: Sequence[Cell], port: Sequence[Cell], theirs: _Keys, ours: _Keys
) -> list[Pair]:
    """A pair, yet without a label, for the cells of both sides that share keys."""
    return [
        Pair("", tuple(recorded[i] for i in left), tuple(port[i] for i in right))
        for left, right in _together(theirs, ours)
    ]


def _together(theirs: _Keys, ours: _Keys) -> list[tuple[list[int], list[int]]]:
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
    theirs, ours = (
        [opened(contents_of(cell).values) for cell in cells] for cells in (recorded, port)
    )
    return [
        Pair(_label(recorded[i]), (recorded[i],), () if j is None else (port[j],))
        for i, j in line_up(theirs, ours, alike_in_order, near_in_order, _key)
        if i is not None
    ]


def _key(values: Sequence[Value]) -> Hashable:
    """What two cells that show the same usually have in common."""
    return tuple(map(value_key, values[:_LOOKED_AT]))


def _label(cell: Cell) -> str:
    return f"In [{cell.number}]" if cell.number is not None else f"cell {cell.place}"

"""Lines up what was recorded with what the port shows: cells with cells, values with values."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ._cells import Cell
from ._values import Value

_MARKER = re.compile(r"#\s*In\s*(\[\s*\d+\s*\](?:\s*(?:,|and|&)\s*(?:In\s*)?\[\s*\d+\s*\])*)\s*")
_TAG = re.compile(r"in[-_ ]?\[?(\d+)\]?", re.IGNORECASE)


class Pair(NamedTuple):
    """Cells that belong together; several of a side are read as one after the other.

    Attributes:
        label: how the cells are called in a report: `In [18]`; what only the port has goes by its
            place in the file, `cell 7`.
        recorded: the cells of the recording; empty where only the port has something.
        port: the cells of the port; empty where it lacks them.
    """

    label: str
    recorded: tuple[Cell, ...]
    port: tuple[Cell, ...]


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


def pair_cells(recorded: Sequence[Cell], port: Sequence[Cell]) -> list[Pair]:
    """Line up the cells that have outputs.

    An explicit marker in a port's cell decides. What no marker names is paired by cell number if
    the two sides share any, otherwise by order; but in a port with markers a cell without one
    answers to nothing, unless the recording has markers of its own.

    Args:
        recorded: the cells of the recording.
        port: the cells of the port.

    Returns:
        One pair for each recorded cell, in its order, and after them the port's cells without a
        partner.
    """
    recorded = [cell for cell in recorded if cell.outputs]
    port = [cell for cell in port if cell.outputs]
    both_marked = any(map(markers, recorded)) and any(map(markers, port))
    marked, rest = _by_marker(recorded, port, both_marked)
    taken = {id(cell) for one in marked for cell in (*one.recorded, *one.port)}
    loose = [cell for cell in port if id(cell) not in taken]
    if marked and not both_marked:
        plain = [Pair(_label(cell), (cell,), ()) for cell in rest]
    else:
        plain, loose = _by_number_or_order(rest, loose)
    order = {id(cell): place for place, cell in enumerate(recorded)}
    pairs = sorted([*marked, *plain], key=lambda one: order[id(one.recorded[0])])
    return [*pairs, *(Pair(f"cell {cell.place}", (), (cell,)) for cell in loose)]


def _by_marker(
    recorded: Sequence[Cell], port: Sequence[Cell], both_marked: bool
) -> tuple[list[Pair], list[Cell]]:
    """The pairs that markers make, and the recorded cells that none names."""
    named: dict[int, list[Cell]] = {}
    rest: list[Cell] = []
    for cell in recorded:
        numbers = markers(cell) if both_marked else (() if cell.number is None else (cell.number,))
        if numbers:
            named.setdefault(numbers[0], []).append(cell)
        else:
            rest.append(cell)
    owner = _owners([markers(cell) for cell in port], named)
    answers: dict[int, list[Cell]] = {}
    for cell in port:
        owners = [owner[number] for number in markers(cell) if number in named]
        if owners:
            answers.setdefault(owners[0], []).append(cell)
    groups: dict[int, list[int]] = {}
    for number in named:
        groups.setdefault(owner[number], []).append(number)
    pairs = []
    for first, numbers_here in groups.items():
        cells = [cell for number in numbers_here for cell in named[number]]
        if first in answers:
            label = "In " + ", ".join(f"[{number}]" for number in numbers_here)
            pairs.append(Pair(label, tuple(cells), tuple(answers[first])))
        else:
            rest += cells
    return pairs, rest


def _owners(marked: Iterable[tuple[int, ...]], named: Iterable[int]) -> dict[int, int]:
    """For each number the one that stands for all numbers which a marker puts together.

    >>> _owners([(1,), (1, 2), (2, 3)], [1, 2, 3, 4])
    {1: 1, 2: 1, 3: 1, 4: 4}
    """
    owner = {number: number for number in named}
    for numbers in marked:
        owners = [owner[number] for number in numbers if number in owner]
        for number, first in owner.items():
            if first in owners:
                owner[number] = owners[0]
    return owner


def _by_number_or_order(recorded: list[Cell], port: list[Cell]) -> tuple[list[Pair], list[Cell]]:
    """Pairs of cells without markers, and the port's cells that are left."""
    by_number = _numbered(port) if _distinct(recorded) else {}
    if any(cell.number in by_number for cell in recorded):
        partners = [by_number.get(cell.number) for cell in recorded]
    else:
        partners = [*port, *[None] * len(recorded)][: len(recorded)]
    taken = {id(cell) for cell in partners}
    pairs = [
        Pair(_label(cell), (cell,), () if partner is None else (partner,))
        for cell, partner in zip(recorded, partners, strict=True)
    ]
    return pairs, [cell for cell in port if id(cell) not in taken]


def _numbered(cells: Iterable[Cell]) -> dict[int | None, Cell]:
    """Cells by their number; nothing where a number is missing or comes twice."""
    cells = list(cells)
    return {cell.number: cell for cell in cells} if _distinct(cells) else {}


def _distinct(cells: Sequence[Cell]) -> bool:
    numbers = {cell.number for cell in cells}
    return None not in numbers and len(numbers) == len(cells)


def _label(cell: Cell) -> str:
    return f"In [{cell.number}]" if cell.number is not None else f"cell {cell.place}"


def pair_values(
    recorded: Sequence[Value], actual: Sequence[Value]
) -> list[tuple[Value | None, Value | None]]:
    """Line up the values of two cells in order; what is over on either side faces `None`.

    A `torch.Size([2, 3])` or a Python list faces single numbers with its own, one by one: JAX
    prints a shape as the tuple `(2, 3)`.
    """
    theirs, ours = deque(recorded), deque(actual)
    pairs: list[tuple[Value | None, Value | None]] = []
    while theirs or ours:
        if theirs and _opens_up(theirs[0], ours[0] if ours else None):
            theirs.extendleft(reversed(_single(theirs.popleft())))
        elif ours and _opens_up(ours[0], theirs[0] if theirs else None):
            ours.extendleft(reversed(_single(ours.popleft())))
        else:
            one = theirs.popleft() if theirs else None
            pairs.append((one, ours.popleft() if ours else None))
    return pairs


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

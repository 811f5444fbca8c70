"""Reads what torch printed before 0.4: bare numbers, and below them their type and their size.

    (0 ,.,.) =                         one matrix of three or more axes
    Columns 0 to 9                     a wide matrix in blocks of columns
    1.00000e-02 *                      a common factor, above the rows it is for
      0.5000  1.0000
    [torch.FloatTensor of size 1x2]    the token, `LEGACY` in the grammar

The lines above that token belong to it as far as their numbers add up to its size.
"""

import math
import re
from typing import NamedTuple

from ..tolerances import kind_of_dtype
from .grammar import array, dtype_name
from .literals import Literal, Unfit, literal
from .values import Grid, Number, Value

_NUMBER = r"[-+]?+(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++|inf|nan)(?:e[-+]?+[0-9]++)?+"
_ROW = re.compile(rf"\s*+(?:{_NUMBER}(?=\s|$)\s*+)++")
_FACTOR = re.compile(rf"\s*+({_NUMBER}) \*\s*+")
_HEADING = re.compile(r"\s*+(?:Columns [0-9]++ to [0-9]++|\([0-9., ]++\) =)\s*+")
_MAX_RANK = 8


class _Row(NamedTuple):
    """One printed row, with the common factor above it."""

    numbers: list[Literal]
    factor: Literal | None


def legacy(text: str, start: int, size_line: str, end: int) -> Value | None:
    r"""Read the tensor that ends with a given size line.

    Args:
        text: the whole text.
        start: where to look from; what is before belongs to something else.
        size_line: `[torch.FloatTensor of size 2x2]`.
        end: where that ends in the text.

    Returns:
        The tensor, or `None` if the lines above are not its numbers.

    >>> text = "1.00000e-02 *\n  0.5000\n  1.0000\n[torch.FloatTensor of size 2]"
    >>> value = legacy(text, 0, "[torch.FloatTensor of size 2]", len(text))
    >>> value.numbers, value.units, value.dtype
    ((0.005, 0.01), (1e-06, 1e-06), 'float32')
    """
    kind, _, size = size_line[1:-1].partition(" of size ")
    shape = tuple(int(n) for n in size.split(" ")[0].split("x") if n)[:_MAX_RANK]
    if not shape:
        return None
    try:
        rows, first = _rows_above(text, start, end - len(size_line), math.prod(shape))
        numbers = _in_order(rows, shape)
    except Unfit:
        return None
    dtype = dtype_name("torch." + kind.rpartition(".")[2].removesuffix("Tensor").lower())
    grid = Grid(
        kind_of_dtype(dtype) or "float",
        [_scaled(one, factor) for one, factor in numbers],
        [one.decimals for one, _ in numbers],
        [_power(one) + _power(factor) for one, factor in numbers],
        shape,
        None,
        True,
    )
    return array(grid, "tensor", first, end)._replace(dtype=dtype)


def _rows_above(text: str, start: int, end: int, count: int) -> tuple[list[_Row], int]:
    """The rows above `end` that hold `count` numbers together, and where they begin."""
    rows: list[_Row] = []
    bare = 0  # the last so many rows may yet get a factor, since it stands above them
    first = end
    while end > start:
        begin = text.rfind("\n", start, end - 1) + 1 or start
        line = text[begin:end]
        indent = len(line) - len(line.lstrip())
        factor = _FACTOR.fullmatch(line)
        if factor and bare:
            above = _plain(factor.group(1))
            rows[-bare:] = [row._replace(factor=above) for row in rows[-bare:]]
        elif count > 0 and _ROW.fullmatch(line):
            rows.append(_Row([_plain(one) for one in line.split()], None))
            bare += 1
            count -= len(rows[-1].numbers)
        elif line.strip() and not _HEADING.fullmatch(line):
            break
        if line.strip():
            first = begin + indent
        if factor or _HEADING.fullmatch(line):
            bare = 0
        end = begin
    if count or not rows:
        raise Unfit
    return rows[::-1], first


def _plain(text: str) -> Literal:
    one = literal(text)
    if one.kind not in ("float", "int"):
        raise Unfit
    return one


def _in_order(rows: list[_Row], shape: tuple[int, ...]) -> list[tuple[Literal, Literal | None]]:
    """The numbers row-major: blocks of columns stand one below the other in the text."""
    height, width = (shape[-2], shape[-1]) if len(shape) > 1 else (shape[0], 1)
    found: list[tuple[Literal, Literal | None]] = []
    matrix: list[list[tuple[Literal, Literal | None]]] = [[] for _ in range(height)]
    for place, row in enumerate(rows):
        line = matrix[place % height]
        line += [(one, row.factor) for one in row.numbers]
        if place % height == height - 1 and len(line) == width:
            if any(len(one) != width for one in matrix):
                raise Unfit
            found += [number for one in matrix for number in one]
            matrix = [[] for _ in range(height)]
    if any(matrix):
        raise Unfit
    return found


def _power(one: Literal | None) -> int:
    return one.exponent if one and isinstance(one.exponent, int) else 0


def _scaled(one: Literal, factor: Literal | None) -> Number:
    try:
        return one.number if factor is None else one.number * factor.number
    except OverflowError:
        raise Unfit from None

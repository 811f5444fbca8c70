"""Reads tensors as torch printed them before 0.4: bare numbers, then their type and their size.

    (0 ,.,.) =                         one matrix of three or more axes
    Columns 0 to 9                     a wide matrix in blocks of columns
    1.00000e-02 *                      a common factor, above the rows that it belongs to
      0.5000  1.0000
    [torch.FloatTensor of size 1x2]    the token, `LEGACY` in the grammar

The lines above that token belong to the tensor as far as their numbers add up to its size.
"""

import math
import re
from typing import Any

from ..tolerances import kind_of_dtype
from .build import array, dtype_name
from .literals import UNSIGNED, Block, Literal, Unfit, block, literal
from .values import Value

_NUMBER = rf"[-+]?+{UNSIGNED}"
_ROW = re.compile(rf"\s*+(?:{_NUMBER}(?=\s|$)\s*+)++")
_FACTOR = re.compile(rf"\s*+({_NUMBER}) \*\s*+")
_HEADING = re.compile(r"\s*+(?:Columns [0-9]++ to [0-9]++|\([0-9., ]++\) =)\s*+")
_MAX_RANK = 8


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
    type_name, _, size = size_line[1:-1].partition(" of size ")
    shape = tuple(int(n) for n in size.split(" ")[0].split("x") if n)[:_MAX_RANK]
    if not shape:
        return None
    dtype = dtype_name("torch." + type_name.rpartition(".")[2].removesuffix("Tensor").lower())
    try:
        rows, first = _rows_above(text, start, end - len(size_line), math.prod(shape))
        numbers, precisions = zip(*_in_order(rows, shape), strict=True)
    except Unfit:
        return None
    found = Block(kind_of_dtype(dtype) or "float", list(numbers), list(precisions), shape)
    return array(found, "tensor", first, end)._replace(dtype=dtype)


def _rows_above(text: str, start: int, end: int, count: int) -> tuple[list[Block], int]:
    """The rows above `end` that hold `count` numbers together, and where they begin."""
    rows: list[Block] = []
    bare = 0  # the last so many rows may yet get a factor, since it stands above them
    first = end
    while end > start:
        begin = text.rfind("\n", start, end - 1) + 1 or start
        line = text[begin:end]
        factor = _FACTOR.fullmatch(line)
        heading = _HEADING.fullmatch(line)
        if factor and bare:
            above = _real(factor.group(1))
            rows[-bare:] = [row.times(above) for row in rows[-bare:]]
        elif count > 0 and _ROW.fullmatch(line):
            rows.append(block(map(_real, line.split())))
            bare += 1
            count -= len(rows[-1].numbers)
        elif line.strip() and not heading:
            break
        if line.strip():
            first = begin + len(line) - len(line.lstrip())
        if factor or heading:
            bare = 0
        end = begin
    if count or not rows:
        raise Unfit
    return rows[::-1], first


def _real(text: str) -> Literal:
    one = literal(text)
    if one.kind not in ("float", "int"):
        raise Unfit
    return one


def _in_order(rows: list[Block], shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """The numbers with their precisions, row-major: column blocks stand below each other."""
    height, width = (shape[-2], shape[-1]) if len(shape) > 1 else (shape[0], 1)
    found: list[tuple[Any, ...]] = []
    matrix: list[list[tuple[Any, ...]]] = [[] for _ in range(height)]
    for place, row in enumerate(rows):
        line = matrix[place % height]
        line += zip(row.numbers, row.precisions, strict=True)
        if place % height == height - 1 and len(line) == width:
            if any(len(one) != width for one in matrix):
                raise Unfit
            found += [number for one in matrix for number in one]
            matrix = [[] for _ in range(height)]
    if any(matrix):
        raise Unfit
    return found

"""Reads number literals as they are printed, with the worth of their last place."""

import math
import re
import sys
from functools import lru_cache
from typing import NamedTuple

from .values import Grid, Number

MAX_RANK = 64
_MAX_DIGITS = 4000  # Python itself refuses to read longer integers
_NUMPY_DECIMALS = 8  # NumPy's and JAX's default precision; fewer decimals are the whole number
_UNSIGNED = r"(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++|inf|nan)(?:[eE][-+]?+[0-9]++)?+"
_COMPLEX = re.compile(rf"\(?(?:([-+]?{_UNSIGNED})\s*(?=[-+]))?([-+]?{_UNSIGNED})j\)?")
_ELEMENT = re.compile(
    rf"\.\.\.|True|False|\([^()]*+\)|[-+]?+{_UNSIGNED}(?:j|\s*+[-+]{_UNSIGNED}j)?+"
)


class Unfit(Exception):
    """Not a value after all: what looked like one is read as words."""


class Literal(NamedTuple):
    """One number: its kind, its value, digits after the point, power of ten (of both parts)."""

    kind: str
    number: Number
    decimals: int | tuple[int, int]
    exponent: int | tuple[int, int]


def literal(text: str) -> Literal:
    """Read one number.

    Raises:
        Unfit: it is no number after all, or too long to be read in linear time.

    >>> literal("28."), literal("-8.2600e-04")
    (Literal(kind='float', number=28.0, decimals=0, exponent=0), \
Literal(kind='float', number=-0.000826, decimals=4, exponent=-4))
    """
    if text in ("True", "False"):
        return Literal("bool", text == "True", 0, 0)
    if len(text) > _MAX_DIGITS:
        raise Unfit
    if text.endswith(("j", "j)")):
        return _complex(text)
    if text.lstrip("+-").isdecimal():
        return Literal("int", int(text), 0, 0)
    try:
        return Literal("float", _float(text), *_places(text))
    except ValueError:
        raise Unfit from None


def _float(text: str) -> float:
    """A float; one that was rounded up to beyond the largest, `1.7977e+308`, is the largest."""
    number = float(text)
    if math.isinf(number) and "inf" not in text:
        return math.copysign(sys.float_info.max, number)
    return number


def _places(text: str) -> tuple[int, int]:
    """Digits after the point, and the power of ten."""
    mantissa, _, exponent = text.lower().partition("e")
    _, _, decimals = mantissa.partition(".")
    return len(decimals), max(-9999, min(9999, int(exponent[:8]))) if exponent else 0


def _complex(text: str) -> Literal:
    match = _COMPLEX.fullmatch(text)
    if match is None:
        raise Unfit
    real, imaginary = match.group(1) or "0", match.group(2)
    (dr, er), (di, ei) = _places(real), _places(imaginary)
    return Literal("complex", complex(_float(real), _float(imaginary)), (dr, di), (er, ei))


def row(text: str) -> Grid:
    """Read `[1., 2.]` or `[1. 2.]`, the innermost row of an array; `...` stands for a gap.

    Raises:
        Unfit: its elements are not of one kind, as in `[True, 2]`, or it is only a gap.

    >>> row("[0, 1, ..., 9]").places
    [(0,), (1,), (-1,)]
    """
    inside = text[1:-1]
    parts = _ELEMENT.findall(inside) if "j" in inside else inside.replace(",", " ").split()
    gap = parts.index("...") if "..." in parts else None
    found = [literal(part) for part in parts if part != "..."]
    if len(found) < len(parts) - (gap is not None) or (gap is not None and not found):
        raise Unfit
    return Grid(
        common_kind({one.kind for one in found}),
        [one.number for one in found],
        [one.decimals for one in found],
        [one.exponent for one in found],
        (len(found),) if gap is None else (None,),
        None if gap is None else [(place,) for place in gap_places(len(found), gap)],
        "," in inside or len(found) == 0,
    )


def gap_places(count: int, gap: int) -> list[int]:
    """Indices of `count` shown items with a gap before number `gap`: from the back after it.

    >>> gap_places(4, 3)
    [0, 1, 2, -1]
    """
    return [index if index < gap else index - count for index in range(count)]


def common_kind(kinds: set[str]) -> str:
    """The kind of an array of these kinds; an empty array is of kind `float`.

    Raises:
        Unfit: bools among numbers: a Python list, not an array.
    """
    if "bool" in kinds and len(kinds) > 1:
        raise Unfit
    return next((kind for kind in ("complex", "float", "int", "bool") if kind in kinds), "float")


@lru_cache(maxsize=4096)
def unit(decimals: int, exponent: int) -> float:
    """The worth of the last printed place, 0 where no digit stands after the point.

    >>> unit(4, 0), unit(4, 1), unit(0, 0)
    (0.0001, 0.001, 0.0)
    """
    return float(f"1e{exponent - decimals}") if decimals else 0.0


def units(grid: Grid, form: str) -> tuple[float | complex, ...]:
    """The unit of each number of an array, by who printed it.

    PyTorch prints a whole tensor with the same number of decimals. NumPy and JAX strip the zeros
    at the end, so the longest number tells the decimals of all; fewer than eight say that the
    numbers are whole as they stand. Python prints the floats of a list in full.
    """
    if form == "list" or grid.kind in ("int", "bool"):
        return (0.0,) * len(grid.numbers)
    places = zip(grid.decimals, grid.exponents, strict=True)
    if grid.kind == "complex":
        return tuple(_complex_unit(d, e, form) for d, e in places)
    most = max(grid.decimals, default=0)
    if form == "array" and most < _NUMPY_DECIMALS:
        return (0.0,) * len(grid.numbers)
    if form == "tensor":
        return tuple(unit(d, e) for d, e in places)
    return tuple(unit(most, e) for _, e in places)


def _complex_unit(
    decimals: int | tuple[int, int], exponent: int | tuple[int, int], form: str
) -> complex:
    """Unit of a complex element, which may stand as a real number among complex ones."""
    real, imaginary = decimals if isinstance(decimals, tuple) else (decimals, 0)
    powers = exponent if isinstance(exponent, tuple) else (exponent, 0)
    if form == "array" and max(real, imaginary) < _NUMPY_DECIMALS:
        return 0j
    return complex(unit(real, powers[0]), unit(imaginary, powers[1]))

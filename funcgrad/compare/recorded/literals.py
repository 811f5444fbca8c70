"""Reads number literals as they are printed, with the worth of their last place."""

import math
import re
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from .values import Number

MAX_RANK = 64
UNSIGNED = r"(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++|inf|nan|NaN|Inf(?:inity)?+)(?:[eE][-+]?+[0-9]++)?+"
_MAX_DIGITS = 4000  # Python itself refuses to read longer integers
_NUMPY_DECIMALS = 8  # NumPy's and JAX's default precision; fewer decimals are the whole number
_COMPLEX = re.compile(rf"\(?(?:([-+]?{UNSIGNED})\s*+(?=[-+]))?([-+]?{UNSIGNED})j\)?")
_DECIMALS = re.compile(r"(?:\s*+[-+]?+[0-9]{1,30}+\.[0-9]{0,30}+(?:,|(?=\s)|$))++")
_INTEGERS = re.compile(r"(?:\s*+[-+]?+[0-9]{1,30}+(?:,|(?=\s)|$))++")
ELEMENT = re.compile(rf"\.\.\.|True|False|\([^()]*+\)|[-+]?+{UNSIGNED}(?:j|\s*+[-+]{UNSIGNED}j)?+")


class Unfit(Exception):
    """What looked like a value is none, and is read as words."""


class Precision(NamedTuple):
    """Where the last printed place of a real number is.

    Attributes:
        decimals: digits after the point.
        exponent: the power of ten.
    """

    decimals: int = 0
    exponent: int = 0


class Literal(NamedTuple):
    """One number as it was printed.

    Attributes:
        kind: `float`, `int`, `bool` or `complex`.
        number: the number.
        precision: its last place; for a complex number those of its parts.
    """

    kind: str
    number: Number
    precision: Precision | tuple[Precision, Precision] = Precision()


class Block(NamedTuple):
    """The numbers of an array, before it is known what printed them.

    Attributes:
        kind: as in `Value`.
        numbers: as in `Value`.
        precisions: for each number as in `Literal`.
        shape: as in `Value`.
        places: as in `Value`.
        commas: whether commas stand between the numbers.
    """

    kind: str
    numbers: list[Number]
    precisions: list[Any]
    shape: tuple[int | None, ...]
    places: Sequence[tuple[int, ...]] | None = None
    commas: bool = True

    def times(self, factor: Literal) -> "Block":
        """This block with a common factor multiplied in, which moves the last places too.

        Raises:
            Unfit: the factor or the numbers are not real, or too large.
        """
        if {self.kind, factor.kind} - {"float", "int"}:
            raise Unfit
        try:
            numbers = [number * factor.number for number in self.numbers]
        except OverflowError:
            raise Unfit from None
        power = factor.precision.exponent  # type: ignore[union-attr]
        moved = [Precision(one.decimals, one.exponent + power) for one in self.precisions]
        return self._replace(numbers=numbers, precisions=moved)


def block(
    literals: Iterable[Literal],
    shape: tuple[int | None, ...] = (),
    places: Sequence[tuple[int, ...]] | None = None,
    commas: bool = True,
) -> Block:
    """A block of these numbers.

    Raises:
        Unfit: bools among numbers.
    """
    literals = list(literals)
    kind = common_kind({one.kind for one in literals})
    numbers = [one.number for one in literals]
    return Block(kind, numbers, [one.precision for one in literals], shape, places, commas)


def literal(text: str) -> Literal:
    """Read one number.

    Raises:
        Unfit: it is no number after all, or too long to be read in linear time.

    >>> literal("28.").precision, literal("-8.2600e-04")
    (Precision(decimals=0, exponent=0), \
Literal(kind='float', number=-0.000826, precision=Precision(decimals=4, exponent=-4)))
    """
    if text in ("True", "False"):
        return Literal("bool", text == "True")
    if len(text) > _MAX_DIGITS:
        raise Unfit
    if text.endswith(("j", "j)")):
        return _complex(text)
    if text.lstrip("+-").isdecimal():
        return Literal("int", int(text))
    try:
        return Literal("float", _float(text), _precision(text))
    except ValueError:
        raise Unfit from None


def _float(text: str) -> float:
    """A float; one that was rounded up to beyond the largest, `1.7977e+308`, is the largest."""
    number = float(text)
    if math.isinf(number) and "inf" not in text.lower():
        return math.copysign(sys.float_info.max, number)
    return number


def _precision(text: str) -> Precision:
    mantissa, _, exponent = text.lower().partition("e")
    _, _, decimals = mantissa.partition(".")
    power = max(-9999, min(9999, int(exponent[:8]))) if exponent else 0
    return _shared(len(decimals), power)


@lru_cache(maxsize=4096)
def _shared(decimals: int, exponent: int) -> Precision:
    """One object for all numbers of a precision, since a large tensor has millions of them."""
    return Precision(decimals, exponent)


def _complex(text: str) -> Literal:
    match = _COMPLEX.fullmatch(text)
    if match is None:
        raise Unfit
    real, imaginary = match.group(1) or "0", match.group(2)
    number = complex(_float(real), _float(imaginary))
    return Literal("complex", number, (_precision(real), _precision(imaginary)))


def row(text: str) -> Block:
    """Read `[1., 2.]` or `[1. 2.]`, the innermost row of an array; `...` stands for a gap.

    Raises:
        Unfit: its elements are not of one kind, as in `[True, 2]`, or it is only a gap.

    >>> row("[0, 1, ..., 9]").places
    [(0,), (1,), (-1,)]
    """
    inside = text[1:-1]
    if _DECIMALS.fullmatch(inside):
        return _decimals(inside)
    if _INTEGERS.fullmatch(inside):
        numbers: list[Number] = list(map(int, inside.replace(",", " ").split()))
        one = Precision()
        return Block("int", numbers, [one] * len(numbers), (len(numbers),), None, "," in inside)
    parts = ELEMENT.findall(inside) if "j" in inside else inside.replace(",", " ").split()
    gap = parts.index("...") if "..." in parts else None
    found = [literal(part) for part in parts if part != "..."]
    if len(found) < len(parts) - (gap is not None) or (gap is not None and not found):
        raise Unfit
    commas = "," in inside or not found
    if gap is None:
        return block(found, (len(found),), None, commas)
    places = [(place,) for place in gap_places(len(found), gap)]
    return block(found, (None,), places, commas)


def _decimals(inside: str) -> Block:
    """A row of decimal numbers, of which a large tensor has thousands, all at once."""
    parts = inside.replace(",", " ").split()
    precisions = [_shared(len(part) - part.index(".") - 1, 0) for part in parts]
    return Block("float", list(map(float, parts)), precisions, (len(parts),), None, "," in inside)


def gap_places(count: int, gap: int) -> list[int]:
    """The indices of `count` items with a gap before number `gap`; from the back after the gap.

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


def worth(one: Literal) -> float | complex:
    """The unit of a single number, as PyTorch prints it."""
    if one.kind == "complex":
        return _complex_unit(one.precision, "tensor")
    decimals, exponent = one.precision
    return unit(decimals, exponent)


def units(numbers: Block, form: str) -> tuple[float | complex, ...]:
    """The unit of each number of an array, by who printed it.

    PyTorch prints a whole tensor with the same number of decimals. NumPy and JAX strip the zeros
    at the end, so the longest number tells the decimals of all; fewer than eight say that the
    numbers are whole as they stand. Python prints the floats of a list in full.
    """
    precisions = numbers.precisions
    if form == "list" or numbers.kind in ("int", "bool"):
        return (0.0,) * len(precisions)
    if numbers.kind == "complex":
        return tuple(_complex_unit(one, form) for one in precisions)
    if form == "tensor":
        return tuple(unit(*one) for one in precisions)
    most = max((one.decimals for one in precisions), default=0)
    if form == "array" and most < _NUMPY_DECIMALS:
        return (0.0,) * len(precisions)
    return tuple(unit(most, one.exponent) for one in precisions)


def _complex_unit(precision: Precision | tuple[Precision, Precision], form: str) -> complex:
    """Unit of a complex element, which may stand as a real number among complex ones."""
    real, imaginary = (precision, Precision()) if isinstance(precision, Precision) else precision
    if form == "array" and max(real.decimals, imaginary.decimals) < _NUMPY_DECIMALS:
        return 0j
    return complex(unit(*real), unit(*imaginary))

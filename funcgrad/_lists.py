"""Splits lists of operands, selects from them by a mask, and merges them again."""

from collections.abc import Callable, Sequence
from typing import Any


def split_at(values: Sequence[Any], *counts: int) -> list[list[Any]]:
    """Consecutive parts with so many values each, and one with the rest."""
    parts, start = [], 0
    for count in counts:
        parts.append(list(values[start : start + count]))
        start += count
    return [*parts, list(values[start:])]


def select(values: Sequence[Any], chosen: Sequence[bool]) -> list[Any]:
    """The values in the chosen places."""
    return [value for value, c in zip(values, chosen, strict=True) if c]


def inverted(chosen: Sequence[bool]) -> list[bool]:
    """The places that are not chosen."""
    return [not c for c in chosen]


def merge(chosen: Sequence[bool], values: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """`values` in the chosen places and `others` in the rest."""
    taken, rest = iter(values), iter(others)
    return [next(taken if c else rest) for c in chosen]


def partly(
    fun: Callable[..., Sequence[Any]],
    values: Sequence[Any],
    moving: Sequence[bool],
    reached: Sequence[bool],
) -> tuple[Callable[..., tuple[list[Any], list[Any]]], list[Any]]:
    """`fun` as a function of the moving values, the others fixed, and those values.

    It returns the results that are reached, and the others.
    """
    fixed = select(values, inverted(moving))

    def run(*given: Any) -> tuple[list[Any], list[Any]]:
        out = fun(*merge(moving, given, fixed))
        return select(out, reached), select(out, inverted(reached))

    return run, select(values, moving)

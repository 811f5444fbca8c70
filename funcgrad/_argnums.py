"""Positions of arguments, as `argnums` gives them: one or several, counted from either end."""

import operator
from collections.abc import Sequence
from typing import Any

from .errors import UsageError


def positions(
    argnums: Any, function: str, *, keyword: str = "argnums", least: int = 1, advice: str = ""
) -> tuple[bool, tuple[int, ...]]:
    """Whether `argnums` is a sequence, and the positions it gives.

    Args:
        argnums: what was passed.
        function: the public function to name in errors.
        keyword: its keyword for it.
        least: how many positions there must be.
        advice: what the error says at its end.

    Raises:
        UsageError: it is neither an integer nor a sequence of so many.

    >>> positions(0, "grad"), positions([0, -1], "grad")
    ((False, (0,)), (True, (0, -1)))
    """
    several = isinstance(argnums, Sequence)
    given = tuple(argnums) if several else (argnums,)
    try:
        found = tuple(map(operator.index, given))
    except TypeError:
        found = ()
    if len(found) < max(least, len(given)) or any(isinstance(i, bool) for i in given):
        raise UsageError(
            f"`{function}` got {keyword}={argnums!r}, and wants an integer or a"
            f"{' non-empty' * (least > 0)} sequence of integers{advice}"
        )
    return several, found


def places(
    found: tuple[int, ...], count: int, function: str, *, shown: str = "", advice: str = ""
) -> tuple[int, ...]:
    """Positions counted from the front.

    Args:
        found: positions from either end.
        count: the number of positional arguments.
        function: the public function to name in errors.
        shown: what the error says was got; by default the positions.
        advice: what it says at its end.

    Raises:
        UsageError: one is out of range, or two are the same argument.

    >>> places((0, -1), 3, "grad")
    (0, 2)
    """
    front = tuple(i + count if i < 0 else i for i in found)
    if any(not 0 <= i < count for i in front) or len(set(front)) < len(front):
        raise UsageError(
            f"`{function}` got {shown or f'argnums {found}'} for a call with {count} positional"
            f" argument{'' if count == 1 else 's'}, and wants positions that it has, each"
            f" once{advice}"
        )
    return front

"""Finds single numbers of a value in its text, so that a report can mark them."""

import re
from collections.abc import Iterable
from itertools import islice

from .literals import UNSIGNED, Unfit, literal
from .values import Value

_NUMBER = re.compile(
    rf"(?<![A-Za-z0-9_.])(?:True|False|[-+]?+{UNSIGNED}(?:j|[-+]{UNSIGNED}j)?+)(?![A-Za-z0-9_])"
)


def spans(value: Value, positions: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Where numbers of a value stand in its text.

    Args:
        value: the value.
        positions: positions in `value.numbers`.

    Returns:
        Start and end of each, in order; nothing where the text does not show them one by one, as
        with a common factor.

    >>> from funcgrad.compare import parse
    >>> value, = parse("tensor([ 1., -2.], dtype=torch.float64)").values
    >>> [value.text[start:end] for start, end in spans(value, [1])]
    ['-2.']
    """
    wanted = sorted(set(positions))
    if not wanted:
        return ()
    found = list(islice(_NUMBER.finditer(value.text), wanted[-1] + 1))
    if len(found) <= wanted[-1]:
        return ()
    if not all(_is(found[place].group(), value.numbers[place]) for place in wanted):
        return ()
    return tuple(found[place].span() for place in wanted)


def _is(text: str, number: complex) -> bool:
    try:
        read = literal(text).number
    except Unfit:
        return False
    return read == number or (read != read and number != number)

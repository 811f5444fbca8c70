"""What the user asks of a cell: that its numbers are random, or how far they may be apart.

A comment in the cell asks, `# random` or `# rtol 1e-3, atol 1e-6`, a tag `random`, or the map.
"""

import re
from collections.abc import Iterable
from typing import Any

from ...errors import CompareError
from ..tolerances import Tolerance
from .cells import Cell

_RANDOM = re.compile(r"(?:^|\s)#++[ \t]*+random[ \t]*+(?::.*+)?$", re.MULTILINE | re.IGNORECASE)
_COMMENT = re.compile(
    r"(?:^|\s)#++[ \t]*+((?:rtol|atol)\b[ \t]*+[:=]?[ \t]*+[-+.0-9][^\n]*+)", re.MULTILINE
)
_ONE = re.compile(r"\b(rtol|atol)\b[ \t]*+[:=]?[ \t]*+([-+.0-9][^\s,;]*+)")


def is_random(cell: Cell) -> bool:
    r"""Whether a cell is marked random: with a comment `# random`, or a tag `random`.

    >>> is_random(Cell(1, (), "torch.rand(2)  # random"))
    True
    >>> is_random(Cell(1, (), "# Random: no seed\nx")), is_random(Cell(1, (), "# random walks"))
    (True, False)
    """
    return any(tag.strip().lower() == "random" for tag in cell.tags) or bool(
        _RANDOM.search(cell.source)
    )


def allowed_by(cell: Cell) -> Tolerance:
    """The tolerance that a cell's comments ask for; one without a number is prose.

    Raises:
        CompareError: a comment names no tolerance.

    >>> allowed_by(Cell(1, (), "x.grad  # rtol 1e-3: its inputs were printed to four decimals"))
    Tolerance(rtol=0.001, atol=None, strict=False)
    """
    found: dict[str, float] = {}
    for comment in _COMMENT.findall(cell.source):
        for name, text in _ONE.findall(comment):
            where = f"cell {cell.place} has `# {name} {text}`"
            found[name] = tolerance(text.rstrip(":."), where, f"`# {name} 1e-3`")
    return Tolerance(found.get("rtol"), found.get("atol"))


def tolerance(given: Any, where: str, example: str) -> float:
    """A tolerance as a number.

    Raises:
        CompareError: it is none; `where` says who gave it.
    """
    try:
        number = float("nan" if isinstance(given, bool) else given)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number < 1:
        raise CompareError(f"{where}, and a number from 0 to below 1 is wanted: write {example}")
    return number


def widest(several: Iterable[Tolerance]) -> Tolerance:
    """The widest of several tolerances."""
    several = list(several)
    rtols = [one.rtol for one in several if one.rtol is not None]
    atols = [one.atol for one in several if one.atol is not None]
    return Tolerance(max(rtols, default=None), max(atols, default=None))

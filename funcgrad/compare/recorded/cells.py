"""Cells with their outputs, as plain text that is safe to show."""

import ast
import re
import warnings
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from .formats import Formats

# Colours and other sequences for a terminal: CSI, OSC, the choice of a character set, the rest.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*+[ -/]*+[@-~]|\][^\x07\x1b]*+(?:\x07|\x1b\\)?+|[()*+].|[^\x1b])?+", re.DOTALL
)
_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), *range(127, 160)])
_PLAIN = {**_CONTROLS, 0x2212: "-"}  # a minus sign as it is typeset
_MAGIC = re.compile(r"^([ \t]*+)[%!?].*+$", re.MULTILINE)


class Output(NamedTuple):
    """One output of a cell.

    Attributes:
        kind: `stdout`, `stderr`, `result`, `error`, or `other` for what is no text.
        text: the text; for an error its name and message, for `other` its media types.
    """

    kind: str
    text: str


class Cell(NamedTuple):
    """One code cell.

    Attributes:
        number: its execution count, `None` where it has none.
        outputs: its outputs, in order.
        source: its code, where a notebook has it.
        tags: its tags, where a notebook has them.
        place: which cell of the file it is, counted from 1.
        formats: how its code prints floats, where that is known.
    """

    number: int | None
    outputs: tuple[Output, ...]
    source: str = ""
    tags: tuple[str, ...] = ()
    place: int = 0
    formats: Formats = Formats()


def syntax_tree(code: str) -> ast.Module:
    """The syntax tree of a cell's code, in which a line of IPython's own is a `pass`.

    Raises:
        SyntaxError: it is not Python, or nested too deeply for Python to read it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(_MAGIC.sub(r"\1pass", code))
    except (ValueError, RecursionError, MemoryError):
        raise SyntaxError from None


def without_surrogates(text: str) -> str:
    r"""A text that can be written; JSON lets lone halves of a character pass, `"\ud800"`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def clean(text: str) -> str:
    r"""A text without the sequences that control a terminal: colours, titles, control characters.

    >>> clean("\x1b[31mred\x1b[0m\x07, \x1b]0;title\x07plain")
    'red, plain'
    """
    return _ESCAPES.sub("", text).translate(_PLAIN)


def order_notes(cells: Iterable[Cell]) -> list[str]:
    """Remarks on execution counts that show that the cells were not run once, in order.

    >>> order_notes([Cell(1, ()), Cell(7, ()), Cell(3, ()), Cell(None, ())])
    ['In [7] stands before In [3]: the cells were not run from top to bottom', \
'1 of 4 cells have no number']
    >>> order_notes([Cell(1, ()), Cell(5, ())])
    ['no cell is numbered 2 to 4: cells were run again, or deleted']
    """
    cells = list(cells)
    numbers = [cell.number for cell in cells if cell.number is not None]
    notes = []
    turns = [(a, b) for a, b in pairwise(numbers) if b <= a]
    if turns:
        (one, other), *_ = turns
        notes.append(
            f"In [{one}] stands before In [{other}]: the cells were not run from top to bottom"
        )
    else:
        gaps = [(a + 1, b - 1) for a, b in pairwise(numbers) if b > a + 1]
        shown = ", ".join(f"{a} to {b}" if a < b else f"{a}" for a, b in gaps[:5])
        more = f" and {len(gaps) - 5} more" if len(gaps) > 5 else ""
        if gaps:
            notes.append(f"no cell is numbered {shown}{more}: cells were run again, or deleted")
    if numbers and len(numbers) < len(cells):
        notes.append(f"{len(cells) - len(numbers)} of {len(cells)} cells have no number")
    return notes

"""Reads a text export of a notebook: a heading `In [n]:` above each cell, then code and output.

A heading `Out[n]:` stands above a result. Otherwise only a blank line tells code from output; two
rules do, in this order. The output is the longest run of paragraphs at the end that holds nothing
but printed values, with at least one number, bool, `None` or array among them; strings alone do not
count, since a docstring is code. Failing that, the code is the longest run of paragraphs at the
beginning that is valid Python, and the output is what is left.
"""

import re
from bisect import bisect
from collections.abc import Iterator

from .cells import Cell, Output, syntax_tree
from .parse import last_words

_HEADING = re.compile(r"^(In|Out)[ ]?\[[ ]*+(\d{0,9}+|\*)[ ]*+\]:[ \t]*+", re.MULTILINE)
_BLANK = re.compile(r"\n(?:[ \t]*+\n)++")
_MAX_TRIES = 64  # of a short cell; of a long one as many as read its text
_MOST_READ = 4  # times, since each try reads the whole code


def cells_of_export(text: str) -> Iterator[Cell]:
    """The cells of a text export."""
    headings = list(_HEADING.finditer(text))
    ends = [*(heading.start() for heading in headings), len(text)][1:]
    held: Cell | None = None
    for heading, end in zip(headings, ends, strict=True):
        section = text[heading.end() : end].strip("\n")
        number = int(heading.group(2)) if heading.group(2).isdecimal() else None
        if heading.group(1) == "Out" and held is not None:
            held = held._replace(outputs=(*held.outputs, Output("result", section)))
            continue
        if held is not None:
            yield held
        code, printed = ("", section) if heading.group(1) == "Out" else split(section)
        outputs = (Output("stdout", printed),) if printed.strip() else ()
        held = Cell(number, outputs, code, (), (held.place if held else 0) + 1)
    if held is not None:
        yield held


def split(text: str) -> tuple[str, str]:
    r"""Split the text of one cell into its code and its output, either of which may be empty.

    >>> split("x = 2\n\nx * 1.5\n\n3.0")
    ('x = 2\n\nx * 1.5', '3.0')
    >>> split("x = 2\n\n'a docstring'")
    ("x = 2\n\n'a docstring'", '')
    """
    text = text.strip("\n")
    if not text.strip():
        return "", ""
    breaks = [match.span() for match in _BLANK.finditer(text)]
    at = _values_at_the_end(text, breaks) or _not_python(text, breaks)
    if at is None:
        return text, ""
    return text[: at[0]], text[at[1] :]


def _values_at_the_end(text: str, breaks: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The first blank line with only values after it."""
    words_end, values, pairs = last_words(text)
    begins = [first for first, _ in pairs]
    for start, end in breaks:
        before = bisect(begins, start)
        if start < words_end or (before and pairs[before - 1][1] > end):
            continue
        after = (value for value in values if value.start >= end)
        return (start, end) if any(value.kind != "string" for value in after) else None
    return None


def _not_python(text: str, breaks: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The last blank line with valid Python before it, if the whole is not valid Python."""
    error = _first_error(text)
    if error is None:
        return None
    error_end = sum(len(line) for line in text.splitlines(keepends=True)[:error])
    before = [one for one in breaks if one[0] <= error_end]
    left = max(_MOST_READ * len(text), _MAX_TRIES * 1000)
    for start, end in reversed(before[-_MAX_TRIES:]):
        left -= start
        if left < 0:
            return None
        if _first_error(text[:start]) is None:
            return start, end
    return None


def _first_error(code: str) -> int | None:
    """The line of the first syntax error; `None` for valid Python."""
    try:
        syntax_tree(code)
    except SyntaxError as error:
        return error.lineno or 1
    return None

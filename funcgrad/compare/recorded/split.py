"""Tells code from output in a text export, where only blank lines stand between them.

Two rules, in this order. The output is the longest run of paragraphs at the end that holds nothing
but printed values, with at least one number, bool, `None` or array among them; strings alone do not
count, since a docstring is code. Failing that, the code is the longest run of paragraphs at the
beginning that is valid Python, and the output is what is left.
"""

import ast
import re
import warnings
from bisect import bisect

from .parse import last_words

_BLANK = re.compile(r"\n(?:[ \t]*+\n)++")
_MAGIC = re.compile(r"^(\s*)[%!?].*$", re.MULTILINE)
_MAX_TRIES = 64  # each try reads the whole code, so this bounds the work


def split(text: str) -> tuple[str, str]:
    r"""Split the text of one cell into its code and its output, either of which may be empty.

    >>> split("x = 2\n\nx * 1.5\n\n3.0")
    ('x = 2\n\nx * 1.5', '3.0')
    >>> split("x = 2\n\n'a docstring'")
    ("x = 2\n\n'a docstring'", '')
    """
    text = text.strip("\n")
    breaks = [(match.start(), match.end()) for match in _BLANK.finditer(text)]
    at = _values_at_the_end(text, breaks) or _not_python(text, breaks)
    if at is None:
        return text, ""
    return text[: at[0]], text[at[1] :]


def _values_at_the_end(text: str, breaks: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The first blank line with only values behind it."""
    words_end, values, pairs = last_words(text)
    begins = [first for first, _ in pairs]
    for start, end in breaks:
        before = bisect(begins, start)
        if start < words_end or (before and pairs[before - 1][1] > end):
            continue
        behind = (value for value in values if value.start >= end)
        return (start, end) if any(value.kind != "string" for value in behind) else None
    return None


def _not_python(text: str, breaks: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The last blank line with valid Python before it, if the whole is not valid Python."""
    error = _first_error(text)
    if error is None:
        return None
    error_end = sum(len(line) for line in text.splitlines(keepends=True)[:error])
    before = [one for one in breaks if one[0] <= error_end]
    for start, end in reversed(before[-_MAX_TRIES:]):
        if _first_error(text[:start]) is None:
            return start, end
    return None


def _first_error(code: str) -> int | None:
    """The line of the first syntax error, `None` for valid Python; IPython's own lines count."""
    plain = _MAGIC.sub(r"\1pass", code)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(plain)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        return 1
    return None

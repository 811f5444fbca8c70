"""What a cell shows: its values, each with a name, and the lines that no two runs share."""

import ast
import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from .cells import Cell, Output, syntax_tree
from .never import never_compared, spans_never_compared
from .parse import parse
from .rounding import in_full, settled
from .values import Parsed, Value, container_and_key

_LONGEST_NAME = 40
_MOST_CELLS = 2**16  # whose contents are remembered, until a comparison is done

_STRING = re.compile(r"'(?:[^'\\\n]|\\.)*+'|\"(?:[^\"\\\n]|\\.)*+\"")


class Contents(NamedTuple):
    """What a cell shows.

    Attributes:
        values: its values in order, each with its name as `label`.
        skipped: what is never comparable: progress bars, timings, addresses, modules, devices.
    """

    values: tuple[Value, ...]
    skipped: tuple[str, ...]


@lru_cache(maxsize=_MOST_CELLS)
def contents_of(cell: Cell) -> Contents:
    r"""The values and skipped lines in what a cell printed and in its result, in order.

    >>> out = Output("stdout", "z.grad: tensor(4.)\n100%|##| 9/9 [00:01<00:00, 7.1it/s]")
    >>> one = contents_of(Cell(1, (out,)))
    >>> [(value.label, value.numbers) for value in one.values], len(one.skipped)
    ([('z.grad', (4.0,))], 1)
    """
    values: list[Value] = []
    skipped: list[str] = []
    for output in cell.outputs:
        if output.kind in ("stdout", "result"):
            spans = list(spans_never_compared(output.text))
            skipped += [output.text[start:end].strip() for start, end in spans]
            shown = list(_values(cell, output, spans))
            never = list(never_compared(shown, output.text))
            skipped += [one.text for one, out in zip(shown, never, strict=True) if out]
            values += [one for one, out in zip(shown, never, strict=True) if not out]
    return Contents(tuple(values), tuple(skipped))


def _values(cell: Cell, output: Output, skipped: list[tuple[int, int]]) -> Iterator[Value]:
    """The values of an output, with their names and units, but for those in what is skipped."""
    parsed = parse(output.text)
    starts = [start for start, _ in skipped]
    named = [
        value._replace(label=name)
        for value, name in zip(parsed.values, _names(cell, output, parsed), strict=True)
        if not _lies_in(value, starts, skipped)
    ]
    words = _words_of_string(output, parsed)
    if output.kind == "result" and words is None:
        return map(_in_full, named)
    return iter([*settled(named, cell.formats), *([words] if words else [])])


def _lies_in(value: Value, starts: list[int], spans: list[tuple[int, int]]) -> bool:
    """Whether a value has a part in one of some spans, and does not hold it."""
    before = bisect_left(starts, value.end)
    if not before or spans[before - 1][1] <= value.start:
        return False
    start, end = spans[before - 1]
    return not (value.start <= start and end <= value.end and value.end - value.start > end - start)


def _words_of_string(output: Output, parsed: Parsed) -> Value | None:
    """The words of a string that is a cell's result, the numbers in it left out."""
    text = output.text.strip()
    if output.kind != "result" or not parsed.values or not _STRING.fullmatch(text):
        return None
    if parsed.values[0].kind == "string":
        return None
    return Value("string", text="…".join(parsed.words).strip(), label="the words of the string")


def _in_full(value: Value) -> Value:
    """A Python float that is a cell's result, which Python prints in full."""
    return in_full(value) if value.form == "scalar" and value.units else value


def _names(cell: Cell, output: Output, parsed: Parsed) -> Iterator[str]:
    """A name for each value: its expression in the code, its keys, or the words before it."""
    expressions = _expressions(cell.source) if output.kind == "result" else []
    for value, words in zip(parsed.values, parsed.words, strict=False):
        path = [container_and_key(step) for step in value.path]
        place = _place(*path[0]) if path else None
        if len(expressions) == 1 and not path:
            yield _head(expressions[0])
        elif place is not None and place < len(expressions) != 1:
            yield "".join([_head(expressions[place]), *(_step(*step) for step in path[1:])])
        elif any(_place(*step) is None for step in path):
            yield _tail("".join(_step(*step) for step in path).lstrip("."))
        else:
            yield _tail(_last_line(words))


def _place(container: str, key: str) -> int | None:
    """Which item of a tuple or list it is; `None` for what has names or keys."""
    if container not in ("tuple", "list"):
        return None
    return int(key)


def _head(expression: str) -> str:
    return expression if len(expression) <= _LONGEST_NAME else f"{expression[:_LONGEST_NAME]}..."


def _tail(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"...{name[-_LONGEST_NAME:]}"


def _step(container: str, key: str) -> str:
    """How Python gets at an item of a container.

    >>> _step("torch.return_types.max", "indices"), _step("dict", "'w'"), _step("Parameter", "0")
    ('.indices', "['w']", '')
    """
    if container == "Parameter":
        return ""
    return f".{key}" if key.isidentifier() else f"[{key}]"


def _expressions(source: str) -> list[str]:
    """The expressions that a cell's result consists of: one, or the items of a tuple."""
    try:
        body = syntax_tree(source).body
        last = body[-1] if body else None
        if not isinstance(last, ast.Expr):
            return []
        items = last.value.elts if isinstance(last.value, ast.Tuple) else [last.value]
        return [ast.unparse(one) for one in items]
    except (SyntaxError, RecursionError, MemoryError):
        return []


def _last_line(words: str) -> str:
    """The words before a value, as far as they may be its name."""
    line = words.rstrip().rpartition("\n")[2].strip(" \t:=,;|()[]{}'\"：")
    return line if any(character.isalpha() for character in line) else ""

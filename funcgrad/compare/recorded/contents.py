"""What a cell shows: its values, each with a name, and the lines that no two runs share."""

import ast
import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from .cells import Cell, Output, syntax_tree
from .parse import parse
from .values import Parsed, Value, container_and_key

_LONGEST_NAME = 40

# Lines whose numbers say nothing about the computation. What must be in the text for it to be
# searched, and the pattern; a layer's settings are those of a module that was printed.
_LAYERS = (
    r"(?:Lazy)?(?:Linear|Bilinear|Embedding(?:Bag)?|(?:Alpha|Feature)?Dropout|Conv(?:Transpose)?"
    r"|(?:Sync)?Batch(?:Norm)?|Layer(?:Norm)?|Group(?:Norm)?|Instance(?:Norm)?|RMSNorm|(?:Adaptive)?"
    r"(?:Max|Avg)Pool|RNN|LSTM|GRU|Flatten|Leaky(?:ReLU)?|Upsample)\w{0,20}+"
)
_SKIPPED = tuple(
    (needle, re.compile(pattern, re.MULTILINE))
    for needle, pattern in [
        ("[", r"\[[0-9]{1,6}:[0-9]{2}(?::[0-9]{2})?[<,] ?[^]\n]{1,40}(?:it|s|B)/"),  # tqdm
        ("±", r"(?<![0-9.])[0-9.]++ ?(?:ns|[uµμ]s|ms|s) ±"),  # %timeit
        (": ", r"^(?:CPU times|Wall time): "),
        ("://", r"^Downloading \S{1,200}+://|^Downloading https?://"),
        ("id(", r"\bid\([^()\n]{0,60}\) ?[:=]? ?[0-9]{9,}"),
        ("(", r"^[ \t]*+\([A-Za-z0-9_.]+\): (?:[0-9]+ x )?[A-Z]\w*+\("),  # a line of a module
        ("(", rf"^(?:\[|\()?{_LAYERS}\([^()\n]*+(?:\([^()\n]*+\)[^()\n]*+)*+\)[\])]?$"),
    ]
)


class Contents(NamedTuple):
    """What a cell shows.

    Attributes:
        values: its values in order, each with its name as `label`.
        skipped: the lines that are never comparable: progress bars, timings, addresses, modules.
    """

    values: tuple[Value, ...]
    skipped: tuple[str, ...]


@lru_cache(maxsize=512)
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
            spans = list(_skipped(output.text))
            skipped += [output.text[start:end].strip() for start, end in spans]
            values += _values(cell, output, spans)
    return Contents(tuple(values), tuple(skipped))


def _skipped(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of the lines whose numbers differ from run to run."""
    spans = []
    for needle, pattern in _SKIPPED:
        done = 0
        for match in pattern.finditer(text) if needle in text else ():
            if match.start() >= done:
                start = text.rfind("\n", done, match.start()) + 1 or done
                done = text.find("\n", match.end()) + 1 or len(text) + 1
                spans.append((start, done - 1))
    end = 0
    for start, stop in sorted(spans):
        if start >= end:
            yield start, stop
            end = stop


def _values(cell: Cell, output: Output, skipped: list[tuple[int, int]]) -> Iterator[Value]:
    parsed = parse(output.text)
    starts = [start for start, _ in skipped]
    for value, name in zip(parsed.values, _names(cell, output, parsed), strict=True):
        before = bisect_left(starts, value.end)
        if not before or skipped[before - 1][1] <= value.start:
            value = value._replace(label=name)
            yield _in_full(value) if output.kind == "result" else value


def _in_full(value: Value) -> Value:
    """A Python float that is a cell's result, which Python prints in full."""
    if value.form != "scalar" or not value.units:
        return value
    return value._replace(units=(0.0,) * len(value.units))


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

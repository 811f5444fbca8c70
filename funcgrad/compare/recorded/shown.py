"""What a cell shows: its values, each under a name, and the lines that no two runs share."""

import ast
import re
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from .cells import Cell, Output
from .parse import parse
from .values import Parsed, Value

_LONGEST_NAME = 40
_ITEM = re.compile(r"(?:tuple|list)\[([0-9]+)\]")
_MAGIC = re.compile(r"^(\s*)[%!?].*$", re.MULTILINE)

# Lines whose numbers say nothing about the computation. What must be in the text for it to be
# searched, and the pattern; a layer's settings are those of a module that was printed.
_LAYERS = (
    r"(?:Lazy)?(?:Linear|Bilinear|Embedding(?:Bag)?|(?:Alpha|Feature)?Dropout|Conv(?:Transpose)?"
    r"|(?:Sync)?Batch(?:Norm)?|Layer(?:Norm)?|Group(?:Norm)?|Instance(?:Norm)?|RMSNorm|(?:Adaptive)?"
    r"(?:Max|Avg)Pool|RNN|LSTM|GRU|Flatten|Leaky(?:ReLU)?|Upsample)\w{0,20}+"
)
_INCOMPARABLE = tuple(
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


class Shown(NamedTuple):
    """What a cell shows.

    Attributes:
        values: its values in order, each with its name as `label`.
        skipped: the lines that are never comparable: progress bars, timings, addresses, modules.
    """

    values: tuple[Value, ...]
    skipped: tuple[str, ...]


@lru_cache(maxsize=512)
def shown(cell: Cell) -> Shown:
    r"""What a cell printed and its result, in order.

    >>> out = Output("stdout", "z.grad: tensor(4.)\n100%|##| 9/9 [00:01<00:00, 7.1it/s]")
    >>> one = shown(Cell(1, (out,)))
    >>> [(value.label, value.numbers) for value in one.values], len(one.skipped)
    ([('z.grad', (4.0,))], 1)
    """
    values: list[Value] = []
    skipped: list[str] = []
    for output in cell.outputs:
        if output.kind in ("stdout", "result"):
            spans = list(_incomparable(output.text))
            skipped += [output.text[start:end].strip() for start, end in spans]
            values += _values(cell, output, spans)
    return Shown(tuple(values), tuple(skipped))


def _incomparable(text: str) -> Iterator[tuple[int, int]]:
    """The lines whose numbers differ from run to run."""
    spans = []
    for needle, pattern in _INCOMPARABLE:
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


def _values(cell: Cell, output: Output, spans: list[tuple[int, int]]) -> Iterator[Value]:
    parsed = parse(output.text)
    names = _names(cell, output, parsed)
    waiting = iter([*spans, (len(output.text) + 1, len(output.text) + 1)])
    start, end = next(waiting)
    for value, name in zip(parsed.values, names, strict=True):
        while value.start >= end:
            start, end = next(waiting)
        if value.end > start:
            continue
        value = value._replace(label=name)
        yield _in_full(value) if output.kind == "result" else value


def _in_full(value: Value) -> Value:
    """A Python float that is a cell's result, which Python prints in full."""
    if value.form != "scalar" or not value.units:
        return value
    return value._replace(units=(0.0,) * len(value.units))


def _names(cell: Cell, output: Output, parsed: Parsed) -> Iterator[str]:
    """A name for each value: the expression it is the value of, or what is printed before it."""
    expressions = _expressions(cell.source) if output.kind == "result" else []
    for value, words in zip(parsed.values, parsed.words, strict=False):
        item = _ITEM.fullmatch(value.path[0]) if value.path else None
        if len(expressions) == 1 and not value.path:
            name = _head(expressions[0])
        elif item and len(item.group(1)) < 5 and int(item.group(1)) < len(expressions) != 1:
            steps = map(_step, value.path[1:])
            name = "".join([_head(expressions[int(item.group(1))]), *steps])
        else:
            keyed = any(_ITEM.fullmatch(one) is None for one in value.path)
            name = "".join(map(_step, value.path)).lstrip(".") if keyed else _last_line(words)
            name = name if len(name) <= _LONGEST_NAME else f"...{name[-_LONGEST_NAME:]}"
        yield name


def _head(expression: str) -> str:
    return expression if len(expression) <= _LONGEST_NAME else f"{expression[:_LONGEST_NAME]}..."


def _step(container: str) -> str:
    """How Python gets at an item of a container.

    >>> _step("torch.return_types.max[indices]"), _step("dict['w']"), _step("Parameter[0]")
    ('.indices', "['w']", '')
    """
    name, _, key = container.removesuffix("]").partition("[")
    return "" if name == "Parameter" else f".{key}" if key.isidentifier() else f"[{key}]"


def _expressions(source: str) -> list[str]:
    """The expressions that a cell's result consists of: one, or the items of a tuple."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(_MAGIC.sub(r"\1pass", source)).body
        last = body[-1] if body else None
        if not isinstance(last, ast.Expr):
            return []
        items = last.value.elts if isinstance(last.value, ast.Tuple) else [last.value]
        return [ast.unparse(one) for one in items]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _last_line(words: str) -> str:
    """The words before a value, as far as they may be its name."""
    line = words.rstrip().rpartition("\n")[2].strip(" \t:=,;|()[]{}'\"：")
    return line if any(character.isalpha() for character in line) else ""

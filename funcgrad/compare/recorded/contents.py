"""What a cell shows: its values, each with a name, and the lines that no two runs share."""

import ast
import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple

from .cells import Cell, Output, syntax_tree
from .parse import parse
from .rounding import in_full, settled
from .values import UNIT, Parsed, Value, container_and_key, suffix_of

_LONGEST_NAME = 40
_MOST_CELLS = 2**16  # whose contents are remembered, until a comparison is done

_CLOCK = r"[0-9]{1,6}:[0-9]{2}(?::[0-9]{2})?"
_RATE = r"[0-9.?]{1,12} ?[A-Za-z]{1,20}/[A-Za-z]{1,12}"
_BAR = rf"\[{_CLOCK}(?:<(?:{_CLOCK}|\?))?, *+{_RATE}\]?"
_BEFORE_BAR = re.compile(
    r"(?:[0-9]{1,3}%(?:\|[^|\n]*+\|)?)? ?[0-9.]{1,15}[kMGTP]?(?:it|/[0-9.?]{1,15}[kMGTP]?)? ?$"
)
_LONGEST_BAR = 400  # characters that a bar may have before its times
_TIME = r"(?:ns|[uµμ]s|ms|s)"
_DEVICES = ("cuda:", "mps:", "xpu:", "hpu:", "xla:", "TFRT_", "Device(")
_TIMES = ("ns", "us", "µs", "μs", "ms", "s")
_DEVICE = (
    r"(?:cuda|mps|xpu|hpu|xla):[0-9]{1,4}|TFRT_CPU_[0-9]{1,4}"
    r"|(?:Cpu|Cuda|Tpu|Rocm|StreamExecutorGpu)Device\([^()\n]{1,200}\)"
)
# Code and prose in a text whose numbers say nothing about the computation. What must be in the
# text for it to be searched, and the pattern; a layer's settings are those of a printed module.
_LAYERS = (
    r"(?:Lazy)?(?:Linear|Bilinear|Embedding(?:Bag)?|(?:Alpha|Feature)?Dropout|Conv(?:Transpose)?"
    r"|(?:Sync)?Batch(?:Norm)?|Layer(?:Norm)?|Group(?:Norm)?|Instance(?:Norm)?|RMSNorm|(?:Adaptive)?"
    r"(?:Max|Avg)Pool|RNN|LSTM|GRU|Flatten|Leaky(?:ReLU)?|Upsample)\w{0,20}+"
)
_SKIPPED = tuple(
    (needle, re.compile(pattern, re.MULTILINE))
    for needle, pattern in [
        ("[", _BAR),  # tqdm, from its times on; what stands after its rate is the user's
        (
            "±",  # %timeit
            rf"(?<![0-9.])[0-9.]++ ?{_TIME} ± [0-9.]++ ?{_TIME}"
            r"(?: per loop(?: \(mean ± [^()\n]{1,80}\))?)?",
        ),
        (": ", r"^(?:CPU times|Wall time): [^\n]*+"),
        ("://", r"^Downloading (?:\S{1,200}+://|https?://)[^\n]*+"),
        ("id(", r"\bid\([^()\n]{0,60}\) ?[:=]? ?[0-9]{9,}+"),
        ("(", r"^[ \t]*+\([A-Za-z0-9_.]++\): (?:[0-9]++ x )?[A-Z]\w*+\([^\n]*+"),  # in a module
        ("(", rf"^(?:\[|\()?{_LAYERS}\([^()\n]*+(?:\([^()\n]*+\)[^()\n]*+)*+\)[\])]?$"),
        ("(type=", r"device\(type='[a-z]{1,12}'(?:, index=[0-9]{1,4})?\)"),
        *((needle, rf"(?<![\w'\"])(?:{_DEVICE})") for needle in _DEVICES),
    ]
)
_QUOTED_DEVICE = re.compile(rf"(['\"])(?:{_DEVICE}|cpu|cuda|mps|gpu|tpu)\1")
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
            spans = list(_skipped(output.text))
            skipped += [output.text[start:end].strip() for start, end in spans]
            shown = list(_values(cell, output, spans))
            never = [_is_device(one) or _is_time(one, after) for one, after in _with_next(shown)]
            skipped += [one.text for one, out in zip(shown, never, strict=True) if out]
            values += [one for one, out in zip(shown, never, strict=True) if not out]
    return Contents(tuple(values), tuple(skipped))


def _skipped(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of what differs from run to run."""
    spans = set()
    for needle, pattern in _SKIPPED:
        done = 0
        for match in pattern.finditer(text) if needle in text else ():
            start = match.start()
            if pattern.pattern == _BAR:
                begin = max(done, text.rfind("\n", done, start) + 1, start - _LONGEST_BAR)
                start = _start_of_bar(text, begin, start)
            done = match.end()
            spans.add((start, done))
    end = 0
    for start, stop in sorted(spans):
        if start >= end:
            yield start, stop
            end = stop


def _start_of_bar(text: str, begin: int, end: int) -> int:
    """Where a progress bar begins whose times begin at `end`: at its percentage or its count."""
    percent = text.rfind("%", begin, end)
    while percent > begin and text[percent - 1].isdecimal():
        percent -= 1
    match = _BEFORE_BAR.fullmatch(text, percent, end) if percent >= begin else None
    match = match or _BEFORE_BAR.search(text, max(begin, end - 40), end)
    return match.start() if match else end


def _with_next(values: list[Value]) -> Iterator[tuple[Value, Value | None]]:
    """Each value with the one after it."""
    return zip_longest(values, values[1:])


def _is_time(value: Value, after: Value | None) -> bool:
    """Whether a value is a time, `12.3s`, or the minutes before its seconds, `2m 35s`."""
    unit = suffix_of(value, UNIT)
    if unit in ("m", "h"):
        return (
            after is not None
            and after.start == value.end + 1
            and suffix_of(after, UNIT) in ("m", "s")
        )
    return unit in _TIMES


def _is_device(value: Value) -> bool:
    return value.kind == "string" and bool(_QUOTED_DEVICE.fullmatch(value.text))


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

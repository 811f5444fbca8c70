"""Builds values and containers from the tokens of the grammar."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

from .literals import (
    ELEMENT,
    MAX_RANK,
    Block,
    Literal,
    Unfit,
    block,
    common_kind,
    gap_places,
    literal,
    row,
    units,
    worth,
)
from .values import Container, Item, Value

MAX_DEPTH = 64
_ALIASES = {
    "half": "float16", "float": "float32", "double": "float64", "short": "int16",
    "int": "int32", "long": "int64", "byte": "uint8", "char": "int8",
}  # fmt: skip


@dataclass(frozen=True)
class Inner:
    """The token of a finished pair of brackets.

    Attributes:
        content: what the pair is.
        start_pos: where it begins in the text.
        end_pos: where it ends.
    """

    content: Block | Item
    start_pos: int
    end_pos: int
    type: ClassVar[str] = "INNER"


def scalar(token: Any, *, full: bool) -> Value:
    """The value of a single token; `full` says that Python printed the number in full."""
    kind, text = token.type, str(token)
    span = {"start": token.start_pos, "end": token.end_pos, "text": text}
    if kind in ("NONE", "STRING"):
        return Value(kind.lower(), **span)
    if kind == "DTYPE":
        return Value("dtype", dtype=dtype_name(text), **span)
    return number(_literal(text), full=full)._replace(**span)


def number(one: Literal, *, full: bool) -> Value:
    """A single number as a value."""
    return Value(one.kind, (one.number,), units=(0.0 if full else worth(one),))


def _literal(text: str) -> Literal:
    """A number or bool, `np.True_` among them."""
    return literal(text.removeprefix("np.").rstrip("_"))


def array(numbers: Block, form: str, start: int, end: int) -> Value:
    """An array as a value; `form` as in `Value`."""
    return Value(
        numbers.kind,
        tuple(numbers.numbers),
        numbers.shape,
        units=units(numbers, form),
        form=form,
        places=None if numbers.places is None else tuple(numbers.places),
        start=start,
        end=end,
    )


def bare(numbers: Block, start: int, end: int) -> Item:
    """Numbers in square brackets that stand in no `tensor(...)`: a Python list, or str(array)."""
    if not numbers.numbers:
        return Container("list", (), 1, printed=True)
    return array(numbers, "list" if numbers.commas else "text", start, end)


def dtype_name(text: str) -> str:
    """A dtype without its library: `torch.float32`, `'float32'` and `float32` are one.

    >>> dtype_name("torch.double"), dtype_name("'int32'")
    ('float64', 'int32')
    """
    head, _, name = text.strip("'\"<>").rpartition(".")
    return _ALIASES.get(name, name) if head == "torch" else name


def item(token: Any) -> Item | None:
    """What a token inside a container stands for; `None` for words."""
    if token.type == "INNER":
        if isinstance(token.content, Block):
            return bare(token.content, token.start_pos, token.end_pos)
        return token.content
    if token.type == "ROW":
        try:
            return bare(row(token), token.start_pos, token.end_pos)
        except Unfit:
            return _mixed(token)
    if token.type in ("OBJECT", "ELLIPSIS", "WORD"):
        return None
    return scalar(token, full=True)


def key_text(token: Any) -> str:
    """A key of a dict as text; a tuple is written without the spaces that it was printed with."""
    return _as_key(token.content) if token.type == "INNER" else str(token)


def _as_key(one: Block | Item) -> str:
    if isinstance(one, Container):
        return f"{one.name}({','.join(_as_key(inner) for _, inner in one.items)})"
    if isinstance(one, Value):
        return one.text or str((*one.numbers, one.dtype))
    return str(one.numbers)


def _mixed(token: Any) -> Item:
    """A row of bools among numbers: a Python list of single values."""
    values = []
    for match in ELEMENT.finditer(token):
        if match.group() != "...":
            start, end = (token.start_pos + place for place in match.span())
            value = number(_literal(match.group()), full=True)
            values.append(value._replace(start=start, end=end, text=match.group()))
    return container("list", enumerate(values))


def container(
    name: str, items: Iterable[tuple[Any, Item | None]], *, printed: bool = True
) -> Container:
    """A container of the items that are values.

    Raises:
        Unfit: more than 64 containers are nested. Nobody prints that, and a bound keeps paths
            short.
    """
    kept = tuple((str(key), one) for key, one in items if one is not None)
    inner = [one for _, one in kept if isinstance(one, Container)]
    depth = 1 + max((one.depth for one in inner), default=0)
    if depth > MAX_DEPTH:
        raise Unfit
    return Container(name, kept, depth, printed and all(one.printed for one in inner))


def stacked(tokens: list[Any]) -> Block:
    """Rows of one shape as an array of one rank more.

    Raises:
        Unfit: the rows differ, or are no rows, or the rank is above 64.
    """
    gap = next((i for i, token in enumerate(tokens) if token.type == "ELLIPSIS"), None)
    rows = [numbers_of(token) for token in tokens if token.type != "ELLIPSIS"]
    if not rows or len(rows) < len(tokens) - (gap is not None):
        raise Unfit
    shape = rows[0].shape
    if len(shape) >= MAX_RANK or any(one.shape != shape for one in rows):
        raise Unfit
    return Block(
        common_kind({one.kind for one in rows}),
        [number for one in rows for number in one.numbers],
        [precision for one in rows for precision in one.precisions],
        (None if gap is not None else len(rows), *shape),
        _outer_places(rows, gap),
        rows[0].commas,
    )


def numbers_of(token: Any) -> Block:
    """The numbers in a token that is a row or an array.

    Raises:
        Unfit: it is something else.
    """
    if token.type == "ROW":
        return row(token)
    if token.type == "INNER" and isinstance(token.content, Block):
        return token.content
    raise Unfit


def tensor_numbers(token: Any) -> Block:
    """The numbers in `tensor(...)`: a scalar, rows, or only `...`."""
    if token.type in ("NUMBER", "BOOL"):
        return block([_literal(token)])
    if token.type == "ELLIPSIS":
        return Block("float", [], [], (None,), [])
    return numbers_of(token)


def _outer_places(rows: list[Block], gap: int | None) -> list[tuple[int, ...]] | None:
    if gap is None and rows[0].places is None:
        return None
    outer = gap_places(len(rows), len(rows) if gap is None else gap)
    return [
        (first, *rest)
        for first, one in zip(outer, rows, strict=True)
        for rest in (one.places or product(*(range(length or 0) for length in one.shape)))
    ]

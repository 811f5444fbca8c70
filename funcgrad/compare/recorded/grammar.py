"""The grammar at work: turns one pair of brackets into a container or an array.

The grammar itself is `grammar.lark` beside this file. Each method below is the action of the rule
of its name. An action raises `Unfit` for what fits the syntax and is still no value, such as rows
of different lengths in `tensor(...)`.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Any

from funcgrad._extras import need

from ..tolerances import kind_of_dtype
from .literals import MAX_RANK, Unfit, common_kind, gap_places, literal, row, units
from .values import Grid, Group, Node, Value

MAX_DEPTH = 64
_TENSORS = {"tensor": "tensor", "array": "array", "Array": "array", "DeviceArray": "array"}
_KNOWN = ("OrderedDict", "defaultdict", "deque", "frozenset", "set", "nested_tensor")
_ALIASES = {
    "half": "float16", "float": "float32", "double": "float64", "short": "int16",
    "int": "int32", "long": "int64", "byte": "uint8", "char": "int8",
}  # fmt: skip


@cache
def grammar() -> Any:
    """The compiled grammar: `lex` gives tokens, `parse_interactive` reads one pair of brackets."""
    need(["lark"], "`funcgrad.compare.parse`", "compare")
    import lark

    return lark.Lark(
        files("funcgrad.compare.recorded").joinpath("grammar.lark").read_text(encoding="utf-8"),
        parser="lalr",
        lexer="basic",
        start=["pair_of_brackets", "outside"],
        transformer=_actions(),
    )


@cache
def inner_token() -> Any:
    """The token class of a finished pair; made late, so that importing this needs no lark."""
    import lark

    class Inner(lark.Token):  # type: ignore[misc]
        """A finished pair of brackets: `node` is what it is, the text is not kept."""

        node: Grid | Node

        def __new__(cls, node: Grid | Node, start: int, end: int) -> "Inner":
            token = super().__new__(cls, "INNER", "", start_pos=start, end_pos=end)
            token.node = node
            return token

    return Inner


def fit(tokens: list[Any]) -> Any:
    """One pair of brackets, first token to last, as an `INNER` token, or `None` if it is words."""
    import lark

    parser = grammar().parse_interactive(start="pair_of_brackets")
    try:
        for token in tokens:
            parser.feed_token(token)
        node = parser.feed_eof()
    except (lark.exceptions.UnexpectedInput, Unfit):
        return None
    start, end = tokens[0].start_pos, tokens[-1].end_pos
    if isinstance(node, Value):
        node = node._replace(start=start, end=end)
    return inner_token()(node, start, end)


def scalar(token: Any, *, full: bool) -> Value:
    """A single token as a value; `full` says that Python printed the number in full."""
    kind, text = token.type, str(token)
    span = {"start": token.start_pos, "end": token.end_pos, "text": text}
    if kind == "NONE":
        return Value("none", **span)
    if kind == "STRING":
        return Value("string", **span)
    if kind == "DTYPE":
        return Value("dtype", dtype=dtype_name(text), **span)
    if kind == "BOOL":
        return Value("bool", ("True" in text,), units=(0.0,), **span)
    one = literal(text)
    grid = Grid(one.kind, [one.number], [one.decimals], [one.exponent], (), None, True)
    shown = units(grid, "list" if full else "tensor")
    return Value(one.kind, (one.number,), units=shown, **span)


def array(grid: Grid, form: str, start: int, end: int) -> Value:
    """An array as a value; `form` as in `Value`."""
    return Value(
        grid.kind,
        tuple(grid.numbers),
        grid.shape,
        units=units(grid, form),
        form=form,
        places=None if grid.places is None else tuple(grid.places),
        start=start,
        end=end,
    )


def bare(grid: Grid, start: int, end: int) -> Node:
    """Numbers in square brackets that stand in no `tensor(...)`: a Python list, or str(array)."""
    if not grid.numbers:
        return Group("list", (), 1, printed=True)
    return array(grid, "list" if grid.commas else "text", start, end)


def dtype_name(text: str) -> str:
    """A dtype without its library: `torch.float32`, `'float32'` and `float32` are one.

    >>> dtype_name("torch.double"), dtype_name("'int32'")
    ('float64', 'int32')
    """
    head, _, name = text.strip("'\"<>").rpartition(".")
    return _ALIASES.get(name, name) if head == "torch" else name


def node(token: Any) -> Node | None:
    """What a token inside of a container stands for; `None` for what is no value."""
    if token.type == "INNER":
        inside = token.node
        if isinstance(inside, Grid):
            return bare(inside, token.start_pos, token.end_pos)
        return inside
    if token.type == "ROW":
        return _row_or_list(token)
    if token.type in ("OBJECT", "ELLIPSIS", "WORD"):
        return None
    return scalar(token, full=True)


def _row_or_list(token: Any) -> Node:
    try:
        return bare(row(token), token.start_pos, token.end_pos)
    except Unfit:
        return _mixed(token)


def _mixed(token: Any) -> Node:
    """A row of bools among numbers: a Python list of single values."""
    inside = list(grammar().lex(str(token)[1:-1]))
    values = [
        scalar(one, full=True)._replace(
            start=token.start_pos + 1 + one.start_pos, end=token.start_pos + 1 + one.end_pos
        )
        for one in inside
        if one.type in ("NUMBER", "BOOL")
    ]
    return group("list", enumerate(values))


def group(name: str, items: Iterable[tuple[Any, Node | None]], *, printed: bool = True) -> Group:
    """A container of the items that are values.

    Raises:
        Unfit: more than 64 containers inside each other; nobody prints that, and a bound keeps
            paths short.
    """
    kept = tuple((str(key), item) for key, item in items if item is not None)
    inner = [item for _, item in kept if isinstance(item, Group)]
    depth = 1 + max((item.depth for item in inner), default=0)
    if depth > MAX_DEPTH:
        raise Unfit
    return Group(name, kept, depth, printed and all(item.printed for item in inner))


def grid_of(tokens: list[Any]) -> Grid:
    """Rows of one shape as an array of one rank more.

    Raises:
        Unfit: the rows differ, or are no rows, or the rank is above 64.
    """
    gap = next((i for i, token in enumerate(tokens) if token.type == "ELLIPSIS"), None)
    rows = [_as_grid(token) for token in tokens if token.type != "ELLIPSIS"]
    if not rows or len(rows) < len(tokens) - (gap is not None):
        raise Unfit
    shape = rows[0].shape
    if len(shape) >= MAX_RANK or any(one.shape != shape for one in rows):
        raise Unfit
    return Grid(
        common_kind({one.kind for one in rows}),
        [number for one in rows for number in one.numbers],
        [decimals for one in rows for decimals in one.decimals],
        [exponent for one in rows for exponent in one.exponents],
        (None if gap is not None else len(rows), *shape),
        _outer_places(rows, gap),
        rows[0].commas,
    )


def _as_grid(token: Any) -> Grid:
    if token.type == "ROW":
        return row(token)
    if token.type == "INNER" and isinstance(token.node, Grid):
        return token.node
    raise Unfit


def _outer_places(rows: list[Grid], gap: int | None) -> list[tuple[int, ...]] | None:
    if gap is None and rows[0].places is None:
        return None
    outer = gap_places(len(rows), len(rows) if gap is None else gap)
    return [
        (first, *rest)
        for first, one in zip(outer, rows, strict=True)
        for rest in (one.places or product(*(range(length or 0) for length in one.shape)))
    ]


def _actions() -> Any:
    """The actions of the grammar, as a lark transformer."""
    import lark

    class Actions(lark.Transformer):  # type: ignore[misc]
        def listed(self, tokens: list[Any]) -> Grid | Group:
            try:
                return grid_of(tokens)
            except Unfit:
                return group("list", enumerate(map(node, tokens)))

        def spaced(self, tokens: list[Any]) -> Grid:
            return grid_of(tokens)._replace(commas=False)

        def tupled(self, tokens: list[Any]) -> Group:
            return group("tuple", enumerate(map(node, tokens)))

        def bracketed(self, tokens: list[Any]) -> Value:
            value = scalar(tokens[0], full=True)
            if value.kind != "complex":
                raise Unfit
            return value

        def mapped(self, pairs: list[tuple[str, Node]]) -> Group:
            return group("dict", pairs)

        def united(self, tokens: list[Any]) -> Group:
            return group("set", enumerate(map(node, tokens)))

        def pair(self, tokens: list[Any]) -> tuple[str, Node | None]:
            return str(tokens[0]), node(tokens[1])

        def parameter(self, tokens: list[Any]) -> Any:
            inside = group("Parameter", [(0, node(tokens[1]))])
            return inner_token()(inside, tokens[0].start_pos, tokens[1].end_pos)

        def keyword(self, tokens: list[Any]) -> "Keyword":
            return Keyword(tokens)

        def scaled(self, tokens: list[Any]) -> Any:
            return _scaled(*tokens)

        def call(self, tokens: list[Any]) -> Node:
            return called(str(tokens[0])[:-1], tokens[1:])

    return Actions()


class Keyword:
    """`name=value` in a call: the name, and the token of the value."""

    type = "KEYWORD"

    def __init__(self, tokens: list[Any]) -> None:
        self.name = str(tokens[0]).rstrip("= ")
        self.token = tokens[1]


def _scaled(factor: Any, token: Any) -> Any:
    """An array behind a common factor, `1.0000e-07 * [1.5, 2.5]`, with the factor multiplied in."""
    scale, grid = literal(factor), _as_tensor_grid(token)
    if scale.kind != "float" or grid.kind not in ("float", "int"):
        raise Unfit
    try:
        numbers: list[Any] = [number * scale.number for number in grid.numbers]
    except OverflowError:
        raise Unfit from None
    grid = grid._replace(
        kind="float", numbers=numbers, exponents=[scale.exponent + one for one in grid.exponents]
    )
    return inner_token()(grid, factor.start_pos, token.end_pos)


def _as_tensor_grid(token: Any) -> Grid:
    """The numbers that a `tensor(...)` holds: a scalar, rows, nothing, or only `...`."""
    if token.type in ("NUMBER", "BOOL"):
        one = literal(str(token).removeprefix("np.").rstrip("_"))
        return Grid(one.kind, [one.number], [one.decimals], [one.exponent], (), None, True)
    if token.type == "ELLIPSIS":
        return Grid("float", [], [], [], (None,), [], True)
    return _as_grid(token)


def called(name: str, arguments: list[Any]) -> Node:
    """What `name(...)` stands for."""
    positional = [one for one in arguments if not isinstance(one, Keyword)]
    keywords = [one for one in arguments if isinstance(one, Keyword)]
    if any(isinstance(one, Keyword) for one in arguments[: len(positional)]):
        raise Unfit
    if name in _TENSORS:
        return _tensor(name, positional, keywords)
    if name == "ShapeDtypeStruct":
        options = {one.name: one.token for one in keywords}
        return Value("struct", (), _shape_of(options.get("shape")), _dtype_of(options))
    if len(positional) == 1 and not keywords:
        special = _of_one(name, positional[0])
        if special is not None:
            return special
    items: list[tuple[Any, Node | None]] = [
        (one.name, node(one.token)) if isinstance(one, Keyword) else (place, node(one))
        for place, one in enumerate(arguments)
    ]
    return group(name, items, printed=_is_printed(name, positional, items))


def _is_printed(name: str, positional: list[Any], items: list[tuple[Any, Node | None]]) -> bool:
    """Whether a library prints this: a name of ours, or a named tuple with an array in it.

    Any other `name(...)` may be code or prose; its numbers are values all the same.
    """
    if name in _KNOWN or name.startswith("torch.return_types."):
        return True
    holds_array = any(
        isinstance(one, Value) and one.form in ("tensor", "array") for _, one in items
    )
    return holds_array and not positional


def _of_one(name: str, token: Any) -> Node | None:
    """The calls that take exactly one thing, `None` if this is none of them."""
    if name == "torch.Size":
        grid = _as_grid(token)
        return array(grid, "list", 0, 0)._replace(kind="size")
    if name == "dtype" and token.type == "STRING":
        return Value("dtype", dtype=dtype_name(token))
    library, _, dtype = name.rpartition(".")
    if library in ("np", "numpy", "jnp") and token.type in ("NUMBER", "BOOL", "INNER", "STRING"):
        value = node(token)
        if not isinstance(value, Value):
            raise Unfit
        return value._replace(dtype=dtype.rstrip("_"), kind=kind_of_dtype(dtype) or value.kind)
    if name in ("OrderedDict", "deque") and token.type == "INNER" and isinstance(token.node, Group):
        return group(name, _entries(token.node))
    return None


def _entries(inside: Group) -> Iterator[tuple[str, Node]]:
    """The items of an OrderedDict, which is printed as a dict or as a list of pairs."""
    for key, item in inside.items:
        if isinstance(item, Group) and item.name == "tuple" and len(item.items) == 2:
            name, value = item.items[0][1], item.items[1][1]
            yield (name.text if isinstance(name, Value) else key), value
        else:
            yield key, item


def _tensor(name: str, positional: list[Any], keywords: list[Keyword]) -> Node:
    """`tensor(...)` or `Array(...)`: one array, or the arrays that a sparse one consists of."""
    held = [(one.name, node(one.token)) for one in keywords if one.token.type == "INNER"]
    parts = [(key, item) for key, item in held if isinstance(item, Value) and item.form != "list"]
    if len(positional) != 1:
        if positional or not parts:
            raise Unfit
        return group(name, parts)
    options = {one.name: one.token for one in keywords}
    try:
        grid = _as_tensor_grid(positional[0])
    except Unfit:
        inside = node(positional[0])
        if not isinstance(inside, Group):
            raise
        return group(name, [(0, inside)])
    dtype = _dtype_of(options)
    here = positional[0]
    value = array(grid, _TENSORS[name], here.start_pos, here.end_pos)._replace(
        dtype=dtype,
        kind=(kind_of_dtype(dtype) if dtype else None) or grid.kind,
        shape=_shape_of(options.get("shape", options.get("size"))) or grid.shape,
        suffixes=tuple((one.name, str(one.token)) for one in keywords if one.token.type != "INNER"),
    )
    return group(name, [(0, value), *parts]) if parts else value


def _dtype_of(options: dict[str, Any]) -> str | None:
    return dtype_name(str(options["dtype"])) if "dtype" in options else None


def _shape_of(token: Any) -> tuple[int | None, ...]:
    """The shape behind `size=` or `shape=`, `()` where there is none."""
    shape = None if token is None else node(token)
    if isinstance(shape, Value):
        return tuple(int(n) for n in shape.numbers if isinstance(n, int))
    if not isinstance(shape, Group):
        return ()
    return tuple(
        int(n)
        for _, one in shape.items
        if isinstance(one, Value)
        for n in one.numbers[:1]
        if isinstance(n, int)
    )

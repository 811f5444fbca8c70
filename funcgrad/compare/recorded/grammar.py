"""The grammar at work: reads one pair of brackets as a container or an array.

The grammar itself is `grammar.lark` beside this file. Each method of `_Actions` is the action of
the rule of its name. An action raises `Unfit` for what has the right syntax and is still no value,
such as rows of different lengths in `tensor(...)`.
"""

from functools import cache
from importlib.resources import files
from typing import Any

from ..._extras import need
from .build import Inner, container, item, key_text, scalar, stacked, tensor_numbers
from .literals import Block, Unfit, literal
from .printed_tensors import Keyword, called
from .values import Container, Item, Value


@cache
def grammar() -> Any:
    """The compiled grammar: `parse_interactive` reads one pair of brackets."""
    return _compiled(parser="lalr", transformer=_Actions)


@cache
def lexer() -> Any:
    """The grammar's terminals alone: `lex` gives tokens, without making a lexer for each text."""
    return _compiled(parser=None)


def _compiled(**options: Any) -> Any:
    need(["lark"], "`funcgrad.compare.parse`", "compare")
    import lark

    return lark.Lark(
        files("funcgrad.compare.recorded").joinpath("grammar.lark").read_text(encoding="utf-8"),
        lexer="basic",
        start=["pair_of_brackets", "outside"],
        **options,
    )


def fit(tokens: list[Any]) -> Inner | None:
    """One pair of brackets, first token to last, as one token; `None` if it holds words."""
    import lark

    parser = grammar().parse_interactive(start="pair_of_brackets")
    try:
        for token in tokens:
            parser.feed_token(token)
        content = parser.feed_eof()
    except (lark.exceptions.UnexpectedInput, Unfit):
        return None
    start, end = tokens[0].start_pos, tokens[-1].end_pos
    if isinstance(content, Value):
        content = content._replace(start=start, end=end)
    return Inner(content, start, end)


class _Actions:
    """The actions of the grammar's rules; each takes the tokens of its rule."""

    @staticmethod
    def listed(tokens: list[Any]) -> Block | Container:
        try:
            return stacked(tokens)
        except Unfit:
            return container("list", enumerate(map(item, tokens)))

    @staticmethod
    def spaced(tokens: list[Any]) -> Block:
        return stacked(tokens)._replace(commas=False)

    @staticmethod
    def tupled(tokens: list[Any]) -> Container:
        return container("tuple", enumerate(map(item, tokens)))

    @staticmethod
    def bracketed(tokens: list[Any]) -> Value:
        value = scalar(tokens[0], full=True)
        if value.kind != "complex":
            raise Unfit
        return value

    @staticmethod
    def mapped(pairs: list[tuple[str, Item | None]]) -> Container:
        return container("dict", pairs)

    @staticmethod
    def united(tokens: list[Any]) -> Container:
        return container("set", enumerate(map(item, tokens)))

    @staticmethod
    def pair(tokens: list[Any]) -> tuple[str, Item | None]:
        return key_text(tokens[0]), item(tokens[1])

    @staticmethod
    def parameter(tokens: list[Any]) -> Inner:
        inside = container("Parameter", [(0, item(tokens[1]))])
        return Inner(inside, tokens[0].start_pos, tokens[1].end_pos)

    @staticmethod
    def keyword(tokens: list[Any]) -> Keyword:
        return Keyword(str(tokens[0]).rstrip("= "), tokens[1])

    @staticmethod
    def scaled(tokens: list[Any]) -> Inner:
        """An array behind a common factor, `1.0000e-07 * [1.5, 2.5]`."""
        factor, numbers = literal(tokens[0]), tensor_numbers(tokens[1])
        if factor.kind != "float":
            raise Unfit
        product = numbers.times(factor)._replace(kind="float")
        return Inner(product, tokens[0].start_pos, tokens[1].end_pos)

    @staticmethod
    def call(tokens: list[Any]) -> Item:
        return called(str(tokens[0])[:-1], tokens[1:])

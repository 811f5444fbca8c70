"""`parse`: every value in a text that a program printed, in order. Any text at all can be parsed.

Nothing is ever evaluated, and the work is linear in the length of the text: brackets are matched
with a stack, and the grammar reads each pair once, with its inner pairs already read. Where a pair
turns out to be words, the pairs around it are words too, at once.
"""

from collections import deque
from collections.abc import Iterator
from string import ascii_letters
from typing import Any

from .build import item, number, scalar
from .grammar import fit, lexer
from .legacy import legacy
from .literals import Unfit, literal
from .values import UNIT, Container, Item, Parsed, Value

_OPENS = {"LSQB": "RSQB", "LPAR": "RPAR", "LBRACE": "RBRACE", "NAME_OPEN": "RPAR"}
_CLOSES = frozenset(_OPENS.values())
_ITEMS = frozenset({"NUMBER", "BOOL", "NONE", "DTYPE"})
_NEVER_INSIDE = frozenset({"OTHER", "LEGACY", "UNIT", "GLUED", "PROSE"})
_LETTERS = ascii_letters + "\u00b5\u03bc"
_MOST_OPEN = 256  # more than an array of the highest rank in containers of the greatest depth


def parse(text: str) -> Parsed:
    """Find the values in one output text.

    Containers are flattened: their values come in order, each with its `path`.

    Args:
        text: what a cell printed, or a cell's result.

    Returns:
        The values, the words around them, and whether the text holds nothing else.

    >>> parsed = parse("loss: 0.1234 (tensor([1., 2.], requires_grad=True), True)")
    >>> [(value.kind, value.numbers, value.shape) for value in parsed.values]
    [('float', (0.1234,), ()), ('float', (1.0, 2.0), (2,)), ('bool', (True,), ())]
    >>> parsed.words[0], parsed.values[1].path, parsed.values[0].units
    ('loss: ', ('tuple[0]',), (0.0001,))
    """
    return _find(text, strings=True).result()


def last_words(text: str) -> tuple[int, tuple[Value, ...], list[tuple[int, int]]]:
    """Where the last words of a text end (0 if it has none), its values, and where its pairs lie.

    >>> last_words("x = 1, [2., 3.]")[0::2]
    (6, [(7, 15)])
    """
    found = _find(text, strings=True)
    return found.words_end, found.result().values, found.pairs


def _find(text: str, *, strings: bool) -> "_Found":
    found = _Found(text, strings=strings)
    brackets = _Brackets(found)
    for token in lexer().lex(text):
        brackets.feed(token)
    brackets.finish()
    return found


class _Brackets:
    """Matches brackets, and hands every pair that is complete to the grammar.

    `open` holds what each open bracket waits for. `inside` holds the tokens since the innermost of
    them, bracket by bracket; the outer ones, which are not in it, are known to hold words, or more
    brackets inside each other than any value has. What comes in those is handed on at once. A
    bracket is given up once and a token handed on once, which makes the whole linear.
    """

    def __init__(self, found: "_Found") -> None:
        self.found = found
        self.open: list[str] = []
        self.inside: deque[list[Any]] = deque()
        self.waiting = dict.fromkeys(_CLOSES, 0)

    def feed(self, token: Any) -> None:
        if token.type in _OPENS:
            self.open.append(_OPENS[token.type])
            self.waiting[_OPENS[token.type]] += 1
            self.inside.append([token])
            if len(self.inside) > _MOST_OPEN:
                self._give_up_outermost()
        elif token.type in _CLOSES:
            self._close(token)
        else:
            self._add(token)

    def finish(self) -> None:
        self._give_up()

    def _add(self, token: Any) -> None:
        if self.inside:
            tokens = self.inside[-1]
            word = token.type == "WORD" and tokens[-1].type != "KEY"
            if not word and token.type not in _NEVER_INSIDE:
                tokens.append(token)
                return
            self._give_up()
        self.found.add(token)

    def _close(self, token: Any) -> None:
        if not self.waiting[token.type]:
            self._give_up()
            self.found.add(token)
            return
        if self.open[-1] != token.type:
            self._give_up()
            while self.open[-1] != token.type:
                self.waiting[self.open.pop()] -= 1
        self.waiting[self.open.pop()] -= 1
        pair = fit([*self.inside[-1], token]) if self.inside else None
        if pair is None:
            self._give_up()
        else:
            self.inside.pop()
        self._add(token if pair is None else pair)

    def _give_up(self) -> None:
        while self.inside:
            self._give_up_outermost()

    def _give_up_outermost(self) -> None:
        for token in self.inside.popleft():
            self.found.add(token)


class _Found:
    """Collects values outside of brackets, in the order of the text."""

    def __init__(self, text: str, *, strings: bool) -> None:
        self.text = text
        self.strings = strings
        self.values: list[Value] = []
        self.words_end = 0
        self.pairs: list[tuple[int, int]] = []
        self.folded = 0  # what is before has been tried, so nothing is tried twice

    def add(self, token: Any) -> None:
        """Take a token that stands in no pair of brackets: a value, or a word."""
        if token.type == "INNER":
            self._add_brackets(token)
        elif token.type == "ROW":
            self._add_row(token)
        elif token.type in _ITEMS:
            self._add_scalar(token)
        elif token.type == "UNIT":
            self._add_with_unit(token)
        elif token.type == "STRING" and self.strings:
            self._add_string(token)
        elif token.type == "LEGACY":
            self._fold_legacy(token)
        elif token.type not in ("OBJECT", "PARAMETER"):
            self.words_end = token.end_pos

    def result(self) -> Parsed:
        values = tuple(
            value._replace(text=self.text[value.start : value.end]) for value in self.values
        )
        starts = [*(value.start for value in values), len(self.text)]
        ends = [0, *(value.end for value in values)]
        words = tuple(self.text[a:b] for a, b in zip(ends, starts, strict=True))
        return Parsed(values, words, self.words_end == 0)

    def _add_brackets(self, token: Any) -> None:
        self.pairs.append((token.start_pos, token.end_pos))
        inside = item(token)
        if isinstance(inside, Container) and not inside.printed:
            self.words_end = token.end_pos
        values = _flat(inside)
        if isinstance(inside, Container):
            values = (value._replace(root=token.start_pos) for value in values)
        self.values.extend(values)

    def _add_row(self, token: Any) -> None:
        try:
            self._add_brackets(token)
        except Unfit:
            self.words_end = token.end_pos

    def _add_scalar(self, token: Any) -> None:
        """A number in a text; a full stop after an integer ends a sentence."""
        text = str(token)
        if token.type == "NUMBER" and text.endswith(".") and text[:-1].lstrip("+-").isdecimal():
            token = token.update(value=text[:-1])
            token.end_pos -= 1
        try:
            self.values.append(scalar(token, full=False))
        except Unfit:
            self.words_end = token.end_pos

    def _add_with_unit(self, token: Any) -> None:
        """A number with its unit in one word, which may also be a word: `2.5x`, `3D`."""
        digits = str(token).rstrip(_LETTERS)
        unit = str(token)[len(digits) :]
        self.words_end = token.end_pos
        try:
            value = number(literal(digits), full=False)
        except Unfit:
            return
        span = {"start": token.start_pos, "end": token.end_pos}
        self.values.append(value._replace(**span, suffixes=((UNIT, unit),)))

    def _add_string(self, token: Any) -> None:
        """A quoted string: what it says is read, and if that is the whole text it is a value."""
        inner = str(token)[1:-1].replace("\\n", "  ")
        has_digit = any(character.isdecimal() for character in inner)
        inside = _find(inner, strings=False).result().values if has_digit else ()
        shift = token.start_pos + 1
        for value in inside:
            self.values.append(value._replace(start=value.start + shift, end=value.end + shift))
        if not inside and str(token) == self.text.strip():
            self.values.append(scalar(token, full=False))

    def _fold_legacy(self, token: Any) -> None:
        """`[torch.FloatTensor of size 2x2]`: the numbers above it are one tensor."""
        value = legacy(self.text, self.folded, str(token), token.end_pos)
        self.folded = token.end_pos
        if value is not None:
            while self.values and self.values[-1].start >= value.start:
                self.values.pop()
            self.values.append(value)


def _flat(inside: Item | None) -> Iterator[Value]:
    """The values of a container in order, each with the path to it."""
    waiting: list[tuple[Item, tuple[str, ...]]] = [(inside, ())] if inside else []
    while waiting:
        here, path = waiting.pop()
        if isinstance(here, Value):
            yield here._replace(path=path)
        else:
            items = reversed(here.items)
            waiting.extend((one, (*path, f"{here.name}[{key}]")) for key, one in items)

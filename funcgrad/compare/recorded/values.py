"""What a printed value is: plain data, as the grammar finds it and as `judge` compares it."""

from typing import NamedTuple

Number = bool | int | float | complex


class Value(NamedTuple):
    """One printed value: a number, an array, or something to be compared as it stands.

    Attributes:
        kind: `float`, `int`, `bool` or `complex`; `none`, `string`, `dtype`; `size` for
            `torch.Size`; `struct` for a shape and dtype without numbers.
        numbers: the numbers shown, in row-major order.
        shape: the shape, `()` for a scalar; `None` stands for an axis of unknown length.
        dtype: the dtype where it is shown, without its library: `float32`.
        units: for each number the worth of its last printed place. 0 says that it was printed in
            full, so is exactly that number: integers, `28.`, a Python float in a list. For a
            complex number the real and imaginary part hold the unit of theirs.
        form: who printed it: `tensor` (PyTorch), `array` (NumPy, JAX), `text` (an array without
            commas), `list` (Python brackets), `scalar`.
        places: for an elided array the index of each number, counted from the back (negative)
            where it stands after the `...`; otherwise `None`.
        suffixes: what else was printed in the brackets, `("grad_fn", "<MulBackward0>")`.
        path: the containers around it, outermost first: `("tuple[1]", "dict['weight']")`.
        start: where it begins in the text.
        end: where it ends.
        text: as it was printed.
        label: what it goes by in a report, where that is known: the expression, or the words
            before it.
    """

    kind: str
    numbers: tuple[Number, ...] = ()
    shape: tuple[int | None, ...] = ()
    dtype: str | None = None
    units: tuple[float | complex, ...] = ()
    form: str = "scalar"
    places: tuple[tuple[int, ...], ...] | None = None
    suffixes: tuple[tuple[str, str], ...] = ()
    path: tuple[str, ...] = ()
    start: int = 0
    end: int = 0
    text: str = ""
    label: str = ""

    @property
    def elided(self) -> bool:
        """Whether only some of its numbers were printed."""
        return self.places is not None

    @property
    def exact(self) -> bool:
        """Whether every number was printed in full."""
        return not any(self.units)


class Parsed(NamedTuple):
    """The values in one output text, in order, and the words around them.

    Attributes:
        values: the values.
        words: the text before, between and after them: one more than there are values. Inside a
            container these are its brackets and commas.
        pure: whether the text is nothing but printed values.
    """

    values: tuple[Value, ...]
    words: tuple[str, ...]
    pure: bool


class Group(NamedTuple):
    """A container as the grammar found it: its name and its items, each under its key.

    Attributes:
        name: `tuple`, `list`, `dict`, `OrderedDict`, or the name that was printed.
        items: the key (`0`, `'weight'`) and what stands there.
        depth: how many containers it holds inside each other, itself included.
        printed: whether this is a form that a library prints, rather than any call in a text.
    """

    name: str
    items: tuple[tuple[str, "Node"], ...]
    depth: int
    printed: bool


class Grid(NamedTuple):
    """Numbers in square brackets, before it is known what they stand in.

    Attributes:
        kind: as in `Value`.
        numbers: the numbers, row-major.
        decimals: for each the digits after its point; of both parts where it is complex.
        exponents: for each its power of ten; of both parts where it is complex.
        shape: as in `Value`.
        places: as in `Value`.
        commas: whether commas stand between the numbers.
    """

    kind: str
    numbers: list[Number]
    decimals: list
    exponents: list
    shape: tuple[int | None, ...]
    places: list[tuple[int, ...]] | None
    commas: bool


Node = Value | Group

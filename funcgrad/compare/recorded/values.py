"""Printed values as plain data: what the grammar reads, and what `judge` compares."""

from typing import NamedTuple

Number = bool | int | float | complex
JUDGED = 9  # fields of a `Value`, from the first on, that tell what it is and not where it stands
SIZE = "size of the whole"  # the suffix of the parts of a sparse tensor
UNIT = "unit"  # the suffix of a number that was printed with its unit in one word, `2.5x`


class Value(NamedTuple):
    """One printed value: a number, an array, or something that is compared as it stands.

    Attributes:
        kind: `float`, `int`, `bool` or `complex`; `none`, `string`, `dtype`; `size` for
            `torch.Size`; `struct` for a shape and dtype without numbers.
        numbers: the numbers shown, in row-major order.
        shape: the shape, `()` for a scalar; `None` stands for an axis of unknown length.
        dtype: the dtype where it is shown, without its library: `float32`.
        units: for each number the worth of its last printed place. 0 says that it was printed in
            full, so that it is exactly that number: integers, `28.`, a Python float in a list. For
            a complex number the real and imaginary part hold the units of its parts.
        form: who printed it: `tensor` (PyTorch), `array` (NumPy, JAX), `text` (an array without
            commas), `list` (Python brackets), `scalar`.
        places: for an elided array the index of each number, counted from the back (negative)
            where it stands after the `...`; otherwise `None`.
        suffixes: what else was printed in the brackets, `("grad_fn", "<MulBackward0>")`; the unit
            of a number, `("unit", "dB")`.
        path: the containers around it, outermost first: `("tuple[1]", "dict['weight']")`.
        start: where it begins in the text.
        end: where it ends.
        text: the text itself.
        label: the name that a report gives it, where one is known: the expression, or the words
            before it.
        root: where in the text the outermost container around it begins; -1 where it is in none.
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
    root: int = -1

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
        pure: whether the text holds printed values and nothing else.
    """

    values: tuple[Value, ...]
    words: tuple[str, ...]
    pure: bool


class Container(NamedTuple):
    """A container: its name, and its items, each with its key.

    Attributes:
        name: `tuple`, `list`, `dict`, `OrderedDict`, or the name that was printed.
        items: pairs of key (`0`, `'weight'`) and item.
        depth: how many containers are nested in it, itself included.
        printed: whether a library prints this form; any other `name(...)` may be code or prose.
    """

    name: str
    items: tuple[tuple[str, "Item"], ...]
    depth: int
    printed: bool


Item = Value | Container


def container_and_key(step: str) -> tuple[str, str]:
    """A step of `Value.path` taken apart.

    >>> container_and_key("dict['weight']")
    ('dict', "'weight'")
    """
    container, _, key = step.removesuffix("]").partition("[")
    return container, key


def suffix_of(value: Value, wanted: str) -> str:
    """A suffix of a value, such as the `UNIT` of a number; empty where it has none."""
    return next((text for name, text in value.suffixes if name == wanted), "")


def keys_in_dict(value: Value) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The containers around the outermost dict that a value is in, and its keys from there on.

    A named tuple is as good as a dict. Both are empty where it is in neither. Keys are one if they
    are equal in Python, whatever the quotes, or a name and the text of it. What holds a single
    thing, such as `Parameter containing:`, has no key.

    >>> keys_in_dict(Value("none", path=("tuple[1]", "dict['w']", "list[0]")))
    (('tuple[1]',), ('w', '0'))
    """
    for place, step in enumerate(value.path):
        name, key = container_and_key(step)
        if key.isidentifier() or _is_in_dict(name, key):
            steps = map(container_and_key, value.path[place:])
            keys = tuple(_bare(_plain(key)) for name, key in steps if name != "Parameter")
            return value.path[:place], keys
    return (), ()


def dict_keys(value: Value) -> tuple[str, ...]:
    """The keys of a value in dicts only, without its places in lists.

    >>> dict_keys(Value("none", path=("tuple[1]", "dict['w']", "list[0]")))
    ("'w'",)
    """
    steps = map(container_and_key, value.path)
    return tuple(_plain(key) for name, key in steps if _is_in_dict(name, key))


def _is_in_dict(container: str, key: str) -> bool:
    """Whether a step of a path goes into a dict; `FrozenDict({...})` is a call, its item no key."""
    return container == "dict" or ("dict" in container.lower() and not key.isdecimal())


def _bare(key: str) -> str:
    """A key that could be a name, without its quotes."""
    return key[1:-1] if key[:1] == "'" and key[1:-1].isidentifier() else key


def _plain(key: str) -> str:
    """A key with the quotes that Python writes first."""
    quoted = len(key) > 1 and key[0] == key[-1] == '"' and "'" not in key
    return f"'{key[1:-1]}'" if quoted else key

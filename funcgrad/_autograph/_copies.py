"""Copies that a traced choice between two objects makes, which must not go ways of their own.

`best = a if test else b` is in Python one of two lists. Traced it can only be a third, with the
items of one or the other. Who only reads it sees no difference. If later one of the three is
changed in place, the others would have to change with it: that is refused. Where nothing else
refers to the two, no one can tell, and the copy is as free as the original.
"""

import collections
import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from .._reached import names_of
from .._tags import caller
from ..errors import UsageError
from ._contents import alike
from ._snapshot import Snapshot
from ._stage import Held, Value


class Copy(NamedTuple):
    """Objects that stand for each other, and what they held when they came to.

    Fields:
        name: what errors call the copy.
        place: where it was made.
        made: the copy.
        contents: each object with its contents.
    """

    name: str
    place: str
    made: Any
    contents: list[tuple[Any, Any]]

    def check(self) -> None:
        """Refuses that one of them was changed."""
        if all(_unchanged(before, _contents(value)) for value, before in self.contents):
            return
        raise UsageError(
            f"`autograph` got a change in place of what `{self.name}` holds after the traced branch"
            f" or loop at {self.place}: one of several objects, which have other names too. It is"
            " a copy of the one that is chosen, so that they would not change together; copy it"
            " with copy.copy before you change it, or assign a new value"
        )


# Of the programs being traced, the innermost last.
_COPIES: ContextVar[tuple[list[Copy], ...]] = ContextVar("funcgrad_copies", default=())


@contextlib.contextmanager
def checked() -> Iterator[None]:
    """Around a program, or a piece of one: the copies made in it are checked at its end."""
    made: list[Copy] = []
    token = _COPIES.set((*_COPIES.get(), made))
    try:
        yield
        for copy in made:
            copy.check()
    finally:
        _COPIES.reset(token)


def opened(before: Sequence[Value], after: Sequence[Value]) -> list[Any]:
    """The objects that values held, and hold no more since they were taken apart."""
    kept = [x for value in after for x in value.leaves if isinstance(x, Held)]
    found = [x for value in before for x in value.leaves if isinstance(x, Held)]
    return [x.object for x in found if x.contents and x not in kept]


def note(
    name: str, place: str, made: Any, objects: Sequence[Any], own: Callable[..., bool]
) -> None:
    """Notes that `made` was chosen from objects, if these can be seen by another name."""
    if objects and _seen_elsewhere(objects, name, own):
        parts = [part for value in (made, *objects) for part in _parts(value)]
        copy = Copy(name, place, made, [(x, _contents(x)) for x in parts])
        _COPIES.get()[-1].append(copy)


def identical(a: Any, b: Any) -> bool:
    """`a is b`.

    Raises:
        UsageError: one of them is a copy, which may or may not stand for the other.
    """
    if a is not b:
        for copy in itertools.chain.from_iterable(_COPIES.get()):
            if copy.made is a or copy.made is b:
                raise UsageError(
                    f"`autograph` got an `is` at {caller()} of what `{copy.name}` holds after the"
                    f" traced branch or loop at {copy.place}: which object that is is not known"
                    " while compiling"
                )
    return a is b


def _seen_elsewhere(objects: Sequence[Any], name: str, own: Callable[..., bool]) -> bool:
    """Whether variables of the program, but for one, lead to one of the objects."""
    frame: Any = sys._getframe()
    while frame:
        code = frame.f_code
        if code.co_name == "wrapper" and frame.f_globals.get("__name__") == __package__:
            return False
        if frame.f_globals.get("__name__", "").partition(".")[0] != "funcgrad":
            variables = {x: frame.f_globals[x] for x in names_of(code) if x in frame.f_globals}
            variables |= frame.f_locals
            variables.pop(name, None)
            if any(map(Snapshot([tuple(variables.values())], own, past=[name]).reaches, objects)):
                return True
        frame = frame.f_back
    return False


def _parts(value: Any) -> list[Any]:
    """The containers in a pytree that can change in place."""
    if isinstance(value, np.ndarray):
        return [value]
    inner = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list | tuple):
        own = [] if isinstance(value, tuple) else [value]
        return own + [part for x in inner for part in _parts(x)]
    return [value] if hasattr(value, "__dict__") and not hasattr(value, "dtype") else []


def _contents(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, list):
        return list(value)
    return collections.OrderedDict(value if isinstance(value, dict) else vars(value))


def _unchanged(before: Any, now: Any) -> bool:
    if isinstance(before, np.ndarray):
        return before.tobytes() == now.tobytes()
    return alike(before, now)

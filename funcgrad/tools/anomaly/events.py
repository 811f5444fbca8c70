"""What an evaluation finds: a bad value, the operation that made it, and the equations around."""

from typing import Any, NamedTuple

from ... import _jax
from .values import Value


class Level(NamedTuple):
    """An equation, and which run of which of its bodies it is.

    Fields:
        equation: the equation.
        step: which iteration, where it is a loop.
        device: the mesh coordinates of the device, where it is a `shard_map`.
        body: the body that runs inside it, where there is one.
    """

    equation: _jax.Equation
    step: int | None = None
    device: tuple[tuple[str, int], ...] = ()
    body: _jax.Body | None = None


Path = tuple[Level, ...]
"""Equations, each but the last holding the next."""


class Event(NamedTuple):
    """The making of a bad value.

    Fields:
        kind: `"nan"` or `"inf"`.
        path: the equations around it, the outermost first, and the one that made it.
        operands: what went into that one.
        results: what came out.
        constant: whether NaN came in as a constant.
    """

    kind: str
    path: Path
    operands: list[Value]
    results: list[Any]
    constant: bool = False

    @property
    def equation(self) -> _jax.Equation:
        """The equation that made it."""
        return self.path[-1].equation

    @property
    def place(self) -> _jax.Place | None:
        """The user's line that it comes from."""
        return place(self.path)

    @property
    def turns(self) -> int:
        """How many backward passes it is in: 2 for the gradient of a gradient."""
        return sum(level.equation.transforms.count("transpose") for level in self.path)

    @property
    def infinite(self) -> "Event | None":
        """The making of the first infinity that went in, where it is known."""
        return next((o.infinite for o in self.operands if o.infinite is not None), None)


class Found(Exception):
    """Raised where the search ends."""

    def __init__(self, event: Event):
        super().__init__(event.kind)
        self.event = event


def place(path: Path) -> _jax.Place | None:
    """The user's line that the last equation of a path comes from."""
    return _jax.place([level.equation for level in path])

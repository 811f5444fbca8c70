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
        """How many backward passes it is in at least: 2 for the gradient of a gradient.

        JAX names those around a loop once more in the body of some, and those around what a
        checkpoint recomputes as often as it likes. So the names of one equation alone count, and
        beside what is recomputed one of these.
        """
        equations = [level.equation for level in self.path]
        most = max(equation.transforms.count("transpose") for equation in equations)
        return min(most, 1) if any(e.beside_recomputed for e in equations) else most

    @property
    def infinite(self) -> "Event | None":
        """The making of the first infinity that went in, where it is known."""
        return next((o.infinite for o in self.operands if o.infinite is not None), None)

    @property
    def fault(self) -> "Event":
        """The event to tell the place of: that with which infinities got into the gradient, if any.

        Where a gradient that is infinite is multiplied by 0, the fault is not there.
        """
        entered = (o.entered for o in self.operands if o.entered is not None)
        found = next(entered, self) if self.kind == "nan" else self
        return found if found.place else self


class Found(Exception):
    """Raised where the search ends.

    Attributes:
        event: what was found.
        around: the programs around it and their inputs, the innermost first.
    """

    def __init__(self, event: Event):
        super().__init__(event.kind)
        self.event = event
        self.around: list[tuple[_jax.Jaxpr, list[Any]]] = []


class Out(Exception):
    """Raised where a bad value gets out of the room that it was made in."""

    def __init__(self, cause: Any):
        super().__init__(cause)
        self.cause = cause


def place(path: Path) -> _jax.Place | None:
    """The user's line that the last equation of a path comes from."""
    return _jax.place([level.equation for level in path])

"""Follows values from an event: what went into operations nearby, and what a `where` made of them.

The program around an event, as far as no loop, branch or mesh is between, is evaluated once more
from the values that it was given; to ask what would have been, with other results for some of its
equations.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ... import _jax
from .events import Event

Equations = tuple[_jax.Equation, ...]
Visit = Callable[[Equations, list[Any], list[Any]], list[Any]]
"""`(path, operands, results) -> results` that are gone on with."""


class Enough(Exception):
    """Raised by a visit that has seen what it is for."""


class Operation(NamedTuple):
    """An operation of the forward pass, and what went into it: `None` where that is not known."""

    path: Equations
    operands: list[Any] | None

    @property
    def name(self) -> str:
        """The primitive."""
        return self.path[-1].name


class Stretch:
    """The program around an event that is evaluated straight on.

    Attributes:
        event: the event.
        path: the equations in the program that hold the last one, and it.
        known: whether the values are known.
    """

    def __init__(self, event: Event, around: Sequence[tuple[_jax.Jaxpr, list[Any]]]):
        levels = [*event.path]
        depth = 1
        while depth < len(levels) and _straight(levels[-depth - 1]):
            depth += 1
        self.event, self.path = event, tuple(level.equation for level in levels[-depth:])
        self.outer = tuple(level.equation for level in levels[:-depth])
        given = around[depth - 1] if depth <= len(around) else None
        self.known = given is not None and given[0] is self.path[0].program
        self._given = given

    def operations(self, program: _jax.Jaxpr, place: _jax.Place | None) -> list[Operation]:
        """The operations of the forward pass from one expression of the source.

        Args:
            program: the whole program.
            place: the expression.
        """
        found: list[Operation] = []
        values = self._values(place) if place else {}
        for path in _jax.everywhere(program) if place else ():
            if not _backward(path) and not path[-1].bodies and _same(place, _jax.place(path)):
                found.append(Operation(path, values.get(path)))
        return found

    def _values(self, place: _jax.Place) -> dict[Equations, list[Any]]:
        seen: dict[Equations, list[Any]] = {}

        def visit(path: Equations, operands: list[Any], results: list[Any]) -> list[Any]:
            if not path[-1].bodies and _same(place, _jax.place((*self.outer, *path))):
                seen[(*self.outer, *path)] = operands
            return results

        self._replay(visit)
        return seen

    def dropped_later(self, index: tuple[int, ...]) -> bool:
        """Whether a `where` of the user's drops the bad entry at this index of the result."""

        def visit(path: Equations, operands: list[Any], results: list[Any]) -> list[Any]:
            if path == self.path:
                return [_alone(x, index) for x in results]
            if not _backward(path) and _jax.of_where((*self.outer, *path)):
                before = any(_bad(x) for x in operands[1:])
                if before and not any(map(_bad, results)):
                    raise Enough
            return results

        return self._replay(visit)

    def dropped_gradient(self, index: tuple[int, ...], numbers: Sequence[Any]) -> bool:
        """Whether a 0 among the operands at this index is what a `where` has put for a gradient.

        It is if it were another number, had the `where` put 1 in the place of each gradient that it
        drops.

        Args:
            index: where in the operands of the event.
            numbers: what they are there.
        """

        def visit(path: Equations, operands: list[Any], results: list[Any]) -> list[Any]:
            if path == self.path:
                pairs = zip(operands, numbers, strict=True)
                if any(n == 0 and at(x, index) not in (0, None) for x, n in pairs):
                    raise Enough
            whole = *self.outer, *path
            if _backward(whole) and not path[-1].recomputes and _jax.of_where(whole):
                return [_handed_on(path[-1], operands)]
            return results

        return self._replay(visit)

    def _replay(self, visit: Visit) -> bool:
        """Whether a visit has had enough."""
        if not self.known or self._given is None:
            return False
        program, arrays = self._given
        try:
            _replayed(program, arrays, (), visit)
        except Enough:
            return True
        return False


def _same(one: _jax.Place | None, other: _jax.Place | None) -> bool:
    """Whether two places are one expression, of the user's and of the package that it leads to."""
    through = one and one.through, other and other.through
    keys = [frame and frame.key for frame in through]
    return one is not None and one.same(other) and keys[0] == keys[1]


def _backward(path: Equations) -> bool:
    return any("transpose" in equation.transforms for equation in path)


def _straight(level: Any) -> bool:
    return level.body is not None and level.body.role in (_jax.CALL, _jax.CUSTOM)


def _replayed(
    program: _jax.Jaxpr, arrays: Sequence[Any], around: Equations, visit: Visit
) -> list[Any]:
    def apply(equation: _jax.Equation, operands: list[Any]) -> list[Any]:
        path, body = (*around, equation), equation.called
        if body is None:
            return visit(path, operands, equation.evaluate(operands))
        return body.put(_replayed(body.program, body.take(operands), path, visit))

    return _jax.interpret(program, arrays, apply, lambda x: x)


def _handed_on(select: _jax.Equation, operands: list[Any]) -> Any:
    """What a `where` of gradients gives with 1 in the place of those that it drops."""
    which, *cases = operands
    made = {v: e for e in _jax.equations(select.program) for v in e.makes}
    zeros = [
        v in made and all(map(_jax.is_literal, made[v].reads)) if not _jax.is_literal(v) else True
        for v in select.reads[1:]
    ]
    if not any(zeros):
        zeros = [not np.any(np.asarray(x)) for x in cases]
    like = select.result_types[0]
    ones = [
        jnp.ones(like.shape, like.dtype) if zero else jnp.asarray(x, like.dtype)
        for x, zero in zip(cases, zeros, strict=True)
    ]
    return jax.lax.select_n(which, *ones)


def at(x: Any, index: tuple[int, ...]) -> Any:
    """The number in an operand that goes into the result at an index, elementwise."""
    array = np.asarray(x)
    if array.ndim not in (0, len(index)):
        return None
    return array[tuple(min(i, n - 1) for i, n in zip(index, array.shape, strict=False))]


def _bad(x: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact)) and not np.isfinite(x).all()


def _alone(x: Any, index: tuple[int, ...]) -> Any:
    """An array of ones but at an index."""
    if not _bad(x):
        return x
    return jnp.ones_like(x).at[index].set(x[index])

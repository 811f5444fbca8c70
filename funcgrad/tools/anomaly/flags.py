"""One flag for a program: whether any value in it was NaN, or infinite where that is asked.

NaN is looked for only where it could get lost. What goes into a sum, a product or a matrix product
need not be looked at, since NaN in it is NaN in what comes out; what goes into a comparison, a
`where`, a conversion to integers or out of the program is. So a flag costs a few reductions, and a
program that is all arithmetic pays for one look at its results. Infinities do get lost (1 / inf is
0) and are looked for behind every operation.

What a function of JAX itself does inside is not looked at, its results are. Nor is a loop, branch
or mesh that `_jax.reenter` cannot make anew.

The flag may be up without need (a NaN constant that goes into a loop), and is never down where the
evaluation equation by equation would find something, rounding aside.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from ... import _jax
from .events import Level, Path
from .rooms import gets_lost, of_library

Flagged = tuple[list[Any], list[Any]]
"""Results, and the flags of what made them."""


def run(
    program: _jax.Jaxpr, args: Sequence[Any], *, check_inf: bool, path: Path = ()
) -> tuple[list[Any], Any]:
    """The results of a program, and whether a value in it is bad: a bool scalar.

    Args:
        program: the program.
        args: its inputs.
        check_inf: whether infinite values are bad too.
        path: the equations around it.
    """
    results, flag = Flagging(check_inf).body(program, args, path)
    passed = set() if check_inf else _watched(program, True, path)[1]
    lost = [x for x, v in zip(args, _jax.inputs(program), strict=True) if v not in passed]
    return results, flag | outputs(lost, check_inf=check_inf)


def outputs(arrays: Sequence[Any], *, check_inf: bool) -> Any:
    """Whether any of these arrays holds a bad value: a bool scalar."""
    return _any([_look(x, check_inf) for x in arrays if _floating(x)])


def _any(flags: Sequence[Any]) -> Any:
    return jnp.any(jnp.stack(flags)) if flags else jnp.zeros((), bool)


def _look(x: Any, inf: bool) -> Any:
    return jnp.any(~jnp.isfinite(x)) if inf else jnp.any(jnp.isnan(x))


def _floating(x: Any) -> bool:
    return not _jax.is_reference(x) and bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


class Seen(NamedTuple):
    """An equation in an evaluation: what went in, what came out, and whether that is bad."""

    operands: list[Any]
    results: list[Any]
    flag: Any


class Flagging:
    """Evaluates programs and collects flags.

    Attributes:
        check_inf: whether infinite values are bad too.
        axes: the mesh axes along which flags are typed as varying, inside `shard_map`.
    """

    def __init__(self, check_inf: bool, axes: frozenset[str] = frozenset()):
        self.check_inf, self.axes = check_inf, axes

    def flag(self, flags: Sequence[Any] = ()) -> Any:
        """Whether any of these flags is up, always of one type."""
        return _jax.varied(_any(flags), self.axes)

    def on(self, body: _jax.Body) -> "Flagging":
        """One that does the same in a body, which may be that of a `shard_map`."""
        return Flagging(self.check_inf, self.axes | (body.axes.keys() if body.typed else set()))

    def program(
        self,
        program: _jax.Jaxpr,
        args: Sequence[Any],
        constant: Sequence[bool] = (),
        own: bool = False,
        path: Path = (),
    ) -> Flagged:
        """The results of a program and the flags in it.

        Args:
            program: the program.
            args: its inputs.
            constant: which of them are constants of the program around, all the first ones.
            own: whether whoever uses the results may lose a NaN in them unseen.
            path: the equations around it.
        """
        constants = _constants(program, constant)
        watched = _watched(program, own, path)[0] - constants
        flags: list[Any] = []
        infinite: dict[Any, Any] = {}

        def apply(equation: _jax.Equation, operands: list[Any]) -> list[Any]:
            results, inner = self.equation(equation, operands, constants, path)
            flags.extend(inner)
            made = zip(equation.makes, results, strict=True)
            flags.extend(_look(x, False) for v, x in made if v in watched)
            if self.check_inf and not inner:
                flags.extend(_new_infinities(equation, operands, results, infinite))
            return results

        return _jax.interpret(program, args, apply, lambda x: x), flags

    def each(self, program: _jax.Jaxpr, args: Sequence[Any]) -> list[Seen]:
        """What is seen of each equation of a program."""
        constants, seen = _constants(program, ()), []

        def apply(equation: _jax.Equation, operands: list[Any]) -> list[Any]:
            results, inner = self.equation(equation, operands, constants, ())
            made = zip(equation.makes, results, strict=True)
            own = [_look(x, self.check_inf) for v, x in made if _inexact(v) and v not in constants]
            seen.append(Seen(operands, results, self.flag([*inner, *own])))
            return results

        _jax.interpret(program, args, apply, lambda x: x)
        return seen

    def body(self, program: _jax.Jaxpr, args: Sequence[Any], path: Path) -> tuple[list[Any], Any]:
        """The results of a body whose results may get lost, and its one flag."""
        results, flags = self.program(program, args, own=True, path=path)
        return results, self.flag(flags)

    def equation(
        self, equation: _jax.Equation, operands: list[Any], constants: set[Any], path: Path
    ) -> Flagged:
        """The results of an equation and the flags inside it."""
        if _jax.has(equation.kind, _jax.Trait.TYPED) and not self.axes:
            return operands, []  # a body of one device, looked into by itself
        if of_library((*path, Level(equation))):
            return equation.evaluate(operands), []
        if equation.called:
            return self._called(equation, equation.called, operands, constants, path)
        if _jax.reenters(equation) and not any(map(_jax.is_reference, operands)):
            return self._reentered(equation, operands, path)
        return equation.evaluate(operands), []

    def _called(
        self,
        equation: _jax.Equation,
        body: _jax.Body,
        operands: list[Any],
        constants: set[Any],
        path: Path,
    ) -> Flagged:
        """An equation that calls one body once: its equations are evaluated in its place."""
        into, out_of = _jax.placements(equation)
        placed = [*map(_placed, operands, into)]
        if equation.isolated:
            placed = list(lax.optimization_barrier(tuple(placed)))
        known = [_jax.is_literal(v) or v in constants for v in equation.reads]
        around = (*path, Level(equation, body=body))
        given = body.take(placed), body.take(known)
        results, flags = self.program(body.program, *given, path=around)
        return [*map(_placed, body.put(results), out_of)], flags

    def _reentered(self, equation: _jax.Equation, operands: list[Any], path: Path) -> Flagged:
        """An equation made anew around bodies with a flag each."""

        def run(body: _jax.Body, inputs: Sequence[Any], _: Any) -> tuple[list[Any], Any]:
            around = (*path, Level(equation, body=body))
            results, flag = self.on(body).body(body.program, inputs, around)
            return _strong(body, results), flag

        arrays = [*map(_array, operands, equation.operand_types)]
        total = _jax.Total(self.flag(), jnp.logical_or)
        results, flags = _jax.reenter(equation, arrays, run, total=total)
        return results, [jnp.any(flags)]


def _array(x: Any, type_: Any) -> Any:
    """An operand as an array of its exact type; a number in a program has none of its own."""
    return lax.full((), x, type_.dtype) if isinstance(x, int | float | complex) else x


def _strong(body: _jax.Body, outputs: Sequence[Any]) -> list[Any]:
    """The outputs of a body, what is carried without a weak type of its own."""
    carried = [flow == _jax.CARRY for _, flow in body.outputs] or [False] * len(outputs)
    return [
        lax.convert_element_type(x, x.dtype) if c and getattr(x, "weak_type", False) else x
        for x, c in zip(outputs, carried, strict=True)
    ]


def _placed(x: Any, sharding: Any) -> Any:
    return x if sharding is None else lax.with_sharding_constraint(x, sharding)


def _new_infinities(
    equation: _jax.Equation, operands: list[Any], results: list[Any], known: dict[Any, Any]
) -> list[Any]:
    """Whether an equation makes infinities; one that is handed some may hand them on."""

    def has(v: Any, x: Any) -> Any:
        if _jax.is_literal(v):
            return jnp.asarray(not math.isfinite(x))
        if v not in known:
            known[v] = jnp.any(jnp.isinf(x))
        return known[v]

    handed = [has(v, x) for v, x in zip(equation.reads, operands, strict=True) if _inexact(v)]
    made = [has(v, x) for v, x in zip(equation.makes, results, strict=True) if _inexact(v)]
    return [_any(made) & ~_any(handed)] if made else []


def _inexact(v: Any) -> bool:
    type_ = _jax.type_of(v)
    return _jax.is_array_type(type_) and bool(jnp.issubdtype(type_.dtype, jnp.inexact))


def _able(v: Any) -> bool:
    """Whether there can be NaN in a variable."""
    return _inexact(v) and _jax.type_of(v).size > 0


def _watched(program: _jax.Jaxpr, own: bool, path: Path) -> tuple[set[Any], set[Any]]:
    """The variables in which NaN has to be looked for, and those that it goes on from.

    NaN goes on from a variable, through an operation, to another in which it is looked for or from
    which it goes on in turn. Nor is it looked for in what gets lost in the room it is made in.
    """
    outputs = set(_jax.variables(_jax.outputs(program)))
    watched: set[Any] = set()
    passed = set() if own else set(outputs)
    for equation in reversed(_jax.equations(program)):
        for v in equation.makes:
            if not _able(v) or v in passed or gets_lost(v, equation, path, v in outputs):
                continue
            watched.add(v)
        if all(v in watched or v in passed for v in equation.makes):
            passed.update(_passing(equation, path))
    return watched, passed


def _passing(equation: _jax.Equation, path: Path) -> list[Any]:
    """The operands of an equation that a NaN goes on from."""
    body = equation.called
    if body is not None:
        if of_library((*path, Level(equation))):
            inner = _reaching(body.program, path)
        else:
            inner = _watched(body.program, False, (*path, Level(equation, body=body)))[1]
        pairs = zip(body.take(equation.reads), _jax.inputs(body.program), strict=True)
        return _jax.variables([v for v, i in pairs if i in inner])
    if _jax.has(equation.kind, _jax.Trait.NAN) and all(map(_able, equation.makes)):
        return _jax.variables(equation.reads)
    return []


def _reaching(program: _jax.Jaxpr, path: Path) -> set[Any]:
    """The variables that a NaN goes on from, through operations alone, to a result of a program."""
    reaching = {v for v in _jax.variables(_jax.outputs(program)) if _able(v)}
    for equation in reversed(_jax.equations(program)):
        if equation.makes and all(v in reaching for v in equation.makes):
            reaching.update(_passing(equation, path))
    return reaching


def _constants(program: _jax.Jaxpr, inputs: Sequence[bool]) -> set[Any]:
    """The variables that are constants put in another place, given which inputs are."""
    constants = {v for v, known in zip(_jax.inputs(program), inputs, strict=False) if known}
    for equation in _jax.equations(program):
        known = all(_jax.is_literal(v) or v in constants for v in equation.reads)
        if known and equation.reads and _moves(equation):
            constants.update(equation.makes)
    return constants


def _moves(equation: _jax.Equation) -> bool:
    """Whether an equation only puts values in another place."""
    body = equation.called
    if body is not None:
        return all(map(_moves, _jax.equations(body.program)))
    return _jax.has(equation.kind, _jax.Trait.MOVES)

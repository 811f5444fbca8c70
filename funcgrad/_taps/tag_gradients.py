"""The evaluation of a program with taps at its tags."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp

from .. import _jax
from .._tags import TAG, inject
from ..errors import TagError
from .find import Values, find, scoped

Outcome = tuple[list[Any], Values]


def run(program: _jax.Jaxpr, args: Sequence[Any], taps: Values, *, share: bool = False) -> Outcome:
    """Evaluates a program with a tap at each tag that `taps` names.

    Args:
        program: the program; its constants may be tracers.
        args: its inputs.
        taps: for each asked name a zero for each leaf of the site, `None` for leaves without
            gradient. Differentiating with respect to a tap gives the gradient at the tag.
        share: whether to have JAX find the derivative of an operation that repeats but once; of use
            where what is evaluated is differentiated and staged at the same time.

    Returns:
        The program's results, and the leaves of each asked value.
    """
    if not taps:
        return list(_jax.as_function(program)(*args)), {}
    env = {**_jax.constants(program), **dict(zip(_jax.inputs(program), args, strict=True))}
    equations = _jax.equations(program)
    names = [_asked(equation, taps) for equation in equations]
    values: Values = {}

    def read(atom: Any) -> Any:
        return _jax.value_of(atom) if _jax.is_literal(atom) else env[atom]

    for piece in _jax.cut(program, [*map(bool, names)], share):
        operands = [read(v) for v in piece.reads]
        if piece.run is not None:
            results = piece.run(*operands)
        elif piece.equation is not None:
            inner = names[piece.equation]
            given = {name: taps[full] for name, full in inner.items()}
            results, found = _tagged(equations[piece.equation], operands, given, share)
            values.update({inner[name]: leaves for name, leaves in found.items()})
        env.update(zip(piece.makes, results, strict=True))
    outputs = _jax.outputs(program)
    return [jnp.asarray(read(v)) if _jax.is_literal(v) else env[v] for v in outputs], values


def _asked(equation: _jax.Equation, taps: Values) -> dict[str, str]:
    """The asked tags of an equation: the name inside it to the full name."""
    inner: Iterable[str]
    if equation.kind == TAG:
        inner = (equation.own["name"],)
    else:
        inner = (name for program in equation.programs for name in find(program))
    return {name: full for name in inner if (full := scoped(equation, name)) in taps}


_inject_inlined = jax.jit(inject, inline=True)


def _tagged(equation: _jax.Equation, operands: list[Any], taps: Values, share: bool) -> Outcome:
    """One equation that holds asked tags, or is one; `taps` by the names of its inside."""
    if equation.kind == TAG:
        ((name, sinks),) = taps.items()
        add = _inject_inlined if share else inject
        leaves = [
            x if sink is None else add(x, _jax.placed_like(sink, jax.typeof(x)))
            for x, sink in zip(operands, sinks, strict=True)
        ]
        return leaves, {name: [jnp.asarray(x) for x in operands]}
    _check_rows(equation, taps)
    varying = _varying(equation, taps) if equation.kind == "shard_map" else None
    with ExitStack() as stack:
        # The body's equations keep their own scopes; the one around them is entered again.
        for scope in equation.scopes:
            stack.enter_context(jax.named_scope(scope))
        if len(equation.bodies) == 1 or equation.trips is not None:
            return _jax.reenter(equation, operands, _inside, taps, varying=varying)
        return _jax.reenter(equation, operands, _Branch(equation, taps), taps)


def _inside(body: _jax.Body, inputs: Sequence[Any], taps: Values) -> Outcome:
    asked = {} if body.role == _jax.TEST else taps
    return run(body.program, inputs, asked)


class _Branch:
    """Evaluates one branch of several; a value that only another one has is zeros."""

    def __init__(self, equation: _jax.Equation, taps: Values):
        found = [find(body.program) for body in equation.bodies]
        self._sites = {name: site for sites in found for name, site in sites.items()}

    def __call__(self, body: _jax.Body, inputs: Sequence[Any], taps: Values) -> Outcome:
        here = find(body.program)
        results, values = run(body.program, inputs, {n: taps[n] for n in here if n in taps})
        missing = taps.keys() - values.keys()
        zeros = {name: [x.placed_zeros() for x in self._sites[name].leaves] for name in missing}
        return results, {**values, **zeros}


def _varying(equation: _jax.Equation, taps: Values) -> Any:
    """The mesh axes along which taps in a `shard_map` differ, as the values they are of do."""
    (body,) = equation.bodies
    sites, every = find(body.program), frozenset(body.axes)
    return {
        name: [
            None if tap is None else leaf.varying if body.typed else every
            for tap, leaf in zip(leaves, sites[name].leaves, strict=True)
        ]
        for name, leaves in taps.items()
    }


def _check_rows(equation: _jax.Equation, taps: Values) -> None:
    """Refuses tags that a loop of funcgrad has no row for."""
    if equation.trips is None or equation.kind == "scan":
        return
    step = equation.bodies[0]
    tested = sorted(taps.keys() - find(step.program).keys())
    if tested:
        raise TagError(
            f"`retain_grad` got the name {tested[0]!r} in the condition of a loop, where no"
            " gradient flows; tag the value in the body"
        )
    if equation.trips.length is None:
        raise TagError(
            f"`retain_grad` got the name {min(taps)!r} in a `fori_loop` whose bounds are known at"
            " run time only, and a tag needs room for a row of each step; pass max_steps= to the"
            " loop"
        )

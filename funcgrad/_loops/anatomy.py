"""The anatomy of a loop: its programs, how often they run, and how to run it around others."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .. import _jax
from .._lists import split_at
from .forward_mode import Nonzero, run_with_tangents
from .primitive import Loop, bounded_loop


def _bodies(equation: _jax.Equation) -> tuple[_jax.Body, ...]:
    loop: Loop = equation.own["loop"]
    rows = len(equation.reads) - 1 - loop.conds - loop.consts - loop.carry
    conds = _jax.links((loop.conds, _jax.WHOLE), start=1)
    consts = _jax.links((loop.consts, _jax.WHOLE), start=1 + loop.conds)
    carry = _jax.links((loop.carry, _jax.CARRY), start=1 + loop.conds + loop.consts)
    xs = _jax.links((rows, _jax.ROW), start=1 + loop.conds + loop.consts + loop.carry)
    ys = len(equation.makes) - 1 - loop.carry
    made = _jax.links((loop.carry, _jax.CARRY), (ys, _jax.ROW), start=1)
    step = _jax.Body(loop.body, _jax.STEP, (*consts, *carry, *xs), made)
    if loop.cond is None:
        return (step,)
    return step, _jax.Body(loop.cond, _jax.TEST, (*conds, *carry), ())


def _trips(equation: _jax.Equation) -> _jax.Trips:
    loop: Loop = equation.own["loop"]
    return _jax.Trips(loop.length, limit=0, reverse=loop.reverse)


def _reenter(
    equation: _jax.Equation,
    operands: Sequence[Any],
    run: _jax.Run,
    given: Any,
    total: _jax.Total | None,
) -> tuple[list[Any], Any]:
    """As for a `scan`, with a row for each step there may be; zeros past the last one taken."""
    loop: Loop = equation.own["loop"]
    body, *tests = equation.bodies
    ops = loop.operands(operands)
    extra, tree = jax.tree.flatten(given)
    shapes: list[Any] = []

    def step(fixed: list[Any], state: list[Any], row: list[Any]) -> Any:
        conds, consts = split_at(fixed, loop.conds)
        carry, added = split_at(state, loop.carry)
        xs, besides = split_at(row, len(ops.xs))
        added = _tested(conds, carry, added)[1] if total is not None else added
        results, made = run(body, [*consts, *carry, *xs], jax.tree.unflatten(tree, besides))
        carry, ys = split_at(results, loop.carry)
        if total is not None:
            return [*carry, *_sum(added, made)], ys
        leaves, shape = jax.tree.flatten(made)
        shapes.append(shape)
        return carry, [*leaves, *ys]

    def _tested(conds: list[Any], carry: list[Any], added: list[Any]) -> tuple[Any, list[Any]]:
        if not tests:
            return True, added
        (more,), made = run(tests[0], [*conds, *carry], None)
        return more, _sum(added, made)

    def _sum(added: list[Any], made: Any) -> list[Any]:
        return [total.add(added[0], made)] if total is not None else []

    def going(conds: list[Any], state: list[Any]) -> Any:
        return _tested(conds, *split_at(state, loop.carry))[0]

    start = [] if total is None else [total.start]
    steps, state, ys = bounded_loop(
        ops.limit,
        step,
        [*ops.conds, *ops.consts],
        [*ops.carry, *start],
        [*ops.xs, *extra],
        going if tests else None,
        ops.conds,
        **loop.static,
    )
    carry, added = split_at(state, loop.carry)
    if total is not None:
        return [steps, *carry, *ys], _tested(ops.conds, carry, added)[1][0]
    made, ys = split_at(ys, shapes[-1].num_leaves)
    rows = shapes[-1].unflatten([_taken(rows, steps) for rows in made])
    return [steps, *carry, *ys], rows


def _taken(rows: Any, steps: Any) -> Any:
    taken = jnp.arange(rows.shape[0], dtype=steps.dtype) < steps
    return jnp.where(taken.reshape(-1, *[1] * (rows.ndim - 1)), rows, jnp.zeros_like(rows))


@functools.lru_cache(maxsize=16)
def _both(loop: Loop, nonzero: Nonzero, types: tuple[Any, ...]) -> _jax.Jaxpr:
    """The loop over primals and tangents that `jvp_p` stands for, as a program."""
    run = functools.partial(run_with_tangents, loop=loop, nonzero=nonzero)
    return _jax.trace(run, types)


def _bodies_with_tangents(equation: _jax.Equation) -> tuple[_jax.Body, ...]:
    own = equation.own
    program = _both(own["loop"], own["nonzero"], tuple(equation.operand_types))
    return _jax.straight(equation, program, _jax.CALL)


_jax.anatomy("bounded_loop", _bodies, _reenter, lambda e: (e.own["loop"].length or 0,), _trips)
_jax.anatomy("bounded_loop_jvp", _bodies_with_tangents)

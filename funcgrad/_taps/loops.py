"""Rules for equations that run a body many times: `scan` (also `map`, `fori_loop`), and our own."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .. import _compat as compat
from .._loops import bounded_loop
from ..errors import TagError
from .walk import Leaf, Run, Values, find, rule


def _outside(eqn: compat.JaxprEqn, leaf: Leaf) -> Leaf:
    return leaf._replace(shape=(compat.scan(eqn).length, *leaf.shape))


@rule("scan", outside=_outside)
def _scan(
    eqn: compat.JaxprEqn, operands: Sequence[Any], taps: Values, run: Run
) -> tuple[list[Any], Values]:
    """A row of each tap goes into each iteration, and a row of each value comes out."""
    loop = compat.scan(eqn)
    consts, carried = operands[: loop.consts], loop.consts + loop.carry
    init, xs = list(operands[loop.consts : carried]), list(operands[carried:])

    def body(carry: list[Any], slices: tuple[list[Any], Values]) -> Any:
        row, taps = slices
        results, values = run(loop.body, [*consts, *carry, *row], taps)
        return results[: loop.carry], (results[loop.carry :], values)

    carry, (ys, values) = jax.lax.scan(body, init, (xs, taps), **loop.options)
    return [*carry, *ys], values


def _outside_bounded(eqn: compat.JaxprEqn, leaf: Leaf) -> Leaf:
    # No bound, no rows: asking for such a tag raises below.
    return leaf._replace(shape=(eqn.params["loop"].length or 0, *leaf.shape))


@rule("bounded_loop", outside=_outside_bounded)
def _bounded(
    eqn: compat.JaxprEqn, operands: Sequence[Any], taps: Values, run: Run
) -> tuple[list[Any], Values]:
    """As for a scan, with a row for each step there may be; zeros past the last one taken."""
    loop = eqn.params["loop"]
    ops = loop.operands(operands)
    tested = sorted(taps.keys() - find(loop.body).keys())
    if tested:
        raise TagError(
            f"`retain_grad` got the name {tested[0]!r} in the condition of a loop, where no"
            " gradient flows; tag the value in the body"
        )
    if loop.length is None:
        raise TagError(
            f"`retain_grad` got the name {min(taps)!r} in a `fori_loop` whose bounds are known at"
            " run time only, and a tag needs room for a row of each step; pass max_steps= to the"
            " loop"
        )
    sinks, tree = jax.tree.flatten(taps)

    def step(consts: list[Any], carry: list[Any], row: list[Any]) -> Any:
        xs, sinks = row[: len(ops.xs)], row[len(ops.xs) :]
        results, values = run(loop.body, [*consts, *carry, *xs], tree.unflatten(sinks))
        names = [values[name] for name in sorted(taps)]
        return results[: loop.carry], [*jax.tree.leaves(names), *results[loop.carry :]]

    def cond(conds: list[Any], carry: list[Any]) -> Any:
        return compat.jaxpr_as_fun(loop.cond)(*conds, *carry)[0]

    steps, carry, ys = bounded_loop(
        ops.limit,
        step,
        ops.consts,
        ops.carry,
        [*ops.xs, *sinks],
        cond if loop.cond is not None else None,
        ops.conds,
        **loop.static,
    )
    count = sum(map(len, taps.values()))
    rows = iter(jax.tree.map(lambda y: _taken(y, steps), ys[:count]))
    values = {name: [next(rows) for _ in taps[name]] for name in sorted(taps)}
    return [steps, *carry, *ys[count:]], values


def _taken(rows: Any, steps: Any) -> Any:
    taken = jnp.arange(rows.shape[0], dtype=steps.dtype) < steps
    return jnp.where(taken.reshape(-1, *[1] * (rows.ndim - 1)), rows, jnp.zeros_like(rows))

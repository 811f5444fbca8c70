"""Batches: a loop over batches, with a trip count for each example only where it differs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .. import _jax
from .._lists import split_at
from .forward_mode import Nonzero, joined, jvp_p, reached
from .primitive import Loop, Operands, loop_p, make, zeros


def _batch(axis: Any, flat: Sequence[Any], dims: Sequence[Any], *, loop: Loop) -> Any:
    """A loop over batches: with a trip count for each example only where it differs."""
    where = loop.operands(dims)
    on = [[d is not None for d in part] for part in where[1:]]
    named = _jax.axis_name(axis) is not None  # the body may ask which example it is
    if not named and where.limit is None and not any(map(any, on)):
        out = loop_p.bind(*flat, loop=loop)
        return out, [None] * len(out)
    found: list[Any] = []

    def run(*flat: Any) -> list[Any]:
        out, at = _batched(axis, flat, dims, named, loop)
        found.append(at)
        return list(out)

    return _jax.compiled_once(run, flat), found[-1]


def _batched(
    axis: Any, flat: Sequence[Any], dims: Sequence[Any], named: bool, loop: Loop
) -> tuple[Any, Any]:
    where = loop.operands(dims)
    on = [[d is not None for d in part] for part in where[1:]]
    moved = loop.operands(
        [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(flat, dims, strict=True)]
    )
    ops = moved._replace(
        xs=[x if d is None else jnp.moveaxis(x, d, 1) for x, d in zip(
            loop.operands(flat).xs, where.xs, strict=True)]
    )  # fmt: skip
    able = [True] * len(_jax.outputs(loop.body))
    carry, ys = (able[: loop.carry], able[loop.carry :]) if named else reached(
        loop, on[1], on[2], on[3], able)  # fmt: skip
    tested = loop.cond is not None and (named or any(
        d and g for d, g in zip(_jax.used_inputs(loop.cond), [*on[0], *carry], strict=True)
    ))  # fmt: skip
    mesh = _jax.mesh_of(flat)
    if where.limit is None and not tested:
        return _batch_in_step(axis, ops, on, carry, ys, loop, mesh)
    return _batch_apart(axis, ops, on, where.limit is not None, loop, mesh)


def _batch_in_step(
    axis: Any,
    ops: Operands,
    on: list[list[bool]],
    carry: list[bool],
    ys: list[bool],
    loop: Loop,
    mesh: Any,
) -> Any:
    """All examples take the same steps."""
    body = _jax.as_function(loop.body)
    each = _jax.vmap_like(
        axis, body, _axes(on[1], carry, on[3]), _axes(carry, ys)
    )  # fmt: skip

    def step(consts: list[Any], state: list[Any], row: list[Any]) -> Any:
        out = each(*consts, *state, *row)
        return out[: loop.carry], out[loop.carry :]

    def cond(conds: list[Any], state: list[Any]) -> Any:
        test = _jax.vmap_like(axis, _jax.as_function(loop.cond), _axes(on[0], carry), None)
        return test(*conds, *state)[0]

    start = _spread(axis, ops.carry, on[2], carry, mesh)
    test = None if loop.cond is None else cond
    made, extra = make(step, ops.consts, start, ops.xs, test, ops.conds, **loop.static)
    out = loop_p.bind(ops.limit, *ops.conds, *extra, *ops.consts, *start, *ops.xs, loop=made)
    return out, [None, *(0 if c else None for c in carry), *(1 if y else None for y in ys)]


def _axes(*flags: Sequence[bool]) -> Any:
    return [0 if c else None for part in flags for c in part]


def _spread(
    axis: Any, xs: Sequence[Any], on: Sequence[bool], wanted: Sequence[bool], mesh: Any
) -> list[Any]:
    """Values with a batch axis where it is wanted and not there yet."""
    return [
        _jax.spread(axis, x, mesh) if w and not o else x
        for x, o, w in zip(xs, on, wanted, strict=True)
    ]


def _batch_apart(
    axis: Any, ops: Operands, on: list[list[bool]], limits_differ: bool, loop: Loop, mesh: Any
) -> Any:
    """Each example takes its own steps; the loop goes on while any of them does.

    An example that is done keeps its values. Its body still runs, where it has a derivative: on the
    values that it started from and not on its last ones, or, if it takes no step, on all that the
    first example which takes one starts from. What comes of it is dropped, in the tangents and
    cotangents too.
    """
    limits = _spread(axis, [ops.limit], [limits_differ], [True], mesh)[0]
    init = _spread(axis, ops.carry, on[2], [True] * loop.carry, mesh)
    # Steps are counted per example, but for loops over rows alone: there the row tells the step.
    counted = loop.cond is not None or loop.length is None
    body, tests, rows = _jax.as_function(loop.body), loop.conds, len(loop.types()[1])

    def active(limit: Any, count: Any, conds: list[Any], carry: list[Any]) -> Any:
        if loop.cond is None:
            return count < limit
        # Of the condition comes a bool: what it is made of need not have a derivative.
        given = map(lax.stop_gradient, [*conds, *carry])
        return (count < limit) & _jax.as_function(loop.cond)(*given)[0]

    def example(fixed: list[Any], consts: list[Any], safe: list[Any], state: Any, row: Any) -> Any:
        (count,), carry = split_at(state, 1) if counted else (row[:1], state)
        going = active(fixed[0], count, fixed[1:], carry)
        start = (
            [jnp.where(going, x, s) for x, s in zip(carry, safe, strict=True)] if safe else carry
        )
        out = body(*consts, *start, *(row if counted else row[1:]))
        new = [jnp.where(going, x, old) for x, old in zip(out, carry, strict=False)]
        ys, residuals = split_at(out[loop.carry :], rows - loop.residuals)
        ys = [*(jnp.where(going, y, zeros(jax.typeof(y))) for y in ys), *residuals]
        return [count + going.astype(count.dtype), *new] if counted else new, ys

    tested = _jax.vmap_like(axis, active, (0, 0, _axes(on[0]), 0))
    first = tested(limits, limits * 0, ops.conds, init)
    ops = ops._replace(consts=_of_first(first, mesh, ops.consts, on[1]))
    safe = [] if loop.linear else [lax.stop_gradient(x) for x in _of_first(first, mesh, init)]
    fixed_axes = [0, *_axes(on[0])]
    row_axes = _axes(on[3]) if counted else [None, *_axes(on[3])]
    each = _jax.vmap_like(axis, example, (fixed_axes, _axes(on[1]), 0, 0, row_axes))

    def step(consts: list[Any], state: list[Any], row: list[Any]) -> Any:
        return each(*split_at(consts, 1 + tests, loop.consts), state, row)

    def cond(conds: list[Any], state: list[Any]) -> Any:
        return jnp.any(tested(conds[0], state[0], conds[1:], state[1:]))

    conds = [limits, *ops.conds]
    consts = [*conds, *ops.consts, *safe]
    start = [limits * 0, *init] if counted else init  # varies between devices as the limits do
    # A device reads rows at its own step, so that they differ between devices as limits do.
    steps = jnp.arange(loop.length or 0, dtype=limits.dtype)
    steps = _jax.varied(steps, _jax.varying(jax.typeof(limits)))
    xs = ops.xs if counted else [steps, *ops.xs]
    test, conds = (None, []) if loop.cond is None else (cond, conds)
    made, extra = make(step, consts, start, xs, test, conds, **loop.static)
    out = loop_p.bind(jnp.max(limits), *conds, *extra, *consts, *start, *xs, loop=made)
    out = out[1:] if counted else [limits, *out[1:]]
    return out, [*[0] * (1 + loop.carry), *[1] * (len(out) - 1 - loop.carry)]


def _of_first(
    going: Any, mesh: Any, xs: Sequence[Any], on: Sequence[bool] | None = None
) -> list[Any]:
    """Of an example that is not going, the values of the first one that is; keys stay its own."""
    number = jnp.arange(going.shape[0])
    if mesh is not None:
        number = _jax.placed(number, mesh, jax.typeof(going).sharding.spec)
    chosen = number == jnp.argmax(going)

    def replaced(x: Any) -> Any:
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            return x
        number = x.astype(jnp.int8) if x.dtype == bool else x
        here, there = (lax.expand_dims(f, range(1, x.ndim)) for f in (going, chosen))
        # The sum of a weakly typed number stays one, which that of `jnp.sum` does not.
        value = lax.expand_dims(lax.reduce_sum(jnp.where(there, number, 0), (0,)), (0,))
        return jnp.where(here, x, value != 0 if x.dtype == bool else value)

    flags = [True] * len(xs) if on is None else on
    return [replaced(x) if batched else x for x, batched in zip(xs, flags, strict=True)]


def _batch_with_tangents(
    axis: Any, flat: Sequence[Any], dims: Sequence[Any], *, loop: Loop, nonzero: Nonzero
) -> Any:
    types = [
        aval if d is None else _jax.without_axis(aval, d)
        for aval, d in zip(map(jax.typeof, flat), dims, strict=True)
    ]
    both = joined(types, loop, nonzero)
    shared = [None] * len(both.extra)
    out, out_dims = _batch(
        axis, both.operands(flat, both.extra), both.operands(dims, shared), loop=both.loop
    )
    return both.results(out), both.results(out_dims)


_jax.def_batch(loop_p, _batch)
_jax.def_batch(jvp_p, _batch_with_tangents)

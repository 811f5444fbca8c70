"""How the walk goes into equations that hold a program: calls, branches and loops."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import _jax
from . import flags
from .values import PLANNED, Value, merged, states
from .walk import Level, Walk, rule

Path = tuple[Level, ...]


@rule(*flags.BODIES)
def _call(walk: Walk, level: Level, operands: list[Value], path: Path) -> list[Value]:
    body = flags.BODIES[compat.kind(level.eqn)](level.eqn).body
    return walk.run(body, operands, (*path, level._replace(body=body)))


@rule("cond")
def _cond(walk: Walk, level: Level, operands: list[Value], path: Path) -> list[Value]:
    which, *rest = operands
    bodies = compat.branches(level.eqn)
    body = bodies[max(0, min(int(which.array), len(bodies) - 1))]
    return walk.run(body, rest, (*path, level._replace(body=body)))


@rule("scan")
def _scan(walk: Walk, level: Level, operands: list[Value], path: Path) -> list[Value]:
    loop = compat.scan(level.eqn)
    results = walk.whole(level, operands)
    if results is not None or not loop.length:
        return results or walk.leaf(level, operands, path)
    consts, carry = operands[: loop.consts], operands[loop.consts :][: loop.carry]
    xs = operands[loop.consts + loop.carry :]
    rows = _Rows(len(level.eqn.outvars) - loop.carry)
    steps = range(loop.length)
    for at in reversed(steps) if loop.options.get("reverse") else steps:
        inside = (*path, level._replace(step=at, body=loop.body))
        out = walk.call(loop.body, [*consts, *carry, *_row(xs, at)], inside)
        carry = out[: loop.carry]
        rows.write(at, out[loop.carry :])
    return [*carry, *rows.stacked(loop.length)]


@rule("while")
def _while(walk: Walk, level: Level, operands: list[Value], path: Path) -> list[Value]:
    results = walk.whole(level, operands)
    if results is not None:
        return results
    loop = compat.while_loop(level.eqn)
    conds, rest = operands[: loop.conds], operands[loop.conds :]
    consts, carry = rest[: loop.consts], rest[loop.consts :]
    step = 0
    while True:
        inside = (*path, level._replace(step=step, body=loop.cond))
        more = walk.call(loop.cond, [*conds, *carry], inside)[0].array
        if not np.any(more):
            return carry
        inside = (*path, level._replace(step=step, body=loop.body))
        new = walk.call(loop.body, [*consts, *carry], inside)
        carry = _going(more, new, carry) if np.ndim(more) else new
        step += 1


def _going(more: Any, new: list[Value], old: list[Value]) -> list[Value]:
    """The carry of a `while` that `vmap` made: examples that are done keep theirs."""
    arrays = [flags.where(more, x.array, o.array) for x, o in zip(new, old, strict=True)]
    kept = [x._replace(cause=x.cause or o.cause) for x, o in zip(new, old, strict=True)]
    return _still_bad(kept, arrays)


@rule("bounded_loop")
def _bounded(walk: Walk, level: Level, operands: list[Value], path: Path) -> list[Value]:
    results = walk.whole(level, operands)
    if results is not None:
        return results
    loop = level.eqn.params["loop"]
    ops = loop.operands(operands)
    limit, carry = int(ops.limit.array), ops.carry
    rows = _Rows(len(loop.types()[1]))
    step = 0
    while step < limit:
        at = limit - 1 - step if loop.reverse else step
        if loop.cond is not None:
            inside = (*path, level._replace(step=at, body=loop.cond))
            if not walk.call(loop.cond, [*ops.conds, *carry], inside)[0].array:
                break
        inside = (*path, level._replace(step=at, body=loop.body))
        out = walk.call(loop.body, [*ops.consts, *carry, *_row(ops.xs, at)], inside)
        carry = out[: loop.carry]
        rows.write(at, out[loop.carry :])
        step += 1
    steps = Value(jnp.asarray(step, ops.limit.array.dtype), ops.limit.names)
    types = [row.update(shape=(loop.length, *row.shape)) for row in loop.types()[1]]
    return [steps, *carry, *rows.stacked(loop.length, types)]


@rule("bounded_loop_jvp")
def _bounded_jvp(walk: Walk, level: Level, operands: list[Value], path: Path) -> list[Value]:
    """The loop over primals and tangents that this one stands for."""
    run = lambda *xs: level.eqn.primitive.impl(*xs, **level.eqn.params)  # noqa: E731
    body = jax.make_jaxpr(run)(*(o.array for o in operands))
    return walk.run(body, operands, (*path, level._replace(body=body)))


def _row(xs: Sequence[Value], at: int) -> list[Value]:
    arrays = _read_compiled([x.array for x in xs], at)
    return _still_bad(xs, arrays)


def _still_bad(values: Sequence[Value], arrays: Sequence[Any]) -> list[Value]:
    """Parts of values; a part has a cause only if it is bad itself."""
    parts = [v._replace(array=array) for v, array in zip(values, arrays, strict=True)]
    if all(v.cause is None for v in values):
        return parts
    found = states(arrays)
    return [
        p if s.nan or s.inf else p._replace(cause=None) for p, s in zip(parts, found, strict=True)
    ]


def _read(xs: list[Any], at: Any) -> list[Any]:
    return [jax.lax.dynamic_index_in_dim(x, at, keepdims=False) for x in xs]


_read_compiled = jax.jit(_read)


class _Rows:
    """What the steps of a loop wrote, each at its place."""

    def __init__(self, count: int):
        self._rows: list[dict[int, Value]] = [{} for _ in range(count)]

    def write(self, at: int, values: Sequence[Value]) -> None:
        for rows, value in zip(self._rows, values, strict=True):
            rows[at] = value

    def stacked(self, length: int, types: Sequence[Any] = ()) -> list[Value]:
        """One array for each kind of row; zeros of the given type where no step wrote."""
        return [
            _stack(rows, length, types[index] if types else None)
            for index, rows in enumerate(self._rows)
        ]


def _stack(rows: dict[int, Value], length: int, aval: Any) -> Value:
    values = list(rows.values())
    causes = sorted({value.cause for value in values if value.cause is not None})
    cause = next((c for c in causes if c != PLANNED), PLANNED) if causes else None
    if len(rows) < length:
        blank = np.zeros(aval.shape[1:], aval.dtype)
        rows = {at: Value(blank) for at in range(length)} | rows
    arrays = [rows[at].array for at in range(length)]
    if jnp.issubdtype(arrays[0].dtype, jax.dtypes.extended):
        stacked = jnp.stack(arrays)
    else:
        stacked = jnp.asarray(np.stack([np.asarray(x) for x in arrays]))
    return Value(stacked, merged(values), cause)

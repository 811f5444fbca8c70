"""Runs a loop step by step, on values that say where they come from."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import _jax
from .values import CONSTANT, Value, merged, states

Run = Callable[[_jax.Body, int, list[Value]], list[Value]]
"""`(body, step, inputs) -> outputs`."""


def run(equation: _jax.Equation, operands: Sequence[Value], call: Run) -> list[Value]:
    """The results of a loop whose bodies `call` runs."""
    step, *tests = equation.bodies
    carry = step.take(operands, _jax.CARRY)
    carried = _places(step, _jax.CARRY)
    rows: dict[int, dict[int, Value]] = {i: {} for i in _places(step, _jax.ROW)}
    taken = 0
    for at in _steps(equation, operands):
        more: Any = True
        for test in tests:
            more = call(test, at, _inputs(test, operands, carry, at))[0].array
        if not np.any(more):
            break
        made = call(step, at, _inputs(step, operands, carry, at))
        results = dict(zip((place for place, _ in step.outputs), made, strict=True))
        new = [results[i] for i in carried]
        carry = _going(more, new, carry) if np.ndim(more) else new
        for i, written in rows.items():
            written[at] = results[i]
        taken += 1
    types = equation.result_types
    final = dict(zip(carried, carry, strict=True))
    final |= {i: _stacked(written, types[i]) for i, written in rows.items()}
    limit = equation.trips.limit if equation.trips else None
    names = () if limit is None else operands[limit].names
    return [final.get(i) or Value(jnp.asarray(taken, t.dtype), names) for i, t in enumerate(types)]


def most_steps(equation: _jax.Equation, operands: Sequence[Value]) -> int | None:
    """How many steps a loop takes at most; `None` where its test alone tells."""
    trips = equation.trips
    assert trips is not None
    return trips.length if trips.limit is None else int(operands[trips.limit].array)


def _steps(equation: _jax.Equation, operands: Sequence[Value]) -> Iterable[int]:
    """The row of each step there may be."""
    most, trips = most_steps(equation, operands), equation.trips
    if most is None:
        return itertools.count()
    return reversed(range(most)) if trips and trips.reverse else range(most)


def _places(body: _jax.Body, flow: str) -> list[int]:
    """The results of the loop that are outputs of this flow."""
    return [place for place, how in body.outputs if how == flow]


def _inputs(
    body: _jax.Body, operands: Sequence[Value], carry: Sequence[Value], at: int
) -> list[Value]:
    state, rows = iter(carry), iter(_row(body.take(operands, _jax.ROW), at))
    return [
        operands[place] if flow == _jax.WHOLE else next(state if flow == _jax.CARRY else rows)
        for place, flow in body.inputs
    ]


def _going(more: Any, new: list[Value], old: list[Value]) -> list[Value]:
    """The carry of a `while` that `vmap` made: examples that are done keep theirs."""
    pairs = list(zip(new, old, strict=True))
    arrays = [_jax.going_on(more, x.array, o.array) for x, o in pairs]
    return _still_bad([x._replace(cause=x.cause or o.cause) for x, o in pairs], arrays)


def _row(xs: Sequence[Value], at: int) -> list[Value]:
    return _still_bad(xs, _read_compiled([x.array for x in xs], at)) if xs else []


def _read(xs: list[Any], at: Any) -> list[Any]:
    return [jax.lax.dynamic_index_in_dim(x, at, keepdims=False) for x in xs]


_read_compiled = jax.jit(_read)


def _still_bad(values: Sequence[Value], arrays: Sequence[Any]) -> list[Value]:
    """Parts of values; a part has a cause only if it is bad itself."""
    parts = [v._replace(array=array) for v, array in zip(values, arrays, strict=True)]
    if all(v.cause is None for v in values):
        return parts
    found = states(arrays)
    return [
        p if s.nan or s.inf else p._replace(cause=None) for p, s in zip(parts, found, strict=True)
    ]


def _stacked(rows: dict[int, Value], type_: Any) -> Value:
    """The rows that steps wrote as one array; zeros where none wrote."""
    values = list(rows.values())
    causes = sorted({value.cause for value in values if value.cause is not None})
    cause = next((c for c in causes if c != CONSTANT), CONSTANT) if causes else None
    length, *shape = type_.shape
    if len(rows) < length:
        rows = dict.fromkeys(range(length), Value(np.zeros(shape, type_.dtype))) | rows
    arrays = [rows[at].array for at in range(length)]
    if jnp.issubdtype(type_.dtype, jax.dtypes.extended):
        stacked = jnp.stack(arrays)
    else:
        stacked = jnp.asarray(np.stack([np.asarray(x) for x in arrays]))
    return Value(stacked, merged(values), cause)

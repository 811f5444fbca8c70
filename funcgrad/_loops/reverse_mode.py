"""Reverse mode: a loop that keeps residuals, one linear in the tangents, and that one backwards."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax

from .. import _jax
from .._lists import inverted, merge, partly, select, split_at
from ..errors import GradientError
from .forward_mode import Nonzero, jvp_p
from .primitive import Loop, Operands, loop_p, make, zeros
from .segments import in_pieces


def _primals(count: int, *, loop: Loop, nonzero: Nonzero) -> int:
    """How many of the operands are primals; tangents come behind them."""
    del loop
    return count - sum(nonzero.inputs)


def _split(
    later: _jax.Later, primals: list[Any], flat: Sequence[Any], *, loop: Loop, nonzero: Nonzero
) -> list[Any]:
    """Partial evaluation: what the primals give is computed now, what tangents give later."""
    if loop.length is None:
        raise GradientError(
            "`fori_loop` got bounds that are known at run time only and no `max_steps`, and reverse"
            " mode must know how many steps to make room for; pass max_steps=, the most steps there"
            " can be, or use forward mode (jax.jvp, jax.jacfwd)"
        )
    if loop.checkpoints is not None and loop.length > loop.checkpoints:
        return later.run(in_pieces, flat, loop, nonzero)
    ops = loop.operands(primals)
    (steps, *out), residuals = _keeping_residuals(ops, loop, nonzero)
    dots = split_at(flat[len(primals) :], sum(nonzero.consts), sum(nonzero.carry))
    trips = ops.limit if loop.cond is None else steps  # of a bound the compiler knows the number
    linear, operands = _linear_loop(trips, residuals, dots, loop, nonzero)
    _, *dots_out = later.bind(loop_p, operands, loop=linear)
    return [steps, *out, *dots_out]


class Residuals(NamedTuple):
    """What the linearised body needs in each step.

    Fields:
        leaves: from the consts and a row of the xs to the leaves of what it needs.
        tree: what they are the leaves of: the linear function that `jax.linearize` returns.
        consts: leaves that are the same in every step, computed once.
        xs: leaves with a row for each step.
    """

    leaves: Callable[[Sequence[Any], Sequence[Any]], list[Any]]
    tree: Any
    consts: list[Any]
    xs: list[Any]


def _keeping_residuals(ops: Operands, loop: Loop, nonzero: Nonzero) -> tuple[list[Any], Residuals]:
    """Runs the loop, and has it write down the residuals that change from step to step.

    Those that cost less to compute from others than to write down are computed from them.
    """
    body, trees = _jax.as_function(loop.body), []

    def step(consts: list[Any], carry: list[Any], row: list[Any]) -> Any:
        run, given = partly(body, [*consts, *carry, *row], nonzero.inputs, nonzero.outputs)
        new, linear, rest = jax.linearize(run, *given, has_aux=True)
        leaves, tree = jax.tree.flatten(linear)
        trees.append(tree)
        out = merge(nonzero.outputs, new, rest)
        return out[: loop.carry], [*out[loop.carry :], *leaves]

    made, extra = make(
        step, ops.consts, ops.carry, ops.xs, length=loop.length, reverse=loop.reverse
    )
    consts, count = [*extra, *ops.consts], len(nonzero.outputs)
    how = _jax.origins(made.body, len(consts), count)
    fixed = _jax.as_function(how.program)(*consts) if how.program else []
    source = [i - made.consts - made.carry if i is not None else -1 for i in how.inputs]
    stacked = [
        not invariant and row < 0 and how.firsts[index] == index
        for index, (invariant, row) in enumerate(zip(how.invariant, source, strict=True))
    ]
    at_hand = [invariant or row >= 0 for invariant, row in zip(how.invariant, source, strict=True)]
    derived = _jax.derived(made.body, count, at_hand, stacked)
    stacked = [s and not d for s, d in zip(stacked, derived.which, strict=True)]
    keep = _jax.prune(made.body, [True] * count + stacked)
    made = made._replace(
        body=keep, cond=loop.cond, conds=loop.conds, residuals=loop.residuals + sum(stacked)
    )
    out = loop_p.bind(ops.limit, *ops.conds, *consts, *ops.carry, *ops.xs, loop=made)
    main, kept = out[: 1 + count], out[1 + count :]

    def leaves(consts: Sequence[Any], rows: Sequence[Any]) -> list[Any]:
        found: dict[int, Any] = dict(zip(_where(how.invariant), consts, strict=True))
        found.update(zip(_where(stacked), rows, strict=False))
        found.update({i: rows[len(kept) + row] for i, row in enumerate(source) if row >= 0})
        if derived.program:
            again = _jax.as_function(derived.program)(*(found[i] for i in derived.inputs))
            found.update(zip(_where(derived.which), again, strict=True))
        return [found[i] if i in found else found[how.firsts[i]] for i in range(len(source))]

    return main, Residuals(leaves, trees[-1], fixed, [*kept, *ops.xs])


def _where(flags: Sequence[bool]) -> list[int]:
    return [index for index, flag in enumerate(flags) if flag]


def _linear_loop(
    steps: Any, residuals: Residuals, dots: list[list[Any]], loop: Loop, nonzero: Nonzero
) -> tuple[Loop, list[Any]]:
    """The loop over tangents alone, and its operands."""
    fixed, rows, moved = len(residuals.consts), len(residuals.xs), sum(nonzero.carry)

    def step(consts: list[Any], carry: list[Any], row: list[Any]) -> Any:
        linear = residuals.tree.unflatten(residuals.leaves(consts[:fixed], row[:rows]))
        out = linear(*consts[fixed:], *carry, *row[rows:])
        return out[:moved], out[moved:]

    consts, xs = [*residuals.consts, *dots[0]], [*residuals.xs, *dots[2]]
    static = {**loop.static, "linear": True, "residuals": 0}
    made, extra = make(step, consts, dots[1], xs, **static)
    return made, [steps, *extra, *consts, *dots[1], *xs]


def _known_part(*, loop: Loop, nonzero: Nonzero) -> Any:
    return loop_p, {"loop": loop}, 1 + len(nonzero.outputs)


def _transpose(cotangents: Sequence[Any], *flat: Any, loop: Loop) -> list[Any]:
    """One loop backwards: the carry is the cotangents of the carry and of the linear constants."""
    if not loop.linear:
        raise GradientError(
            "`jax.linear_transpose` got a function with a `while_loop` or `fori_loop` of funcgrad,"
            " which is transposed only after it is linearised; use jax.vjp or jax.linearize"
        )
    ops, body = loop.operands(flat), _jax.as_function(loop.body)
    types = split_at(_jax.input_types(loop.body), loop.consts, loop.carry)
    consts, xs = ([_jax.is_linear(x) for x in part] for part in (ops.consts, ops.xs))
    _, carry_cts, ys_cts = split_at(cotangents, 1, loop.carry)
    ys = [type(ct) is not _jax.Zero for ct in ys_cts]
    fixed = select(ops.xs, inverted(xs))
    linear = select(types[0], consts), types[1], select(types[2], xs)

    def step(given: list[Any], state: list[Any], row: list[Any]) -> Any:
        def forward(a: list[Any], b: list[Any], c: list[Any]) -> Any:
            row_in = merge(xs, c, row[: len(fixed)])
            out = body(*merge(consts, a, given), *b, *row_in)
            return out[: loop.carry], select(out[loop.carry :], ys)

        cts, sums = state[: loop.carry], state[loop.carry :]
        new = jax.linear_transpose(forward, *linear)((cts, row[len(fixed) :]))
        return [*new[1], *map(lax.add, sums, new[0])], new[2]

    given = select(ops.consts, inverted(consts))
    there = [type(ct) is not _jax.Zero for ct in carry_cts]
    nothing = select(carry_cts, inverted(there))
    rows = [*fixed, *select(ys_cts, ys)]
    static = {**loop.static, "reverse": not loop.reverse, "residuals": 0}

    def run(limit: Any, *arrays: Any) -> list[Any]:
        given_, rows_, cts = split_at(arrays, len(given), len(rows))
        zero_cts = [*map(_jax.instantiate_zeros, nothing)]
        start = [*merge(there, cts, zero_cts), *map(zeros, linear[0])]
        made, extra = make(step, given_, start, rows_, **static)
        return loop_p.bind(limit, *extra, *given_, *start, *rows_, loop=made)

    out = _jax.compiled_once(run, [ops.limit, *given, *rows, *select(carry_cts, there)])
    _, carry, sums, back = split_at(out, 1, loop.carry, sum(consts))
    return [
        *[None] * (1 + loop.conds),
        *merge(consts, sums, [None] * len(given)),
        *(ct if _jax.is_linear(x) else None for ct, x in zip(carry, ops.carry, strict=True)),
        *merge(xs, back, [None] * len(fixed)),
    ]


_jax.def_partial_eval(jvp_p, _primals, _split, _known_part)
_jax.def_transpose(loop_p, _transpose)

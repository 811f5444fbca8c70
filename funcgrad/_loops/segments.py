"""Keeps less for reverse mode: residuals of a few steps, and carries to recompute the others from.

A loop of at most L steps with `checkpoints=k` becomes one of k steps whose residuals are kept, and
one over at most k segments of the rest, of each of which the first carry is kept. Going backwards a
segment is run again, as a loop of the same kind. With j the least number for which
k + k**2 + ... + k**j >= L, no more than j * k steps' residuals and (j - 1) * k carries are kept at
a time, and no step is run more than j times, the first included.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .. import _jax
from .._lists import split_at
from .forward_mode import Nonzero, jvp_p, parts
from .primitive import Loop, Operands, bounded_loop, loop_p


def in_pieces(flat: Sequence[Any], loop: Loop, nonzero: Nonzero) -> list[Any]:
    """The loop of `jvp_p` as a short one that is kept whole, and one over segments of the rest.

    Of each segment the first carry is kept. The linear part runs the segments anew, each a loop of
    the same kind: where it is longer than `checkpoints` it is taken apart in turn.
    """
    kept, length = loop.checkpoints or 0, loop.length or 0
    size = max(kept, -(-(length - kept) // kept))
    count = -(-(length - kept) // size)
    ops, (consts_dots, dots, xs_dots) = parts(flat, loop, nonzero)

    out = jvp_p.bind(
        *(jnp.minimum(ops.limit, kept), *ops.conds, *ops.consts, *ops.carry),
        *(x[:kept] for x in ops.xs),
        *(*consts_dots, *dots, *(x[:kept] for x in xs_dots)),
        loop=loop._replace(length=kept, checkpoints=None),
        nonzero=nonzero,
    )
    (steps,), carry, ys, dots, ys_dots = split_at(
        out, 1, loop.carry, len(nonzero.ys), sum(nonzero.carry)
    )

    def segments(x: Any) -> Any:
        empty = kept + count * size - length
        rest = jnp.pad(x[kept:], [(0, empty), *[(0, 0)] * (x.ndim - 1)])
        return rest.reshape(count, size, *x.shape[1:])

    def joined(first: Any, rest: Any) -> Any:
        return jnp.concatenate([first, rest.reshape(count * size, *first.shape[1:])])[:length]

    rest = ops._replace(limit=ops.limit - steps, carry=carry, xs=[*map(segments, ops.xs)])
    segment = loop._replace(length=size)
    ran, (more, *carry), starts = _segments(rest, count, segment)
    rows, (taken,), states = split_at(starts, len(ys), 1)
    fixed = segment._replace(cond=None, conds=0)  # it is known by now how many steps each takes

    def rerun(*flat: Any) -> list[Any]:
        return jvp_p.bind(*flat, loop=fixed, nonzero=nonzero)[1 + len(nonzero.outputs) :]

    def step(consts: list[Any], dots: list[Any], row: list[Any]) -> Any:
        primals, consts_dots = split_at(consts, loop.consts)
        start, xs, xs_dots = split_at(row, 1 + loop.carry, len(ops.xs))
        steps, *carry = start
        kept, moving = [steps, *primals, *carry, *xs], [*consts_dots, *dots, *xs_dots]
        out = _jax.recomputed(rerun, kept, moving, prevent_cse=False)
        return split_at(out, len(dots))

    _, dots, rows_dots = bounded_loop(
        ran,
        step,
        [*ops.consts, *consts_dots],
        dots,
        [taken, *states, *rest.xs, *map(segments, xs_dots)],
        length=count,
        linear=True,
    )
    return [
        *(steps + more, *carry, *map(joined, ys, rows)),
        *(*dots, *map(joined, ys_dots, rows_dots)),
    ]


def _segments(ops: Operands, count: int, segment: Loop) -> tuple[Any, list[Any], list[Any]]:
    """Runs a loop as a loop over segments, `count` at most.

    Args:
        ops: its operands.
        count: the most segments.
        segment: the loop of one segment.

    Returns:
        The segments run; the steps taken and the carry; and with a row for each segment its ys, the
        steps it took, and the carry it started from.
    """
    size: Any = segment.length

    # Where it is differentiated once more it keeps what it starts from, and is run again.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def run(*flat: Any) -> list[Any]:
        return loop_p.bind(*flat, loop=segment)

    def step(fixed: list[Any], state: list[Any], xs: list[Any]) -> Any:
        (limit, *conds_and_consts), (done, *carry) = fixed, state
        left = jnp.minimum(limit - done, size)
        steps, *out = run(left, *conds_and_consts, *carry, *xs)
        carry_out, ys = split_at(out, segment.carry)
        return [done + steps, *carry_out], [*ys, steps, *carry]

    def going(fixed: list[Any], state: list[Any]) -> Any:
        (limit, *given), (done, *carry) = fixed, state
        more = done < limit
        return more & _jax.as_function(segment.cond)(*given, *carry)[0] if segment.cond else more

    none = ops.limit * 0
    fixed = [ops.limit, *ops.conds]
    ran, (steps, *carry), rows = bounded_loop(
        none + count,
        step,
        [*fixed, *ops.consts],
        [none, *ops.carry],
        ops.xs,
        going,
        fixed,
        length=count,
        residuals=segment.carry,
    )
    return ran, [steps, *carry], rows

"""Dead code in loops: what is left of one of which only some results are wanted."""

from collections.abc import Sequence
from typing import Any

from .. import _jax
from .._lists import split_at
from .forward_mode import Nonzero, jvp_p
from .primitive import Loop, loop_p


def _wanted(used: Sequence[bool], count: int, *, loop: Loop) -> Any:
    """The loop without the carries and ys that nobody wants, and without what only they need."""
    if not any(used):
        return [False] * count, None, {}, []
    _, carry, ys = split_at(used, 1, loop.carry)
    test: list[bool] = []
    if loop.cond is not None:
        test, tested = split_at(_jax.used_inputs(loop.cond), loop.conds)
        carry = [a or b for a, b in zip(carry, tested, strict=True)]
    while True:
        given = _jax.used_inputs(loop.body, [*carry, *ys])
        consts, state, xs = split_at(given, loop.consts, loop.carry)
        now = [a or b for a, b in zip(carry, state, strict=True)]
        if now == carry:
            break
        carry = now
    left = loop._replace(
        body=_jax.prune(loop.body, [*carry, *ys], [*consts, *carry, *xs]),
        cond=loop.cond and _jax.prune(loop.cond, [True], [*test, *carry]),
        conds=sum(test),
        consts=sum(consts),
        carry=sum(carry),
        residuals=sum(ys[len(ys) - loop.residuals :]),
    )
    operands = [True, *test, *consts, *carry, *xs]
    return operands, loop_p, {"loop": left}, [True, *carry, *ys]


def _wanted_with_tangents(used: Sequence[bool], count: int, *, loop: Loop, nonzero: Nonzero) -> Any:
    """Where no tangents are wanted, the loop that it is the tangent of."""
    dots, results = sum(nonzero.inputs), 1 + len(nonzero.outputs)
    if any(used[results:]):
        kept = {"loop": loop, "nonzero": nonzero}
        return [True] * count, jvp_p, kept, [True] * len(used)
    operands, left, params, made = _wanted(used[:results], count - dots, loop=loop)
    return [*operands, *[False] * dots], left, params, [*made, *[False] * (len(used) - results)]


_jax.def_dce(loop_p, _wanted)
_jax.def_dce(jvp_p, _wanted_with_tangents)

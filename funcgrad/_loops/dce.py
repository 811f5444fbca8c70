"""Takes out of a loop what nobody wants of it."""

from collections.abc import Sequence
from typing import Any

from .. import _compat as compat
from .._lists import select, split_at
from .forward import jvp_p
from .primitive import Loop, loop_p


def _wanted(used: Sequence[bool], eqn: compat.JaxprEqn) -> Any:
    """The loop without the carries and ys that nobody wants, and without what only they need."""
    if not any(used):
        return [False] * len(eqn.invars), None
    loop: Loop = eqn.params["loop"]
    _, carry, ys = split_at(used, 1, loop.carry)
    test: list[bool] = []
    if loop.cond is not None:
        test, tested = split_at(compat.used_inputs(loop.cond), loop.conds)
        carry = [a or b for a, b in zip(carry, tested, strict=True)]
    while True:
        given = compat.used_inputs(loop.body, [*carry, *ys])
        consts, state, xs = split_at(given, loop.consts, loop.carry)
        now = [a or b for a, b in zip(carry, state, strict=True)]
        if now == carry:
            break
        carry = now
    made = loop._replace(
        body=compat.prune(loop.body, [*carry, *ys], [*consts, *carry, *xs]),
        cond=loop.cond and compat.prune(loop.cond, [True], [*test, *carry]),
        conds=sum(test),
        consts=sum(consts),
        carry=sum(carry),
        residuals=sum(ys[len(ys) - loop.residuals :]),
    )
    inputs = [True, *test, *consts, *carry, *xs]
    new = eqn.replace(
        params={"loop": made},
        invars=select(eqn.invars, inputs),
        outvars=select(eqn.outvars, [True, *carry, *ys]),
    )
    return inputs, new


def _wanted_with_tangents(used: Sequence[bool], eqn: compat.JaxprEqn) -> Any:
    """Where no tangents are wanted, the loop that it is the tangent of."""
    loop, nonzero = eqn.params["loop"], eqn.params["nonzero"]
    count, results = len(eqn.invars) - sum(nonzero.inputs), 1 + len(nonzero.outputs)
    if any(used[results:]):
        return [True] * len(eqn.invars), eqn
    plain = eqn.replace(
        primitive=loop_p,
        params={"loop": loop},
        invars=eqn.invars[:count],
        outvars=eqn.outvars[:results],
    )
    inputs, new = _wanted(used[:results], plain)
    return [*inputs, *[False] * sum(nonzero.inputs)], new


compat.def_dce(loop_p, _wanted)
compat.def_dce(jvp_p, _wanted_with_tangents)

"""The rule for equations that run a body many times: `scan`, and with it `map` and `fori_loop`."""

from collections.abc import Sequence
from typing import Any

import jax

from .. import _compat as compat
from .walk import Leaf, Run, Values, rule


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

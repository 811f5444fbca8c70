"""The rule for equations that run one of several bodies: `cond` and `switch`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from .. import _compat as compat
from .walk import Run, Values, find, rule


@rule("cond")
def _cond(
    eqn: compat.JaxprEqn, operands: Sequence[Any], taps: Values, run: Run
) -> tuple[list[Any], Values]:
    which, *rest = operands
    bodies = compat.branches(eqn)
    sites = {name: site for body in bodies for name, site in find(body).items() if name in taps}

    def branch(body: compat.ClosedJaxpr) -> Callable[..., tuple[list[Any], Values]]:
        def taken(taps: Values, *rest: Any) -> tuple[list[Any], Values]:
            results, values = run(body, rest, {n: taps[n] for n in find(body) if n in taps})
            # A value that only another branch has is zeros where that one is not taken.
            return results, {
                name: values[name] if name in values else [leaf.zeros() for leaf in site.leaves]
                for name, site in sites.items()
            }

        return taken

    taken = [branch(body) for body in bodies]
    if which.dtype == bool:
        return jax.lax.cond(which, taken[1], taken[0], taps, *rest)
    return jax.lax.switch(which, taken, taps, *rest)

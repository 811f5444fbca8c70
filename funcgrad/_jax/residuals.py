"""What follows from what in a program: for loops, which keep as little as they can.

`origins` says how outputs come about, `derived` which of them follow cheaply from others, and
`hoist_casts` takes out what depends on constants alone and is typed as differing between devices.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from .trace import Jaxpr, Literal, close, opened, prune
from .traits import Trait, has


class Origins(NamedTuple):
    """How the outputs of a program come about.

    Fields:
        invariant: for each output, whether it depends on the first inputs alone.
        program: those outputs from the first inputs, or `None` where there are none.
        inputs: for each output, the index of the input that it is, if it is one.
        firsts: for each output, the index of the first output that is the same value.
    """

    invariant: list[bool]
    program: Jaxpr | None
    inputs: list[int | None]
    firsts: list[int]


def origins(program: Jaxpr, count: int, start: int) -> Origins:
    """How the outputs from `start` on come about; invariant is what the first `count` inputs give.

    Equations with effects are not invariant: they happen as often as they did.
    """
    jaxpr = opened(program)
    invars, outvars = list(jaxpr.invars), list(jaxpr.outvars[start:])
    known, eqns = _following(jaxpr, invars[:count])
    invariant = [isinstance(v, Literal) or v in known for v in outvars]
    places = {v: i for i, v in enumerate(invars)}
    inputs = [None if isinstance(v, Literal) else places.get(v) for v in outvars]
    firsts = [i if isinstance(v, Literal) else outvars.index(v) for i, v in enumerate(outvars)]
    hoisted = None
    if any(invariant):
        wanted = [v for v, c in zip(outvars, invariant, strict=True) if c]
        part = jaxpr.replace(invars=invars[:count], outvars=wanted, eqns=eqns)
        hoisted = prune(close(part), [True] * len(wanted))
    return Origins(invariant, hoisted, inputs, firsts)


def _following(jaxpr: Any, start: Sequence[Any]) -> tuple[set[Any], list[Any]]:
    """The variables that follow from some inputs alone, and the equations that make them."""
    known, eqns = set(start), []
    for eqn in jaxpr.eqns:
        if not eqn.effects and all(isinstance(v, Literal) or v in known for v in eqn.invars):
            known.update(eqn.outvars)
            eqns.append(eqn)
    return known, eqns


class Derived(NamedTuple):
    """Outputs of a program that follow cheaply from others.

    Fields:
        which: for each output, whether it does.
        program: these outputs from others, or `None` where there are none.
        inputs: the indices of the outputs that it takes.
    """

    which: list[bool]
    program: Jaxpr | None
    inputs: list[int]


def derived(program: Jaxpr, start: int, at_hand: Sequence[bool], stored: Sequence[bool]) -> Derived:
    """Which outputs, of those to be stored, follow from the others and from those at hand.

    Outputs are counted from `start` on; no two of those to be stored are the same value.
    """
    jaxpr = opened(program)
    outvars = list(jaxpr.outvars[start:])
    inputs = {
        v: i for i, v in enumerate(outvars) if at_hand[i] and not isinstance(v, Literal)
    }  # fmt: skip
    wanted = {v: i for i, v in enumerate(outvars) if stored[i]}
    inputs.update({v: wanted[v] for v in jaxpr.invars if v in wanted})
    follows: set[Any] = set()
    which, eqns = [False] * len(outvars), []
    for eqn in jaxpr.eqns:
        cheap = _is_cheap(eqn) and all(
            isinstance(v, Literal) or v in inputs or v in follows for v in eqn.invars
        )
        if cheap:
            eqns.append(eqn)
            follows.update(eqn.outvars)
        for v in eqn.outvars:
            if v in wanted and cheap:
                which[wanted[v]] = True
            elif v in wanted:
                inputs[v] = wanted[v]
    if not any(which):
        return Derived(which, None, [])
    chosen = [v for v, c in zip(outvars, which, strict=True) if c]
    part = jaxpr.replace(invars=list(inputs), outvars=chosen, eqns=eqns)
    return Derived(which, prune(close(part), [True] * len(chosen)), list(inputs.values()))


def _is_cheap(eqn: Any) -> bool:
    """Whether an equation costs less than to write its results down and read them again.

    JAX places the numbers of a derivative rule on the mesh of the arrays beside them. One number is
    on every device already; to place an array may communicate.
    """
    if eqn.primitive.name == "reshard":
        return all(v.aval.ndim == 0 for v in eqn.invars)
    return has(eqn.primitive.name, Trait.CHEAP)


def hoist_casts(program: Jaxpr, count: int) -> tuple[Jaxpr, Jaxpr]:
    """Takes out what types values as differing between devices, and depends on constants alone.

    Args:
        program: a program without constants of its own.
        count: how many of its inputs, the first ones, are constants.

    Returns:
        The program with such values as leading inputs, and one that makes them from the constants.
    """
    jaxpr = opened(program)
    _, eqns = _following(jaxpr, jaxpr.invars[:count])
    cast = [v for eqn in eqns if has(eqn.primitive.name, Trait.TYPED) for v in eqn.outvars]
    rest = [eqn for eqn in jaxpr.eqns if not set(eqn.outvars) & set(cast)]
    made = jaxpr.replace(invars=jaxpr.invars[:count], outvars=cast, eqns=eqns)
    return close(jaxpr.replace(invars=[*cast, *jaxpr.invars], eqns=rest)), close(made)

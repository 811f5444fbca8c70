"""How the walk goes into `shard_map`.

Devices talk to each other, so one alone cannot be evaluated. The program of all is run, compiled,
with a flag for each of its equations; then once more up to the first equation whose flag is up on
any device, to see what went into it there and what came out.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import _jax
from . import flags
from .values import Value, merged, states
from .walk import Event, Found, Level, Walk, evaluate, rule

Path = tuple[Level, ...]


@rule(*flags.TYPED)
def _typed(walk: Walk, level: Level, operands: list[Value], path: Path) -> list[Value]:
    """Values said to vary along mesh axes: on one device they are what they were."""
    return operands


@rule("shard_map")
def _shard_map(walk: Walk, level: Level, operands: list[Value], path: Path) -> list[Value]:
    results = walk.whole(level, operands)
    if results is not None:
        return results
    clean = all(o.cause is None for o in operands)
    event = _inside(level, operands, path, walk.check_inf) if clean else None
    if event is None:
        return walk.leaf(level, operands, path)
    cause = walk.counted(event)
    arrays = evaluate(level, operands)
    names = merged(operands)
    return [
        Value(x, names, cause if s.nan or (walk.check_inf and s.inf) else None)
        for x, s in zip(arrays, states(arrays), strict=True)
    ]


def _inside(level: Level, operands: list[Value], path: Path, check_inf: bool) -> Event | None:
    """The first event in the program of the devices; `None` where there is none."""
    call = compat.shard_map(level.eqn)
    flagging = flags.Flagging(check_inf).on(call)
    jaxpr, arrays = compat.open_up(call.body), [o.array for o in operands]

    def every(*args: Any) -> Any:
        return [], flags.per_device(call, [jnp.stack(flagging.each(call.body, args)[1])])

    up = np.asarray(jax.jit(flags.over_devices(call, every, []))(*arrays)[1][0])
    if not up.any():
        return None
    index = int(np.nonzero(up.reshape(-1, up.shape[-1]).any(0))[0][0])
    at = tuple(int(i) for i in np.argwhere(up[..., index])[0])
    eqn = jaxpr.eqns[index]

    def until(*args: Any) -> Any:
        env, _ = flagging.each(call.body, args, index + 1)
        read = [v.val if isinstance(v, _jax.Literal) else env[v] for v in eqn.invars]
        made = [env[v] for v in eqn.outvars]
        return [], flags.per_device(call, [jnp.asarray(x) for x in (*read, *made)])

    values = jax.jit(flags.over_devices(call, until, []))(*arrays)[1]
    here = [jnp.asarray(np.asarray(x)[at]) for x in values]
    given = [Value(x, merged(operands)) for x in here[: len(eqn.invars)]]
    device = tuple(zip(call.axes, at, strict=True))
    around = (*path, level._replace(device=device, body=call.body))
    return _deeper(Level(jaxpr, eqn), given, here[len(given) :], around, check_inf)


def _deeper(
    level: Level, given: list[Value], made: list[Any], around: Path, check_inf: bool
) -> Event:
    """The event inside an equation of one device, or, where it cannot be looked into, there."""
    kind = "nan" if any(s.nan for s in states(made)) else "inf"
    event = Event(kind, (*around, level), given, made, False)
    if compat.subjaxprs(level.eqn.params):
        try:
            Walk(check_inf, 1).equation(level, given, around)
        except Found as found:
            return found.event
        except Exception:
            # A body that talks to other devices has no meaning on one. What is known stands.
            return event
    return event

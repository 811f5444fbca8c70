"""Finds the first bad value inside a `shard_map`.

Devices talk to each other, so one alone cannot be evaluated. The program of all is run, compiled,
with a flag for each of its equations; then once more, to see what went into the first equation
whose flag is up on any device, and what came out there.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ... import _jax
from . import flags
from .events import Event, Level, Path
from .values import Value, merged, states


def first(level: Level, operands: list[Value], path: Path, check_inf: bool) -> Event | None:
    """The first event in the program of the devices; `None` where there is none."""
    equation, arrays = level.equation, [o.array for o in operands]
    (body,) = equation.bodies
    flagging = flags.Flagging(check_inf).on(body)

    def every(*args: Any) -> list[Any]:
        return [jnp.stack([seen.flag for seen in flagging.each(body.program, args)])]

    up = np.asarray(_jax.made_on_devices(equation, arrays, every)[0])
    if not up.any():
        return None
    index = int(np.nonzero(up.reshape(-1, up.shape[-1]).any(0))[0][0])
    at = tuple(int(i) for i in np.argwhere(up[..., index])[0])

    def one(*args: Any) -> list[Any]:
        seen = flagging.each(body.program, args)[index]
        return [*seen.operands, *seen.results]

    here = [jnp.asarray(np.asarray(x)[at]) for x in _jax.made_on_devices(equation, arrays, one)]
    inner = _jax.equations(body.program)[index]
    count = len(inner.reads)
    device = tuple(zip(body.axes, at, strict=True))
    return Event(
        "nan" if any(s.nan for s in states(here[count:])) else "inf",
        (*path, level._replace(device=device, body=body), Level(inner)),
        [Value(x, merged(operands)) for x in here[:count]],
        here[count:],
    )

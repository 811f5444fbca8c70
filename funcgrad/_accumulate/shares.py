"""What each micro-batch counts for: its weight, and its share of a mean."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from .._describe import describe
from .._leaves import is_array
from ..errors import UsageError
from .parts import rows_of
from .reduction import mean
from .task import Task


class Weights(NamedTuple):
    """What each micro-batch counts for.

    Fields:
        weight: for each its weight, `None` where the rows are the weight.
        share: for each its share of the whole, `None` where nothing is multiplied by it.
        total: the sum of the weights over all devices, `None` without.
    """

    weight: Any
    share: Any
    total: Any


def weights_of(task: Task, batch: Any) -> Weights:
    """The weights of a device's micro-batches, and their shares of the whole."""
    parts, weight = task.parts, task.weight
    if weight is None:
        sizes = [parts.size] * parts.full + [parts.rest] * bool(parts.rest)
        shares = [size / (parts.devices * parts.rows) for size in sizes]
        return Weights(None, shares if task.asked.shares else None, None)
    starts = jnp.arange(parts.full) * parts.size
    found = lax.map(lambda start: _weight(weight, rows_of(batch, start, parts.size)), starts)
    if parts.rest:
        last = _weight(weight, rows_of(batch, parts.full * parts.size, parts.rest))
        found = jnp.concatenate([found, last[None]])
    total = jnp.sum(found)
    total = lax.psum(total, task.axes) if task.axes else total
    return Weights(found, mean(found, total, 1) if task.asked.shares else None, total)


def _weight(weight: Callable[..., Any], micro: Any) -> Any:
    """The weight of a micro-batch in float32, or float64 where it has 64 bits."""
    value = weight(*micro)
    if not is_array(value) or jnp.shape(value) != ():
        raise UsageError(
            f"`microbatch` got a `weight` that returns {describe(value)}, and wants one that"
            " returns a scalar: one weight for the whole micro-batch, such as jnp.sum(mask)"
        )
    value = jnp.asarray(value)
    real = jnp.issubdtype(value.dtype, jnp.number) or value.dtype == jnp.bool_
    if not real or jnp.iscomplexobj(value):
        raise UsageError(
            f"`microbatch` got a `weight` that returns {describe(value)}, and wants a real scalar"
        )
    return value.astype(jnp.float64 if value.dtype.itemsize == 8 else jnp.float32)

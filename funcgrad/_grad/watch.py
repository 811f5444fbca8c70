"""`watch`: statistics of a value and of its gradient, in the place of the whole of both."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from .._describe import describe
from .._leaves import is_array
from .._taps import Watching
from ..errors import UsageError
from ..statistics import summary

Statistic = Callable[[Any], Any]
Statistics = Statistic | Mapping[str, Statistic]


def watch(
    value: Statistics | None = None, grad: Statistics | None = None, *, when: Any = None
) -> Watching:
    """What `retain=` takes to ask for statistics of a named value and of its gradient.

    Stands for `wandb.watch` and for plots of the gradient flow. The statistics are computed where
    the value is, and where its gradient is, so that only they leave loops, and not whole arrays.

    Args:
        value: a function of an array to a pytree of small arrays, or a dict of such functions by
            name; see [`funcgrad.statistics`][funcgrad.statistics]. `None` for none.
        grad: the same for the gradient. With neither, both are `statistics.summary`: the root mean
            square, the greatest magnitude, the share of zeros, the count of non-finite numbers.
        when: a bool, traced or not (`step % 100 == 0`): whether anything is computed. Where it is
            false, statistics are NaN; integers are -1, or the greatest there is of an unsigned
            kind, and bools false.

    Returns:
        What `retain=` takes in a dict: names (a name, a tuple, a pattern, `...`) to `watch(...)`,
        or to `...` for the whole value and gradient. Of two entries for a name the later counts.

    In the result `Retained(value, grad)` each leaf of the value is replaced by its statistics, with
    an axis in front for each loop, `vmap` and mesh axis around, as for a retained value: one number
    for each layer of a scanned model. Under a `vmap` inside the function they are of each example,
    in a `shard_map` of what each device has. Where a branch is not taken, and in rows past the last
    step of a loop, they are zero. Integers that a statistic of the gradient returns pass through
    float32, exact to 16,777,216.

    Raises:
        UsageError: `value` or `grad` is not a function or a dict of functions, or gives what is no
            number; `when` is not one bool.

    >>> import jax, jax.numpy as jnp, funcgrad as fg
    >>> def f(w):
    ...     layer = lambda x, w: (fg.retain_grad(w * x, "x"), None)
    ...     return jnp.sum(jax.lax.scan(layer, jnp.ones(8), w)[0])
    >>> asked = {"x": fg.watch(grad=fg.statistics.max_abs)}
    >>> grads, retained = fg.grad(f, retain=asked)(jnp.array([2.0, 3.0]))
    >>> retained["x"]
    Retained(value=None, grad=Array([3., 1.], dtype=float32))
    """
    if value is None and grad is None:
        value = grad = summary
    if when is not None and not (is_array(when) and jnp.ndim(when) == 0):
        raise UsageError(
            f"`watch` got {describe(when)} as `when`, and wants one bool, traced or not:"
            " when=step % 100 == 0"
        )
    return Watching(_statistic(value, "value"), _statistic(grad, "grad"), when)


def _statistic(given: Any, keyword: str) -> Statistic | None:
    if given is None or callable(given):
        return given
    if isinstance(given, Mapping) and given and all(map(callable, given.values())):
        every = dict(given)
        return lambda x: {name: statistic(x) for name, statistic in every.items()}
    raise UsageError(
        f"`watch` got {describe(given)} as `{keyword}`, and wants a function of an array, or a dict"
        " of such functions by name"
    )

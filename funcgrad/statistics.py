"""Statistics for `watch`: functions of one array that give one number or a few.

Each takes an array of any shape and dtype, integers and complex numbers too, and computes in
float32, or in float64 where the array has it. A function of your own may stand wherever one of
these does: from an array to a pytree of small arrays.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._describe import describe, differences
from .errors import TreeError, UsageError


def rms(x: Any) -> Any:
    """The root of the mean of the squares; NaN where `x` has a NaN, or no element.

    >>> import jax.numpy as jnp
    >>> float(rms(jnp.array([3.0, -3.0])))
    3.0
    """
    magnitude = _magnitude(x)
    # Divided by the greatest first, so that squares neither overflow nor vanish; by no number of
    # which the reciprocal is subnormal, which compilers flush to zero.
    tiny = float(jnp.finfo(magnitude.dtype).tiny)
    scale = jnp.max(magnitude, initial=0)
    scale = jnp.where(jnp.isfinite(scale), jnp.clip(scale, tiny, 1 / tiny), jnp.ones_like(scale))
    return scale * jnp.sqrt(jnp.mean(jnp.square(magnitude / scale)))


def max_abs(x: Any) -> Any:
    """The greatest magnitude; 0 where there is no element, NaN where `x` has a NaN.

    >>> import jax.numpy as jnp
    >>> float(max_abs(jnp.array([2.0, -3.0])))
    3.0
    """
    return jnp.max(_magnitude(x), initial=0)


def zero_fraction(x: Any) -> Any:
    """The share of the elements that are exactly zero; NaN where there is no element.

    >>> import jax.numpy as jnp
    >>> float(zero_fraction(jnp.array([0.0, 1.0, 0.0, 2.0])))
    0.5
    """
    return jnp.mean(_floating(x) == 0, dtype=jnp.float32)


def nonfinite_count(x: Any) -> Any:
    """How many elements are NaN or infinite, an int32.

    >>> import jax.numpy as jnp
    >>> int(nonfinite_count(jnp.array([1.0, jnp.nan, jnp.inf])))
    2
    """
    return jnp.sum(~jnp.isfinite(_floating(x)), dtype=jnp.int32)


def histogram(edges: Sequence[float]) -> Callable[[Any], Any]:
    """A statistic: how many elements lie between each two edges, an int32 array.

    As in `numpy.histogram` each bin holds its lower edge, the last one its upper edge too. Elements
    outside, and NaN, are in no bin: put infinite edges at the ends to count all numbers.

    Args:
        edges: increasing numbers, at least two.

    Raises:
        UsageError: there are fewer, or they do not increase.

    >>> import jax.numpy as jnp
    >>> histogram([0, 1, 2])(jnp.array([0.5, 1.0, 2.0, 7.0]))
    Array([1, 2], dtype=int32)
    """
    try:
        bounds = np.asarray(edges, dtype=float)
    except (TypeError, ValueError):  # text, or traced numbers
        bounds = np.zeros(0)
    if bounds.ndim != 1 or bounds.size < 2 or not (bounds[1:] > bounds[:-1]).all():
        raise UsageError(
            f"`histogram` got the edges {describe(edges)}, and wants two or more increasing"
            " numbers, known when the function is traced"
        )

    def counts(x: Any) -> Any:
        x = _floating(x).ravel()
        if jnp.iscomplexobj(x):
            raise UsageError(
                f"`histogram` got {describe(x)}, which has no order, and wants real numbers:"
                " lambda x: histogram(edges)(jnp.abs(x))"
            )
        limits = bounds.astype(x.dtype)
        below = jnp.stack([jnp.sum(x < limit, dtype=jnp.int32) for limit in limits[:-1]])
        return jnp.diff(below, append=jnp.sum(x <= limits[-1], dtype=jnp.int32))

    return counts


def update_ratio(params: Any, updates: Any) -> Any:
    """How large an update is beside what it changes: `rms(update) / rms(param)` for each leaf.

    Args:
        params: a pytree of arrays.
        updates: the steps that an optimizer takes, a pytree like it; `None` where there is none.

    Returns:
        A pytree like `updates` of scalars: infinite or NaN where the parameter is zero.

    Raises:
        TreeError: the two are of different structures.

    >>> import jax.numpy as jnp
    >>> ratio = update_ratio({"w": jnp.array([2.0, 2.0])}, {"w": jnp.array([0.5, -0.5])})
    >>> float(ratio["w"])
    0.25
    """
    if _structure(params) != _structure(updates):
        raise TreeError(
            "`update_ratio` got updates of another structure than the parameters:\n  "
            + "\n  ".join(differences(updates, params))
        )
    return jax.tree.map(
        lambda update, param: None if update is None else rms(update) / rms(param),
        updates,
        params,
        is_leaf=lambda x: x is None,
    )


def summary(x: Any) -> dict[str, Any]:
    """What `watch()` takes: `rms`, `max_abs`, `zero_fraction` and `nonfinite_count`, by name.

    >>> import jax.numpy as jnp
    >>> sorted(summary(jnp.ones(2)))
    ['max_abs', 'nonfinite_count', 'rms', 'zero_fraction']
    """
    every = (rms, max_abs, zero_fraction, nonfinite_count)
    return {statistic.__name__: statistic(x) for statistic in every}


def _structure(tree: Any) -> Any:
    return jax.tree.structure(tree, is_leaf=lambda x: x is None)


def _magnitude(x: Any) -> Any:
    return jnp.abs(_floating(x))  # the least integer has no magnitude among the integers


def _floating(x: Any) -> Any:
    x = jnp.asarray(x)
    wide = x.dtype in (jnp.float32, jnp.float64) or jnp.iscomplexobj(x)
    return x if wide else x.astype(jnp.float32)

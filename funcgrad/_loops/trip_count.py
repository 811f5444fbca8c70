"""How many steps a `fori_loop` takes, from its bounds, and whether that is known before it runs.

A loop with a condition has no count before it runs: `primitive` counts its steps, and gives the
count out as its first result.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from .. import _jax
from .._describe import describe
from ..errors import UsageError


def bounds(lower: Any, upper: Any) -> tuple[Any, Any, int | None]:
    """The bounds in one dtype, and the number of steps where it is known now."""
    for bound in (lower, upper):
        if jnp.shape(bound) != () or not jnp.issubdtype(jnp.result_type(bound), jnp.integer):
            raise UsageError(
                f"`fori_loop` got the bound {describe(bound)}, and wants integer scalars"
            )
    traced = any(map(_jax.is_tracer, (lower, upper)))
    known = None if traced else max(0, int(upper) - int(lower))
    dtypes = {jnp.result_type(bound) for bound in (lower, upper) if hasattr(bound, "dtype")}
    if len(dtypes) > 1:
        raise UsageError(
            f"`fori_loop` got bounds of different dtypes, {describe(lower)} and {describe(upper)};"
            " convert one of them"
        )
    dtype = dtypes.pop() if dtypes else None
    limits = jnp.iinfo(dtype or jnp.result_type(int))
    for bound in (lower, upper):
        if isinstance(bound, int) and not limits.min <= bound <= limits.max:
            raise UsageError(
                f"`fori_loop` got the bound {bound}, which an index of {limits.dtype} cannot reach;"
                " pass both bounds in a wider dtype"
            )
    lower = jnp.asarray(lower, dtype)
    return lower, jnp.asarray(upper, dtype) if known is None else upper, known


def steps_between(lower: Any, upper: Any, known: int | None) -> Any:
    """The number of steps, in a dtype that holds it."""
    if known is not None:
        return np.asarray(known, _wide(lower.dtype))
    low, high = (x.astype(_wide(x.dtype)) for x in (lower, upper))
    return jnp.where(upper > lower, high - low, 0)


def _wide(dtype: Any) -> Any:
    """A dtype in which the difference of a bound to a smaller one does not overflow."""
    return {1: jnp.int32, 2: jnp.int32, 4: jnp.uint32, 8: jnp.uint64}[dtype.itemsize]

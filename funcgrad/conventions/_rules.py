"""Functions of JAX with another derivative: the one mechanism under `funcgrad.conventions`.

A function keeps JAX's value, bit for bit, and takes for each argument the linear map that its
tangent goes through. Forward mode applies the map and reverse mode transposes it, so the two agree,
also where PyTorch's do not; second order differentiates the map itself.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.dtypes import float0

Push = Callable[..., Any]


def with_rule(value: Callable[..., jax.Array], *pushes: Push) -> Callable[..., jax.Array]:
    """The function `value` of positional arguments, differentiated by `pushes`.

    Args:
        value: a function of as many arguments as there are pushes, or more: what those further ones
            do to `out` is not differentiated.
        pushes: for each argument `push(t, out, *args)`: what its tangent `t` adds to the tangent of
            `out`, linear in `t`; its shape broadcasts to that of `out`. An argument without a
            tangent is not asked, so that a constant exponent costs nothing and brings no NaN.

    >>> import jax
    >>> steep = with_rule(jnp.sin, lambda t, out, x: 10 * t)
    >>> jax.value_and_grad(steep)(0.0)
    (Array(0., dtype=float32, weak_type=True), Array(10., dtype=float32, weak_type=True))
    """
    function: jax.custom_jvp[jax.Array] = jax.custom_jvp(value)

    def rule(primals: Any, tangents: Any) -> Any:
        out = function(*primals)
        tangent = jnp.zeros_like(out)
        for push, t in zip(pushes, tangents, strict=False):
            if not isinstance(t, SymbolicZero) and t.dtype != float0:
                tangent = tangent + push(t, out, *primals).astype(out.dtype)
        return out, tangent

    function.defjvp(rule, symbolic_zeros=True)
    return function


def weighted(t: Any, weights: Any, out: Any) -> Any:
    """`t` times `weights`; the real part of `t` times their conjugate where `out` is real."""
    if jnp.iscomplexobj(t) and not jnp.iscomplexobj(out):
        return jnp.real(t * jnp.conj(weights))
    return t * weights


def where_zero(zero: Any, x: Any) -> Any:
    """`x`, and 1 where `zero` holds: what may be divided by."""
    return jnp.where(zero, jnp.ones_like(x), x)


def sgn(x: Any) -> Any:
    """The sign, 0 at 0 and at NaN: PyTorch's derivative of `abs`; z / |z| of complex numbers."""
    if jnp.iscomplexobj(x):
        size = jnp.abs(x)
        zero = size == 0
        return jnp.where(zero, 0, x / where_zero(zero, size).astype(x.dtype))
    one = jnp.ones_like(x)
    return jnp.where(x > 0, one, jnp.where(x < 0, -one, 0 * one))

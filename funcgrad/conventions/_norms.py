"""Norms and standard deviations, whose gradient at zero is 0 in PyTorch and NaN in JAX."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from ._elementwise import abs
from ._rules import sgn, weighted, where_zero, with_rule
from ._ties import extreme


def norm(
    x: ArrayLike,
    ord: float | str | None = None,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> jax.Array:
    """The norm of vectors or matrices; its gradient at zero is 0.

    Stands for `torch.linalg.norm` (and `torch.norm`, `torch.cdist` with differences), and is
    `jnp.linalg.norm` but for gradients

    - at the zero vector or matrix, `ord` 2, `"fro"` or `None`, or another number p: 0 here and in
      PyTorch, NaN in JAX;
    - of zero elements: with `ord=1` 0 here and in PyTorch, 1 in JAX; with p below 1 0 here and in
      PyTorch, infinite or NaN in JAX; the same for the elements of matrices with `ord` 1, -1, inf
      and -inf;
    - of vectors and matrices of zeros with `ord=inf` and matrices of zeros with `ord=2`: JAX gives
      part of it away.

    Where several elements, rows, columns or singular values are the greatest (or least), they share
    the gradient in both libraries.

    Args:
        x: a real or complex array.
        ord: the order, as in `jnp.linalg.norm`.
        axis: one axis for vectors, two for matrices, or `None`.
        keepdims: keeps the axes as axes of size 1.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> x = jnp.zeros(2)
    >>> jax.grad(conventions.norm)(x), jax.grad(jnp.linalg.norm)(x)
    (Array([0., 0.], dtype=float32), Array([nan, nan], dtype=float32))
    """
    shape = jnp.shape(x)
    if axis is None and not (len(shape) == 2 and ord is not None):
        axes = tuple(range(len(shape)))
        matrix = False
    else:
        axes = tuple(range(2)) if axis is None else (axis if isinstance(axis, tuple) else (axis,))
        matrix = len(axes) == 2 and ord not in (None, "f", "fro")
    value = lambda x: jnp.linalg.norm(x, ord, axis, keepdims)  # noqa: E731
    if matrix:
        return _matrix_norm(value, x, ord, axes, keepdims)
    return _vector_norm(value, x, 2 if ord in (None, "f", "fro") else ord, axes, keepdims)


def vector_norm(
    x: ArrayLike,
    /,
    *,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
    ord: float | str = 2,
) -> jax.Array:
    """The norm of vectors, over any number of axes; its gradient at zero is 0.

    Stands for `torch.linalg.vector_norm`, and differs from `jnp.linalg.vector_norm` as
    [`norm`][funcgrad.conventions.norm] does: 0 here and in PyTorch at zero, NaN in JAX.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> x = jnp.zeros((2, 2))
    >>> bool(jnp.all(jax.grad(conventions.vector_norm)(x) == 0))
    True
    >>> bool(jnp.all(jnp.isnan(jax.grad(jnp.linalg.vector_norm)(x))))
    True
    """
    axes = range(jnp.ndim(x)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    of_vectors: Any = jnp.linalg.vector_norm  # its type leaves out orders that are no integers
    value = functools.partial(of_vectors, axis=axis, keepdims=keepdims, ord=ord)
    return _vector_norm(value, x, ord, tuple(axes), keepdims)


def matrix_norm(x: ArrayLike, /, *, keepdims: bool = False, ord: float | str = "fro") -> jax.Array:
    """The norm of the matrices in the last two axes; its gradient at zero is 0.

    Stands for `torch.linalg.matrix_norm`, and differs from `jnp.linalg.matrix_norm` as
    [`norm`][funcgrad.conventions.norm] does: 0 here and in PyTorch at zero, NaN in JAX.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> jax.grad(conventions.matrix_norm)(jnp.zeros((1, 2)))
    Array([[0., 0.]], dtype=float32)
    >>> jax.grad(jnp.linalg.matrix_norm)(jnp.zeros((1, 2)))
    Array([[nan, nan]], dtype=float32)
    """
    return norm(x, ord, (-2, -1), keepdims)


def _vector_norm(
    value: Callable[..., jax.Array], x: ArrayLike, ord: Any, axes: tuple[int, ...], keepdims: bool
) -> jax.Array:
    if ord == jnp.inf or ord == -jnp.inf:
        # JAX starts the maximum from 0, and lets that 0 take part in a tie.
        jax.eval_shape(value, x)  # so that JAX refuses what it does not take
        return _end(ord, abs(x), axes, keepdims)
    if ord == 0:
        return value(x)

    def push(t: Any, out: Any, x: Any) -> Any:
        whole = out if keepdims else jnp.expand_dims(out, axes)
        return jnp.sum(weighted(t, _direction(x, whole, ord), out), axis=axes, keepdims=keepdims)

    return with_rule(value, push)(x)


def _direction(x: Any, norm: Any, p: Any) -> Any:
    """The gradient of the p-norm: sgn(x) (|x| / norm)**(p - 1), and 0 where x or the norm is 0."""
    zero = norm == 0
    if p == 1:
        return sgn(x)
    if p == 2:
        return jnp.where(zero, 0, x / where_zero(zero, norm).astype(x.dtype))
    zero = zero | (x == 0)
    ratio = jnp.abs(where_zero(zero, x)) / where_zero(norm == 0, norm)
    return jnp.where(zero, 0, sgn(x) * (ratio ** (p - 1)).astype(x.dtype))


def _matrix_norm(
    value: Callable[..., jax.Array], x: ArrayLike, ord: Any, axes: tuple[int, ...], keepdims: bool
) -> jax.Array:
    jax.eval_shape(value, x)  # so that JAX refuses what it does not take
    if ord in (1, -1, jnp.inf, -jnp.inf):
        rows, columns = (i % jnp.ndim(x) for i in axes)
        inner, outer = (rows, columns) if ord in (1, -1) else (columns, rows)
        sums = jnp.sum(abs(x), axis=inner, keepdims=True)
        out = _end(ord, sums, outer, True)
        return out if keepdims else jnp.squeeze(out, axes)
    if ord in (2, -2):
        lengths = jnp.linalg.svd(jnp.moveaxis(x, axes, (-2, -1)), compute_uv=False)
        out = _end(ord, lengths, -1)
        return jnp.expand_dims(out, axes) if keepdims else out
    return value(x)


def _end(ord: Any, x: jax.Array, axis: Any, keepdims: bool = False) -> jax.Array:
    """The greatest for a positive order and the least for a negative one; equals share."""
    if ord > 0:
        return extreme(jnp.max, x, axis, keepdims, share=True, initial=0)
    return extreme(jnp.min, x, axis, keepdims, share=True)


def std(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    dtype: DTypeLike | None = None,
    out: None = None,
    ddof: int = 0,
    keepdims: bool = False,
    *,
    where: ArrayLike | None = None,
    mean: ArrayLike | None = None,
    correction: Any = None,
) -> jax.Array:
    """The standard deviation; its gradient where all elements are equal is 0.

    Stands for `torch.std` (which has `ddof=1` where NumPy and JAX have 0), and is `jnp.std` but for
    the gradient of equal elements: 0 here and in PyTorch, NaN in JAX. (`jnp.var` needs nothing.)

    The arguments are those of `jnp.std`, all of them.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> jax.grad(conventions.std)(jnp.ones(2)), jax.grad(jnp.std)(jnp.ones(2))
    (Array([0., 0.], dtype=float32), Array([nan, nan], dtype=float32))
    """
    var: Any = jnp.var  # its type stub lacks `mean` and `correction`
    variance = var(
        a, axis, dtype, out, ddof, keepdims, where=where, mean=mean, correction=correction
    )
    return _root(variance)


def _push_root(t: Any, out: Any, x: Any) -> Any:
    zero = out == 0
    return jnp.where(zero, 0, t / (2 * where_zero(zero, out)))


_root = with_rule(jnp.sqrt, _push_root)

"""Reductions and orderings with PyTorch's choice of which of several equals takes the gradient."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from ._rules import where_zero, with_rule


def max(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    out: None = None,
    keepdims: bool = False,
    initial: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    """The maximum; along one axis the first of equals takes the gradient, else all share it.

    Stands for `torch.max`: `torch.max(x, dim)`, whose gradient goes to the element at the index it
    returns, the first, where `axis` is an integer; and `torch.max(x)`, whose gradient all equals
    share, where `axis` is `None` or a tuple. `jnp.max` shares always, as `torch.amax` does: for
    that one take `jnp.amax`. NaNs are equals too.

    Args:
        a: a real array.
        axis: an axis, several, or `None` for all.
        out: refused, as by JAX.
        keepdims: keeps the axes as axes of size 1.
        initial: a floor for the result; a constant here, it takes no gradient, nor part of a tie.
        where: the elements to look at.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> x = jnp.array([2.0, 1.0, 2.0])
    >>> jax.grad(lambda x: conventions.max(x, axis=0))(x), jax.grad(lambda x: jnp.max(x, axis=0))(x)
    (Array([1., 0., 0.], dtype=float32), Array([0.5, 0. , 0.5], dtype=float32))
    """
    return extreme(jnp.max, a, axis, keepdims, out=out, initial=initial, where=where)


def min(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    out: None = None,
    keepdims: bool = False,
    initial: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    """The minimum; along one axis the first of equals takes the gradient, else all share it.

    Stands for `torch.min`, and differs from `jnp.min` as [`max`][funcgrad.conventions.max] does
    from `jnp.max`: (1, 0, 0) here and in PyTorch, (0.5, 0, 0.5) in JAX.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> x = jnp.array([1.0, 2.0, 1.0])
    >>> jax.grad(lambda x: conventions.min(x, axis=0))(x), jax.grad(lambda x: jnp.min(x, axis=0))(x)
    (Array([1., 0., 0.], dtype=float32), Array([0.5, 0. , 0.5], dtype=float32))
    """
    return extreme(jnp.min, a, axis, keepdims, out=out, initial=initial, where=where)


def extreme(
    value: Callable[..., jax.Array],
    a: ArrayLike,
    axis: Any,
    keepdims: bool,
    *,
    share: bool = False,
    where: ArrayLike | None = None,
    **options: Any,
) -> jax.Array:
    """What `value` picks along `axis`; the first of equals takes the gradient, or all share it."""
    reduce = functools.partial(value, axis=axis, where=where, **options)

    def push(t: Any, out: Any, a: Any) -> Any:
        chosen = _equal(a, out if keepdims else _restored(out, a, axis))
        if where is not None:
            chosen = chosen & where
        alone = is_index(axis) and jnp.ndim(a) > 0 and not share
        weights = _first(chosen, axis) if alone else _shares(chosen, axis, t.dtype)
        return jnp.sum(t * weights.astype(t.dtype), axis=axis, keepdims=keepdims)

    return with_rule(lambda a: reduce(a, keepdims=keepdims), push)(a)


def is_index(axis: Any) -> bool:
    """Whether it is one axis: an integer, of Python or of NumPy."""
    return hasattr(axis, "__index__")


def _restored(out: Any, a: Any, axis: Any) -> Any:
    """`out` with the reduced axes back as axes of size 1."""
    axes = tuple(range(jnp.ndim(a))) if axis is None else axis
    return jnp.expand_dims(out, axes)


def _equal(a: Any, b: Any) -> Any:
    """Whether two are equal, NaN being equal to NaN."""
    return (a == b) | (jnp.isnan(a) & jnp.isnan(b))


def _first(chosen: Any, axis: int) -> Any:
    """The first `True` along an axis, alone."""
    index = jnp.argmax(chosen, axis=axis, keepdims=True)
    return chosen & (lax.broadcasted_iota(index.dtype, chosen.shape, axis % chosen.ndim) == index)


def _shares(chosen: Any, axis: Any, dtype: Any) -> Any:
    """Equal shares of 1 for what is chosen; all 0 where nothing is."""
    count = jnp.sum(chosen, axis=axis, keepdims=True)
    return chosen.astype(dtype) / where_zero(count == 0, count).astype(dtype)


def median(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    out: None = None,
    overwrite_input: bool = False,
    keepdims: bool = False,
) -> jax.Array:
    """The median; over all elements, those equal to it share the gradient.

    Stands for `torch.median`, and is `jnp.median` but where `axis` is `None` or a tuple: every
    element equal to the median takes an equal share, here and in PyTorch; in JAX the one (or the
    two) that sorting puts in the middle. Along one axis both libraries take that one.

    The value is that of `jnp.median`: of an even count the mean of the middle two, each of them
    with half the gradient, where `torch.median` takes the lower one; that is
    `jnp.quantile(a, 0.5, method="lower")`, and `torch.quantile(a, 0.5)` is the mean.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> x = jnp.array([2.0, 2.0, 5.0])
    >>> jax.grad(conventions.median)(x), jax.grad(jnp.median)(x)
    (Array([0.5, 0.5, 0. ], dtype=float32), Array([0., 1., 0.], dtype=float32))
    """
    return _median(jnp.median, a, axis, keepdims, out=out, overwrite_input=overwrite_input)


def nanmedian(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    out: None = None,
    overwrite_input: bool = False,
    keepdims: bool = False,
) -> jax.Array:
    """The median of what is not NaN; over all elements, those equal to it share the gradient.

    Stands for `torch.nanmedian`, and differs from `jnp.nanmedian` as
    [`median`][funcgrad.conventions.median] does from `jnp.median`: (1/2, 1/2, 0) for (2, 2, 5) here
    and in PyTorch, (0, 1, 0) in JAX.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> x = jnp.array([2.0, jnp.nan, 2.0, 5.0])
    >>> jax.grad(conventions.nanmedian)(x), jax.grad(jnp.nanmedian)(x)
    (Array([0.5, 0. , 0.5, 0. ], dtype=float32), Array([0., 0., 1., 0.], dtype=float32))
    """
    return _median(jnp.nanmedian, a, axis, keepdims, out=out, overwrite_input=overwrite_input)


def _median(
    value: Callable[..., jax.Array], a: ArrayLike, axis: Any, keepdims: bool, **options: Any
) -> jax.Array:
    reduce = functools.partial(value, axis=axis, keepdims=keepdims, **options)
    if is_index(axis) or jnp.ndim(a) == 0:
        return reduce(a)

    def push(t: Any, out: Any, a: Any) -> Any:
        whole = out if keepdims else _restored(out, a, axis)
        rank = jnp.sum(~jnp.isnan(a), axis=axis, keepdims=True) - 1
        ordered = _sorted_lines(a, axis)
        middle = (_at(ordered, rank, step) for step in (0, 1))
        ends = (jnp.where(jnp.isnan(whole), whole, end.reshape(whole.shape)) for end in middle)
        shares = [_shares(_equal(a, end), axis, t.dtype) for end in ends]
        return jnp.sum(t * (shares[0] + shares[1]) / 2, axis=axis, keepdims=keepdims)

    return with_rule(reduce, push)(a)


def _sorted_lines(a: Any, axis: Any) -> Any:
    """`a` with the axes to reduce last, as one, which is sorted."""
    axes = range(a.ndim) if axis is None else sorted(i % a.ndim for i in axis)
    moved = jnp.moveaxis(a, tuple(axes), tuple(range(-len(axes), 0)))
    return jnp.sort(moved.reshape(*moved.shape[: a.ndim - len(axes)], -1), axis=-1)


def _at(ordered: Any, rank: Any, step: int) -> Any:
    """The lower (step 0) or upper (step 1) middle of each line, whose last index is `rank`."""
    index = jnp.maximum((rank + step) // 2, 0).reshape(*ordered.shape[:-1], 1)
    return jnp.take_along_axis(ordered, index, axis=-1)


def nanmean(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    dtype: DTypeLike | None = None,
    out: None = None,
    keepdims: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array:
    """The mean of what is not NaN; where all is NaN, so is the gradient.

    Stands for `torch.nanmean`, and is `jnp.nanmean` but for the gradient where nothing is left to
    take the mean of: NaN here and in PyTorch, 0 in JAX. The value is NaN in both.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> x = jnp.array([jnp.nan, jnp.nan])
    >>> jax.grad(conventions.nanmean)(x), jax.grad(jnp.nanmean)(x)
    (Array([nan, nan], dtype=float32), Array([0., 0.], dtype=float32))
    """
    mean = functools.partial(
        jnp.nanmean, axis=axis, dtype=dtype, out=out, keepdims=keepdims, where=where
    )

    def push(t: Any, out: Any, a: Any) -> Any:
        taken = ~jnp.isnan(a) if where is None else ~jnp.isnan(a) & where
        count = jnp.sum(taken, axis=axis, keepdims=True)
        shares = taken.astype(out.dtype) / where_zero(count == 0, count).astype(out.dtype)
        weights = jnp.where(count == 0, jnp.nan, shares)
        return jnp.sum(t.astype(out.dtype) * weights, axis=axis, keepdims=keepdims)

    return with_rule(mean, push)(a)


def sort(
    a: ArrayLike,
    axis: int | None = -1,
    *,
    kind: None = None,
    order: None = None,
    stable: bool = True,
    descending: bool = False,
) -> jax.Array:
    """Sorts; equals keep their order, also when descending, and so do their gradients.

    Stands for `torch.sort(..., stable=True)`, and is `jnp.sort` but for the gradients of equals in
    a descending sort: in the order of the array here and in PyTorch, in reverse in JAX. (PyTorch's
    default, `stable=False`, leaves the order of equals open, and they do change places.)

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> x, first = jnp.array([1.0, 1.0]), lambda sort: lambda x: sort(x, descending=True)[0]
    >>> jax.grad(first(conventions.sort))(x), jax.grad(first(jnp.sort))(x)
    (Array([1., 0.], dtype=float32), Array([0., 1.], dtype=float32))
    """
    if not descending:
        return jnp.sort(a, axis, kind=kind, order=order, stable=stable)

    def push(t: Any, out: Any, a: Any) -> Any:
        places = jnp.argsort(a, axis, stable=True, descending=True)
        return jnp.take_along_axis(t, places, axis)

    value = functools.partial(
        jnp.sort, axis=axis, kind=kind, order=order, stable=stable, descending=True
    )
    return with_rule(value, push)(a)


def cummax(operand: ArrayLike, axis: int = 0, reverse: bool = False) -> jax.Array:
    """The running maximum; the last of equals takes the gradient.

    Stands for `torch.cummax`, and is `jax.lax.cummax` but for the gradient of a tie: to the last of
    the equals so far here and in PyTorch, halved at each tie in JAX.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> x, last = jnp.ones(3), lambda cummax: lambda x: cummax(x)[2]
    >>> jax.grad(last(conventions.cummax))(x), jax.grad(last(jax.lax.cummax))(x)
    (Array([0., 0., 1.], dtype=float32), Array([0.25, 0.25, 0.5 ], dtype=float32))
    """
    return _running(lax.cummax, operand, axis, reverse)


def cummin(operand: ArrayLike, axis: int = 0, reverse: bool = False) -> jax.Array:
    """The running minimum; the last of equals takes the gradient.

    Stands for `torch.cummin`, and differs from `jax.lax.cummin` as
    [`cummax`][funcgrad.conventions.cummax] does from `jax.lax.cummax`: (0, 0, 1) for the last of
    three equals here and in PyTorch, (0.25, 0.25, 0.5) in JAX.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> x, last = jnp.ones(3), lambda cummin: lambda x: cummin(x)[2]
    >>> jax.grad(last(conventions.cummin))(x), jax.grad(last(jax.lax.cummin))(x)
    (Array([0., 0., 1.], dtype=float32), Array([0.25, 0.25, 0.5 ], dtype=float32))
    """
    return _running(lax.cummin, operand, axis, reverse)


def _running(
    value: Callable[..., jax.Array], operand: ArrayLike, axis: int, reverse: bool
) -> jax.Array:
    def push(t: Any, out: Any, x: Any) -> Any:
        places = lax.broadcasted_iota(jnp.int32, x.shape, axis % x.ndim)
        last = lax.cummin if reverse else lax.cummax
        unset = x.shape[axis] - 1 if reverse else 0
        index = last(jnp.where(_equal(x, out), places, unset), axis, reverse)
        return jnp.take_along_axis(t, index, axis)

    return with_rule(lambda x: value(x, axis, reverse), push)(jnp.asarray(operand))

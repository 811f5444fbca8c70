"""Elementwise functions of `jax.numpy` and `jax.nn` with PyTorch's derivative at their kinks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ._rules import sgn, where_zero, with_rule

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def abs(x: ArrayLike, /) -> jax.Array:
    """The absolute value; its gradient at 0 is 0.

    Stands for `torch.abs`, and is `jnp.abs` but for the gradient at 0 of a real `x`: 0 here and in
    PyTorch, 1 in JAX. At NaN it is 0 as in PyTorch (-1 in JAX). Complex `x` as in JAX, 0 at 0 too.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> jax.grad(conventions.abs)(0.0), jax.grad(jnp.abs)(0.0)
    (Array(0., dtype=float32, weak_type=True), Array(1., dtype=float32, weak_type=True))
    """
    return jnp.abs(x) if jnp.iscomplexobj(x) else _abs(x)


absolute = abs
_abs = with_rule(jnp.abs, lambda t, out, x: t * sgn(x))


def sign(x: ArrayLike, /) -> jax.Array:
    """The sign, z / |z| of a complex number, whose gradient is not 0.

    Stands for `torch.sgn`, and is `jnp.sign` but for the gradient of a complex `x`: that of z / |z|
    here and in PyTorch (0 at z = 0), and 0 everywhere in JAX 0.10 (0.12 has PyTorch's). Real `x`
    has gradient 0 in both.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> real_part = lambda sign: lambda a: jnp.real(sign(a + 2j))
    >>> jax.grad(real_part(conventions.sign))(0.0)
    Array(0.5, dtype=float32, weak_type=True)
    """
    return _sign(x) if jnp.iscomplexobj(x) else jnp.sign(x)


def _push_sign(t: Any, out: Any, x: Any) -> Any:
    size = jnp.abs(x)
    turned = t - out * jnp.real(t * jnp.conj(out)).astype(t.dtype)
    return jnp.where(size == 0, 0, turned / where_zero(size == 0, size).astype(t.dtype))


_sign = with_rule(jnp.sign, _push_sign)


def angle(z: ArrayLike, deg: bool = False) -> jax.Array:
    """The argument of a complex number; its gradient at 0 is 0.

    Stands for `torch.angle`, and is `jnp.angle` but for the gradient at 0, of a real `z` too: 0
    here and in PyTorch, NaN in JAX.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> along = lambda angle: lambda a: angle(a + 1j * a)
    >>> jax.grad(along(conventions.angle))(0.0), jax.grad(along(jnp.angle))(0.0)
    (Array(0., dtype=float32, weak_type=True), Array(nan, dtype=float32, weak_type=True))
    """

    def push(t: Any, out: Any, z: Any) -> Any:
        if not jnp.iscomplexobj(z):
            return jnp.zeros_like(t)
        zero = z == 0
        turned = jnp.where(zero, 0, jnp.imag(t / where_zero(zero, z)))
        return turned * (180 / jnp.pi) if deg else turned

    return with_rule(lambda z: jnp.angle(z, deg), push)(z)


def clip(
    arr: ArrayLike | None = None, /, min: ArrayLike | None = None, max: ArrayLike | None = None
) -> jax.Array:
    """Clips to bounds; at a bound the whole gradient goes to the clipped value.

    Stands for `torch.clamp`, and is `jnp.clip` but for the gradient where `arr` equals a bound: all
    of it to `arr` and none to the bound, here and in PyTorch; in JAX half to each. Where
    `min > max` it goes to `max` alone; where `min == max` none goes to `min`, as in PyTorch.

    Args:
        arr: a real array or number.
        min: the lower bound, which broadcasts with `arr`; `None` is no bound.
        max: the upper bound, likewise.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> x = jnp.array([-1.0, 0.0, 0.5, 1.0])
    >>> jax.grad(lambda x: conventions.clip(x, 0.0, 1.0).sum())(x)
    Array([0., 1., 1., 1.], dtype=float32)
    >>> jax.grad(lambda x: jnp.clip(x, 0.0, 1.0).sum())(x)
    Array([0. , 0.5, 1. , 0.5], dtype=float32)
    """
    if min is None and max is None:
        return jnp.clip(arr)
    if max is None:
        return _clip_below(arr, min)
    if min is None:
        return _clip_above(arr, max)
    return _clip(arr, min, max)


def _kept(t: Any, where: Any) -> Any:
    return jnp.where(where, t, jnp.zeros_like(t))


_clip = with_rule(
    lambda x, low, high: jnp.clip(x, low, high),
    lambda t, out, x, low, high: _kept(t, (x >= low) & (x <= high)),
    lambda t, out, x, low, high: _kept(t, (x < low) & (low < high)),
    lambda t, out, x, low, high: _kept(t, (x > high) | (low > high)),
)
_clip_below = with_rule(
    lambda x, low: jnp.clip(x, low),
    lambda t, out, x, low: _kept(t, x >= low),
    lambda t, out, x, low: _kept(t, x < low),
)
_clip_above = with_rule(
    lambda x, high: jnp.clip(x, None, high),
    lambda t, out, x, high: _kept(t, x <= high),
    lambda t, out, x, high: _kept(t, x > high),
)


def fmax(x1: ArrayLike, x2: ArrayLike) -> jax.Array:
    """The greater of two, numbers before NaN; of equals the first takes the gradient.

    Stands for `torch.fmax`, and is `jnp.fmax` but for the gradient of a tie: (1, 0) here and in
    PyTorch, (0, 1) in JAX. (`jnp.maximum` needs nothing: both libraries share a tie half and half.)
    PyTorch's forward mode gives (0, 1).

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> jax.jacobian(conventions.fmax, (0, 1))(2.0, 2.0)[0]
    Array(1., dtype=float32, weak_type=True)
    >>> jax.jacobian(jnp.fmax, (0, 1))(2.0, 2.0)[0]
    Array(0., dtype=float32, weak_type=True)
    """
    return _fmax(x1, x2)


def fmin(x1: ArrayLike, x2: ArrayLike) -> jax.Array:
    """The lesser of two, numbers before NaN; of equals the first takes the gradient.

    Stands for `torch.fmin`, and is `jnp.fmin` but for the gradient of a tie: (1, 0) here and in
    PyTorch, (0, 1) in JAX.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> jax.grad(conventions.fmin)(2.0, 2.0), jax.grad(jnp.fmin)(2.0, 2.0)
    (Array(1., dtype=float32, weak_type=True), Array(0., dtype=float32, weak_type=True))
    """
    return _fmin(x1, x2)


_fmax = with_rule(
    jnp.fmax,
    lambda t, out, x, y: _kept(t, (x >= y) | jnp.isnan(y)),
    lambda t, out, x, y: _kept(t, ~((x >= y) | jnp.isnan(y))),
)
_fmin = with_rule(
    jnp.fmin,
    lambda t, out, x, y: _kept(t, (x <= y) | jnp.isnan(y)),
    lambda t, out, x, y: _kept(t, ~((x <= y) | jnp.isnan(y))),
)


def arctan2(x1: ArrayLike, x2: ArrayLike, /) -> jax.Array:
    """The angle of the point (x2, x1); its gradient at the origin is 0.

    Stands for `torch.atan2`, and is `jnp.arctan2` but for the gradient at (0, 0): (0, 0) here and
    in PyTorch, NaN in JAX and in PyTorch's forward mode.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> jax.grad(conventions.arctan2)(0.0, 0.0), jax.grad(jnp.arctan2)(0.0, 0.0)
    (Array(0., dtype=float32, weak_type=True), Array(nan, dtype=float32, weak_type=True))
    """
    return _arctan2(x1, x2)


atan2 = arctan2


def _over_square(t: Any, a: Any, x: Any, y: Any) -> Any:
    square = x * x + y * y
    return jnp.where(square == 0, 0, t * a / where_zero(square == 0, square))


_arctan2 = with_rule(
    jnp.arctan2,
    lambda t, out, x, y: _over_square(t, y, x, y),
    lambda t, out, x, y: _over_square(t, -x, x, y),
)


def hypot(x1: ArrayLike, x2: ArrayLike, /) -> jax.Array:
    """The length of (x1, x2); its gradient at the origin is NaN.

    Stands for `torch.hypot`, and is `jnp.hypot` but for the gradient at (0, 0): NaN here and in
    PyTorch, (0.5, 0.5) in JAX 0.10 (0.12: NaN). For 0 there take
    [`norm`][funcgrad.conventions.norm] instead.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> jax.grad(conventions.hypot)(0.0, 0.0)
    Array(nan, dtype=float32, weak_type=True)
    """
    return _hypot(x1, x2)


_hypot = with_rule(
    jnp.hypot,
    lambda t, out, x, y: t * (x / out),
    lambda t, out, x, y: t * (y / out),
)


def copysign(x1: ArrayLike, x2: ArrayLike, /) -> jax.Array:
    """The size of `x1` with the sign of `x2`; its gradient at x1 = 0 is 0.

    Stands for `torch.copysign`, and is `jnp.copysign` but for the gradient at `x1 == 0`: 0 here and
    in PyTorch, 1 or -1 in JAX.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> jax.grad(conventions.copysign)(0.0, 2.0), jax.grad(jnp.copysign)(0.0, 2.0)
    (Array(0., dtype=float32, weak_type=True), Array(1., dtype=float32, weak_type=True))
    """
    return _copysign(x1, x2)


_copysign = with_rule(
    jnp.copysign,
    lambda t, out, x, y: t * sgn(x) * sgn(out),
    lambda t, out, x, y: jnp.zeros_like(t),
)


def ldexp(x1: ArrayLike, x2: ArrayLike, /) -> jax.Array:
    """`x1` times two to the power of the integer `x2`, with that gradient also at x1 = 0.

    Stands for `torch.ldexp`, and is `jnp.ldexp` but for the gradient at `x1 == 0`: 2**x2 here and
    in PyTorch, 1 in JAX 0.10 (0.12: 2**x2).

    >>> import jax
    >>> from funcgrad import conventions
    >>> jax.grad(conventions.ldexp)(0.0, 3)
    Array(8., dtype=float32, weak_type=True)
    """
    return _ldexp(x1, x2)


_ldexp = with_rule(jnp.ldexp, lambda t, out, x, n: t * jnp.ldexp(jnp.ones_like(t), n))


def power(x1: ArrayLike, x2: ArrayLike, /) -> jax.Array:
    """`x1` to the power of `x2`; x**0 has gradient 0 also at x = 0.

    Stands for `torch.pow` and `**`, and is `jnp.power` but for the gradient with respect to `x1` at
    0**0: 0 here and in PyTorch, NaN in JAX unless the exponent is a Python integer. With that
    x**1. has second derivative 0 at 0, where JAX has NaN. A negative base has NaN for the gradient
    of the exponent in both.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> zero = jnp.zeros(1)[0]
    >>> jax.grad(conventions.power)(zero, zero), jax.grad(jnp.power)(zero, zero)
    (Array(0., dtype=float32), Array(nan, dtype=float32))
    """
    if isinstance(x2, int | float | complex | np.generic):
        # JAX takes such an exponent as a constant of the program, and rounds accordingly.
        return with_rule(lambda x: jnp.power(x, x2), lambda t, out, x: t * _slope(power, x, x2))(x1)
    return _power(x1, x2)


pow = power


def float_power(x: ArrayLike, y: ArrayLike, /) -> jax.Array:
    """`power` in the widest floating type; x**0 has gradient 0 also at x = 0.

    Stands for `torch.float_power`, and is `jnp.float_power` but for the gradient with respect to
    `x` at 0**0: 0 here and in PyTorch, NaN in JAX.

    >>> import jax, jax.numpy as jnp
    >>> from funcgrad import conventions
    >>> zero = jnp.zeros(1)[0]
    >>> jax.grad(conventions.float_power)(zero, zero), jax.grad(jnp.float_power)(zero, zero)
    (Array(0., dtype=float32), Array(nan, dtype=float32))
    """
    return _float_power(x, y)


def _slope(power: Any, x: Any, y: Any) -> Any:
    """The derivative of x**y with respect to x: y x**(y - 1), and 0 at x**0."""
    none = (y == 0) & ((x == 0) | jnp.isnan(x))
    if jnp.issubdtype(jnp.result_type(y), jnp.unsignedinteger):
        return jnp.where(y == 0, 0, y * power(x, jnp.maximum(y, 1) - 1))
    return jnp.where(none, 0, y * power(jnp.where(none, 1, x), y - 1))


def _push_exponent(t: Any, out: Any, x: Any, y: Any) -> Any:
    flat = (x == 0) & (y >= 0)
    return jnp.where(flat, 0, t * out * jnp.log(jnp.where(flat, 1, x)))


_power: Callable[..., jax.Array] = with_rule(
    jnp.power,
    lambda t, out, x, y: t * _slope(_power, x, y),
    _push_exponent,
)
_float_power: Callable[..., jax.Array] = with_rule(
    jnp.float_power,
    lambda t, out, x, y: t * _slope(_float_power, x, y),
    _push_exponent,
)


def xlogy(x: ArrayLike, y: ArrayLike) -> jax.Array:
    """`x log(y)`, and 0 where x = 0; its gradient with respect to x is 0 at (0, 0).

    Stands for `torch.xlogy` (and for what `torch.nn.functional.kl_div` makes of its target), and is
    `jax.scipy.special.xlogy` but for the gradient with respect to `x` where it is 0 and `y` is not
    above 0: 0 here and in PyTorch, infinite or NaN in JAX. That of `y` is x / y in both.

    >>> import jax
    >>> from funcgrad import conventions
    >>> jax.grad(conventions.xlogy)(0.0, 0.0), jax.grad(jax.scipy.special.xlogy)(0.0, 0.0)
    (Array(0., dtype=float32, weak_type=True), Array(-inf, dtype=float32, weak_type=True))
    """
    return _xlogy(x, y)


def xlog1py(x: ArrayLike, y: ArrayLike) -> jax.Array:
    """`x log(1 + y)`, and 0 where x = 0; its gradient with respect to x is 0 at (0, -1).

    Stands for `torch.special.xlog1py`, and differs from `jax.scipy.special.xlog1py` as
    [`xlogy`][funcgrad.conventions.xlogy] does from `jax.scipy.special.xlogy`: 0 here and in PyTorch
    where `x` is 0 and `y` is not above -1, infinite or NaN in JAX.

    >>> import jax
    >>> from funcgrad import conventions
    >>> jax.grad(conventions.xlog1py)(0.0, -1.0), jax.grad(jax.scipy.special.xlog1py)(0.0, -1.0)
    (Array(0., dtype=float32, weak_type=True), Array(-inf, dtype=float32, weak_type=True))
    """
    return _xlog1py(x, y)


def _special(name: str) -> Callable[..., jax.Array]:
    """A function of `jax.scipy.special`, which is imported where it is called."""

    def value(x: ArrayLike, y: ArrayLike) -> jax.Array:
        from jax.scipy import special

        found: jax.Array = getattr(special, name)(x, y)
        return found

    return value


_xlogy = with_rule(
    _special("xlogy"),
    lambda t, out, x, y: t * jnp.where((x == 0) & (y <= 0), 0, jnp.log(y)),
    lambda t, out, x, y: t * (x / y),
)
_xlog1py = with_rule(
    _special("xlog1py"),
    lambda t, out, x, y: t * jnp.where((x == 0) & (y <= -1), 0, jnp.log1p(y)),
    lambda t, out, x, y: t * (x / (y + 1)),
)


def leaky_relu(x: ArrayLike, negative_slope: ArrayLike = 1e-2) -> jax.Array:
    """The leaky ReLU; its gradient at 0 is `negative_slope`.

    Stands for `torch.nn.functional.leaky_relu`, and is `jax.nn.leaky_relu` but for the gradient at
    0: `negative_slope` here and in PyTorch, 1 in JAX.

    >>> import jax
    >>> from funcgrad import conventions
    >>> jax.grad(conventions.leaky_relu)(0.0), jax.grad(jax.nn.leaky_relu)(0.0)
    (Array(0.01, dtype=float32, weak_type=True), Array(1., dtype=float32, weak_type=True))
    """
    return _leaky_relu(x, negative_slope)


_leaky_relu = with_rule(
    jax.nn.leaky_relu,
    lambda t, out, x, slope: jnp.where(x > 0, t, t * slope),
    lambda t, out, x, slope: t * jnp.where(x > 0, 0, x),
)


def hard_tanh(x: ArrayLike, min_val: ArrayLike = -1, max_val: ArrayLike = 1) -> jax.Array:
    """Clips to [-1, 1] or other bounds; its gradient at a bound is 0.

    Stands for `torch.nn.functional.hardtanh`, whose bounds it takes, and is `jax.nn.hard_tanh` but
    for the gradient at -1 and 1: 0 here and in PyTorch, 1 in JAX. At a bound
    [`clip`][funcgrad.conventions.clip] gives the whole gradient to `x`, as `torch.clamp` does.
    (`jax.nn.relu6`, `hard_sigmoid` and `hard_silu` need nothing: both libraries have the same
    gradient at every kink.)

    Args:
        x: a real array or number.
        min_val: the lower bound.
        max_val: the upper bound.

    >>> import jax
    >>> from funcgrad import conventions
    >>> jax.grad(conventions.hard_tanh)(1.0), jax.grad(jax.nn.hard_tanh)(1.0)
    (Array(0., dtype=float32, weak_type=True), Array(1., dtype=float32, weak_type=True))
    >>> conventions.hard_tanh(3.0, -2.0, 2.0)
    Array(2., dtype=float32, weak_type=True)
    """
    return _hard_tanh(x, min_val, max_val)


_hard_tanh = with_rule(
    lambda x, low, high: jnp.where(x > high, high, jnp.where(x < low, low, x)),
    lambda t, out, x, low, high: jnp.where((x <= low) | (x >= high), jnp.zeros_like(t), t),
    lambda t, out, x, low, high: _kept(t, (x <= low) & (x < high)),
    lambda t, out, x, low, high: _kept(t, x >= high),
)


def elu(x: ArrayLike, alpha: ArrayLike = 1.0) -> jax.Array:
    """The exponential linear unit; its second derivative at 0 is 0.

    Stands for `torch.nn.functional.elu`, and is `jax.nn.elu` but for the second derivative at 0: 0
    here and in PyTorch, `alpha` in JAX. The gradient at 0 is `alpha` in both.

    >>> import jax
    >>> from funcgrad import conventions
    >>> jax.grad(jax.grad(conventions.elu))(0.0), jax.grad(jax.grad(jax.nn.elu))(0.0)
    (Array(0., dtype=float32, weak_type=True), Array(1., dtype=float32, weak_type=True))
    """
    return _elu(x, alpha)


def _elu_slope(x: Any, alpha: Any) -> Any:
    falling = alpha * jnp.exp(jnp.where(x < 0, x, 0))
    return jnp.where(x < 0, falling, jnp.where(x == 0, alpha, jnp.ones_like(falling)))


_elu = with_rule(
    jax.nn.elu,
    lambda t, out, x, alpha: t * _elu_slope(x, alpha),
    lambda t, out, x, alpha: t * jnp.where(x < 0, jnp.expm1(jnp.where(x < 0, x, 0)), 0),
)


def selu(x: ArrayLike) -> jax.Array:
    """The scaled exponential linear unit; its second derivative at 0 is 0.

    Stands for `torch.nn.functional.selu`, and is `jax.nn.selu` but for the second derivative at 0:
    0 here and in PyTorch, 1.7581 in JAX. The gradient at 0 is 1.7581 in both.

    >>> import jax
    >>> from funcgrad import conventions
    >>> jax.grad(jax.grad(conventions.selu))(0.0), jax.grad(jax.grad(jax.nn.selu))(0.0)
    (Array(0., dtype=float32, weak_type=True), Array(1.7580993, dtype=float32, weak_type=True))
    """
    return _selu(x)


_selu = with_rule(jax.nn.selu, lambda t, out, x: t * (_SELU_SCALE * _elu_slope(x, _SELU_ALPHA)))


def celu(x: ArrayLike, alpha: ArrayLike = 1.0) -> jax.Array:
    """The continuously differentiable ELU; its second derivative at 0 is 0.

    Stands for `torch.nn.functional.celu`, and is `jax.nn.celu` but for the second derivative at 0:
    0 here and in PyTorch, not in JAX. The gradient at 0 is 1 in both.

    >>> import jax
    >>> from funcgrad import conventions
    >>> jax.grad(jax.grad(conventions.celu))(0.0)
    Array(0., dtype=float32, weak_type=True)
    """
    return _celu(x, alpha)


def _push_celu_alpha(t: Any, out: Any, x: Any, alpha: Any) -> Any:
    ratio = jnp.where(x < 0, x, 0) / alpha
    return t * (jnp.expm1(ratio) - ratio * jnp.exp(ratio))


_celu = with_rule(
    jax.nn.celu,
    lambda t, out, x, alpha: t * jnp.where(x < 0, jnp.exp(jnp.where(x < 0, x, 0) / alpha), 1),
    _push_celu_alpha,
)


def soft_sign(x: ArrayLike) -> jax.Array:
    """Soft sign, x / (1 + |x|); its second derivative at 0 is 0.

    Stands for `torch.nn.functional.softsign`, and is `jax.nn.soft_sign` but for the second
    derivative at 0: 0 here and in PyTorch, -2 in JAX. The gradient at 0 is 1 in both.

    >>> import jax
    >>> from funcgrad import conventions
    >>> jax.grad(jax.grad(conventions.soft_sign))(0.0), jax.grad(jax.grad(jax.nn.soft_sign))(0.0)
    (Array(-0., dtype=float32, weak_type=True), Array(-2., dtype=float32, weak_type=True))
    """
    return _soft_sign(x)


_soft_sign = with_rule(jax.nn.soft_sign, lambda t, out, x: t / jnp.square(1 + abs(x)))

"""What each primitive does: to NaN, to shapes, in cost. One table."""

import math
from collections.abc import Sequence
from enum import Flag, auto
from typing import Any

import jax.numpy as jnp

from .equations import Equation


class Trait(Flag):
    """A property of a primitive.

    NAN: a result holds NaN wherever an operand does.
    ELEMENTWISE: a result at an index depends on the operands at that index alone.
    MOVES: puts values in another place or precision.
    SAME: compiles to nothing; each result is the operand at its place.
    TYPED: says along which mesh axes values vary, and computes nothing.
    CHEAP: costs less on each element than to write the result down and read it again.
    COMMUTATIVE: operands may be exchanged.
    """

    NAN = auto()
    ELEMENTWISE = auto()
    MOVES = auto()
    SAME = auto()
    TYPED = auto()
    CHEAP = auto()
    COMMUTATIVE = auto()


_N, _E, _M, _S, _C = Trait.NAN, Trait.ELEMENTWISE, Trait.MOVES, Trait.SAME, Trait.CHEAP
_X, _T = Trait.COMMUTATIVE, Trait.TYPED
_ROWS = {
    "add max min mul": _N | _E | _C | _X,
    "abs neg square sub": _N | _E | _C,
    "add_any div rem": _N | _E,
    "acos acosh asin asinh atan atan2 atanh cos cosh sin sinh tan tanh": _N | _E,
    "cbrt exp exp2 expm1 log log1p logistic rsqrt sqrt": _N | _E,
    "digamma erf erf_inv erfc": _N | _E,
    "ceil floor round": _N,
    "conv_general_dilated cumprod cumsum dot_general reduce_sum": _N,
    "clamp complex lgamma nextafter pow": _E,
    "integer_pow select_n": _E | _C,
    "and eq ne or": _C | _X,
    "xor": _X,
    "ge gt le lt not sign real imag": _C,
    "convert_element_type": _N | _E | _M | _C,
    "broadcast_in_dim copy reshape squeeze": _N | _M | _C,
    "copy_p device_put expand_dims reduce_precision rev sharding_constraint transpose": _N | _M,
    "optimization_barrier stop_gradient": _N | _M | _S,
    "pcast pvary": _N | _M | _S | _T,
    "finished inject_gradient register_hook retain_grad": _N | _S,
    "name": _S,
}
_TRAITS = {name: traits for names, traits in _ROWS.items() for name in names.split()}


def has(name: str, trait: Trait) -> bool:
    """Whether the primitive of this name has any of these traits.

    >>> has("tanh", Trait.ELEMENTWISE), has("tanh", Trait.MOVES | Trait.CHEAP)
    (True, False)
    """
    return bool(_TRAITS.get(name, Trait(0)) & trait)


def exponent(equation: Equation) -> int | None:
    """The exponent that an `integer_pow` holds."""
    return equation.params["y"] if equation.name == "integer_pow" else None


def axes_lost(equation: Equation) -> Sequence[int] | None:
    """The axes that a reduction or `squeeze` takes away; `None` for other operations."""
    name, params = equation.name, equation.params
    if name == "squeeze":
        return params["dimensions"]
    reduces = name.startswith("reduce_") and name != "reduce_precision"
    return params["axes"] if reduces or name in ("argmax", "argmin") else None


def scans(equation: Equation) -> tuple[int, bool]:
    """The axis along which an operation scans or sorts, and whether from the end."""
    return _along(equation.params) or 0, bool(equation.params.get("reverse"))


def keeps_precision(equation: Equation) -> bool:
    """Whether a `reduce_precision` rounds to the precision there is already."""
    bits, to = jnp.finfo(equation.result_types[0].dtype), equation.params
    return (to["exponent_bits"], to["mantissa_bits"]) == (bits.nexp, bits.nmant)


def moved(equation: Equation, operand: int, axis: int, result: int) -> int | None:
    """Where an axis of an operand is in a result; `None` where it is summed up or lost."""
    params, given = equation.params, equation.operand_types[operand]
    size = given.shape[axis]
    shape: Sequence[int] = getattr(equation.result_types[result], "shape", ())
    if equation.name == "broadcast_in_dim":
        return params["broadcast_dimensions"][axis]
    if equation.name == "transpose":
        return params["permutation"].index(axis)
    if equation.name == "dot_general":
        return _of_product(equation, operand, axis)
    lost = axes_lost(equation)
    if lost is not None:
        return None if axis in lost else axis - sum(d < axis for d in lost)
    if _along(params) == axis and equation.name != "split":
        return None
    if equation.name == "reshape":
        before = math.prod(given.shape[:axis])
        starts = [math.prod(shape[:d]) for d in range(len(shape))]
        fits = [d for d, s in enumerate(starts) if s == before and shape[d] == size]
        return fits[0] if fits else None
    if axis < len(shape) and shape[axis] == size:
        return axis
    return 0 if len(shape) and shape[0] == size else None


def _along(params: dict[str, Any]) -> int | None:
    """The axis along which an operation scans, sorts or joins, if it does."""
    along = params.get("axis", params.get("dimension"))
    return along if isinstance(along, int) else None


def _of_product(equation: Equation, side: int, axis: int) -> int | None:
    """Where an axis of a factor is in a matrix product: batch, then left, then right axes."""
    contracted, batch = equation.params["dimension_numbers"]
    if axis in batch[side]:
        return list(batch[side]).index(axis)
    if axis in contracted[side]:
        return None
    used = {*batch[side], *contracted[side]}
    free = sum(d not in used for d in range(axis))
    left = equation.operand_types[0].ndim - len(batch[0]) - len(contracted[0])
    return len(batch[0]) + free + (left if side else 0)

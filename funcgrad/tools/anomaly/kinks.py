"""Where an operation has a value and no derivative: at the values that went in, and what to do.

Each row is a kink of one operation. The first that the values are at gives the sentence; where they
are not known, as in the forward pass of a loop, the first of that operation.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ... import _jax
from .follow import Operation


class Kink(NamedTuple):
    """A kink of an operation.

    Fields:
        operation: the primitive.
        at: whether operands are there, given as NumPy arrays.
        text: what to say.
        finite: whether the value itself is finite there.
        functions: the functions of JAX through which it is reached; none for any.
    """

    operation: str
    at: Callable[..., Any]
    text: str
    finite: bool = True
    functions: tuple[str, ...] = ()


def _zero(x: Any, *_: Any) -> Any:
    return x == 0


def _one(x: Any) -> Any:
    return abs(x) == 1


def _below(x: Any, p: Any) -> Any:
    return (x == 0) & (p > 0) & (p < 1)


def _origin(y: Any, x: Any) -> Any:
    return (y == 0) & (x == 0)


def _always(*_: Any) -> bool:
    return True


_NORM = (
    "a norm has no derivative where all is 0; funcgrad.conventions.{function} has PyTorch's, which"
    " is 0"
)
_CLIP = (
    "{name} has an infinite derivative at -1 and 1; clip the argument: clip(x, -1 + 1e-6, 1 - 1e-6)"
)
_DIV = "a division by 0 has an infinite derivative; divide by where(y == 0, 1.0, y)"

KINKS = [
    Kink("sqrt", _zero, _NORM, functions=("norm", "vector_norm", "matrix_norm")),
    Kink(
        "sqrt",
        _zero,
        "the standard deviation of equal numbers has no derivative; funcgrad.conventions.std has"
        " PyTorch's, which is 0",
        functions=("std",),
    ),
    Kink(
        "sqrt",
        _zero,
        "sqrt has an infinite derivative at 0; add a small number, sqrt(x + 1e-12), or select it"
        " away before and after: where(x > 0, sqrt(where(x > 0, x, 1.0)), 0.0)",
    ),
    Kink(
        "cbrt",
        _zero,
        "cbrt has an infinite derivative at 0; select it away before and after:"
        " where(x == 0, 0.0, cbrt(where(x == 0, 1.0, x)))",
    ),
    Kink(
        "atan2",
        _origin,
        "the angle of 0 has no derivative; funcgrad.conventions.angle has PyTorch's, which is 0",
        functions=("angle",),
    ),
    Kink(
        "atan2",
        _origin,
        "arctan2 has no derivative at (0, 0), where it is 0 / 0; funcgrad.conventions.arctan2 has"
        " PyTorch's, which is 0",
    ),
    Kink("pow", _below, _NORM, functions=("norm", "vector_norm")),
    Kink(
        "pow",
        _origin,
        "the derivative of 0 ** 0 is 0 * inf; funcgrad.conventions.power, and float_power, have"
        " PyTorch's, which is 0",
    ),
    Kink(
        "pow",
        _below,
        "a power below 1 has an infinite derivative at 0; select it away before and after:"
        " where(x > 0, where(x > 0, x, 1.0) ** p, 0.0)",
    ),
    Kink("acos", _one, _CLIP.format(name="arccos")),
    Kink("asin", _one, _CLIP.format(name="arcsin")),
    Kink("atanh", _one, _CLIP.format(name="arctanh"), finite=False),
    Kink(
        "acosh",
        lambda x: x == 1,
        "arccosh has an infinite derivative at 1; bound the argument: maximum(x, 1 + 1e-6)",
    ),
    Kink(
        "eigh",
        _always,
        "the derivative of eigenvectors is infinite where two eigenvalues are equal; use the"
        " eigenvalues alone (eigvalsh), or add small numbers to the diagonal, all different",
    ),
    Kink(
        "svd",
        _always,
        "the derivative of singular vectors is infinite where two singular values are equal; use"
        " the singular values alone (compute_uv=False)",
    ),
    Kink(
        "rsqrt",
        _zero,
        "rsqrt has an infinite derivative at 0; add a small number: rsqrt(x + 1e-6)",
        finite=False,
    ),
    Kink(
        "log",
        _zero,
        "log has an infinite derivative at 0; bound the argument: log(maximum(x, 1e-6))",
        finite=False,
    ),
    Kink(
        "log1p",
        lambda x: x == -1,
        "log1p has an infinite derivative at -1; bound the argument: log1p(maximum(x, -1 + 1e-6))",
        finite=False,
    ),
    Kink("div", lambda x, y: y == 0, _DIV, finite=False),
]


def sentence(operations: Sequence[Operation], functions: Sequence[str], backward: bool) -> str:
    """What to say of the first kink that an operation is at; empty where there is none.

    Args:
        operations: those of the forward pass at fault.
        functions: the functions of JAX that the user's line calls for them, the outermost first.
        backward: whether the bad value was made in a backward pass. Otherwise what is infinite
            itself is no kink.
    """
    for kink in KINKS:
        function = next((name for name in functions if name in kink.functions), "")
        reached = (backward or kink.finite) and (function or not kink.functions)
        if reached and any(_is_at(kink, operation) for operation in operations):
            return kink.text.format(function=function)
    return ""


def _is_at(kink: Kink, operation: Operation) -> bool:
    if operation.name != kink.operation:
        return False
    if operation.operands is None:
        return True
    return bool(np.any(kink.at(*map(np.asarray, operation.operands))))


def functions(operations: Sequence[Operation]) -> list[str]:
    """The functions of JAX through which operations are reached, the outermost first."""
    every = [name for operation in operations for name in _jax.functions(operation.path)]
    return list(dict.fromkeys(every))

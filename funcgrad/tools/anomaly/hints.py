"""What usually helps: one sentence for each of the classic ways to NaN.

A sentence is given where it follows from the values that were seen, and the remedy that it names
has a finite value and a finite gradient there: `tests/test_anomaly_hints.py` runs each.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ... import _jax
from ..._loops.unfinished import nan_if_unfinished
from . import kinks
from .events import Event
from .follow import Stretch


class Case(NamedTuple):
    """What a hint is chosen by.

    Fields:
        kind: `"nan"` or `"inf"`.
        operation: the primitive that made the bad value.
        operands: the numbers that went in, where there are such.
        backward: whether it happened in a backward pass.
        made: the primitive that made the infinity that went in, or nothing.
        overflowed: whether there is an infinity made of finite numbers, and not by a division by
            zero.
        dtype: of the result.
        constant: whether the program wrote the NaN down itself.
        overrun: whether it is what a loop of funcgrad returns that would go on after `max_steps`.
    """

    kind: str
    operation: str
    operands: tuple[complex, ...]
    backward: bool
    made: str
    overflowed: bool
    dtype: Any
    constant: bool
    overrun: bool

    @property
    def zero_times_infinity(self) -> bool:
        """Whether the operands are 0 and an infinity, or it is 0 / 0."""
        if self.operation == "div":
            return self.operands == (0, 0)
        return len(self.operands) == 2 and 0 in self.operands and self.infinities == 1

    @property
    def infinities(self) -> int:
        """How many of the operands are infinite."""
        return sum(np.isinf(x) for x in self.operands)

    @property
    def grown(self) -> str:
        """The operation that is said to overflow."""
        return self.made or self.operation

    @property
    def limits(self) -> dict[str, Any]:
        """What sentences are filled in with."""
        most = float(jnp.finfo(self.dtype).max) if jnp.issubdtype(self.dtype, jnp.inexact) else 0.0
        bound = int(math.log(most) / 2) if most else 0
        return {"dtype": self.dtype, "max": most, "bound": bound, "grown": self.grown}

    def real(self, index: int) -> float:
        """An operand; NaN where there is none, or it is complex."""
        value = self.operands[index] if index < len(self.operands) else math.nan
        return math.nan if isinstance(value, complex) else float(value)


Hint = tuple[Callable[[Case], bool], str]

_MASKED = (
    "the other side of a `where` was taken here, but the gradient goes through both, as 0 times an"
    " infinite derivative; give this side a harmless argument:"
    " where(ok, f(where(ok, x, 0.5)), other)"
)
_MASKED_LATER = (
    "the other side of a `where` is taken here, but the gradient goes through both and will be NaN"
    " too; give this side a harmless argument: where(ok, f(where(ok, x, 0.5)), other);"
    " only_if_reaches_output=True passes over it"
)
_HALF = "{dtype} holds no more than {max:.3g}; compute this in float32, or scale the values down"
_EXP = (
    "{grown} overflowed; for a softmax or logsumexp take those of jax.nn, which subtract the"
    " maximum first, and otherwise bound the argument: exp(minimum(x, {bound}))"
)

_SURE: list[Hint] = [
    (
        lambda c: c.overrun,
        "a loop of funcgrad got to max_steps and would go on, so its result is NaN; allow more"
        " steps, or choose on_max_steps='raise' or 'ignore'",
    ),
    (
        lambda c: c.constant,
        "the NaN is a constant that the program holds (`jnp.nan`, or an array it closes over) and"
        " selects or computes with here",
    ),
    (
        lambda c: c.operation in ("gather", "dynamic_slice"),
        "an index is out of bounds, and JAX fills in NaN; check it, or index with mode='clip'",
    ),
]
"""What is certain whatever else holds."""

_LIKELY: list[Hint] = [
    (
        lambda c: c.operation == "sqrt" and c.real(0) < 0,
        "the argument of sqrt is negative, perhaps by rounding:"
        " where(x > 0, sqrt(where(x > 0, x, 1.0)), 0.0), whose gradient is 0 there",
    ),
    (
        lambda c: c.operation == "rsqrt" and c.real(0) < 0,
        "the argument of rsqrt is negative, perhaps by rounding: rsqrt(maximum(x, 1e-6))",
    ),
    (
        lambda c: c.operation == "log" and c.real(0) < 0,
        "the argument of log is negative; bound it, log(maximum(x, 1e-6)), or compute the logarithm"
        " directly (log_softmax, log_sigmoid)",
    ),
    (
        lambda c: c.operation == "log1p" and c.real(0) < -1,
        "the argument of log1p is below -1; bound it: log1p(maximum(x, -1 + 1e-6))",
    ),
    (
        lambda c: c.operation == "log" and c.real(0) == 0,
        "log(0) is -inf; bound it, log(maximum(x, 1e-6)), or compute the logarithm directly"
        " (log_softmax)",
    ),
    (
        lambda c: c.operation in ("acos", "asin", "atanh"),
        "the argument is outside the domain, perhaps by rounding; clip it to just inside:"
        " clip(x, -1 + 1e-6, 1 - 1e-6)",
    ),
    (
        lambda c: c.operation == "acosh",
        "the argument of arccosh is below 1, outside the domain; bound it: maximum(x, 1 + 1e-6)",
    ),
    (
        lambda c: c.operation == "pow" and c.real(0) < 0,
        "a negative number to a power that is no integer is NaN; take sign(x) * abs(x) ** p, or an"
        " integer power",
    ),
    (
        lambda c: not c.backward and c.operation in ("div", "rem") and c.operands == (0, 0),
        "0 / 0; divide by where(y == 0, 1.0, y), and choose the result there with another where",
    ),
    (
        lambda c: c.operation in ("div", "integer_pow") and 0 in (c.real(0), c.real(1)),
        "a division by zero; add a small number to the divisor, or select it away before dividing",
    ),
    (
        lambda c: c.operation == "sub" and c.operands == (-math.inf, -math.inf),
        "-inf - -inf; if this is a softmax or logsumexp, a row holds nothing but -inf: leave one"
        " entry unmasked, or mask with a large negative number, -1e9",
    ),
    (
        lambda c: c.operation == "sub" and c.infinities == 2,
        "inf - inf; the values got too large before, find the line with check_inf=True",
    ),
    (
        lambda c: not c.backward and c.zero_times_infinity and c.made == "log",
        "0 * log(0); p * log(maximum(p, 1e-30)) is 0 there and has a gradient, which jax.scipy's"
        " xlogy(p, p) and entr(p) have not: theirs is infinite",
    ),
    (
        lambda c: c.zero_times_infinity and c.made in ("rsqrt", "div", "integer_pow"),
        "the infinity is a division by zero; add a small number (eps) to the divisor",
    ),
    (
        lambda c: c.operation in ("reduce_sum", "cumsum", "dot_general", "conv_general_dilated"),
        "infinities of both signs are added up, or one is multiplied by 0; look where they came"
        " from, or find them with check_inf=True",
    ),
    (
        lambda c: c.operation == "cholesky",
        "the matrix is not positive definite; rounding may have made it so: add a small multiple"
        " of the identity",
    ),
    (
        lambda c: c.operation in ("custom_linear_solve", "triangular_solve", "lu"),
        "the matrix is singular; add a small multiple of the identity",
    ),
    (
        lambda c: c.operation in ("sin", "cos", "tan") and c.infinities == 1,
        "a sine or cosine of an infinite argument; look where the infinity came from",
    ),
    (
        lambda c: c.overflowed,
        "the infinity is an overflow of `{grown}`: {dtype} holds no more than {max:.3g}; scale the"
        " values down, or compute with their logarithms",
    ),
    (
        lambda c: c.backward and c.infinities > 0 and c.made == "",
        "the infinity was there before, perhaps as a derivative that a loop kept from its forward"
        " pass (of sqrt, log or a power at 0); find the line that made it with check_inf=True",
    ),
]
_GROWING = ("exp", "exp2", "expm1", "cosh", "sinh")


def hint(
    stretch: Stretch,
    program: _jax.Jaxpr,
    index: tuple[int, ...],
    numbers: Sequence[Any] | None,
    dtype: Any,
) -> str:
    """A sentence for an event in a program; empty where it is none of the classics.

    Args:
        stretch: what is around the event.
        program: the whole program.
        index: of the bad entry.
        numbers: the operands there, where the operation is elementwise.
        dtype: of the bad result.
    """
    event = stretch.event
    case = _case(event, numbers, dtype)
    for applies, sentence in _SURE:
        if applies(case):
            return sentence
    if not case.backward and stretch.dropped_later(index):
        return _MASKED_LATER
    if case.backward and numbers is not None and stretch.dropped_gradient(index, numbers):
        return _MASKED
    if case.overflowed and _small(dtype):
        return _HALF.format(**case.limits)
    if case.overflowed and case.grown in _GROWING:
        return _EXP.format(**case.limits)
    if case.zero_times_infinity or case.made:
        at_fault = stretch.operations(program, event.fault.place)
        names = kinks.functions(at_fault)
        if sentence := kinks.sentence(at_fault, names, case.backward):
            return sentence
    return next((text.format(**case.limits) for applies, text in _LIKELY if applies(case)), "")


def _small(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating)) and jnp.finfo(dtype).bits <= 16


def _case(event: Event, numbers: Sequence[Any] | None, dtype: Any) -> Case:
    operands = tuple(x.item() if hasattr(x, "item") else x for x in map(_wide, numbers or ()))
    name, backward = event.equation.name, event.turns > 0
    # Types of eight bits that have no infinity overflow to NaN.
    cast = name == "convert_element_type" and all(map(np.isfinite, operands))
    made = event if event.kind == "inf" or cast else event.infinite
    constant = made is None and not backward and math.inf in operands  # as 1e5 is in float16
    return Case(
        event.kind,
        name,
        operands,
        backward,
        event.infinite.equation.name if event.infinite is not None else "",
        (constant and _small(dtype)) or (made is not None and _overflowed(made)),
        dtype,
        event.constant,
        any(level.equation.made_in(nan_if_unfinished) for level in event.path),
    )


def _wide(x: Any) -> Any:
    """A NumPy number that Python can hold: bfloat16 as float64."""
    return x if np.iscomplexobj(x) else np.float64(x)


def _overflowed(made: Event) -> bool:
    """Whether an infinity was made of finite numbers by something else than a division by zero."""
    divisions = ("div", "log", "log1p", "integer_pow", "pow", "rsqrt", "atanh")
    if made.equation.name in divisions:
        return made.equation.name in ("integer_pow", "pow") and not _holds_zero(made)
    return True


def _holds_zero(event: Event) -> bool:
    return any(np.any(np.asarray(o.array) == 0) for o in event.operands)

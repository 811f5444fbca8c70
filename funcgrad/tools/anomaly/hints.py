"""What usually helps: one sentence for each of the classic ways to NaN."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ... import _jax
from ..._loops.unfinished import nan_if_unfinished
from .events import Event, Path, place


class Case(NamedTuple):
    """What a hint is chosen by.

    Fields:
        operation: the primitive that made the bad value.
        operands: the numbers that went in, where there are such.
        backward: whether it happened in a backward pass.
        forward: the primitives of the forward pass that stand at the same place in the source, or
            where the infinity that went in was made as their derivative.
        masked: whether what they make goes into a `where` of another expression later on.
        made: the primitive that made the infinity that went in, or nothing.
        dtype: of the result.
        constant: whether the program wrote the NaN down itself.
        overrun: whether it is what a loop of funcgrad returns that would go on after `max_steps`.
    """

    operation: str
    operands: tuple[complex, ...]
    backward: bool
    forward: frozenset[str]
    masked: bool
    made: str
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

    def real(self, index: int) -> float:
        """An operand; NaN where there is none, or it is complex."""
        value = self.operands[index] if index < len(self.operands) else math.nan
        return math.nan if isinstance(value, complex) else float(value)


Hint = tuple[Callable[[Case], bool], str]
STEEP = {
    "eigh": "the derivative of eigenvectors is infinite where two eigenvalues are equal",
    "svd": "the derivative of singular vectors is infinite where two singular values are equal",
    "sqrt": "sqrt has an infinite derivative at 0",
    "rsqrt": "rsqrt has an infinite derivative at 0",
    "log": "log has an infinite derivative at 0",
    "log1p": "log1p has an infinite derivative at -1",
    "acos": "arccos has an infinite derivative at -1 and 1",
    "asin": "arcsin has an infinite derivative at -1 and 1",
    "atanh": "arctanh has an infinite derivative at -1 and 1",
    "acosh": "arccosh has an infinite derivative at 1",
    "cbrt": "cbrt has an infinite derivative at 0",
    "pow": "a power below 1 has an infinite derivative at 0",
    "div": "a division by 0 has an infinite derivative",
}


def _steep(case: Case) -> str:
    return next((text for name, text in STEEP.items() if name in case.forward), "")


def _root(case: Case) -> bool:
    """Whether an infinity is 1 / sqrt(0), the derivative of a root at the same place."""
    return case.made == "div" and not case.forward.isdisjoint(("sqrt", "cbrt"))


_MASKED = (
    "the other side of a `where` was taken here, but the gradient goes through both, as 0 times an"
    " infinite derivative; give this side a harmless argument:"
    " where(ok, f(where(ok, x, 1.0)), other)"
)

_HALF = "{dtype} holds no more than {max:.3g}; compute this in float32, or scale the values down"

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
    (lambda c: c.backward and c.masked and (c.zero_times_infinity or c.made != ""), _MASKED),
]
"""What is certain whatever else holds."""

_LIKELY: list[Hint] = [
    (
        lambda c: c.operation == "sqrt" and c.real(0) < 0,
        "the argument of sqrt is negative; rounding may have made it so: sqrt(maximum(x, 0.0))",
    ),
    (
        lambda c: c.operation in ("log", "log1p") and c.real(0) < 0,
        "the argument of log is negative; clip it, or compute the logarithm directly"
        " (log_softmax, log_sigmoid)",
    ),
    (
        lambda c: c.operation == "log" and c.real(0) == 0,
        "log(0) is -inf; clip it, log(maximum(x, tiny)), or compute the logarithm directly"
        " (log_softmax)",
    ),
    (
        lambda c: c.operation in ("acos", "asin", "atanh", "acosh"),
        "the argument is outside the domain, perhaps by rounding; clip it to just inside",
    ),
    (
        lambda c: c.operation == "pow" and c.real(0) < 0,
        "a negative number to a power that is no integer is NaN; take abs, or an integer power",
    ),
    (
        lambda c: c.operation in ("div", "rem") and c.real(1) == 0 and c.real(0) == 0,
        "0 / 0; divide by where(y == 0, 1.0, y), and choose the result there with another where",
    ),
    (
        lambda c: c.operation in ("div", "integer_pow") and 0 in (c.real(0), c.real(1)),
        "a division by zero; add a small number to the divisor, or select it away before dividing",
    ),
    (
        lambda c: c.operation in ("exp", "exp2", "expm1", "cosh", "sinh") and c.made == "",
        "exp overflows; subtract the maximum first, as softmax and logsumexp do",
    ),
    (
        lambda c: c.made in ("exp", "exp2", "expm1"),
        "the infinity is an exp that overflowed; subtract the maximum first, as softmax and"
        " logsumexp do",
    ),
    (
        lambda c: c.operation == "sub" and c.operands == (-math.inf, -math.inf),
        "inf - inf; if this is a softmax, a row holds nothing but -inf: leave one entry unmasked,"
        " or mask with a large negative number",
    ),
    (
        lambda c: c.operation == "sub" and c.infinities == 2,
        "inf - inf; the values got too large before, find the line with check_inf=True",
    ),
    (
        lambda c: not c.backward and c.zero_times_infinity and c.made == "log",
        "0 * log(0); use jax.scipy.special.xlogy(p, p) or entr(p), which are 0 there",
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
        "the matrix is singular; add a small multiple of the identity, or use jnp.linalg.lstsq",
    ),
    (
        lambda c: c.operation in ("sin", "cos", "tan") and c.infinities == 1,
        "a sine or cosine of an infinite argument; look where the infinity came from",
    ),
    (
        lambda c: c.backward and c.infinities > 0 and c.made == "",
        "the infinity was there before, perhaps as a derivative that a loop kept from its forward"
        " pass (of sqrt, log or a power at 0); find the line that made it with check_inf=True",
    ),
]


def hint(event: Event, program: _jax.Jaxpr, numbers: Sequence[Any] | None, dtype: Any) -> str:
    """A sentence for an event in a program; empty where it is none of the classics.

    Args:
        event: the event.
        program: the whole program.
        numbers: the operands at the bad entry, where the operation is elementwise.
        dtype: of the bad result.
    """
    case = _case(event, program, numbers, dtype)
    for applies, sentence in _SURE:
        if applies(case):
            return sentence
    infinite = case.zero_times_infinity or case.made != ""
    if _steep(case) and ((case.backward and infinite) or _root(case)):
        return (
            f"{_steep(case)}; keep the argument away from there (add a small number, or select it"
            " away with `where` before and after)"
        )
    small = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits <= 16
    # Types of eight bits that have no infinity overflow to NaN.
    cast = case.operation == "convert_element_type" and all(map(np.isfinite, case.operands))
    made = event if event.kind == "inf" or cast else event.infinite
    constant = made is None and not case.backward and math.inf in case.operands  # as 1e5 is
    if small and (constant or (made is not None and _overflowed(made))):
        return _HALF.format(dtype=dtype, max=float(jnp.finfo(dtype).max))
    for applies, sentence in _LIKELY:
        if applies(case):
            return sentence
    return ""


def _case(event: Event, program: _jax.Jaxpr, numbers: Sequence[Any] | None, dtype: Any) -> Case:
    made, backward = event.infinite, event.turns > 0
    twins = list(_twins(event.path, program))
    forward = {twin[-1].name for twin in twins}
    name = made.equation.name if made is not None else ""
    if made is not None:
        others = {twin[-1].name for twin in _twins(made.path, program)}
        # What is infinite itself there is no derivative; that of a power is a power.
        forward |= others - ({name} - {"pow"})
    return Case(
        event.equation.name,
        tuple(x.item() if hasattr(x, "item") else x for x in map(_wide, numbers or ())),
        backward,
        frozenset(forward),
        backward and any(map(_selected, twins)),
        name,
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
    return made.equation.name not in divisions


def _twins(path: Path, program: _jax.Jaxpr) -> Iterator[tuple[_jax.Equation, ...]]:
    """The forward equations from the same expression of the source as the last on a path.

    Each after the equations that hold it.
    """
    here = place(path)
    for twin in _jax.everywhere(program) if here else ():
        forward = not any("transpose" in equation.transforms for equation in twin)
        if forward and here and here.same(_jax.place(twin)):
            yield twin


def _selected(path: Sequence[_jax.Equation]) -> bool:
    """Whether what an equation makes goes on, in its program, into a side of a `where`.

    A `where` of the same expression is a library's own, as in `jnp.std`: the user chose no side.
    """
    *around, equation = path
    own, reached = _jax.place(path), set(equation.makes)
    every = _jax.equations(equation.program)
    for after in every[every.index(equation) + 1 :]:
        if reached.isdisjoint(_jax.variables(after.reads)):
            continue
        if _selects(after) and not (own and own.same(_jax.place([*around, after]))):
            return True
        reached.update(after.makes)
    return False


def _selects(equation: _jax.Equation) -> bool:
    calls = [body.program for body in equation.bodies if body.role == _jax.CALL]
    inner = (e for program in calls for e in _jax.equations(program))
    return equation.name == "select_n" or any(map(_selects, inner))

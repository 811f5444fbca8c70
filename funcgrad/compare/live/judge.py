"""Judges PyTorch's array and JAX's: whether they agree, and if not, where and by how much.

`compare/tolerances.py` says how far two floats may lie apart. NaN agrees with NaN, an infinity with
the same infinity, integers and bools exactly.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ..tolerances import Tolerance, distance, kind_of_dtype, magnitude, wide


class Difference(NamedTuple):
    """How PyTorch's and JAX's array of one name compare.

    Attributes:
        ok: whether they agree.
        reason: why not, as a sentence; empty where they agree.
        max_abs, max_rel: the largest difference, and the largest relative to PyTorch's number
            (over numbers that are not 0); `None` if no numbers were compared.
        at: the index of the number furthest over what is allowed, or of the largest difference.
        torch, jax: that number on both sides.
        allowed: the difference allowed at that number.
        differing, compared: how many numbers differ, of how many.
        torch_shape, jax_shape, torch_dtype, jax_dtype: what was compared.
        noise: the part of `allowed` that is for the measured effect of rounding.
        notes: remarks that are no differences.
    """

    ok: bool
    reason: str
    max_abs: float | None
    max_rel: float | None
    at: tuple[int, ...]
    torch: Any
    jax: Any
    allowed: float | None
    differing: int
    compared: int
    torch_shape: tuple[int, ...]
    jax_shape: tuple[int, ...]
    torch_dtype: str
    jax_dtype: str
    noise: float = 0.0
    notes: tuple[str, ...] = ()


def judge_arrays(
    theirs: np.ndarray,
    ours: np.ndarray,
    tolerance: Tolerance,
    noise: float = 0.0,
    scale: float = 0.0,
) -> tuple[Difference, np.ndarray]:
    """Compare PyTorch's array with JAX's.

    Args:
        theirs: PyTorch's.
        ours: JAX's.
        tolerance: the tolerances.
        noise: what is allowed besides, for the measured effect of rounding.
        scale: the least magnitude to assume for PyTorch's array.

    Returns:
        The comparison, and a mask shaped like `theirs` of the numbers that differ.

    >>> import numpy as np
    >>> a, b = np.float32([1, 2, 3]), np.float32([1, 2, 3.5])
    >>> difference, mask = judge_arrays(a, b, Tolerance())
    >>> difference.ok, difference.at, mask
    (False, (2,), array([False, False,  True]))
    >>> difference.reason
    '1 of 3 numbers differs, most at [2]: torch 3.0, jax 3.5; 0.5 apart, 1.14e-05 allowed'
    """
    found = Difference(
        True, "", None, None, (), None, None, None, 0, 0,
        theirs.shape, ours.shape, theirs.dtype.name, ours.dtype.name, noise,
    )  # fmt: skip
    everywhere = np.ones(theirs.shape, bool)
    if theirs.shape != ours.shape:
        return _refused(found, f"torch has shape {theirs.shape}, jax {ours.shape}"), everywhere
    if kind(theirs) != kind(ours) or (tolerance.strict and theirs.dtype != ours.dtype):
        return _refused(found, f"torch has {found.torch_dtype}, jax {found.jax_dtype}"), everywhere
    if kind(theirs) not in ("float", "complex"):
        return _judged(found, theirs, ours, np.where(theirs != ours, 1.0, 0.0), np.zeros(()))
    if found.torch_dtype != found.jax_dtype:
        note = f"torch computed in {found.torch_dtype}, jax in {found.jax_dtype}"
        found = found._replace(notes=(f"{note}: compared to the precision of the coarser",))
    rtol, atol = tolerance.resolve(theirs, ours, scale)
    theirs, ours = wide(theirs), wide(ours)
    with np.errstate(over="ignore"):
        allowed = atol + noise + rtol * np.where(np.isfinite(theirs), np.abs(theirs), 0.0)
    return _judged(found, theirs, ours, distance(theirs, ours), allowed)


def _refused(found: Difference, reason: str) -> Difference:
    size = math.prod(found.torch_shape)
    return found._replace(ok=False, reason=reason, differing=size, compared=size)


def _judged(
    found: Difference, theirs: np.ndarray, ours: np.ndarray, apart: np.ndarray, allowed: np.ndarray
) -> tuple[Difference, np.ndarray]:
    """Fill in the worst number, the counts and the reason."""
    wrong = apart > allowed
    if not apart.size:
        return found, wrong
    allowed = np.broadcast_to(allowed, apart.shape)
    worst = np.argmax(np.where(wrong, apart - allowed, apart) if wrong.any() else apart)
    at = tuple(map(int, np.unravel_index(worst, apart.shape)))
    sizes = np.abs(np.where(np.isfinite(theirs), theirs, 0)).astype(np.float64)
    relative = np.divide(apart, sizes, out=np.zeros_like(apart), where=sizes > 0)
    found = found._replace(
        ok=not wrong.any(),
        max_abs=float(apart.max()),
        max_rel=float(relative.max()),
        at=at,
        torch=theirs[at].item(),
        jax=ours[at].item(),
        allowed=float(allowed[at]),
        differing=int(wrong.sum()),
        compared=apart.size,
    )
    if found.ok:
        return found, wrong
    sentence = _sentence(found, float(apart[at])) + _hint(theirs, ours)
    return found._replace(reason=sentence), wrong


def _sentence(found: Difference, apart: float) -> str:
    verb = "numbers differs" if found.differing == 1 else "numbers differ"
    count = f"{found.differing} of {found.compared} {verb}, most at {list(found.at)}: "
    digits = 17 if found.torch_dtype in ("float64", "complex128") else 9
    both = f"torch {shown(found.torch, digits)}, jax {shown(found.jax, digits)}"
    gap = f"; {apart:.3g} apart, {found.allowed:.3g} allowed" if found.allowed else ""
    return (count if found.torch_shape else "") + both + gap


def _hint(theirs: np.ndarray, ours: np.ndarray) -> str:
    """A relation between the two arrays that a common slip explains, if there is one."""
    if ours.dtype.kind not in "fc" or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return ""
    if not ours.any() or not theirs.any():
        return f"; {'torch' if ours.any() else 'jax'} has 0 everywhere"
    near = 1e-4 * magnitude(ours)
    square = theirs.ndim > 1 and theirs.shape[-1] == theirs.shape[-2]
    if square and np.all(np.abs(ours - theirs.swapaxes(-1, -2)) < near):
        return "; the last two axes are swapped"
    factor = float((np.vdot(theirs, ours) / np.vdot(theirs, theirs)).real)
    if theirs.size < 2 or abs(factor - 1) < 1e-3 or np.any(np.abs(ours - factor * theirs) > near):
        return ""
    times = f"jax is {factor:.6g} times torch"
    return f"; {'the sign is the opposite' if abs(factor + 1) < 1e-4 else times}"


def shown(number: Any, digits: int) -> str:
    """A number with so many significant digits; integers and bools in full.

    >>> shown(2.0, 9), shown(3.0009999275, 9), shown(7, 9)
    ('2.0', '3.00099993', '7')
    """
    if isinstance(number, float):
        return repr(float(f"{number:.{digits}g}"))
    return f"{number:.{digits}g}" if isinstance(number, complex) else repr(number)


def kind(array: np.ndarray) -> str:
    """`float`, `complex`, `int` or `bool`."""
    return kind_of_dtype(array.dtype.name) or "float"

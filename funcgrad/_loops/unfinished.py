"""What becomes of the results of a loop that would go on: NaN, an error, or what they are.

NaN costs nothing and is there for floating results alone. An integer, a bool or a key cannot be
NaN; to use one is an error at run time. The error hangs on the results: who drops them, drops it.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax import lax

from .. import _jax
from .._lists import merge, select
from ..errors import GradientError, UsageError

Choice: TypeAlias = Literal["nan", "raise", "ignore"]


def check_choice(choice: Any, name: str) -> None:
    if choice is not None and choice not in get_args(Choice):
        raise UsageError(
            f"`{name}` got on_max_steps={choice!r}, and wants 'nan', 'raise', 'ignore' or None"
        )


def finished(
    leaves: list[Any],
    changed: Sequence[bool],
    more: Any,
    choice: Choice | None,
    message: str,
) -> list[Any]:
    """The results of a loop, as `choice` wants them where the loop would go on.

    Args:
        leaves: the results.
        changed: of each, whether a step changes it; what no step changes is finished anyway.
        more: whether the loop would go on.
        choice: `on_max_steps` of the public functions.
        message: what the error says.
    """
    if choice == "ignore":
        return leaves
    if choice == "raise":
        return _raising(leaves, [True] * len(leaves), more, message)
    leaves = nan_if_unfinished(leaves, more)
    if choice == "nan":
        return leaves
    whole = [not jnp.issubdtype(x.dtype, jnp.inexact) for x in leaves]
    checked = [a and b for a, b in zip(whole, changed, strict=True)]
    return _raising(leaves, checked, more, message)


def nan_if_unfinished(tree: Any, more: Any) -> Any:
    """NaN in place of floating leaves where a loop would go on, and in place of their gradients.

    A product with 1 is exact, the sign of zero included; a `where` would give a gradient of zero.
    `detect_anomaly` tells this NaN from others by the calls that led to it, of which this is one.
    """

    def multiplied(x: Any) -> Any:
        if jnp.iscomplexobj(x):
            return lax.complex(multiplied(x.real), multiplied(x.imag))
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        if x.weak_type:
            return x * nan_or_one
        factor = lax.convert_element_type(nan_or_one, x.dtype)
        return lax.mul(x, lax.broadcast(factor, x.shape))

    nan_or_one = jnp.where(more, jnp.nan, 1.0)
    return jax.tree.map(multiplied, tree)


def _raising(leaves: list[Any], which: list[bool], more: Any, message: str) -> list[Any]:
    """The leaves, some of which are an error to use where the loop would go on."""
    chosen = select(leaves, which)
    if not chosen:
        return leaves
    out = finished_p.bind(*chosen, more, message=message)
    return merge(which, out, [x for x, c in zip(leaves, which, strict=True) if not c])


def _at_once(*operands: Any, message: str) -> list[Any]:
    *values, more = operands
    if jnp.any(more):
        raise GradientError(message)
    return values


def _compiled(*operands: Any, message: str) -> list[Any]:
    """An error from the host, which is called in the one case alone."""

    def fail(*_: Any) -> None:
        raise GradientError(message)

    *values, more = operands
    if _jax.is_manual() and _jax.mesh_of([more]) is not None:
        raise UsageError(
            "`shard_map` got a loop of which integers or bools are used, over some axes of a mesh"
            " with other explicit axes, where JAX can raise no error at run time; choose"
            f" on_max_steps='nan' or 'ignore'. The error would be: {message}"
        )
    # Where each device calls for itself, JAX wants an operand to tell which ones do.
    each = {"partitioned": True} if _jax.is_manual() else {}
    told = [more] if each else []
    lax.cond(
        jnp.any(more), lambda *told: jax.debug.callback(fail, *told, **each), lambda *_: None, *told
    )
    return values


def _elsewhere(what: str, message: str) -> None:
    raise UsageError(
        f"{what} in which integers or bools of a loop are used, and which would call Python to"
        " raise an error if it did not finish; what runs elsewhere can call nothing."
        f" Choose on_max_steps='nan' or 'ignore'. The error would be: {message}"
    )


def _types(*operands: Any, message: str) -> list[Any]:
    return list(operands[:-1])


def _jvp(primals: Any, tangents: Any, *, message: str) -> Any:
    """The tangents hang on the error as well: who wants a gradient alone gets it too."""
    out, dots = finished_p.bind(*primals, message=message), list(tangents[:-1])
    moving = [type(dot) is not _jax.Zero for dot in dots]
    if not any(moving):
        return out, dots
    moved = finished_p.bind(*select(dots, moving), primals[-1], message=message)
    return out, merge(moving, moved, [dot for dot, m in zip(dots, moving, strict=True) if not m])


def _transpose(cotangents: Any, *operands: Any, message: str) -> list[Any]:
    """The cotangents pass the same way."""
    there = [type(ct) is not _jax.Zero for ct in cotangents]
    cts = select(cotangents, there)
    back = finished_p.bind(*cts, operands[-1], message=message) if cts else []
    return [*merge(there, back, [None] * (len(there) - len(back))), None]


def _batch(axis: Any, operands: Any, dims: Any, *, message: str) -> Any:
    """One example that is not done is enough."""
    del axis
    return finished_p.bind(*operands, message=message), list(dims[:-1])


def _wanted(wanted: Sequence[bool], count: int, *, message: str) -> Any:
    del count
    if not any(wanted):
        return [*wanted, False], None, {}, []
    return [*wanted, True], finished_p, {"message": message}, list(wanted)


finished_p = _jax.computing_primitive("finished", _compiled, _types, _at_once, _elsewhere)
_jax.def_jvp(finished_p, _jvp)
_jax.def_transpose(finished_p, _transpose)
_jax.def_batch(finished_p, _batch)
_jax.def_dce(finished_p, _wanted)
